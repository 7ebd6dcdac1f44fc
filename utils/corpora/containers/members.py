"""One recording of a container, decoded: the one place that knows every kind of container.

A member is written `<kind>:<place>`.  A reader of a corpus puts it into `Row.member`; a process
that converts audio calls `stream_member`.  To add a kind, write a function from (container, place)
to the bytes of an audio file or to Samples, and name it in KINDS.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.corpora.containers.ark import read_ark
from utils.corpora.containers.command import KIND as COMMAND
from utils.corpora.containers.command import read_output
from utils.corpora.containers.parquet import read_arrow, read_parquet
from utils.corpora.containers.tar import read_range
from wav2vec2.audio.decode import MISSING_SECONDS, Notes, stream_array, stream_content
from wav2vec2.cli.errors import UserError


class Samples(NamedTuple):
    """A recording that a container holds decoded."""

    samples: np.ndarray
    """`[samples]` or `[samples, channels]`: integers, or floating point in [-1, 1]."""
    rate: float
    """Hz."""


KINDS: dict[str, Callable[[Path, str], bytes | Samples]] = {
    "ark": read_ark,
    COMMAND: read_output,
    "arrow": read_arrow,
    "parquet": read_parquet,
    "tar": read_range,
}
"""Kind -> what reads the recording at a place of a container.

It raises UserError or OSError if it cannot be read.
"""


def load_member(path: Path, member: str, name: str) -> bytes | Samples:
    """The recording `member` of the container `path`: the bytes of its file, or its samples.

    UserError, which calls the recording `name`, if it cannot be read.
    """
    kind, _, place = member.partition(":")
    try:
        return KINDS[kind](path, place)
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror or error})") from None


def stream_loaded(
    found: bytes | Samples,
    name: str,
    channel: int | None = None,
    notes: Notes | None = None,
    most_missing: float = MISSING_SECONDS,
) -> Iterator[np.ndarray]:
    """What `load_member` returned as blocks of 16 kHz mono float32 `[samples]`.

    UserError, which calls the recording `name`, if it cannot be decoded; `channel`, `notes` and
    `most_missing` as of wav2vec2.audio.decode.stream_recording.
    """
    if isinstance(found, bytes):
        yield from stream_content(found, name, channel, notes, most_missing)
    else:
        yield from stream_array(*found, name=name, channel=channel, notes=notes)


def stream_member(
    path: Path,
    member: str,
    name: str,
    channel: int | None = None,
    notes: Notes | None = None,
    most_missing: float = MISSING_SECONDS,
) -> Iterator[np.ndarray]:
    """`stream_loaded` of what `load_member` reads."""
    yield from stream_loaded(load_member(path, member, name), name, channel, notes, most_missing)
