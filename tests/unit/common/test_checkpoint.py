import os
import pickle
import zipfile

import pytest
import torch

from common import checkpoint
from common.errors import UserError

CONTENT = {"model": {"w": torch.arange(1000.0)}, "update": 3, "recipe": {"pair": (1.0, 2.0)}}


def test_round_trip(tmp_path):
    path = tmp_path / "c.pt"
    checkpoint.save(path, CONTENT)
    loaded = checkpoint.load(path)
    assert torch.equal(loaded["model"]["w"], CONTENT["model"]["w"])
    assert loaded["recipe"] == CONTENT["recipe"] and loaded["update"] == 3
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


def test_missing(tmp_path):
    with pytest.raises(UserError, match=r"c\.pt: no such checkpoint"):
        checkpoint.load(tmp_path / "c.pt")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated(tmp_path, share):
    path = tmp_path / "c.pt"
    checkpoint.save(path, CONTENT)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match=r"c\.pt: truncated"):
        checkpoint.load(path)


def test_one_flipped_bit_in_the_weights_is_found(tmp_path):
    path = tmp_path / "c.pt"
    checkpoint.save(path, CONTENT)
    data = bytearray(path.read_bytes())
    position = data.index(torch.arange(500.0, 510.0).numpy().tobytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"c\.pt: damaged"):
        checkpoint.load(path)


class Malicious:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_code_in_a_pickle_never_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "model": Malicious()}, "evil.pt")
    with pytest.raises(UserError, match=r"evil\.pt: not a checkpoint"):
        checkpoint.load("evil.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(UserError, match=r"plain\.pt"):
        checkpoint.load("plain.pt")
    assert not (tmp_path / "pwned").exists()


def test_other_files(tmp_path):
    torch.save({"weights": 1}, tmp_path / "foreign.pt")
    with pytest.raises(UserError, match="not a checkpoint of this repository"):
        checkpoint.load(tmp_path / "foreign.pt")
    with zipfile.ZipFile(tmp_path / "z.pt", "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(UserError, match=r"z\.pt"):
        checkpoint.load(tmp_path / "z.pt")


def test_newer_format(tmp_path):
    torch.save({"format": checkpoint.FORMAT + 1}, tmp_path / "c.pt")
    with pytest.raises(UserError, match="update the repository"):
        checkpoint.load(tmp_path / "c.pt")


def test_a_failed_save_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    checkpoint.save(path, CONTENT)

    def full(content, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"c\.pt: .*No space left"):
        checkpoint.save(path, {"update": 4})
    monkeypatch.undo()
    assert checkpoint.load(path)["update"] == 3
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


def test_retention(tmp_path):
    for update in (5, 10, 100, 20):
        checkpoint.save(checkpoint.update_file(tmp_path, update), {})
    checkpoint.save(checkpoint.best_file(tmp_path), {})
    assert checkpoint.saved_updates(tmp_path) == [5, 10, 20, 100]
    checkpoint.prune(tmp_path, 2)
    assert checkpoint.saved_updates(tmp_path) == [20, 100]
    assert checkpoint.best_file(tmp_path).exists()
