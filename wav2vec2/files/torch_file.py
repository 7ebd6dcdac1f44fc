"""Files of torch.save: written atomically, verified when read, and no code in them runs."""

import hashlib
import os
import shutil
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from wav2vec2.cli.errors import UserError
from wav2vec2.files import gate
from wav2vec2.files.checksum import sha256
from wav2vec2.files.output import temporary_path

FORMAT = 1
"""Version of the checkpoint layout; raised when older code could no longer read it."""

WEIGHTS_SUFFIXES = (".bin", ".safetensors")
"""Suffixes of the files of a model folder that hold weights."""


def save_checkpoint(path: str | Path, content: dict[str, Any]) -> None:
    """Write `content` as a checkpoint of this repository; errors as of `write_torch_file`."""
    write_torch_file(path, {"format": FORMAT, **content})


def write_torch_file(path: str | Path, content: dict[str, Any]) -> None:
    """Write `content` (tensors and plain types) with torch.save, atomically and flushed to disk.

    UserError if the folder cannot be written or the disk is full; the old file stays.
    """
    path = Path(path)
    try:
        with temporary_path(path) as temporary, open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch wraps a full disk into RuntimeError
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0
        raise UserError(
            f"{path}: checkpoint cannot be saved ({reason}); it takes {_size(content) / 1e6:.0f} "
            f"MB, {free / 1e6:.0f} MB are free: make space, or set OUTPUT_DIR elsewhere"
        ) from error


def tensors_of(content: Any) -> Iterator[torch.Tensor]:
    """All tensors in nested dicts, lists and tuples."""
    if isinstance(content, torch.Tensor):
        yield content
    elif isinstance(content, dict):
        for value in content.values():
            yield from tensors_of(value)
    elif isinstance(content, list | tuple):
        for value in content:
            yield from tensors_of(value)


def to_fp32(weights: dict[Any, Any]) -> None:
    """Convert the floating-point tensors of `weights` in place, one after the other: two copies of
    all of them are never in memory."""
    for name, value in weights.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            weights[name] = value.float()


def _size(content: Any) -> int:
    """Bytes of the tensors of `content`."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors_of(content))


def read_torch_file(
    path: str | Path,
    stubs: Mapping[str, Callable] | None = None,
    without: Collection[str] = (),
) -> Any:
    """Read a file of torch.save to the CPU; no code in the file runs.

    Only tensors and plain types are built, after gate.py has compared what the file claims with
    what it holds.  `stubs`: further classes that the file may mention (`module.name`) -> what is
    built in place of each.  `without`: entries to leave out; in files of torch since 1.6 their
    tensors take no memory.  UserError if the file is missing, truncated, damaged, claims more than
    it holds, or asks for another class.
    """
    path = Path(path)
    if not os.path.exists(path):
        raise UserError(f"{path}: no such checkpoint; check the path, or train it first")
    gate.check_torch_file(path, stubs or {})
    try:
        allowed = [(stub, name) for name, stub in (stubs or {}).items()]
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about old files
            load = partial(torch.load, path, map_location="cpu", weights_only=True)
            if without and gate.is_zip(path):
                return _load_without(load, without)
            content = load()  # an old file cannot be mapped
            if without and isinstance(content, dict):
                return {n: value for n, value in content.items() if n not in without}
            return content
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception:  # errors of torch's parsers have no common base class
        raise gate.damaged(path) from None


_MOST_MAPPED = 1 << 27
"""Bytes of a mapped file that are copied before it is mapped again."""


def _load_without(load: Callable[..., Any], without: Collection[str]) -> Any:
    """What `load()` gives, other than the entries `without`.

    The file is mapped, so that only what is wanted is read.  Pages that were read count as memory
    until the map is closed, so it is closed now and then.  Nothing stays mapped: a file that is
    overwritten while it is in use would end the program.
    """
    content = load(mmap=True)
    if not isinstance(content, dict) or not content.keys() & set(without):
        return load()
    copies: list[torch.Tensor] = []
    while True:
        content = None  # closes the map
        content = {n: value for n, value in load(mmap=True).items() if n not in without}
        held = 0
        for tensor in islice(tensors_of(content), len(copies), None):
            copies.append(tensor.clone())
            held += tensor.numel() * tensor.element_size()
            if held > _MOST_MAPPED:
                break
        else:
            return _with_tensors(content, iter(copies))


def _with_tensors(content: Any, tensors: Iterator[torch.Tensor]) -> Any:
    """`content` with `tensors` in place of its own, in the order of `tensors_of`."""
    if isinstance(content, torch.Tensor):
        return next(tensors)
    if isinstance(content, dict):
        return {name: _with_tensors(value, tensors) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)([_with_tensors(value, tensors) for value in content])
    return content


def is_checkpoint(content: Any) -> bool:
    """Whether `content`, from `read_torch_file`, was written by `save_checkpoint`."""
    return isinstance(content, dict) and type(content.get("format")) is int


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of this repository to the CPU and verify its checksums.

    UserError as of `read_torch_file`, or if the file is not a checkpoint of this repository or has
    a newer format.
    """
    content = read_torch_file(path)
    if not is_checkpoint(content):
        raise UserError(f"{path}: not a checkpoint of this repository")
    check_format(content, path)
    return content


def check_format(content: dict[str, Any], path: str | Path) -> None:
    """Raise UserError if `content` has a newer format than this version reads."""
    if content["format"] > FORMAT:
        raise UserError(
            f"{path}: written in checkpoint format {content['format']}, this version reads up to "
            f"{FORMAT}; update the repository"
        )


def digest(content: bytes) -> str:
    """The first 16 hexadecimal digits of the SHA-256; recipes record their inputs by it."""
    return hashlib.sha256(content).hexdigest()[:16]


def file_digest(path: str | Path) -> str:
    """`digest` of a file's content."""
    return sha256(path)[:16]


def weights_digest(path: str | Path) -> str:
    """`digest` of a checkpoint: of the file, or of the weight files of a model folder."""
    path = Path(path)
    if path.is_file():
        return file_digest(path)
    weights = sorted(p for p in path.iterdir() if p.suffix in WEIGHTS_SUFFIXES)
    return digest("".join(f"{p.name} {file_digest(p)}\n" for p in weights).encode())
