"""The files below a folder, also below folders that are symbolic links; what is no file."""

import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path

from wav2vec2.cli.errors import UserError, one_line

_log = logging.getLogger(__name__)


def files_below(
    folder: str | Path,
    wanted: Callable[[str], bool],
    skipped: Callable[[Path], bool] = lambda path: False,
) -> list[Path]:
    """The files below `folder` whose name is `wanted`, sorted, without the folders that `skipped`
    names.

    Links to folders are followed.  Every folder is read once: by its own path if that is below
    `folder`, else by its first link.  So a link to a folder above it ends, and no file comes twice.
    Links that lead nowhere new, and what cannot be read, are logged.
    """
    found: list[Path] = []
    seen: dict[tuple[int, int], str] = {}
    above = {_identity(path) for path in Path(os.path.abspath(folder)).parents}

    def report(error: OSError) -> None:
        _log.warning("%s: skipped, cannot be read (%s)", error.filename, error.strerror)

    pending = [str(folder)]
    while pending:
        start = pending.pop(0)
        identity = _identity(start)
        if identity in seen or identity in above:
            same = seen.get(identity, os.path.realpath(start))
            _log.warning("%s: skipped, links to %s", one_line(start), one_line(same))
            continue
        for place, subfolders, names in os.walk(start, onerror=report):
            seen.setdefault(_identity(place), place)
            paths = [Path(place, name) for name in sorted(subfolders)]
            paths = [path for path in paths if not skipped(path)]
            pending += [str(path) for path in paths if path.is_symlink()]
            subfolders[:] = [
                path.name for path in paths if not path.is_symlink() and _identity(path) not in seen
            ]
            for path in (Path(place, name) for name in names):
                if wanted(path.name):
                    found.append(path)
                elif path.is_symlink() and not path.exists() and not skipped(path):
                    _log.warning("%s: skipped, a broken link", one_line(path))
    return sorted(found)


def _identity(path: str | Path) -> tuple[int, int]:
    """What tells a folder from all others, whatever its path."""
    try:
        facts = os.stat(path)
    except OSError:
        return (-1, hash(str(path)))
    return facts.st_dev, facts.st_ino


def require_no_pipe(path: str | Path) -> None:
    """UserError for a named pipe or a device, which may never end or begin.

    Not for the pipe of `<(...)` or of standard input: a program writes to it.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return  # opening it gives the reason
    if stat.S_ISFIFO(mode) and os.path.realpath(path).startswith("/proc/"):
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UserError(f"{path}: is a pipe or a device; name a file")
