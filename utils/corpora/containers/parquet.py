"""Parquet and Arrow tables with audio inside, as Hugging Face writes them; `pip install pyarrow`.

The rows are listed without their audio, which the process that converts it reads, a few recordings
at a time.  So memory does not depend on the size of a table.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.corpora.containers.tar import first_bytes
from utils.corpora.rows import Stored
from wav2vec2.cli.errors import UserError, one_line

if TYPE_CHECKING:
    import pyarrow

AT_ONCE = 16
"""Recordings in memory at a time."""
SUFFIXES = (".parquet", ".arrow")

Values = Iterator[tuple[int, dict[str, Any] | str]]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """UserError for what pyarrow raises while it reads `path`."""
    try:
        yield
    except ImportError:
        raise UserError(
            f"{path}: needs `pip install pyarrow` (or `pip install -r requirements-corpora.txt`)"
        ) from None
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    # ValueError, KeyError and others: pyarrow's own errors are subclasses of them
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError, MemoryError) as error:
        raise UserError(
            f"{path}: damaged, or not of this format ({one_line(str(error))[:200]}); fetch it again"
        ) from None


def _audio_column(schema: "pyarrow.Schema", wanted: str, usual: Sequence[str]) -> str:
    """The column that holds audio or its path; "" if there is none.

    A column with audio inside comes before one with paths, and a usual name before others.
    """
    inside = [field.name for field in schema if _holds_audio(field.type)]
    if wanted:
        return wanted if wanted in schema.names else ""
    for names in (inside, schema.names):
        if found := next((name for name in usual if name in names), ""):
            return found
    return inside[0] if len(inside) == 1 else ""


def _fields(type: "pyarrow.DataType") -> dict[str, "pyarrow.DataType"]:
    """Name -> type of a struct's fields; nothing for other types."""
    import pyarrow as pa

    return {field.name: field.type for field in type} if pa.types.is_struct(type) else {}


def _is_bytes(type: "pyarrow.DataType") -> bool:
    import pyarrow as pa

    return pa.types.is_binary(type) or pa.types.is_large_binary(type)


def _holds_audio(type: "pyarrow.DataType") -> bool:
    """Whether it is bytes, or Hugging Face's struct of bytes (or an array) and a path."""
    fields = _fields(type)
    return _is_bytes(fields.get("bytes", type)) or ({"array", "sampling_rate"} <= fields.keys())


def _plain_columns(schema: "pyarrow.Schema") -> list[str]:
    """The columns of text and numbers."""
    import pyarrow as pa

    return [
        field.name
        for field in schema
        if not pa.types.is_nested(field.type) and not _is_bytes(field.type)
    ]


def read_values(path: Path, wanted: str, usual: Sequence[str]) -> Values:
    """(row number, column -> value) of a Parquet or Arrow file; its audio is Stored.

    `wanted`: the audio column that the user names, `usual`: the names that it usually has.  A row
    that cannot be read is the reason in place of the columns.  UserError if the file cannot.
    """
    with _readable(path):
        batches = _arrow_batches if is_arrow(path) else _parquet_batches
        for batch in batches(path, wanted, usual):
            yield from batch


def is_arrow(path: Path) -> bool:
    """Whether a file is Arrow's, not Parquet, by its content; errors as of first_bytes."""
    return first_bytes(path).startswith((b"ARROW1", b"\xff\xff\xff\xff"))


def column_names(path: Path) -> list[str]:
    """The columns of a Parquet file.  UserError if it cannot be read."""
    with _readable(path):
        from pyarrow import parquet

        return parquet.read_schema(path).names


def _parquet_batches(path: Path, wanted: str, usual: Sequence[str]) -> Iterator[Values]:
    from pyarrow import parquet

    with parquet.ParquetFile(path, **_IN_PIECES) as file:
        schema = file.schema_arrow
        audio = _audio_column(schema, wanted, usual)
        fields = _fields(schema.field(audio).type) if audio else {}
        holds = bool(audio) and _holds_audio(schema.field(audio).type)
        columns = _plain_columns(schema)
        if "path" in fields:
            columns.append(f"{audio}.path")
        leaf = next((f"{audio}.{name}" for name in ("bytes", "array") if name in fields), audio)
        complete = False
        """Whether a group has all its audio inside: then all do.  To look takes long."""
        first = 1
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            try:
                inside = [holds] * count
                if holds and not complete:
                    inside = _inside(file, group, leaf)
                    complete = bool(inside) and all(inside)
                read = file.iter_batches(1000, [group], columns, use_threads=False)
                start = 0
                for batch in read:
                    numbers = range(first + start, first + start + len(batch))
                    places = [
                        f"parquet:{group}:{start + row}:{audio}" if inside[start + row] else ""
                        for row in range(len(batch))
                    ]
                    yield _values(path, batch, numbers, audio, places, schema.names)
                    start += len(batch)
            except (OSError, ValueError) as error:  # the other groups can be read
                reason = one_line(str(error))[:200]
                yield iter([(first, f"{count} rows from here are damaged ({reason})")])
            first += count


_IN_PIECES = {"pre_buffer": False, "buffer_size": 1 << 20}
"""How to read a column without holding all of it."""


def _inside(file: Any, group: int, column: str) -> list[bool]:
    """Whether each row of a group has audio inside."""
    found: list[bool] = []
    for batch in file.iter_batches(AT_ONCE, [group], [column], use_threads=False):
        values = batch.column(0)
        if "." in column and hasattr(values, "flatten") and not _is_bytes(values.type):
            (values,) = values.flatten()
        found += values.is_valid().to_pylist()
    return found


def _arrow_batches(path: Path, wanted: str, usual: Sequence[str]) -> Iterator[Values]:
    import pyarrow as pa

    first = 1
    for number, batch in _record_batches(path):
        schema = batch.schema
        audio = _audio_column(schema, wanted, usual)
        inside = [False] * len(batch)
        columns = _plain_columns(schema)
        chosen = batch.select(columns)
        if audio and audio not in columns:
            values = batch.column(audio)
            fields = _fields(values.type)
            if "path" in fields:
                paths = pa.StructArray.from_arrays([_child(values, "path")], ["path"])
                chosen = chosen.append_column(audio, paths)
            if _holds_audio(values.type):
                name = next((name for name in ("bytes", "array") if name in fields), "")
                inside = (_child(values, name) if name else values).is_valid().to_pylist()
        places = [
            f"arrow:{number}:{row}:{audio}" if held else "" for row, held in enumerate(inside)
        ]
        yield _values(path, chosen, range(first, first + len(batch)), audio, places, schema.names)
        first += len(batch)


def _child(values: "pyarrow.StructArray", name: str) -> "pyarrow.Array":
    """A field of each struct; null where the struct is null."""
    return values.flatten()[values.type.get_field_index(name)]


def _record_batches(path: Path) -> Iterator[tuple[int, "pyarrow.RecordBatch"]]:
    """(number, batch) of an Arrow file or stream; its content stays on the disk."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        if file.read(6) == b"ARROW1":
            reader = pa.ipc.open_file(file)
            for number in range(reader.num_record_batches):
                yield number, _checked(reader.get_batch(number))
            return
        file.seek(0)
        for number, batch in enumerate(pa.ipc.open_stream(file)):
            yield number, _checked(batch)


def _checked(batch: "pyarrow.RecordBatch") -> "pyarrow.RecordBatch":
    """A batch whose lengths and offsets are within it; damaged ones would end the process."""
    import pyarrow as pa

    batch.validate()
    for column in batch.columns:
        text = pa.types.is_string(column.type)  # whose characters are checked row by row
        (column.view(pa.binary()) if text else column).validate(full=True)
    return batch


def _values(
    path: Path,
    batch: "pyarrow.RecordBatch",
    numbers: range,
    audio: str,
    places: Sequence[str],
    names: Sequence[str],
) -> Values:
    """The rows of a batch; `places`: where the audio of each is, "" where it has a path."""
    absent = dict.fromkeys(names)
    for number, place, values in zip(numbers, places, _rows(batch), strict=True):
        if isinstance(values, str):
            yield number, values
            continue
        # Missing numbers and texts of pandas are NaN.
        values = {name: None if value != value else value for name, value in values.items()}
        if place:
            held = values.get(audio)
            name = PurePosixPath((held or {}).get("path") or "").stem
            values[audio] = Stored(path, place, name or f"{path.stem}_{number:06d}")
        yield number, absent | values


def _rows(batch: "pyarrow.RecordBatch") -> Iterator[dict[str, Any] | str]:
    """The values of each row, or why a row has none, such as text that is not UTF-8."""
    try:
        yield from batch.to_pylist()
        return
    except (ValueError, OverflowError):  # before the first row
        pass
    for row in range(len(batch)):
        try:
            yield from batch.slice(row, 1).to_pylist()
        except (ValueError, OverflowError) as error:
            yield f"a value cannot be read ({one_line(str(error))[:200]})"


class _Position:
    """The rows of one row group's column, read forward and a few at a time."""

    def __init__(self, path: Path, group: int, column: str) -> None:
        from pyarrow import parquet

        self.file = parquet.ParquetFile(path, **_IN_PIECES)
        self.group, self.column = group, column
        self._rewind()

    def _rewind(self) -> None:
        self.batches = self.file.iter_batches(
            AT_ONCE, [self.group], [self.column], use_threads=False
        )
        self.start, self.values = 0, None

    def at(self, row: int) -> Any:
        if row < self.start:
            self._rewind()
        while self.values is None or row >= self.start + len(self.values):
            self.start += 0 if self.values is None else len(self.values)
            batch = next(self.batches, None)
            if batch is None:
                raise ValueError(f"no row {row} in row group {self.group}")
            self.values = batch.column(0)
        return self.values[row - self.start].as_py()


@lru_cache(maxsize=1)
def _position(path: Path, changed: int, group: int, column: str) -> _Position:
    return _Position(path, group, column)


@lru_cache(maxsize=1)
def _record_batch(path: Path, changed: int, number: int) -> "pyarrow.RecordBatch":
    found = next((batch for n, batch in _record_batches(path) if n == number), None)
    if found is None:
        raise ValueError(f"no batch {number}")
    return found


def read_parquet(path: Path, place: str) -> bytes | tuple[np.ndarray, float]:
    """The audio of a place `<row group>:<row in it>:<column>`; UserError if it cannot be read."""
    group, row, column = place.split(":", 2)
    with _readable(path):
        position = _position(path, os.stat(path).st_mtime_ns, int(group), column)
        return _content(path, position.at(int(row)))


def read_arrow(path: Path, place: str) -> bytes | tuple[np.ndarray, float]:
    """The audio of a place `<batch>:<row in it>:<column>`; UserError if it cannot be read."""
    number, row, column = place.split(":", 2)
    with _readable(path):
        batch = _record_batch(path, os.stat(path).st_mtime_ns, int(number))
        return _content(path, batch.column(column)[int(row)].as_py())


def _content(path: Path, value: Any) -> bytes | tuple[np.ndarray, float]:
    """The audio of a value: bytes, a struct with bytes, or one with an array and its rate."""
    if isinstance(value, dict) and value.get("array") is not None:
        return np.asarray(value["array"], dtype=np.float32), value["sampling_rate"]
    content = value["bytes"] if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise UserError(f"{path}: the row holds no audio")
    return content
