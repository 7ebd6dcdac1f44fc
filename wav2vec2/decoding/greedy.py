"""From frame-wise logits to text: CTC greedy search, and the options of every search."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from wav2vec2.cli.errors import UserError
from wav2vec2.cli.flags import require_at_least
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


@dataclass(frozen=True)
class DecodingOptions:
    """Decoding"""

    decoder: Literal["greedy", "beam"] = "greedy"
    """greedy: the best unit of each frame; beam: beam search with --lm, --lexicon or both."""
    lm: str = ""
    """n-gram model, ARPA or KenLM's binary: of words with --lexicon, of units without."""
    lexicon: str = ""
    """Words to choose from: one word per line, or word<TAB>its units separated by spaces."""
    lm_weight: float = 2.0
    """Weight of the language model's log10 probability, added to the units' natural logarithm."""
    word_score: float = 0.0
    """Added for each word of the lexicon; below 0 favours fewer, longer words."""
    beam: int = 50
    """Hypotheses kept after each frame."""
    beam_size_token: int = 0
    """Best units tried in each frame; 0: all."""
    beam_threshold: float = 25.0
    """Hypotheses more than this below the best one are dropped, in nats."""

    def __post_init__(self) -> None:
        if self.decoder == "greedy":
            for flag in ("lm", "lexicon"):
                if getattr(self, flag):
                    raise UserError(f"--{flag}: greedy search does not use it; add --decoder beam")
            return
        if not self.lm and not self.lexicon:
            raise UserError(
                "--decoder beam: without a language model or a lexicon, it finds what greedy "
                "search finds; give --lm, --lexicon or both"
            )
        if self.word_score and not self.lexicon:
            raise UserError(
                f"--word_score {self.word_score}: counts words of a lexicon; give --lexicon"
            )
        require_at_least(self, beam=1, beam_size_token=0)
        if self.beam_threshold <= 0:
            raise UserError(f"--beam_threshold {self.beam_threshold}: must be above 0")


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
