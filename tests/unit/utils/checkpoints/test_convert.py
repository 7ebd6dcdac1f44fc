"""utils/checkpoints/convert.py: conversion there and back, and its errors."""

import re
import sys

import pytest
import torch

from tests.unit.wav2vec2.interop import names
from tests.unit.wav2vec2.interop.conftest import (
    DICTIONARY,
    fairseq_finetuned,
    fairseq_pretrained,
    nvidia,
)
from utils.checkpoints import convert as convert_command
from wav2vec2.cli.errors import UserError, run_command
from wav2vec2.files.torch_file import FORMAT, load_checkpoint, save_checkpoint
from wav2vec2.interop import checkpoints


@pytest.fixture
def convert(monkeypatch, capsys):
    def convert(*argv):
        monkeypatch.setattr(sys, "argv", ["convert", *map(str, argv)])
        with pytest.raises(SystemExit) as stop:
            run_command(convert_command.main)
        return stop.value.code, capsys.readouterr()

    return convert


SIZES = names.Sizes(layer_norm=True, conv_bias=True)


@pytest.mark.parametrize("make", [fairseq_pretrained, fairseq_finetuned])
def test_there_and_back(tmp_path, convert, make):
    given = make(SIZES, normalize=True)
    torch.save(given, tmp_path / "theirs.pt")
    symbols = tmp_path / "symbols.txt"
    symbols.write_text(DICTIONARY)
    ours = tmp_path / "ours.pt"
    flags = ["--dictionary", symbols] if make is fairseq_finetuned else []
    code, output = convert(tmp_path / "theirs.pt", ours, "--to", "native", *flags)
    assert code == 0 and f"{len(given['model'])} tensors" in output.out
    assert load_checkpoint(ours)["format"] == FORMAT

    (tmp_path / "back").mkdir()
    back = tmp_path / "back" / "theirs.pt"
    assert convert(ours, back, "--to", "fairseq")[0] == 0
    written = torch.load(back, weights_only=True)  # only plain types
    assert "format" not in written and written["model"].keys() == given["model"].keys()
    for name, tensor in written["model"].items():
        assert torch.equal(tensor, given["model"][name]), name
    assert (tmp_path / "back" / "dict.ltr.txt").exists() == (make is fairseq_finetuned)
    again = checkpoints.read_checkpoint(back)
    expected = load_checkpoint(ours)
    assert {k: v for k, v in again.items() if k != "model"} == {
        k: v for k, v in expected.items() if k not in ("model", "format")
    }
    assert all(torch.equal(t, expected["model"][name]) for name, t in again["model"].items())


def test_to_a_hugging_face_folder_and_back(tmp_path, convert):
    torch.save(fairseq_finetuned(SIZES, normalize=True), tmp_path / "theirs.pt")
    (tmp_path / "dict.ltr.txt").write_text(DICTIONARY)
    folder, ours = tmp_path / "folder", tmp_path / "ours.pt"
    assert convert(tmp_path / "theirs.pt", folder, "--to", "huggingface")[0] == 0
    assert convert(folder, ours, "--to", "native")[0] == 0
    first, second = checkpoints.read_checkpoint(tmp_path / "theirs.pt"), load_checkpoint(ours)
    assert first["architecture"] == second["architecture"]
    assert all(torch.equal(t, second["model"][name]) for name, t in first["model"].items())


@pytest.mark.parametrize(
    ("to", "name"), [("exported", "m.pt2"), ("onnx", "m.onnx"), ("onnx_int8", "small.onnx")]
)
def test_to_a_graph(tmp_path, convert, to, name):
    if to != "exported":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    torch.save(fairseq_finetuned(SIZES, normalize=True), tmp_path / "theirs.pt")
    (tmp_path / "dict.ltr.txt").write_text(DICTIONARY)
    code, output = convert(tmp_path / "theirs.pt", tmp_path / name, "--to", to)
    assert code == 0, output.err
    assert (tmp_path / name).stat().st_size > 10_000
    code, output = convert(tmp_path / "theirs.pt", tmp_path / "wrong.bin", "--to", to)
    assert code == 2 and "wrong.bin: other programs need the suffix" in output.err


def test_the_state_of_training_is_left_behind(tmp_path, convert):
    torch.save(fairseq_pretrained(SIZES), tmp_path / "theirs.pt")
    content = checkpoints.read_checkpoint(tmp_path / "theirs.pt")
    save_checkpoint(tmp_path / "run.pt", {**content, "optimizer": {"a": 1}, "update": 7})
    assert convert(tmp_path / "run.pt", tmp_path / "lean.pt", "--to", "native")[0] == 0
    lean = load_checkpoint(tmp_path / "lean.pt")
    assert lean["update"] == 7 and "optimizer" not in lean


def test_errors(tmp_path, convert):
    """Each error is one line, has exit code 2 and leaves no partial file."""
    given = fairseq_finetuned(SIZES)
    torch.save(given, tmp_path / "theirs.pt")
    del given["model"]["w2v_encoder.w2v_model.mask_emb"]
    given["model"] |= {"decoder.weight": torch.ones(1), "w2v_encoder.w2v_model.mask_emb": 5}
    given["model"]["w2v_encoder.w2v_model.mask_emb"] = torch.ones(16)
    (tmp_path / "other").mkdir()
    torch.save(given, tmp_path / "other" / "more.pt")
    (tmp_path / "other" / "dict.ltr.txt").write_text(DICTIONARY)
    torch.save(nvidia(names.Sizes(layers=3, hourglass=(1, 1, 1, 2)), "pretrain"), tmp_path / "h.pt")
    (tmp_path / "taken.pt").touch()
    for arguments, message in [
        (["theirs.pt", "o.pt", "--to", "native"], "without its dictionary"),
        (["other/more.pt", "o.pt", "--to", "native"], "decoder.weight is unknown"),
        (["h.pt", "o.pt", "--to", "fairseq"], "hourglass [1,(1,2),1]: fairseq has none"),
        (["h.pt", "taken.pt", "--to", "native"], "exists already"),
        (["h.pt", "no/o.pt", "--to", "native"], "create it first"),
        (["gone.pt", "o.pt", "--to", "native"], "no such checkpoint"),
        (["h.pt", "o.pt", "--to", "kaldi"], "invalid choice"),
    ]:
        paths = [tmp_path / name for name in arguments[:2]]
        code, output = convert(*paths, *arguments[2:])
        assert code == 2 and message in output.err, (arguments, output.err)
        assert output.err.count("\n") == 1 and not (tmp_path / "o.pt").exists()


def test_another_dictionary_in_the_way(tmp_path, convert):
    torch.save(fairseq_finetuned(SIZES), tmp_path / "theirs.pt")
    (tmp_path / "dict.ltr.txt").write_text(DICTIONARY)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "dict.ltr.txt").write_text("| 1\nX 1\n")
    arguments = [tmp_path / "theirs.pt", tmp_path / "out" / "o.pt", "--to", "fairseq"]
    code, output = convert(*arguments)
    assert code == 2 and "exists already, with other symbols" in output.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["dict.ltr.txt"]
    (tmp_path / "out" / "dict.ltr.txt").write_text(DICTIONARY)
    assert convert(*arguments)[0] == 0


def broken(content, how):
    weights = dict(content["model"])
    if how == "keys":
        weights["extra.bias"] = weights.pop("proj.bias")
        return content | {"model": weights}
    if how == "no dictionary":
        return {name: value for name, value in content.items() if name != "dictionary"}
    if how == "another dictionary":
        return content | {"dictionary": "| 1\nX 1\n"}
    return content | {"model": weights | {"proj.bias": 5}}


BROKEN = {
    "keys": "proj.bias is missing; extra.bias is unknown",
    "no dictionary": "has no output layer and dictionary",
    "another dictionary": "its dictionary has 6 symbols",
    "no tensor": "'proj.bias', no floating-point tensor",
}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("to", ["native", "fairseq", "huggingface", "exported", "release"])
def test_our_own_checkpoints_are_checked_too(tmp_path, convert, how, to):
    """Nothing is written of an incomplete checkpoint, and the error says what it lacks."""
    torch.save(fairseq_finetuned(SIZES), tmp_path / "theirs.pt")
    (tmp_path / "dict.ltr.txt").write_text(DICTIONARY)
    content = checkpoints.read_checkpoint(tmp_path / "theirs.pt")
    save_checkpoint(tmp_path / "ours.pt", broken(content, how))
    (tmp_path / "out").mkdir()
    output = tmp_path / "out" / ("o.pt2" if to == "exported" else "o")
    if to == "release":
        with pytest.raises(UserError, match="ours.pt: .*" + re.escape(BROKEN[how])):
            checkpoints.release_checkpoint(
                str(tmp_path / "ours.pt"), output, checkpoints.ReleaseOptions()
            )
    else:
        code, found = convert(tmp_path / "ours.pt", output, "--to", to)
        assert code == 2 and found.err.count("\n") == 1
        assert "ours.pt: " in found.err and BROKEN[how] in found.err
    assert not list((tmp_path / "out").iterdir())


def test_a_pretrained_model_has_no_graph(tmp_path, convert):
    torch.save(fairseq_pretrained(SIZES), tmp_path / "theirs.pt")
    code, output = convert(tmp_path / "theirs.pt", tmp_path / "o.onnx", "--to", "onnx")
    assert code == 2 and "theirs.pt: has no output layer" in output.err


@pytest.mark.parametrize("to", ["native", "fairseq", "huggingface"])
def test_others_may_read_what_is_written(tmp_path, convert, to):
    torch.save(fairseq_finetuned(SIZES), tmp_path / "theirs.pt")
    (tmp_path / "dict.ltr.txt").write_text(DICTIONARY)
    (tmp_path / "out").mkdir()
    assert convert(tmp_path / "theirs.pt", tmp_path / "out" / "o", "--to", to)[0] == 0
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert written and all(path.stat().st_mode & 0o444 == 0o444 for path in written)
