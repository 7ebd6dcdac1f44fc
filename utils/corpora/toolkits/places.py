"""Where a manifest's relative paths start."""

import os
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

LEVELS = 4
"""Folders above a manifest that are tried: recipes write paths from their own folder."""


def resolved(name: str, folder: Path, others: Sequence[Path] = ()) -> Path:
    """A path of a manifest in `folder`: below it, a folder above it or one of `others`.

    Composed and decomposed letters are equal.  The path below `folder` if there is no such file.
    """
    for root in (folder, *folder.parents[:LEVELS], *others):
        for form in (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))):
            if os.path.exists(root / form):  # unlike pathlib, false for a name that is too long
                return root / form
        if os.path.isabs(name):
            break
    return folder / name


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
