"""The check of names and shapes that every format shares."""

from dataclasses import replace

import pytest
import torch

from wav2vec2.cli.errors import UserError
from wav2vec2.config import (
    BASE,
    LARGE,
    MINI,
    ContrastiveObjective,
    Hourglass,
    Regularisation,
)
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.interop.state_dict import expected_weights, match_weights, rename_all, trunk_weights
from wav2vec2.pretraining import Wav2Vec2ForPretraining


def test_weights_are_renamed_and_widened():
    weights = {"their.a": torch.ones(2, dtype=torch.half)}
    found = match_weights(weights, {"a": torch.empty(2)}, "file", lambda name: f"their.{name}")
    assert found["a"].dtype == torch.float32 and found["a"].tolist() == [1.0, 1.0]


def test_every_mismatch_is_listed():
    expected = {name: torch.empty(2, 3, device="meta") for name in "abcd"}
    weights = {"b": torch.ones(3), "c": torch.ones(2, 3, dtype=torch.int8), "e": 1}
    with pytest.raises(UserError) as raised:
        match_weights(weights | {"d": torch.ones(2, 3)}, expected, "file")
    assert str(raised.value) == (
        "file: its weights do not fit the architecture it declares (a is missing; e is unknown; "
        "b is [3] instead of [2, 3]; c is no floating-point tensor instead of [2, 3]): damaged, or "
        "put together from two models; use another copy"
    )


def test_expected_weights_take_no_memory():
    """They have the names and shapes of the model, and no storage."""
    architecture = replace(BASE, layers=1)
    expected = expected_weights(architecture, "ctc", 7)
    assert all(tensor.is_meta for tensor in expected.values())
    model = Wav2Vec2ForCTC.from_config(architecture, Regularisation(), 7)
    assert match_weights(model.state_dict(), expected, "model").keys() == expected.keys()
    assert expected.keys() - trunk_weights(expected) == {"proj.weight", "proj.bias"}


@pytest.mark.parametrize("architecture", [MINI, BASE, LARGE], ids=["mini", "base", "large"])
@pytest.mark.parametrize("kind", ["ctc", "pretraining"])
def test_expected_shapes_are_those_of_a_model_with_values(architecture, kind):
    """Each layout of weights: norms, the weight-normalised convolution, hourglass, adapters."""
    for change in (
        {"layers": 3, "hourglass": Hourglass(1, 1, 2, 1, "linear")},
        {"layers": 1} | ({"adapter_dim": 4} if architecture.norm_first else {}),
    ):
        changed = replace(architecture, **change)
        if kind == "ctc":
            model = Wav2Vec2ForCTC.from_config(changed, Regularisation(), 7)
        else:
            objective = ContrastiveObjective()
            model = Wav2Vec2ForPretraining.from_config(changed, Regularisation(), objective)
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        expected = expected_weights(changed, kind, 7)
        assert {name: tensor.shape for name, tensor in expected.items()} == shapes
        assert all(tensor.is_meta for tensor in expected.values())


def test_two_names_that_become_one():
    with pytest.raises(UserError, match="file: holds x twice, in two spellings"):
        rename_all({"x": 1, "y": 2}, [("^y$", "x")], "file")
