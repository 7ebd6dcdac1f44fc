"""The arithmetic of a pre-training update: what its matrix products and convolutions must compute.

A multiplication and an addition are two operations.  Counted is the mathematics of the model: what
a kernel computes twice to save memory, norms, activations, softmax and the optimizer are not.
"""

from collections.abc import Sequence

from wav2vec2.config import Architecture
from wav2vec2.feature_extractor import frame_count

FORTH_AND_BACK = 3
"""A product's backward pass is two products of its size: one for each factor's gradient."""


def extractor_flops(architecture: Architecture, rows: int, samples: int, learns: bool) -> int:
    """The convolutions forwards and, if the extractor `learns`, backwards; there is no
    gradient of the waveforms."""
    total, channels, steps = 0, 1, samples
    for index, (width, kernel, stride) in enumerate(architecture.conv_layers):
        steps = (steps - kernel) // stride + 1
        passes = 1 if not learns else FORTH_AND_BACK if index else FORTH_AND_BACK - 1
        total += passes * 2 * rows * steps * kernel * channels * width
        channels = width
    return total


def layer_flops(architecture: Architecture, rows: int, frames: int) -> int:
    """Forwards and backwards of one transformer layer on `rows` sequences of `frames`."""
    dim, inner = architecture.dim, architecture.ffn_dim
    weights = 2 * rows * frames * dim * (4 * dim + 2 * inner)
    scores_and_mixture = 2 * 2 * rows * frames**2 * dim
    return FORTH_AND_BACK * (weights + scores_and_mixture)


def encoder_flops(
    architecture: Architecture, rows: int, frames: int, kept_layers: Sequence[bool] | None = None
) -> int:
    """Forwards and backwards of positional convolution, layers and resampling.

    `kept_layers`: see TransformerStack.
    """
    dim, kernel, hourglass = architecture.dim, architecture.position_kernel, architecture.hourglass
    kept = [True] * architecture.layers if kept_layers is None else kept_layers
    steps = frames + 1 - kernel % 2  # an even kernel gives one frame too many
    total = FORTH_AND_BACK * 2 * rows * steps * kernel * dim * (dim // architecture.position_groups)
    if hourglass is None:
        return total + sum(kept) * layer_flops(architecture, rows, frames)
    short = -(-frames // hourglass.factor)
    if hourglass.resampling == "linear":
        total += 2 * FORTH_AND_BACK * 2 * rows * short * hourglass.factor * dim**2
    start, end = hourglass.pre, hourglass.pre + hourglass.middle
    total += sum(kept[start:end]) * layer_flops(architecture, rows, short)
    return total + (sum(kept[:start]) + sum(kept[end:])) * layer_flops(architecture, rows, frames)


def objective_flops(architecture: Architecture, rows: int, masked: int) -> int:
    """Forwards and backwards of quantizer, projections and similarities of one sub-batch of `rows`
    with `masked` frames each."""
    codes = architecture.codebook_groups * architecture.codebook_entries
    final, channels = architecture.final_dim, architecture.conv_layers[-1][0]
    a_frame = channels * codes + architecture.codebook_entries * final  # logits, choice
    a_frame += final * final + architecture.dim * final  # projections
    a_frame += masked * final  # similarities
    return FORTH_AND_BACK * 2 * rows * masked * a_frame


def pretraining_flops(
    architecture: Architecture,
    samples: int,
    sub_batches: Sequence[tuple[int, int]],
    *,
    kept_layers: Sequence[bool] | None = None,
    extractor_learns: bool = True,
) -> int:
    """Forwards and backwards of a batch whose rows have `samples` each.

    `sub_batches`: (rows, masked frames of a row) of each; `extractor_learns`: the factor on its
    gradient is above 0.
    """
    rows = sum(count for count, _ in sub_batches)
    frames = frame_count(samples, architecture.conv_layers)
    channels = architecture.conv_layers[-1][0]
    total = extractor_flops(architecture, rows, samples, extractor_learns)
    if channels != architecture.dim:
        total += FORTH_AND_BACK * 2 * rows * frames * channels * architecture.dim
    total += encoder_flops(architecture, rows, frames, kept_layers)
    return total + sum(objective_flops(architecture, *part) for part in sub_batches)
