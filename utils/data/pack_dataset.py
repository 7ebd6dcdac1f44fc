"""Pack filelists' audio into a few large files that training reads without decoding.

    python -m utils.data.pack_dataset --dataset_dir datasets/mini --subsets train-mini dev-mini \\
        --output_dir datasets/packed

`--output_dir` then takes the place of `--dataset_dir` in every command.  For each subset it gets
shards `<subset>-00000.pack`, ... (wav2vec2/audio/packed.py says what is in them), their checksums
`<subset>.sha256` in the format of sha256sum, copies of the labels, and last of all the filelist:
without it there is no data set.  Started again, the command goes on after the finished shards.
"""

import hashlib
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from wav2vec2.audio.packed import FLOAT32, INT16, SCALE, Header, address, read_audio, read_header
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import ExitCode, UserError, list_failures, run_command
from wav2vec2.cli.flags import ArgumentParser, parse_dataclasses
from wav2vec2.files.checksum import sha256
from wav2vec2.files.filelists import OWN_FOLDER, Manifest, Utterance, read_manifest, write_manifest
from wav2vec2.files.output import prepare_folder, write_chunks, write_lines

MIB = 2**20

NO_LABELS = (".tsv", ".sha256", ".zip")
"""Suffixes of what may bear a filelist's name without being its labels."""


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
    """Round samples of more than 16 bits to 16; otherwise a shard that has any is float32."""
    shard_mib: int = 512
    """Size of a shard, in MiB of 16-bit samples."""
    num_workers: int = os.cpu_count() or 1
    """Processes, each of which packs a shard at a time."""
    verify: bool = False
    """Read the packed --subsets of --output_dir and compare checksums, instead of packing."""

    def __post_init__(self) -> None:
        for name in ("shard_mib", "num_workers"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: must be at least 1")
        if not self.subsets:
            raise UserError("--subsets: names no filelist")
        if len(set(self.subsets)) < len(self.subsets):
            raise UserError(f"--subsets {' '.join(self.subsets)}: name each filelist once")


@dataclass(frozen=True)
class ShardPlan:
    """What is to be in a shard."""

    path: Path
    utterances: tuple[Utterance, ...]
    quantise: bool

    @property
    def samples(self) -> int:
        return sum(u.samples for u in self.utterances)

    @property
    def origin(self) -> bytes:
        """Digest of the sources' paths and lengths, and of what is done with them."""
        lines = [f"quantise {self.quantise}"]
        lines += [f"{os.path.abspath(u.path)}\t{u.samples}" for u in self.utterances]
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).digest()

    def header(self, dtype: np.dtype) -> Header:
        return Header(dtype, self.samples, self.origin)

    def finished(self) -> bool:
        """Whether the shard is there: it gets its name when it is whole."""
        try:
            with open(self.path, "rb") as file:
                return read_header(self.path, file.fileno()).origin == self.origin
        except (OSError, UserError):
            return False

    def lines(self) -> Iterator[tuple[str, int]]:
        """The utterances as a filelist addresses them in the shard."""
        first = 0
        for utterance in self.utterances:
            name = os.path.basename(utterance.path)
            yield address(self.path.name, first, utterance.samples, name), utterance.samples
            first += utterance.samples


@dataclass(frozen=True)
class SubsetPlan:
    """A filelist and its shards."""

    source: Manifest
    folder: Path
    """The packed filelist's."""
    shards: tuple[ShardPlan, ...]

    @classmethod
    def of(cls, source: Manifest, filelist: Path, options: PackOptions) -> "SubsetPlan":
        """Shards in the filelist's order, each filled as far as whole utterances go."""
        groups: list[list[Utterance]] = []
        left = 0
        for utterance in source.utterances:
            size = utterance.samples * INT16.itemsize
            if size > left:
                groups.append([])
                left = options.shard_mib * MIB
            groups[-1].append(utterance)
            left -= size
        names = (f"{filelist.stem}-{number:05d}.pack" for number in range(len(groups)))
        shards = (
            ShardPlan(filelist.parent / name, tuple(group), options.quantise)
            for name, group in zip(names, groups)
        )
        return cls(source, filelist.parent, tuple(shards))

    @property
    def filelist(self) -> Path:
        return self.folder / self.source.path.name

    @property
    def checksums(self) -> Path:
        return self.filelist.with_suffix(".sha256")

    def lines(self) -> list[tuple[str, int]]:
        return [line for shard in self.shards for line in shard.lines()]

    def is_packed(self) -> bool:
        """Whether all of it is there; UserError if something else is."""
        if not self.filelist.exists():
            return False
        found = read_manifest(self.folder, self.filelist.stem)
        own = [(os.path.join(self.folder, name), samples) for name, samples in self.lines()]
        same = [(u.path, u.samples) for u in found.utterances] == own
        if same and all(shard.finished() for shard in self.shards):
            return True
        raise UserError(
            f"{self.filelist}: exists and is not what --dataset_dir, --quantise and --shard_mib "
            "ask for; choose another --output_dir, or remove it"
        )

    def copies(self) -> list[tuple[Path, Path]]:
        """Files beside the source's filelist that training may need too, and where they go."""
        folder, stem = self.source.path.parent, self.source.path.stem
        named = (p for p in folder.glob(f"{stem}.*") if p.stem == stem)
        files = [p for p in named if p.suffix not in NO_LABELS]
        for dictionary in folder.glob("dict.*.txt"):
            labels = dictionary.name.removeprefix("dict.").removesuffix(".txt")
            files += [dictionary, folder / f"{labels}.model"]
        return [(path, self.folder / path.name) for path in files if path.is_file()]


def copy_beside(pairs: Sequence[tuple[Path, Path]]) -> None:
    """Copy files, those that are not there already; UserError if a different one is."""
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


class _Wide(Exception):
    """A sample that 16 bits do not hold."""


def encode(waveform: np.ndarray, dtype: np.dtype, quantise: bool) -> bytes:
    """Samples as they are stored; `_Wide` if that would be INT16 and change one unasked."""
    if dtype == FLOAT32:
        return waveform.astype(FLOAT32).tobytes()
    stored = np.clip(np.rint(waveform / SCALE), -32768, 32767).astype(INT16)
    # Bits are compared, not values: -0.0 would come back as 0.0.
    if not quantise and (stored * SCALE).tobytes() != waveform.tobytes():
        raise _Wide
    return stored.tobytes()


def write_shard(plan: ShardPlan, dtype: np.dtype, file: Any) -> tuple[str, list[str]]:
    """Write a shard; its checksum, and what is wrong with utterances that cannot be read."""
    digest = hashlib.sha256()
    failures = []

    def write(content: bytes) -> None:
        file.write(content)
        digest.update(content)

    write(plan.header(dtype).pack())
    for utterance in plan.utterances:
        try:
            waveform = read_audio(utterance.path, utterance.samples)
        except UserError as error:
            failures.append(str(error))
            continue
        if not failures:
            write(encode(waveform, dtype, plan.quantise))
    file.flush()
    os.fsync(file.fileno())  # before the name says that it is whole
    return digest.hexdigest(), failures


def pack_shard(plan: ShardPlan) -> tuple[str, list[str]]:
    """Make a shard, unless it is finished; its checksum, and failures, for which none is made."""
    if plan.finished():
        return sha256(plan.path), []
    temporary = plan.path.with_name(f".{plan.path.name}.{os.getpid()}.tmp")
    try:
        try:
            with open(temporary, "wb") as file:
                digest, failures = write_shard(plan, INT16, file)
        except _Wide:
            with open(temporary, "wb") as file:
                digest, failures = write_shard(plan, FLOAT32, file)
        if not failures:
            os.replace(temporary, plan.path)
        return digest, failures
    except OSError as error:
        raise UserError(
            f"{plan.path}: cannot be written ({error.strerror}); start again when it can be, "
            "finished shards are kept"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers for all
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def in_parallel(
    function: Callable[[Any], Any], tasks: Sequence[Any], workers: int, what: str
) -> list[Any]:
    """`function` of each task, in order of `tasks`, computed by so many processes."""
    bar = tqdm(total=len(tasks), desc=what, unit="shard", disable=None)
    with bar:
        if workers == 1 or len(tasks) < 2:
            results = []
            for task in tasks:
                results.append(function(task))
                bar.update()
            return results
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(min(workers, len(tasks)), context, initializer=_start_worker)
        try:
            futures = [pool.submit(function, task) for task in tasks]
            for future in as_completed(futures):
                future.result()
                bar.update()
            return [future.result() for future in futures]
        except BrokenProcessPool:
            raise UserError(
                f"{what}: a process was killed, perhaps for its memory; start again with fewer "
                "--num_workers, finished shards are kept"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def check_space(shards: Sequence[ShardPlan], output_dir: Path) -> None:
    """UserError if the disk has not the room that the shards to be written need at least."""
    needed = sum(shard.header(INT16).bytes for shard in shards if not shard.finished())
    free = shutil.disk_usage(output_dir).free
    if needed > free:
        raise UserError(
            f"--output_dir {output_dir}: {free / 2**30:.1f} GiB free where {needed / 2**30:.1f} "
            "are needed; choose another disk, or fewer --subsets"
        )


def remove_leftovers(plan: SubsetPlan) -> None:
    """Remove what a run that was killed had not finished."""
    for path in plan.folder.glob(f".{plan.filelist.stem}-*.pack.*.tmp"):
        path.unlink(missing_ok=True)


def pack(options: PackOptions) -> None:
    """Pack what is not packed yet."""
    manifests = [read_manifest(options.dataset_dir, subset) for subset in options.subsets]
    output_dir = prepare_folder("--output_dir", options.output_dir)
    plans = [
        SubsetPlan.of(manifest, output_dir / f"{subset}.tsv", options)
        for subset, manifest in zip(options.subsets, manifests)
    ]
    packed = [plan.is_packed() for plan in plans]
    copy_beside([copy for plan in plans for copy in plan.copies()])
    for plan in plans:
        prepare_folder("--output_dir", plan.folder)
        remove_leftovers(plan)
    check_space([shard for plan in plans for shard in plan.shards], output_dir)
    failures: list[str] = []
    for subset, plan, done in zip(options.subsets, plans, packed):
        if not done:
            results = in_parallel(pack_shard, plan.shards, options.num_workers, subset)
            failed = [failure for _, failures in results for failure in failures]
            failures += failed
            if failed:
                continue
            names = zip(plan.shards, results)
            write_lines(plan.checksums, (f"{sha}  {shard.path.name}" for shard, (sha, _) in names))
            write_manifest(plan.folder, plan.filelist.stem, OWN_FOLDER, plan.lines())
        size = sum(shard.path.stat().st_size for shard in plan.shards)
        hours = sum(u.samples for u in plan.source.utterances) / SAMPLE_RATE / 3600
        print(
            f"{plan.filelist}: {len(plan.source)} utterances, {hours:.2f} h, {len(plan.shards)} "
            f"shards of {size / MIB:.0f} MiB in all" + ("; was packed already" if done else "")
        )
    if failures:
        list_failures(failures)
        raise UserError(
            f"{len(failures)} utterances cannot be packed, as listed above; mend them, or remove "
            "them from filelist and labels, and start again"
        )


def read_checksums(path: Path) -> dict[str, str]:
    """File name -> SHA-256; UserError if the file is missing or damaged."""
    try:
        lines = [line.split("  ", 1) for line in path.read_text(encoding="utf-8").splitlines()]
        return {name: sha for sha, name in lines}
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); --verify needs --subsets that "
            "utils/data/pack_dataset.py has packed in --output_dir"
        ) from None
    except ValueError:
        raise UserError(f"{path}: not a list of checksums; copy it again") from None


def examine(listed: tuple[Path, str]) -> str:
    """What is wrong with a shard of that checksum; empty if nothing is."""
    path, expected = listed
    try:
        if sha256(path) == expected:
            return ""
    except UserError as error:
        return str(error)
    return f"{path}: its SHA-256 is not that of what was packed; copy it again, or pack it again"


def verify(options: PackOptions) -> ExitCode:
    """Compare every shard with its checksum; those that differ are listed."""
    failures = []
    for subset in options.subsets:
        manifest = read_manifest(options.output_dir, subset)
        folder = manifest.path.parent
        listed = read_checksums(manifest.path.with_suffix(".sha256"))
        tasks = [(folder / name, sha) for name, sha in listed.items()]
        found = in_parallel(examine, tasks, options.num_workers, subset)
        bad = [failure for failure in found if failure]
        failures += bad
        print(f"{manifest.path}: {len(tasks) - len(bad)} of {len(tasks)} shards are as packed")
    return list_failures(failures)


def main() -> ExitCode | None:
    parser = ArgumentParser(prog="utils.data.pack_dataset", description=__doc__.splitlines()[0])
    (options,) = parse_dataclasses(parser, [PackOptions])
    if options.verify:
        return verify(options)
    pack(options)
    return ExitCode.DONE


if __name__ == "__main__":
    run_command(main)
