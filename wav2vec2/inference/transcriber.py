"""Recordings of any length -> transcripts, in memory that does not grow with the length.

A long recording is processed in overlapping windows.  Windows start on multiples of the encoder's
shortening factor, so that their frames are those of the whole recording; input is normalised with
the mean and variance of the whole.  The logits of the windows are joined and decoded from pause
to pause: greedy search finds the same as in one piece, beam search restarts after each pause.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

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
from wav2vec2.decoding.timed_words import Transcript, Word
from wav2vec2.decoding.windows import Window, cut_path, plan_windows
from wav2vec2.inference.align import Alignment, align_waveform
from wav2vec2.inference.batches import batch_of
from wav2vec2.inference.device import usable_device
from wav2vec2.inference.recogniser import (
    Recogniser,
    RecogniserOptions,
    complete_decoding,
    prepare_decoder,
)
from wav2vec2.text.vocabulary import WORD_END, Spelling

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
    device: str | torch.device,
    precision: str,
    batch_size: int,
    window_seconds: float,
    overlap_seconds: float,
    language: str | None,
    decoding: dict[str, Any],
) -> "Transcriber":
    """See `wav2vec2.load`; `decoding` has fields of DecodingOptions."""
    if unknown := sorted(set(decoding) - {field.name for field in fields(DecodingOptions)}):
        raise UserError(
            f"load: no argument {unknown[0]}; the flags of `wav2vec2 transcribe --help` are known"
        )
    lengths = {"window_seconds": window_seconds, "overlap_seconds": overlap_seconds}
    windows = from_arguments(WindowOptions, "load", lengths)
    running = {"checkpoint": str(path), "batch_size": batch_size, "precision": precision}
    model = from_arguments(RecogniserOptions, "load", running)
    search = from_arguments(DecodingOptions, "load", decoding)
    recogniser = Recogniser.from_checkpoint(
        model.checkpoint, usable_device(device), model.precision, language
    )
    search = complete_decoding(search, recogniser)
    decoder = prepare_decoder(search, recogniser.vocabulary)
    return Transcriber(recogniser, decoder, windows, model.batch_size)


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

    def windows(self) -> list[Window]:
        """The windows in which this recording is processed."""
        recogniser = self._transcriber.recogniser
        frames = int(recogniser.model.frames(torch.tensor(self.waveform.samples)))
        return plan_windows(
            frames, self._transcriber.length, self._transcriber.overlap, recogniser.shortening
        )

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


@dataclass
class RecordingWindow:
    """A window of a recording."""

    recording: RecordingDecoder
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

    def align(self, audio: Any, text: str, rate: int | None = None) -> Alignment:
        """The times of the words and units of `text`, which `audio` (see `transcribe`) contains.

        `text` is written as the training transcripts are.  The recording is processed as a whole,
        not in windows.  UserError as in `transcribe`, and for text that does not fit the audio or
        the dictionary.
        """
        name = str(audio) if isinstance(audio, (str, Path)) else "audio"
        waveform = np.concatenate([*stream_audio(audio, rate)])
        return align_waveform(self.recogniser, name, waveform, text)

    def transcribe_all(
        self,
        recordings: Iterable[tuple[Key, Waveform]],
        progress: Callable[[float], object] = lambda seconds: None,
    ) -> Iterator[tuple[Key, Transcript]]:
        """(key, waveform) -> (key, transcript), in order; closes the waveforms.

        Windows of one recording and of several share batches.  `progress` is called with the
        seconds of each part that is done.
        """
        for batch in self._batches(self._windows(recordings)):
            for part, logits in zip(batch, self._logits(batch)):
                window, recording = part.window, part.recording
                kept = logits[window.keep_start - window.start :][: window.kept]
                recording.add(kept)
                progress(len(kept) * self.recogniser.frame_samples / SAMPLE_RATE)
                if part.last:
                    yield recording.key, recording.transcript()
                    recording.waveform.close()

    def _windows(self, recordings: Iterable[tuple[Any, Waveform]]) -> Iterator[RecordingWindow]:
        step = self.recogniser.frame_samples
        for key, waveform in recordings:
            recording = RecordingDecoder(self, key, waveform)
            windows = recording.windows()
            for window in windows:
                samples = (0, waveform.samples)  # a single window has all, to the last sample
                if len(windows) > 1:
                    start = window.start * step
                    frames = window.end - window.start
                    samples = (start, start + self.recogniser.samples(frames))
                yield RecordingWindow(recording, window, samples, last=window is windows[-1])

    def _batches(self, windows: Iterable[RecordingWindow]) -> Iterator[list[RecordingWindow]]:
        """As many windows as `batch_size` allows; on a CPU, no more audio than one full window,
        because more takes memory there and is no faster."""
        most = self.recogniser.samples(self.length)
        on_cpu = self.recogniser.device.type == "cpu"
        batch: list[RecordingWindow] = []
        for window in windows:
            padded = max(map(len, [*batch, window])) * (len(batch) + 1)
            if batch and (len(batch) == self._batch_size or (on_cpu and padded > most)):
                yield batch
                batch = []
            batch.append(window)
        if batch:
            yield batch

    def _logits(self, batch: list[RecordingWindow]) -> list[Tensor]:
        normalized = self.recogniser.normalize_input
        eps = self.recogniser.normalize_eps
        rows = [
            w.recording.waveform.read(*w.samples, normalized=normalized, eps=eps) for w in batch
        ]
        names = [str(number) for number in range(len(batch))]
        return self.recogniser.logits(batch_of(names, rows, normalize_input=False))
