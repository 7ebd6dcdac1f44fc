"""Where a manifest's relative paths start."""

import os
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

LEVELS = 4
"""Folders above a manifest that are tried: recipes write paths from their own folder."""


@lru_cache(maxsize=1024)
def resolved(name: str, folder: Path, others: tuple[Path, ...] = ()) -> Path:
    """A path of a manifest in `folder`: below it, a folder above it or one of `others`.

    Composed and decomposed letters are equal.  The path below `folder` if there is no such file.
    """
    forms = [name]
    if not name.isascii():
        forms += [unicodedata.normalize(form, name) for form in ("NFC", "NFD")]
    for root in _roots(folder, others):
        for form in forms:
            if os.path.exists(path := os.path.join(root, form)):  # also if the name is too long
                return Path(path)
        if os.path.isabs(name):
            break
    return folder / name


@lru_cache(maxsize=16)
def _roots(folder: Path, others: tuple[Path, ...]) -> list[str]:
    return [str(root) for root in (folder, *folder.parents[:LEVELS], *others)]


def shallowest(
    folder: Path, pattern: str, accept: Callable[[Path], bool] = Path.is_file
) -> list[Path]:
    """The accepted files of this name in a folder, or else in its first level of folders with any.

    Two levels below it are looked into: data/train of a recipe, raw/train of its dump.
    """
    for below in ("", "*/", "*/*/"):
        if found := sorted(path for path in folder.glob(below + pattern) if accept(path)):
            return found
    return []
