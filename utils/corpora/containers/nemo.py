"""NeMo's tarred data sets: a manifest with a shard_id in each line, and audio_<shard_id>.tar."""

import os
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from utils.corpora.containers import tar
from utils.corpora.rows import BadRow, Rows, Stored
from utils.corpora.tables import AUDIO, TableOptions, format_of, read_values, rows_of_values
from wav2vec2.cli.errors import UserError

SHARD = "shard_id"


def is_tarred(manifest: Path, root: Path, format: str, options: TableOptions) -> bool:
    """Whether the audio of a manifest is in archives: named by a flag, or by its first line."""
    if options.audio_tars:
        return True
    if (format or format_of(manifest)) not in ("json", "jsonl"):
        return False
    _, first = next(read_values(manifest, format, options), (0, ""))
    if not isinstance(first, dict) or SHARD not in first:
        return False
    return not any(os.path.isfile(root / str(first[name])) for name in AUDIO if name in first)


def read_tarred(manifest: Path, options: TableOptions, format: str = "", split: str = "") -> Rows:
    """The rows of a manifest.  `offset` is within the recording of the archive."""
    tars = [Path(name) for name in tar.expand(options.audio_tars)] if options.audio_tars else []
    values = _values(manifest, tars, options, format)
    yield from rows_of_values(values, manifest, manifest.parent, options, split)


def _values(
    manifest: Path, tars: Sequence[Path], options: TableOptions, format: str
) -> Iterator[tuple[int, dict[str, Any] | str | BadRow]]:
    """The lines of a manifest, their audio as Stored."""
    listed = cache(_places)
    columns = (options.audio_column,) if options.audio_column else AUDIO
    for number, row in read_values(manifest, format, options):
        column = "" if isinstance(row, str) else next((c for c in columns if c in row), "")
        if not column:
            yield number, row
            continue
        name = PurePosixPath(str(row[column]))
        where = f"{manifest}:{number}"
        chosen = _archives(manifest, tars, row.get(SHARD))
        for archive in chosen:
            places = listed(archive)
            # Another codec changes the suffix; -sub1 is a further piece of one recording.
            stem = re.sub(r"-sub\d+$", "", name.stem)
            names = (str(name), name.name, name.stem, stem)
            place = next(filter(None, map(places.get, names)), "")
            if place:
                stored = Stored(archive, f"tar:{place}", f"{name.parent}/{stem}")
                yield number, {**row, column: stored}
                break
        else:
            shown = " or ".join(map(str, chosen[:2])) or f"no archive of shard {row.get(SHARD)}"
            missing = "" if any(map(listed, chosen)) else " (no such archive, or a damaged one)"
            detail = f"{name} is not in {shown}{missing}; --audio_tars names the archives"
            yield number, BadRow(where, str(name), "missing", detail)


def _archives(manifest: Path, tars: Sequence[Path], shard: Any) -> Sequence[Path]:
    """The archives that may hold a line's recording."""
    if tars:
        number = re.compile(rf"(?<!\d)0*{re.escape(str(shard))}$")
        return [path for path in tars if number.search(path.stem)] or tars
    name = f"audio_{shard}.tar"
    if "/" in name:
        return ()
    beside = [folder / name for folder in (manifest.parent, manifest.parent.parent)]
    return [path for path in beside if path.exists()] or beside[:1]


def _places(archive: Path) -> dict[str, str]:
    """Name -> place of an archive's files; also by the file's name, with and without its suffix.

    A short name that several files have has no place.
    """
    places: dict[str, str] = {}
    short: dict[str, str] = {}
    try:
        for entry in tar.list_files(archive, lambda name: False):
            if isinstance(entry, tar.Entry):
                path = PurePosixPath(entry.name)
                places[str(path)] = entry.place
                for name in {path.name, path.stem} - {str(path)}:
                    short[name] = "" if name in short else entry.place
    except (OSError, UserError):
        pass
    return short | places
