"""The gate before every checkpoint: what a file claims is compared with what it holds.

Nothing that a file describes is built or decompressed here.  A file that passes has at most the
size and the nesting that its bytes pay for, so the readers behind the gate need no such checks:

- files are regular, so that no read waits for a pipe or a device;
- members of zip files are stored, not compressed, and together not larger than the file;
- the pickle inside a file of torch.save builds only known classes, is not deep, and its tensors lie
  inside storages that the file holds;
- the table of a safetensors file is of a sane length;
- an ONNX file is whole, and its tensors are in it;
- files of a release folder lie in it.

JSON is bounded where it is parsed (text.py), architectures are where weights are matched.
"""

import io
import math
import mmap
import os
import pickletools
import stat
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from wav2vec2.cli.errors import UserError

MOST_TENSORS = 20_000
"""Entries in a table of weights; Large with its optimizer has 2,000."""

_MOST_DIRECTORY = 1 << 22
"""Bytes of a zip file's directory, some 80 per member."""

_MOST_PICKLE = 1 << 25
"""Bytes of a pickle without its tensors."""

_MOST_STEPS = 2_000_000
"""Instructions in a pickle; a checkpoint of Large with its optimizer has 80,000."""

_MOST_SHARED = 2_000_000
"""Values in the parts of a pickle that it uses again.  Parts of parts multiply: forty short lines
can describe 2^40 values, and to hash them takes hours."""

_DEEPEST = 100
"""Containers inside containers."""

_MOST_AXES = 8
"""Dimensions of a tensor."""

_MOST_ALIASES = 4
"""Bytes of all tensors together, in bytes of the file: tensors may share a storage."""

_MOST_TABLE = 10 << 20
"""Bytes of the table of a safetensors file; 100 per tensor are usual."""

_BROKEN = (OSError, zipfile.BadZipFile, NotImplementedError, EOFError, UnicodeDecodeError)
"""Errors of zipfile, for what is no zip file; RuntimeError it has for encryption."""

_ZIP = b"PK\x03\x04"
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of a file of torch.save, and of torch before 1.6."""

_ITEM_SIZES = {
    f"torch.{name}Storage": size
    for name, size in {
        **{"Double": 8, "Float": 4, "Half": 2, "BFloat16": 2},
        **{"Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1},
    }.items()
}
"""Bytes of an element of a storage, by the storage's class."""

_REBUILD = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
_ENCODE = "_codecs.encode"
_TYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8")
_KNOWN = {
    *_ITEM_SIZES,
    *(f"torch.{name}" for name in (*_TYPES, "bool")),
    *_REBUILD,
    _ENCODE,
    "torch._utils._rebuild_parameter",
    "torch.nn.parameter.Parameter",
    "torch.Size",
    "torch.device",
    "collections.OrderedDict",
    "builtins.set",
}
"""What any file may ask for.  torch's own list is longer: some of it takes memory at will."""

_CONSTANTS = {
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINSTRING", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"),
}
_INTO_TOP = {"APPEND": 1, "SETITEM": 2, "BUILD": 1}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def damaged(path: str | Path, detail: str = "") -> UserError:
    """The error for a file whose structure is broken."""
    said = f" ({detail})" if detail else ""
    return UserError(f"{path}: truncated, damaged, or not a checkpoint{said}; use another copy")


def claims_too_much(path: str | Path, detail: str) -> UserError:
    """The error for a file that describes more than its bytes can hold."""
    return UserError(f"{path}: damaged, it claims more than it holds ({detail}); use another copy")


def regular_file(path: str | Path) -> int:
    """The size of a file in bytes; UserError if it is missing, or a pipe, a device or a folder."""
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: cannot be read ({reason}); check the path") from None
    if not stat.S_ISREG(found.st_mode):
        raise UserError(
            f"{path}: not a regular file but a folder, a pipe or a device; copy its content to a "
            "file, and name that"
        )
    return found.st_size


def check_inside(folder: Path, path: Path) -> None:
    """UserError if the file `path` in `folder` is a symbolic link that leads out of the folder.

    Links into the store of the Hugging Face cache beside a snapshot are its way to keep files.
    """
    target, root = path.resolve(), folder.resolve()
    rooms = [root, root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [root]
    if not any(target.is_relative_to(room) for room in rooms):
        raise UserError(
            f"{path}: damaged, a symbolic link that leads out of its folder; copy the file itself"
        )


class _LongDirectory(zipfile.BadZipFile):
    """A zip file's directory is longer than that of any checkpoint that is read here."""


class _BoundedFile(io.FileIO):
    """A file of which one read takes at most `limit` bytes: that is how a directory is read."""

    limit: float = _MOST_DIRECTORY

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = os.fstat(self.fileno()).st_size - self.tell()
        if size > self.limit:
            raise _LongDirectory
        return super().read(size)


def is_zip(path: str | Path) -> bool:
    """Whether a regular file begins as a zip file does."""
    regular_file(path)
    with open(path, "rb") as file:
        return file.read(len(_ZIP)) == _ZIP


@contextmanager
def open_zip(path: str | Path) -> Iterator[zipfile.ZipFile]:
    """A zip file whose members are stored and fit into it; UserError if they do not."""
    size = regular_file(path)
    with ExitStack() as opened:
        try:
            file = opened.enter_context(_BoundedFile(path))
            _check_end(file, size)
            archive = opened.enter_context(zipfile.ZipFile(file))
        except _LongDirectory:
            raise UserError(
                f"{path}: has more parts than a file that is read here; of a recogniser of MMS "
                "with the adapters of all languages, use facebook/mms-1b-all with --language; "
                "otherwise it is damaged: use another copy"
            ) from None
        except _BROKEN:
            raise damaged(path) from None
        file.limit = math.inf
        _check_members(archive, path, size)
        yield archive


def _check_end(file: BinaryIO, size: int) -> None:
    """Raise BadZipFile if two readers could find two directories in the file."""
    tail = 22 + 20 + 56  # end record, and before it a locator of the long end record, and that
    file.seek(max(0, size - tail))
    data = file.read(tail)
    if data[-22:-18] != b"PK\x05\x06":
        raise zipfile.BadZipFile("something follows the end")
    locator = data[-42:-22]
    if locator[:4] == b"PK\x06\x07" and int.from_bytes(locator[8:16], "little") != size - tail:
        raise zipfile.BadZipFile("two ends")
    file.seek(0)


def _check_members(archive: zipfile.ZipFile, path: str | Path, size: int) -> None:
    members = archive.infolist()
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise UserError(
                f"{path}: damaged, or not a checkpoint: its part {member.filename[:80]!r} is "
                "compressed, which no checkpoint's is; use another copy"
            )
        if member.flag_bits & 1:
            raise damaged(path, "encrypted")
    claimed = sum(member.file_size for member in members)
    if claimed > size:
        raise claims_too_much(path, f"parts of {claimed:,} bytes in a file of {size:,}")
    if len({member.filename for member in members}) != len(members):
        raise damaged(path, "two parts of one name")


def read_text_member(archive: zipfile.ZipFile, name: str) -> str:
    """A small text of a zip file; BadZipFile or UnicodeDecodeError if it is none, or not small."""
    if archive.getinfo(name).file_size > _MOST_PICKLE:
        raise zipfile.BadZipFile
    return archive.read(name).decode()


def check_torch_file(path: str | Path, stubs: Collection[str] = ()) -> None:
    """UserError unless a file of torch.save can be read in bounded time and memory.

    `stubs`: further classes, as `module.name`, that it may ask for.  Verifies the checksums of a
    zip file last.
    """
    size = regular_file(path)
    if is_zip(path):
        with open_zip(path) as archive:
            try:
                _check_zip_file(archive, path, size, stubs)
                name = archive.testzip()
            except _BROKEN:
                raise damaged(path) from None
            if name:
                raise UserError(f"{path}: damaged (checksum of {name} fails); use another copy")
        return
    with open(path, "rb") as file:
        data = io.BytesIO(file.read(_MOST_PICKLE))
    if not data.getbuffer()[: len(_LEGACY)] == _LEGACY:
        raise damaged(path)
    storages: dict[str, int] = {}
    for _ in range(4):  # a mark, a version, the system, and what was saved
        storages = _Scan(path, stubs, size).run(data)
    claimed = sum(storages.values())
    if claimed > size:
        raise claims_too_much(path, f"tensors of {claimed:,} bytes in a file of {size:,}")


def _check_zip_file(
    archive: zipfile.ZipFile, path: str | Path, size: int, stubs: Collection[str]
) -> None:
    sizes = {member.filename: member.file_size for member in archive.infolist()}
    pickles = [name for name in sizes if name.endswith("/data.pkl")]
    if len(pickles) != 1 or sizes[pickles[0]] > _MOST_PICKLE:
        raise damaged(path)
    root = pickles[0].removesuffix("data.pkl")
    data = io.BytesIO(archive.read(pickles[0]))
    for key, claimed in _Scan(path, stubs, size).run(data).items():
        held = sizes.get(f"{root}data/{key}", 0)
        if claimed > held:
            raise claims_too_much(path, f"a tensor of {claimed:,} bytes in a part of {held:,}")


class _Class(str):
    """The name of a class or function that a pickle asks for."""


class _Storage(tuple):
    """(elements, bytes of each) of a storage."""


_TENSOR = object()


@dataclass(frozen=True)
class _Value:
    """What is known of a value that a pickle would build."""

    known: Any = None
    """A constant, a name, a storage, or what is known of each item of a tuple."""
    size: int = 1
    depth: int = 0


class _Scan:
    """Follows the instructions of a pickle and builds nothing."""

    def __init__(self, path: str | Path, stubs: Collection[str], size: int):
        self.path, self.stubs, self.file_size = path, stubs, size
        self.stack: list[_Value] = []
        self.marks: list[int] = []
        self.memo: dict[int, _Value] = {}
        self.storages: dict[str, int] = {}
        self.shared = self.tensor_bytes = 0

    def run(self, file: BinaryIO) -> dict[str, int]:
        """Bytes of each storage that the pickle at the position of `file` claims, by its key."""
        try:
            for step, (opcode, argument, _) in enumerate(pickletools.genops(file)):
                if step > _MOST_STEPS or self.shared > _MOST_SHARED:
                    raise claims_too_much(self.path, "more values than it has bytes for")
                self._follow(opcode.name, argument)
        except UserError:
            raise
        except (ValueError, IndexError, KeyError, TypeError, OverflowError):
            raise damaged(self.path) from None
        return self.storages

    def _follow(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _CONSTANTS:
            stack.append(_Value({"NEWTRUE": True, "NEWFALSE": False}.get(name, argument)))
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
            self.shared += stack[-1].size
        elif name in _TUPLES or name == "TUPLE":
            items = self._pop(_TUPLES.get(name))
            stack.append(self._container(tuple(item.known for item in items), items))
        elif name in _INTO_TOP or name in ("APPENDS", "SETITEMS"):
            items = self._pop(_INTO_TOP.get(name))
            if stack[-1].known is _TENSOR:  # would give it another storage
                raise ValueError
            stack.append(self._container(None, [stack.pop(), *items]))
        elif name == "GLOBAL":
            stack.append(_Value(self._class(argument)))
        elif name in ("REDUCE", "NEWOBJ"):
            function, arguments = items = self._pop(2)
            known = self._called(function.known, arguments.known)
            stack.append(self._container(known, items))
        elif name == "BINPERSID":
            stack.append(_Value(self._storage(stack.pop().known)))
        elif name not in ("PROTO", "STOP"):
            raise ValueError(name)

    def _pop(self, count: int | None) -> list[_Value]:
        """Take `count` values from the stack, None: those after the last mark."""
        start = self.marks.pop() if count is None else len(self.stack) - count
        if start < 0:
            raise IndexError
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _container(self, known: Any, items: Sequence[_Value]) -> _Value:
        depth = 1 + max((item.depth for item in items), default=0)
        # A value into which others are put, one after another, is not deeper for it.
        if known is None and items and items[0].depth >= depth - 1:
            inner = max((item.depth for item in items[1:]), default=-1)
            depth = max(items[0].depth, 1 + inner)
        if depth > _DEEPEST:
            raise claims_too_much(self.path, "values nested too deeply")
        return _Value(known, 1 + sum(item.size for item in items), depth)

    def _class(self, argument: str) -> _Class:
        module, name = argument.split(" ")
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        full = f"{module}.{name}"
        if full not in _KNOWN and full not in self.stubs:
            asked = ascii(full.removeprefix("builtins.")[:100])[1:-1]
            raise UserError(
                f"{self.path}: not a checkpoint this version reads, or damaged: it asks for "
                f"{asked}, and only tensors, plain values and known configurations are built; use "
                "another copy"
            )
        return _Class(full)

    def _called(self, function: Any, arguments: Any) -> Any:
        """What is known of a call's result; checks the calls whose arguments ask for memory."""
        if not isinstance(function, _Class) or not isinstance(arguments, tuple):
            raise ValueError
        if function == _ENCODE and arguments[1:] != ("latin1",):
            raise ValueError
        if function not in _REBUILD:
            return None
        (elements, item_size), offset, shape, strides = arguments[:4]
        numbers = (offset, *shape, *strides)
        if not len(shape) == len(strides) <= _MOST_AXES or not all(
            type(n) is int and n >= 0 for n in numbers
        ):
            raise ValueError
        count = math.prod(shape)
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides))
        if count and (last >= elements or count > elements):
            raise claims_too_much(self.path, f"a tensor of {count:,} numbers in {elements:,}")
        self.tensor_bytes += count * item_size
        if self.tensor_bytes > _MOST_ALIASES * self.file_size:
            raise claims_too_much(self.path, "tensors that share their numbers")
        return _TENSOR

    def _storage(self, known: Any) -> _Storage:
        kind, storage, key, _, elements, *_ = known
        if kind != "storage" or not isinstance(storage, _Class) or type(elements) is not int:
            raise ValueError
        claimed = elements * _ITEM_SIZES[storage]
        if elements < 0 or self.storages.setdefault(str(key), claimed) != claimed:
            raise ValueError
        if len(self.storages) > MOST_TENSORS:
            raise claims_too_much(self.path, f"more than {MOST_TENSORS:,} tensors")
        return _Storage((elements, _ITEM_SIZES[storage]))


def check_safetensors(path: str | Path) -> None:
    """UserError if the table of a safetensors file is longer than a table can be.

    The library compares shapes, types and places with the file.
    """
    size = regular_file(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if size >= 8 and not length <= min(size - 8, _MOST_TABLE):
        raise claims_too_much(path, f"a table of {length:,} bytes in a file of {size:,}")


_ONNX_GRAPH, _ONNX_INITIALIZER, _ONNX_SPARSE, _ONNX_DIMENSION, _ONNX_PLACE = 7, 5, 15, 1, 14
"""Field numbers of ONNX: the graph of a model; its tensors, dense and sparse; a tensor's sizes, and
whether its numbers are in another file."""

_MOST_FIELDS = 200_000
"""Entries that are looked at; a graph of Large has 10,000."""


def check_onnx(path: str | Path) -> None:
    """UserError unless an ONNX file is whole, and its tensors are in it and fit into it."""
    size = regular_file(path)
    claimed = 0
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            budget = [_MOST_FIELDS]
            for number, start, end in _protobuf_fields(data, 0, size, budget):
                if number != _ONNX_GRAPH:
                    continue
                for part, first, last in _protobuf_fields(data, start, end, budget):
                    if part == _ONNX_SPARSE:
                        raise ValueError
                    if part == _ONNX_INITIALIZER:
                        claimed += _onnx_elements(data, first, last, budget)
    except (ValueError, IndexError):
        raise damaged(path) from None
    if claimed > 2 * size:  # the smallest type has 4 bits
        raise claims_too_much(path, f"tensors of {claimed:.3g} numbers in a file of {size:,} bytes")


def _onnx_elements(data: mmap.mmap, start: int, end: int, budget: list[int]) -> int:
    """The elements of a tensor; ValueError if they are in another file."""
    sizes = []
    for number, first, last in _protobuf_fields(data, start, end, budget):
        if number == _ONNX_PLACE and data[first:last] != b"\0":
            raise ValueError
        if number == _ONNX_DIMENSION:  # one number, or several packed
            while first < last:
                value, first = _varint(data, first, last)
                sizes.append(value)
    return math.prod(sizes[:_MOST_AXES])


def _varint(data: mmap.mmap, start: int, end: int) -> tuple[int, int]:
    """A number of protobuf at `start`, and where it ends."""
    value = 0
    for index in range(start, min(end, start + 10)):
        value |= (data[index] & 127) << 7 * (index - start)
        if data[index] < 128:
            return value, index + 1
    raise ValueError


def _protobuf_fields(
    data: mmap.mmap, start: int, end: int, budget: list[int]
) -> Iterator[tuple[int, int, int]]:
    """(number, start, end) of the value of each field of a message; ValueError if it is broken.

    A value is the bytes of a string or message, of a number, or of several packed numbers.
    """
    while start < end:
        budget[0] -= 1
        tag, start = _varint(data, start, end)
        first, kind = start, tag & 7
        if kind == 0:
            _, start = _varint(data, start, end)
        elif kind == 2:
            length, first = _varint(data, start, end)
            start = first + length
        else:
            start += {1: 8, 5: 4}.get(kind, end)
        if start > end or budget[0] < 0:
            raise ValueError
        yield tag >> 3, first, start
