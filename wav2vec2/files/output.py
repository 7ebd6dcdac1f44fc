"""Output files and folders: a file is written whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from wav2vec2.cli.errors import UserError


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what is made there becomes `path` at the end.

    A reader of `path` sees the old content or the new, never a part of it.  An error removes the
    temporary file or folder and leaves `path` as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        if os.path.isdir(temporary):
            shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_lines(path: str | Path, lines: Iterable[str]) -> None:
    """Write a text file whole or not at all: a reader never sees half of it."""
    write_chunks(path, (f"{line}\n".encode() for line in lines))


def write_chunks(path: str | Path, chunks: Iterable[bytes]) -> None:
    """Write a file of any content whole or not at all; UserError if it cannot be written."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            file.writelines(chunks)
    except (OSError, UnicodeEncodeError) as error:
        raise UserError(f"{path}: cannot be written: {_reason(error)}") from None


def _reason(error: OSError | UnicodeEncodeError) -> str:
    if isinstance(error, UnicodeEncodeError):  # a file name of bytes that are no text
        return f"{error.object.strip()!r} is not valid Unicode"
    return error.strerror or str(error)


def prepare_folder(flag: str, folder: str | Path) -> Path:
    """Create the output folder that `flag` names, or say at once that it cannot be written."""
    folder = Path(folder)
    probe = folder / f".writable.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"{flag} {folder}: cannot be written ({error.strerror}); choose another folder"
        ) from None
    return folder
