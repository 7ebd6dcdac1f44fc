"""Recordings of any length -> transcripts, in memory that does not grow with the length.

A long recording is processed in overlapping windows.  Windows start on multiples of the encoder's
shortening factor, so that their frames are those of the whole recording; input is normalised with
the mean and variance of the whole.  The logits of the windows are joined and decoded from pause
to pause: greedy search finds the same as in one piece, beam search restarts after each pause.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from wav2vec2.audio.decode import stream_audio
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.audio.waveform import Waveform
from wav2vec2.cli.errors import UserError
from wav2vec2.cli.flags import from_arguments, require_at_least
from wav2vec2.ctc import BLANK
from wav2vec2.decoding.alignment import Span, group_words, path_units, path_words
from wav2vec2.decoding.beam_search import DecodingOptions
from wav2vec2.decoding.greedy import Decoder
from wav2vec2.decoding.timed_alignment import STAR, Alignment, TranscriptAligner, spell
from wav2vec2.decoding.timed_words import Transcript, Word
from wav2vec2.decoding.windows import Window, cut_path, plan_windows
from wav2vec2.inference.batches import batch_of
from wav2vec2.inference.device import usable_device
from wav2vec2.inference.features import FeatureModel, checked_layer
from wav2vec2.inference.recogniser import (
    Recogniser,
    RecogniserOptions,
    complete_decoding,
    prepare_decoder,
)
from wav2vec2.interop.onnx import OnnxRecogniser
from wav2vec2.text.subwords import WORD_START
from wav2vec2.text.vocabulary import WORD_END, Spelling

SEPARATORS = {Spelling.LETTERS: WORD_END, Spelling.PIECES: WORD_START}
"""What separates words in label lines, and no written word contains."""

AHEAD = 4
"""Batches whose windows are read ahead, so that those of similar length can share a batch."""

Key = TypeVar("Key")
"""Whatever a caller tells its recordings apart by."""


@dataclass(frozen=True)
class WindowOptions:
    """Long recordings"""

    window_seconds: float = 30.0
    """Recordings longer than this are processed in windows of this length.  It bounds the memory:
    on a CPU, a batch holds no more audio than one window."""
    overlap_seconds: float = 4.0
    """Overlap of neighbouring windows; half of it is context for each of them."""

    def __post_init__(self) -> None:
        require_at_least(self, window_seconds=1)
        if not 0 <= self.overlap_seconds <= self.window_seconds / 2:
            raise UserError(
                f"--overlap_seconds {self.overlap_seconds}: must be from 0 to half of "
                f"--window_seconds {self.window_seconds}"
            )


def load(
    path: str | Path,
    device: str | torch.device | None,
    precision: str,
    batch_size: int,
    window_seconds: float,
    overlap_seconds: float,
    language: str | None,
    factor: int | None,
    decoding: dict[str, Any],
) -> "Transcriber":
    """See `wav2vec2.load`; `decoding` has fields of DecodingOptions."""
    if unknown := sorted(set(decoding) - {field.name for field in fields(DecodingOptions)}):
        raise UserError(
            f"load: no argument {unknown[0]}; the flags of `wav2vec2 transcribe --help` are known"
        )
    lengths = {"window_seconds": window_seconds, "overlap_seconds": overlap_seconds}
    windows = from_arguments(WindowOptions, "load", lengths)
    running = {
        "checkpoint": str(path),
        "batch_size": batch_size,
        "precision": precision,
        "factor": factor,
    }
    model = from_arguments(RecogniserOptions, "load", running)
    search = from_arguments(DecodingOptions, "load", decoding)
    recogniser = Recogniser.from_checkpoint(
        model.checkpoint, usable_device(device), model.precision, language, model.factor
    )
    search = complete_decoding(search, recogniser)
    decoder = prepare_decoder(search, recogniser.vocabulary)
    return Transcriber(recogniser, decoder, windows, model.batch_size)


def _open(number: int, audio: Any, rate: int | None) -> Waveform:
    """The samples of a recording; an error names the file, or the recording by its number."""
    if isinstance(audio, (str, Path)):
        return Waveform(stream_audio(audio))
    try:
        return Waveform(stream_audio(audio, rate))
    except UserError as error:
        raise UserError(f"recording {number}: {error}") from None


class RecordingDecoder:
    """Decodes one recording from the logits of its windows, which arrive in order."""

    def __init__(self, transcriber: "Transcriber", key: Any, waveform: Waveform):
        self.key, self.waveform = key, waveform
        self._transcriber = transcriber
        self._undecoded = torch.empty(0, len(transcriber.recogniser.vocabulary))
        self._frames = 0
        self._path: list[np.ndarray] = []
        self._scores: list[np.ndarray] = []
        # A lexicon's words and the frames that complete them, if the search has a lexicon.
        self._has_lexicon = False
        self._words: list[str] = []
        self._ends: list[int] = []

    def add(self, logits: Tensor) -> None:
        """Take the logits of the next frames, `[frames, units]`."""
        most, vocabulary = self._transcriber.length, self._transcriber.recogniser.vocabulary
        self._undecoded = torch.cat([self._undecoded, logits])
        while len(self._undecoded) > most:
            at = cut_path(self._undecoded.argmax(dim=-1).numpy(), most, vocabulary)
            self._decode(self._undecoded[:at])
            self._undecoded = self._undecoded[at:].clone()

    def _decode(self, logits: Tensor) -> None:
        if len(logits) == 0:
            return
        hypothesis = self._transcriber.decoder(logits)
        path = torch.tensor(hypothesis.path)
        scores = logits.log_softmax(dim=-1).gather(1, path[:, None])[:, 0]
        self._path.append(path.to(torch.int32).numpy())
        self._scores.append(scores.numpy())
        if hypothesis.ends is not None:
            self._has_lexicon = True
            self._words += hypothesis.words.split()
            self._ends += [self._frames + end for end in hypothesis.ends]
        self._frames += len(logits)

    def transcript(self) -> Transcript:
        """The transcript of all frames."""
        self._decode(self._undecoded)
        path = np.concatenate([np.empty(0, np.int32), *self._path])
        scores = np.concatenate([np.empty(0, np.float32), *self._scores])
        vocabulary = self._transcriber.recogniser.vocabulary
        if self._has_lexicon:
            separators = [BLANK]
            if vocabulary.spelling is Spelling.LETTERS:
                separators += vocabulary.encode(WORD_END)
            spans = path_words(path, scores, self._words, self._ends, separators)
        else:
            spans = group_words(path_units(path, scores, vocabulary), vocabulary.spelling)
        words = tuple(self._word(span) for span in spans)
        separator = WORD_END if vocabulary.spelling is Spelling.LETTERS else None
        units = tuple(
            self._word(unit)
            for unit in path_units(path, scores, vocabulary)
            if unit.text != separator
        )
        text = " ".join(word.text for word in words)
        return Transcript(text, words, self.waveform.seconds, units=units)

    def _word(self, span: Span) -> Word:
        step, duration = self._transcriber.recogniser.frame_samples, self.waveform.seconds
        start, end = (min(f * step / SAMPLE_RATE, duration) for f in (span.start, span.end))
        return Word(span.text, start, end, span.score)


class RecordingAligner:
    """Aligns one recording from the logits of its windows, which arrive in order."""

    def __init__(self, waveform: Waveform, aligner: TranscriptAligner):
        self.waveform, self._aligner = waveform, aligner

    def add(self, logits: Tensor) -> None:
        """Take the logits of the next frames, `[frames, units]`."""
        self._aligner.add(logits.log_softmax(dim=-1).numpy())


class RecordingLogits:
    """Keeps the logits of the windows of one recording, which arrive in order."""

    def __init__(self, waveform: Waveform):
        self.waveform, self.parts = waveform, []

    def add(self, logits: Tensor) -> None:
        """Take the logits of the next frames, `[frames, units]`."""
        self.parts.append(logits)


Reader = TypeVar("Reader", RecordingDecoder, RecordingAligner, RecordingLogits)
"""What takes the logits of a recording."""


@dataclass
class RecordingWindow(Generic[Reader]):
    """A window of a recording."""

    recording: Reader
    window: Window
    samples: tuple[int, int]
    """First sample, and the one after the last."""
    last: bool
    """Whether the recording ends with it."""

    def __len__(self) -> int:
        return self.samples[1] - self.samples[0]


class Transcriber:
    """A recogniser and a search, for recordings of any length."""

    def __init__(
        self,
        recogniser: Recogniser,
        decoder: Decoder,
        windows: WindowOptions | None = None,
        batch_size: int = 8,
    ):
        windows = windows or WindowOptions()
        self.recogniser, self.decoder, self._batch_size = recogniser, decoder, batch_size
        seconds = recogniser.frame_samples * recogniser.shortening / SAMPLE_RATE
        length = max(round(windows.window_seconds / seconds), 2)
        overlap = min(round(windows.overlap_seconds / seconds), length // 2)
        self.length = length * recogniser.shortening
        """Frames of a window."""
        self.overlap = overlap * recogniser.shortening
        """Frames that neighbouring windows share."""

    def transcribe(self, audio: Any, rate: int | None = None) -> Transcript:
        """Text and words of a file, or of an array or tensor `[samples]` or `[samples, channels]`.

        Samples are floating point within [-1, 1] or integers of their type's whole range, at `rate`
        Hz; a file has its own rate.  UserError (a ValueError) for audio without samples or with
        NaN, and for a rate that is not one.
        """
        recordings = [("", Waveform(stream_audio(audio, rate)))]
        ((_, transcript),) = self.transcribe_all(recordings)
        return transcript

    def transcribe_many(
        self, recordings: Iterable[Any], rate: int | None = None
    ) -> list[Transcript]:
        """The transcripts of several recordings, in order; windows of several share batches.

        Each recording is a file, or an array or tensor at `rate` Hz, as in `transcribe`; the first
        that cannot be read raises UserError, which names it.
        """
        if isinstance(recordings, (str, Path)):
            raise UserError(f"transcribe_many: give a list of recordings: [{str(recordings)!r}]")
        opened = ((n, _open(n, audio, rate)) for n, audio in enumerate(recordings, start=1))
        return [transcript for _, transcript in self.transcribe_all(opened)]

    @property
    def units(self) -> tuple[str, ...]:
        """The symbol of each column of `logits`; the first is the blank."""
        return self.recogniser.vocabulary.symbols

    @property
    def frame_seconds(self) -> float:
        """Time from the start of one frame of `logits` to the start of the next."""
        return self.recogniser.frame_samples / SAMPLE_RATE

    def logits(self, audio: Any, rate: int | None = None) -> np.ndarray:
        """Logits `[frames, units]`, fp32, of a recording of any length; see `transcribe`.

        They are not normalised.  A recording shorter than one frame (25 ms) has no frame.
        """
        reader = RecordingLogits(Waveform(stream_audio(audio, rate)))
        for recording in self._read([reader]):
            recording.waveform.close()
        return torch.cat([torch.empty(0, len(self.units)), *reader.parts]).numpy()

    def features(
        self, audio: Any, rate: int | None = None, *, layer: int | None = None
    ) -> np.ndarray:
        """Hidden states `[frames, width]`, fp32, of layer `layer` (default: the last).

        The recording, see `transcribe`, is processed as a whole.  UserError as in `transcribe`, for
        a layer that the model lacks, and for an ONNX file, which gives logits only.
        """
        recogniser = self.recogniser
        if isinstance(recogniser.model, OnnxRecogniser):
            raise UserError(
                f"features: {recogniser.checkpoint} is an ONNX file, which gives logits only; load "
                "the checkpoint it was made from"
            )
        trunk = recogniser.model.wav2vec2
        model = FeatureModel(
            trunk=trunk,
            quantizer=None,
            normalize_input=recogniser.normalize_input,
            normalize_eps=recogniser.normalize_eps,
            device=recogniser.device,
            output="hidden",
            layer=checked_layer(trunk, layer, recogniser.checkpoint),
            checkpoint=recogniser.checkpoint,
        )
        return model.features(audio, rate)

    def align(
        self, audio: Any, text: str, rate: int | None = None, *, open_ends: bool = False
    ) -> Alignment:
        """The times of the words and units of `text`, which `audio` (see `transcribe`) contains.

        `text` is written as the training transcripts are; the word `*` stands for speech that it
        lacks, as `open_ends` does at both ends.  UserError as in `transcribe`, and for text that
        does not fit the audio or the dictionary.
        """
        name = str(audio) if isinstance(audio, (str, Path)) else "audio"
        waveform = Waveform(stream_audio(audio, rate))
        labels = self.label_line(name, text, argument="text")
        return self.align_waveform(name, waveform, labels, open_ends=open_ends)

    def label_line(self, name: str, text: str, argument: str = "--text") -> str:
        """The label line of a transcript, in which `*` is a wildcard.

        UserError, naming the recording and the argument, for text with a mark that separates words
        in label lines and would shift these.
        """
        vocabulary = self.recogniser.vocabulary
        mark = SEPARATORS.get(vocabulary.spelling)
        if mark and mark in text:
            raise UserError(
                f"{name}: its transcript ({argument}) has {mark!r}, which separates words in label "
                "lines and would shift these; write words with spaces between them, and "
                f"{STAR} for speech that it lacks"
            )
        return spell(vocabulary, text)

    def align_waveform(
        self,
        name: str,
        waveform: Waveform,
        labels: str,
        *,
        open_ends: bool = False,
        min_score: float = 0.0,
    ) -> Alignment:
        """Align a recording, called `name`, with a label line; closes the waveform.

        UserError, naming the recording, as of TranscriptAligner.
        """
        recogniser = self.recogniser
        aligner = TranscriptAligner(recogniser.vocabulary, name, labels, open_ends=open_ends)
        for recording in self._read([RecordingAligner(waveform, aligner)]):
            recording.waveform.close()
        return aligner.alignment(waveform.samples, recogniser.frame_samples, min_score)

    def transcribe_all(
        self,
        recordings: Iterable[tuple[Key, Waveform]],
        progress: Callable[[float], object] = lambda seconds: None,
    ) -> Iterator[tuple[Key, Transcript]]:
        """(key, waveform) -> (key, transcript), in order; closes the waveforms.

        Windows of one recording and of several share batches.  `progress` is called with the
        seconds of each part that is done.
        """
        decoders = (RecordingDecoder(self, key, waveform) for key, waveform in recordings)
        for recording in self._read(decoders, progress):
            yield recording.key, recording.transcript()
            recording.waveform.close()

    def _read(
        self,
        recordings: Iterable[Reader],
        progress: Callable[[float], object] = lambda seconds: None,
    ) -> Iterator[Reader]:
        """The recordings, in order, each after it was given the logits of all its windows."""
        for group in self._groups(self._windows(recordings)):
            found: dict[int, Tensor] = {}
            for batch in self._batches(group):
                for number, logits in zip(batch, self._logits([group[n] for n in batch])):
                    window = group[number].window
                    kept = logits[window.keep_start - window.start :][: window.kept]
                    found[number] = kept
                    progress(len(kept) * self.recogniser.frame_samples / SAMPLE_RATE)
            for number, part in enumerate(group):
                part.recording.add(found.pop(number))
                if part.last:
                    yield part.recording

    def _windows(self, recordings: Iterable[Reader]) -> Iterator[RecordingWindow[Reader]]:
        recogniser, step = self.recogniser, self.recogniser.frame_samples
        for recording in recordings:
            waveform = recording.waveform
            count = int(recogniser.model.frames(torch.tensor(waveform.samples)))
            windows = plan_windows(count, self.length, self.overlap, recogniser.shortening)
            for window in windows:
                samples = (0, waveform.samples)  # a single window has all, to the last sample
                if len(windows) > 1:
                    start = window.start * step
                    frames = window.end - window.start
                    samples = (start, start + recogniser.samples(frames))
                yield RecordingWindow(recording, window, samples, last=window is windows[-1])

    def _groups(
        self, windows: Iterable[RecordingWindow[Reader]]
    ) -> Iterator[list[RecordingWindow[Reader]]]:
        """Windows in order, as many as AHEAD batches may hold."""
        most = AHEAD * self._most_samples()
        group: list[RecordingWindow[Reader]] = []
        for window in windows:
            group.append(window)
            if len(group) >= AHEAD * self._batch_size or sum(map(len, group)) >= most:
                yield group
                group = []
        if group:
            yield group

    def _most_samples(self) -> int:
        """Most samples of a batch, with padding.  On a CPU that is one full window, because more
        takes memory there and is no faster."""
        windows = 1 if self.recogniser.device.type == "cpu" else self._batch_size
        return windows * self.recogniser.samples(self.length)

    def _batches(self, group: Sequence[RecordingWindow[Reader]]) -> list[list[int]]:
        """The numbers of a group's windows in batches; those of similar length share one."""
        most = self._most_samples()
        batches: list[list[int]] = []
        for number in sorted(range(len(group)), key=lambda n: -len(group[n])):
            if batches and len(batches[-1]) < self._batch_size:
                padded = len(group[batches[-1][0]]) * (len(batches[-1]) + 1)
                if padded <= most:
                    batches[-1].append(number)
                    continue
            batches.append([number])
        return batches

    def _logits(self, batch: list[RecordingWindow[Reader]]) -> list[Tensor]:
        normalized = self.recogniser.normalize_input
        eps = self.recogniser.normalize_eps
        rows = [
            w.recording.waveform.read(*w.samples, normalized=normalized, eps=eps) for w in batch
        ]
        names = [str(number) for number in range(len(batch))]
        return self.recogniser.logits(batch_of(names, rows, normalize_input=False))
