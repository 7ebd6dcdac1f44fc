"""Fine-tuning that starts from a recogniser: which rows of its output layer are kept.

A learning rate of 0 leaves the weights as they were before the first update.
"""

import pytest
import torch

import train
from tests.integration.conftest import flags
from tests.integration.test_bad_input import one_line
from tests.integration.test_foreign_checkpoints import files  # noqa: F401 (fixture)
from tests.integration.test_targets import data, learn_pieces  # noqa: F401 (fixture)
from tests.integration.test_training import finetuned, pretrained  # noqa: F401 (fixtures)
from wav2vec2.files.torch_file import load_checkpoint, save_checkpoint
from wav2vec2.interop import checkpoints
from wav2vec2.text.vocabulary import SPECIALS

STILL = {"learning_rate": 0, "max_update": 1, "hold_updates": 0}


@pytest.fixture
def finetune(data, tmp_path, command):  # noqa: F811
    """Fine-tune `start` on the folder's labels without changing a weight: (content, errors)."""

    def run(start, **changed):
        output = tmp_path / "run"
        arguments = {"pretrained_model": start, **STILL, **changed}
        code, _, err = command(train.main, *flags("finetune", data, output, **arguments))
        assert code == 0, err
        return load_checkpoint(output / "wav2vec2_update1.pt"), err

    return run


def rows(content):
    """Symbol -> its row of weights and bias."""
    symbols = [*SPECIALS, *content["dictionary"].split()]
    weights = torch.cat(
        [content["model"]["proj.weight"], content["model"]["proj.bias"][:, None]], dim=1
    )
    return dict(zip(symbols, weights, strict=True))


def line_of(err):
    return next(line for line in err.splitlines() if line.startswith("output layer: "))


@pytest.mark.parametrize("whose", ["fairseq_ctc", "nvidia_ctc", "folder_ctc"])
def test_another_programs_recogniser_with_the_same_symbols(finetune, files, whose):  # noqa: F811
    start = checkpoints.read_checkpoint(files[whose])
    content, err = finetune(files[whose])
    theirs, ours = rows(start), rows(content)
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[symbol], ours[symbol]) for symbol in ours)
    different = [n for n, w in start["model"].items() if not torch.equal(w, content["model"][n])]
    assert set(different) <= {"proj.weight", "proj.bias"}  # the dictionary's order is another
    assert line_of(err) == f"output layer: all 13 rows from {files[whose]}"


def test_own_recogniser_with_another_dictionary(finetune, finetuned, data):  # noqa: F811
    """Rows follow their symbols, in any order; new symbols start as in a new output layer."""
    (data / "dict.ltr.txt").write_text("".join(f"{s} 1\n" for s in ["Ü", *"TONEDCBA", "|", "ß"]))
    content, err = finetune(finetuned)
    theirs, ours = rows(load_checkpoint(finetuned)), rows(content)
    assert [s for s in ours if not torch.equal(ours[s], theirs.get(s, ours[s] + 1))] == ["Ü", "ß"]
    assert line_of(err) == f"output layer: 13 of 15 rows from {finetuned}; new rows: Ü ß"


def test_new_output_layer(finetune, finetuned, data, tmp_path, command):  # noqa: F811
    """The run is not resumed as one that keeps the checkpoint's."""
    content, err = finetune(finetuned, reset_head=True)
    theirs = load_checkpoint(finetuned)["model"]
    assert torch.equal(content["model"]["wav2vec2.mask_emb"], theirs["wav2vec2.mask_emb"])
    assert not torch.equal(content["model"]["proj.weight"], theirs["proj.weight"])
    assert "(--reset_head)" in line_of(err)
    arguments = {"pretrained_model": finetuned, **STILL}
    result = command(train.main, *flags("finetune", data, tmp_path / "run", **arguments))
    one_line(result, "reset_head was True, is now not set")


def test_pieces(finetune, finetuned, data, command):  # noqa: F811
    """Between models of pieces, and from letters: what is written alike is shared."""
    learn_pieces(command, data, "unigram")
    content, err = finetune(finetuned, labels="spm")
    shared = rows(content).keys() & rows(load_checkpoint(finetuned)).keys()
    assert f"output layer: {len(shared)} of " in line_of(err) and "▁" in line_of(err)


def test_dictionary_that_does_not_fit_the_rows(data, files, tmp_path, command):  # noqa: F811
    content = checkpoints.read_checkpoint(files["folder_ctc"])
    content["dictionary"] += "\nÄ\nÖ\n"
    save_checkpoint(tmp_path / "odd.pt", content)
    (files["folder_ctc"] / "vocab.json").write_text('{"<pad>": 0, "A": 1, "|": 2}')
    for start, problem in [("odd.pt", "15 symbols"), ("folder_ctc", "13 rows")]:
        arguments = {"pretrained_model": tmp_path / start, **STILL}
        result = command(train.main, *flags("finetune", data, tmp_path / "o", **arguments))
        one_line(result, start, problem)
        assert not (tmp_path / "o").exists()
