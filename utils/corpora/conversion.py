"""Recordings -> 16 kHz mono FLAC files, resumable, and what was left out."""

import hashlib
import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile

from common.runtime.signals import obey_signals
from common.runtime.worker_pool import map_in_processes
from utils.corpora.containers.members import Samples, load_member, stream_loaded, stream_member
from utils.corpora.sources import Utterance
from utils.corpus_report.facts import Facts, Measurement, Origin, origin_of
from wav2vec2.audio.decode import Notes, stream_recording
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.audio.source import is_regular, printable
from wav2vec2.audio.waveform import Waveform
from wav2vec2.cli.errors import UserError
from wav2vec2.files.output import atomic_path, write_lines

SHORTFALL = 0.1
"""Seconds by which a file may be shorter or longer than the corpus, or its header, says."""

JOURNAL = "converted.jsonl"
"""File beside the audio that lists what was converted."""

_NO_NOTES: Notes = {}
"""One for all recordings without notes."""

BLOCK = 2**18
"""Samples that are written at a time."""


@dataclass(frozen=True)
class Skipped:
    """A recording that is not in the data set, and why: a line of skipped.jsonl."""

    where: str
    source: str
    reason: str
    """One of a few kinds, for counting."""
    detail: str
    failed: bool
    """Whether the file was unusable; otherwise a rule skipped it."""

    @classmethod
    def of(cls, utterance: Utterance, reason: str, detail: str, failed: bool) -> "Skipped":
        """The entry of an utterance, as text that can be written whatever its path holds."""
        detail = detail.removeprefix(f"{utterance.where}: ")
        texts = (utterance.where, utterance.source, reason, detail)
        return cls(*map(printable, texts), failed)


@dataclass(frozen=True, slots=True)
class Converted:
    """What became of an utterance."""

    samples: int
    """Samples of the utterance; 0 if it cannot be had.  It has a file if a Bounds holds them."""
    notes: Notes
    """Kind -> detail: what is unusual, or why there is no file."""
    content: str = ""
    """Equal for equal samples."""
    facts: Facts | None = None
    """Measurements of the samples; None if there are none."""
    origin: Origin | None = None


@dataclass(frozen=True)
class Bounds:
    """Lengths of utterances that are wanted, in seconds."""

    least: float = 0.0
    most: float = math.inf

    def hold(self, samples: int) -> bool:
        """Whether an utterance of so many samples is wanted, and gets a file."""
        return self.least <= samples / SAMPLE_RATE <= self.most


@dataclass(frozen=True)
class Piece:
    """A FLAC file to write: the utterance from `start` to `end`, in seconds."""

    target: Path
    start: float
    end: float | None


@dataclass(frozen=True)
class Task:
    """A channel of a recording (None: the average), and the pieces of it to write."""

    source: Path
    channel: int | None
    declared: float | None
    pieces: tuple[Piece, ...]
    bounds: Bounds = Bounds()
    member: str = ""
    """Which recording of `source`, if that is a container."""
    where: str = ""
    """What messages call that recording."""

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.where if self.member else str(self.source)


def convert(task: Task) -> list[Converted]:
    """Decode a file once, and write each piece as 16 kHz mono FLAC if its length is wanted."""
    failed = _failure(task)
    if failed:
        return [Converted(0, failed) for _ in task.pieces]
    notes: Notes = {}
    try:
        # Read once for both: what a command writes may differ the second time.
        found = _read(task)
        waveform = Recording(_decoded(task, found, notes))
    except _Unreadable as error:
        return [Converted(0, {"unreadable": str(error)}) for _ in task.pieces]
    with closing(waveform):
        # Decoders of lossy formats and the resampler go a little beyond full scale, too.
        if waveform.peak > 1:
            notes.setdefault("above full scale", f"up to {waveform.peak:.5g}: scaled down")
        seconds = waveform.seconds
        if task.declared is not None and abs(task.declared - seconds) > SHORTFALL + 0.01 * seconds:
            detail = f"{task.name}: {seconds:.2f} s, where the table says {task.declared:.2f} s"
            return [Converted(0, {"other length": detail}) for _ in task.pieces]
        origin = _origin(task, found)
        return [_write_piece(waveform, p, notes, task.bounds, origin) for p in task.pieces]


def _origin(task: Task, found: Path | bytes | Samples) -> Origin:
    if isinstance(found, Samples):
        channels = 1 if found.samples.ndim == 1 else found.samples.shape[1]
        encoding = str(found.samples.dtype)
        return Origin(task.member.partition(":")[0], encoding, round(found.rate), channels)
    return origin_of(found)


class Recording(Waveform):
    """A waveform whose reading obeys signals."""

    def __init__(self, blocks: Iterable[np.ndarray]):
        super().__init__(self._obedient(blocks))

    @staticmethod
    def _obedient(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for block in blocks:
            obey_signals()
            yield block

    def read(self, *bounds: int, **options: Any) -> np.ndarray:
        obey_signals()
        return super().read(*bounds, **options)


class _Unreadable(Exception):
    """Why a recording cannot be decoded."""


def blocks_of(
    source: Path, member: str, name: str, channel: int | None, notes: Notes
) -> Iterator[np.ndarray]:
    """Blocks of 16 kHz mono samples of a file, or of a container's member; UserError with `name`
    if it cannot be decoded."""
    if member:
        return stream_member(source, member, name, channel, notes, SHORTFALL)
    return stream_recording(source, name, channel, notes, SHORTFALL)


def _read(task: Task) -> Path | bytes | Samples:
    """The file, or what its container holds."""
    try:
        return load_member(task.source, task.member, task.name) if task.member else task.source
    except UserError as error:
        raise _Unreadable(error) from None


def _decoded(task: Task, found: Path | bytes | Samples, notes: Notes) -> Iterator[np.ndarray]:
    try:
        if isinstance(found, Path):
            yield from stream_recording(found, "", task.channel, notes, SHORTFALL)
        else:
            yield from stream_loaded(found, task.name, task.channel, notes, SHORTFALL)
    except UserError as error:
        raise _Unreadable(error) from None


def _failure(task: Task) -> Notes:
    """Why a file cannot be read, as far as its name says."""
    if not os.path.exists(task.source):  # unlike pathlib, false for a name that is too long
        return {"missing": f"{task.source}: no such file"}
    if not is_regular(task.source) and not os.path.isdir(task.source):
        return {"unreadable": f"{task.source}: not a file but a pipe or a device"}
    return {}


def _write_piece(
    waveform: Waveform, piece: Piece, notes: Notes, bounds: Bounds, origin: Origin
) -> Converted:
    start = round(piece.start * SAMPLE_RATE)
    end = waveform.samples if piece.end is None else round(piece.end * SAMPLE_RATE)
    end = min(end, waveform.samples)
    if start >= end or (piece.end or 0) > waveform.seconds + SHORTFALL:
        until = "" if piece.end is None else f" to {piece.end:.2f}"
        detail = f"{piece.start:.2f}{until} s of a file of {waveform.seconds:.2f} s"
        return Converted(0, {"beyond the end": detail})
    if not bounds.hold(end - start):
        return Converted(end - start, notes)
    digest = hashlib.blake2b(digest_size=8)
    measurement = Measurement()
    with written_flac(piece.target) as flac:
        for place in range(start, end, BLOCK):
            samples = waveform.read(place, min(place + BLOCK, end))
            if waveform.peak > 1:
                samples /= np.float32(waveform.peak)
            flac.write(samples)
            digest.update(samples.data)
            measurement.add(samples)
    return Converted(end - start, notes, digest.hexdigest(), measurement.facts(), origin)


class _Sink:
    """A file for libsndfile's callbacks, which must not raise: the first error is kept."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.error: OSError | None = None

    def _attempt(self, function: Callable[..., int], *arguments: Any) -> int:
        if not self.error:
            try:
                return function(*arguments)
            except OSError as error:
                self.error = error
        return 0

    def write(self, data: bytes) -> int:
        self._attempt(self.file.write, data)
        return len(data)

    def seek(self, offset: int, whence: int) -> int:
        return self._attempt(self.file.seek, offset, whence)

    def tell(self) -> int:
        return self._attempt(self.file.tell)


@contextmanager
def written_flac(path: Path) -> Iterator[soundfile.SoundFile]:
    """A 16 kHz mono FLAC file to write to, which is there whole or not at all afterwards.

    UserError if it cannot be written.
    """
    with atomic_path(path) as temporary, open(temporary, "wb", buffering=2**20) as file:
        sink = _Sink(file)
        with soundfile.SoundFile(sink, "w", SAMPLE_RATE, 1, "PCM_16", format="FLAC") as flac:
            yield flac
        if sink.error:
            raise sink.error


def stamp_of(utterance: Utterance) -> list:
    """Path, size and time of a source, and the piece of it: they show whether it changed."""
    try:
        facts = os.stat(utterance.source)
    except (OSError, ValueError):
        return []
    piece = [utterance.start, utterance.end, utterance.channel]
    if utterance.member:
        piece.append(utterance.member)
    return [str(utterance.source), facts.st_size, facts.st_mtime_ns, *piece]


def flac_path(audio_dir: str | Path, key: str) -> str:
    """The file of the utterance with this id."""
    return os.path.join(audio_dir, f"{key}.flac")


def journal_line(key: str, stamp: list, result: Converted) -> str:
    """What the journal notes of a conversion."""
    found = (result.samples, result.notes, result.content, result.facts, result.origin)
    return json.dumps([key, stamp, *found])


def read_journal(
    path: Path, utterances: Mapping[str, Utterance], bounds: Bounds
) -> dict[str, Converted]:
    """Utterance id -> its conversion by an earlier run, if its source has not changed since.

    Lines that no longer hold are removed from the journal.
    """
    done: dict[str, Converted] = {}
    line_of: dict[str, int] = {}
    count = 0
    if path.exists():
        for count, line in enumerate(_lines(path), start=1):
            with suppress(ValueError, TypeError):  # a line that was being written, or an old one
                key, stamp, samples, notes, content, facts, origin = json.loads(line)
                utterance = utterances.get(key)
                if utterance and stamp == stamp_of(utterance):
                    key = utterance.id  # the text of the line is not kept
                    facts, origin = facts and Facts(*facts), origin and Origin(*origin)
                    done[key] = Converted(samples, notes or _NO_NOTES, content, facts, origin)
                    line_of[key] = count
                else:
                    done.pop(key, None)
    lost = [
        key
        for key, result in done.items()
        if bounds.hold(result.samples) and not os.path.exists(flac_path(path.parent, key))
    ]
    for key in lost:
        del done[key], line_of[key]
    if count != len(done):
        valid = set(line_of.values())
        lines = (line for number, line in enumerate(_lines(path), start=1) if number in valid)
        write_lines(path, lines)
    return done


def _lines(path: Path) -> Iterator[str]:
    with open(path, encoding="utf-8", newline="\n") as file:
        for line in file:
            yield line.removesuffix("\n")


def convert_all(
    utterances: Sequence[Utterance], output_dir: Path, workers: int, bounds: Bounds = Bounds()
) -> dict[str, Converted]:
    """Utterance id -> its conversion.  A journal notes each, so that an interrupted run resumes."""
    audio_dir = output_dir / "audio"
    journal = audio_dir / JOURNAL
    remove_unfinished(audio_dir)
    results = read_journal(journal, {u.id: u for u in utterances}, bounds)
    files: dict[tuple, list[Utterance]] = {}
    for utterance in utterances:
        if utterance.id not in results:
            file = (
                *(str(utterance.source), utterance.member),
                *(utterance.channel, utterance.declared),
            )
            files.setdefault(file, []).append(utterance)
    stamps: deque[list[list]] = deque()
    """Of the files that are being converted, from before they are read."""

    def tasks() -> Iterator[Task]:
        for members in files.values():
            stamps.append([stamp_of(u) for u in members])
            pieces = tuple(Piece(Path(flac_path(audio_dir, u.id)), u.start, u.end) for u in members)
            first = members[0]
            where = first.where if first.member else ""
            file = (first.source, first.channel, first.declared)
            yield Task(*file, pieces, bounds, first.member, where)

    with open(journal, "a", encoding="utf-8") as notes:
        words = {"flag": "--workers", "unit": "files", "title": "import"}
        converted = map_in_processes(convert, tasks(), workers, total=len(files), **words)
        for pieces, members in zip(converted, files.values()):  # in this order progress ends
            for utterance, stamp, result in zip(members, stamps.popleft(), pieces):
                if not result.notes:
                    result = replace(result, notes=_NO_NOTES)
                results[utterance.id] = result
                if result.samples:
                    print(journal_line(utterance.id, stamp, result), file=notes)
            notes.flush()
    return results


def remove_unfinished(audio_dir: Path) -> None:
    """Remove files that a killed run was writing."""
    with os.scandir(audio_dir) as entries:
        for entry in entries:
            if entry.name.startswith(".") and entry.name.endswith(".tmp"):
                os.unlink(entry)
