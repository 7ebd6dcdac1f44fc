"""Checkpoints: saved whole or not at all, verified when loaded, never unpickling code."""

import hashlib
import os
import re
import shutil
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common.checksum import sha256
from common.distributed import notice
from common.errors import UserError

FORMAT = 1
"""Raised when the layout changes so that older versions could not read it."""

WEIGHTS_SUFFIXES = (".bin", ".safetensors")
"""Of the files in a folder that hold weights."""

_UPDATE_FILE = re.compile(r"wav2vec2_update(\d+)\.pt")
_REFUSED = re.compile(r"GLOBAL (\S+)")
"""In torch's message, the class or function it would not build."""


def save(path: str | Path, content: dict[str, Any]) -> None:
    """`write` of `content` as a checkpoint of this repository."""
    write(path, {"format": FORMAT, **content})


def write(path: str | Path, content: dict[str, Any]) -> None:
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


def _tensors(content: Any) -> Iterator[torch.Tensor]:
    """All tensors of nested dicts, lists and tuples."""
    if isinstance(content, torch.Tensor):
        yield content
    elif isinstance(content, dict):
        for value in content.values():
            yield from _tensors(value)
    elif isinstance(content, list | tuple):
        for value in content:
            yield from _tensors(value)


def _size(content: Any) -> int:
    """Bytes of the tensors of `content`."""
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(content))


def _copied(content: Any) -> Any:
    """`content` with its tensors copied to the CPU, so that training may change the originals."""
    if isinstance(content, torch.Tensor):
        return content.detach().to("cpu", copy=True)
    if isinstance(content, dict):
        return {key: _copied(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(_copied(value) for value in content)
    return content


class Writer:
    """Writes checkpoints behind the training's back, one at a time.

    Training waits for a copy of the tensors; the file is written by a thread.  What goes wrong
    there is raised by the next call.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: UserError | None = None

    def save(self, path: Path, content: dict[str, Any], then: Callable[[], None]) -> None:
        """`save` of a copy of `content`, then `then()`; waits for the write before it."""
        self.wait()
        copy = _copied(content)

        def write() -> None:
            try:
                save(path, copy)
                then()
            except UserError as error:
                self._error = error

        self._thread = threading.Thread(target=write, name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Until what was to be written is; UserError if it could not be."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error


def _damaged_member(path: Path) -> str | None:
    """The first part of the archive `path` whose checksum fails, if any.

    Files of torch before 1.6 are no archives and carry no checksums.
    """
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return None
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def read(path: str | Path, stand_ins: Mapping[str, Callable] | None = None) -> Any:
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


def is_own(content: Any) -> bool:
    """Whether `content`, from `read`, was written by `save`."""
    return isinstance(content, dict) and isinstance(content.get("format"), int)


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint that `save` wrote to the CPU, verified by the checksums it carries.

    Raises UserError, naming the file, if `read` does, or if it is not a checkpoint of this
    repository, or written by a newer version of the format.
    """
    content = read(path)
    if not is_own(content):
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


def prune(output_dir: str | Path, keep: int, milestones: Sequence[int] = ()) -> None:
    """Remove update checkpoints but the newest `keep` and those nearest to each milestone, and
    what writers that were killed left behind."""
    updates = saved_updates(output_dir)
    kept = {*updates[-keep:]}
    if updates:
        kept |= {min(updates, key=lambda u: abs(u - milestone)) for milestone in milestones}
    for update in updates:
        if update not in kept:
            update_file(output_dir, update).unlink(missing_ok=True)
    for path in Path(output_dir).glob(".wav2vec2_*.tmp"):
        if not path.name.endswith(f".{os.getpid()}.tmp"):
            path.unlink(missing_ok=True)
