"""Configuration: the architecture of a model, and what a recipe chooses about its training.

The architecture is stored in the checkpoint, and contradicting it is an error.  Everything else
always comes from the recipe.  Each field has its unit and source; numbers without a source are
those of the paper.
"""

import math
import re
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _check_finite(config: Any) -> None:
    """ValueError if a number in a dataclass of flags is NaN or infinite."""
    for item in fields(config):
        value = getattr(config, item.name)
        numbers = value if isinstance(value, tuple) else (value,)
        _check(
            all(isinstance(n, str) or math.isfinite(n) for n in numbers),
            f"--{item.name} {_as_flag(value)}: must be finite",
        )


def _as_flag(value: Any) -> str:
    """Format a value as it is written on the command line."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


LARGEST_FACTOR = 1_000
"""Shortening factor of an hourglass: what is shorter is padded to it."""


@dataclass(frozen=True)
class Hourglass:
    """Shortened middle layers (arXiv 2110.13711), written `[pre,(middle,factor),post]`.

    An elastic one, `[2,(8,2:6),2]` or `[2,(8,[2,4,6]),2]`, is trained at several factors.
    """

    pre: int
    """Layers at full frame rate before shortening."""
    middle: int
    """Layers at the shortened rate."""
    factor: int
    """Shortening factor: frames pooled into one; of an elastic hourglass, the smallest."""
    post: int
    """Layers at full frame rate after up-sampling."""
    resampling: Literal["naive", "linear"] = "naive"
    """`naive` pools by the mean and repeats frames; `linear` learns both maps."""
    factors: tuple[int, ...] = ()
    """Of an elastic hourglass, the factors that training draws from, ascending; else empty."""

    def __post_init__(self) -> None:
        _check(
            min(self.pre, self.post) >= 0 and self.middle >= 1 and self.factor >= 1,
            f"--hourglass_config {self}: layer counts must not be negative, and the middle layers "
            "and the factor must be at least 1",
        )
        _check(
            self.resampling in ("naive", "linear"),
            f"--hourglass_resampling {self.resampling}: choose naive or linear",
        )
        if self.factors:
            self._check_factors()

    def _check_factors(self) -> None:
        _check(
            all(type(factor) is int for factor in self.factors)
            and len(self.factors) >= 2
            and list(self.factors) == sorted(set(self.factors))
            and self.factor == self.factors[0]
            and self.factors[-1] <= LARGEST_FACTOR,
            f"--hourglass_config {self}: needs at least two different factors, in ascending order, "
            f"of at most {LARGEST_FACTOR}",
        )
        _check(
            self.resampling == "naive",
            f"--hourglass_resampling {self.resampling}: its learned maps fit one factor, and "
            f"--hourglass_config {self} has several; choose naive",
        )

    def __str__(self) -> str:
        return f"[{self.pre},({self.middle},{self._written_factors()}),{self.post}]"

    def _written_factors(self) -> str:
        """`4`, `2:6` for all from 2 to 6, or `[2,4,6]`."""
        if not self.factors:
            return str(self.factor)
        first, last = self.factors[0], self.factors[-1]
        if 1 < len(self.factors) == last - first + 1:
            return f"{first}:{last}"
        return f"[{','.join(map(str, self.factors))}]"

    @property
    def layers(self) -> int:
        return self.pre + self.middle + self.post

    @classmethod
    def parse(cls, text: str, resampling: str = "naive") -> "Hourglass | None":
        """Parse `[2,(8,4),2]` to Hourglass(2, 8, 4, 2), and an empty text to None (plain).

        In place of the factor 4, `2:6` stands for all from 2 to 6, and `[2,4,6]` for these.
        """
        if not text.strip():
            return None
        factor = r"(\d+)|(\d{1,4}):(\d{1,4})|\[(\d{1,4}(?:,\d{1,4})*)\]"
        match = re.fullmatch(
            rf"\[(\d+),\((\d+),(?:{factor})\),(\d+)\]", text.replace(" ", ""), flags=re.ASCII
        )
        if not match:
            raise ValueError(
                f"--hourglass_config {text!r}: write it like [2,(8,4),2]; for several factors like "
                "[2,(8,2:6),2] or [2,(8,[2,4,6]),2]; or '' for none"
            )
        pre, middle, fixed, first, last, listed, post = match.groups()
        factors: tuple[int, ...] = ()
        if listed is not None:
            factors = tuple(map(int, listed.split(",")))
        elif first is not None:
            _check(
                int(first) < int(last),
                f"--hourglass_config {text!r}: the factors {first}:{last} must run from a smaller "
                "to a larger one; for a single one write its number alone",
            )
            factors = tuple(range(int(first), int(last) + 1))
        smallest = factors[0] if factors else int(fixed)
        return cls(int(pre), int(middle), smallest, int(post), resampling, factors)


@dataclass(frozen=True)
class Architecture:
    """Shapes and norms of a model.  The defaults are Base; presets state the differences."""

    conv_layers: tuple[tuple[int, int, int], ...] = (
        (512, 10, 5),
        *((512, 3, 2),) * 4,
        *((512, 2, 2),) * 2,
    )
    """Feature extractor: (channels, kernel, stride) of each convolution."""
    extractor_norm: Literal["group", "layer"] = "group"
    """`group`: GroupNorm after the first convolution only; `layer`: LayerNorm after each."""
    conv_bias: bool = False
    """Whether the extractor's convolutions have a bias."""
    normalize_input: bool = False
    """Whether each utterance is normalised to zero mean and unit variance."""
    normalize_eps: float = 1e-5
    """Added to that variance: 1e-5 in the paper's code, 1e-7 in models of transformers."""
    dim: int = 768
    """Encoder width D."""
    ffn_dim: int = 3072
    """Inner width of the feed-forward block."""
    heads: int = 12
    """Attention heads."""
    layers: int = 12
    """Transformer layers; of an hourglass, the sum of its three parts."""
    norm_first: bool = False
    """Pre-LN with a final LayerNorm, instead of post-LN."""
    position_kernel: int = 128
    """Kernel of the positional convolution, in frames."""
    position_groups: int = 16
    """Groups of the positional convolution."""
    hourglass: Hourglass | None = None
    """Shortened middle layers, or None for the plain encoder."""
    adapter_dim: int | None = None
    """Inner width of the adapter after each transformer layer, as in MMS; None: no adapters."""
    final_dim: int = 256
    """Width of the contrastive space and of a whole codebook vector."""
    codebook_groups: int = 2
    """Codebooks G."""
    codebook_entries: int = 320
    """Entries V in each codebook."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.type in (int, bool):
                _check(type(value) is item.type, f"{item.name} {value!r:.80}: of another type")
                _check(item.type is bool or value >= 1, f"{item.name} {value}: must be at least 1")
        eps = self.normalize_eps
        _check(type(eps) is float and 0 < eps < 1, f"normalize_eps {eps!r:.80}: not within (0, 1)")
        sizes = [n for layer in self.conv_layers for n in layer]
        _check(
            0 < len(sizes) == 3 * len(self.conv_layers)
            and all(type(n) is int and n >= 1 for n in sizes),
            "conv_layers: must be (channels, kernel, stride) of each convolution, from 1",
        )
        _check(self.dim % self.heads == 0, f"dim {self.dim} is not divisible by {self.heads} heads")
        _check(
            self.dim % self.position_groups == 0,
            f"dim {self.dim} is not divisible by position_groups {self.position_groups}",
        )
        _check(
            self.final_dim % self.codebook_groups == 0,
            f"final_dim {self.final_dim} is not divisible by {self.codebook_groups} codebooks",
        )
        _check(
            self.extractor_norm in ("group", "layer"),
            f"extractor_norm {self.extractor_norm!r}: choose group or layer",
        )
        inner = self.adapter_dim
        _check(
            inner is None or (type(inner) is int and inner >= 1 and self.norm_first),
            f"adapter_dim {inner!r:.80}: must be at least 1, and the layers pre-LN",
        )
        if self.hourglass is not None:
            _check(
                self.hourglass.layers == self.layers,
                f"--hourglass_config {self.hourglass} has {self.hourglass.layers} layers, the "
                f"model has {self.layers}; change it so that pre + middle + post is {self.layers}",
            )

    @property
    def factors(self) -> tuple[int, ...]:
        """The factors of an elastic hourglass; empty without one."""
        return self.hourglass.factors if self.hourglass is not None else ()

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain JSON types, for a checkpoint or a log."""
        values = {**asdict(self), "conv_layers": [list(layer) for layer in self.conv_layers]}
        if self.adapter_dim is None:  # earlier versions do not know it
            del values["adapter_dim"]
        if self.hourglass is not None:
            factors = values["hourglass"].pop("factors")  # nor this
            if factors:
                values["hourglass"]["factors"] = list(factors)
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Architecture":
        """The inverse of `to_dict`; ValueError for a field that this version does not know."""
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        _check(not unknown, f"architecture has fields unknown to this version: {unknown}")
        values = dict(values)
        if "conv_layers" in values:
            values["conv_layers"] = tuple(tuple(layer) for layer in values["conv_layers"])
        if values.get("hourglass") is not None:
            own = dict(values["hourglass"])
            own["factors"] = tuple(own.get("factors", ()))
            values["hourglass"] = Hourglass(**own)
        return cls(**values)


BASE = Architecture()

LARGE = Architecture(
    extractor_norm="layer",
    conv_bias=True,
    normalize_input=True,
    dim=1024,
    ffn_dim=4096,
    heads=16,
    layers=24,
    norm_first=True,
    final_dim=768,
)

# Small enough to learn command words in minutes on two CPU cores.  Chosen by measurement
# (docs/quickstart.md): small models train far faster with pre-LN, and the `group` extractor takes
# half the time of `layer` and learns as fast.
MINI = Architecture(
    conv_layers=((32, 10, 5), (64, 3, 2), (64, 3, 2), (96, 3, 2), (128, 3, 2), *((128, 2, 2),) * 2),
    normalize_input=True,
    dim=144,
    ffn_dim=576,
    heads=4,
    layers=4,
    norm_first=True,
    position_kernel=32,
    final_dim=64,
    codebook_entries=32,
)

# Between MINI and Base, for hours of audio on CPU cores or one GPU: 7.2 million parameters.
SMALL = Architecture(
    conv_layers=(
        *((64, 10, 5), (128, 3, 2), (128, 3, 2), (192, 3, 2), (256, 3, 2)),
        *((256, 2, 2),) * 2,
    ),
    normalize_input=True,
    dim=256,
    ffn_dim=1024,
    heads=4,
    layers=8,
    norm_first=True,
    position_kernel=64,
    final_dim=128,
    codebook_entries=64,
)

PRESETS = {"base": BASE, "large": LARGE, "mini": MINI, "small": SMALL}


@dataclass(frozen=True)
class Regularisation:
    """Dropouts, LayerDrop and the extractor's gradient.  The defaults are Base pre-training."""

    dropout: float = 0.1
    """Probability after attention, feed-forward and the encoder's input."""
    dropout_input: float = 0.1
    """Probability on the projected features that enter the encoder."""
    attention_dropout: float = 0.1
    """Probability on the attention weights."""
    activation_dropout: float = 0.0
    """Probability inside the feed-forward block, after GELU."""
    layerdrop: float = 0.05
    """Probability that an update skips a transformer layer."""
    feature_grad_mult: float = 0.1
    """Factor on the gradient of the feature extractor; 0 freezes it."""

    def __post_init__(self) -> None:
        _check_finite(self)
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name == "feature_grad_mult":
                _check(value >= 0, f"--{item.name} {value}: must be at least 0")
            else:
                _check(0 <= value < 1, f"--{item.name} {value}: must be within [0, 1)")


SpanDistribution = Literal["static", "uniform", "normal", "poisson"]
"""Distributions of the lengths of mask spans."""


@dataclass(frozen=True)
class Masking:
    """Span masks over time."""

    mask_prob: float = 0.65
    """Share of the frames that would be masked if spans never overlapped.  0 masks none; only
    fine-tuning allows it."""
    mask_span: int = 10
    """Frames in one time mask span (mean, for random span lengths)."""
    mask_distribution: SpanDistribution = "static"
    """Distribution of the span lengths."""
    mask_other: float = 0.0
    """Second parameter of that distribution: smallest length, at least 1 (uniform), or standard
    deviation (normal); the others have none."""

    def __post_init__(self) -> None:
        _check_finite(self)
        _check_spans("mask", self.mask_prob, self.mask_span)
        self._check_distribution()

    def _check_distribution(self) -> None:
        other, longest = self.mask_other, 2 * self.mask_span
        _check(
            self.mask_distribution in get_args(SpanDistribution),
            f"--mask_distribution {self.mask_distribution}: choose "
            + ", ".join(get_args(SpanDistribution)),
        )
        # fairseq also accepts 0 for `uniform`: empty spans, which mask less than configured.
        if self.mask_distribution == "uniform":
            _check(
                other == int(other) and 1 <= other <= longest,
                f"--mask_other {other:g}: the shortest span of --mask_distribution uniform; give a "
                f"whole number from 1 to {longest} (twice --mask_span)",
            )
        elif self.mask_distribution == "normal":
            _check(
                other >= 0,
                f"--mask_other {other:g}: the standard deviation of --mask_distribution normal; "
                "give 0 or more",
            )
        else:
            _check(
                other == 0,
                f"--mask_other {other:g}: --mask_distribution {self.mask_distribution} does not "
                "use it; remove it, or choose uniform or normal",
            )


@dataclass(frozen=True)
class ChannelMasking:
    """Span masks over the channels of the encoder's input, for fine-tuning."""

    mask_channel_prob: float = 0.5
    """Share of the channels that would be zeroed if spans never overlapped."""
    mask_channel_span: int = 64
    """Channels in one channel mask span."""

    def __post_init__(self) -> None:
        _check_finite(self)
        _check_spans("mask_channel", self.mask_channel_prob, self.mask_channel_span)


def _check_spans(prefix: str, probability: float, span: int) -> None:
    _check(0 <= probability <= 1, f"--{prefix}_prob {probability}: must be within [0, 1]")
    _check(span >= 1, f"--{prefix}_span {span}: must be at least 1")


@dataclass(frozen=True)
class ContrastiveObjective:
    """Contrastive objective of pre-training."""

    dropout_features: float = 0.1
    """Dropout probability on the features that enter the quantizer."""
    distractors: int = 100
    """Wrong candidates K beside the true one, drawn for each masked frame."""
    logit_temperature: float = 0.1
    """Divides the cosine similarities."""
    keep_equal_distractors: bool = False
    """Whether distractors with the target's codes count in the loss, which keeps more codes in use
    where audio is noisy or has few speakers; in the paper's code they do not."""
    loss_weights: tuple[float, float] = (0.1, 10.0)
    """Weights of the diversity loss and of the features penalty; each is multiplied by the number
    of masked frames."""
    gumbel_temperature: tuple[float, float, float] = (2.0, 0.5, 0.999995)
    """Start, end, and decay per update of the Gumbel-softmax temperature.  Decay 0: the end is
    reached at half of the updates, however many there are."""

    def __post_init__(self) -> None:
        _check_finite(self)
        _check(
            0 <= self.dropout_features < 1,
            f"--dropout_features {self.dropout_features}: must be within [0, 1)",
        )
        _check(self.distractors >= 1, f"--distractors {self.distractors}: must be at least 1")
        _check(
            self.logit_temperature > 0,
            f"--logit_temperature {self.logit_temperature}: must be above 0",
        )
        _check(
            min(self.loss_weights) >= 0,
            f"--loss_weights {_as_flag(self.loss_weights)}: must not be negative; 0 "
            "disables a term",
        )
        start, end, decay = self.gumbel_temperature
        _check(
            start >= end > 0 and 0 <= decay <= 1,
            f"--gumbel_temperature {_as_flag(self.gumbel_temperature)}: needs start >= end > 0, "
            "0 <= decay <= 1",
        )
