"""fairseq's parameter names <-> ours.  Every key must match: what is left over is an error.

NVIDIA's recipe has the same names, and others for the parts of an hourglass.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wav2vec2.cli.errors import UserError
from wav2vec2.config import Architecture, ContrastiveObjective, Hourglass, Regularisation
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.pretraining import Wav2Vec2ForPretraining

Kind = Literal["pretraining", "ctc"]

CTC_TRUNK = "w2v_encoder.w2v_model."
"""What a recogniser's names of the trunk begin with."""
CTC_OUTPUT = "w2v_encoder.proj."

_OURS_TO_THEIRS = [
    (r"\.conv_layers\.(\d+)\.conv\.", r".conv_layers.\1.0."),
    (r"\.pos_conv\.conv\.parametrizations\.weight\.original0$", ".pos_conv.0.weight_g"),
    (r"\.pos_conv\.conv\.parametrizations\.weight\.original1$", ".pos_conv.0.weight_v"),
    (r"\.pos_conv\.conv\.", ".pos_conv.0."),
    (r"\.encoder\.stack\.shorten_linear\.", ".encoder.downsample_layer.linear."),
    (r"\.encoder\.stack\.upsample_linear\.", ".encoder.upsample_layer.linear."),
]
_OTHER_SPELLINGS = [
    # torch's newer weight norm.
    (r"\.pos_conv\.0\.parametrizations\.weight\.original0$", ".pos_conv.0.weight_g"),
    (r"\.pos_conv\.0\.parametrizations\.weight\.original1$", ".pos_conv.0.weight_v"),
    # NVIDIA's extractor that knows about padding.
    (r"\.conv_layers\.(\d+)\.conv\.", r".conv_layers.\1.0."),
    (r"\.conv_layers\.(\d+)\.norm\._group_norm\.", r".conv_layers.\1.2."),
    (r"\.conv_layers\.(\d+)\.norm\.", r".conv_layers.\1.2."),
]


def _rename(name: str, rules: list[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def their_name(ours: str, architecture: Architecture, kind: Kind) -> str:
    """A parameter's name here -> in fairseq."""
    # LayerNorm stands between two transpositions, GroupNorm alone.
    norm = "2.1" if architecture.extractor_norm == "layer" else "2"
    name = re.sub(r"\.conv_layers\.(\d+)\.norm\.", rf".conv_layers.\1.{norm}.", ours)
    name = re.sub(
        r"\.encoder\.stack\.layers\.(\d+)\.",
        lambda found: f".encoder.{_their_layer(int(found[1]), architecture.hourglass)}.",
        name,
    )
    name = _rename(name, _OURS_TO_THEIRS)
    if kind == "ctc" and name.startswith("proj."):
        return CTC_OUTPUT + name.removeprefix("proj.")
    return (CTC_TRUNK if kind == "ctc" else "") + name.removeprefix("wav2vec2.")


def _their_layer(number: int, hourglass: Hourglass | None) -> str:
    """Ours are numbered through; each of an hourglass' parts has a list of its own there."""
    if hourglass is None or number < hourglass.pre:
        return f"layers.{number}"
    number -= hourglass.pre
    if number < hourglass.middle:
        return f"hourglass_layers.{number}"
    return f"post_layers.{number - hourglass.middle}"


def usual_spelling(weights: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """`weights` with the names that fairseq's own files have."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        usual = _rename(name, _OTHER_SPELLINGS)
        if usual in renamed:
            raise UserError(f"{source}: holds {usual} twice, in two spellings; use another copy")
        renamed[usual] = tensor
    return renamed


def _model(architecture: Architecture, kind: Kind, vocabulary: int) -> nn.Module:
    """A model without memory for its weights."""
    with torch.device("meta"):
        if kind == "ctc":
            return Wav2Vec2ForCTC.from_config(architecture, Regularisation(), vocabulary)
        return Wav2Vec2ForPretraining.from_config(
            architecture, Regularisation(), ContrastiveObjective()
        )


def to_ours(
    weights: Mapping[str, Any],
    architecture: Architecture,
    kind: Kind,
    source: str,
    vocabulary: int = 0,
) -> dict[str, Tensor]:
    """fairseq's weights as our state dict, in fp32.

    UserError lists every key that is missing, left over, or of another shape than the model of
    `architecture` (with an output layer of `vocabulary` units) has.
    """
    model = _model(architecture, kind, vocabulary).state_dict()
    expected = {their_name(ours, architecture, kind): ours for ours in model}
    problems = [f"lacks {name}" for name in expected if name not in weights]
    problems += [f"{name} is unknown" for name in weights if name not in expected]
    for name, ours in expected.items():
        if name in weights and _shape_of(weights[name]) != model[ours].shape:
            wanted = tuple(model[ours].shape)
            problems.append(f"{name} is {_shape_of(weights[name])} instead of {wanted}")
    if problems:
        raise UserError(
            f"{source}: its weights are not those of the model it describes; none is guessed: "
            + "; ".join(problems)
        )
    return {ours: weights[name].float() for name, ours in expected.items()}


def _shape_of(value: Any) -> tuple[int, ...] | None:
    """The shape of a tensor of numbers, None of anything else."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return tuple(value.shape)
    return None


def to_theirs(
    weights: Mapping[str, Tensor], architecture: Architecture, kind: Kind
) -> dict[str, Tensor]:
    """The inverse of `to_ours`."""
    return {their_name(name, architecture, kind): tensor for name, tensor in weights.items()}
