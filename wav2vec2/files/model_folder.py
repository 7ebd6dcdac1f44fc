"""Folders of a model: JSON, text and weights (safetensors), with nothing in them trusted."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wav2vec2.cli.errors import UserError
from wav2vec2.files import gate
from wav2vec2.files.checksum import sha256
from wav2vec2.files.output import temporary_path
from wav2vec2.files.text import read_json, read_lines, shown
from wav2vec2.files.torch_file import read_torch_file, to_fp32

WEIGHTS = "model.safetensors"
CHECKSUMS = "SHA256SUMS"
MODEL_CARD = "README.md"
REFETCH = "fetch it again"

WEIGHT_FILES = (
    WEIGHTS,
    f"{WEIGHTS}.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Where the weights may be, the preferred format first: one file, or the index of several."""

_FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_LFS_POINTER = b"version https://git-lfs"
"""Beginning of the file that stands in place of one in Git LFS."""


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; UserError if it is missing, malformed, or lists a name twice."""
    content = read_json(path, REFETCH)
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object like {{...}}; {REFETCH}")
    return content


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All weights in a folder, in fp32, by their names there.

    UserError if there are none, a file is damaged, or one holds anything but floating-point
    tensors.
    """
    path = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if path is None:
        if (folder / "onnx" / "model.onnx").is_file():
            raise UserError(f"{folder}: a folder for transformers.js; name its onnx/model.onnx")
        raise UserError(
            f"{folder}: holds none of {', '.join(WEIGHT_FILES)}; fetch the PyTorch weights, too"
        )
    return _read_shards(path) if path.suffix == ".json" else read_weight_file(path)


def _read_shards(index: Path) -> dict[str, Tensor]:
    """The weights in the files that `index` assigns them to."""
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict):
        raise UserError(f"{index}: has no weight_map; fetch it again")
    suffix = ".safetensors" if ".safetensors." in index.name else ".bin"
    shards: dict[str, list[str]] = {}
    for name, place in places.items():
        # A bare file name: an index must not lead out of its folder.
        bare = isinstance(place, str) and not set(place) & set("/\\\0:")
        if not bare or not place.endswith(suffix):
            raise UserError(
                f"{index}: damaged, {shown(place)} is not a {suffix} file beside it; fetch it again"
            )
        shards.setdefault(place, []).append(name)
    tensors = {}
    for place, names in shards.items():
        found = read_weight_file(index.with_name(place))
        lacking = [name for name in names if name not in found]
        if lacking:
            raise UserError(f"{index}: {place} does not hold {shown(lacking[0])}; fetch both again")
        tensors.update({name: found[name] for name in names})
    return tensors


def read_weight_file(path: Path) -> dict[str, Tensor]:
    """The weights in a file, in fp32; UserError as of `read_weights`."""
    import safetensors  # only such files need it

    try:
        gate.regular_file(path)
        with open(path, "rb") as file:
            if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise UserError(f"{path}: only a Git LFS pointer; fetch it with `git lfs pull`")
        safe = path.suffix == ".safetensors"
        if safe:
            gate.check_safetensors(path)
        tensors = _load_safetensors(path) if safe else read_torch_file(path)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); fetch it again") from None
    except (safetensors.SafetensorError, RuntimeError, ValueError, KeyError):
        raise UserError(f"{path}: truncated, damaged, or no weights; fetch it again") from None
    if not isinstance(tensors, dict):
        raise UserError(f"{path}: not a table of weights; fetch it again")
    if len(tensors) > gate.MOST_TENSORS:
        raise gate.claims_too_much(path, f"{len(tensors):,} tensors")
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise UserError(f"{path}: damaged, names a tensor {shown(name)}; fetch it again")
        if not isinstance(tensor, Tensor) or tensor.dtype not in _FLOATING:
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise UserError(
                f"{path}: {shown(name)} is of type {kind}; fetch weights in fp32, fp16 or bf16"
            )
    to_fp32(tensors)
    return tensors


_MOST_MAPPED = 1 << 27
"""Bytes of a safetensors file that are read before it is opened again."""


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, floating-point ones in fp32.

    The library maps the file.  Pages that were read count as memory until it is closed, so it is
    closed now and then.  Each tensor is copied: in the file they are not aligned.
    """
    from safetensors import safe_open

    tensors: dict[str, Tensor] = {}
    with safe_open(path, framework="pt") as file:
        names = iter(list(file.keys()))
    while True:
        with safe_open(path, framework="pt") as file:
            held = 0
            for name in names:
                tensor = file.get_tensor(name)
                held += tensor.numel() * tensor.element_size()
                floating = tensor.dtype in _FLOATING
                tensors[name] = tensor.to(torch.float32 if floating else tensor.dtype, copy=True)
                del tensor
                if held > _MOST_MAPPED:
                    break
            else:
                return tensors


def write_model_folder(
    folder: Path,
    weights: Mapping[str, Tensor] | None,
    files: Mapping[str, dict[str, Any] | str | bytes],
    *,
    checksums: bool = False,
) -> None:
    """Write `weights` as safetensors, and `files`, into a new folder, whole or not at all.

    `weights`: None for no such file.  `files`: name, which may be in a folder below -> a JSON
    object, text or bytes.  `checksums`: list the files' SHA-256 as
    `sha256sum -c SHA256SUMS` reads it; the model card has none, so that people can edit it.
    UserError if `folder` is not empty or cannot be written.
    """
    import safetensors

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists already and is not empty; choose another folder")
    try:
        with temporary_path(folder) as temporary:
            temporary.mkdir(parents=True)
            if weights is not None:
                _write_safetensors(temporary / WEIGHTS, weights)
            for name, content in files.items():
                if isinstance(content, dict):
                    content = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
                data = content.encode() if isinstance(content, str) else content
                (temporary / name).parent.mkdir(exist_ok=True)
                (temporary / name).write_bytes(data)
            if checksums:
                listed = sorted(p for p in temporary.iterdir() if p.name != MODEL_CARD)
                lines = [f"{sha256(path)}  {path.name}\n" for path in listed]
                (temporary / CHECKSUMS).write_text("".join(lines), encoding="utf-8")
            for path in filter(Path.is_file, temporary.rglob("*")):
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
    except (OSError, safetensors.SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(
            f"{folder}: cannot be written ({reason}); make space, or choose another folder"
        ) from None


def _write_safetensors(path: Path, weights: Mapping[str, Tensor]) -> None:
    import safetensors.torch

    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    path.touch()
    mode = path.stat().st_mode  # safetensors makes its files unreadable for other users
    # transformers looks for this format in the header.
    safetensors.torch.save_file(whole, path, metadata={"format": "pt"})
    path.chmod(mode)


def checksums_of(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file by its name, as SHA256SUMS lists them."""
    lines = read_lines(folder / CHECKSUMS, fix=REFETCH)
    return {name: sum_ for sum_, _, name in (line.partition("  ") for line in lines)}
