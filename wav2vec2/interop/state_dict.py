"""The one check of names and shapes: the weights of a file against those of a model."""

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from wav2vec2.cli.errors import UserError
from wav2vec2.config import LARGEST_FACTOR, Architecture, ContrastiveObjective, Regularisation
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.files.text import shown
from wav2vec2.pretraining import Wav2Vec2ForPretraining

Kind = Literal["pretraining", "ctc"]
"""What a checkpoint holds: a pre-training model, or a recogniser."""

_MOST_LISTED = 20
"""Weights that an error lists."""

_MOST_LAYERS = 200
"""Transformer layers and convolutions; published models have up to 55."""

_LONGEST_FRAME = 160_000
"""Samples from one frame to the next."""

_LITTLE = 1_000_000
"""Numbers that a wrong setting may claim in addition, for the error to name the weights."""

TRUNK = "wav2vec2."
"""Prefix of the weights that pre-training models and recognisers share."""

OLDER_WEIGHT_NORM = [
    (r"parametrizations\.weight\.original0$", "weight_g"),
    (r"parametrizations\.weight\.original1$", "weight_v"),
]
"""torch's newer names for gain and direction of a weight-normalised convolution -> the older ones,
which fairseq's files have and every version of transformers reads."""


class _NoValues(TorchFunctionMode):
    """Leaves out initial values: on the device "meta" torch would import its compiler to follow how
    they are drawn, which takes longer than the rest of a load."""

    def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore
        kwargs = kwargs or {}
        initial = getattr(function, "__module__", None) == "torch.nn.init"
        if initial or function in (Tensor.normal_, Tensor.uniform_):
            return args[0] if args else kwargs["tensor"]
        if function is torch.norm_except_dim:  # of a weight-normalised convolution
            weight, _, dim = args
            return weight.new_empty([n if i == dim else 1 for i, n in enumerate(weight.shape)])
        return function(*args, **kwargs)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Inside, modules are built whose weights have shapes and no memory or values."""
    with torch.device("meta"), _NoValues():
        yield


def expected_weights(architecture: Architecture, kind: Kind, units: int = 0) -> dict[str, Tensor]:
    """Names and shapes of a model's weights: a state dict on torch's meta device, without memory.

    `units`: rows of a recogniser's output layer.
    """
    with shapes_only():
        if kind == "ctc":
            return Wav2Vec2ForCTC.from_config(architecture, Regularisation(), units).state_dict()
        objective = ContrastiveObjective()
        model = Wav2Vec2ForPretraining.from_config(architecture, Regularisation(), objective)
        return model.state_dict()


def check_claims(
    architecture: Architecture,
    weights: Mapping[str, Any],
    source: str,
    kind: Kind | Literal["trunk"] = "trunk",
    units: int = 0,
) -> None:
    """UserError if an architecture is out of all proportion to `weights`: before a model of that
    size is built, even without memory.

    Smaller differences are left to `match_weights`, which names them.
    """
    dim, channels, claimed = architecture.dim, 1, 0
    for width, kernel, _ in architecture.conv_layers:
        claimed, channels = claimed + channels * width * kernel, width
    claimed += channels * dim if channels != dim else 0
    claimed += dim * (dim // architecture.position_groups) * architecture.position_kernel
    inner = 4 * dim + 2 * architecture.ffn_dim + 2 * (architecture.adapter_dim or 0)
    claimed += architecture.layers * inner * dim
    if kind == "pretraining":
        codes = architecture.codebook_groups * architecture.codebook_entries
        claimed += codes * channels + 2 * architecture.final_dim * architecture.final_dim
    claimed += units * dim if kind == "ctc" else 0
    held = sum(tensor.numel() for tensor in weights.values() if isinstance(tensor, Tensor))
    layers = architecture.layers + len(architecture.conv_layers)
    if claimed > 4 * held + _LITTLE or layers > len(weights):
        raise UserError(
            f"{source}: damaged, it claims more than it holds ({shown(layers)} layers and "
            f"{shown(claimed)} weights or more; it holds {len(weights)} tensors with {held}); use "
            "another copy"
        )
    factor = architecture.hourglass.factor if architecture.hourglass else 1
    frame = math.prod(stride for _, _, stride in architecture.conv_layers)
    if layers > _MOST_LAYERS or factor > LARGEST_FACTOR or frame > _LONGEST_FRAME:
        raise UserError(
            f"{source}: damaged, or no model that this version builds ({layers} layers, a frame "
            f"of {shown(frame)} samples, a shortening factor of {shown(factor)}); use another copy"
        )


def fitting_weights(
    weights: Mapping[str, Any],
    architecture: Architecture,
    kind: Kind | Literal["trunk"],
    source: str,
    their_name: Callable[[str], str] = str,
    units: int = 0,
) -> dict[str, Tensor]:
    """`weights` as of `match_weights`, compared with a model of this architecture; `trunk`: the
    part of a pre-trained model that fine-tuning uses.

    UserError, before anything of the claimed size is built, if they do not fit.
    """
    check_claims(architecture, weights, source, kind, units)
    if kind == "trunk":
        expected = trunk_weights(expected_weights(architecture, "ctc", 1))
    else:
        expected = expected_weights(architecture, kind, units)
    return match_weights(weights, expected, source, their_name)


def trunk_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the trunk alone, under their full names."""
    return {name: tensor for name, tensor in weights.items() if name.startswith(TRUNK)}


_START = "facebook/wav2vec2-base or facebook/hubert-base-ls960"
_INSTEAD = {
    "data2vec": f"{_START}, whose transformer layers are the same",
    "classification": "the model it was made from",
    "xvector": "the model it was made from",
}
"""What to use in place of a model; default: facebook/wav2vec2-base, or -960h."""

_OTHER_MODELS = {
    "av_hubert": "AV-HuBERT, which also takes video",
    "wavlm": "WavLM",
    "data2vec": "data2vec, which finds positions by several convolutions, the models here by one",
    "conformer": "a wav2vec 2.0 with Conformer layers",
    "unispeech": "UniSpeech",
    "sew": "SEW",
    "v-bert": "w2v-BERT",
    "vec2-bert": "w2v-BERT",
    "vec2bert": "w2v-BERT",
    "bert": "BERT, a model of text",
    "whisper": "Whisper, a sequence-to-sequence model",
    "encoder-decoder": "a sequence-to-sequence model",
    "seq2seq": "a sequence-to-sequence model",
    "speech_to_text": "a sequence-to-sequence model",
    "classification": "a classifier, which writes no text",
    "xvector": "a classifier of speakers, which writes no text",
}
"""Part of a name by which files say what they are, in lower case -> what that is."""


def is_hubert(name: Any) -> bool:
    """Whether a file calls its model HuBERT, whose encoder has the same modules."""
    return isinstance(name, str) and name.lower().startswith("hubert")


def refuse_other_model(name: Any, source: Path | str, key: str) -> None:
    """UserError if `name`, the value of `key` in a file, is a kind of model not read here."""
    if not isinstance(name, str):
        return
    kind = re.sub("(?<!av_)hubert", "", name.lower())
    default = "facebook/wav2vec2-base (to fine-tune) or facebook/wav2vec2-base-960h"
    for part, what in _OTHER_MODELS.items():
        if part in kind:
            raise UserError(
                f"{source}: {key} is {shown(name)}: {what}; here wav2vec 2.0 and HuBERT are read, "
                f"pre-trained or with CTC: use {_INSTEAD.get(part, default)}"
            )


def require_known(
    values: Mapping[str, Any], known: Mapping[str, Collection[Any]], source: Path | str
) -> None:
    """UserError if a key of `values` has none of its `known` values: it is another model then."""
    for key, choices in known.items():
        value = values.get(key)
        if value is not None and value not in choices:
            raise UserError(
                f"{source}: {key} is {shown(value)}; only {' or '.join(map(shown, choices))} is "
                f"known here: use another model, such as {_START}"
            )


def pick_language(names: Collection[str], given: str | None, source: Path | str) -> str:
    """The language, of those that a recogniser has adapters for; empty: it has none.

    `given` may be None if there is no choice.  UserError lists the languages, or says which are
    spelt alike.
    """
    listed = sorted(names)
    if not listed:
        if given:
            raise UserError(
                f"--language {given}: {source} has no adapters for languages; remove the flag"
            )
        return ""
    if given is None and len(listed) == 1:
        return listed[0]
    if given is None:
        raise UserError(
            f"{source}: has adapters for {len(listed)} languages; choose one with --language "
            f"(ADAPTER_LANGUAGE): {' '.join(listed)}"
        )
    if given not in names:
        near = get_close_matches(given, listed, n=5, cutoff=0.5) or listed[:5]
        raise UserError(
            f"--language {given}: {source} has no adapter for it; its {len(listed)} languages have "
            f"codes such as {', '.join(near)}; without --language all are listed"
        )
    return given


def rename(name: str, rules: Sequence[tuple[str, str]]) -> str:
    """`name` after each rule (regular expression, replacement) in turn."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def rename_all(
    weights: Mapping[str, Any], rules: Sequence[tuple[str, str]], source: str
) -> dict[str, Any]:
    """`weights` with their names changed by `rules`; UserError if two become the same."""
    renamed: dict[str, Any] = {}
    for name, tensor in weights.items():
        if not isinstance(name, str):
            raise UserError(f"{source}: damaged, names a weight {shown(name)}; use another copy")
        usual = rename(name, rules)
        if usual in renamed:
            raise UserError(
                f"{source}: holds {_plain(usual)} twice, in two spellings: damaged; use another "
                "copy"
            )
        renamed[usual] = tensor
    return renamed


def match_weights(
    weights: Mapping[str, Any],
    expected: Mapping[str, Tensor],
    source: str,
    their_name: Callable[[str], str] = str,
) -> dict[str, Tensor]:
    """`weights` in fp32 under the names of `expected`, of which only names and shapes count.

    `their_name`: a name in `expected` -> the name in `weights`.  UserError names `source` and lists
    weights that are missing, unknown, of another shape, or not a floating-point tensor.
    """
    names = {their_name(name): name for name in expected}
    problems = [f"{name} is missing" for name in names if name not in weights]
    problems += [f"{_plain(name)} is unknown" for name in weights if name not in names]
    for theirs, ours in names.items():
        shape = list(expected[ours].shape)
        found = _shape_of(weights[theirs]) if theirs in weights else shape
        if found != shape:
            problems.append(f"{theirs} is {found} instead of {shape}")
    if problems:
        more = f"; {len(problems) - _MOST_LISTED} more" if len(problems) > _MOST_LISTED else ""
        raise UserError(
            f"{source}: its weights do not fit the architecture it declares "
            f"({'; '.join(problems[:_MOST_LISTED])}{more}): damaged, or put together from two "
            "models; use another copy"
        )
    return {ours: weights[theirs].float() for theirs, ours in names.items()}


def _plain(name: Any) -> str:
    """A weight's name for an error message: as it is if that fits on a line."""
    usual = isinstance(name, str) and name.isprintable() and len(name) < 200
    return name if usual else shown(name)


def is_weight(value: Any) -> bool:
    """Whether `value` is a dense floating-point tensor, in memory."""
    dense = isinstance(value, Tensor) and value.layout == torch.strided
    return dense and value.is_floating_point() and not value.is_meta


def _shape_of(value: Any) -> list[int] | str:
    if is_weight(value):
        return list(value.shape)
    return "no floating-point tensor"
