"""The recordings to import: a table of audio files and transcripts, or a folder of audio."""

import csv
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from wav2vec2.audio.decode import count_channels
from wav2vec2.audio.recordings import AVERAGE, EACH, Recording, parse_channel, recordings_below
from wav2vec2.audio.source import printable, recording_key
from wav2vec2.cli.errors import UserError

AUDIO_COLUMNS = ("path", "audio", "file", "filename", "wav")
TEXT_COLUMNS = ("text", "transcript", "transcription", "sentence")
SUBSETS = ("train", "valid", "test")
FORMATS = ("tsv", "csv", "jsonl")


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
    channel: str = AVERAGE
    """average of all channels; or the number of one, from 1; or each (without --table): every
    channel becomes a recording, for a speaker per channel."""

    def __post_init__(self) -> None:
        parse_channel(self.channel)
        if bool(self.table) == bool(self.audio_dir):
            raise UserError("give either --table or --audio_dir")
        of_tables = ("format", "audio_root", "audio_column", "text_column")
        for flag in (*of_tables, "speaker_column", "split_column"):
            if self.audio_dir and getattr(self, flag):
                raise UserError(f"--{flag}: describes a --table, but --audio_dir is given")
        if self.table and self.channel == EACH:
            raise UserError(
                "--channel each: a row of --table has one transcript for all channels; choose "
                "average or a channel's number"
            )


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
    if found := [name for name in names if name in row]:
        return found[0]
    raise UserError(
        f"{at}: no column {' or '.join(names)}; it has {', '.join(row)}: name one with {flag}"
    )


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
        channel = parse_channel(options.channel)
        recordings.append(Recording(key, key, source, at, row[text], speaker, split, channel))
    if not recordings:
        raise UserError(
            f"--table {table}: names no recordings; write a header line and one line per recording"
        )
    return recordings


def read_folder(options: SourceOptions) -> list[Recording]:
    """The audio files below --audio_dir, without hidden ones and those in --output_dir."""
    root = Path(os.path.abspath(options.audio_dir))
    output_dir = Path(os.path.abspath(options.output_dir))
    if not root.is_dir():
        raise UserError(f"--audio_dir {root}: no such folder; name the folder of recordings")
    found = recordings_below(root, f"--audio_dir {printable(root)}", without=output_dir)
    if options.channel == EACH:
        return [channel for recording in found for channel in split_channels(recording)]
    return [replace(recording, channel=parse_channel(options.channel)) for recording in found]


def split_channels(recording: Recording) -> list[Recording]:
    """A recording of each channel; all have the same key, so that they are in the same subset."""
    try:
        channels = count_channels(recording.source)
    except UserError:
        return [recording]  # its conversion reports the error
    return [
        replace(
            recording,
            id=f"{recording.id}_channel{n}",
            where=f"{recording.where} (channel {n})",
            channel=n,
        )
        for n in range(1, channels + 1)
    ]
