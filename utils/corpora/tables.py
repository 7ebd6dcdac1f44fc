"""Tables of audio paths and transcripts: TSV, CSV, JSON lines and JSON, plain or gzip-compressed,
Parquet and Arrow, also with the audio inside.

Column names of NeMo, Hugging Face, Common Voice, VoxPopuli and Coqui are known.
"""

import csv
import gzip
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

from utils.corpora.containers import parquet
from utils.corpora.rows import BadRow, Row, Rows, Stored, encoding_of, subset_named
from utils.corpora.timed_text import audio_named
from wav2vec2.audio.recordings import AUDIO_SUFFIXES
from wav2vec2.cli.errors import UserError

# fmt: off
AUDIO = (
    "path", "audio", "file", "filename", "wav", "audio_filepath", "audio_path", "file_name",
    "wav_filename", "audio_file", "wav_path", "wav_file", "filepath", "file_path",
)
TEXT = (
    "text", "transcript", "transcription", "sentence", "normalized_text", "raw_text", "words",
    "wrd",
)
SPEAKER = ("speaker", "speaker_id", "client_id", "spk", "spk_id", "speaker_name")
START = ("start", "start_time", "offset", "begin", "begin_time", "segment_start")
END = ("end", "end_time", "stop", "stop_time", "segment_end")
DURATION = ("duration", "dur")
_TIMES = {name + unit for name in (*START, *END) for unit in ("", "_ms")}
SPLIT = ("split",)
# fmt: on
_UNKNOWN = "?"
"""A split whose name says nothing, until the whole table is known."""
NO_TEXT = "none"
"""--text_column of a table whose audio is imported alone."""
SUFFIXES = {
    ".tsv": "tsv",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".json": "json",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
}


@dataclass(frozen=True)
class TableOptions:
    """Tables"""

    delimiter: str = ""
    """What separates the fields; default: a tab in .tsv, in .csv the most frequent of , ; | tab."""
    columns: tuple[str, ...] = ()
    """Names of the columns, for a table without a header line."""
    audio_column: str = ""
    """Column of audio paths; default: path, audio, file, audio_filepath, wav_filename or the
    like."""
    audio_template: str = ""
    """Audio path made of other columns, such as wavs/{id}.wav."""
    text_column: str = ""
    """Column of transcripts; default: text, transcript, transcription, sentence or the like.
    none: audio alone."""
    speaker_column: str = ""
    """Column that names the speaker; each speaker is then in one subset only.  Default: speaker,
    speaker_id or client_id, if there is one."""
    id_column: str = ""
    """Column that names each utterance in filelists and results; default: the audio's path."""
    group_column: str = ""
    """Column of what must also stay in one subset: recordings, sessions, sentences."""
    split_column: str = ""
    """Column with train, valid (dev, validation) or test; default: split, if all its values are
    such names, else the split is drawn."""
    audio_tars: str = ""
    """Archives that hold the audio of a NeMo manifest, such as audio__OP_0..511_CL_.tar; default:
    audio_<shard_id>.tar beside it."""

    def __post_init__(self) -> None:
        if len(self.delimiter.replace("\\t", "\t")) > 1:
            raise UserError(f"--delimiter {self.delimiter}: must be one character")


PLAIN = TableOptions()
"""No flags given."""


def _open(table: Path) -> TextIO:
    """A table as text, of whatever bytes: what is not valid becomes surrogate characters."""
    opened = gzip.open if table.suffix.lower() == ".gz" else open
    with opened(table, "rb") as file:
        encoding = encoding_of(file.read(2))
    return opened(table, "rt", encoding=encoding, errors="surrogateescape", newline="")


def format_of(table: Path) -> str:
    """A table's format, by its suffix before .gz; "" if it is none of SUFFIXES."""
    plain = Path(table.stem) if table.suffix.lower() == ".gz" else table
    return SUFFIXES.get(plain.suffix.lower(), "")


def first_row(path: Path) -> dict[str, Any]:
    """The first row of a table by its suffix; empty if the file is none."""
    if not format_of(path) or not path.is_file():
        return {}
    return _first_row(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _first_row(path: Path, changed: int) -> dict[str, Any]:
    try:
        _, row = next(read_values(path, "", TableOptions()), (0, ""))
    except UserError:
        return {}
    return row if isinstance(row, dict) else {}


def first_path(table: Path, format: str, options: TableOptions) -> str:
    """The audio path, or its template, of a table's first row; "" if it has none."""
    if options.audio_template:
        return options.audio_template
    try:
        _, row = next(read_values(table, format, options), (0, ""))
    except UserError:
        return ""
    if not isinstance(row, dict):
        return ""
    column = _column(row, options.audio_column, AUDIO)
    return "" if isinstance(row.get(column), Stored) else _value(row.get(column))


def is_table_of_audio(path: Path) -> bool:
    """Whether a file is a table whose first row has columns of audio paths and transcripts."""
    row = first_row(path)
    return bool(_column(row, "", AUDIO) and _column(row, "", TEXT))


def read_values(
    table: Path, format: str, options: TableOptions
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """(line number, column -> value), or instead of the columns why the line has none.

    UserError if the table as a whole cannot be read.
    """
    format = format or format_of(table)
    try:
        if format in ("parquet", "arrow"):
            for number, row in parquet.read_values(table, options.audio_column, AUDIO):
                yield number, row if isinstance(row, str) else without_times(row)
            return
        with _open(table) as file:
            if format == "jsonl":
                yield from _json_lines(file)
            elif format == "json":
                yield from _json_values(file)
            elif format in ("tsv", "csv"):
                yield from _named(_records(file, format, options), options.columns)
            else:
                raise UserError(
                    f"--table {table}: unknown suffix; give --format tsv, csv, jsonl, json, parquet"
                )
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--table {table}: cannot be read ({reason})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"--table {table}: not {error.encoding} text; convert it first") from None


def _delimiter(first: str, format: str, options: TableOptions) -> str:
    """What separates the fields of a table with this first line."""
    if options.delimiter:
        return options.delimiter.replace("\\t", "\t")
    if format == "tsv":
        return "\t"
    others = len(options.columns) - 1
    if others > 0 and (fitting := [c for c in "|\t;," if first.count(c) == others]):
        return fitting[0]
    return max(",;|\t", key=first.count)


def _records(file: TextIO, format: str, options: TableOptions) -> Iterator[tuple[int, Any]]:
    """(line number, the fields of a record, or why it is none).

    A quotation mark that is never closed spoils its own line only.
    """
    lines = list(file)
    delimiter = _delimiter(lines[0] if lines else "", format, options)
    # Quotation marks are part of a transcript where lines are fields between tabs or bars, unless
    # the header is quoted, too.
    names = lines[0].rstrip("\r\n").split(delimiter) if lines else []
    quoted = all(len(name) > 1 and name[0] == name[-1] == '"' for name in names)
    plain = (format == "tsv" or delimiter == "|") and not quoted
    rules = {"quoting": csv.QUOTE_NONE} if plain else {"strict": True}
    start = 0
    while start < len(lines):
        reader = csv.reader(islice(lines, start, None), delimiter=delimiter, **rules)
        done = 0  # lines of whole records
        try:
            for fields in reader:
                done = reader.line_num
                yield start + done, fields
            return
        except csv.Error as error:
            start += done + 1
            yield start, f"not valid {format.upper()} ({error})"


def _named(
    records: Iterator[tuple[int, Any]], columns: Sequence[str]
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for number, fields in records:
        if isinstance(fields, str):
            yield number, fields
        elif not any(field.strip() for field in fields):
            continue
        elif not columns:
            columns = [field.strip() for field in fields]
        elif len(fields) != len(columns):
            yield (
                number,
                f"has {len(fields)} fields, not the {len(columns)} of {', '.join(columns)}",
            )
        else:
            yield number, dict(zip(columns, fields))


def _json_lines(file: Iterable[str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, f"not JSON ({error}); write one object per line"
                continue
            yield number, row if isinstance(row, dict) else "not a JSON object"


def _json_values(file: TextIO) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """The objects of a JSON list, of an object that holds one list, or of lines."""
    first = file.readline()
    try:
        lines = isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        lines = False
    if lines and (second := file.readline()).strip():  # NeMo's manifests
        yield from _json_lines(chain([first, second], file))
        return
    text = first if lines else first + file.read()
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        yield from _json_lines(text.split("\n"))
        return
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        content = lists[0] if len(lists) == 1 else [content]
    for number, row in enumerate(content if isinstance(content, list) else [content], start=1):
        yield number, row if isinstance(row, dict) else "not a JSON object"


def _value(value: Any) -> str:
    """A field as text.  Hugging Face's audio column is an object with a path."""
    if isinstance(value, dict):
        return str(value.get("path") or "")
    if isinstance(value, list):
        return ""
    return "" if value is None else str(value)


def _column(row: dict[str, Any], wanted: str, usual: tuple[str, ...]) -> str:
    """The column to read: the one that was asked for, or the first usual one that exists."""
    return _find_column(tuple(row), wanted, usual)


@lru_cache(maxsize=256)  # all rows of a table have the same columns
def _find_column(columns: tuple[str, ...], wanted: str, usual: tuple[str, ...]) -> str:
    if wanted:
        return wanted if wanted in columns else ""
    # In small letters, with _ for spaces; of equal ones the first counts.
    plain = {re.sub(r"[\s-]+", "_", str(c).strip().lower()): c for c in reversed(columns)}
    return next((plain[name] for name in usual if name in plain), "")


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    """The columns, without start and end if the row holds its own audio.

    They are those of the recording from which that was cut, as in AMI and GigaSpeech.
    """
    if not any(isinstance(value, Stored) for value in row.values()):
        return row
    return {name: value for name, value in row.items() if name not in _TIMES}


@lru_cache(maxsize=256)
def _time_columns(columns: tuple[str, ...], names: tuple[str, ...]) -> list[tuple[str, float]]:
    """The columns of a time and their units; those that end in _ms hold milliseconds."""
    found = [
        (_find_column(columns, "", (name + suffix,)), unit)
        for name in names
        for suffix, unit in (("", 1.0), ("_ms", 1000.0))
    ]
    return [(column, unit) for column, unit in found if column]


def _number(row: dict[str, Any], names: tuple[str, ...]) -> float | None:
    """A number of seconds.  ValueError if it is none."""
    for column, unit in _time_columns(tuple(row), names):
        if text := _value(row[column]).strip():
            try:
                number = float(text) / unit
            except ValueError:
                raise ValueError(f"{column} {text!r}: not a number") from None
            if not 0 <= number < float("inf"):
                raise ValueError(f"{column} {text}: not a time")
            return number
    return None


def read_table(
    table: Path, root: Path, options: TableOptions, format: str = "", split: str = ""
) -> Rows:
    """The rows of a table; paths start from `root`, and `split` is the subset of all of them.

    UserError if it lacks a column; a row that names no utterance is yielded as a BadRow.
    """
    values = read_values(table, format, options)
    yield from rows_of_values(values, table, root, options, split, format)


def rows_of_values(
    values: Iterable[tuple[int | str, dict[str, Any] | str | BadRow]],
    table: Path,
    root: Path,
    options: TableOptions,
    split: str = "",
    format: str = "",
) -> Rows:
    """`read_table` of values that were read already, each with its number or name.

    The value of an audio column may be Stored.
    """
    rows: list[Row | BadRow] = []
    objects = (format or format_of(table)) in ("json", "jsonl")
    for number, row in values:
        where = f"{table}:{number}"
        if isinstance(row, str):
            row = BadRow(where, str(table), "row", row)
        if isinstance(row, BadRow):
            rows.append(row)
            continue
        try:
            rows.append(_row(row, where, root, options, split))
        except _NoColumn as error:
            if not objects:  # all rows lack it
                raise UserError(f"{where}: {error}") from None
            rows.append(BadRow(where, str(table), "no column", str(error)))
    yield from _settled(rows)


class _NoColumn(Exception):
    """A row lacks a column."""

    def __init__(self, row: dict[str, Any], flag: str, names: Sequence[str]):
        looked_for = names[0] or " or ".join((*names[1:4], "the like"))
        columns = ", ".join(map(str, row))
        super().__init__(
            f"no column {looked_for}; it has {columns}: name one with --{flag}, or for a table "
            "without a header all with --columns"
        )


def _settled(rows: Sequence[Row | BadRow]) -> Rows:
    """The rows, with what only the whole table tells.

    Channels count from 0 if one is 0.  Splits count only if all are known.
    """
    good = [row for row in rows if isinstance(row, Row)]
    first = min((row.channel for row in good if row.channel is not None), default=1)
    splits = all(row.split != _UNKNOWN for row in good)
    for row in rows:
        if isinstance(row, Row):
            if row.channel is not None and not first:
                row = replace(row, channel=row.channel + 1)
            if row.split and not splits:
                row = replace(row, split="")
        yield row


def _field(row: dict[str, Any], name: str) -> str:
    if name not in row:
        raise _NoColumn(row, "audio_template", [name])
    return _value(row[name])


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _with_suffix(path: Path) -> Path:
    """A path that a table gives without its suffix, as it is on disk."""
    if os.path.exists(path) or "\0" in path.name:
        return path
    found = audio_named(path.parent, path.name)
    return found if os.path.exists(found) else path


def _channel(text: str) -> int | None:
    """A channel's number as the table counts, from 0 or 1; A and B are 1 and 2."""
    if not text:
        return None
    number = {"A": 1, "B": 2}[text] if text in ("A", "B") else int(text)
    if number < 0:
        raise ValueError
    return number


def _row(
    row: dict[str, Any], where: str, root: Path, options: TableOptions, split: str
) -> Row | BadRow:
    audio = next((name for name, value in row.items() if isinstance(value, Stored)), "")
    if options.audio_column or not audio:
        filled = {name: value for name, value in row.items() if value}
        audio = _column(filled, options.audio_column, AUDIO)
        audio = audio or _column(row, options.audio_column, AUDIO)
    text = _column(row, options.text_column, TEXT)
    if not (audio or options.audio_template):
        raise _NoColumn(row, "audio_column", [options.audio_column, *AUDIO])
    if not text and options.text_column != NO_TEXT:
        raise _NoColumn(row, "text_column", [options.text_column, *TEXT])
    for flag in ("speaker_column", "group_column", "split_column", "id_column"):
        if (column := getattr(options, flag)) and column not in row:
            raise _NoColumn(row, flag, [column])
    stored = row.get(audio)
    if not isinstance(stored, Stored) or options.audio_template:
        stored = None
    name = _value(row[audio]).strip() if audio and not stored else ""
    if options.audio_template:
        name = re.sub(r"\{([^{}]+)\}", lambda found: _field(row, found[1]), options.audio_template)
    if not name and not stored:
        return BadRow(where, "", "no audio", f"column {audio} is empty")
    path = stored.audio if stored else Path(root, name)
    if text and not _is_encodable(_value(row[text])):
        return BadRow(where, str(path), "not UTF-8", "its transcript is not UTF-8; convert it")
    if not stored and path.suffix.lower() not in AUDIO_SUFFIXES:
        path = _with_suffix(path)
    key = _value(row[options.id_column]).strip() if options.id_column else ""
    if options.id_column and not key:
        return BadRow(where, str(path), "no id", f"column {options.id_column} is empty")
    try:
        start, end = _number(row, START), _number(row, END)
        duration = _number(row, DURATION)
    except ValueError as error:
        return BadRow(where, str(path), "time", str(error))
    declared = None
    if start is None and end is None:
        declared, duration = duration, None  # of the whole file
    elif end is None and duration is not None:
        end = (start or 0.0) + duration
    speaker = options.speaker_column or _column(row, "", SPEAKER)
    if options.speaker_column and not _value(row[speaker]):
        return BadRow(where, str(path), "no speaker", f"column {speaker} is empty")
    column = options.split_column or _column(row, "", SPLIT)
    subset = split or (subset_named(_value(row[column])) or _UNKNOWN if column else "")
    if options.split_column and subset == _UNKNOWN:
        return BadRow(
            where, str(path), "split", f"{_value(row[column])!r} is none of train, valid, test"
        )
    try:
        number = _value(row.get(_column(row, "", ("channel",)))).strip()
        channel = _channel(number)
    except ValueError:
        return BadRow(where, str(path), "channel", f"{number!r}: no channel's number")
    return Row(
        audio=path,
        where=where,
        text=_value(row[text]) if text else None,
        start=start or 0.0,
        end=end,
        declared=declared,
        channel=channel,
        speaker=_value(row[speaker]) if speaker else "",
        group=_value(row[options.group_column]) if options.group_column else "",
        split=subset,
        member=stored.member if stored else "",
        name=stored.name if stored else "",
        id=key,
    )
