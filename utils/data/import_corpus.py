"""Turn your own recordings into a data set that the recipes train on.

    python -m utils.data.import_corpus --output_dir datasets/mine --table recordings.csv
    python -m utils.data.import_corpus --output_dir datasets/mine --audio_dir recordings

A table names audio files and transcripts; a folder of audio alone serves pre-training.  Reads every
format of libsndfile and FFmpeg (`pip install av`), at any sample rate and channel count.  Writes
16 kHz mono FLAC, filelists, labels and a dictionary.  `left_out.jsonl` says what was skipped, and
why; `notes.jsonl` what is unusual about the rest, such as silence.  Run again after an
interruption, the import resumes.
"""

import argparse
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import soundfile

from common.runtime.worker_pool import map_in_processes
from utils.data.existing_output import was_made_with
from utils.data.make_filelists import word_labels, write_subset
from utils.data.next_step import print_next_step
from utils.data.recording_sources import SUBSETS, SourceOptions, read_folder, read_table
from wav2vec2.audio.decode import Notes, read_recording
from wav2vec2.audio.recordings import Recording, unique_ids
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.audio.source import is_regular, printable
from wav2vec2.cli.errors import ExitCode, UserError, run_command
from wav2vec2.cli.flags import ArgumentParser, add_flags, field_help, from_flags, require_at_least
from wav2vec2.files.output import prepare_folder, write_chunks, write_json, write_lines
from wav2vec2.text.cleanup import CleanupOptions, Refused, clean
from wav2vec2.text.vocabulary import letters, write_dictionary


@dataclass(frozen=True)
class SelectionOptions:
    """Selection and split"""

    min_seconds: float = 0.2
    """Skip shorter recordings."""
    max_seconds: float = 30.0
    """Skip longer recordings."""
    valid_share: float = 0.05
    """Share of the recordings (or speakers) in the valid subset."""
    test_share: float = 0.05
    """Share of the recordings (or speakers) in the test subset."""
    prefix: str = ""
    """Text before the subset names train, valid and test."""
    seed: int = 1
    """Seed of the split; new recordings do not move the others to another subset."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_seconds < self.max_seconds:
            raise UserError("--min_seconds: must be at least 0 and below --max_seconds")
        if "/" in self.prefix or any(c in self.prefix for c in "\t\r\n"):
            raise UserError(f"--prefix {self.prefix!r}: must not hold slashes, tabs or line breaks")
        if min(self.valid_share, self.test_share) < 0 or self.valid_share + self.test_share >= 1:
            raise UserError("--valid_share, --test_share: must be at least 0, and below 1 in sum")


@dataclass(frozen=True)
class WorkOptions:
    """Work"""

    workers: int = os.cpu_count() or 1
    """Processes that convert audio; the result does not depend on their number."""
    dry_run: int = 0
    """Print this many transcripts before and after the clean-up, and write nothing."""

    def __post_init__(self) -> None:
        require_at_least(self, dry_run=0, workers=1)


@dataclass(frozen=True)
class Skipped:
    """A recording that is not in the data set, and why: a line of left_out.jsonl."""

    where: str
    source: str
    reason: str
    """One of a few kinds, for counting."""
    detail: str
    failed: bool
    """Whether the file was unusable; otherwise a rule skipped it."""

    @classmethod
    def of(cls, recording: Recording, reason: str, detail: str, failed: bool) -> "Skipped":
        """The entry of a recording, as text that can be written whatever its path holds."""
        texts = (recording.where, recording.source, reason, detail)
        return cls(*map(printable, texts), failed)


def clean_transcripts(
    recordings: Sequence[Recording], cleanup: CleanupOptions
) -> tuple[list[Recording], list[Skipped]]:
    """Recordings with cleaned transcripts, and those whose transcript was refused."""
    kept, skipped = [], []
    for recording in recordings:
        try:
            text = None if recording.text is None else clean(recording.text, cleanup)
            kept.append(replace(recording, text=text))
        except Refused as error:
            reason = f"transcript: {error.reason}"
            skipped.append(Skipped.of(recording, reason, error.detail, failed=False))
    return kept, skipped


@dataclass(frozen=True)
class Converted:
    """What became of a recording."""

    samples: int
    """Samples of the FLAC file; 0 if there is none."""
    notes: Notes
    """Kind -> detail: what is unusual, or why there is no file."""


def convert(task: tuple[Path, Path, int | None]) -> Converted:
    """Write the channel (None: average) of source as 16 kHz mono FLAC to target.

    A task is (source, target, channel).
    """
    source, target, channel = task
    if not os.path.exists(source):  # unlike pathlib's, false for a name that is too long
        return Converted(0, {"missing": f"{source}: no such file"})
    if not is_regular(source) and not os.path.isdir(source):
        return Converted(0, {"unreadable": f"{source}: not a file but a pipe or a device"})
    notes: Notes = {}
    try:
        waveform = read_recording(source, channel, notes)
    except UserError as error:
        return Converted(0, {"unreadable": str(error)})
    # Decoders of lossy formats and the resampler go a little beyond full scale, too.
    if (peak := float(abs(waveform).max())) > 1:
        notes.setdefault("above full scale", f"up to {peak:.5g}: scaled down")
        waveform = waveform / np.float32(peak)
    content = io.BytesIO()
    soundfile.write(content, waveform, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    write_chunks(target, [content.getbuffer()])
    return Converted(len(waveform), notes)


def reason_to_skip(
    recording: Recording, samples: int, selection: SelectionOptions
) -> tuple[str, str] | None:
    """(reason, detail) for which a rule skips a recording of this length; None to keep it."""
    # Imported here because it brings torch, which the converting processes can do without.
    from wav2vec2.config import BASE
    from wav2vec2.decoding.alignment import frames_needed
    from wav2vec2.feature_extractor import frame_count

    seconds = samples / SAMPLE_RATE
    if seconds < selection.min_seconds:
        return "too short", f"{seconds:.2f} s, --min_seconds {selection.min_seconds}"
    if seconds > selection.max_seconds:
        return "too long", f"{seconds:.2f} s, --max_seconds {selection.max_seconds}"
    needed = frames_needed(letters(recording.text or "").split())
    frames = frame_count(samples, BASE.conv_layers)
    if recording.text is not None and frames < needed:  # CTC has no path
        return "transcript too long", f"{needed} frames needed, {seconds:.2f} s give {frames}"
    return None


def assign_subsets(recordings: Sequence[Recording], selection: SelectionOptions) -> dict[str, str]:
    """Recording id -> subset.  Drawn per speaker (or recording), independently of all others."""
    draws: dict[str, float] = {}
    for recording in recordings:
        name = recording.speaker or recording.key
        digest = hashlib.blake2b(f"{selection.seed}:{name}".encode(), digest_size=8).digest()
        draws[name] = int.from_bytes(digest, "little") / 2**64

    def subset_of(draw: float) -> str:
        if draw < selection.valid_share:
            return "valid"
        return "test" if draw < selection.valid_share + selection.test_share else "train"

    subsets = {name: subset_of(draw) for name, draw in draws.items()}
    ascending = sorted(draws, key=draws.__getitem__)
    if selection.valid_share > 0 and len(draws) > 1 and "valid" not in subsets.values():
        subsets[ascending[0]] = "valid"  # training needs something to validate on
    if "train" not in subsets.values():
        subsets[ascending[-1]] = "train"
    return {r.id: r.split or subsets[r.speaker or r.key] for r in recordings}


def _stamp(recording: Recording) -> list:
    """Path, size and time of a source: they show whether it changed; empty if it is missing."""
    try:
        facts = recording.source.stat()
    except (OSError, ValueError):
        return []
    return [str(recording.source), facts.st_size, facts.st_mtime_ns]


def read_journal(path: Path) -> dict[str, tuple[list, Converted]]:
    """Recording id -> (stamp of its source, its conversion) of what an earlier run converted."""
    done = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").split("\n"):
            with suppress(ValueError):  # the line that the run was writing when it stopped
                key, stamp, samples, *notes = json.loads(line)
                done[key] = (stamp, Converted(samples, *notes or [{}]))
    return done


def convert_all(
    recordings: Sequence[Recording], output_dir: Path, selection: SelectionOptions, workers: int
) -> tuple[list[tuple[Recording, Converted]], list[Skipped]]:
    """Converted recordings, and the skipped ones, in the given order.

    A journal notes each conversion, so that an interrupted run resumes.
    """
    journal = output_dir / "audio" / "converted.jsonl"
    targets = {r.id: output_dir / "audio" / f"{r.id}.flac" for r in recordings}
    stamps = {r.id: _stamp(r) for r in recordings}
    results = {
        key: result
        for key, (stamp, result) in read_journal(journal).items()
        if stamps.get(key) == stamp and targets[key].exists()
    }
    missing = [r for r in recordings if r.id not in results]
    tasks = [(r.source, targets[r.id], r.channel) for r in missing]
    with open(journal, "a", encoding="utf-8") as notes:
        words = {"flag": "--workers", "unit": "files", "title": "import"}
        converted = map_in_processes(convert, tasks, workers, **words)
        for result, recording in zip(converted, missing):  # in this order progress reaches its end
            results[recording.id] = result
            if result.samples:
                line = [recording.id, stamps[recording.id], result.samples, result.notes]
                print(json.dumps(line), file=notes)
                notes.flush()

    kept, skipped = [], []
    for recording in recordings:
        result = results[recording.id]
        failed = not result.samples
        if failed:
            (reason,) = result.notes.items()
        else:
            reason = reason_to_skip(recording, result.samples, selection)
        if reason:
            skipped.append(Skipped.of(recording, *reason, failed=failed))
            targets[recording.id].unlink(missing_ok=True)
        else:
            kept.append((recording, result))
    lines = ([r.id, stamps[r.id], result.samples, result.notes] for r, result in kept)
    write_lines(journal, map(json.dumps, lines))
    return kept, skipped


def write_data_set(
    kept: Sequence[tuple[Recording, int]], output_dir: Path, selection: SelectionOptions
) -> None:
    """Write filelists, labels and dictionary, and print what each subset holds."""
    subsets = assign_subsets([r for r, _ in kept], selection)
    characters: dict[str, set[str]] = {}
    for subset in SUBSETS:
        members = [(r, samples) for r, samples in kept if subsets[r.id] == subset]
        name = selection.prefix + subset
        if not members:
            for suffix in ("tsv", "wrd", "ltr"):  # of an earlier run whose subset was not empty
                (output_dir / f"{name}.{suffix}").unlink(missing_ok=True)
            continue
        files = [(f"{r.id}.flac", samples) for r, samples in members]
        texts = [r.text for r, _ in members if r.text is not None]
        labels = word_labels(texts) if texts else {}
        write_subset(output_dir, name, (output_dir / "audio").absolute(), files, labels)
        characters[subset] = set("".join(texts)) - {" "}
        if texts and subset == "train":
            write_dictionary(output_dir / "dict.ltr.txt", labels["ltr"])
    if "train" not in characters:
        print("note: train is empty, hence no dict.ltr.txt; use that of the training set")
    elif unseen := set().union(*characters.values()) - characters["train"]:
        print(f"note: {' '.join(sorted(unseen))} occur in valid or test, but never in train")


def print_dry_run(
    recordings: Sequence[Recording], cleaned: Sequence[Recording], skipped: Sequence[Skipped]
) -> None:
    """Print transcripts before and after the clean-up."""
    after = {r.where: r.text for r in cleaned}
    after |= {entry.where: f"skipped, {entry.reason}: {entry.detail}" for entry in skipped}
    for recording in recordings:
        print(recording.where)
        if recording.text is not None:
            print(f"  {recording.text}\n  -> {after[recording.where]}")


def print_counts(title: str, entries: Sequence[Skipped]) -> None:
    """Print the number of entries of each reason, with an example."""
    for reason, count in Counter(entry.reason for entry in entries).most_common():
        example = next(entry for entry in entries if entry.reason == reason)
        print(f"{title}, {reason}: {count}, such as {example.where}: {example.detail}")


def main() -> ExitCode:
    classes = (SourceOptions, CleanupOptions, SelectionOptions, WorkOptions)
    parser = ArgumentParser("utils.data.import_corpus", __doc__)
    for cls in classes:
        add_flags(parser, cls, without=("drop_pattern",))
    # People repeat this flag; of a repeated ordinary flag, only the last values would count.
    text = field_help(CleanupOptions)["drop_pattern"]
    repeated = {"action": "extend", "nargs": "*", "default": argparse.SUPPRESS}
    parser.add_argument("--drop_pattern", metavar="REGEX", help=text, **repeated)
    namespace = parser.parse_args()
    source, cleanup, selection, work = (from_flags(cls, namespace) for cls in classes)
    recordings = unique_ids(read_table(source) if source.table else read_folder(source))
    cleaned, skipped = clean_transcripts(recordings, cleanup)
    if work.dry_run:
        print_dry_run(recordings[: work.dry_run], cleaned, skipped)
        return ExitCode.DONE

    output_dir = Path(source.output_dir)
    if any(character in source.output_dir for character in "\t\r\n"):
        raise UserError(f"--output_dir {source.output_dir!r}: must not hold tabs or line breaks")
    settings = {**asdict(source), **asdict(cleanup), **asdict(selection)}
    del settings["output_dir"]
    for flag in ("table", "audio_dir", "audio_root"):  # the next run may start in another folder
        settings[flag] = settings[flag] and os.path.abspath(settings[flag])
    settings = json.loads(json.dumps(settings))
    if not was_made_with(settings, output_dir, "import_settings.json", "import"):
        prepare_folder("--output_dir", output_dir)
        write_json(output_dir / "import_settings.json", settings)
    prepare_folder("--output_dir", output_dir / "audio")
    kept, unusable = convert_all(cleaned, output_dir, selection, work.workers)
    skipped += unusable
    report = output_dir / "left_out.jsonl"
    write_lines(report, (json.dumps(asdict(entry), ensure_ascii=False) for entry in skipped))
    if not kept:
        raise UserError(
            f"none of {len(recordings)} recordings can be used; {report} says why, the first: "
            f"{skipped[0].detail}"
        )
    write_data_set([(r, result.samples) for r, result in kept], output_dir, selection)
    noted = [
        Skipped.of(recording, kind, detail, failed=False)
        for recording, result in kept
        for kind, detail in result.notes.items()
    ]
    print_counts("skipped", skipped)
    if skipped:
        print(f"all that was skipped: {report}")
    print_counts("note", noted)
    listed = output_dir / "notes.jsonl"
    listed.unlink(missing_ok=True)
    if noted:
        fields = ("where", "source", "reason", "detail")
        lines = ({name: getattr(entry, name) for name in fields} for entry in noted)
        write_lines(listed, (json.dumps(line, ensure_ascii=False) for line in lines))
        print(f"all that was noted, and imported: {listed}")
    seconds = sum(result.samples for _, result in kept) / SAMPLE_RATE
    print(f"{output_dir}: {len(kept)} of {len(recordings)} recordings, {seconds / 3600:.3f} h")
    subsets = {
        "TRAIN_SUBSET": f"{selection.prefix}train",
        "VALID_SUBSET": f"{selection.prefix}valid",
    }
    if all((output_dir / f"{subset}.tsv").exists() for subset in subsets.values()):
        if (output_dir / "dict.ltr.txt").exists():
            recipe = "scripts/finetune_base_1h.sh"
            subsets["PRETRAINED_MODEL"] = "wav2vec_small.pt"
        else:
            recipe = "scripts/pretrain_base.sh"
        name = output_dir.absolute().name
        where = {"DATASET_DIR": output_dir, "OUTPUT_DIR": f"results/{name}"}
        print_next_step(f"bash {recipe}", **where, **subsets)
        print("docs/own_data.md: published weights to start from, and settings for little data")
    return ExitCode.SOME_FAILED if any(entry.failed for entry in skipped) else ExitCode.DONE


if __name__ == "__main__":
    run_command(main)
