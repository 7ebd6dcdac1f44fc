"""A transcript aligned with a recording: its words and units with times, in several formats."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import UserError
from wav2vec2.decoding.alignment import WILDCARD, Aligner, Span, group_words
from wav2vec2.decoding.timed_words import Transcript, Word, srt
from wav2vec2.text.vocabulary import WORD_END, Spelling, Vocabulary

STAR = "*"
"""How a text writes a wildcard: a word of its own."""


@dataclass(frozen=True)
class Alignment:
    """The units and words of one recording, with the frames they take."""

    file: str
    samples: int
    """Length of the audio at 16 kHz."""
    frame_samples: int
    """Samples per frame: frame k covers the samples from k * frame_samples up to the next frame's.
    The model's receptive field begins there too and is longer (400 samples)."""
    units_name: str
    """Name of the tier of units: characters, or units for any other kind."""
    units: Sequence[Span]
    words: Sequence[Span]
    untranscribed: Sequence[tuple[int, int]] = ()
    """First frame, and the one after the last, of speech that the text lacks."""
    min_score: float = 0.0
    """Words below it are marked as low."""

    def seconds(self, frame: int) -> float:
        """The time at which a frame begins."""
        return frame * self.frame_samples / SAMPLE_RATE

    @property
    def low(self) -> list[Span]:
        """The words whose score is below `min_score`."""
        return [word for word in self.words if word.score < self.min_score]

    def tiers(self) -> dict[str, Sequence[Span]]:
        """Name -> spans, of words and of units."""
        return {"words": self.words, self.units_name: self.units}

    def as_json(self) -> dict[str, Any]:
        """Plain types; times in seconds.  Words below `min_score` have `low`."""

        def entry(span: Span) -> dict[str, Any]:
            return {
                "text": span.text,
                "start": round(self.seconds(span.start), 6),
                "end": round(self.seconds(span.end), 6),
                "score": round(span.score, 6),
            }

        tiers = {name: [entry(span) for span in spans] for name, spans in self.tiers().items()}
        for word, span in zip(tiers["words"], self.words):
            if span.score < self.min_score:
                word["low"] = True
        times = [[self.seconds(frame) for frame in edges] for edges in self.untranscribed]
        untranscribed = {"untranscribed": times} if times else {}
        return {"file": self.file, "duration": self.samples / SAMPLE_RATE, **untranscribed, **tiers}

    def as_textgrid(self) -> str:
        """Praat's TextGrid, long text format."""
        tiers = {
            name: [(self.seconds(s.start), self.seconds(s.end), s.text) for s in spans]
            for name, spans in self.tiers().items()
        }
        return textgrid(tiers, self.samples / SAMPLE_RATE)

    def as_transcript(self) -> Transcript:
        """The same as a transcript, which subtitles are made of."""

        def timed(spans: Sequence[Span]) -> tuple[Word, ...]:
            times = ((s, self.seconds(s.start), self.seconds(s.end)) for s in spans)
            return tuple(Word(s.text, start, end, s.score) for s, start, end in times)

        text = " ".join(word.text for word in self.words)
        return Transcript(text, timed(self.words), self.samples / SAMPLE_RATE, timed(self.units))

    def as_srt(self) -> str:
        """SubRip subtitles."""
        return srt(self.as_transcript())

    def as_ctm(self, name: str) -> str:
        """NIST's CTM: a line `name 1 start duration word score` per word, in seconds.

        Spaces separate its fields, so those of the name become underscores.
        """
        lines, name = [], "_".join(name.split())
        for word in self.words:
            start, end = self.seconds(word.start), self.seconds(word.end)
            lines.append(f"{name} 1 {start:.3f} {end - start:.3f} {word.text} {word.score:.4f}")
        return "\n".join(lines)


def spell(vocabulary: Vocabulary, text: str) -> str:
    """Words -> label line, in which `*` is a wildcard unless the dictionary has this symbol."""
    if not vocabulary.unknown(STAR):
        return vocabulary.spell(text)
    runs = itertools.groupby(text.split(), key=lambda word: word == STAR)
    return " ".join(STAR if star else vocabulary.spell(" ".join(words)) for star, words in runs)


class TranscriptAligner:
    """Aligns one label line with the emissions of its recording, which arrive in parts."""

    def __init__(self, vocabulary: Vocabulary, file: str, labels: str, *, open_ends: bool = False):
        """`labels`: units, and `*` for speech that the line lacks; with `open_ends` there may
        be such speech before and after it.

        UserError, naming `file`, for units that the dictionary lacks.
        """
        self._vocabulary, self._file = vocabulary, file
        symbols = labels.split()
        star = STAR if vocabulary.unknown(STAR) else None
        if unknown := vocabulary.list_unknown([" ".join(s for s in symbols if s != star)]):
            raise UserError(
                f"{file}: its transcript has symbols that the dictionary lacks ({unknown}); write "
                "it as in the training transcripts, such as in upper case"
            )
        if symbols and all(symbol == star for symbol in symbols):
            raise UserError(f"{file}: its transcript has no words beside {STAR}; write some")
        if vocabulary.spelling is Spelling.LETTERS:  # a wildcard ends no word
            pairs = zip([None, *symbols], symbols)
            symbols = [s for before, s in pairs if not (s == WORD_END and before == star)]
        if open_ends and star and symbols:
            symbols = [star, *symbols, star]
        # Several in a row are one.
        runs = itertools.groupby(symbols, key=lambda symbol: symbol == star)
        self._units = [s for wild, run in runs for s in ([STAR] if wild else run)]
        wild = [symbol == star for symbol in self._units]
        ids = [WILDCARD if w else vocabulary.encode(s)[0] for w, s in zip(wild, self._units)]
        self._wild = wild
        self._aligner = Aligner(ids)

    def add(self, emissions: np.ndarray) -> None:
        """Take the log probabilities of the next frames, `[frames, units]`."""
        self._aligner.add(emissions)

    def alignment(self, samples: int, frame_samples: int, min_score: float = 0.0) -> Alignment:
        """The alignment with a recording of `samples` samples; see Alignment.

        UserError, naming the file, for too few frames.
        """
        try:
            spans = self._aligner.spans()
        except UserError as error:
            raise UserError(f"{self._file}: {error}") from None
        units = [Span(unit, *span) for unit, span in zip(self._units, spans, strict=True)]
        spelling = self._vocabulary.spelling
        letters = spelling is Spelling.LETTERS
        words, spoken = [], []
        for run in self._runs(units):
            words += group_words(run, spelling)
            spoken += [unit for unit in run if not (letters and unit.text == WORD_END)]
        return Alignment(
            file=self._file,
            samples=samples,
            frame_samples=frame_samples,
            units_name="characters" if letters else "units",
            units=spoken,
            words=words,
            untranscribed=self._aligner.untranscribed,
            min_score=min_score,
        )

    def _runs(self, units: Sequence[Span]) -> Iterator[list[Span]]:
        """The units from wildcard to wildcard."""
        pairs = itertools.groupby(zip(self._wild, units), key=lambda pair: pair[0])
        for wild, run in pairs:
            if not wild:
                yield [unit for _, unit in run]


def textgrid(tiers: dict[str, Sequence[tuple[float, float, str]]], duration: float) -> str:
    """Praat's TextGrid (long text format): interval tiers without gaps from 0 to `duration`.

    `tiers`: name -> (start, end, text) in seconds, ascending, without overlap.  Gaps become empty
    intervals.
    """
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {duration:.6f}",
        "tiers? <exists>",
        f"size = {len(tiers)}",
        "item []:",
    ]
    for number, (name, given) in enumerate(tiers.items(), start=1):
        intervals = fill_gaps(given, duration)
        lines += [
            f"    item [{number}]:",
            '        class = "IntervalTier"',
            f"        name = {quoted(name)}",
            "        xmin = 0",
            f"        xmax = {duration:.6f}",
            f"        intervals: size = {len(intervals)}",
        ]
        for index, (start, end, text) in enumerate(intervals, start=1):
            lines += [
                f"        intervals [{index}]:",
                f"            xmin = {start:.6f}",
                f"            xmax = {end:.6f}",
                f"            text = {quoted(text)}",
            ]
    return "\n".join(lines) + "\n"


def fill_gaps(
    intervals: Sequence[tuple[float, float, str]], duration: float
) -> list[tuple[float, float, str]]:
    """The intervals, with empty ones in the gaps between, before and after them."""
    filled, at = [], 0.0
    for start, end, text in intervals:
        if start > at:
            filled.append((at, start, ""))
        filled.append((start, end, text))
        at = end
    return [*filled, (at, duration, "")] if at < duration else filled


def quoted(text: str) -> str:
    """`text` in quotes; quotes inside are doubled, as in Praat's format."""
    return '"' + text.replace('"', '""') + '"'
