"""WebDataset's shards: tar archives in which key.flac, key.txt and key.json are one sample."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from utils.corpora.containers import tar
from utils.corpora.rows import BadRow, Rows, Stored, split_of
from utils.corpora.tables import NO_TEXT, TEXT, TableOptions, rows_of_values, without_times
from wav2vec2.audio.recordings import AUDIO_SUFFIXES
from wav2vec2.audio.source import printable
from wav2vec2.cli.errors import UserError

TRANSCRIPTS = (".txt", ".text", ".transcript", ".lab")

Samples = list[tuple[str, dict[str, Any] | BadRow]]


def read_shards(
    shards: Sequence[Path],
    options: TableOptions,
    root: Path | None = None,
    tables: Sequence[Path] = (),
) -> Rows:
    """The rows of shards, whose subset is in their names, or in those of folders below `root`.

    `tables`: files beside them that may hold their transcripts.  UserError if the archives hold no
    samples but a corpus.
    """
    listed = [(shard, *_samples(shard)) for shard in shards]
    columns = (options.text_column,) if options.text_column else TEXT

    def has_text(row: dict[str, Any] | BadRow) -> bool:
        return isinstance(row, dict) and any(name in row for name in columns)

    found = any(has_text(row) for _, samples, _ in listed for _, row in samples)
    if not found and not options.text_column:
        for shard, _, lone in listed:
            if lone:
                raise UserError(
                    f"{shard}: has {printable(lone)}, but no transcripts beside its audio "
                    "(key.txt, text in key.json), as if it held a whole corpus; unpack it (tar "
                    "-xf) and name the folder with --audio_dir"
                )
        if tables:
            raise UserError(
                f"{shards[0]}: has no transcripts beside its audio (key.txt, text in key.json), "
                f"but {tables[0]} may hold them; unpack it (tar -xf) and name the table with "
                "--table, or give --text_column none for audio alone"
            )
        if any(isinstance(row, dict) for _, samples, _ in listed for _, row in samples):
            print("note: no transcripts beside the audio (key.txt, text in key.json): audio alone")
        options = replace(options, text_column=NO_TEXT)
    for shard, samples, _ in listed:
        values: Samples = []
        for name, row in samples:
            if found and isinstance(row, dict) and not has_text(row):
                detail = "no key.txt, and no text in key.json"
                row = BadRow(f"{shard}:{name}", str(shard), "no transcript", detail)
            values.append((name, row))
        split = split_of(shard, root or shard.parent)
        yield from rows_of_values(values, shard, shard.parent, options, split)


def _samples(shard: Path) -> tuple[Samples, str]:
    """(name, columns) of each recording of a shard, and the first file that is of none."""
    entries: dict[str, tar.Entry] = {}
    bad: Samples = []

    def skip(name: str, reason: str, detail: str) -> None:
        where = f"{shard}:{name}" if name else str(shard)
        bad.append((name, BadRow(where, str(shard), reason, detail)))

    try:
        for entry in tar.list_files(shard, lambda name: name.endswith((*TRANSCRIPTS, ".json"))):
            if isinstance(entry, str):
                skip("", "archive", f"{entry}; fetch it again")
            elif not _is_hidden(entry.name):
                if entry.name in entries:
                    skip(entry.name, "named twice", "a later file of the archive has this name")
                entries[entry.name] = entry
    except UserError as error:
        skip("", "archive", str(error))
    except OSError as error:
        skip("", "missing", f"cannot be opened ({error.strerror or error})")
    samples: Samples = []
    keys = set()
    for name, entry in entries.items():
        path = PurePosixPath(name)
        if path.suffix.lower() in AUDIO_SUFFIXES:
            names = str(path.with_suffix("")), _key(path)
            keys |= {*names}
            try:
                row = _columns(entries, names)
            except ValueError as error:
                skip(name, "transcript file", str(error))
                continue
            row["audio"] = Stored(shard, f"tar:{entry.place}", names[0])
            samples.append((name, without_times(row)))
    lone = (n for n in entries if {_key(PurePosixPath(n)), n.rpartition(".")[0]}.isdisjoint(keys))
    return samples + bad, next(lone, "")


def _is_hidden(name: str) -> bool:
    """Whether a name is of no sample: .hidden, ._of_macos, __information__."""
    file = PurePosixPath(name).name
    return file.startswith(".") or (file.startswith("__") and file.endswith("__"))


def _key(path: PurePosixPath) -> str:
    """The name of a file's sample: up to the first dot of the file's name."""
    return str(path.parent / path.name.partition(".")[0])


def _columns(entries: dict[str, tar.Entry], names: Sequence[str]) -> dict[str, Any]:
    """What the files of a sample say about it.  ValueError for a file that cannot be read."""

    def content(suffix: str) -> bytes | None:
        return next((entries[n + suffix].text for n in names if n + suffix in entries), None)

    row: dict[str, Any] = {}
    if (text := content(".json")) is not None:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{names[0]}.json: not JSON ({error})") from None
        row |= found if isinstance(found, dict) else {}
    for suffix in TRANSCRIPTS:
        if (text := content(suffix)) is not None:
            try:
                row["text"] = " ".join(text.decode("utf-8-sig").split())
            except UnicodeDecodeError:
                raise ValueError(f"{names[0]}{suffix}: not UTF-8 text") from None
            break
    return row
