"""From frame-wise logits to text: CTC greedy search, and which search the flags ask for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from wav2vec2.cli.errors import UserError
from wav2vec2.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class Hypothesis:
    """What a search heard in one utterance."""

    units: list[str]
    """Symbols of the dictionary."""
    words: str
    """Words separated by spaces: the units' own, or a lexicon's."""
    path: Sequence[int] = field(default=(), compare=False, repr=False)
    """Unit id of each frame, blanks included: the best path of this hypothesis."""
    ends: Sequence[int] | None = field(default=None, compare=False, repr=False)
    """Frame that completes each of the words, where they are a lexicon's."""


Decoder = Callable[[Tensor, Tensor | Sequence[int]], list[Hypothesis]]
"""Logits `[batch, frames, units]` and each row's valid frames -> a hypothesis a row."""


@dataclass(frozen=True)
class DecodingOptions:
    """Decoding"""

    decoder: Literal["greedy", "beam"] = "greedy"
    """Best unit of each frame, or beam search with --lm, --lexicon or both."""
    lm: str = ""
    """n-gram model, ARPA or KenLM's binary: of words with --lexicon, of units without."""
    lexicon: str = ""
    """Words to choose from: a word a line, or word<TAB>its units separated by spaces."""
    lm_weight: float = 2.0
    """Factor of the language model's log10 probability beside the units' natural logarithm."""
    word_score: float = 0.0
    """Added for each word of the lexicon; below 0 favours fewer, longer words."""
    beam: int = 50
    """Hypotheses kept after each frame."""
    beam_size_token: int = 0
    """Best units tried in each frame; 0: all."""
    beam_threshold: float = 25.0
    """Hypotheses further than this below the best are dropped, in nats."""

    def __post_init__(self) -> None:
        if self.decoder == "greedy":
            for flag in ("lm", "lexicon"):
                if getattr(self, flag):
                    raise UserError(f"--{flag}: greedy search uses none; add --decoder beam")
            return
        if not self.lm and not self.lexicon:
            raise UserError(
                "--decoder beam: without a language model and words it finds what greedy search "
                "finds; give --lm, --lexicon or both"
            )
        if self.word_score and not self.lexicon:
            raise UserError(
                f"--word_score {self.word_score}: counts words of a lexicon; give --lexicon"
            )
        for flag, least in (("beam", 1), ("beam_size_token", 0)):
            if getattr(self, flag) < least:
                raise UserError(f"--{flag} {getattr(self, flag)}: must be at least {least}")
        if self.beam_threshold <= 0:
            raise UserError(f"--beam_threshold {self.beam_threshold}: must be above 0")


def ctc_greedy(
    logits: Tensor, frame_lengths: Tensor | Sequence[int], blank: int = 0
) -> list[list[int]]:
    """Best path: arg-max of each frame, repeats merged, blanks removed (Graves et al. 2006).

    `logits` `[batch, frames, units]`; `frame_lengths` `[batch]`, valid frames of each row.
    Returns the ids of each row.
    """
    return [collapse(path, blank) for path in best_paths(logits, frame_lengths)]


def best_paths(logits: Tensor, frame_lengths: Tensor | Sequence[int]) -> list[Tensor]:
    """The best unit of each frame of each row, `[its frames]`, on the CPU."""
    best = logits.argmax(dim=-1).cpu()
    return [row[: int(n)] for row, n in zip(best, frame_lengths)]


def collapse(path: Tensor, blank: int = 0) -> list[int]:
    """What a CTC path `[frames]` spells: repeats merged, blanks removed."""
    return [i for i in torch.unique_consecutive(path).tolist() if i != blank]


@dataclass(frozen=True)
class GreedyDecoder:
    """A Decoder that needs nothing but the dictionary."""

    vocabulary: Vocabulary

    def __call__(self, logits: Tensor, frame_lengths: Tensor | Sequence[int]) -> list[Hypothesis]:
        hypotheses = []
        for path in best_paths(logits, frame_lengths):
            units = self.vocabulary.decode(collapse(path))
            hypotheses.append(Hypothesis(units, self.vocabulary.words(units), path.tolist()))
        return hypotheses
