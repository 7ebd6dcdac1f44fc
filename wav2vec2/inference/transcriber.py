"""Waveforms of any length -> transcripts, in memory that does not grow with the length.

A long recording is heard in overlapping windows.  They start on multiples of the encoder's
shortened frames, so that frames and groups of frames are those of the whole recording, and input
is normalised as the whole.  What they say of each frame is joined, and searched from pause to
pause: greedy search finds what it finds in one piece, beam search begins anew after each pause.
"""

import reprlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from wav2vec2.audio.decode import stream_array, stream_recording
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.audio.waveform import Waveform
from wav2vec2.cli.errors import UserError, one_line
from wav2vec2.cli.flags import from_arguments
from wav2vec2.ctc import BLANK
from wav2vec2.decoding.alignment import Span, group_words, path_units, path_words
from wav2vec2.decoding.greedy import Decoder, DecodingOptions
from wav2vec2.decoding.timed_words import Transcript, Word
from wav2vec2.decoding.windows import Window, cut_path, plan_windows
from wav2vec2.inference.batches import AudioBatch, pad
from wav2vec2.inference.recogniser import Recogniser, RecogniserOptions, prepare_decoder
from wav2vec2.text.vocabulary import WORD_END, Spelling

Key = TypeVar("Key")
"""Whatever tells a caller's recordings apart."""

RATES = (1_000, 1_000_000)
"""Hz, the least and the most that an array's samples may have.  Outside, somebody meant kHz or
something else, and the resampler would fill the memory or never end."""


@dataclass(frozen=True)
class WindowOptions:
    """Long recordings"""

    window_seconds: float = 30.0
    """Longer recordings are heard in windows of this length.  It bounds the memory: on a CPU, a
    batch holds no more audio than one window."""
    overlap_seconds: float = 4.0
    """What neighbouring windows share; half of it is each one's context on that side."""

    def __post_init__(self) -> None:
        if self.window_seconds < 1:
            raise UserError(f"--window_seconds {self.window_seconds}: must be at least 1")
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
    decoding: dict[str, Any],
) -> "Transcriber":
    """`wav2vec2.load`; `decoding`: fields of DecodingOptions."""
    if unknown := sorted(set(decoding) - {field.name for field in fields(DecodingOptions)}):
        raise UserError(f"load: no argument {unknown[0]}; see inference.py transcribe --help")
    lengths = {"window_seconds": window_seconds, "overlap_seconds": overlap_seconds}
    windows = from_arguments(WindowOptions, "load", lengths)
    running = {"checkpoint": str(path), "batch_size": batch_size, "precision": precision}
    model = from_arguments(RecogniserOptions, "load", running)
    search = from_arguments(DecodingOptions, "load", decoding)
    recogniser = Recogniser.from_checkpoint(
        model.checkpoint, usable_device(device), model.precision
    )
    decoder = prepare_decoder(search, recogniser.vocabulary)
    return Transcriber(recogniser, decoder, windows, model.batch_size)


def usable_device(device: str | torch.device) -> torch.device:
    """What torch calls `device`; UserError if this machine cannot compute there."""
    try:
        number = torch.zeros(1, device=device)
        number.tolist()  # which torch's device "meta", that holds no numbers, refuses
    except (RuntimeError, AssertionError, ImportError, TypeError) as error:
        reason = str(error).splitlines()[0][:120]
        raise UserError(
            f"load: device {device!r}: {reason}; give 'cpu', or a GPU such as 'cuda'"
        ) from None
    return number.device


def as_rate(rate: Any) -> float:
    """A sample rate in Hz, given as a number of any library; UserError if it is none."""
    least, most = RATES
    try:
        plausible = bool(least <= rate <= most)
    except (TypeError, ValueError, RuntimeError):  # text; arrays and tensors of several numbers
        plausible = False
    if not plausible:
        raise UserError(
            f"transcribe: rate {one_line(reprlib.repr(rate))}: must be a number from {least} to "
            f"{most}, in Hz"
        )
    return float(rate)


def as_samples(audio: Any) -> Any:
    """A tensor as it is, anything else as an array; UserError if it is none, such as ragged."""
    if isinstance(audio, Tensor):
        return audio
    try:
        return np.asarray(audio)
    except (ValueError, TypeError):
        raise UserError(
            "transcribe: audio: not one array, as if its rows had different lengths; give numbers "
            "as [samples] or [samples, channels]"
        ) from None


class Hearing:
    """One recording while it is heard: what its windows said, in order."""

    def __init__(self, transcriber: "Transcriber", key: Any, waveform: Waveform):
        self.key, self.waveform = key, waveform
        self._transcriber = transcriber
        self._waiting = torch.empty(0, len(transcriber.recogniser.vocabulary))
        self._frames = 0
        self._path: list[np.ndarray] = []
        self._scores: list[np.ndarray] = []
        # A lexicon's words and the frames that complete them, if the search has a lexicon.
        self._of_lexicon = False
        self._words: list[str] = []
        self._ends: list[int] = []

    def windows(self) -> list[Window]:
        recogniser = self._transcriber.recogniser
        frames = int(recogniser.model.frames(torch.tensor(self.waveform.samples)))
        return plan_windows(
            frames, self._transcriber.length, self._transcriber.overlap, recogniser.shortening
        )

    def add(self, logits: Tensor) -> None:
        """The next frames' unit scores, `[frames, units]`."""
        most, vocabulary = self._transcriber.length, self._transcriber.recogniser.vocabulary
        self._waiting = torch.cat([self._waiting, logits])
        while len(self._waiting) > most:
            at = cut_path(self._waiting.argmax(dim=-1).numpy(), most, vocabulary)
            self._search(self._waiting[:at])
            self._waiting = self._waiting[at:].clone()

    def _search(self, logits: Tensor) -> None:
        if len(logits) == 0:
            return
        (heard,) = self._transcriber.decoder(logits[None], [len(logits)])
        path = torch.tensor(heard.path)
        scores = logits.log_softmax(dim=-1).gather(1, path[:, None])[:, 0]
        self._path.append(path.to(torch.int32).numpy())
        self._scores.append(scores.numpy())
        if heard.ends is not None:
            self._of_lexicon = True
            self._words += heard.words.split()
            self._ends += [self._frames + end for end in heard.ends]
        self._frames += len(logits)

    def transcript(self) -> Transcript:
        """Everything that was heard."""
        self._search(self._waiting)
        path = np.concatenate([np.empty(0, np.int32), *self._path])
        scores = np.concatenate([np.empty(0, np.float32), *self._scores])
        vocabulary = self._transcriber.recogniser.vocabulary
        if self._of_lexicon:
            separators = [BLANK]
            if vocabulary.spelling is Spelling.LETTERS:
                separators += vocabulary.encode(WORD_END)
            spans = path_words(path, scores, self._words, self._ends, separators)
        else:
            spans = group_words(path_units(path, scores, vocabulary), vocabulary.spelling)
        words = tuple(self._word(span) for span in spans)
        return Transcript(" ".join(word.text for word in words), words, self.waveform.seconds)

    def _word(self, span: Span) -> Word:
        step, duration = self._transcriber.recogniser.frame_samples, self.waveform.seconds
        start, end = (min(f * step / SAMPLE_RATE, duration) for f in (span.start, span.end))
        return Word(span.text, start, end, span.score)


@dataclass
class Piece:
    """A window of a recording."""

    hearing: Hearing
    window: Window
    samples: tuple[int, int]
    """First sample, and the one after the last."""
    last: bool
    """Whether the recording ends with it."""

    def __len__(self) -> int:
        return self.samples[1] - self.samples[0]


class Transcriber:
    """A recogniser, a search, and the windows in which long recordings are heard."""

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
        """Frames that neighbours share."""

    def transcribe(self, audio: Any, rate: int | None = None) -> Transcript:
        """Text and words of an array or tensor `[samples]` or `[samples, channels]`, or of a file.

        Floating point within [-1, 1] or integers of their type's whole range, at `rate` Hz; a file
        knows its own.  UserError (a ValueError) for audio without samples, or with NaN, and for a
        rate that is none.
        """
        if isinstance(audio, (str, Path)):
            if rate is not None:
                raise UserError(f"{audio}: a file knows its own rate; leave {rate} out")
            blocks = stream_recording(audio)
        elif rate is None:
            raise UserError("transcribe: samples alone do not say their rate; give it in Hz")
        else:
            blocks = stream_array(as_samples(audio), as_rate(rate))
        ((_, transcript),) = self.transcribe_all([("", Waveform(blocks))])
        return transcript

    def transcribe_all(
        self,
        recordings: Iterable[tuple[Key, Waveform]],
        heard: Callable[[float], object] = lambda seconds: None,
    ) -> Iterator[tuple[Key, Transcript]]:
        """(key, waveform) -> (key, transcript), in order; closes the waveforms.

        Windows of one recording and of several share batches.  `heard` is told of each part that
        is done, in seconds.
        """
        for batch in self._batches(self._pieces(recordings)):
            for piece, logits in zip(batch, self._logits(batch)):
                window, hearing = piece.window, piece.hearing
                kept = logits[window.keep_start - window.start :][: window.kept]
                hearing.add(kept)
                heard(len(kept) * self.recogniser.frame_samples / SAMPLE_RATE)
                if piece.last:
                    yield hearing.key, hearing.transcript()
                    hearing.waveform.close()

    def _pieces(self, recordings: Iterable[tuple[Any, Waveform]]) -> Iterator[Piece]:
        step = self.recogniser.frame_samples
        for key, waveform in recordings:
            hearing = Hearing(self, key, waveform)
            windows = hearing.windows()
            for window in windows:
                samples = (0, waveform.samples)  # one window is the whole, to its last sample
                if len(windows) > 1:
                    start = window.start * step
                    frames = window.end - window.start
                    samples = (start, start + self.recogniser.samples(frames))
                yield Piece(hearing, window, samples, last=window is windows[-1])

    def _batches(self, pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
        """As many pieces as `batch_size` says; on a CPU, no more audio than one window's, because
        more takes memory there and is no faster."""
        most = self.recogniser.samples(self.length)
        on_cpu = self.recogniser.device.type == "cpu"
        batch: list[Piece] = []
        for piece in pieces:
            padded = max(map(len, [*batch, piece])) * (len(batch) + 1)
            if batch and (len(batch) == self._batch_size or (on_cpu and padded > most)):
                yield batch
                batch = []
            batch.append(piece)
        if batch:
            yield batch

    def _logits(self, batch: list[Piece]) -> list[Tensor]:
        normalized = self.recogniser.normalize_input
        rows = [p.hearing.waveform.read(*p.samples, normalized=normalized) for p in batch]
        lengths = torch.tensor([len(row) for row in rows])
        ids = [str(number) for number in range(len(batch))]
        return self.recogniser.logits(AudioBatch(ids, pad(rows), lengths, key=()))
