"""Whole utterances in padded batches, and the loading of batches by worker processes."""

import signal
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from wav2vec2.audio.decode import NORMALIZE_EPS, normalize
from wav2vec2.audio.packed import read_audio
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import Failures, UserError
from wav2vec2.cli.progress import progress
from wav2vec2.cli.workers import end_with_parent
from wav2vec2.files.filelists import Manifest, Utterance

Batch = TypeVar("Batch", bound="AudioBatch")


@dataclass
class AudioBatch:
    """Utterances as the rows of one tensor, zero-padded to the longest."""

    ids: list[str]
    waveforms: Tensor
    """`[batch, samples]`, float32; zeros after a row's own length."""
    lengths: Tensor
    """`[batch]`, int64, samples of each row; stays on the CPU."""
    failures: list[str] = field(default_factory=list)
    """Error lines of the utterances that were skipped, if any were."""

    @property
    def audio_seconds(self) -> float:
        return float(self.lengths.sum()) / SAMPLE_RATE

    def to(self: Batch, device: torch.device) -> Batch:
        """Move the model's input to `device`; lengths stay on the CPU."""
        return self.map_tensors(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self: Batch) -> Batch:
        """The batch in page-locked memory, so that the CPU does not wait for copies to a GPU."""
        return self.map_tensors(torch.Tensor.pin_memory)

    def map_tensors(self: Batch, move: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with `move` applied to the tensors that belong on the device."""
        return replace(self, waveforms=move(self.waveforms))


def pad(rows: Sequence[np.ndarray]) -> Tensor:
    """Waveforms `[samples]` of any lengths -> `[batch, longest]`, zero-padded at the end."""
    padded = torch.zeros(len(rows), max(map(len, rows), default=0))
    for target, row in zip(padded, rows):
        target[: len(row)] = torch.from_numpy(row)
    return padded


def batch_of(
    names: Sequence[str],
    waveforms: Sequence[np.ndarray],
    *,
    normalize_input: bool,
    normalize_eps: float = NORMALIZE_EPS,
) -> AudioBatch:
    """A batch of whole recordings, `[samples]` at 16 kHz each; `normalize_input` scales each to
    zero mean and unit variance, with `normalize_eps` added to it."""
    rows = [normalize(row, normalize_eps) if normalize_input else row for row in waveforms]
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)  # there may be no row
    return AudioBatch(ids=list(names), waveforms=pad(rows), lengths=lengths)


def select_rows(batch: AudioBatch, rows: Sequence[int]) -> AudioBatch:
    """A batch of the given rows alone, as wide as the longest of them."""
    lengths = batch.lengths[list(rows)]
    return replace(
        batch,
        ids=[batch.ids[r] for r in rows],
        waveforms=batch.waveforms[list(rows), : int(lengths.max())],
        lengths=lengths,
    )


MOST_PADDING = 0.1
"""Largest share of padding in a batch for inference."""


def sorted_batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Batches of at most `size` utterance numbers; utterances of similar length share a batch.

    `lengths`: frames (or samples) of each.  Longest first.  A batch also ends before its share of
    padding would exceed MOST_PADDING, whatever the lengths.
    """
    batches: list[list[int]] = []
    total = 0
    for number in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        length = lengths[number]
        if batches:
            batch = batches[-1]
            padded = lengths[batch[0]] * (len(batch) + 1)
            if len(batch) < size and padded - total - length <= MOST_PADDING * padded:
                batch.append(number)
                total += length
                continue
        batches.append([number])
        total = length
    return batches


def padding_share(lengths: Sequence[int], batches: Sequence[Sequence[int]]) -> float:
    """Share of padding in all batches, each as wide as its longest row; 0 to 1."""
    padded = sum(len(batch) * max(lengths[n] for n in batch) for batch in batches)
    padding = padded - sum(lengths[n] for batch in batches for n in batch)
    return padding / max(padded, 1)


@dataclass
class LoadFailure:
    """Message of a UserError in a loader worker, for the main process to raise."""

    message: str


class SubsetDataset(Dataset):
    """Whole utterances of a filelist; each request is a list of utterance numbers for a batch."""

    def __init__(
        self,
        utterances: Sequence[Utterance],
        *,
        normalize_input: bool,
        normalize_eps: float = NORMALIZE_EPS,
    ):
        self.utterances = utterances
        self.normalization = {"normalize_input": normalize_input, "normalize_eps": normalize_eps}

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, numbers: Sequence[int]) -> AudioBatch:
        """The batch of the utterances with these numbers, in this order, without those that cannot
        be read, which `failures` names."""
        ids, waveforms, failures = [], [], Failures()
        for utterance in (self.utterances[n] for n in numbers):
            waveform = failures.attempt(read_audio, utterance.path, utterance.samples)
            if waveform is not None:
                ids.append(utterance.id)
                waveforms.append(waveform)
        batch = batch_of(ids, waveforms, **self.normalization)
        return replace(batch, failures=list(failures))


def dead_worker(error: Exception) -> UserError | None:
    """The error for the user if `error` means that a loader worker died, else None.

    torch raises it from a signal handler, at any point of the main process; or the connection to
    the worker breaks.
    """
    lost = isinstance(error, OSError | EOFError)
    if not lost and "DataLoader worker" not in str(error):
        return None
    reason = str(error).partition("\n")[0]
    return UserError(
        f"--num_workers: a loader worker died ({reason}); lower it if memory "
        "ran out, or give a container more shared memory (--shm-size)"
    )


def ignore_in_worker(worker: int) -> None:
    """Start of a loader worker: ignore Ctrl-C and a scheduler's warning, which reach all processes
    of a job.  Workers continue until the main process stops them, or ends in whatever way."""
    end_with_parent()
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def load_batches(
    dataset: Dataset,
    requests: Iterable[Any],
    *,
    workers: int,
    pin_memory: bool = False,
) -> Iterator[Any]:
    """The batches of `requests`, in order, loaded by `workers` processes (0: by this one).

    A UserError in a worker is raised here, in the main process.
    """
    with warnings.catch_warnings():
        # torch's warning about more workers than cores: how many is for the caller to say.
        warnings.filterwarnings("ignore", "This DataLoader will create")
        loader = DataLoader(
            dataset,
            sampler=requests,
            batch_size=None,
            num_workers=workers,
            pin_memory=pin_memory,
            prefetch_factor=4 if workers else None,
            worker_init_fn=ignore_in_worker,
        )
        batches = iter(loader)
    try:
        while True:
            try:
                batch = next(batches, None)
            except (RuntimeError, OSError, EOFError) as error:
                if workers and (died := dead_worker(error)):
                    raise died from None
                raise
            if batch is None:
                return
            if isinstance(batch, LoadFailure):
                raise UserError(batch.message)
            yield batch
    finally:
        # Ends the workers now.  Kept alive by a traceback and collected later, torch would wait
        # for them without end.
        del batches


def subset_batches(
    manifest: Manifest,
    lengths: Sequence[int],
    size: int,
    *,
    normalize_input: bool,
    normalize_eps: float = NORMALIZE_EPS,
    workers: int,
    share: tuple[int, int] = (0, 1),
    failures: list[str] | None = None,
) -> Iterator[AudioBatch]:
    """The whole utterances of a subset in batches of at most `size`, longest first.

    `lengths`: frames of each utterance, see sorted_batches.  `share` (rank, ranks): processes take
    turns.  `failures`: unreadable audio is skipped and its error line added; without this list it
    raises the UserError.
    """
    rank, ranks = share
    dataset = SubsetDataset(
        manifest.utterances, normalize_input=normalize_input, normalize_eps=normalize_eps
    )
    plan = sorted_batches(lengths, size)[rank::ranks]
    name = manifest.path.stem
    with closing(load_batches(dataset, plan, workers=workers)) as batches:
        for batch in progress(batches, len(plan), name, "batches", enabled=not rank):
            if failures is None and batch.failures:
                raise UserError(batch.failures[0])
            if failures is not None:
                failures += batch.failures
            yield batch
