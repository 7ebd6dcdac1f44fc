"""Faster or leaner variants of model parts, and the one place that chooses them.

The model files are plain torch.  A kernel is a subclass of one of the model's modules that
computes the same in another way.  `install` changes the class of a placed model's modules; weights
and their names stay.
"""

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from wav2vec2.encoder import SelfAttention, TransformerLayer
from wav2vec2.feature_extractor import FeatureExtractor
from wav2vec2.kernels.attention import CpuSelfAttention, GpuSelfAttention
from wav2vec2.kernels.convolution import CpuFeatureExtractor
from wav2vec2.kernels.recomputation import RecomputedExtractor, RecomputedLayer

_log = logging.getLogger(__name__)

GRAPHS = 64
"""Limit of graphs that torch.compile makes of a layer; beyond it the layer runs uncompiled."""


@dataclass(frozen=True)
class _Kernel:
    """A variant of a model part."""

    name: str
    plain: type[nn.Module]
    variant: type[nn.Module]
    probe: Callable[[], object] = lambda: None
    """Raises RuntimeError if this torch or this machine cannot run the variant."""


def _probe_extractor() -> None:
    _run_small(FeatureExtractor(((4, 3, 2), (4, 3, 2)), "group", True), CpuFeatureExtractor, (2, 9))


def _probe_attention() -> None:
    _run_small(SelfAttention(4, heads=2, dropout=0.5), CpuSelfAttention, (2, 3, 4))


def _run_small(module: nn.Module, variant: type[nn.Module], shape: tuple[int, ...]) -> None:
    """Forward and backward pass of a small module, in fp32 and bf16."""
    module.__class__ = variant
    for dtype in (torch.float32, torch.bfloat16):
        module.to(dtype)(torch.ones(shape, dtype=dtype), None).sum().backward()


CPU_KERNELS = (
    _Kernel(
        name="feature extractor by matrix products",
        plain=FeatureExtractor,
        variant=CpuFeatureExtractor,
        probe=_probe_extractor,
    ),
    _Kernel("attention by matrix products", SelfAttention, CpuSelfAttention, _probe_attention),
)

# These need no probe: they use only torch's public functions.
GPU_KERNELS = (
    _Kernel("feature extractor with recomputation", FeatureExtractor, RecomputedExtractor),
    _Kernel("attention without cuDNN", SelfAttention, GpuSelfAttention),
)


def install(model: nn.Module, device: torch.device) -> None:
    """Change the classes of `model`'s modules to the kernels for `device`.

    Call it after `model` has been moved to `device`.  The type of the weights may change later: a
    kernel checks it in each call.
    """
    variants = _available(device.type)
    for module in model.modules():
        module.__class__ = variants.get(type(module), type(module))


@functools.cache
def _available(kind: str) -> dict[type[nn.Module], type[nn.Module]]:
    """The kernels that work here for a kind of device: plain class -> variant."""
    return {
        kernel.plain: kernel.variant
        for kernel in (CPU_KERNELS if kind == "cpu" else GPU_KERNELS)
        if works(f"{kernel.name} ({kind})", kernel.probe)
    }


def works(name: str, probe: Callable[[], object]) -> bool:
    """Whether `probe`, a small run of the kernel called `name`, succeeds; the result is logged.

    torch raises RuntimeError for what it or the machine cannot do.  Other errors are mistakes of
    this package and are not caught.
    """
    try:
        # Whatever mode or device the caller has set, and without changing the CPU's random state.
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.random.fork_rng(devices=[]),
            torch.device("cpu"),
        ):
            probe()
    except RuntimeError as error:
        reason = str(error).splitlines()[0][:120]
        _log.warning("kernel not available: %s; plain torch is used (%s)", name, reason)
        return False
    _log.info("kernel in use: %s", name)
    return True


def recompute_layers(model: nn.Module) -> None:
    """Activation checkpointing: have the backward pass compute each transformer layer again."""
    for module in model.modules():
        if type(module) is TransformerLayer:
            module.__class__ = RecomputedLayer


def compile_layers(model: nn.Module) -> None:
    """Compile each transformer layer, so that torch fuses the operators between matrix products.

    One compiled function serves all layers, batches and lengths.  LayerDrop, resampling and
    recomputation are not compiled.  If a small layer does not compile, for example without a C++
    compiler, a warning is logged and the layers stay uncompiled.
    """
    device = next(model.parameters()).device

    def probe() -> None:
        options = {"dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1}
        layer = TransformerLayer(16, 16, 2, norm_first=False, **options).to(device)
        layer.compile(dynamic=True)
        layer(torch.ones(2, 3, 16, device=device), None).sum().backward()

    # All layers share one limit, and there are several graphs: with a mask and without, in
    # training and in evaluation, frozen or not, for one row or more.
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, GRAPHS)
    compiles = works("transformer layers by torch.compile", probe)
    torch._dynamo.reset()  # forget the probe's graphs
    if compiles:
        for module in model.modules():
            if isinstance(module, TransformerLayer):
                module.compile(dynamic=True)
