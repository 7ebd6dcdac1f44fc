import os
import pickle
import time
import zipfile

import pytest
import torch

from common.training import checkpoint
from tests.unit.wav2vec2.interop import names
from tests.unit.wav2vec2.interop.conftest import fairseq_finetuned, fairseq_pretrained, nvidia
from wav2vec2.cli.errors import UserError
from wav2vec2.files import torch_file
from wav2vec2.files.torch_file import file_digest, load_checkpoint, save_checkpoint, weights_digest

CONTENT = {"model": {"w": torch.arange(1000.0)}, "update": 3, "recipe": {"pair": (1.0, 2.0)}}


def test_round_trip(tmp_path):
    path = tmp_path / "c.pt"
    save_checkpoint(path, CONTENT)
    loaded = load_checkpoint(path)
    assert torch.equal(loaded["model"]["w"], CONTENT["model"]["w"])
    assert loaded["recipe"] == CONTENT["recipe"] and loaded["update"] == 3
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


def test_missing(tmp_path):
    with pytest.raises(UserError, match=r"c\.pt: no such checkpoint"):
        load_checkpoint(tmp_path / "c.pt")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated(tmp_path, share):
    path = tmp_path / "c.pt"
    save_checkpoint(path, CONTENT)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match=r"c\.pt: truncated"):
        load_checkpoint(path)


def test_one_flipped_bit_in_the_weights_is_found(tmp_path):
    path = tmp_path / "c.pt"
    save_checkpoint(path, CONTENT)
    data = bytearray(path.read_bytes())
    position = data.index(torch.arange(500.0, 510.0).numpy().tobytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"c\.pt: damaged"):
        load_checkpoint(path)


class Malicious:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_code_in_a_pickle_never_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "model": Malicious()}, "evil.pt")
    with pytest.raises(UserError, match=r"evil\.pt: not a checkpoint"):
        load_checkpoint("evil.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(UserError, match=r"plain\.pt"):
        load_checkpoint("plain.pt")
    assert not (tmp_path / "pwned").exists()


def test_other_files(tmp_path):
    torch.save({"weights": 1}, tmp_path / "foreign.pt")
    with pytest.raises(UserError, match="not a checkpoint of this repository"):
        load_checkpoint(tmp_path / "foreign.pt")
    with zipfile.ZipFile(tmp_path / "z.pt", "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(UserError, match=r"z\.pt"):
        load_checkpoint(tmp_path / "z.pt")


def test_a_format_that_is_no_number_is_not_ours(tmp_path):
    torch.save({"format": "x"}, tmp_path / "c.pt")
    with pytest.raises(UserError, match="not a checkpoint of this repository"):
        load_checkpoint(tmp_path / "c.pt")


def test_a_folders_digest_is_that_of_its_weights(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "README.md").write_bytes(b"one text")
    before = weights_digest(tmp_path)
    (tmp_path / "README.md").write_bytes(b"another")
    assert weights_digest(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(b"others")
    assert weights_digest(tmp_path) != before
    path = tmp_path / "model.safetensors"
    assert weights_digest(path) == file_digest(path)


def test_newer_format(tmp_path):
    torch.save({"format": torch_file.FORMAT + 1}, tmp_path / "c.pt")
    with pytest.raises(UserError, match="update the repository"):
        load_checkpoint(tmp_path / "c.pt")


def test_a_failed_save_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    save_checkpoint(path, CONTENT)

    def full(content, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    content = {"update": 4, "model": {"w": torch.zeros(500_000)}, "nested": [torch.zeros(500_000)]}
    with pytest.raises(UserError, match=r"c\.pt: .*No space left.*takes 4 MB, \d+ MB are free"):
        save_checkpoint(path, content)
    monkeypatch.undo()
    assert load_checkpoint(path)["update"] == 3
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


def test_retention(tmp_path):
    folder = checkpoint.CheckpointFolder(tmp_path, "wav2vec2")
    for update in (5, 10, 100, 20):
        save_checkpoint(folder.update_file(update), {})
    save_checkpoint(folder.best_file, {})
    assert folder.updates() == [5, 10, 20, 100]
    folder.prune(2)
    assert folder.updates() == [20, 100]
    assert folder.best_file.exists()
    folder.prune(1, milestones=[15, 1000])
    assert folder.updates() == [20, 100]  # 20 is nearest to 15
    (tmp_path / ".wav2vec2_update7.pt.1.tmp").touch()  # of a process that was killed
    folder.prune(1)
    assert folder.updates() == [100]
    assert not list(tmp_path.glob(".*"))


def test_what_training_changes_meanwhile_is_not_written(tmp_path, monkeypatch):
    """The file holds the tensors of the moment of the call; one write at a time."""
    original, order = save_checkpoint, []

    def slow(path, content):
        order.append(("start", path.name))
        time.sleep(0.1)
        original(path, content)
        order.append(("end", path.name))

    monkeypatch.setattr(checkpoint, "save_checkpoint", slow)
    weights, plain = torch.zeros(10), {"step": 1}
    writer = checkpoint.CheckpointWriter()
    writer.save(tmp_path / "a.pt", {"w": [weights], "plain": plain}, then=lambda: order.append("a"))
    weights.fill_(7)
    plain["step"] = 2
    writer.save(tmp_path / "b.pt", {"w": (weights,)}, then=lambda: order.append("b"))
    weights.fill_(9)
    writer.wait()
    names = [("start", "a.pt"), ("end", "a.pt"), "a", ("start", "b.pt"), ("end", "b.pt"), "b"]
    assert order == names
    saved = load_checkpoint(tmp_path / "a.pt")
    assert saved["w"][0].tolist() == [0.0] * 10 and saved["plain"] == {"step": 1}
    assert load_checkpoint(tmp_path / "b.pt")["w"][0].tolist() == [7.0] * 10


def test_a_write_that_fails_is_told_at_the_next_call(tmp_path):
    writer = checkpoint.CheckpointWriter()
    writer.save(tmp_path / "missing" / "a.pt", {}, then=lambda: None)
    with pytest.raises(UserError, match=r"a\.pt: checkpoint cannot be saved"):
        writer.wait()
    writer.wait()  # said once


FOREIGN = {
    "NVIDIA's recipe": [nvidia(names.Sizes(), "pretrain"), nvidia(names.Sizes(), "finetune")],
    "fairseq": [fairseq_pretrained(names.Sizes()), fairseq_finetuned(names.Sizes(), "args")],
}


@pytest.mark.parametrize("file", ["wav2vec2_update4.pt", "wav2vec2_best.pt"])
@pytest.mark.parametrize("toolkit", list(FOREIGN))
@pytest.mark.parametrize("number", [0, 1])
def test_checkpoints_of_another_toolkit_are_named(tmp_path, file, toolkit, number):
    """Of the same file names: they are neither resumed nor written over."""
    torch.save(FOREIGN[toolkit][number], tmp_path / file)
    with pytest.raises(UserError) as error:
        checkpoint.CheckpointFolder(tmp_path, "wav2vec2").newest()
    message = f"{tmp_path / file}: a checkpoint of {toolkit}, which no run here can resume"
    assert str(error.value).startswith(message)
    assert f"INIT_FROM={tmp_path / file} to pre-train" in str(error.value)


def test_a_newer_one_of_another_toolkit_is_not_passed_over(tmp_path):
    """Or pruning would remove it as an old checkpoint of the run."""
    folder = checkpoint.CheckpointFolder(tmp_path, "wav2vec2")
    save_checkpoint(folder.update_file(3), CONTENT)
    torch.save(FOREIGN["NVIDIA's recipe"][0], folder.update_file(9))
    with pytest.raises(UserError, match=r"wav2vec2_update9\.pt: a checkpoint of NVIDIA's recipe"):
        folder.newest()


def test_the_best_of_a_run_that_saved_no_other_is_no_hindrance(tmp_path):
    folder = checkpoint.CheckpointFolder(tmp_path, "wav2vec2")
    assert folder.newest() is None
    save_checkpoint(folder.best_file, CONTENT)
    assert folder.newest() is None


@pytest.mark.parametrize(
    "entry, value",
    [("model", [1]), ("model", {"w": 1}), ("recipe", 3), ("optimizer", None), ("update", "x")],
)
def test_a_damaged_newest_checkpoint_is_skipped(entry, value, tmp_path, capsys):
    folder = checkpoint.CheckpointFolder(tmp_path, "w")
    save_checkpoint(folder.update_file(1), CONTENT)
    save_checkpoint(folder.update_file(2), {**CONTENT, entry: value})
    assert folder.newest().path == folder.update_file(1)
    assert "w_update2.pt: damaged, its" in capsys.readouterr().err
