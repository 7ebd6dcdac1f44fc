"""Hours of transcribed audio -> a fine-tuning's updates, learning rate, freezing and masks.

The points are the recipes under scripts/; what lies between them is interpolated in the logarithm
of the hours.  Tests hold the points against the scripts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

SAMPLE_RATE = 16_000

LARGE_DIM = 1024
"""Encoder width from which the values of Large are taken: XLS-R, MMS and Large have it or more."""

FEW_WEIGHTS = 10
"""Learning rate of LoRA and adapters, in multiples of that of all weights.  Not measured: a usual
first try, since few weights that start at nothing have far to go (Hu et al. 2021)."""


@dataclass(frozen=True)
class Values:
    """What a recipe chooses for so many hours of transcribed audio."""

    hours: float
    max_update: int
    learning_rate: float
    """At its peak."""
    freeze: int
    """First updates in which only the output layer learns."""
    mask_prob: float
    mask_channel_prob: float
    layerdrop: float
    audio: int
    """Samples per update, padding included: sub-batches x MAX_TOKENS."""
    max_tokens: int
    """Samples in a sub-batch of the recipe."""


BASE_RECIPES = (
    Values(1, 13_000, 5e-5, 10_000, 0.65, 0.25, 0.1, 8 * 3_200_000, 3_200_000),
    Values(10, 20_000, 5e-5, 10_000, 0.65, 0.5, 0.05, 8 * 3_200_000, 3_200_000),
    Values(100, 80_000, 3e-5, 0, 0.65, 0.5, 0.1, 8 * 3_200_000, 3_200_000),
    Values(960, 320_000, 1e-4, 0, 0.5, 0.1, 0.1, 8 * 3_200_000, 3_200_000),
)
"""scripts/finetune_base_1h.sh, _10h, _100h and _960h."""

LARGE_RECIPES = (
    Values(1, 13_000, 3e-5, 10_000, 0.5, 0.25, 0.1, 16 * 1_280_000, 1_280_000),
    Values(10, 20_000, 3e-5, 10_000, 0.5, 0.5, 0.1, 16 * 1_280_000, 1_280_000),
    Values(100, 80_000, 3e-5, 10_000, 0.5, 0.5, 0.1, 16 * 1_280_000, 1_280_000),
    Values(960, 320_000, 3e-5, 10_000, 0.5, 0.25, 0.1, 24 * 1_280_000, 1_280_000),
)
"""scripts/finetune_vox_100h.sh and _960h.  Large has no recipe for 1 h and 10 h: these take updates
and channel masks of Base, and the rest of finetune_vox_100h."""


def recipes_for(dim: int) -> Sequence[Values]:
    """The recipes for a model of encoder width `dim`."""
    return LARGE_RECIPES if dim >= LARGE_DIM else BASE_RECIPES


def neighbours(recipes: Sequence[Values], hours: float) -> tuple[Values, Values]:
    """The recipes just below and above `hours`; the same one twice at a recipe and beyond the
    ends."""
    below = [r for r in recipes if r.hours <= hours]
    above = [r for r in recipes if r.hours >= hours]
    return (below or above)[-1 if below else 0], (above or below)[0 if above else -1]


def values_for(recipes: Sequence[Values], hours: float) -> Values:
    """Values for `hours`, interpolated between `recipes`; beyond them, those of the last one.

    Updates, learning rate and audio per update are interpolated in their logarithm, the others as
    they are; learning rates are rounded to two digits, updates to hundreds.
    """
    low, high = neighbours(recipes, hours)
    if low == high:
        return low
    share = math.log(hours / low.hours) / math.log(high.hours / low.hours)

    def linear(a: float, b: float) -> float:
        return a + share * (b - a)

    def geometric(a: float, b: float) -> float:
        return a * (b / a) ** share

    return Values(
        hours,
        max_update=round(geometric(low.max_update, high.max_update), -2),
        learning_rate=float(f"{geometric(low.learning_rate, high.learning_rate):.1e}"),
        freeze=round(linear(low.freeze, high.freeze), -2),
        mask_prob=round(linear(low.mask_prob, high.mask_prob), 2),
        mask_channel_prob=round(linear(low.mask_channel_prob, high.mask_channel_prob), 2),
        layerdrop=round(linear(low.layerdrop, high.layerdrop), 2),
        audio=round(geometric(low.audio, high.audio)),
        max_tokens=low.max_tokens,
    )
