"""Floating-point operations of a pre-training update: its matrix products and convolutions.

A multiplication and an addition are two operations.  Norms, activations, softmax, the optimizer
and what a kernel computes twice to save memory are not counted.
"""

from collections.abc import Sequence

from wav2vec2.config import Architecture
from wav2vec2.feature_extractor import frame_count

FORWARD_AND_BACKWARD = 3
"""A product's backward pass is two products of its size: one per factor's gradient."""


def extractor_flops(architecture: Architecture, rows: int, samples: int, learns: bool) -> int:
    """Operations of the convolutions, with the backward pass if the extractor `learns`.

    The waveforms get no gradient.
    """
    total, channels, steps = 0, 1, samples
    for index, (width, kernel, stride) in enumerate(architecture.conv_layers):
        steps = (steps - kernel) // stride + 1
        passes = 1 if not learns else FORWARD_AND_BACKWARD if index else FORWARD_AND_BACKWARD - 1
        total += passes * 2 * rows * steps * kernel * channels * width
        channels = width
    return total


def layer_flops(architecture: Architecture, rows: int, frames: int) -> int:
    """Operations of one transformer layer, forward and backward: `rows` x `frames`."""
    dim, inner = architecture.dim, architecture.ffn_dim
    weights = 2 * rows * frames * dim * (4 * dim + 2 * inner)
    scores_and_mixture = 2 * 2 * rows * frames**2 * dim
    return FORWARD_AND_BACKWARD * (weights + scores_and_mixture)


def encoder_flops(
    architecture: Architecture, rows: int, frames: int, kept_layers: Sequence[bool] | None = None
) -> int:
    """Operations of positional convolution, layers and resampling, forward and backward.

    `kept_layers`: see TransformerStack.
    """
    dim, kernel, hourglass = architecture.dim, architecture.position_kernel, architecture.hourglass
    kept = [True] * architecture.layers if kept_layers is None else kept_layers
    steps = frames + 1 - kernel % 2  # an even kernel gives one frame too many
    products = 2 * rows * steps * kernel * dim * (dim // architecture.position_groups)
    total = FORWARD_AND_BACKWARD * products
    if hourglass is None:
        return total + sum(kept) * layer_flops(architecture, rows, frames)
    short = -(-frames // hourglass.factor)
    if hourglass.resampling == "linear":
        total += 2 * FORWARD_AND_BACKWARD * 2 * rows * short * hourglass.factor * dim**2
    start, end = hourglass.pre, hourglass.pre + hourglass.middle
    total += sum(kept[start:end]) * layer_flops(architecture, rows, short)
    return total + (sum(kept[:start]) + sum(kept[end:])) * layer_flops(architecture, rows, frames)


def objective_flops(architecture: Architecture, rows: int, masked: int) -> int:
    """Operations of quantizer, projections and similarities, forward and backward, of a sub-batch.

    It has `rows` with `masked` frames each.
    """
    codes = architecture.codebook_groups * architecture.codebook_entries
    final, channels = architecture.final_dim, architecture.conv_layers[-1][0]
    per_frame = channels * codes + architecture.codebook_entries * final  # logits, choice
    per_frame += final * final + architecture.dim * final  # projections
    per_frame += masked * final  # similarities
    return FORWARD_AND_BACKWARD * 2 * rows * masked * per_frame


def pretraining_flops(
    architecture: Architecture,
    samples: int,
    sub_batches: Sequence[tuple[int, int]],
    *,
    kept_layers: Sequence[bool] | None = None,
    extractor_learns: bool = True,
) -> int:
    """Operations of a batch, forward and backward, whose rows have `samples` each.

    `sub_batches`: (rows, masked frames per row) of each.  `extractor_learns`: whether the factor
    on its gradient is above 0.
    """
    rows = sum(count for count, _ in sub_batches)
    frames = frame_count(samples, architecture.conv_layers)
    channels = architecture.conv_layers[-1][0]
    total = extractor_flops(architecture, rows, samples, extractor_learns)
    if channels != architecture.dim:
        total += FORWARD_AND_BACKWARD * 2 * rows * frames * channels * architecture.dim
    total += encoder_flops(architecture, rows, frames, kept_layers)
    return total + sum(objective_flops(architecture, *part) for part in sub_batches)
