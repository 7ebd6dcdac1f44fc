"""Tables of audio paths and transcripts: TSV, CSV, JSON lines and JSON, plain or gzip-compressed.

Column names of NeMo, Hugging Face, Common Voice, MLS and Coqui are known.
"""

import csv
import gzip
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from utils.corpora.rows import BadRow, Row, Rows, subset_named
from wav2vec2.cli.errors import UserError

# fmt: off
AUDIO = (
    "path", "audio", "file", "filename", "wav", "audio_filepath", "audio_path", "file_name",
    "wav_filename", "audio_file", "wav_path", "filepath",
)
TEXT = (
    "text", "transcript", "transcription", "sentence", "normalized_text", "raw_text", "words",
)
SPEAKER = ("speaker", "speaker_id", "client_id", "spk", "spk_id")
START = ("start", "start_time", "offset", "begin", "segment_start")
END = ("end", "end_time", "stop", "segment_end")
DURATION = ("duration", "dur")
SPLIT = ("split",)
# fmt: on
_UNKNOWN = "?"
"""A split whose name says nothing, until the whole table is known."""
SUFFIXES = {".tsv": "tsv", ".csv": "csv", ".jsonl": "jsonl", ".json": "json", ".ndjson": "jsonl"}


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
    """Column of transcripts; default: text, transcript, transcription, sentence or the like."""
    speaker_column: str = ""
    """Column that names the speaker; each speaker is then in one subset only.  Default: speaker,
    speaker_id or client_id, if there is one."""
    group_column: str = ""
    """Column of what must also stay in one subset: recordings, sessions, sentences."""
    split_column: str = ""
    """Column with train, valid (dev, validation) or test; default: split, if all its values are
    such names, else the split is drawn."""

    def __post_init__(self) -> None:
        if len(self.delimiter.replace("\\t", "\t")) > 1:
            raise UserError(f"--delimiter {self.delimiter}: must be one character")


def _open(table: Path) -> TextIO:
    if table.suffix.lower() == ".gz":
        return io.TextIOWrapper(gzip.open(table), encoding="utf-8-sig", newline="")
    return open(table, encoding="utf-8-sig", newline="")


def format_of(table: Path) -> str:
    """tsv, csv, jsonl or json by a table's suffix, before .gz; "" if it is none of them."""
    plain = Path(table.stem) if table.suffix.lower() == ".gz" else table
    return SUFFIXES.get(plain.suffix.lower(), "")


def read_values(
    table: Path, format: str, options: TableOptions
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """(line number, column -> value), or instead of the columns why the line has none.

    UserError if the table as a whole cannot be read.
    """
    format = format or format_of(table)
    reader = None
    try:
        with _open(table) as file:
            if format == "jsonl":
                yield from _json_lines(file)
            elif format == "json":
                yield from _json_values(file.read())
            elif format in ("tsv", "csv"):
                reader = _fields(file, format, options)
                yield from _named(reader, options.columns)
            else:
                raise UserError(
                    f"--table {table}: unknown suffix; give --format tsv, csv, jsonl or json"
                )
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--table {table}: cannot be read ({reason})") from None
    except UnicodeDecodeError:
        raise UserError(f"--table {table}: not UTF-8 text; convert it first") from None
    except csv.Error as error:
        line = reader.line_num if reader else 1
        raise UserError(f"{table}:{line}: not valid {format.upper()} ({error})") from None


def _fields(file: TextIO, format: str, options: TableOptions) -> Any:
    """A csv reader of the fields of each line."""
    delimiter = options.delimiter.replace("\\t", "\t")
    if format == "csv" and not delimiter:
        first = file.readline()
        file.seek(0)
        delimiter = max(",;|\t", key=first.count)
    delimiter = delimiter or "\t"
    # Quotation marks are part of a transcript where lines are fields between tabs or bars.
    if format == "tsv" or delimiter == "|":
        return csv.reader(file, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    return csv.reader(file, delimiter=delimiter, strict=True)


def _named(reader: Any, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for fields in reader:
        if not fields or fields == [""]:
            continue
        if not columns:
            columns = fields
        elif len(fields) != len(columns):
            yield (
                reader.line_num,
                f"has {len(fields)} fields, not the {len(columns)} of {', '.join(columns)}",
            )
        else:
            yield reader.line_num, dict(zip(columns, fields))


def _json_lines(file: TextIO) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, f"not JSON ({error}); write one object per line"
                continue
            yield number, row if isinstance(row, dict) else "not a JSON object"


def _json_values(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """The objects of a JSON list, of an object that holds one list, or of lines."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        yield from _json_lines(io.StringIO(text))
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


def _column(row: dict[str, Any], wanted: str, usual: Sequence[str]) -> str:
    """The column to read: the one that was asked for, or the first usual one that exists."""
    if wanted:
        return wanted if wanted in row else ""
    return next((name for name in usual if name in row), "")


def _number(row: dict[str, Any], names: Sequence[str]) -> float | None:
    """A number of seconds; columns that end in _ms hold milliseconds.  ValueError if it is none."""
    for name in names:
        for column, unit in ((name, 1.0), (f"{name}_ms", 1000.0)):
            if column in row and (text := _value(row[column]).strip()):
                number = float(text) / unit
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
    rows: list[Row | BadRow] = []
    for number, row in read_values(table, format, options):
        where = f"{table}:{number}"
        if isinstance(row, str):
            rows.append(BadRow(where, str(table), "row", row))
            continue
        audio = _column(row, options.audio_column, AUDIO)
        text = _column(row, options.text_column, TEXT)
        if not (audio or options.audio_template):
            raise _no_column(where, row, "audio_column", [options.audio_column, *AUDIO])
        if not text:
            raise _no_column(where, row, "text_column", [options.text_column, *TEXT])
        for flag in ("speaker_column", "group_column", "split_column"):
            if (column := getattr(options, flag)) and column not in row:
                raise _no_column(where, row, flag, [column])
        rows.append(_row(row, where, root, options, audio, text, split))
    yield from _settled(rows)


def _no_column(where: str, row: dict[str, Any], flag: str, names: Sequence[str]) -> UserError:
    looked_for = names[0] or " or ".join(names[1:])
    columns = ", ".join(map(str, row))
    return UserError(f"{where}: no column {looked_for}; it has {columns}: name one with --{flag}")


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


def _field(row: dict[str, Any], name: str, where: str) -> str:
    if name not in row:
        raise _no_column(where, row, "audio_template", [name])
    return _value(row[name])


def _channel(text: str) -> int | None:
    """A channel's number as the table counts, from 0 or 1; A and B are 1 and 2."""
    if not text:
        return None
    number = {"A": 1, "B": 2}[text] if text in ("A", "B") else int(text)
    if number < 0:
        raise ValueError
    return number


def _row(
    row: dict[str, Any],
    where: str,
    root: Path,
    options: TableOptions,
    audio: str,
    text: str,
    split: str,
) -> Row | BadRow:
    name = _value(row[audio]).strip() if audio else ""
    if options.audio_template:
        name = re.sub(
            r"\{([^{}]+)\}", lambda found: _field(row, found[1], where), options.audio_template
        )
    if not name:
        return BadRow(where, "", "no audio", f"column {audio} is empty")
    path = Path(root, name)
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
        channel = _channel(_value(row.get("channel")).strip())
    except ValueError:
        return BadRow(where, str(path), "channel", f"{row['channel']!r}: no channel's number")
    return Row(
        audio=path,
        where=where,
        text=_value(row[text]),
        start=start or 0.0,
        end=end,
        declared=declared,
        channel=channel,
        speaker=_value(row[speaker]) if speaker else "",
        group=_value(row[options.group_column]) if options.group_column else "",
        split=subset,
    )
