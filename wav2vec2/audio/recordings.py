"""Recordings that a user names: files, folders of audio, or a table of audio and transcripts."""

import csv
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from wav2vec2.audio.decode import HEADERLESS
from wav2vec2.audio.zip_member import stem
from wav2vec2.cli.errors import UserError

AUDIO_COLUMNS = ("path", "audio", "file", "filename", "wav")
TEXT_COLUMNS = ("text", "transcript", "transcription", "sentence")
# fmt: off
AUDIO_SUFFIXES = {
    ".3gp", ".aac", ".aif", ".aiff", ".amr", ".au", ".caf", ".flac", ".g722", ".m4a", ".mka",
    ".mkv", ".mp3", ".mp4", ".ogg", ".opus", ".rf64", ".sph", ".w64", ".wav", ".webm", ".wma",
    *HEADERLESS,
}
# fmt: on
SUBSETS = ("train", "valid", "test")
FORMATS = ("tsv", "csv", "jsonl")
LONGEST_ID = 200
"""Bytes of an id at most; file names end at 255, and a suffix follows."""


@dataclass(frozen=True)
class SourceOptions:
    """Where the recordings are"""

    output_dir: str
    """Folder to create: audio/, filelists, labels, dictionary, report."""
    table: str = ""
    """Table of audio paths and transcripts: .tsv, .csv or .jsonl, with named columns."""
    format: Literal["", "tsv", "csv", "jsonl"] = ""
    """Format of the table; default: by its suffix."""
    audio_dir: str = ""
    """Folder of audio without transcripts, searched recursively (instead of --table)."""
    audio_root: str = ""
    """Folder that relative paths in the table start from; default: the table's own."""
    audio_column: str = ""
    """Column of audio paths; default: path, audio, file, filename or wav."""
    text_column: str = ""
    """Column of transcripts; default: text, transcript, transcription or sentence."""
    speaker_column: str = ""
    """Column that names the speaker; each speaker is then in one subset only."""
    split_column: str = ""
    """Column with train, valid or test; default: the split is random."""

    def __post_init__(self) -> None:
        if bool(self.table) == bool(self.audio_dir):
            raise UserError("give either --table or --audio_dir")
        of_tables = ("format", "audio_root", "audio_column", "text_column")
        for flag in (*of_tables, "speaker_column", "split_column"):
            if self.audio_dir and getattr(self, flag):
                raise UserError(f"--{flag}: describes a --table, but --audio_dir is given")


@dataclass(frozen=True)
class Recording:
    """One file, or one row of a table."""

    id: str
    """Stem of the files written for it."""
    key: str
    """Decides the split.  Unlike the id, it does not depend on the other recordings."""
    source: Path
    where: str
    """Its name in messages: its path, or file and line of the table."""
    text: str | None = None
    speaker: str = ""
    split: str = ""


def rows_of(table: Path, format: str = "") -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a tsv, csv or jsonl table: (line number, column -> value)."""
    format = format or table.suffix.lower().lstrip(".")
    reader = None
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            if format not in FORMATS:
                raise UserError(f"--table {table}: unknown suffix; give --format tsv, csv or jsonl")
            if format == "jsonl":
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield number, _json_row(table, number, line)
                return
            if format == "tsv":
                reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            else:
                reader = csv.DictReader(file, strict=True)
            for row in reader:
                if None in row or None in row.values():
                    raise UserError(
                        f"{table}:{reader.line_num}: has another number of fields than the header "
                        f"line ({', '.join(reader.fieldnames or [])})"
                    )
                yield reader.line_num, row
    except OSError as error:
        raise UserError(f"--table {table}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"--table {table}: not UTF-8 text; convert it first") from None
    except csv.Error as error:
        line = reader.line_num if reader else 1
        raise UserError(f"{table}:{line}: not valid {format.upper()} ({error})") from None


def _json_row(table: Path, number: int, line: str) -> dict[str, str]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(
            f"{table}:{number}: not JSON ({error}); write one object per line"
        ) from None
    if not isinstance(row, dict):
        raise UserError(f"{table}:{number}: not a JSON object; write one object per line")
    for key, value in row.items():
        if isinstance(value, (dict, list)):
            row[key] = ""  # nested columns hold no text, but may be in the table
    return {key: "" if value is None else str(value) for key, value in row.items()}


def pick_column(row: dict[str, str], wanted: str, usual: Sequence[str], flag: str, at: str) -> str:
    """The column to read; UserError, naming the table's columns, if there is none."""
    names = [wanted] if wanted else usual
    for name in names:
        if name in row:
            return name
    raise UserError(
        f"{at}: no column {' or '.join(names)}; it has {', '.join(row)}: name one with {flag}"
    )


def recording_key(path: Path, root: Path) -> str:
    """A path as a file stem: relative to `root` if it is below it, without its suffix."""
    if path.is_relative_to(root):
        path = path.relative_to(root)
    name = str(path.with_name(stem(path))).lstrip("/").encode("utf-8", "replace").decode()
    name = re.sub(r"[\s/\\]", "_", name)
    if len(name.encode()) > LONGEST_ID:
        digest = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
        name = name.encode()[-(LONGEST_ID - 17) :].decode("utf-8", "ignore") + "_" + digest
    return name


def read_table(options: SourceOptions) -> list[Recording]:
    """The recordings in a table."""
    table = Path(options.table)
    root = Path(os.path.abspath(options.audio_root or table.parent))
    recordings = []
    for number, row in rows_of(table, options.format):
        at = f"{table}:{number}"
        audio = pick_column(row, options.audio_column, AUDIO_COLUMNS, "--audio_column", at)
        text = pick_column(row, options.text_column, TEXT_COLUMNS, "--text_column", at)
        speaker = split = ""
        if options.speaker_column:
            speaker = row[pick_column(row, options.speaker_column, (), "--speaker_column", at)]
            if not speaker:
                raise UserError(f"{at}: no speaker in column {options.speaker_column}; fill it in")
        if options.split_column:
            split = row[pick_column(row, options.split_column, (), "--split_column", at)]
            if split not in SUBSETS:
                raise UserError(f"{at}: split {split!r} is none of {', '.join(SUBSETS)}")
        if not row[audio].strip():
            raise UserError(f"{at}: column {audio} is empty; give an audio file or remove the line")
        source = Path(os.path.normpath(root / row[audio]))
        key = recording_key(source, root)
        recordings.append(Recording(key, key, source, at, row[text], speaker, split))
    if not recordings:
        raise UserError(
            f"--table {table}: names no recordings; write a header line and one line per recording"
        )
    return recordings


def audio_files(root: Path, without: Path | None = None) -> list[Path]:
    """The audio files below a folder, by suffix, sorted; skips hidden ones and the folder
    `without`."""
    files = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [s for s in subfolders if Path(folder, s) != without and s[0] != "."]
        paths = (Path(folder, name) for name in names if not name.startswith("."))
        files += [path for path in paths if path.suffix.lower() in AUDIO_SUFFIXES]
    return sorted(files)


def recordings_at(name: str) -> list[Recording]:
    """The file with that name, or the audio files below the folder with that name.

    UserError for a folder without audio.
    """
    path = Path(name)
    if not path.is_dir():
        return [named_recording(recording_key(path, path.parent), path, name)]
    inside = audio_files(path)
    if not inside:
        suffixes = " ".join(sorted(AUDIO_SUFFIXES))
        raise UserError(f"{name}: a folder without audio files ({suffixes})")
    return [named_recording(recording_key(file, path), file) for file in inside]


def named_recording(key: str, path: Path, name: str = "") -> Recording:
    """A recording without transcript, called `name`; default: its path."""
    return Recording(key, key, path, (name or str(path)).encode("utf-8", "replace").decode())


def read_folder(options: SourceOptions) -> list[Recording]:
    """The audio files below --audio_dir, without hidden ones and those in --output_dir."""
    root = Path(os.path.abspath(options.audio_dir))
    output_dir = Path(os.path.abspath(options.output_dir))
    if not root.is_dir():
        raise UserError(f"--audio_dir {root}: no such folder")
    files = audio_files(root, without=output_dir)
    if not files:
        raise UserError(
            f"--audio_dir {root}: holds no audio file ({' '.join(sorted(AUDIO_SUFFIXES))})"
        )
    return [named_recording(recording_key(path, root), path) for path in files]


def _kind(recording: Recording) -> str:
    """The suffix without its dot; for a zip member that of the archive."""
    return recording.source.suffix.lstrip(".").lower().partition(":")[0]


def unique_ids(recordings: Sequence[Recording]) -> list[Recording]:
    """The recordings, with equal ids made different by the suffix (a.wav, a.mp3).

    UserError for a file that is named twice, or ids that are still equal (a/b.wav, a_b.wav).
    """
    first: dict[Path, Recording] = {}
    for recording in recordings:
        if recording.source in first:
            raise UserError(
                f"{recording.where}: {recording.source} is named a second time, first in "
                f"{first[recording.source].where}; remove one"
            )
        first[recording.source] = recording
    counts = Counter(r.id for r in recordings)
    named = [r if counts[r.id] == 1 else replace(r, id=f"{r.id}_{_kind(r)}") for r in recordings]
    owner: dict[str, Recording] = {}
    for recording in named:
        other = owner.setdefault(recording.id, recording)
        if other is not recording:
            raise UserError(
                f"{recording.where}: {recording.source} and {other.source} would both be called "
                f"{recording.id}; rename one"
            )
    return named
