"""Reads damaged checkpoints of one format, each in bounded time and memory.

    python -m tests.unit.wav2vec2.interop.mutations FORMAT CASES FIRST_SEED

Each case is made from its seed alone, is read as a command reads it, and must end with a UserError
or with a model that runs.  The process dies at the first other error, after 10 s in one case, or
beyond the limit on memory; the seed is printed before.
"""

import copy
import io
import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch

from tests.unit.wav2vec2.interop.test_huggingface import TINY, ctc_content
from wav2vec2.cli.console import logs_as_notices
from wav2vec2.cli.errors import UserError
from wav2vec2.files.torch_file import save_checkpoint
from wav2vec2.inference.batches import batch_of
from wav2vec2.inference.recogniser import Recogniser
from wav2vec2.interop import fairseq, huggingface, native, release, torch_export

SECONDS = 10  # of the processor; of the clock, six times that
MEBIBYTES = 500

VALUES = [
    *(None, True, False, 0, 1, -1, 2, 7, 10**6, 10**9, 2**63, -(2**63), 10**400, 0.5, -1e308),
    *(float("nan"), float("inf"), "", "x", "x" * 100_000, "\0\n", "\ud800", "../../etc/passwd"),
    *([], {}, [[]], [1, 2, 3], {"a": 1}, [None] * 1000, [[[[[[1]]]]]], "[" * 1000, "1", "mask_emb"),
]


class Maker:
    """One format: writes a valid file or folder once, and damaged copies of it."""

    def __init__(self, folder: Path, draw: random.Random):
        self.draw, self.folder = draw, folder

    def byte_changes(self, data: bytes) -> bytes:
        """`data` with bytes changed, removed, repeated or overwritten, or its end cut off."""
        draw, found = self.draw, bytearray(data)
        for _ in range(draw.choice((1, 1, 2, 8))):
            place = draw.randrange(len(found) + 1)
            if draw.random() < 0.5:  # near an end, where tables are
                place = draw.choice((draw.randrange(200), len(found) - draw.randrange(300)))
                place = min(max(place, 0), len(found))
            length = draw.choice((1, 2, 4, 8, 50, 5000))
            match draw.randrange(6):
                case 0:
                    del found[place:]
                case 1:
                    del found[place : place + length]
                case 2:
                    found[place : place + length] = draw.randbytes(length)
                case 3:
                    found[place:place] = found[place : place + length]
                case 4:
                    found[place : place + length] = draw.choice((b"\xff", b"\0", b"\x7f")) * length
                case _ if place < len(found):
                    found[place] ^= 1 << draw.randrange(8)
        return bytes(found)

    def value_changes(self, value, others=()):
        """A copy of `value` with entries changed, removed, renamed or moved, at any depth."""
        draw, value = self.draw, copy.deepcopy(value)
        for _ in range(draw.choice((1, 1, 1, 3))):
            places = []
            self._collect(value, places)
            if not places:
                return draw.choice(VALUES)
            holder, key = draw.choice(places)
            match draw.randrange(8):
                case 0:
                    del holder[key]
                case 1 if isinstance(holder, dict):
                    holder[draw.choice(["", "x", "x" * 5000, "1", "model", "\n"])] = holder.pop(key)
                case 2:
                    holder[key] = copy.deepcopy(draw.choice(places)[0])
                case _:
                    holder[key] = draw.choice([*VALUES, *others])
        return value

    def _collect(self, value, places, depth=0):
        if depth > 12 or not isinstance(value, dict | list):
            return
        items = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
        # A field of a small object is as likely as one in a long table.
        self.draw.shuffle(items)
        for key, inner in items[:30]:
            places.append((value, key))
            self._collect(inner, places, depth + 1)

    def json_changes(self, data: bytes) -> bytes:
        """JSON with other values, or other bytes."""
        if self.draw.random() < 0.2:
            return self.byte_changes(data)
        try:
            changed = self.value_changes(json.loads(data))
            return json.dumps(changed).encode("utf-8", "surrogatepass")
        except ValueError:  # a value that holds itself, which JSON cannot
            return self.byte_changes(data)

    def zip_changes(self, data: bytes, edit) -> bytes:
        """A zip file with members changed by `edit(name, content)`, and right checksums."""
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            members = {name: file.read(name) for name in file.namelist()}
        name = self.draw.choice([*members, *[n for n in members if n.endswith((".pkl", "json"))]])
        action = self.draw.randrange(10)
        if action == 0:
            del members[name]
        elif action == 1:
            other = self.draw.choice([*members])
            members[name], members[other] = members[other], members[name]
        elif action == 2:
            members[self.draw.choice(["x", "/data.pkl", "archive/data/0"])] = members[name]
        else:
            members[name] = edit(name, members[name])
        kind = zipfile.ZIP_DEFLATED if self.draw.random() < 0.05 else zipfile.ZIP_STORED
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", kind) as file:
            for name, content in members.items():
                file.writestr(name, content)
        return buffer.getvalue()

    def valid(self) -> Path:
        """The file or folder before it is damaged."""
        self.path.write_bytes(self.data)
        return self.path

    def folder_copy(self) -> Path:
        target = self.folder / "damaged"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.folder / "valid", target)
        return target


def odd_tensors() -> list:
    """Tensors that are no weights."""
    return [
        torch.ones(3, 3).to_sparse(),
        torch.ones(4, dtype=torch.int64),
        torch.ones(4, dtype=torch.complex64),
        torch.ones(1).expand(10**6),
        torch.ones(1).as_strided((10**5, 10**5), (0, 0)),
        torch.empty(10**9, device="meta"),
        torch.ones(4, 4).t(),
        torch.ones(0),
        torch.tensor(float("nan")),
        torch.nn.Parameter(torch.ones(2)),
        bytearray(b"abc"),
        (1, 2),
        {1, 2},
        b"bytes",
    ]


class TorchFile(Maker):
    """A file of torch.save: native, fairseq's or NVIDIA's, a zip file or the older format."""

    def __init__(self, folder, draw, content, *, legacy=False):
        super().__init__(folder, draw)
        self.content, self.legacy = content, legacy
        self.path = folder / "c.pt"
        (folder / "dict.ltr.txt").write_text("| 1\nE 1\nA 1\nB 1\n")
        self.data = self.saved(content)

    def saved(self, content) -> bytes:
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=not self.legacy)
        return buffer.getvalue()

    def make(self) -> Path:
        kind = self.draw.randrange(3)
        data = self.data
        if kind == 0:
            data = self.byte_changes(data)
        elif kind == 1:
            try:
                data = self.saved(self.value_changes(self.content, odd_tensors()))
            except Exception:  # torch cannot write everything
                data = self.byte_changes(data)
        elif self.legacy:
            place = self.draw.randrange(min(len(data), 4000))
            data = data[:place] + self.draw.randbytes(1) + data[place + 1 :]
        else:
            data = self.zip_changes(data, lambda name, content: self.byte_changes(content))
        self.path.write_bytes(data)
        return self.path


class Folder(Maker):
    """A folder of JSON and weights."""

    def valid(self) -> Path:
        return self.folder / "valid"

    def make(self) -> Path:
        target = self.folder_copy()
        path = self.draw.choice(sorted(p for p in target.iterdir() if p.name != "README.md"))
        data = path.read_bytes()
        if path.suffix == ".json":
            data = self.json_changes(data)
        elif path.suffix == ".safetensors":
            data = self.safetensors_changes(data)
        elif path.suffix == ".bin" and self.draw.random() < 0.5:
            data = self.zip_changes(data, lambda name, content: self.byte_changes(content))
        else:
            data = self.byte_changes(data)
        path.write_bytes(data)
        if (target / "SHA256SUMS").exists() and self.draw.random() < 0.8:
            lines = []
            for line in (target / "SHA256SUMS").read_text("utf-8", "replace").splitlines():
                name = line.partition("  ")[2]
                if os.path.isfile(target / name):
                    lines.append(f"{release.sha256(target / name)}  {name}\n")
            (target / "SHA256SUMS").write_text("".join(lines))
        return target

    def safetensors_changes(self, data: bytes) -> bytes:
        if self.draw.random() < 0.3:
            return self.byte_changes(data)
        (length,) = struct.unpack("<Q", data[:8])
        table = self.json_changes(data[8 : 8 + length])
        if self.draw.random() < 0.1:
            length = self.draw.choice([0, 2**63, 2**64 - 1, len(data), 10**8])
        else:
            length = len(table)
        return struct.pack("<Q", length) + table + data[8 + len(table) :]


def huggingface_folder(folder, draw, *, shards=False) -> Folder:
    huggingface.write_huggingface(ctc_content(), folder / "valid")
    if shards:
        from safetensors.torch import load_file

        tensors = load_file(folder / "valid" / "model.safetensors")
        (folder / "valid" / "model.safetensors").unlink()
        names = [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]
        places = {name: names[index % 2] for index, name in enumerate(tensors)}
        for file in names:
            part = {name: tensors[name].clone() for name in tensors if places[name] == file}
            torch.save(part, folder / "valid" / file)
        index = {"metadata": {}, "weight_map": places}
        (folder / "valid" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return Folder(folder, draw)


def release_folder(folder, draw) -> Folder:
    release.write_release(ctc_content(), folder / "valid")
    return Folder(folder, draw)


class Archive(Maker):
    """The parts of a .pt2 archive that are read; a graph is not."""

    def __init__(self, folder, draw):
        super().__init__(folder, draw)
        content, buffer, config = ctc_content(), io.BytesIO(), {}
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr("m/archive_format", "pt2")
            file.writestr("m/extra/recogniser.json", torch_export.describe(content, "here"))
            for index, (name, tensor) in enumerate(content["model"].items()):
                file.writestr(f"m/data/weights/weight_{index}", tensor.numpy().tobytes())
                config[f"model.{name}"] = {
                    "path_name": f"weight_{index}",
                    "is_param": True,
                    "use_pickle": False,
                    "tensor_meta": {
                        "dtype": 7,
                        "sizes": [{"as_int": n} for n in tensor.shape],
                        "strides": [{"as_int": n} for n in tensor.stride()],
                        "storage_offset": {"as_int": 0},
                    },
                }
            table = json.dumps({"config": config})
            file.writestr("m/data/weights/model_weights_config.json", table)
        self.data, self.path = buffer.getvalue(), folder / "m.pt2"

    def make(self) -> Path:
        def edit(name, content):
            return (self.json_changes if name.endswith(".json") else self.byte_changes)(content)

        changed = self.zip_changes(self.data, edit)
        self.path.write_bytes(self.byte_changes(self.data) if self.draw.random() < 0.3 else changed)
        return self.path


class Onnx(Maker):
    """A graph with the inputs and outputs of a recogniser, of three operations."""

    def __init__(self, folder, draw):
        super().__init__(folder, draw)
        from onnx import TensorProto, helper

        content = ctc_content()
        units = len(native.vocabulary_of(content, "here"))
        tensors = [
            helper.make_tensor("axes", TensorProto.INT64, [1], [2]),
            helper.make_tensor(
                "w", TensorProto.FLOAT, [1, units], np.ones(units, np.float32).tobytes(), True
            ),
        ]
        self.model = helper.make_model(
            helper.make_graph(
                [
                    helper.make_node("Unsqueeze", ["waveforms", "axes"], ["wide"]),
                    helper.make_node("MatMul", ["wide", "w"], ["logits"]),
                    helper.make_node("Identity", ["lengths"], ["frame_lengths"]),
                ],
                "g",
                [
                    helper.make_tensor_value_info("waveforms", TensorProto.FLOAT, ["b", "s"]),
                    helper.make_tensor_value_info("lengths", TensorProto.INT64, ["b"]),
                ],
                [
                    helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", "s", units]),
                    helper.make_tensor_value_info("frame_lengths", TensorProto.INT64, ["b"]),
                ],
                tensors,
            ),
            opset_imports=[helper.make_opsetid("", 17)],
        )
        self.model.ir_version = 8
        self.description = torch_export.describe(content, "here").encode()
        self.path = folder / "m.onnx"
        self.data = self._with(self.model, self.description)

    def make(self) -> Path:
        model = copy.deepcopy(self.model)
        text = self.description
        if self.draw.random() < 0.4:
            text = self.json_changes(text)
        if self.draw.random() < 0.3:
            self._change_graph(model.graph)
        data = self._with(model, text)
        if self.draw.random() < 0.5:
            data = self.byte_changes(data)
        self.path.write_bytes(data)
        return self.path

    @staticmethod
    def _with(model, description: bytes) -> bytes:
        """The bytes of `model` with a description."""
        described = copy.deepcopy(model)
        entry = described.metadata_props.add()
        entry.key = torch_export.DESCRIPTION
        entry.value = description.decode("utf-8", "replace")
        return described.SerializeToString()

    def _change_graph(self, graph) -> None:
        tensor = self.draw.choice(graph.initializer)
        match self.draw.randrange(4):
            case 0:
                tensor.dims[0] = self.draw.choice([0, -1, 2**40, 2**62])
            case 1:
                tensor.data_location = 1
            case 2:
                graph.output[0].name = "x"
            case _:
                graph.output[0].type.tensor_type.shape.dim[2].dim_value = 5


def fairseq_content(folder) -> dict:
    return fairseq.to_fairseq(ctc_content(), folder)


def nvidia_content(folder) -> dict:
    content = ctc_content()
    args = {
        **{"mode": "finetune", "normalize": False, "layer_norm_first": False, "labels": "ltr"},
        "encoder_attention_heads": TINY.heads,
        "conv_feature_layers": str(list(TINY.conv_layers)),
        "hourglass_transformer": None,
    }
    model = fairseq.to_theirs(content["model"], TINY, "ctc")
    return {"args": args, "model": model, "output_labels": "| 1\nE 1\nA 1\nB 1\n"}


def native_content(folder) -> dict:
    save_checkpoint(folder / "n.pt", {**ctc_content(), "update": 3})
    return torch.load(folder / "n.pt", weights_only=True)


FORMATS = {
    "native": lambda f, d: TorchFile(f, d, native_content(f)),
    "legacy": lambda f, d: TorchFile(f, d, native_content(f), legacy=True),
    "fairseq": lambda f, d: TorchFile(f, d, fairseq_content(f)),
    "nvidia": lambda f, d: TorchFile(f, d, nvidia_content(f)),
    "huggingface": huggingface_folder,
    "shards": lambda f, d: huggingface_folder(f, d, shards=True),
    "release": release_folder,
    "pt2": Archive,
    "onnx": Onnx,
}


def read(path: Path) -> str:
    """What became of a file: a model that ran, or the line of a UserError."""
    try:
        recogniser = Recogniser.from_checkpoint(str(path), torch.device("cpu"))
        waveform = np.linspace(-1, 1, 800, dtype=np.float32)
        recogniser.logits(batch_of(["a"], [waveform], normalize_input=False))
        return ""
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 20_000, str(error)
        return str(error)


def main(name: str, cases: int, first: int) -> None:
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())
    try:
        with logs_as_notices():
            run(name, cases, first, folder)
    finally:
        shutil.rmtree(folder)


def run(name: str, cases: int, first: int, folder: Path) -> None:
    draw = random.Random()
    maker = FORMATS[name](folder, draw)
    counts = {"read": 0, "refused": 0}
    assert read(maker.valid()) == ""  # imports what reading needs
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 2 * MEBIBYTES * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for seed in range(first, first + cases):
        draw.seed(seed)
        path = maker.make()
        print(name, seed, flush=True)
        # These signals end the process, also inside C.
        signal.alarm(6 * SECONDS)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        line = read(path)
        print("  ", line[:300], flush=True)
        counts["refused" if line else "read"] += 1
    signal.alarm(0)
    signal.setitimer(signal.ITIMER_PROF, 0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used
    assert peak < MEBIBYTES * 1024, f"{peak} KiB"
    print(json.dumps(counts))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
