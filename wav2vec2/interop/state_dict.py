"""The one check of names and shapes: the weights of a file against those of a model."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from wav2vec2.cli.errors import UserError
from wav2vec2.config import Architecture, ContrastiveObjective, Regularisation
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.pretraining import Wav2Vec2ForPretraining

Kind = Literal["pretraining", "ctc"]
"""What a checkpoint holds: a pre-training model, or a recogniser."""

TRUNK = "wav2vec2."
"""Prefix of the weights that pre-training models and recognisers share."""

OLDER_WEIGHT_NORM = [
    (r"parametrizations\.weight\.original0$", "weight_g"),
    (r"parametrizations\.weight\.original1$", "weight_v"),
]
"""torch's newer names for gain and direction of a weight-normalised convolution -> the older ones,
which fairseq's files have and every version of transformers reads."""


def expected_weights(architecture: Architecture, kind: Kind, units: int = 0) -> dict[str, Tensor]:
    """Names and shapes of a model's weights: a state dict on torch's meta device, without memory.

    `units`: rows of a recogniser's output layer.
    """
    with torch.device("meta"):
        if kind == "ctc":
            return Wav2Vec2ForCTC.from_config(architecture, Regularisation(), units).state_dict()
        objective = ContrastiveObjective()
        model = Wav2Vec2ForPretraining.from_config(architecture, Regularisation(), objective)
        return model.state_dict()


def trunk_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the trunk alone, under their full names."""
    return {name: tensor for name, tensor in weights.items() if name.startswith(TRUNK)}


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
        usual = rename(name, rules)
        if usual in renamed:
            raise UserError(f"{source}: holds {usual} twice, in two spellings; use another copy")
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
    every weight that is missing, unknown, of another shape, or not a floating-point tensor.
    """
    names = {their_name(name): name for name in expected}
    problems = [f"{name} is missing" for name in names if name not in weights]
    problems += [f"{name} is unknown" for name in weights if name not in names]
    for theirs, ours in names.items():
        shape = list(expected[ours].shape)
        found = _shape_of(weights[theirs]) if theirs in weights else shape
        if found != shape:
            problems.append(f"{theirs} is {found} instead of {shape}")
    if problems:
        raise UserError(
            f"{source}: its weights do not fit the architecture it declares "
            f"({'; '.join(problems)}); use another copy"
        )
    return {ours: weights[theirs].float() for theirs, ours in names.items()}


def _shape_of(value: Any) -> list[int] | str:
    if isinstance(value, Tensor) and value.is_floating_point():
        return list(value.shape)
    return "no floating-point tensor"
