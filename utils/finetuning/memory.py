"""Memory of a fine-tuning update, predicted from the model's sizes, and the sub-batch that fits.

The figures were counted on torch's meta device; tests/unit/test_other_devices.py counts them again.
The feature extractor is not trained, as in all fine-tuning recipes, and keeps no activations.
"""

from dataclasses import dataclass

from utils.gpu_report.memory import CONTEXT, USABLE
from wav2vec2.config import Architecture

HOP = 320
"""Samples per frame."""

HELD = {True: 18, False: 16}
"""bf16 or not -> bytes per parameter beside the activations: weights, master weights, gradients,
moments."""

UPDATING = 21
"""Bytes per parameter in the optimizer's step, where no activations are left."""

STEP = 10_000
"""Samples in a sub-batch are a multiple of this."""


@dataclass(frozen=True)
class Model:
    """The sizes that memory depends on."""

    architecture: Architecture
    parameters: int

    def __str__(self) -> str:
        shape = self.architecture
        return (
            f"{self.parameters / 1e6:,.0f} million parameters, {shape.layers} layers of width "
            f"{shape.dim}"
        )


@dataclass(frozen=True)
class Device:
    """Where a run will train."""

    name: str
    memory_mib: float
    """Memory to plan for."""
    bf16: bool
    """Whether to train in bf16."""
    why_bf16: str

    def __str__(self) -> str:
        return f"{self.name}: {self.memory_mib / 1024:.1f} GiB"


def bytes_per_sample(architecture: Architecture, half: bool, recompute: bool) -> float:
    """Activations of a forward pass, per sample of audio, in bytes; `half`: in bf16; `recompute`:
    with activation checkpointing."""
    size, dim, ffn = 2 if half else 4, architecture.dim, architecture.ffn_dim
    hourglass = architecture.hourglass
    layers: float = architecture.layers
    if hourglass:
        layers = hourglass.pre + hourglass.middle / hourglass.factor + hourglass.post
    if recompute:  # each layer's input, and all of one layer with its gradients
        return size * dim * (layers + 46) / HOP
    layer = size * (8 * dim + 2 * ffn) + ffn  # the last one: dropout's mask
    return (layers * layer + dim * (11 + 6 * size)) / HOP


def predicted(model: Model, samples: int, half: bool, recompute: bool) -> float:
    """MiB that a process takes at most, with so many samples at once."""
    activations = samples * bytes_per_sample(model.architecture, half, recompute)
    held = max(HELD[half] * model.parameters + activations, UPDATING * model.parameters)
    return CONTEXT + held / 2**20


def largest_sub_batch(model: Model, memory_mib: float, half: bool, recompute: bool) -> int:
    """Samples that a process can compute at once; 0: the model alone is too large."""
    if predicted(model, 0, half, recompute) > USABLE * memory_mib:
        return 0
    left = (USABLE * memory_mib - CONTEXT) * 2**20 - HELD[half] * model.parameters
    fitting = int(left / bytes_per_sample(model.architecture, half, recompute))
    return fitting // STEP * STEP if fitting >= STEP else fitting
