"""Utterances as batches: cropping for pre-training, padding for everything else.

A dataset answers a `GroupRequest` with a whole batch, as a pure function of the request, so that
losses do not depend on how many loader workers there are.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.audio import SAMPLE_RATE, normalize
from common.batching import GroupRequest
from common.errors import UserError
from common.manifest import Utterance
from common.packed import read_audio
from common.randomness import numpy_generator
from common.signals import ignore_in_worker

Draws = dict[str, Any]
"""What was drawn for a sub-batch: NumPy arrays (tensors once on a device) and plain numbers.

Arrays, because every tensor that a loader worker sends holds a file descriptor open.
"""

DrawTask = Callable[[list[int], tuple[int, ...]], Draws]
"""(samples of each row of a sub-batch, key of its draws) -> what the model needs drawn for it."""


@dataclass
class AudioBatch:
    """Rows of audio with what was drawn for them; rows of one sub-batch are neighbours."""

    ids: list[str]
    waveforms: Tensor
    """`[batch, samples]`, float32; zeros after a row's own length."""
    lengths: Tensor
    """`[batch]`, int64, samples of each row; stays on the CPU."""
    key: tuple[int, ...]
    """Key of the first sub-batch's draws: seeds dropout for the batch."""
    corpus: int = 0
    """Number of the corpus the rows belong to."""
    labels: list[Sequence[int]] = field(default_factory=list)
    """Unit ids of each row; empty without labels."""
    draws: list[Draws] = field(default_factory=list)
    """What `DrawTask` returned, one a sub-batch."""
    failures: list[str] = field(default_factory=list)
    """What was wrong with utterances that are left out, a line each."""

    @property
    def audio_seconds(self) -> float:
        return float(self.lengths.sum()) / SAMPLE_RATE

    def to(self, device: torch.device) -> "AudioBatch":
        """Move waveforms and draws; lengths and labels stay where the host can read them."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "AudioBatch":
        """In page-locked memory, from which a copy to a GPU does not wait."""
        return self._each(torch.Tensor.pin_memory)

    def _each(self, move: Callable[[Tensor], Tensor]) -> "AudioBatch":
        def moved(value: Any) -> Any:
            if isinstance(value, np.ndarray):
                value = torch.from_numpy(value)
            return move(value) if isinstance(value, Tensor) else value

        draws = [{name: moved(value) for name, value in d.items()} for d in self.draws]
        return replace(self, waveforms=move(self.waveforms), draws=draws)


@dataclass
class LoadFailure:
    """A user's mistake met inside a loader worker, carried to the main process in one piece."""

    message: str


def pad(rows: Sequence[np.ndarray]) -> Tensor:
    """Waveforms `[samples]` of any lengths -> `[batch, longest]`, zeros after each one's end."""
    padded = torch.zeros(len(rows), max(map(len, rows)))
    for target, row in zip(padded, rows):
        target[: len(row)] = torch.from_numpy(row)
    return padded


class UtteranceDataset(Dataset):
    """Decoded, normalised, cropped or padded batches.

    `crop=True`: all rows of a group are cropped to its shortest utterance (or `max_samples`),
    each at its own random offset.  `crop=False`: rows are padded to the longest; one longer than
    `max_samples` is cut at a random offset.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        *,
        seed: int,
        crop: bool,
        max_samples: int | None = None,
        normalize_input: bool = False,
        labels: Sequence[Sequence[int]] | None = None,
        draw: DrawTask | None = None,
        leave_out: bool = False,
    ):
        """`labels`: unit ids of each utterance, in the order of `utterances`.  `leave_out`: audio
        that cannot be used is left out of its batch, which says so, rather than ends everything."""
        self.utterances = utterances
        self.seed = seed
        self.crop = crop
        self.max_samples = max_samples
        self.normalize_input = normalize_input
        self.labels = labels
        self.draw = draw
        self.leave_out = leave_out

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, request: GroupRequest) -> AudioBatch | LoadFailure:
        try:
            return self.load(request)
        except UserError as error:
            return self._usable(request) if self.leave_out else LoadFailure(str(error))

    def _usable(self, request: GroupRequest) -> AudioBatch:
        """The batch of `request` without the audio that cannot be used; it may be of no row."""
        usable, failures = [], []
        for number in (n for sub_batch in request.sub_batches for n in sub_batch):
            try:
                self.load(replace(request, sub_batches=((number,),)))
                usable.append(number)
            except UserError as error:
                failures.append(str(error))
        if usable:
            batch = self.load(replace(request, sub_batches=(tuple(usable),)))
        else:
            nothing = torch.zeros(0, dtype=torch.long)
            batch = AudioBatch([], torch.zeros(0, 0), nothing, self._key(request, 0))
        return replace(batch, failures=failures)

    def load(self, request: GroupRequest) -> AudioBatch:
        """The batch of `request`.  Raises UserError for audio that cannot be used."""
        numbers = [n for sub_batch in request.sub_batches for n in sub_batch]
        lengths = [self.utterances[n].samples for n in numbers]
        limit = self.max_samples or max(lengths)
        if self.crop:
            limit = min(limit, *lengths)
        kept = [min(length, limit) for length in lengths]

        waveforms = np.zeros((len(numbers), max(kept)), dtype=np.float32)
        draws = []
        filled = 0
        for position, sub_batch in enumerate(request.sub_batches):
            key = self._key(request, position)
            offsets = numpy_generator("crop", *key)
            rows = range(filled, filled + len(sub_batch))
            for row, number in zip(rows, sub_batch):
                start = int(offsets.integers(0, lengths[row] - kept[row] + 1))
                waveforms[row, : kept[row]] = self._waveform(number, start, kept[row])
            if self.draw is not None:
                draws.append(self.draw([kept[row] for row in rows], key))
            filled = rows.stop

        return AudioBatch(
            ids=[self.utterances[n].id for n in numbers],
            waveforms=torch.from_numpy(waveforms),
            lengths=torch.tensor(kept),
            key=self._key(request, 0),
            corpus=request.corpus,
            labels=[self.labels[n] for n in numbers] if self.labels else [],
            draws=draws,
        )

    def _key(self, request: GroupRequest, position: int) -> tuple[int, ...]:
        return (self.seed, request.epoch, request.sub_batch_number(position))

    def _waveform(self, number: int, start: int, count: int) -> np.ndarray:
        utterance = self.utterances[number]
        if not self.normalize_input:
            return read_audio(utterance.path, utterance.samples, start, count)
        whole = read_audio(utterance.path, utterance.samples)
        return normalize(whole)[start : start + count]


class _Requests:
    """Lets DataLoader draw requests one by one, from a generator that may never end."""

    def __init__(self, requests: Iterable[GroupRequest]):
        self.requests = requests

    def __iter__(self) -> Iterator[GroupRequest]:
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


def load_batches(
    dataset: UtteranceDataset,
    requests: Iterable[GroupRequest],
    *,
    workers: int,
    pin_memory: bool = False,
) -> Iterator[AudioBatch]:
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
