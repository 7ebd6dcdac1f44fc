"""The files of a Hugging Face folder: JSON objects and tensors, read with suspicion."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from wav2vec2.cli.errors import UserError

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Where the weights lie, the better format first: one file, or an index of several."""

_FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_LFS_POINTER = b"version https://git-lfs"


def _object_of_unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it lists {twice!r} twice")
    return found


def read_json(path: Path) -> dict[str, Any]:
    """A file's JSON object; UserError if it is missing, malformed, or lists a name twice."""
    try:
        content = json.loads(
            path.read_text(encoding="utf-8"), object_pairs_hook=_object_of_unique_names
        )
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); fetch it again") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); fetch it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object like {{...}}; fetch it again")
    return content


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All weights of a folder in fp32, by their names there.

    UserError if there are none, a file is damaged, or one holds anything but floating tensors.
    """
    path = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if path is None:
        raise UserError(
            f"{folder}: holds none of {', '.join(WEIGHT_FILES)}; fetch the PyTorch weights, too"
        )
    return _read_shards(path) if path.suffix == ".json" else _read_file(path)


def _read_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of the files that `index` assigns them to."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict):
        raise UserError(f"{index}: has no weight_map; fetch it again")
    suffix = ".safetensors" if ".safetensors." in index.name else ".bin"
    shards: dict[str, list[str]] = {}
    for name, place in places.items():
        # A bare file name: an index must not lead out of its folder.
        bare = isinstance(place, str) and not set(place) & set("/\\\0:")
        if not bare or not place.endswith(suffix):
            raise UserError(f"{index}: {place!r} is not a {suffix} file beside it; fetch it again")
        shards.setdefault(place, []).append(name)
    tensors = {}
    for place, names in shards.items():
        found = _read_file(index.with_name(place))
        lacking = [name for name in names if name not in found]
        if lacking:
            raise UserError(f"{index}: {place} does not hold {lacking[0]!r}; fetch both again")
        tensors.update({name: found[name] for name in names})
    return tensors


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        with open(path, "rb") as file:
            if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise UserError(f"{path}: only a Git LFS pointer; fetch it with `git lfs pull`")
        if path.suffix == ".safetensors":
            tensors = safetensors.torch.load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); fetch it again") from None
    except (safetensors.SafetensorError, EOFError, RuntimeError, ValueError, KeyError):
        raise UserError(f"{path}: truncated, damaged, or no weights; fetch it again") from None
    except Exception as error:  # pickle's refusals have no common base class
        reason = str(error).splitlines()[0][:120]
        raise UserError(f"{path}: no weights that can be read safely ({reason})") from None
    if not isinstance(tensors, dict):
        raise UserError(f"{path}: not a table of weights; fetch it again")
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or tensor.dtype not in _FLOATING:
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise UserError(
                f"{path}: {name!r} is of type {kind}; fetch weights in fp32, fp16 or bf16"
            )
    return {name: tensor.float() for name, tensor in tensors.items()}


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill that becomes `folder` at the end, whole or not at all.

    UserError if `folder` holds something already or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists already and is not empty; choose another folder")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for path in temporary.iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, folder)
    except (OSError, safetensors.SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(
            f"{folder}: cannot be written ({reason}); make space, or choose another folder"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """A JSON object, one name a line, letters of any alphabet as themselves."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    path.write_text(f"{text}\n", encoding="utf-8")


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """A .safetensors file; `pt` in its header is what transformers looks for."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    path.touch()
    mode = path.stat().st_mode  # safetensors' own files are for nobody else to read
    safetensors.torch.save_file(whole, path, metadata={"format": "pt"})
    path.chmod(mode)
