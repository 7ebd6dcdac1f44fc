"""A recogniser's output layer as the start of another: rows follow their symbols."""

from dataclasses import replace

import pytest
import torch

from tasks.finetuning import describe_rows, other_case_note
from wav2vec2.config import BASE, Regularisation
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.interop import native
from wav2vec2.text.vocabulary import SPECIALS, Spelling, Vocabulary

TINY = replace(
    BASE, conv_layers=((8, 10, 5),), dim=8, ffn_dim=8, heads=2, layers=1, position_groups=2
)


def recogniser(vocabulary):
    return Wav2Vec2ForCTC.from_config(TINY, Regularisation(), len(vocabulary))


def content_of(vocabulary):
    described = native.ctc_content(TINY, vocabulary, "ltr")
    return {**described, "model": recogniser(vocabulary).state_dict()}


@pytest.mark.parametrize(
    ("theirs", "ours", "new"),
    [
        ([*"|EAB"], [*"BAE|"], []),
        ([*"|EAB"], ["Ü", *"|BE", "ß"], ["Ü", "ß"]),
        (["▁THE", "▁", "E", "S"], ["S", "▁A", "▁THE"], ["▁A"]),
        (["AA", "B", "IY"], ["IY", "AA", "ZH"], ["ZH"]),
        ([*"ABC"], ["x", "y"], ["x", "y"]),
    ],
)
def test_rows_follow_their_symbols(theirs, ours, new):
    """Letters, pieces and phonemes; the special rows are always shared."""
    start = Vocabulary(theirs, Spelling.of(theirs))
    vocabulary = Vocabulary(ours, Spelling.of(ours))
    content, model = content_of(start), recogniser(vocabulary)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    assert native.load_output_rows(model, vocabulary, content, "c.pt") == new
    for row, symbol in enumerate(vocabulary.symbols):
        for name in ("proj.weight", "proj.bias"):
            expected = before[name][row]
            if symbol not in new:
                expected = content["model"][name][start.symbols.index(symbol)]
            assert torch.equal(model.state_dict()[name][row], expected), symbol


def test_units_that_are_written_alike():
    """Labels mean the first of them."""
    start = Vocabulary(["a", "b", "a"], repeated=True)
    content, model = content_of(start), recogniser(Vocabulary(["a"]))
    native.load_output_rows(model, Vocabulary(["a"]), content, "c.pt")
    assert torch.equal(model.proj.weight[4], content["model"]["proj.weight"][len(SPECIALS)])


@pytest.mark.parametrize("trained", [True, False])
def test_unknown_symbol_that_the_start_lacks(trained):
    """Its logit of -10000 is kept, unless it is to be trained: nothing is learnt from there."""
    vocabulary = Vocabulary([*"AB"])
    content, model = content_of(vocabulary), recogniser(vocabulary)
    content["model"]["proj.bias"][3] = native.NEVER
    new = native.load_output_rows(model, vocabulary, content, "c.pt", train_unknown=trained)
    assert (new, model.proj.bias[3].item()) == ((["<unk>"], 0) if trained else ([], native.NEVER))


def test_line_about_the_rows():
    names = [f"W{number}" for number in range(150)]
    assert describe_rows([], 32, "c.pt") == "all 32 rows from c.pt"
    assert describe_rows(["Ä"], 32, "c.pt") == "31 of 32 rows from c.pt; new rows: Ä"
    assert describe_rows(names, 200, "c.pt").endswith(" W98 W99 and 50 more")


@pytest.mark.parametrize(
    ("new", "theirs", "parts"),
    [
        ([*"AB"], [*"|abc"], ("c.pt has 2", "lower case", "--case lower")),
        ([*"\u00e4bz"], [*"|\u00c4BC"], ("c.pt has 2", "upper case", "--case upper")),
        ([*"ABC"], [*"|ax"], ()),
        ([], [*"|ab"], ()),
        (["'", "1"], [*"|'1"], ()),
    ],
)
def test_line_about_symbols_in_the_other_case(new, theirs, parts):
    note = other_case_note(new, theirs, "c.pt")
    assert bool(note) == bool(parts) and all(part in note for part in parts)
