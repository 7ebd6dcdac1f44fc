"""Release folders: only the training state is lost, and damage is detected."""

import hashlib
import json
import shutil
import subprocess
from dataclasses import replace

import pytest
import torch

from tests.unit.wav2vec2.text.test_subwords import learn
from wav2vec2.cli.errors import UserError
from wav2vec2.config import MINI, ContrastiveObjective, Hourglass, Regularisation
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.files.torch_file import save_checkpoint
from wav2vec2.interop import checkpoints, native
from wav2vec2.interop.checkpoints import ReleaseOptions, release_checkpoint
from wav2vec2.pretraining import Wav2Vec2ForPretraining
from wav2vec2.text.vocabulary import Vocabulary

NARROW = replace(MINI, dim=48, ffn_dim=64, layers=3, hourglass=Hourglass(1, 1, 2, 1, "linear"))
STATE = {
    "optimizer": {"state": torch.ones(1000)},
    "ema_model": {"w": torch.ones(1000)},
    "recipe": {"learning_rate": 0.004, "adam_betas": [0.9, 0.98], "architecture": {}},
    "update": 2432,
    "best": 6.41,
}


def recogniser():
    torch.manual_seed(0)
    vocabulary = Vocabulary(["|", "Ä", "B"])
    model = Wav2Vec2ForCTC.from_config(NARROW, Regularisation(), len(vocabulary))
    return {**native.ctc_content(NARROW, vocabulary, "ltr"), "model": model.state_dict(), **STATE}


def pretrained():
    torch.manual_seed(0)
    model = Wav2Vec2ForPretraining.from_config(NARROW, Regularisation(), ContrastiveObjective())
    return {**native.pretraining_content(NARROW), "model": model.state_dict(), **STATE}


@pytest.fixture
def released(tmp_path):
    def release(content, options=ReleaseOptions()):  # noqa: B008
        save_checkpoint(tmp_path / "c.pt", content)
        release_checkpoint(str(tmp_path / "c.pt"), tmp_path / "model", options)
        return tmp_path / "model"

    return release


@pytest.mark.parametrize("make", [recogniser, pretrained])
def test_round_trip(released, make):
    content = make()
    folder = released(content)
    found = checkpoints.read_checkpoint(folder)
    expected = native.without_training_state(content)
    assert {**found, "model": None} == {**expected, "model": None}
    assert found["model"].keys() == expected["model"].keys()
    for name, tensor in expected["model"].items():
        assert torch.equal(found["model"][name], tensor), name
    trained = {"optimizer", "ema_model", "recipe", "best"}
    assert not trained & found.keys()


def test_a_sentencepiece_model_travels(released):
    content = recogniser()
    model = learn(["AN BE AN", "BE"], 6).content
    content["sentencepiece"] = torch.frombuffer(bytearray(model), dtype=torch.uint8)
    folder = released(content)
    assert (folder / "sentencepiece.model").read_bytes() == model
    assert torch.equal(
        checkpoints.read_checkpoint(folder)["sentencepiece"], content["sentencepiece"]
    )


def test_checksums_are_those_of_sha256sum(released):
    folder = released(recogniser())
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("README.md", "SHA256SUMS", "config.json", "dictionary.txt", "model.safetensors"),
    }
    result = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True
    )
    assert (result.returncode, result.stdout.count(": OK")) == (0, 3)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "dictionary.txt"])
def test_damage(released, name):
    folder = released(recogniser())
    data = bytearray((folder / name).read_bytes())
    data[-2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(UserError, match=f"{name}: (damaged|not JSON)"):
        checkpoints.read_checkpoint(folder)


def test_missing_and_foreign_files(released, tmp_path):
    folder = released(recogniser())
    sums = (folder / "SHA256SUMS").read_text()
    (folder / "README.md").write_text("Licence: MIT")  # people edit the model card
    checkpoints.read_checkpoint(folder)
    (tmp_path / "secret").write_text("x")
    digest = hashlib.sha256(b"x").hexdigest()
    for changed in (f"{sums}{digest}  ../secret\n", sums.replace("model.safetensors", "m"), "x"):
        (folder / "SHA256SUMS").write_text(changed)
        with pytest.raises(UserError, match="SHA256SUMS: does not list"):
            checkpoints.read_checkpoint(folder)
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match="SHA256SUMS: cannot be read"):
        checkpoints.read_checkpoint(folder)
    (folder / "SHA256SUMS").write_text(sums)
    (folder / "dictionary.txt").unlink()
    with pytest.raises(UserError, match=r"dictionary.txt: cannot be read"):
        checkpoints.read_checkpoint(folder)


def test_model_card(released, tmp_path):
    summary = {
        **{"subset": "test", "wer": 6.7337, "uer": 1.2, "unit_rate": "CER", "utterances": 240},
        "decoding": {"decoder": "beam"},
    }
    evaluation = tmp_path / "evaluation"
    evaluation.mkdir()
    (evaluation / "summary_test.json").write_text(json.dumps(summary))
    card = (released(recogniser(), ReleaseOptions(str(evaluation))) / "README.md").read_text()
    for text in (
        "# model\n",
        "transcribe --checkpoint model ",
        "## Licence",
        "| WER % | CER % |",
        "| test | beam | 6.73 | 1.20 | 240 |",
        "word error rate, %, in the validations up to this checkpoint: 6.41.",
        "| dim | `48` |",
        "| learning_rate | `0.004` |",
        "| adam_betas | `0.9 0.98` |",
        "after update 2432",
        "3 units",
    ):
        assert text in card, text
    shutil.rmtree(tmp_path / "model")
    card = (released(pretrained()) / "README.md").read_text()
    assert "PRETRAINED_MODEL=model" in card and "loss, bits" in card


def test_mistakes(released, tmp_path):
    with pytest.raises(UserError, match="holds no summary"):
        released(recogniser(), ReleaseOptions(str(tmp_path)))
    folder = released(recogniser())
    with pytest.raises(UserError, match="exists already"):
        release_checkpoint(str(tmp_path / "c.pt"), folder, ReleaseOptions())
