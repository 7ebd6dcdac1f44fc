"""Utterances as training batches: cropping for pre-training, padding for everything else.

A dataset answers a `GroupRequest` with a whole batch, as a pure function of the request, so that
losses do not depend on how many loader workers there are.
"""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.data.batching import GroupRequest
from common.data.speeds import read_at_speed
from common.runtime.randomness import numpy_generator
from wav2vec2.audio.decode import NORMALIZE_EPS, normalize
from wav2vec2.cli.errors import UserError
from wav2vec2.files.filelists import Utterance
from wav2vec2.inference.batches import AudioBatch, LoadFailure

Draw = Callable[[list[int], tuple[int, ...]], Any]
"""(samples of each row of a sub-batch, key of its draws) -> a dataclass of what the model needs.

Its array fields are NumPy arrays until the batch is moved to a device: every tensor that a loader
worker sends holds a file descriptor open.
"""


@dataclass
class TrainingBatch(AudioBatch):
    """Rows of audio with the random draws for them; rows of one sub-batch are neighbours."""

    key: tuple[int, ...] = ()
    """Key of the first sub-batch's draws: seeds dropout for the batch."""
    corpus: int = 0
    """Number of the corpus the rows belong to."""
    labels: list[Sequence[int]] = field(default_factory=list)
    """Unit ids of each row; empty without labels."""
    draws: list[Any] = field(default_factory=list)
    """What `Draw` returned, one dataclass per sub-batch."""

    def map_tensors(self, move: Callable[[Tensor], Tensor]) -> "TrainingBatch":
        def moved(value: Any) -> Any:
            if isinstance(value, np.ndarray):
                value = torch.from_numpy(value)
            return move(value) if isinstance(value, Tensor) else value

        draws = [
            replace(draw, **{name: moved(value) for name, value in vars(draw).items()})
            for draw in self.draws
        ]
        return replace(self, waveforms=move(self.waveforms), draws=draws)


@dataclass(eq=False)
class UtteranceDataset(Dataset):
    """Decoded, normalised, cropped or padded batches.

    `crop=True`: all rows of a group are cropped to its shortest utterance (or `max_samples`),
    each at its own random offset.  `crop=False`: rows are padded to the longest; one longer than
    `max_samples` is cropped at a random offset.
    """

    utterances: Sequence[Utterance]
    _: KW_ONLY
    seed: int
    crop: bool
    max_samples: int | None = None
    normalize_input: bool = False
    normalize_eps: float = NORMALIZE_EPS
    labels: Sequence[Sequence[int]] | None = None
    """Unit ids of each utterance, in the order of `utterances`."""
    draw: Draw | None = None

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, request: GroupRequest) -> TrainingBatch | LoadFailure:
        try:
            return self.load(request)
        except UserError as error:
            return LoadFailure(str(error))

    def load(self, request: GroupRequest) -> TrainingBatch:
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

        return TrainingBatch(
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
            return read_at_speed(utterance, start, count)
        whole = read_at_speed(utterance)
        return normalize(whole, self.normalize_eps)[start : start + count]
