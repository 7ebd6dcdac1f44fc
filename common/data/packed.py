"""Writing packed stores: the audio of filelists in a few large files that need no decoding.

`wav2vec2/audio/packed.py` describes the format and reads it.  For each filelist a packed folder
gets shards `<subset>-00000.pack`, ..., their checksums `<subset>.sha256` in the format of
sha256sum, copies of the labels, and last the filelist: without it, a store is unfinished.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.runtime.worker_pool import map_in_processes
from wav2vec2.audio.packed import FLOAT32, INT16, SCALE, Header, address, read_audio, read_header
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.audio.zip_member import stem
from wav2vec2.cli.errors import ExitCode, UserError, list_failures
from wav2vec2.cli.flags import require_at_least
from wav2vec2.files.checksum import sha256
from wav2vec2.files.filelists import OWN_FOLDER, Manifest, Utterance, read_manifest, write_manifest
from wav2vec2.files.output import prepare_folder, require_space, write_chunks, write_lines
from wav2vec2.files.text import split_lines

MIB = 2**20

NOT_LABELS = (".tsv", ".sha256", ".zip")
"""Suffixes of files beside a filelist, named after it, that are not its labels."""


@dataclass(frozen=True)
class PackOptions:
    """Packing"""

    output_dir: str
    """Folder of the packed data set."""
    subsets: tuple[str, ...]
    """Filelists to pack, without .tsv."""
    dataset_dir: str = "/datasets/LibriSpeech"
    """Folder of the filelists, labels and dictionaries."""
    quantise: bool = False
    """Round samples of more than 16 bits to 16 bits; by default, their shard is stored as
    float32."""
    shard_mib: int = 512
    """Size of a shard, in MiB of 16-bit samples."""
    num_workers: int = os.cpu_count() or 1
    """Processes, each of which packs one shard at a time."""
    verify: bool = False
    """Compare the packed --subsets in --output_dir with their checksums, and pack nothing."""

    def __post_init__(self) -> None:
        require_at_least(self, shard_mib=1, num_workers=1)
        if not self.subsets:
            raise UserError("--subsets: names no filelist")
        if len(set(self.subsets)) < len(self.subsets):
            raise UserError(f"--subsets {' '.join(self.subsets)}: name each filelist once")


@dataclass(frozen=True)
class ShardPlan:
    """Which utterances a shard will hold."""

    path: Path
    utterances: tuple[Utterance, ...]
    quantise: bool

    def header(self, dtype: np.dtype) -> Header:
        """The shard's header, whose `origin` is a digest of the sources and of `quantise`."""
        lines = [f"quantise {self.quantise}"]
        lines += [f"{os.path.abspath(u.path)}\t{u.samples}" for u in self.utterances]
        origin = hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).digest()
        return Header(dtype, sum(u.samples for u in self.utterances), origin)

    def is_finished(self) -> bool:
        """Whether the shard exists: a shard gets its name when it is complete."""
        try:
            with open(self.path, "rb") as file:
                found = read_header(self.path, file.fileno())
        except (OSError, UserError):
            return False
        return found.origin == self.header(INT16).origin

    def filelist_lines(self) -> Iterator[tuple[str, int]]:
        """(address in the shard, samples) of each utterance."""
        first = 0
        for utterance in self.utterances:
            name = os.path.basename(utterance.path)
            if stem(name) != utterance.id:  # other files have the same name
                name = utterance.id + os.path.splitext(name)[1]
            yield address(self.path.name, first, utterance.samples, name), utterance.samples
            first += utterance.samples


@dataclass(frozen=True)
class SubsetPlan:
    """A filelist and the shards it will be packed into."""

    source: Manifest
    filelist: Path
    """The packed filelist."""
    shards: tuple[ShardPlan, ...]

    @classmethod
    def of(cls, subset: str, options: PackOptions) -> "SubsetPlan":
        """Shards in the filelist's order, each filled with as many whole utterances as fit."""
        source = read_manifest(options.dataset_dir, subset)
        filelist = Path(options.output_dir) / f"{subset}.tsv"
        groups: list[list[Utterance]] = []
        left = 0
        for utterance in source.utterances:
            size = utterance.samples * INT16.itemsize
            if size > left:
                groups.append([])
                left = options.shard_mib * MIB
            groups[-1].append(utterance)
            left -= size
        shards = []
        for number, group in enumerate(groups):
            path = filelist.with_name(f"{filelist.stem}-{number:05d}.pack")
            shards.append(ShardPlan(path, tuple(group), options.quantise))
        return cls(source, filelist, tuple(shards))

    def filelist_lines(self) -> list[tuple[str, int]]:
        return [line for shard in self.shards for line in shard.filelist_lines()]

    def is_packed(self) -> bool:
        """Whether the subset is packed already; UserError if its filelist belongs to another."""
        if not self.filelist.exists():
            return False
        folder = self.filelist.parent
        found = read_manifest(folder, self.filelist.stem).utterances
        expected = [(os.path.join(folder, name), n) for name, n in self.filelist_lines()]
        same = [(u.path, u.samples) for u in found] == expected
        if same and all(shard.is_finished() for shard in self.shards):
            return True
        raise UserError(
            f"{self.filelist}: exists and is not what --dataset_dir, --quantise and --shard_mib "
            "ask for; choose another --output_dir, or remove it"
        )

    def labels(self) -> list[tuple[Path, Path]]:
        """(source, copy) of labels, dictionaries and sub-word models beside the filelist."""
        folder, stem = self.source.path.parent, self.source.path.stem
        named = (p for p in folder.glob(f"{stem}.*") if p.stem == stem)
        files = [p for p in named if p.suffix not in NOT_LABELS]
        for dictionary in folder.glob("dict.*.txt"):
            labels = dictionary.name.removeprefix("dict.").removesuffix(".txt")
            files += [dictionary, folder / f"{labels}.model"]
        return [(path, self.filelist.with_name(path.name)) for path in files if path.is_file()]

    def remove_leftovers(self) -> None:
        """Remove what a killed run left unfinished."""
        for path in self.filelist.parent.glob(f".{self.filelist.stem}-*.pack.*.tmp"):
            path.unlink(missing_ok=True)


def copy_labels(pairs: Sequence[tuple[Path, Path]]) -> None:
    """Copy the files that are missing; UserError, before any copy, if a different one exists."""
    contents = [(source.read_bytes(), source, target) for source, target in pairs]
    for content, source, target in contents:
        if target.exists() and target.read_bytes() != content:
            raise UserError(
                f"{target}: exists and differs from {source}; remove it, or choose another "
                "--output_dir"
            )
    for content, _, target in contents:
        if not target.exists():
            write_chunks(target, [content])


class NotSixteenBit(Exception):
    """A sample that 16 bits cannot hold."""


def encode(waveform: np.ndarray, dtype: np.dtype, quantise: bool) -> bytes:
    """Samples as they are stored; NotSixteenBit if INT16 would change one without `quantise`."""
    if dtype == FLOAT32:
        return waveform.astype(FLOAT32).tobytes()
    stored = np.clip(np.rint(waveform / SCALE), -32768, 32767).astype(INT16)
    # Bits are compared, not values: -0.0 would come back as 0.0.
    if not quantise and (stored * SCALE).tobytes() != waveform.tobytes():
        raise NotSixteenBit
    return stored.tobytes()


def write_shard(plan: ShardPlan, dtype: np.dtype, path: Path) -> list[str]:
    """Write a shard to `path`; returns the errors of utterances that cannot be read."""
    failures = []
    with open(path, "wb") as file:
        file.write(plan.header(dtype).pack())
        for utterance in plan.utterances:
            try:
                waveform = read_audio(utterance.path, utterance.samples)
            except UserError as error:
                failures.append(str(error))
                continue
            if not failures:
                file.write(encode(waveform, dtype, plan.quantise))
        file.flush()
        os.fsync(file.fileno())  # before the name tells readers that it is complete
    return failures


def pack_shard(plan: ShardPlan) -> tuple[str, list[str]]:
    """Create a shard unless it is finished: its SHA-256 and failures; with failures, no shard."""
    if plan.is_finished():
        return sha256(plan.path), []
    temporary = plan.path.with_name(f".{plan.path.name}.{os.getpid()}.tmp")
    try:
        try:
            failures = write_shard(plan, INT16, temporary)
        except NotSixteenBit:
            failures = write_shard(plan, FLOAT32, temporary)
        if failures:
            return "", failures
        os.replace(temporary, plan.path)
    except OSError as error:
        raise UserError(f"{plan.path}: cannot be written ({error.strerror}); run again") from None
    finally:
        temporary.unlink(missing_ok=True)
    return sha256(plan.path), []


def check_space(shards: Sequence[ShardPlan], output_dir: Path) -> None:
    """UserError if the disk has less free space than the missing shards need as int16."""
    needed = sum(shard.header(INT16).bytes for shard in shards if not shard.is_finished())
    require_space("--output_dir", output_dir, needed)


def pack_filelists(options: PackOptions) -> None:
    """Pack the subsets that are not packed yet; resumes after the last finished shard."""
    plans = [SubsetPlan.of(subset, options) for subset in options.subsets]
    output_dir = prepare_folder("--output_dir", options.output_dir)
    packed = [plan.is_packed() for plan in plans]
    copy_labels([pair for plan in plans for pair in plan.labels()])
    for plan in plans:
        prepare_folder("--output_dir", plan.filelist.parent)
        plan.remove_leftovers()
    check_space([shard for plan in plans for shard in plan.shards], output_dir)
    failures: list[str] = []
    for plan, done in zip(plans, packed):
        if not done:
            results = _in_processes(pack_shard, plan.shards, plan.filelist.stem, options)
            if failed := [failure for _, failures in results for failure in failures]:
                failures += failed
                continue
            sums = (f"{sha}  {s.path.name}" for s, (sha, _) in zip(plan.shards, results))
            write_lines(plan.filelist.with_suffix(".sha256"), sums)
            lines = plan.filelist_lines()
            write_manifest(plan.filelist.parent, plan.filelist.stem, OWN_FOLDER, lines)
        size = sum(shard.path.stat().st_size for shard in plan.shards)
        hours = sum(u.samples for u in plan.source.utterances) / SAMPLE_RATE / 3600
        print(
            f"{plan.filelist}: {len(plan.source)} utterances, {hours:.2f} h, {len(plan.shards)} "
            f"shards, {size / MIB:.0f} MiB in total" + ("; was packed already" if done else "")
        )
    if failures:
        list_failures(failures)
        raise UserError(
            f"{len(failures)} utterances cannot be packed, as listed above; fix them, or remove "
            "them from filelist and labels, and run again"
        )


def _in_processes(
    function: Callable[[Any], Any], tasks: Sequence[Any], title: str, options: PackOptions
) -> list[Any]:
    words = {"flag": "--num_workers", "unit": "shards", "title": title}
    return list(map_in_processes(function, tasks, options.num_workers, **words))


def read_checksums(path: Path) -> list[tuple[Path, str]]:
    """(shard, SHA-256) from a `<subset>.sha256`; UserError if it is missing or damaged."""
    try:
        lines = [line.split("  ", 1) for line in split_lines(path.read_text("utf-8"))]
        return [(path.with_name(name), sha) for sha, name in lines]
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); --verify needs --subsets that "
            "utils/data/pack_dataset.py has packed in --output_dir"
        ) from None
    except ValueError:
        raise UserError(f"{path}: not a list of checksums; copy it again") from None


def check_shard(listed: tuple[Path, str]) -> str:
    """What is wrong with a shard of that SHA-256; empty if nothing is."""
    path, expected = listed
    try:
        if sha256(path) == expected:
            return ""
    except UserError as error:
        return str(error)
    return f"{path}: its SHA-256 is not that of what was packed; copy it again, or pack it again"


def verify_shards(options: PackOptions) -> ExitCode:
    """Compare every shard of the subsets with its checksum; those that differ are listed."""
    failures = []
    for subset in options.subsets:
        filelist = read_manifest(options.output_dir, subset).path
        listed = read_checksums(filelist.with_suffix(".sha256"))
        bad = list(filter(None, _in_processes(check_shard, listed, subset, options)))
        failures += bad
        print(f"{filelist}: {len(listed) - len(bad)} of {len(listed)} shards are as packed")
    return list_failures(failures)
