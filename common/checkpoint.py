"""Checkpoints: saved whole or not at all, verified when loaded, never unpickling code."""

import hashlib
import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common.distributed import notice
from common.errors import UserError

FORMAT = 1
"""Raised when the layout changes so that older versions could not read it."""

_UPDATE_FILE = re.compile(r"wav2vec2_update(\d+)\.pt")


def save(path: str | Path, content: dict[str, Any]) -> None:
    """Write `content` (tensors and plain types) so that `path` is at all times old or new, whole.

    A temporary file beside it is written, flushed to disk, and renamed.  Raises UserError if the
    folder cannot be written or the disk is full; the old file then still stands.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save({"format": FORMAT, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch wraps a full disk into RuntimeError
        temporary.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(
            f"{path}: checkpoint cannot be saved ({reason}); free space or set OUTPUT_DIR elsewhere"
        ) from error


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU, its bytes verified against the checksums it carries.

    Raises UserError, naming the file, if it is missing, truncated, damaged, not a checkpoint, or
    written by a newer version of the format.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; check the path, or train it first")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise UserError(f"{path}: damaged (checksum of {damaged} fails); use another copy")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, KeyError):
        raise UserError(
            f"{path}: truncated, damaged, or not a checkpoint; use another copy"
        ) from None
    except Exception as error:  # pickle's refusals have no common base class
        reason = str(error).splitlines()[0][:120]
        raise UserError(f"{path}: not a checkpoint of this repository ({reason})") from None
    if not isinstance(content, dict) or "format" not in content:
        raise UserError(f"{path}: not a checkpoint of this repository")
    if content["format"] > FORMAT:
        raise UserError(
            f"{path}: written in checkpoint format {content['format']}, this version reads up to "
            f"{FORMAT}; update the repository"
        )
    return content


def digest(content: bytes) -> str:
    """A short fingerprint by which a recipe knows what it was made of."""
    return hashlib.sha256(content).hexdigest()[:16]


def file_digest(path: str | Path) -> str:
    """`digest` of a file."""
    hashed = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            hashed.update(block)
    return hashed.hexdigest()[:16]


def update_file(output_dir: str | Path, update: int) -> Path:
    """Where the checkpoint of update `update` lies."""
    return Path(output_dir) / f"wav2vec2_update{update}.pt"


def best_file(output_dir: str | Path) -> Path:
    """Where the checkpoint with the best validation result lies."""
    return Path(output_dir) / "wav2vec2_best.pt"


def saved_updates(output_dir: str | Path) -> list[int]:
    """Updates with a checkpoint in `output_dir`, ascending."""
    names = (path.name for path in Path(output_dir).glob("wav2vec2_update*.pt"))
    return sorted(int(m[1]) for m in map(_UPDATE_FILE.fullmatch, names) if m)


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was found in an output folder."""

    path: Path
    content: dict[str, Any]


def newest(output_dir: str | Path) -> Saved | None:
    """The newest update checkpoint that can be read, None if there is no update checkpoint.

    Says which are passed over.  UserError if there are some and none can be read: to start anew
    would write over them.
    """
    updates = saved_updates(output_dir)
    for update in reversed(updates):
        path = update_file(output_dir, update)
        try:
            return Saved(path, load(path))
        except UserError as error:
            notice(f"warning: {error}; trying the one before")
    if updates:
        raise UserError(
            f"{output_dir}: none of its {len(updates)} checkpoints wav2vec2_update*.pt can be "
            "read; repair them, or choose another OUTPUT_DIR"
        )
    return None


def prune(output_dir: str | Path, keep: int) -> None:
    """Remove all but the newest `keep` update checkpoints."""
    for update in saved_updates(output_dir)[:-keep]:
        update_file(output_dir, update).unlink(missing_ok=True)
