"""Reading a file of torch.save without some of its entries."""

from pathlib import Path

import pytest
import torch

from wav2vec2.cli.errors import UserError
from wav2vec2.files import torch_file
from wav2vec2.files.torch_file import read_torch_file, to_fp32


@pytest.fixture
def content():
    torch.manual_seed(0)
    weights = {f"w{n}": torch.randn(50 + n, 3) for n in range(6)}
    weights["view"] = weights["w0"].T[1:]
    state = {"state": {n: {"exp_avg": torch.randn(9)} for n in range(3)}}
    return {"model": weights, "nested": [1, ("a", torch.ones(2))], "optimizer": state, "update": 3}


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected["model"].items():
        assert torch.equal(found["model"][name], value)
    assert found["nested"][:1] == [1] and found["nested"][1][0] == "a"
    assert torch.equal(found["nested"][1][1], torch.ones(2)) and found["update"] == 3


@pytest.mark.parametrize("most", [0, 700, 1 << 27])
@pytest.mark.parametrize("zipped", [True, False])
def test_entries_are_left_out(content, tmp_path, monkeypatch, most, zipped):
    """However often the file is mapped; an old one cannot be."""
    monkeypatch.setattr(torch_file, "_MOST_MAPPED", most)
    path = tmp_path / "content.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    found = read_torch_file(path, without=("optimizer", "unknown"))
    same(found, {n: v for n, v in content.items() if n != "optimizer"})
    same(read_torch_file(path, without=("unknown",)), content)
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_damage_is_found(content, tmp_path):
    path = tmp_path / "content.pt"
    torch.save(content, path)
    data = bytearray(path.read_bytes())
    data[data.index(content["model"]["w3"].numpy().tobytes()) + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        read_torch_file(path, without=("optimizer",))


def test_weights_become_fp32_in_place():
    weights = {"a": torch.ones(2, dtype=torch.float16), "b": torch.ones(2), "c": torch.arange(2)}
    kept = weights["b"]
    to_fp32(weights)
    assert weights["a"].dtype == torch.float32 and weights["c"].dtype == torch.int64
    assert weights["b"] is kept
