"""Turn anybody's recordings into a data set the recipes train on.

    python -m utils.import_corpus --output_dir datasets/mine --table recordings.csv
    python -m utils.import_corpus --output_dir datasets/mine --audio_dir recordings

A table names audio files and transcripts; a folder of audio alone serves pre-training.  Any format
libsndfile or FFmpeg (`pip install av`) reads, any sample rate and channel count: written as 16 kHz
mono FLAC, with filelists, labels, a dictionary, and a report of what was left out and why.
An interrupted import continues where it stopped.
"""

import csv
import hashlib
import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import soundfile
from tqdm import tqdm

from common.audio import SAMPLE_RATE, read_recording
from common.errors import ExitCode, UserError, run_command
from common.flags import ArgumentParser, parse_dataclasses
from common.manifest import letters, write_lines, write_manifest
from common.transcript import CleanupOptions, Refused, clean
from common.vocabulary import write_dictionary
from wav2vec2.config import BASE
from wav2vec2.feature_extractor import frame_count

AUDIO_COLUMNS = ("path", "audio", "file", "filename", "wav")
TEXT_COLUMNS = ("text", "transcript", "transcription", "sentence")
# fmt: off
AUDIO_SUFFIXES = {
    ".3gp", ".aac", ".aif", ".aiff", ".amr", ".au", ".caf", ".flac", ".g722", ".m4a", ".mka",
    ".mkv", ".mp3", ".mp4", ".ogg", ".opus", ".rf64", ".sph", ".w64", ".wav", ".webm", ".wma",
}
# fmt: on
SUBSETS = ("train", "valid", "test")


@dataclass(frozen=True)
class SourceOptions:
    """Where the recordings are"""

    output_dir: str
    """Folder to create: audio/, filelists, labels, dictionary, report."""
    table: str = ""
    """Table of audio paths and transcripts: .tsv, .csv or .jsonl, with named columns."""
    audio_dir: str = ""
    """Folder of audio without transcripts, searched recursively (instead of --table)."""
    audio_root: str = ""
    """Folder that relative paths in the table start from; the table's own if empty."""
    audio_column: str = ""
    """Column of audio paths; by default path, audio, file, filename or wav."""
    text_column: str = ""
    """Column of transcripts; by default text, transcript, transcription or sentence."""
    speaker_column: str = ""
    """Column that names the speaker: no speaker is then in two subsets."""
    split_column: str = ""
    """Column that says train, valid or test; by default the split is drawn."""


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
        if self.workers < 1:
            raise UserError(f"--workers {self.workers}: must be at least 1")


@dataclass(frozen=True)
class Recording:
    """One row of the table, or one file of the folder."""

    id: str
    source: Path
    where: str
    """File and line it was named in, for messages."""
    text: str | None = None
    speaker: str = ""
    split: str = ""


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


def rows_of(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, column -> value) of a .tsv, .csv or .jsonl table."""
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            if table.suffix.lower() in (".jsonl", ".json"):
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield number, _json_row(table, number, line)
                return
            if table.suffix.lower() not in (".tsv", ".csv"):
                raise UserError(f"--table {table}: name it .tsv, .csv or .jsonl, as it is written")
            if table.suffix.lower() == ".tsv":
                reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            else:
                reader = csv.DictReader(file, strict=True)
            for row in reader:
                if None in row or None in row.values():
                    raise UserError(
                        f"{table}:{reader.line_num}: has not as many fields as the header line "
                        f"({', '.join(reader.fieldnames or [])})"
                    )
                yield reader.line_num, row
    except OSError as error:
        raise UserError(f"--table {table}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"--table {table}: not UTF-8 text; convert it first") from None
    except csv.Error as error:
        raise UserError(f"{table}:{reader.line_num}: not valid CSV ({error})") from None


def _json_row(table: Path, number: int, line: str) -> dict[str, str]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{table}:{number}: not JSON ({error}); write one object a line") from None
    if not isinstance(row, dict):
        raise UserError(f"{table}:{number}: not a JSON object; write one object a line")
    return {str(key): str(value) for key, value in row.items()}


def pick_column(row: dict[str, str], wanted: str, usual: Sequence[str], flag: str, at: str) -> str:
    """The column to read; UserError names those there are."""
    names = [wanted] if wanted else usual
    for name in names:
        if name in row:
            return name
    raise UserError(
        f"{at}: no column {' or '.join(names)}; it has {', '.join(row)}: name one with {flag}"
    )


def recording_id(path: Path, root: Path) -> str:
    """A file stem that no other path below `root` has, as ids must be unique."""
    if path.is_relative_to(root):
        path = path.relative_to(root)
    parts = [part for part in path.with_suffix("").parts if part not in ("/", "..")]
    return "_".join(parts).replace(" ", "_").replace("\t", "_")


def read_table(options: SourceOptions) -> list[Recording]:
    """The recordings a table names."""
    table = Path(options.table)
    root = Path(options.audio_root or table.parent).absolute()
    recordings = []
    for number, row in rows_of(table):
        at = f"{table}:{number}"
        audio = pick_column(row, options.audio_column, AUDIO_COLUMNS, "--audio_column", at)
        text = pick_column(row, options.text_column, TEXT_COLUMNS, "--text_column", at)
        speaker = split = ""
        if options.speaker_column:
            speaker = row[pick_column(row, options.speaker_column, (), "--speaker_column", at)]
        if options.split_column:
            split = row[pick_column(row, options.split_column, (), "--split_column", at)]
            if split not in SUBSETS:
                raise UserError(f"{at}: split {split!r} is none of {', '.join(SUBSETS)}")
        source = root / row[audio]
        key = recording_id(source, root)
        recordings.append(Recording(key, source, at, row[text], speaker, split))
    if not recordings:
        raise UserError(f"--table {table}: names no recordings")
    return recordings


def read_folder(options: SourceOptions) -> list[Recording]:
    """The audio files below a folder, by suffix."""
    root = Path(options.audio_dir).absolute()
    if not root.is_dir():
        raise UserError(f"--audio_dir {root}: no such folder")
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)
    if not files:
        raise UserError(
            f"--audio_dir {root}: holds no audio file ({' '.join(sorted(AUDIO_SUFFIXES))})"
        )
    return [Recording(recording_id(path, root), path, str(path)) for path in files]


def unique_ids(recordings: Sequence[Recording]) -> list[Recording]:
    """Ids made unique by the suffix (a.wav, a.mp3); UserError for a file named twice."""
    first: dict[Path, Recording] = {}
    for recording in recordings:
        if recording.source in first:
            raise UserError(
                f"{recording.where}: {recording.source} is named a second time, first in "
                f"{first[recording.source].where}; remove one"
            )
        first[recording.source] = recording
    counts = Counter(r.id for r in recordings)
    return [
        r if counts[r.id] == 1 else replace(r, id=f"{r.id}_{r.source.suffix.lstrip('.').lower()}")
        for r in recordings
    ]


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
                LeftOut(recording.where, str(recording.source), "transcript", str(error), False)
            )
    return kept, left_out


def convert(task: tuple[Recording, Path, SelectionOptions]) -> tuple[Recording, int | LeftOut]:
    """Write one recording as 16 kHz mono FLAC; its samples, or why it is left out."""
    recording, target, selection = task

    def leave_out(reason: str, detail: str, failed: bool = False) -> tuple[Recording, LeftOut]:
        entry = LeftOut(recording.where, str(recording.source), reason, detail, failed)
        return recording, entry

    try:
        fresh = target.exists() and target.stat().st_mtime >= recording.source.stat().st_mtime
        if fresh:
            samples = soundfile.info(str(target)).frames
        else:
            waveform = read_recording(recording.source)
            samples = len(waveform)
    except OSError as error:
        return leave_out("unreadable", f"{recording.source}: {error.strerror}", failed=True)
    except UserError as error:
        return leave_out("unreadable", str(error), failed=True)
    seconds = samples / SAMPLE_RATE
    if seconds < selection.min_seconds:
        return leave_out("too short", f"{seconds:.2f} s, --min_seconds {selection.min_seconds}")
    if seconds > selection.max_seconds:
        return leave_out("too long", f"{seconds:.2f} s, --max_seconds {selection.max_seconds}")
    if recording.text is not None:
        units = letters(recording.text).split()
        needed = len(units) + sum(a == b for a, b in zip(units, units[1:]))
        frames = frame_count(samples, BASE.conv_layers)
        if frames < needed:
            return leave_out(
                "transcript too long", f"{needed} frames needed, {seconds:.2f} s give {frames}"
            )
    if not fresh:
        temporary = target.with_suffix(".tmp")
        soundfile.write(temporary, waveform, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        os.replace(temporary, target)
    return recording, samples


def split_of(recordings: Sequence[Recording], selection: SelectionOptions) -> dict[str, str]:
    """Recording id -> subset.  Drawn for each speaker (or recording) by itself, from the seed."""
    place: dict[str, float] = {}
    for recording in recordings:
        name = recording.speaker or recording.id
        digest = hashlib.blake2b(f"{selection.seed}:{name}".encode(), digest_size=8).digest()
        place[name] = int.from_bytes(digest, "little") / 2**64

    def subset(value: float) -> str:
        if value < selection.valid_share:
            return "valid"
        return "test" if value < selection.valid_share + selection.test_share else "train"

    subsets = {name: subset(value) for name, value in place.items()}
    if selection.valid_share > 0 and len(place) > 1 and "valid" not in subsets.values():
        subsets[min(place, key=place.__getitem__)] = "valid"  # training needs something to watch
    return {r.id: r.split or subsets[r.speaker or r.id] for r in recordings}


def open_output(output_dir: Path, settings: dict) -> None:
    """Create the folder, or take up an import of the same settings; UserError otherwise."""
    record = output_dir / "import_settings.json"
    try:
        if record.exists():
            found = json.loads(record.read_text(encoding="utf-8"))
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


def convert_all(
    recordings: Sequence[Recording], output_dir: Path, selection: SelectionOptions, workers: int
) -> tuple[list[tuple[Recording, int]], list[LeftOut]]:
    """Converted recordings with their samples, and those left out, in the given order."""
    tasks = [(r, output_dir / "audio" / f"{r.id}.flac", selection) for r in recordings]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        results = list(tqdm(pool.imap(convert, tasks, chunksize=8), total=len(tasks), unit="file"))
    converted = [(r, result) for r, result in results if not isinstance(result, LeftOut)]
    return converted, [result for _, result in results if isinstance(result, LeftOut)]


def write_data_set(
    converted: Sequence[tuple[Recording, int]], output_dir: Path, selection: SelectionOptions
) -> dict[str, dict[str, float]]:
    """Filelists, labels and dictionary; returns utterances and hours of each subset."""
    subsets = split_of([r for r, _ in converted], selection)
    facts = {}
    for subset in SUBSETS:
        members = [(r, samples) for r, samples in converted if subsets[r.id] == subset]
        if not members:
            continue
        name = selection.prefix + subset
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
    seen: dict[bool, set[str]] = {True: set(), False: set()}
    for recording, _ in converted:
        seen[subsets[recording.id] == "train"].update((recording.text or "").replace(" ", ""))
    unseen = sorted(seen[False] - seen[True])
    if unseen:
        print(f"note: {' '.join(unseen)} occur in valid or test, but never in train")


def main() -> ExitCode:
    parser = ArgumentParser(prog="utils.import_corpus", description=__doc__.splitlines()[0])
    source, cleanup, selection, work = parse_dataclasses(
        parser, [SourceOptions, CleanupOptions, SelectionOptions, WorkOptions]
    )
    if bool(source.table) == bool(source.audio_dir):
        raise UserError("give either --table or --audio_dir")
    recordings = unique_ids(read_table(source) if source.table else read_folder(source))
    cleaned, left_out = clean_all(recordings, cleanup)
    if work.dry_run:
        after = {r.id: r.text for r in cleaned}
        why = {entry.where: entry.detail for entry in left_out}
        for recording in recordings[: work.dry_run]:
            result = after.get(recording.id) or f"left out: {why.get(recording.where, '')}"
            print(f"{recording.where}\n  {recording.text}\n  {result}")
        return ExitCode.DONE

    output_dir = Path(source.output_dir)
    settings = {**asdict(source), **asdict(cleanup), **asdict(selection)}
    del settings["output_dir"]
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
