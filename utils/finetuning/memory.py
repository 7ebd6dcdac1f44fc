"""Memory of a fine-tuning update, predicted from the model's sizes, and the sub-batch that fits.

The figures were counted on torch's meta device; tests/unit/test_other_devices.py counts them again.
The feature extractor is not trained, as in all fine-tuning recipes, and keeps no activations.
"""

from dataclasses import dataclass, replace

import torch

from tasks.adaptation import AdaptOptions, freeze_start
from utils.gpu_report.memory import CONTEXT, USABLE
from wav2vec2.config import LARGE, Architecture, Regularisation
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.numerics import kept_fp32

HOP = 320
"""Samples per frame."""

MOMENTS, MOMENTS_8BIT = 8.0, 2 + 8 / 256
"""Bytes per parameter of the moments; in 8 bits each 256 have two fp32 scales."""

LEAST_8BIT = 4096
"""Elements of the smallest tensor whose moments adam8bit keeps in 8 bits."""

STEP = 10_000
"""Samples in a sub-batch are a multiple of this."""

UNITS = 32
"""Rows of the output layer that are assumed; they hardly count."""

MODELS: dict[str, Architecture] = {
    "XLS-R 300M": LARGE,
    "XLS-R 1B": replace(LARGE, dim=1280, ffn_dim=5120, layers=48, heads=16),
    "XLS-R 2B": replace(LARGE, dim=1920, ffn_dim=7680, layers=48, heads=16),
}
"""Published models to fine-tune (arXiv 2111.09296); MMS 300M and 1B have the same sizes."""


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
class Method:
    """How a model is trained, as far as memory depends on it."""

    half: bool = True
    """In bf16."""
    recompute: bool = False
    """With activation checkpointing."""
    adapt: AdaptOptions = AdaptOptions()
    optimizer: str = "adam"
    shares: int = 1
    """Processes that --shard divides the model over; 1: it is not divided."""

    def __str__(self) -> str:
        """What differs from training all weights with Adam in each process, as the recipe's
        variables; '' if nothing does."""
        variables = {
            "ADAPT=": self.adapt.adapt if self.adapt.adapt != "none" else "",
            "OPTIMIZER=": self.optimizer if self.optimizer != "adam" else "",
            "SHARD=": "true" if self.shares > 1 else "",
        }
        return " ".join(name + value for name, value in variables.items() if value)


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


def learning(model: Model, adapt: AdaptOptions) -> int:
    """Parameters that learn: all, or those of LoRA or adapter layers and of the output layer."""
    shape = model.architecture
    dim, ffn = shape.dim, shape.ffn_dim
    if adapt.adapt == "none":
        return model.parameters
    if adapt.adapt == "lora":
        wide = {"fc1", "fc2"}
        ends = sum(dim + (ffn if name in wide else dim) for name in set(adapt.lora_targets))
        layer = adapt.lora_rank * ends
    else:
        layer = dim * (2 * adapt.adapter_dim + 3) + adapt.adapter_dim
    return shape.layers * layer + (dim + 1) * UNITS


def bytes_per_sample(architecture: Architecture, method: Method) -> float:
    """Activations of a forward pass that the backward pass needs, per sample of audio, in bytes."""
    dim, ffn, adapt = architecture.dim, architecture.ffn_dim, method.adapt
    size = 2 if method.half else 4
    hourglass = architecture.hourglass
    layers: float = architecture.layers
    if hourglass:
        layers = hourglass.pre + hourglass.middle / hourglass.factor + hourglass.post
    if method.recompute:  # each layer's input, and all of one layer with its gradients
        return size * dim * (layers + 46) / HOP
    numbers = 8 * dim + 2 * ffn
    if adapt.adapt != "none":
        # A linear layer that does not learn needs no input; norms, attention and GELU do.
        numbers = 6 * dim + ffn
        targets = set(adapt.lora_targets) if adapt.adapt == "lora" else set()
        numbers += dim * (bool(targets & {"q_proj", "k_proj", "v_proj"}) + ("fc1" in targets))
        numbers += ffn * ("fc2" in targets) + len(targets) * adapt.lora_rank
    if adapt.adapt == "adapters" or architecture.adapter_dim:
        numbers += 2 * dim + (architecture.adapter_dim or adapt.adapter_dim)
    layer = size * numbers + ffn  # the last one: dropout's mask
    return (layers * layer + dim * (11 + 6 * size)) / HOP


def held(model: Model, method: Method) -> tuple[float, float]:
    """Bytes beside the activations: in the passes, and at most while there are no activations.

    Learning weights have fp32 values and gradients, moments and, in half precision, 16-bit values
    and gradients, too.  The others have one copy.
    """
    size, total = 2 if method.half else 4, model.parameters
    learns = learning(model, method.adapt)
    frozen = 0
    if method.adapt.adapt != "none":
        added = learns if method.adapt.adapt == "lora" or not model.architecture.adapter_dim else 0
        frozen = total + added - learns
    moments = MOMENTS_8BIT if method.optimizer == "adam8bit" else MOMENTS
    if method.shares > 1:
        # Shares are fp32.  Two layers are gathered at a time, for validation and at first all.
        share = (4 * frozen + (8 + moments) * learns) / method.shares
        gathered = total - (model.architecture.layers - 2) * total / (model.architecture.layers + 1)
        return share + size * gathered, max(share + size * total, 4.0 * total)
    copies = 8 + moments + (2 if method.half else 0)
    passes = size * frozen + copies * learns
    return passes, size * frozen + (13 + moments) * learns


def predicted(model: Model, samples: int, method: Method) -> float:
    """MiB that a process takes at most, with so many samples at once."""
    passes, step = held(model, method)
    activations = samples * bytes_per_sample(model.architecture, method)
    return CONTEXT + max(passes + activations, step) / 2**20


def largest_sub_batch(model: Model, memory_mib: float, method: Method) -> int:
    """Samples that a process can compute at once; 0: the model alone is too large."""
    if predicted(model, 0, method) > USABLE * memory_mib:
        return 0
    left = (USABLE * memory_mib - CONTEXT) * 2**20 - held(model, method)[0]
    fitting = int(left / bytes_per_sample(model.architecture, method))
    return fitting // STEP * STEP if fitting >= STEP else fitting


@dataclass(frozen=True)
class Bytes:
    """What a process holds beside activations, counted tensor by tensor."""

    parameters: int
    """Those that learn have fp32 values and, in half precision, 16-bit ones, too."""
    gradients: int
    """In fp32."""
    optimizer: int
    """Adam's moments and step counts."""
    learning: int
    """Number of parameters that learn."""
    total: int
    """Number of all parameters."""


def count_bytes(architecture: Architecture, method: Method, units: int = UNITS) -> Bytes:
    """Count a fine-tuning's tensors on a model without memory; UserError if peft is missing."""
    architecture = method.adapt.architecture(architecture, {}, "")
    with torch.device("meta"):
        model = Wav2Vec2ForCTC.from_config(architecture, Regularisation(), units)
        trained = freeze_start(model, method.adapt)
    model.wav2vec2.feature_extractor.requires_grad_(False)
    kept = kept_fp32(model)
    parameters = gradients = optimizer = learns = total = 0
    for name, parameter in model.named_parameters():
        number = parameter.numel()
        total += number
        optimised = trained is None or name in trained
        halved = method.half and id(parameter) not in kept
        parameters += (2 if halved else 4) * number + (4 * number if halved and optimised else 0)
        if not (optimised and parameter.requires_grad):
            continue
        learns += number
        gradients += 4 * number
        in_8_bits = method.optimizer == "adam8bit"
        optimizer += 0 if in_8_bits else 4  # the count of steps
        few = in_8_bits and number >= LEAST_8BIT
        optimizer += round((MOMENTS_8BIT if few else MOMENTS) * number)
    return Bytes(parameters, gradients, optimizer, learns, total)
