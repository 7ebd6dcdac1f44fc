"""CTC greedy search, and the result that every search returns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wav2vec2.ctc import BLANK
from wav2vec2.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class Hypothesis:
    """The transcript that a search found for one utterance."""

    units: list[str]
    """Symbols of the dictionary."""
    words: str
    """Words separated by spaces: spelt by the units, or a lexicon's."""
    path: Sequence[int] = field(default=(), compare=False, repr=False)
    """Unit id of each frame, blanks included: the best path of this hypothesis."""
    ends: Sequence[int] | None = field(default=None, compare=False, repr=False)
    """Frame that completes each word, if the words are a lexicon's."""


Decoder = Callable[[Tensor], Hypothesis]
"""Logits of one utterance, `[frames, units]` -> its hypothesis; of no frame, an empty one."""


def collapse(path: Tensor) -> list[int]:
    """The units of a CTC path `[frames]`: repeats merged, blanks removed (Graves et al. 2006)."""
    return [unit for unit in torch.unique_consecutive(path).tolist() if unit != BLANK]


@dataclass(frozen=True)
class GreedyDecoder:
    """Greedy search: the best unit of each frame.  A Decoder that needs only the dictionary."""

    vocabulary: Vocabulary

    def __call__(self, logits: Tensor) -> Hypothesis:
        path = logits.argmax(dim=-1).cpu()
        units = self.vocabulary.decode(collapse(path))
        return Hypothesis(units, self.vocabulary.words(units), path.tolist())
