"""Folders of Parquet and Arrow tables, WebDataset's shards and NeMo's tarred manifests."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from utils.corpora.containers import tar
from utils.corpora.containers.nemo import read_tarred
from utils.corpora.containers.webdataset import read_shards
from utils.corpora.rows import BadRow, Row, Rows, split_of
from utils.corpora.tables import PLAIN, TableOptions, read_table
from wav2vec2.audio.recordings import AUDIO_SUFFIXES
from wav2vec2.cli.errors import UserError

MANIFEST = "tarred_audio_manifest.json"


def _within(folder: Path, depth: int, endings: Sequence[str]) -> list[Path]:
    """The files up to `depth` folders below one, by the end of their names; no hidden ones."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            found += _within(path, depth - 1, endings) if depth else []
        elif path.name.lower().endswith(tuple(endings)):
            found.append(path)
    return found


def parquet_files(folder: Path) -> list[Path]:
    """The Parquet files of a folder, as in a copy of a Hugging Face repository."""
    return _within(folder, 3, (".parquet",))


def arrow_files(folder: Path) -> list[Path]:
    """The Arrow files of a folder, without those that `datasets` keeps to save work."""
    return [path for path in _within(folder, 2, (".arrow",)) if not path.name.startswith("cache-")]


def shards(folder: Path) -> list[Path]:
    """The tar archives of a folder without recordings, unless they are Lhotse's."""
    found = _within(folder, 2, tar.SUFFIXES)
    found = [path for path in found if not any(path.parent.glob("cuts.*.jsonl*"))]
    return [] if found and _has_recordings(folder) else found


def _has_recordings(folder: Path) -> bool:
    """Whether there is a file of audio: archives beside it are those that it came in."""
    return any(
        os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES
        for _, _, names in os.walk(folder)
        for name in names
    )


def manifests(folder: Path) -> list[Path]:
    """NeMo's tarred manifests of a folder, or of each of its buckets."""
    found = [*folder.glob(MANIFEST), *sorted(folder.glob(f"*/{MANIFEST}"))]
    return found or sorted(folder.glob("sharded_manifests/manifest_*.json"))


def _each(paths: Sequence[Path], read: Callable[[Path], Rows]) -> Iterator[Row | BadRow]:
    """The rows of several files; one that cannot be read is one bad row."""
    for path in paths:
        try:
            yield from read(path)
        except UserError as error:
            yield BadRow(str(path), str(path), "table", str(error).removeprefix(f"{path}: "))


def _read_tables(folder: Path, paths: Sequence[Path], options: TableOptions) -> Rows:
    def read(path: Path) -> Rows:
        for row in read_table(path, path.parent, options, split=split_of(path, folder)):
            # Relative paths start from the table's folder, or from the one that was named.
            if isinstance(row, Row) and not row.member and not row.audio.exists():
                elsewhere = folder / os.path.relpath(row.audio, path.parent)
                row = replace(row, audio=elsewhere) if elsewhere.exists() else row
            yield row

    yield from _each(paths, read)


def read_parquet_folder(folder: Path, options: TableOptions = PLAIN) -> Rows:
    """Hugging Face's Parquet files, with the audio inside: data/train-00000-of-00002.parquet."""
    yield from _read_tables(folder, parquet_files(folder), options)


def read_arrow_folder(folder: Path, options: TableOptions = PLAIN) -> Rows:
    """What `save_to_disk` of Hugging Face's `datasets` writes: Arrow files of each subset."""
    yield from _read_tables(folder, arrow_files(folder), options)


def read_shard_folder(folder: Path, options: TableOptions = PLAIN) -> Rows:
    """WebDataset's shards: tar archives, also compressed, of key.flac with key.txt or key.json."""
    tables = _within(folder, 2, (".tsv", ".csv", ".jsonl"))
    yield from read_shards(shards(folder), options, folder, tables)


def read_nemo_folder(folder: Path, options: TableOptions = PLAIN) -> Rows:
    """NeMo's tarred data sets: tarred_audio_manifest.json and audio_0.tar, audio_1.tar, ..."""
    yield from _each(manifests(folder), lambda p: read_tarred(p, options, "", split_of(p, folder)))
