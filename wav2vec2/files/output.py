"""Output files and folders: a file is written whole or not at all."""

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wav2vec2.cli.errors import UserError


@contextlib.contextmanager
def temporary_path(path: Path) -> Iterator[Path]:
    """A path beside `path` for a file or folder; renamed to `path` on success, else removed.

    A reader of `path` sees the old content or the new, never a part of it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        if os.path.isdir(temporary):
            shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """`temporary_path` of a file whose folder is created.

    UserError for an OSError inside, or for text that is no valid Unicode.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_path(path) as temporary:
            yield temporary
    except (OSError, UnicodeEncodeError) as error:
        raise UserError(f"{path}: cannot be written: {_reason(error)}") from None


def write_lines(path: str | Path, lines: Iterable[str]) -> None:
    """Write a text file whole or not at all: a reader never sees half of it."""
    write_chunks(path, (f"{line}\n".encode() for line in lines))


def write_chunks(path: str | Path, chunks: Iterable[bytes]) -> None:
    """Write a file of any content whole or not at all; UserError if it cannot be written."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.writelines(chunks)


def write_json(path: str | Path, content: Any, indent: int = 2, *, ascii: bool = True) -> None:
    """Write plain types as JSON, whole or not at all; `ascii`: escape all other characters."""
    write_lines(path, [json.dumps(content, indent=indent, ensure_ascii=ascii)])


def write_npz(path: str | Path, **arrays: np.ndarray) -> None:
    """Write numpy's .npz file of these arrays whole or not at all."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_chunks(path, [content.getvalue()])


def _reason(error: OSError | UnicodeEncodeError) -> str:
    if isinstance(error, UnicodeEncodeError):  # a file name of bytes that are no text
        return f"{error.object.strip()!r} is not valid Unicode"
    return error.strerror or str(error)


def prepare_folder(flag: str, folder: str | Path) -> Path:
    """Create the output folder that `flag` names; UserError at once if it cannot be written."""
    folder = Path(folder)
    probe = folder / f".writable.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)  # another machine's process may have the same number
    except OSError as error:
        raise UserError(
            f"{flag} {folder}: cannot be written ({error.strerror}); choose another folder"
        ) from None
    return folder


@contextlib.contextmanager
def removed_after_failure(folder: str | Path, unless: Callable[[], bool]) -> Iterator[None]:
    """After an exception inside, remove `folder` and parents of it that were created inside.

    Not if `unless()` is true then.  Parents that hold anything else stay.
    """
    folder = Path(folder).absolute()
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        if created and not unless():
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                for path in created[1:]:
                    path.rmdir()
        raise


def require_space(flag: str, folder: str | Path, needed: int) -> None:
    """UserError if the disk of `folder`, which `flag` names, has fewer than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{flag} {folder}: {needed / 2**30:.1f} GiB are needed, {free / 2**30:.1f} GiB are "
            "free; free space or choose another folder"
        )
