"""Audio for inference: whole utterances in padded batches, and the loading of batches."""

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from wav2vec2.audio.decode import normalize
from wav2vec2.audio.packed import read_audio
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import UserError
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
    """Error lines of the utterances that were skipped."""

    @property
    def audio_seconds(self) -> float:
        return float(self.lengths.sum()) / SAMPLE_RATE

    def to(self: Batch, device: torch.device) -> Batch:
        """Move what the model reads there; lengths stay where the host can read them."""
        return self.map_tensors(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self: Batch) -> Batch:
        """In page-locked memory, from which a copy to a GPU does not wait."""
        return self.map_tensors(torch.Tensor.pin_memory)

    def map_tensors(self: Batch, move: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with `move` applied to the tensors that belong on the device."""
        return replace(self, waveforms=move(self.waveforms))


def pad(rows: Sequence[np.ndarray]) -> Tensor:
    """Waveforms `[samples]` of any lengths -> `[batch, longest]`, zeros after each one's end."""
    padded = torch.zeros(len(rows), max(map(len, rows), default=0))
    for target, row in zip(padded, rows):
        target[: len(row)] = torch.from_numpy(row)
    return padded


def batch_of(
    names: Sequence[str], waveforms: Sequence[np.ndarray], *, normalize_input: bool
) -> AudioBatch:
    """Whole recordings, `[samples]` at 16 kHz each, as a batch; normalised if asked for."""
    rows = [normalize(row) if normalize_input else row for row in waveforms]
    lengths = torch.tensor([len(row) for row in rows])
    return AudioBatch(ids=list(names), waveforms=pad(rows), lengths=lengths)


def select_rows(batch: AudioBatch, rows: Sequence[int]) -> AudioBatch:
    """The batch without its other rows, and without the padding only those needed."""
    lengths = batch.lengths[list(rows)]
    return replace(
        batch,
        ids=[batch.ids[r] for r in rows],
        waveforms=batch.waveforms[list(rows), : int(lengths.max())],
        lengths=lengths,
    )


MOST_PADDING = 0.1
"""Share of a batch that may be padding when utterances are only used, not trained on."""


def sorted_batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Batches of at most `size` utterance numbers, longest first, neighbours in length together.

    `lengths`: frames (or samples) of each.  A batch also ends before more than MOST_PADDING of it
    would be padding, so that this holds for every set, however its lengths are spread.
    """
    batches: list[list[int]] = []
    total = 0
    for number in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        length = lengths[number]
        if batches:
            batch = batches[-1]
            room = lengths[batch[0]] * (len(batch) + 1)
            if len(batch) < size and room - total - length <= MOST_PADDING * room:
                batch.append(number)
                total += length
                continue
        batches.append([number])
        total = length
    return batches


def padding_share(lengths: Sequence[int], batches: Sequence[Sequence[int]]) -> float:
    """How much of all batches, each as wide as its longest row, is padding; 0 to 1."""
    room = sum(len(batch) * max(lengths[n] for n in batch) for batch in batches)
    padding = room - sum(lengths[n] for batch in batches for n in batch)
    return padding / max(room, 1)


@dataclass
class LoadFailure:
    """A user's mistake met inside a loader worker, carried to the main process in one piece."""

    message: str


class SubsetDataset(Dataset):
    """The whole utterances of a filelist, a batch per request."""

    def __init__(self, utterances: Sequence[Utterance], *, normalize_input: bool, skip: bool):
        """`skip`: leave unreadable audio out of its batch, whose `failures` then name it; without,
        a request for it gives a LoadFailure."""
        self.utterances = utterances
        self.normalize_input = normalize_input
        self.skip = skip

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, numbers: Sequence[int]) -> "AudioBatch | LoadFailure":
        """The utterances of these numbers, in this order."""
        kept, waveforms, failures = [], [], []
        for utterance in (self.utterances[n] for n in numbers):
            try:
                waveform = read_audio(utterance.path, utterance.samples)
            except UserError as error:
                if not self.skip:
                    return LoadFailure(str(error))
                failures.append(str(error))
                continue
            kept.append(utterance.id)
            waveforms.append(waveform)
        batch = batch_of(kept, waveforms, normalize_input=self.normalize_input)
        return replace(batch, failures=failures)


class _Requests:
    """Lets DataLoader draw requests one by one, from a generator that may never end."""

    def __init__(self, requests: Iterable[Any]):
        self.requests = requests

    def __iter__(self) -> Iterator[Any]:
        return iter(self.requests)


def dead_worker(error: Exception) -> UserError | None:
    """What to tell the user if `error` says that a loader worker died.

    torch raises that from a signal handler, so wherever the training process happens to be, or
    the connection to the worker breaks.
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
    """For loader workers: Ctrl-C and the warning of a scheduler reach all of a job's processes;
    the workers go on until the training process has come to a stop."""
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
    """The batches of `requests`, in order, decoded by `workers` processes (0: by this one).

    Raises UserError here, in the main process, for what went wrong inside a worker.
    """
    loader = DataLoader(
        dataset,
        sampler=_Requests(requests),
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
        # Ends the workers now: held by a traceback and found by the garbage collector later,
        # torch would wait for them in vain.
        del batches


def subset_batches(
    manifest: Manifest,
    lengths: Sequence[int],
    size: int,
    *,
    normalize_input: bool,
    workers: int,
    share: tuple[int, int] = (0, 1),
    failures: list[str] | None = None,
) -> Iterator[AudioBatch]:
    """A subset's audio, whole, up to `size` utterances at a time, longest first.

    `lengths`: frames of each utterance; neighbours in length share a batch, so that little of it is
    padding.  `share` (rank, ranks): processes take turns.  `failures`: given, what cannot be heard
    is left out and a line about it added there; without, it is a UserError that ends everything.
    """
    rank, ranks = share
    dataset = SubsetDataset(
        manifest.utterances, normalize_input=normalize_input, skip=failures is not None
    )
    plan = sorted_batches(lengths, size)[rank::ranks]
    batches = load_batches(dataset, plan, workers=workers)
    silent = True if rank else None  # None: unless a terminal shows it
    shown = tqdm(batches, total=len(plan), desc=manifest.path.stem, disable=silent)
    return iter(shown) if failures is None else _gathering(shown, failures)


def _gathering(batches: Iterable[AudioBatch], failures: list[str]) -> Iterator[AudioBatch]:
    """The batches; what was wrong with what they leave out is added to `failures`."""
    for batch in batches:
        failures += batch.failures
        yield batch
