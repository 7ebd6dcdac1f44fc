"""The gate before every checkpoint: files that claim more than they hold, and damaged files."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from tests.unit.wav2vec2.interop.mutations import FORMATS
from tests.unit.wav2vec2.interop.test_huggingface import ctc_content, pretraining_content
from tests.unit.wav2vec2.interop.test_unpickling_stubs import Call, raw_pickle
from wav2vec2.cli.errors import UserError
from wav2vec2.files import gate
from wav2vec2.files.torch_file import save_checkpoint
from wav2vec2.interop import checkpoints, huggingface, native, release
from wav2vec2.interop.unpickling_stubs import replace_stubs

ROOT = Path(__file__).resolve().parents[4]
CLAIMS = "claims more than it holds"
LEGACY = {"_use_new_zipfile_serialization": False}


def refused(path, message="damaged") -> None:
    with pytest.raises(UserError, match=message) as caught:
        content = checkpoints.read_checkpoint(path)
        load = native.load_ctc if content["kind"] == "ctc" else native.load_trunk
        load(content, str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def mutate(name: str, cases: int) -> None:
    """Damaged files of one format, read in a process with little memory; see mutations.py."""
    if name == "onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    command = [sys.executable, "-m", "tests.unit.wav2vec2.interop.mutations", name, str(cases), "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stdout[-600:] + result.stderr[-3000:]
    counts = json.loads(result.stdout.splitlines()[-1])
    assert counts["read"] + counts["refused"] == cases
    assert counts["refused"] > cases / 3


SHORT = {"native": 100, "legacy": 100, "huggingface": 100, "pt2": 100, "onnx": 100, "release": 50}
"""Cases of each container in the short tier; fairseq's and NVIDIA's files are zip files, too."""


@pytest.mark.parametrize("name", list(FORMATS))
def test_damaged_files(name):
    mutate(name, SHORT.get(name, 20))


@pytest.mark.long
@pytest.mark.parametrize("name", list(FORMATS))
def test_many_damaged_files(name):
    mutate(name, 2_000)


@pytest.mark.parametrize("kind", ["pipe", "device", "link to a device"])
def test_what_is_no_regular_file(kind, tmp_path):
    path = tmp_path / "c.pt"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    else:
        path.symlink_to("/dev/zero")
    refused(path, "not a regular file")


def test_pipes_in_folders(tmp_path):
    for name in ("config.json", "vocab.json", "model.safetensors", "preprocessor_config.json"):
        folder = tmp_path / name.partition(".")[0]
        huggingface.write_huggingface(ctc_content(), folder)
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(UserError):
            checkpoints.read_checkpoint(folder)
    folder = tmp_path / "release"
    release.write_release(ctc_content(), folder)
    (folder / "dictionary.txt").unlink()
    os.mkfifo(folder / "dictionary.txt")
    refused(folder, "dictionary.txt: not a regular file")


def with_checksums(data: bytes, old: bytes, new: bytes) -> bytes:
    """A zip file with `old` replaced by `new` in its pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as file, zipfile.ZipFile(buffer, "w") as changed:
        for name in file.namelist():
            content = file.read(name)
            changed.writestr(name, content.replace(old, new) if ".pkl" in name else content)
    return buffer.getvalue()


def saved(content, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
def test_compressed_parts(suffix, tmp_path):
    """A bomb: 1 GB of zeros in 1 MB."""
    path = tmp_path / f"bomb{suffix}"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("m/archive_format" if suffix == ".pt2" else "m/data.pkl", "pt2")
        with file.open("m/data/weights/weight_0", "w") as part:
            for _ in range(100):
                part.write(bytes(10**6))
    refused(path, "damaged, .* is compressed")


def test_parts_that_overlap(tmp_path):
    """Two entries of the directory with the same bytes."""
    path, buffer = tmp_path / "c.pt", io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("m/data.pkl", pickle.dumps(1, protocol=2))
        file.writestr("m/data/0", bytes(10_000))
        for number in range(1, 50):
            other = zipfile.ZipInfo(f"m/data/{number}")
            first = file.getinfo("m/data/0")
            other.file_size = other.compress_size = first.file_size
            other.CRC, other.header_offset = first.CRC, first.header_offset
            file.filelist.append(other)
            file.NameToInfo[other.filename] = other
    path.write_bytes(buffer.getvalue())
    refused(path, CLAIMS)


def test_a_long_directory_and_two_ends(tmp_path):
    path, buffer = tmp_path / "c.pt", io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for number in range(40_000):
            file.writestr(f"m/data/{number:060}", b"")
    path.write_bytes(buffer.getvalue())
    refused(path, "more parts than .*use facebook/mms-1b-all with --language")
    path.write_bytes(saved(ctc_content()) + b"after the end")
    refused(path)


@pytest.mark.parametrize("options", [{}, LEGACY], ids=["zip", "legacy"])
class TestTorchFiles:
    """Tensors and values of files of torch.save."""

    def test_a_tensor_larger_than_its_storage(self, options, tmp_path):
        path = tmp_path / "c.pt"
        one = torch.ones(1)
        for odd in (one.expand(10**7), one.as_strided((2**40, 2**20), (0, 0))):
            path.write_bytes(
                saved({"format": 1, **ctc_content(), "ema_model": {"a": odd}}, **options)
            )
            refused(path, CLAIMS)

    def test_a_storage_larger_than_the_file(self, options, tmp_path):
        path = tmp_path / "c.pt"
        data = saved({"format": 1, "model": {"w": torch.ones(12_345)}}, **options)
        number = b"M" + struct.pack("<H", 12_345)
        assert number in data
        larger = data.replace(number, b"M" + struct.pack("<H", 65_000))
        if not options:
            larger = with_checksums(data, number, b"M" + struct.pack("<H", 65_000))
        path.write_bytes(larger)
        refused(path, CLAIMS)

    def test_tensors_that_share_all_numbers(self, options, tmp_path):
        path, one = tmp_path / "c.pt", torch.ones(10_000)
        many = {f"w{n}": one.view(1, -1) for n in range(200)}
        path.write_bytes(saved({"format": 1, **ctc_content(), "model": many}, **options))
        refused(path, CLAIMS)

    def test_values_that_multiply(self, options, tmp_path):
        """Each line uses the one before twice; as a key, all are hashed."""
        path, value = tmp_path / "c.pt", ("x",)
        for _ in range(60):
            value = (value, value)
        data = pickle.dumps(value, protocol=2)[:-1]  # without its end
        content = b"\x80\x02}" + data[2:] + b"K\x01s."
        path.write_bytes(raw_pickle(content))
        refused(path, CLAIMS)

    def test_deep_values(self, options, tmp_path):
        path = tmp_path / "c.pt"
        for open_, close in ((b"(", b"t"), (b"]", b"a")):
            path.write_bytes(raw_pickle(b"\x80\x02" + open_ * 5000 + b"N" + close * 5000 + b"."))
            refused(path)

    def test_memory_that_a_call_asks_for(self, options, tmp_path):
        path = tmp_path / "c.pt"
        for call in (Call(bytearray, 10**12), Call(torch.FloatTensor, 10**9)):
            path.write_bytes(saved({"format": 1, "model": call}, **options))
            refused(path, "damaged: it asks for")

    @pytest.mark.parametrize(
        "entry, value",
        [
            ("model", [torch.ones(1)]),
            ("model", None),
            ("model", {1: torch.ones(1)}),
            ("model", {"proj.bias": torch.ones(8, dtype=torch.int64)}),
            ("model", {"proj.bias": 1.0}),
            ("kind", "x"),
            ("kind", None),
            ("kind", ["ctc"]),
            ("dictionary", 7),
            ("dictionary", torch.ones(2)),
            ("spelling", "x"),
            ("spelling", 3),
            ("labels", None),
            ("labels", "../x"),
            ("sentencepiece", b"x"),
            ("sentencepiece", torch.ones(3)),
            ("architecture", None),
            ("architecture", [1]),
            ("architecture", {"dim": "16"}),
            ("architecture", {"dim": True}),
            ("architecture", {"layers": -1}),
            ("architecture", {"heads": 0}),
            ("architecture", {"conv_layers": [[1, 2]]}),
            ("architecture", {"conv_layers": 5}),
            ("architecture", {"hourglass": "x"}),
            ("architecture", {"hourglass": {"pre": "1", "middle": 1, "factor": 1, "post": 0}}),
            ("update", "x"),
            ("format", True),
        ],
    )
    def test_entries_of_other_types(self, options, entry, value, tmp_path):
        path, content = tmp_path / "c.pt", {"format": 1, **ctc_content()}
        if entry == "architecture" and isinstance(value, dict):
            value = {**content["architecture"], **value}
        path.write_bytes(saved({**content, entry: value}, **options))
        refused(path, "damaged|not a checkpoint of this repository")

    @pytest.mark.parametrize(
        "tensor", [torch.eye(3).to_sparse(), torch.ones(2, dtype=torch.complex64)]
    )
    def test_tensors_that_are_no_weights(self, options, tensor, tmp_path):
        path, content = tmp_path / "c.pt", {"format": 1, **ctc_content()}
        content["model"] = {**content["model"], "proj.bias": tensor}
        path.write_bytes(saved(content, **options))
        refused(path)


SIZES = [
    {"layers": 10**6},
    {"layers": 10**80},
    {"dim": 10**9, "heads": 1, "position_groups": 1},
    {"dim": 10**150, "heads": 1, "position_groups": 1},
    {"ffn_dim": 10**9},
    {"position_kernel": 10**9},
    {"conv_layers": [[10**9, 10, 5], [10**9, 3, 2]]},
    {"conv_layers": [[8, 1, 1]] * 1000},
]


@pytest.mark.parametrize("change", SIZES, ids=lambda change: next(iter(change)))
@pytest.mark.parametrize("make", [ctc_content, pretraining_content])
def test_sizes_beyond_the_weights(make, change, tmp_path):
    path, content = tmp_path / "c.pt", make()
    save_checkpoint(path, {**content, "architecture": {**content["architecture"], **change}})
    refused(path, CLAIMS)


@pytest.mark.parametrize(
    "key, value",
    [
        ("num_hidden_layers", 10**6),
        ("hidden_size", 16 * 10**8),
        ("hidden_size", 16 * 10**400),
        ("intermediate_size", 10**30),
        ("vocab_size", 10**9),
        ("conv_dim", [10**9, 10**9]),
        ("num_conv_pos_embeddings", 10**12),
    ],
)
def test_sizes_in_a_configuration(key, value, tmp_path):
    huggingface.write_huggingface(ctc_content(), tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    refused(tmp_path / "m", CLAIMS)


def test_settings_without_weights(tmp_path):
    """Strides and the shortening factor take memory when the model runs."""
    content, path = ctc_content(), tmp_path / "c.pt"
    changes = [
        {"conv_layers": [[8, 10, 10**12], [8, 3, 2]]},
        {"hourglass": {"pre": 1, "middle": 1, "factor": 10**9, "post": 0, "resampling": "naive"}},
    ]
    for change in changes:
        save_checkpoint(path, {**content, "architecture": {**content["architecture"], **change}})
        refused(path)


@pytest.mark.parametrize(
    "text",
    ["[" * 60 + "]" * 60, '{"a": ' * 300 + "1" + "}" * 300, '{"a": "' + "x" * 5_000_000 + '"}'],
    ids=["deep", "deep objects", "long"],
)
@pytest.mark.parametrize("name", ["config.json", "vocab.json", "preprocessor_config.json"])
def test_json_is_bounded(name, text, tmp_path):
    huggingface.write_huggingface(ctc_content(), tmp_path / "m")
    (tmp_path / "m" / name).write_text(text)
    refused(tmp_path / "m", f"{name}: not JSON .* or damaged")


def test_a_long_table_of_weights(tmp_path):
    huggingface.write_huggingface(ctc_content(), tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 20 << 20) + b" " * (21 << 20))
    refused(tmp_path / "m", CLAIMS)
    path.write_bytes(struct.pack("<Q", 2**63) + b" " * 100)
    refused(tmp_path / "m", CLAIMS)


@pytest.mark.parametrize("name", ["dictionary.txt", "config.json", "SHA256SUMS"])
def test_a_link_out_of_a_release_folder(name, tmp_path):
    """The error prints nothing of the file it leads to."""
    folder, secret = tmp_path / "m", tmp_path / "secret"
    release.write_release(ctc_content(), folder)
    secret.write_text((folder / name).read_text() + "\nsecret words\n")
    (folder / name).unlink()
    (folder / name).symlink_to(secret)
    with pytest.raises(UserError, match="leads out of its folder|damaged") as caught:
        checkpoints.read_checkpoint(folder)
    assert "secret words" not in str(caught.value)


def test_links_inside_a_folder_and_into_a_cache_are_followed(tmp_path):
    snapshot = tmp_path / "models--x" / "snapshots" / "1"
    release.write_release(ctc_content(), snapshot)
    (tmp_path / "models--x" / "blobs").mkdir()
    blob = tmp_path / "models--x" / "blobs" / "abc"
    (snapshot / "dictionary.txt").rename(blob)
    (snapshot / "dictionary.txt").symlink_to(blob)
    (snapshot / "SHA256SUMS").rename(snapshot / "sums")
    (snapshot / "SHA256SUMS").symlink_to("sums")
    assert checkpoints.read_checkpoint(snapshot)["kind"] == "ctc"


def test_what_passes(tmp_path):
    """Files as they are written, also with an optimizer's state and in the older format."""
    content = {"format": 1, **ctc_content(), "optimizer": {"state": {0: {"step": torch.ones(1)}}}}
    for options in ({}, LEGACY):
        (tmp_path / "c.pt").write_bytes(saved(content, **options))
        gate.check_torch_file(tmp_path / "c.pt")


def test_stubs_that_share_parts_are_replaced_once():
    value = [1]
    for _ in range(200):
        value = [value, value]
    found = replace_stubs(value)
    assert found[0] is found[1]


def test_a_description_without_a_dictionary(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from wav2vec2.interop.onnx import OnnxRecogniser

    path = FORMATS["onnx"](tmp_path, None).valid()
    OnnxRecogniser(path)
    model = onnx.load(path)
    entry = next(e for e in model.metadata_props if e.key == "recogniser.json")
    about = json.loads(entry.value)
    for change in ({"dictionary": None}, {"dictionary": "|\nE\n"}, {"kind": "pretraining"}):
        entry.value = json.dumps({"checkpoint": {**about["checkpoint"], **change}})
        onnx.save(model, path)
        with pytest.raises(UserError, match="damaged|no output layer|lists no symbols"):
            OnnxRecogniser(path)
    entry.value = json.dumps(about)
    model.graph.output[0].name = "other"
    onnx.save(model, path)
    with pytest.raises(UserError, match="damaged"):
        OnnxRecogniser(path)
