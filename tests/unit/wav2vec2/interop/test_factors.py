"""Which pooling factor a checkpoint runs at, and the graphs of each."""

from dataclasses import replace

import pytest
import torch

import wav2vec2
from tests.unit.wav2vec2.interop.test_torch_export import (
    ARCHITECTURES,
    SMALL,
    content_of,
    worst_difference,
)
from wav2vec2.cli.errors import UserError
from wav2vec2.config import BASE, Hourglass, Regularisation
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.files.torch_file import save_checkpoint
from wav2vec2.interop import checkpoints, native
from wav2vec2.interop.release import model_card

ELASTIC = replace(BASE, **{**SMALL, "layers": 3}, hourglass=Hourglass.parse("[1,(1,1:6),1]"))
RATES = {"1": 5.5, "2": 5.0, "3": 5.2, "4": 6.0, "5": 6.01, "6": 40.0}


def factor_of(content, factor=None):
    """The factor that inference takes, and the note."""
    found, note = native.at_factor(content, factor, "model.pt")
    hourglass = found["architecture"]["hourglass"]
    assert "factors" not in hourglass and native.FACTOR_WER not in found
    return hourglass["factor"], note


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        (RATES, 4),
        ({**RATES, "5": 6.0}, 5),
        ({"2": 100.0, "4": 100.0}, 4),  # nothing learnt yet
        ({"2": 0.0, "10": 1.0, "9": 3.0}, 10),  # numbers, not text
        ({"3": 0.0, "6": 1.0000001}, 3),
    ],
)
def test_the_default_costs_at_most_a_point(rates, expected):
    assert native.default_factor(rates) == expected


def test_default_and_choice():
    content = {**content_of(ELASTIC), native.FACTOR_WER: RATES}
    factor, note = factor_of(content)
    assert factor == 4 and note.startswith("pooling factor 4 is the default of inference")
    assert "6: 40.00" in note and "--factor chooses another" in note
    assert factor_of(content, 6) == (6, "")
    factor, note = factor_of(content, 7)
    assert factor == 7 and "model.pt has [1,(1,1:6),1] and was not trained with it" in note
    # Rates of factors that the architecture lacks do not count: such a file is not ours.
    assert factor_of({**content, native.FACTOR_WER: {"2": 1.0, "900": 1.0}})[0] == 2


def test_without_rates_the_smallest():
    factor, note = factor_of(content_of(ELASTIC))
    assert factor == 1 and "the smallest, because no error rates by factor are known" in note


def test_a_fixed_factor():
    content = content_of(ARCHITECTURES["hourglass"])
    assert factor_of(content) == (4, "") == factor_of(content, 4)
    factor, note = factor_of(content, 2)
    assert factor == 2 and "model.pt has [1,(1,4),1] and was not trained with it" in note
    assert native.at_factor(content, None, "model.pt")[0] == content


def test_what_has_no_choice_says_so():
    for name, factor, message in (
        ("base", 2, "--factor 2: model.pt has no hourglass; remove the flag"),
        ("linear", 2, "--factor 2: model.pt has learned maps for the pooling factor 3"),
        ("hourglass", 1001, "--factor 1001: must be at most 1000"),
    ):
        with pytest.raises(UserError, match=message):
            native.at_factor(content_of(ARCHITECTURES[name]), factor, "model.pt")
    plain = content_of(ARCHITECTURES["base"])
    assert native.at_factor(plain, None, "model.pt") == (plain, "")
    assert factor_of(content_of(ARCHITECTURES["linear"]), 3) == (3, "")


@pytest.mark.parametrize(
    "rates", [{"2": "5"}, {2: 5.0}, {"2": float("nan")}, {"0": 5.0}, {"2a": 5.0}, {"2": True}, []]
)
def test_damaged_rates(rates, tmp_path):
    content = {**content_of(ELASTIC), native.FACTOR_WER: rates}
    with pytest.raises(UserError, match="factor_wer.*; use another copy"):
        native.check_entries(content, "model.pt")


@pytest.mark.parametrize(
    "factors", [[1], [1, 1], [3, 1], [1, 10**12], ["1", "2"], [1.0, 2.0], [2, 3], 5, [[1], [2]]]
)
def test_damaged_factors(factors):
    content = content_of(ELASTIC)
    content["architecture"]["hourglass"]["factors"] = factors
    with pytest.raises(UserError, match="model.pt: damaged, or does not describe a model"):
        native.architecture_of(content, "model.pt")


@pytest.mark.parametrize("factor", [1, 2, 3, 6])
def test_neither_padding_nor_other_rows_change_the_logits(factor):
    content, _ = native.at_factor(content_of(ELASTIC), factor, "model.pt")
    model, _ = native.load_ctc(content, "model.pt")
    lengths = torch.tensor([9_000, 30, 3_010, 1_000])
    batch = torch.zeros(4, 9_500)
    for row, n in zip(batch, lengths.tolist()):
        row[:n] = torch.randn(n)
    with torch.inference_mode():
        together = model(batch, lengths)
        for row, n in enumerate(lengths.tolist()):
            alone = model(batch[row : row + 1, :n]).logits[0]
            assert together.frame_lengths[row] == len(alone)
            assert (together.logits[row, : len(alone)] - alone).abs().max() <= 1e-4


def test_the_weights_do_not_depend_on_the_factors():
    """So a fixed model and an elastic one of the same seed start alike."""
    torch.manual_seed(5)
    elastic = Wav2Vec2ForCTC.from_config(ELASTIC, Regularisation(), 9).state_dict()
    torch.manual_seed(5)
    fixed = replace(ELASTIC, hourglass=Hourglass(1, 1, 4, 1))
    fixed = Wav2Vec2ForCTC.from_config(fixed, Regularisation(), 9).state_dict()
    assert elastic.keys() == fixed.keys()
    assert all(torch.equal(elastic[name], fixed[name]) for name in fixed)


@pytest.mark.parametrize("factor", [1, 5])
def test_an_exported_graph_has_one_factor(factor, tmp_path):
    """Equal to the model at that factor; the archive is read back with it."""
    content = content_of(ELASTIC)
    save_checkpoint(tmp_path / "model.pt", content)
    wav2vec2.export(tmp_path / "model.pt", tmp_path / "model.pt2", factor=factor)
    expected, _ = native.at_factor(content, factor, "model.pt")
    graph = torch.export.load(tmp_path / "model.pt2").module()
    assert worst_difference(expected, graph) <= 1e-4
    found = checkpoints.read_checkpoint(tmp_path / "model.pt2")
    assert found["architecture"]["hourglass"]["factor"] == factor
    assert "factors" not in found["architecture"]["hourglass"]


def test_the_card_says_the_default():
    content = {**content_of(ELASTIC), native.FACTOR_WER: RATES}
    card = model_card(content, "name", None)
    assert "The pooling factor 4 is the default of inference" in card and "5: 6.01" in card
