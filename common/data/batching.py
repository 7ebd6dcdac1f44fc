"""Which utterances form which batch: a pure function of lengths, seed, epoch and geometry.

Words used here: a *sub-batch* is what the loss' constants are defined over; a *group* is
`concat` neighbouring sub-batches that run through the model as one batch; an *update* consumes
`ranks x accumulate` groups.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from common.runtime.randomness import numpy_generator
from wav2vec2.cli.errors import UserError


@dataclass(frozen=True)
class Geometry:
    """How one update's sub-batches are spread."""

    ranks: int = 1
    """Processes in all."""
    concat: int = 1
    """Sub-batches that run through the model as one batch."""
    accumulate: int = 1
    """Groups that each process takes in turn."""

    @property
    def groups(self) -> int:
        return self.ranks * self.accumulate

    @property
    def product(self) -> int:
        """Sub-batches per update: what a recipe keeps on any number of devices."""
        return self.groups * self.concat

    def __str__(self) -> str:
        return (
            f"{self.ranks} processes x {self.concat} concatenated x {self.accumulate} accumulated"
        )


@dataclass(frozen=True)
class GroupRequest:
    """A request to a loader worker: one group of one epoch."""

    epoch: int
    index: int
    """Position of the group in the epoch's global order."""
    sub_batches: tuple[tuple[int, ...], ...]
    """Utterance numbers of each sub-batch."""
    corpus: int = 0
    """Number of the corpus that all of them belong to."""

    def sub_batch_number(self, position: int) -> int:
        """Index of a sub-batch in the epoch's global order: the key of all its draws."""
        return self.index * len(self.sub_batches) + position


def token_budget_batches(lengths: Sequence[int], max_tokens: int, seed: int) -> list[list[int]]:
    """Batches of utterance numbers, longest first, ties in random order.

    A batch is filled while utterances x its longest length <= `max_tokens`; sizes are below 8 or
    multiples of 8.  ValueError if a length exceeds `max_tokens`.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    ties = numpy_generator("batching ties", seed).permutation(len(sizes))
    order = np.lexsort((ties, -sizes))
    batches = []
    start = 0
    while start < len(order):
        longest = int(sizes[order[start]])
        count = min(max_tokens // longest, len(order) - start)
        if count == 0:
            raise ValueError(f"{max_tokens} samples cannot hold an utterance of {longest}")
        if count >= 8:
            count -= count % 8
        batches.append(order[start : start + count].tolist())
        start += count
    return batches


@dataclass(frozen=True)
class CorpusPlan:
    """One corpus' groups, and how many of them an epoch takes."""

    number: int
    first: int
    """Number of its first group among those of all corpora."""
    groups: int
    take: int

    def taken(self, seed: int, epoch: int) -> list[int]:
        """Numbers of the groups of `epoch`: it starts where the previous epoch stopped.  After
        every group was used once, a new order is drawn."""
        if self.take == self.groups:
            return list(range(self.first, self.first + self.groups))
        start = epoch * self.take
        cycles = range(start // self.groups, (start + self.take - 1) // self.groups + 1)
        orders = [
            numpy_generator("corpus order", seed, self.number, cycle).permutation(self.groups)
            for cycle in cycles
        ]
        skipped = start % self.groups
        return (np.concatenate(orders)[skipped : skipped + self.take] + self.first).tolist()


class BatchPlan:
    """The groups of every epoch, and which process takes them when.

    All utterances of a group belong to one corpus; an update mixes groups of all.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        max_tokens: int,
        seed: int,
        geometry: Geometry,
        flags: str,
        corpora: Sequence[tuple[int, float]] = (),
    ):
        """`lengths`: samples of each utterance as batched.  `corpora`: utterances of each corpus,
        one after the other, and the number of passes per epoch; default: one corpus, one pass.
        `flags`: what to change if the set is too small.
        """
        self.geometry = geometry
        self.seed = seed
        self.groups: list[tuple[tuple[int, ...], ...]] = []
        self.corpus_of_group: list[int] = []
        self.unused: list[int] = []
        """The shortest utterances of each corpus, too few for a group: no epoch uses them."""
        self.batches = 0
        """Sub-batches of an epoch, including those that fill no group or update."""
        self.corpora: list[CorpusPlan] = []
        n, begin = geometry.concat, 0
        for number, (size, passes) in enumerate(corpora or [(len(lengths), 1.0)]):
            batches = token_budget_batches(lengths[begin : begin + size], max_tokens, seed)
            batches = [tuple(begin + utterance for utterance in batch) for batch in batches]
            whole = len(batches) // n
            take = max(round(passes * whole), 1) if whole else 0
            self.corpora.append(CorpusPlan(number, len(self.groups), whole, take))
            self.groups += [tuple(batches[i * n : (i + 1) * n]) for i in range(whole)]
            self.corpus_of_group += [number] * whole
            self.unused += [utterance for batch in batches[whole * n :] for utterance in batch]
            self.batches += take * n + len(batches) % n
            begin += size
        taken = sum(corpus.take for corpus in self.corpora)
        self.updates_per_epoch = taken // geometry.groups
        if self.updates_per_epoch == 0:
            raise UserError(
                f"{flags}: {self.batches} batches are too few for one update, which takes "
                f"{geometry.product} ({geometry}); lower these or --max_tokens, or add audio"
            )

    @property
    def empty_corpora(self) -> list[int]:
        """Numbers of the corpora that fill no group."""
        return [corpus.number for corpus in self.corpora if not corpus.groups]

    @property
    def dropped_batches(self) -> int:
        """Batches that an epoch drops because they do not fill an update."""
        return self.batches - self.updates_per_epoch * self.geometry.product

    def epoch_order(self, epoch: int) -> list[int]:
        """Group numbers in the order of `epoch`, cut to whole updates."""
        taken = [n for corpus in self.corpora for n in corpus.taken(self.seed, epoch)]
        order = numpy_generator("epoch order", self.seed, epoch).permutation(len(taken))
        return [taken[n] for n in order[: self.updates_per_epoch * self.geometry.groups]]

    def requests(self, epoch: int, rank: int = 0, start_update: int = 0) -> Iterator[GroupRequest]:
        """The groups `rank` takes in `epoch` from its update `start_update` (counted from 0) on.

        Within an update, the ranks' first micro-batches come first in the global order, then
        their second ones.
        """
        order = self.epoch_order(epoch)
        first = start_update * self.geometry.groups + rank
        for index in range(first, len(order), self.geometry.ranks):
            group = order[index]
            yield GroupRequest(epoch, index, self.groups[group], self.corpus_of_group[group])
