"""Transcripts with the times of their words, as JSON and as subtitles."""

import bisect
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from wav2vec2.text.subwords import WORD_START

LINE = 42
"""Columns per line; a cue has at most two lines (BBC and Netflix guidelines)."""
LONGEST = 7.0
"""Most seconds of a cue."""
SHORTEST = 1.0
"""Fewest seconds of a cue; shorter only if the next cue begins earlier."""
PAUSE = 0.8
"""Seconds of silence that end a cue."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word, or one unit of a word."""

    text: str
    start: float
    """Seconds from the start of the recording."""
    end: float
    """Seconds; after `start`, and not after the start of the next word or the recording's end."""
    confidence: float
    """Geometric mean of the probabilities of the word's units over their frames, 0 to 1."""


@dataclass(frozen=True)
class Transcript:
    """The words of one recording."""

    text: str
    """The words, separated by spaces."""
    words: tuple[Word, ...]
    duration: float
    """Seconds of audio."""
    units: tuple[Word, ...] = ()
    """The letters, pieces or other units of all words, without word separators."""
    channel: int | None = None
    """The recording's channel, from 1, if one was chosen."""

    def as_json(self, file: str) -> dict[str, Any]:
        """Plain types, times in whole milliseconds, rounded down."""

        def entry(word: Word) -> dict[str, Any]:
            return {
                "text": word.text,
                "start": milliseconds(word.start) / 1000,
                "end": milliseconds(word.end) / 1000,
                "confidence": round(word.confidence, 4),
            }

        return {
            "file": file,
            **({} if self.channel is None else {"channel": self.channel}),
            "duration": milliseconds(self.duration) / 1000,
            "text": self.text,
            "words": [entry(word) for word in self.words],
            "units": [entry(unit) for unit in self.units],
        }


@dataclass(frozen=True)
class Part:
    """A word, or a piece of one that is too long for a cue: a line may end before it."""

    text: str
    start: float
    end: float
    begins_word: bool
    """Whether a space separates it from the part before."""


@dataclass(frozen=True)
class Cue:
    """A subtitle: one or two lines, and the seconds at which it is shown."""

    start: float
    end: float
    lines: tuple[str, ...]


def cues(transcript: Transcript) -> Iterator[Cue]:
    """The words as subtitles; a new one begins after a pause, or when the last one is full."""
    groups: list[list[Part]] = []
    for part in parts(transcript):
        if not groups or begins_cue(groups[-1], part):
            groups.append([])
        groups[-1].append(part)
    nexts = [*(group[0].start for group in groups[1:]), transcript.duration]
    for group, limit in zip(groups, nexts):
        start, end = group[0].start, group[-1].end
        yield Cue(start, min(max(end, start + SHORTEST), limit), wrap(group))


def parts(transcript: Transcript) -> Iterator[Part]:
    """The words; one that has a pause inside, or is too long for a line or a cue, in its units.

    Such are all words of a language, or a model, that writes no spaces.
    """
    starts = [unit.start for unit in transcript.units]
    for word in transcript.words:
        first = bisect.bisect_left(starts, word.start)
        units = transcript.units[first : bisect.bisect_left(starts, word.end, first)]
        pause = any(b.start - a.end >= PAUSE for a, b in zip(units, units[1:]))
        if units and (pause or columns(word.text) > LINE or word.end - word.start > LONGEST):
            yield from parts_of_word(units)
        else:
            yield Part(word.text, word.start, word.end, begins_word=True)


def parts_of_word(units: Sequence[Word]) -> list[Part]:
    """A part per unit, with the accents and vowel signs that follow it: these begin no line."""
    found: list[Part] = []
    for unit in units:
        text = unit.text.removeprefix(WORD_START)
        sign = columns(text) == 0 or unicodedata.category(text[0]).startswith("M")
        if found and sign:
            last = found.pop()
            found.append(Part(last.text + text, last.start, unit.end, last.begins_word))
        elif text:
            found.append(Part(text, unit.start, unit.end, begins_word=not found))
    return found


def begins_cue(group: Sequence[Part], part: Part) -> bool:
    """Whether `part` does not fit into the cue of `group`."""
    return (
        part.start - group[-1].end >= PAUSE
        or part.end - group[0].start > LONGEST
        or len(wrap([*group, part])) > 2
    )


def wrap(parts: Sequence[Part]) -> tuple[str, ...]:
    """Lines of at most LINE columns; a longer part takes a whole line."""
    lines: list[str] = []
    for part in parts:
        longer = f"{lines[-1]}{' ' * part.begins_word}{part.text}" if lines else part.text
        if lines and columns(longer) <= LINE:
            lines[-1] = longer
        else:
            lines.append(part.text)
    return tuple(lines)


def columns(text: str) -> int:
    """Columns of a text on a screen: two per wide character (Chinese, Japanese, Korean), none for
    what is drawn onto the character before (Unicode Standard Annex 11)."""
    return sum(
        0
        if unicodedata.category(character) in ("Mn", "Me", "Cf")
        else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in text
    )


def milliseconds(seconds: float) -> int:
    """Whole milliseconds, rounded down; the start of a frame is a whole number and stays."""
    return int(seconds * 1000 + 1e-6)


def clock(seconds: float, point: str) -> str:
    """`01:02:03,004`, with `point` before the milliseconds."""
    whole, rest = divmod(milliseconds(seconds), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{point}{rest:03}"


def srt(transcript: Transcript) -> str:
    """SubRip subtitles; each begins with the number of the channel if one was chosen: `[2] `."""
    channel = "" if transcript.channel is None else f"[{transcript.channel}] "
    blocks = (
        f"{number}\n{clock(cue.start, ',')} --> {clock(cue.end, ',')}\n"
        + channel
        + "\n".join(cue.lines)
        for number, cue in enumerate(cues(transcript), start=1)
    )
    return "\n\n".join(blocks)


def vtt(transcript: Transcript) -> str:
    """WebVTT subtitles (W3C), `&`, `<` and `>` escaped; a channel that was chosen is the voice."""
    voice = "" if transcript.channel is None else f"<v channel {transcript.channel}>"
    escapes = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
    blocks = (
        f"{clock(cue.start, '.')} --> {clock(cue.end, '.')}\n"
        + voice
        + "\n".join(cue.lines).translate(escapes)
        for cue in cues(transcript)
    )
    return "\n\n".join(["WEBVTT", *blocks])
