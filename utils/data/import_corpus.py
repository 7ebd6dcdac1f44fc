"""Turn anybody's recordings into a data set the recipes train on.

    python -m utils.data.import_corpus --output_dir datasets/mine --table recordings.csv
    python -m utils.data.import_corpus --output_dir datasets/mine --audio_dir recordings

A table names audio files and transcripts; a folder of audio alone serves pre-training.  Any format
libsndfile or FFmpeg (`pip install av`) reads, any sample rate and channel count: written as 16 kHz
mono FLAC, with filelists, labels, a dictionary, and a report of what was left out and why.
An interrupted import continues where it stopped.
"""

import hashlib
import json
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import soundfile
from tqdm import tqdm

from wav2vec2.audio.decode import read_recording
from wav2vec2.audio.recordings import (
    SUBSETS,
    Recording,
    SourceOptions,
    read_folder,
    read_table,
    unique_ids,
)
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import ExitCode, UserError, run_command
from wav2vec2.cli.flags import ArgumentParser, add_flags, field_help, from_flags
from wav2vec2.files.filelists import letters, write_manifest
from wav2vec2.files.output import write_lines
from wav2vec2.text.cleanup import CleanupOptions, Refused, clean
from wav2vec2.text.vocabulary import write_dictionary


@dataclass(frozen=True)
class SelectionOptions:
    """What is kept, and in which subset"""

    min_seconds: float = 0.2
    """Shorter recordings are left out."""
    max_seconds: float = 30.0
    """Longer recordings are left out."""
    valid_share: float = 0.05
    """Share of the recordings (or speakers) in the valid subset."""
    test_share: float = 0.05
    """Share of the recordings (or speakers) in the test subset."""
    prefix: str = ""
    """Put before the subset names train, valid and test."""
    seed: int = 1
    """Seed of the split; adding recordings moves none of the others."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_seconds < self.max_seconds:
            raise UserError("--min_seconds must be at least 0 and below --max_seconds")
        if "/" in self.prefix or any(c in self.prefix for c in "\t\r\n"):
            raise UserError(f"--prefix {self.prefix!r}: begins file names, and cannot hold this")
        if min(self.valid_share, self.test_share) < 0 or self.valid_share + self.test_share >= 1:
            raise UserError("--valid_share and --test_share must not be negative, nor add up to 1")


@dataclass(frozen=True)
class WorkOptions:
    """Work"""

    workers: int = os.cpu_count() or 1
    """Processes that convert audio; the result does not depend on it."""
    dry_run: int = 0
    """Show so many transcripts before and after clean-up, and write nothing."""

    def __post_init__(self) -> None:
        if self.dry_run < 0:
            raise UserError(f"--dry_run {self.dry_run}: must not be negative")
        if self.workers < 1:
            raise UserError(f"--workers {self.workers}: must be at least 1")


@dataclass(frozen=True)
class LeftOut:
    """A recording that is not in the data set, and why."""

    where: str
    source: str
    reason: str
    """One of a few kinds, for counting."""
    detail: str
    failed: bool
    """The file could not be used at all, rather than being left out by a rule."""

    @classmethod
    def of(cls, recording: Recording, reason: str, detail: str, failed: bool) -> "LeftOut":
        """The entry of a recording, in text that can be written whatever its path is made of."""
        texts = (recording.where, str(recording.source), reason, detail)
        return cls(*(t.encode("utf-8", "replace").decode() for t in texts), failed)


def clean_all(
    recordings: Sequence[Recording], cleanup: CleanupOptions
) -> tuple[list[Recording], list[LeftOut]]:
    """Recordings with cleaned transcripts, and those whose transcript was refused."""
    kept, left_out = [], []
    for recording in recordings:
        try:
            text = None if recording.text is None else clean(recording.text, cleanup)
            kept.append(replace(recording, text=text))
        except Refused as error:
            left_out.append(
                LeftOut.of(recording, f"transcript: {error.reason}", error.detail, False)
            )
    return kept, left_out


def convert(task: tuple[Path, Path]) -> int | tuple[str, str]:
    """Write one recording as 16 kHz mono FLAC; its samples, or (reason, detail) of a failure."""
    source, target = task
    if not source.exists():
        return "missing", f"{source}: no such file"
    try:
        waveform = read_recording(source)
    except UserError as error:
        return "unreadable", str(error)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        soundfile.write(temporary, waveform, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        os.replace(temporary, target)
    except (OSError, soundfile.LibsndfileError) as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{target}: cannot be written ({error}); is the disk full?") from None
    return len(waveform)


def unfit(recording: Recording, samples: int, selection: SelectionOptions) -> LeftOut | None:
    """Why a recording of this length is left out, if it is."""
    # Imported here because it brings torch, which the converting processes can do without.
    from wav2vec2.config import BASE
    from wav2vec2.feature_extractor import frame_count

    seconds = samples / SAMPLE_RATE
    problem = None
    if seconds < selection.min_seconds:
        problem = ("too short", f"{seconds:.2f} s, --min_seconds {selection.min_seconds}")
    elif seconds > selection.max_seconds:
        problem = ("too long", f"{seconds:.2f} s, --max_seconds {selection.max_seconds}")
    elif recording.text is not None:
        units = letters(recording.text).split()
        needed = len(units) + sum(a == b for a, b in zip(units, units[1:]))
        frames = frame_count(samples, BASE.conv_layers)
        if frames < needed:  # CTC has no path
            problem = (
                "transcript too long",
                f"{needed} frames needed, {seconds:.2f} s give {frames}",
            )
    return problem and LeftOut.of(recording, *problem, failed=False)


def split_of(recordings: Sequence[Recording], selection: SelectionOptions) -> dict[str, str]:
    """Recording id -> subset.  Drawn for each speaker (or recording) by itself, from the seed."""
    place: dict[str, float] = {}
    for recording in recordings:
        name = recording.speaker or recording.key
        digest = hashlib.blake2b(f"{selection.seed}:{name}".encode(), digest_size=8).digest()
        place[name] = int.from_bytes(digest, "little") / 2**64

    def subset(value: float) -> str:
        if value < selection.valid_share:
            return "valid"
        return "test" if value < selection.valid_share + selection.test_share else "train"

    subsets = {name: subset(value) for name, value in place.items()}
    ascending = sorted(place, key=place.__getitem__)
    if selection.valid_share > 0 and len(place) > 1 and "valid" not in subsets.values():
        subsets[ascending[0]] = "valid"  # training needs something to watch
    if "train" not in subsets.values():
        subsets[ascending[-1]] = "train"
    return {r.id: r.split or subsets[r.speaker or r.key] for r in recordings}


def open_output(output_dir: Path, settings: dict) -> None:
    """Create the folder, or take up an import of the same settings; UserError otherwise."""
    if any(character in str(output_dir) for character in "\t\r\n"):
        raise UserError(f"--output_dir {str(output_dir)!r}: a filelist cannot hold this name")
    record = output_dir / "import_settings.json"
    try:
        if record.exists():
            try:
                found = json.loads(record.read_text(encoding="utf-8"))
            except ValueError:
                raise UserError(
                    f"{record}: not JSON; remove {output_dir}, or choose another"
                ) from None
            differing = sorted(k for k in {*settings, *found} if settings.get(k) != found.get(k))
            if differing:
                raise UserError(
                    f"--output_dir {output_dir}: holds an import with another "
                    f"{', '.join(differing)}; choose another folder or remove it"
                )
        elif output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
            raise UserError(
                f"--output_dir {output_dir}: exists and holds no import; choose another folder"
            )
        (output_dir / "audio").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir {output_dir}: {error.strerror}; choose another") from None
    write_lines(record, json.dumps(settings, indent=2).splitlines())


def _stamp(recording: Recording) -> list:
    """What tells a source from a changed one."""
    try:
        facts = recording.source.stat()
    except OSError:
        return []
    return [str(recording.source), facts.st_size, facts.st_mtime_ns]


def read_journal(path: Path) -> dict[str, tuple[list, int]]:
    """Recording id -> (stamp of its source, samples) of what an earlier run converted."""
    done = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                key, stamp, samples = json.loads(line)
            except ValueError:
                continue  # the line that was being written when the run stopped
            done[key] = (stamp, samples)
    return done


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers for all


def conversions(
    tasks: Sequence[tuple[Path, Path]], workers: int
) -> Iterator[int | tuple[str, str]]:
    """Results of `convert`, in the order of `tasks`."""
    if workers == 1 or len(tasks) < 2:
        yield from map(convert, tasks)
        return
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_ignore_interrupts
    )
    try:
        yield from pool.map(convert, tasks, chunksize=4)
    except BrokenProcessPool:
        raise UserError(
            "a converting process was killed, perhaps for its memory; start again with fewer "
            "--workers: what is converted is kept"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def convert_all(
    recordings: Sequence[Recording], output_dir: Path, selection: SelectionOptions, workers: int
) -> tuple[list[tuple[Recording, int]], list[LeftOut]]:
    """Converted recordings with their samples, and those left out, in the given order.

    Each conversion is noted in a journal, so that a run that was stopped continues there.
    """
    journal = output_dir / "audio" / "converted.jsonl"
    targets = {r.id: output_dir / "audio" / f"{r.id}.flac" for r in recordings}
    stamps = {r.id: _stamp(r) for r in recordings}
    results: dict[str, int | tuple[str, str]] = {
        key: samples
        for key, (stamp, samples) in read_journal(journal).items()
        if stamps.get(key) == stamp and targets[key].exists()
    }
    todo = [r for r in recordings if r.id not in results]
    tasks = [(r.source, targets[r.id]) for r in todo]
    with open(journal, "a", encoding="utf-8") as notes:
        progress = tqdm(conversions(tasks, workers), total=len(todo), unit="file", disable=None)
        for result, recording in zip(progress, todo):  # in this order the bar comes to its end
            results[recording.id] = result
            if isinstance(result, int):
                print(json.dumps([recording.id, stamps[recording.id], result]), file=notes)
                notes.flush()

    converted, left_out = [], []
    for recording in recordings:
        result = results[recording.id]
        if isinstance(result, int):
            entry = unfit(recording, result, selection)
        else:
            entry = LeftOut.of(recording, *result, failed=True)
        if entry:
            left_out.append(entry)
            targets[recording.id].unlink(missing_ok=True)
        else:
            converted.append((recording, result))
    write_lines(journal, (json.dumps([r.id, stamps[r.id], n]) for r, n in converted))
    return converted, left_out


def write_data_set(
    converted: Sequence[tuple[Recording, int]], output_dir: Path, selection: SelectionOptions
) -> dict[str, dict[str, float]]:
    """Filelists, labels and dictionary; returns utterances and hours of each subset."""
    subsets = split_of([r for r, _ in converted], selection)
    facts = {}
    for subset in SUBSETS:
        members = [(r, samples) for r, samples in converted if subsets[r.id] == subset]
        name = selection.prefix + subset
        if not members:
            for suffix in ("tsv", "wrd", "ltr"):  # of an earlier run that had some
                (output_dir / f"{name}.{suffix}").unlink(missing_ok=True)
            continue
        files = [(f"{r.id}.flac", samples) for r, samples in members]
        write_manifest(output_dir, name, (output_dir / "audio").absolute(), files)
        hours = sum(samples for _, samples in members) / SAMPLE_RATE / 3600
        facts[name] = {"utterances": len(members), "hours": round(hours, 4)}
        texts = [r.text for r, _ in members if r.text is not None]
        if texts:
            write_lines(output_dir / f"{name}.wrd", texts)
            write_lines(output_dir / f"{name}.ltr", map(letters, texts))
            if subset == "train":
                write_dictionary(output_dir / "dict.ltr.txt", map(letters, texts))
    return facts


def report_unseen_letters(
    converted: Sequence[tuple[Recording, int]], selection: SelectionOptions
) -> None:
    """Say which letters occur in valid or test only: a model cannot learn them."""
    subsets = split_of([r for r, _ in converted], selection)
    if "train" not in subsets.values():
        print("note: nothing in train, hence no dict.ltr.txt; use that of the training set")
        return
    seen: dict[bool, set[str]] = {True: set(), False: set()}
    for recording, _ in converted:
        seen[subsets[recording.id] == "train"].update((recording.text or "").replace(" ", ""))
    unseen = sorted(seen[False] - seen[True])
    if unseen:
        print(f"note: {' '.join(unseen)} occur in valid or test, but never in train")


def main() -> ExitCode:
    classes = (SourceOptions, CleanupOptions, SelectionOptions, WorkOptions)
    parser = ArgumentParser(
        prog="utils.data.import_corpus",
        description=__doc__.splitlines()[0],
        conflict_handler="resolve",
    )
    for cls in classes:
        add_flags(parser, cls)
    # The one flag people repeat; repeated, an ordinary one would forget what came before.
    parser.add_argument(
        "--drop_pattern",
        action="extend",
        nargs="*",
        metavar="REGEX",
        help=field_help(CleanupOptions)["drop_pattern"],
    )
    namespace = parser.parse_args()
    if namespace.drop_pattern is None:
        namespace.drop_pattern = CleanupOptions.drop_pattern
    source, cleanup, selection, work = (from_flags(cls, namespace) for cls in classes)
    recordings = unique_ids(read_table(source) if source.table else read_folder(source))
    cleaned, left_out = clean_all(recordings, cleanup)
    if work.dry_run:
        after = {r.where: r.text for r in cleaned if r.text is not None}
        after |= {e.where: f"left out, {e.reason}: {e.detail}" for e in left_out}
        for recording in recordings[: work.dry_run]:
            print(recording.where)
            if recording.text is not None:
                print(f"  {recording.text}\n  -> {after[recording.where]}")
        return ExitCode.DONE

    output_dir = Path(source.output_dir)
    settings = {**asdict(source), **asdict(cleanup), **asdict(selection)}
    del settings["output_dir"]
    for flag in ("table", "audio_dir", "audio_root"):  # whatever folder the next run starts in
        settings[flag] = settings[flag] and os.path.abspath(settings[flag])
    open_output(output_dir, json.loads(json.dumps(settings)))
    converted, unusable = convert_all(cleaned, output_dir, selection, work.workers)
    left_out += unusable
    report = [json.dumps(asdict(entry), ensure_ascii=False) for entry in left_out]
    write_lines(output_dir / "left_out.jsonl", report)
    if not converted:
        raise UserError(
            f"none of {len(recordings)} recordings can be used; {output_dir}/left_out.jsonl says "
            f"why, the first: {left_out[0].detail}"
        )
    facts = write_data_set(converted, output_dir, selection)
    for name, fact in facts.items():
        print(f"{output_dir / name}.tsv: {fact['utterances']} utterances, {fact['hours']:.3f} h")
    for reason, count in Counter(entry.reason for entry in left_out).most_common():
        example = next(entry for entry in left_out if entry.reason == reason)
        print(f"left out, {reason}: {count}, such as {example.where}: {example.detail}")
    if left_out:
        print(f"all that was left out: {output_dir / 'left_out.jsonl'}")
    report_unseen_letters(converted, selection)
    return ExitCode.SOME_FAILED if any(e.failed for e in left_out) else ExitCode.DONE


if __name__ == "__main__":
    run_command(main)
