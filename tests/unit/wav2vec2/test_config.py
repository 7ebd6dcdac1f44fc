import json
import math
from dataclasses import fields, replace

import pytest
import torch

from wav2vec2.config import (
    BASE,
    LARGE,
    MINI,
    Architecture,
    ContrastiveObjective,
    Hourglass,
    Masking,
    Regularisation,
)
from wav2vec2.pretraining import Wav2Vec2ForPretraining


@pytest.mark.parametrize(
    ("architecture", "parameters"),
    [
        (BASE, 95_044_608),
        (replace(BASE, hourglass=Hourglass(2, 8, 4, 2)), 95_044_608),
        (replace(BASE, hourglass=Hourglass(2, 8, 4, 2, "linear")), 99_767_040),
        (LARGE, 317_390_592),
    ],
    ids=["base", "base naive hourglass", "base linear hourglass", "large"],
)
def test_parameter_counts(architecture, parameters):
    with torch.device("meta"):
        model = Wav2Vec2ForPretraining.from_config(
            architecture, Regularisation(), ContrastiveObjective()
        )
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize(
    "architecture", [BASE, LARGE, MINI, replace(BASE, hourglass=Hourglass(1, 10, 3, 1, "linear"))]
)
def test_architecture_survives_plain_types(architecture):
    assert Architecture.from_dict(json.loads(json.dumps(architecture.to_dict()))) == architecture


def test_unknown_architecture_field_is_named():
    with pytest.raises(ValueError, match="experts"):
        Architecture.from_dict({**BASE.to_dict(), "experts": 8})


def test_hourglass_notation():
    assert Hourglass.parse("[2,(8,4),2]") == Hourglass(2, 8, 4, 2)
    assert Hourglass.parse("[2, (8, 4), 2]", "linear") == Hourglass(2, 8, 4, 2, "linear")
    assert Hourglass.parse("") is None
    assert str(Hourglass(1, 2, 3, 4)) == "[1,(2,3),4]"


@pytest.mark.parametrize(
    "text", ["[2,8,4,2]", "2,(8,4),2", "[2,(8,4)]", "[a,(8,4),2]", "[2,(8,0),2]"]
)
def test_bad_hourglass_names_the_flag(text):
    with pytest.raises(ValueError, match="--hourglass_config"):
        Hourglass.parse(text)


@pytest.mark.parametrize(
    ("text", "factors", "written"),
    [
        ("[2,(8,2:6),2]", (2, 3, 4, 5, 6), "[2,(8,2:6),2]"),
        ("[2, (8, [2, 4, 6]), 2]", (2, 4, 6), "[2,(8,[2,4,6]),2]"),
        ("[0,(1,[1,2]),0]", (1, 2), "[0,(1,1:2),0]"),
        ("[1,(2,999:1000),1]", (999, 1000), "[1,(2,999:1000),1]"),
    ],
)
def test_several_factors(text, factors, written):
    found = Hourglass.parse(text)
    assert (found.factors, found.factor, str(found)) == (factors, factors[0], written)
    assert Hourglass.parse(written) == found
    architecture = replace(BASE, layers=found.layers, hourglass=found)
    plain = json.loads(json.dumps(architecture.to_dict()))
    assert plain["hourglass"]["factors"] == list(factors)
    assert Architecture.from_dict(plain) == architecture


def test_a_single_factor_is_stored_as_before():
    stored = replace(BASE, hourglass=Hourglass(2, 8, 4, 2)).to_dict()["hourglass"]
    assert stored == {"pre": 2, "middle": 8, "factor": 4, "post": 2, "resampling": "naive"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[2,(8,6:2),2]", "the factors 6:2 must run from a smaller to a larger one"),
        ("[2,(8,4:4),2]", "for a single one write its number alone"),
        ("[2,(8,0:4),2]", "the factor must be at least 1"),
        ("[2,(8,[4]),2]", "needs at least two different factors, in ascending order"),
        ("[2,(8,[4,2]),2]", "needs at least two different factors, in ascending order"),
        ("[2,(8,[2,2]),2]", "needs at least two different factors, in ascending order"),
        ("[2,(8,2:1001),2]", "of at most 1000"),
        ("[2,(8,1:99999999999),2]", "write it like .*2:6.*2,4,6"),
        ("[2,(8,2:),2]", "write it like .*2:6.*2,4,6"),
        ("[2,(8,2-6),2]", "write it like .*2:6.*2,4,6"),
        ("[2,(8,[2:6]),2]", "write it like .*2:6.*2,4,6"),
        ("[2,(8,[]),2]", "write it like .*2:6.*2,4,6"),
    ],
)
def test_bad_factors_are_one_line(text, message):
    with pytest.raises(ValueError, match=message) as raised:
        Hourglass.parse(text)
    assert str(raised.value).startswith("--hourglass_") and "\n" not in str(raised.value)


def test_learned_maps_fit_one_factor():
    with pytest.raises(ValueError, match="--hourglass_resampling linear: .* fit one factor"):
        Hourglass.parse("[2,(8,2:6),2]", "linear")


def test_hourglass_must_have_all_layers():
    with pytest.raises(ValueError, match=r"--hourglass_config \[2,\(4,4\),2\] has 8 layers.* 12"):
        replace(BASE, hourglass=Hourglass(2, 4, 4, 2))


@pytest.mark.parametrize(
    ("cls", "values", "flag"),
    [
        (Regularisation, {"dropout": 1.0}, "--dropout"),
        (Regularisation, {"feature_grad_mult": -1.0}, "--feature_grad_mult"),
        (Masking, {"mask_prob": 1.5}, "--mask_prob"),
        (Masking, {"mask_span": 0}, "--mask_span"),
        (ContrastiveObjective, {"distractors": 0}, "--distractors"),
        (ContrastiveObjective, {"gumbel_temperature": (0.5, 2.0, 0.9)}, "--gumbel_temperature"),
        (ContrastiveObjective, {"gumbel_temperature": (2.0, 0.5, 1.1)}, "0 <= decay <= 1"),
        (ContrastiveObjective, {"gumbel_temperature": (2.0, 0.5, -0.1)}, "0 <= decay <= 1"),
        (ContrastiveObjective, {"logit_temperature": 0.0}, "--logit_temperature 0.0"),
        (ContrastiveObjective, {"loss_weights": (-0.1, 10.0)}, "--loss_weights -0.1 10.0"),
        (Masking, {"mask_distribution": "gamma"}, "--mask_distribution gamma: choose static, uni"),
        (Masking, {"mask_distribution": "uniform"}, "--mask_other 0: .* from 1 to 20"),
        (Masking, {"mask_distribution": "uniform", "mask_other": 2.5}, "--mask_other 2.5"),
        (Masking, {"mask_distribution": "uniform", "mask_other": 21.0}, "--mask_other 21"),
        (Masking, {"mask_distribution": "normal", "mask_other": -1.0}, "--mask_other -1"),
        (Masking, {"mask_distribution": "poisson", "mask_other": 3.0}, "--mask_other 3: .*poisson"),
        (Masking, {"mask_other": 3.0}, "--mask_other 3: .*static does not use it"),
    ],
)
def test_impossible_values_name_the_flag(cls, values, flag):
    with pytest.raises(ValueError, match=flag) as raised:
        cls(**values)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("cls", [Regularisation, Masking, ContrastiveObjective])
def test_every_number_must_be_finite(cls, bad):
    for item in fields(cls):
        value = getattr(cls(), item.name)
        if isinstance(value, float):
            with pytest.raises(ValueError, match=f"--{item.name} {bad}: must be finite"):
                cls(**{item.name: bad})
        elif isinstance(value, tuple):
            for position in range(len(value)):
                values = (*value[:position], bad, *value[position + 1 :])
                with pytest.raises(ValueError, match=f"--{item.name} .*{bad}.*: must be finite"):
                    cls(**{item.name: values})


def test_span_distributions_that_are_possible():
    Masking(mask_distribution="uniform", mask_other=1.0)
    Masking(mask_distribution="uniform", mask_other=20.0)
    Masking(mask_distribution="normal")  # a deviation of 0: all spans are alike
    Masking(mask_distribution="normal", mask_other=2.5)
    Masking(mask_distribution="poisson")
