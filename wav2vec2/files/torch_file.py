"""Files of torch.save: written whole or not at all, verified when read, never unpickling code."""

import hashlib
import os
import re
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from wav2vec2.cli.errors import UserError
from wav2vec2.files.checksum import sha256

FORMAT = 1
"""Raised when the layout changes so that older versions could not read it."""


WEIGHTS_SUFFIXES = (".bin", ".safetensors")
"""Of the files in a folder that hold weights."""


_REFUSED = re.compile(r"GLOBAL (\S+)")
"""In torch's message, the class or function it would not build."""


def save_checkpoint(path: str | Path, content: dict[str, Any]) -> None:
    """`write_torch_file` of `content` as a checkpoint of this repository."""
    write_torch_file(path, {"format": FORMAT, **content})


def write_torch_file(path: str | Path, content: dict[str, Any]) -> None:
    """Write `content` (tensors and plain types) so that `path` is at all times old or new, whole.

    A temporary file beside it is written, flushed to disk, and renamed.  Raises UserError if the
    folder cannot be written or the disk is full; the old file then still stands.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch wraps a full disk into RuntimeError
        temporary.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0
        raise UserError(
            f"{path}: checkpoint cannot be saved ({reason}); it takes {_size(content) / 1e6:.0f} "
            f"MB, {free / 1e6:.0f} MB are free: make space, or set OUTPUT_DIR elsewhere"
        ) from error


def tensors_of(content: Any) -> Iterator[torch.Tensor]:
    """All tensors of nested dicts, lists and tuples."""
    if isinstance(content, torch.Tensor):
        yield content
    elif isinstance(content, dict):
        for value in content.values():
            yield from tensors_of(value)
    elif isinstance(content, list | tuple):
        for value in content:
            yield from tensors_of(value)


def _size(content: Any) -> int:
    """Bytes of the tensors of `content`."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors_of(content))


def _damaged_member(path: Path) -> str | None:
    """The first part of the archive `path` whose checksum fails, if any.

    Files of torch before 1.6 are no archives and carry no checksums.
    """
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return None
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def read_torch_file(path: str | Path, stand_ins: Mapping[str, Callable] | None = None) -> Any:
    """What `torch.save` wrote to `path`, on the CPU; no code in the file runs.

    Builds tensors and plain types alone.  `stand_ins` names further classes that the file may
    mention (`module.name`) and what is put in the place of each.  Raises UserError, naming the
    file, if it is missing, truncated, damaged, or asks for another class.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; check the path, or train it first")
    try:
        damaged = _damaged_member(path)
        if damaged:
            raise UserError(f"{path}: damaged (checksum of {damaged} fails); use another copy")
        allowed = [(stand_in, name) for name, stand_in in (stand_ins or {}).items()]
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on old files are not the user's
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception as error:  # what garbage makes of the parsers has no common base class
        refused = _REFUSED.search(str(error))
        if refused:
            raise UserError(
                f"{path}: not a checkpoint this version reads: it asks for {refused[1]}, and only "
                "tensors, plain values and known configurations are built; use another copy"
            ) from None
        raise UserError(
            f"{path}: truncated, damaged, or not a checkpoint; use another copy"
        ) from None


def is_checkpoint(content: Any) -> bool:
    """Whether `content`, from `read_torch_file`, was written by `save_checkpoint`."""
    return isinstance(content, dict) and isinstance(content.get("format"), int)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of this repository to the CPU, verified by the checksums it carries.

    Raises UserError, naming the file, if `read_torch_file` does, or if it is not a checkpoint of
    this
    repository, or written by a newer version of the format.
    """
    content = read_torch_file(path)
    if not is_checkpoint(content):
        raise UserError(f"{path}: not a checkpoint of this repository")
    check_format(content, path)
    return content


def check_format(content: dict[str, Any], path: str | Path) -> None:
    """UserError if a newer version of the format wrote `content`."""
    if content["format"] > FORMAT:
        raise UserError(
            f"{path}: written in checkpoint format {content['format']}, this version reads up to "
            f"{FORMAT}; update the repository"
        )


def digest(content: bytes) -> str:
    """A short fingerprint by which a recipe knows what it was made of."""
    return hashlib.sha256(content).hexdigest()[:16]


def file_digest(path: str | Path) -> str:
    """`digest` of a file."""
    return sha256(path)[:16]


def weights_digest(path: str | Path) -> str:
    """`digest` of a checkpoint: of a file, or of the files of weights in a folder."""
    path = Path(path)
    if path.is_file():
        return file_digest(path)
    weights = sorted(p for p in path.iterdir() if p.suffix in WEIGHTS_SUFFIXES)
    return digest("".join(f"{p.name} {file_digest(p)}\n" for p in weights).encode())
