"""Pickles from others: what is built, what is refused, and that no code runs."""

import argparse
import builtins
import functools
import os
import pickle
import shutil
import subprocess
import sys
import types

import pytest
import torch

from wav2vec2.cli.errors import UserError
from wav2vec2.files.torch_file import load_checkpoint, read_torch_file
from wav2vec2.interop import checkpoints
from wav2vec2.interop.unpickling_stubs import STUBS, Stub, replace_stubs

LEGACY = {"_use_new_zipfile_serialization": False}


class Call:
    """Pickles as a call of `function` with `arguments`, then of `__setstate__`."""

    def __init__(self, function, *arguments, state=None):
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.parts


TOUCH = "open('pwned', 'w').close()"
ATTACKS = {
    "os.system": Call(os.system, "touch pwned"),
    "eval": Call(eval, TOUCH),
    "exec": Call(exec, TOUCH),
    "subprocess": Call(subprocess.Popen, ["touch", "pwned"]),
    "getattr": Call(getattr, Call(__import__, "os"), "system"),
    "getattr of something allowed": Call(getattr, argparse.Namespace, "__init__"),
    "attrgetter": Call(Call, Call(functools.partial, os.system, "touch pwned")),
    "state": Call(argparse.Namespace, state=Call(os.system, "touch pwned")),
    "import": Call(__import__, "os"),
    "loader": Call(pickle.loads, pickle.dumps(Call(os.system, "touch pwned"))),
    "torch.load": Call(torch.load, "pwned.pt"),
    "setattr": Call(setattr, Call(argparse.Namespace), "x", 1),
}


@pytest.mark.parametrize("options", [{}, LEGACY], ids=["zip", "legacy"])
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_code_in_a_checkpoint_never_runs(tmp_path, monkeypatch, attack, options):
    monkeypatch.chdir(tmp_path)
    for content in ({"model": {}, "args": attack}, {"format": 1, "x": attack}, attack):
        torch.save(content, "evil.pt", **options)
        with pytest.raises(UserError, match=r"evil\.pt: not a checkpoint this version reads"):
            checkpoints.read_checkpoint("evil.pt")
        with pytest.raises(UserError, match=r"evil\.pt"):
            load_checkpoint("evil.pt")
    assert not (tmp_path / "pwned").exists()


def test_the_refused_class_is_named(tmp_path):
    torch.save({"model": Call(shutil.rmtree, "x")}, tmp_path / "c.pt")
    with pytest.raises(UserError, match=r"it asks for shutil\.rmtree"):
        checkpoints.read_checkpoint(tmp_path / "c.pt")
    torch.save({"model": Call(eval, "x")}, tmp_path / "c.pt")
    with pytest.raises(UserError, match=r"it asks for eval,"):
        checkpoints.read_checkpoint(tmp_path / "c.pt")


def raw_pickle(code: bytes) -> bytes:
    """A legacy torch file whose content is the pickle `code`."""
    parts = [torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {}]
    head = b"".join(pickle.dumps(part, protocol=2) for part in parts)
    return head + code + pickle.dumps([], protocol=2)


@pytest.mark.parametrize(
    "code",
    [
        # A persistent id that is no storage; one whose type is a function of the system.
        b"\x80\x02(X\x02\x00\x00\x00osX\x05\x00\x00\x00touchtQ.",
        b"\x80\x02(X\x07\x00\x00\x00storagecos\nsystem\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01NtQ.",
        # INST and OBJ, the old ways to call.
        b"\x80\x02(X\x0b\x00\x00\x00touch pwnedios\nsystem\n.",
        b"\x80\x02(cos\nsystem\nX\x0b\x00\x00\x00touch pwnedo.",
        # A call of what is on the stack as data, and of a stub's attribute.
        b"\x80\x02X\x06\x00\x00\x00system(X\x0b\x00\x00\x00touch pwnedtR.",
        b"\x80\x02cargparse\nNamespace.mro\n(tR.",
        # State for an object without attributes.
        b"\x80\x02}X\x01\x00\x00\x00a}b.",
        b"\x80\x02cargparse\nNamespace\n}b.",
        # EXT1, and an empty stack.
        b"\x80\x02\x82\x01.",
        b"\x80\x02R.",
    ],
)
def test_crafted_opcodes(tmp_path, monkeypatch, code):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pt").write_bytes(raw_pickle(code))
    with pytest.raises(UserError, match=r"evil\.pt"):
        checkpoints.read_checkpoint("evil.pt")
    assert not (tmp_path / "pwned").exists()


def test_a_stub_only_stores_its_arguments():
    stub = Stub(1, 2)
    stub.__setstate__({"__class__": int, "state": "x", "items": len})
    assert type(stub) is Stub and stub.arguments == (1, 2)
    with pytest.raises(AttributeError):
        stub.items = len  # no attribute of an instance shadows a method


def test_no_stub_is_a_real_class():
    """A pickle can name only inert stubs and what torch itself allows."""
    assert {value for value in STUBS.values() if isinstance(value, type)} == {Stub}
    assert "builtins.eval" not in STUBS and "builtins.getattr" not in STUBS
    real = {vars(builtins)[name.split(".")[1]] for name in STUBS if name.startswith("builtins")}
    assert all(isinstance(value, type) for value in real)


def test_namespaces_and_numbers_become_plain(tmp_path):
    numpy = pytest.importorskip("numpy")
    nested = argparse.Namespace(heads=4, w2v_args=argparse.Namespace(rates=[0.1, None]))
    content = {"args": nested, "best": numpy.float64(3.5), "w": torch.ones(2, dtype=torch.half)}
    content["history"] = numpy.ones(3)
    for options in ({}, LEGACY):
        torch.save(content, tmp_path / "c.pt", **options)
        read = replace_stubs(read_torch_file(tmp_path / "c.pt", STUBS))
        assert read["args"] == {"heads": 4, "w2v_args": {"rates": [0.1, None]}}
        assert torch.equal(read["w"], content["w"])


def omegaconf_modules():
    """Classes that pickle as OmegaConf's do, without OmegaConf."""

    def make(module, name):
        def __init__(self, **fields):
            self.__dict__.update(fields)

        return type(name, (), {"__module__": module, "__init__": __init__})

    modules = {}
    for module, name in [
        ("omegaconf.dictconfig", "DictConfig"),
        ("omegaconf.listconfig", "ListConfig"),
        ("omegaconf.nodes", "AnyNode"),
        ("omegaconf.base", "ContainerMetadata"),
        ("fairseq.data.text_compressor", "TextCompressionLevel"),
    ]:
        modules[module] = types.ModuleType(module)
        setattr(modules[module], name, make(module, name))
    return modules


def test_omegaconf_nodes_become_plain(tmp_path, monkeypatch):
    """OmegaConf pickles containers of nodes; each node has its parent and its types."""
    modules = omegaconf_modules()
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setitem(sys.modules, name.split(".")[0], types.ModuleType(name.split(".")[0]))
    dict_config = modules["omegaconf.dictconfig"].DictConfig
    list_config = modules["omegaconf.listconfig"].ListConfig
    node = modules["omegaconf.nodes"].AnyNode
    metadata = modules["omegaconf.base"].ContainerMetadata(
        object_type=dict, key_type=int, flags=None
    )
    root = dict_config(_metadata=metadata, _parent=None)
    section = dict_config(_metadata=metadata, _parent=root)
    section._content = {
        "heads": node(_val=4, _parent=section),
        "old": node(_val=argparse.Namespace(layers=2), _parent=section),  # as fairseq 0.10 did
        "path": node(_val="${task.data}", _parent=section),
        "rates": list_config(_content=[node(_val=0.5, _parent=None)], _parent=section),
    }
    root._content = {"model": section}
    torch.save({"cfg": root}, tmp_path / "c.pt")
    read = replace_stubs(read_torch_file(tmp_path / "c.pt", STUBS))
    assert read["cfg"]["model"] == {
        "heads": 4,
        "old": {"layers": 2},
        "path": "${task.data}",
        "rates": [0.5],
    }


def test_a_configuration_that_holds_itself_is_refused(tmp_path):
    circular: dict = {}
    circular["args"] = circular
    torch.save(circular, tmp_path / "c.pt")
    with pytest.raises(UserError, match="damaged"):
        checkpoints.read_checkpoint(tmp_path / "c.pt")
