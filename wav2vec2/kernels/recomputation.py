"""Less memory for training: parts that the backward pass computes again instead of keeping."""

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from wav2vec2.encoder import TransformerLayer
from wav2vec2.feature_extractor import FeatureExtractor
from wav2vec2.kernels.first_convolution import fold_first
from wav2vec2.numerics import GroupNorm, at_least_fp32, exact_matmul

ELEMENTS = 2**26
"""Elements of the first convolution's output computed at a time; at least those of one row."""


def _recomputed(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Call `function`; the backward pass calls it again, so only `inputs` are kept."""
    if not torch.is_grad_enabled():
        return function(*inputs)
    # The second call stops before its last operator, whose output nobody needs.
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


class RecomputedExtractor(FeatureExtractor):
    """Keeps the outputs of all convolutions except the first; computes the rest again.

    Norms and GELUs cost little time but keep as much memory as the rest of the model.  The first
    convolution is cheap, because it has one input channel, and its output is the largest.  It runs
    for a few rows at a time: its backward pass would otherwise set the peak of the whole update.
    """

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
        if len(self.conv_layers) == 1:
            return super().forward(waveforms, lengths)
        x = self._first_two(*self.windows(waveforms, lengths))
        for before, block in itertools.pairwise(self.conv_layers[1:]):
            x = _recomputed(lambda y, a=before, b=block: b.conv(a.activate(y)), x)
        return self.conv_layers[-1].activate(x).transpose(1, 2)

    def windows(self, waveforms: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Windows `[batch, steps, kernel + 1]` and kernels `[batch, out, kernel + 1]`, in fp32.

        Their product is the first convolution.  The bias is one more tap, over ones, so
        adding it does not need another pass over the output.
        """
        conv = self.conv_layers[0].conv
        windows = at_least_fp32(waveforms).unfold(1, conv.kernel_size[0], conv.stride[0])
        valid = self.first_valid(waveforms, lengths)
        windows, kernels, biases = fold_first(self.conv_layers[0], windows, valid)
        return F.pad(windows, (0, 1), value=1.0), torch.cat([kernels, biases[..., None]], dim=2)

    def first_output(self, windows: Tensor, kernels: Tensor) -> Tensor:
        """Output of the first convolution `[batch, out, steps]`, group norm included."""
        return exact_matmul(kernels, windows.mT).to(self.conv_layers[0].conv.weight.dtype)

    def _first_two(self, windows: Tensor, kernels: Tensor) -> Tensor:
        """Output of the second convolution, `[batch, out, steps]`."""
        norm, conv = self.conv_layers[0].norm, self.conv_layers[1].conv
        rows = max(1, ELEMENTS // (windows.shape[1] * kernels.shape[1]))
        parts = list(zip(windows.split(rows), kernels.split(rows)))
        # Each part gets its own view of a parameter.  Autograd then adds up all parts' gradients
        # at once and rounds once; for a shared parameter it would round after each part.
        norm_views, conv_views = _views(norm, len(parts)), _views(conv, len(parts))

        def run(windows: Tensor, kernels: Tensor, part: int) -> Tensor:
            x = self.first_output(windows, kernels)
            if not isinstance(norm, GroupNorm):
                x = functional_call(norm, norm_views[part], x.transpose(1, 2)).transpose(1, 2)
            return functional_call(conv, conv_views[part], F.gelu(x))

        return torch.cat([_recomputed(run, *inputs, part) for part, inputs in enumerate(parts)])


def _views(module: nn.Module, count: int) -> list[dict[str, Tensor]]:
    """`count` views of each parameter of `module`, by name."""
    views = {name: p.expand(count, *p.shape).unbind() for name, p in module.named_parameters()}
    return [{name: view[number] for name, view in views.items()} for number in range(count)]


class RecomputedLayer(TransformerLayer):
    """Keeps only its input; the backward pass runs the layer again, with the same dropout masks.

    It overrides `__call__`, not `forward`, so that torch.compile does not trace the recomputation.
    """

    def __call__(self, x: Tensor, valid: Tensor | None) -> Tensor:
        if not torch.is_grad_enabled():
            return super().__call__(x, valid)
        return checkpoint(super().__call__, x, valid, use_reentrant=False)
