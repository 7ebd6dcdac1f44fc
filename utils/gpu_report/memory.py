"""Memory of a pre-training update, predicted, and the batch that a GPU's memory takes.

The figures were counted on torch's meta device; tests/unit/test_other_devices.py counts them again.
"""

from dataclasses import dataclass, replace

LONGEST = 250_000
"""Samples of the recipes' longest utterance, 15.6 s."""

FIXED = 1_277.0
"""MiB of Base in bf16 without activations: weights, master weights, gradients, moments."""

PER_UTTERANCE = {1: 306.4, 2: 228.5, 3: 202.6, 4: 189.6, 5: 181.8, 6: 176.6}
"""Pooling factor -> MiB of activations per utterance of LONGEST samples, Base in bf16."""

CONTEXT = 600.0
"""MiB that a process takes on a GPU before it allocates anything; an estimate."""

USABLE = 0.92
"""Share of a GPU's memory to plan for: the allocator rounds up, and kernels need work space."""

CARDS = (16, 24, 40, 80, 141)
"""GB of common GPUs."""


@dataclass(frozen=True)
class Batch:
    """The audio of a forward pass: `concat` sub-batches of `max_tokens` samples at most."""

    concat: int
    max_tokens: int

    @property
    def utterances(self) -> float:
        """Its audio as a number of utterances of LONGEST samples."""
        return self.concat * self.max_tokens / LONGEST

    def halved(self) -> "Batch | None":
        """Half as much audio; None: a sub-batch would be too small for one utterance."""
        if self.concat > 1:
            return replace(self, concat=self.concat // 2)
        half = replace(self, max_tokens=self.max_tokens // 2)
        return half if half.max_tokens >= LONGEST else None


RECIPE = Batch(8, 1_400_000)
"""What a process of scripts/pretrain_base.sh computes at once."""


def predicted(batch: Batch, factor: int = 1, models: int = 1, scale: float = 1.0) -> float:
    """MiB that `models` processes take together, of which one computes at a time.

    `scale`: activations relative to Base in bf16: 2 in fp32.
    """
    return models * (CONTEXT + FIXED) + scale * PER_UTTERANCE[factor] * batch.utterances


def choose_batch(memory_mib: float, models: int = 1, scale: float = 1.0) -> Batch:
    """The recipe's batch, halved until the plain encoder fits into a GPU's memory."""
    batch = RECIPE
    while predicted(batch, models=models, scale=scale) > USABLE * memory_mib:
        half = batch.halved()
        if half is None:
            break
        batch = half
    return batch


def memory_table() -> list[str]:
    """Predicted MiB by pooling factor, one process, and the batch for each size of GPU."""
    lines = ["GPU     batch              MiB by pooling factor 1 to 6, counted"]
    for size in CARDS:
        batch = choose_batch(size * 1e9 / 2**20)
        peaks = " ".join(f"{predicted(batch, factor):7,.0f}" for factor in PER_UTTERANCE)
        lines.append(f"{size:3} GB  {batch.concat} x {batch.max_tokens:,} samples {peaks}")
    return lines
