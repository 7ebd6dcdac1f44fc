"""Turn your own recordings into a data set that the recipes train on.

    python -m utils.data.import_corpus --output_dir datasets/mine --table recordings.csv
    python -m utils.data.import_corpus --output_dir datasets/mine --audio_dir recordings
    python -m utils.data.import_corpus --output_dir datasets/mine --lhotse cuts.jsonl.gz

A table names audio files and transcripts; a folder is a public corpus, recordings with transcripts
beside them, or audio alone, which serves pre-training.  Reads every format of libsndfile and FFmpeg
(`pip install av`), at any sample rate and channel count.  Writes 16 kHz mono FLAC, filelists,
labels, a dictionary, and `corpus.html`, a page that says what the data set holds and plays
examples; `corpus.json` has its numbers.  `skipped.jsonl` says what was skipped, and why;
`notes.jsonl` what is unusual about the rest, such as silence.  Run again after an interruption, the
import resumes.
"""

import argparse
import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from common.runtime.signals import stopped_by_signals
from utils.corpora.conversion import Bounds, Converted, Skipped, convert_all
from utils.corpora.rows import SUBSETS
from utils.corpora.segmentation import SegmentOptions, segment_all
from utils.corpora.sources import NO_FAILURE, SourceOptions, Utterance, read_source
from utils.corpora.splits import Member, check_speakers, shared_between, split_members
from utils.corpora.tables import TableOptions
from utils.corpora.timed_text import TranscriptOptions
from utils.corpus_report.page import write_page
from utils.corpus_report.skips import nothing_usable
from utils.corpus_report.summary import print_summary, summarise
from utils.data.existing_output import was_made_with
from utils.data.make_filelists import word_labels, write_subset
from utils.data.next_step import print_next_step
from wav2vec2.audio.recordings import unique_ids
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.audio.source import printable
from wav2vec2.cli.errors import ExitCode, UserError, run_command
from wav2vec2.cli.flags import ArgumentParser, add_flags, field_help, from_flags, require_at_least
from wav2vec2.files.output import prepare_folder, write_json, write_lines
from wav2vec2.text.cleanup import CleanupOptions, clean, spaceless_script
from wav2vec2.text.refusal import Refused
from wav2vec2.text.vocabulary import letters, write_dictionary

MULTILINGUAL = "facebook/wav2vec2-xls-r-300m"
"""Checkpoint to start from in any language, as a Hub id."""


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
    licence: str = ""
    """The corpus' licence, kept in corpus.json."""
    origin: str = ""
    """Where the corpus comes from, kept in corpus.json."""

    def __post_init__(self) -> None:
        require_at_least(self, dry_run=0, workers=1)


def clean_transcripts(
    recordings: Sequence[Utterance], cleanup: CleanupOptions, taken: Counter[str]
) -> tuple[list[Utterance], list[Skipped]]:
    """Recordings with cleaned transcripts, and those whose transcript was refused.

    `taken` counts what the clean-up removed.
    """
    kept, skipped = [], []
    for recording in recordings:
        try:
            text = None if recording.text is None else clean(recording.text, cleanup, taken)
            kept.append(replace(recording, text=text))
        except Refused as error:
            reason = f"transcript: {error.reason}"
            skipped.append(Skipped.of(recording, reason, error.detail, failed=False))
    return kept, skipped


def check_symbols(recordings: Sequence[Utterance]) -> tuple[list[Utterance], list[Skipped]]:
    """Recordings with symbols between single spaces, and those without any."""
    kept, skipped = [], []
    for recording in recordings:
        symbols = None if recording.text is None else recording.text.split()
        if symbols == []:
            reason = "transcript: no transcript"
            skipped.append(Skipped.of(recording, reason, "it is empty", failed=False))
        else:
            kept.append(replace(recording, text=symbols and " ".join(symbols)))
    return kept, skipped


def count_digits(recordings: Sequence[Utterance]) -> int:
    """The number of transcripts with digits."""
    return sum(any(map(str.isdigit, recording.text or "")) for recording in recordings)


def count_spaceless(recordings: Sequence[Utterance]) -> Counter[str]:
    """Script without spaces between words -> its transcripts."""
    scripts = Counter(
        spaceless_script(recording.text) for recording in recordings if recording.text
    )
    del scripts[""]
    return scripts


def print_clean_up(
    with_digits: int, scripts: Counter[str], language: str, taken: Counter[str]
) -> None:
    """Print what the clean-up removed, most frequent first, and which language it assumed."""
    if counts := (+taken).most_common():
        shown = ", ".join(
            f"{piece} {'once' if count == 1 else f'{count} times'}" for piece, count in counts[:12]
        )
        more = f" and {len(counts) - 12} other kinds" if len(counts) > 12 else ""
        print(f"removed from transcripts: {shown}{more}")
    if scripts:
        print(
            f"note: {scripts.total()} transcripts are in a script without spaces between words "
            f"({', '.join(sorted(scripts))}): compare character error rates, since a word "
            "error rate counts whole phrases"
        )
    if with_digits and not language:
        print(
            f"note: {with_digits} transcripts have digits, spelt in English where they are spelt; "
            "--language names another language"
        )


def reason_to_skip(
    recording: Utterance, samples: int, selection: SelectionOptions, phonemes: bool = False
) -> tuple[str, str] | None:
    """(reason, detail) for which a rule skips a recording of this length; None to keep it.

    `phonemes`: its transcript is symbols, not words.
    """
    # Imported here because it brings torch, which the converting processes can do without.
    from wav2vec2.config import BASE
    from wav2vec2.decoding.alignment import frames_needed
    from wav2vec2.feature_extractor import frame_count

    seconds = samples / SAMPLE_RATE
    if seconds < selection.min_seconds:
        return "too short", f"{seconds:.2f} s, --min_seconds {selection.min_seconds}"
    if seconds > selection.max_seconds:
        cut = "silence" if recording.text is None else "align"
        detail = f"{seconds:.2f} s, --max_seconds {selection.max_seconds}"
        return "too long", f"{detail}; --segment {cut} cuts long recordings"
    text = recording.text or ""
    frames = frame_count(samples, BASE.conv_layers)
    if frames > 2 * len(text):  # a letter or word end takes two at most
        return None
    needed = frames_needed((text if phonemes else letters(text)).split())
    if recording.text is not None and frames < needed:  # CTC has no path
        return "transcript too long", f"{needed} frames needed, {seconds:.2f} s give {frames}"
    return None


def select(
    recordings: Sequence[Utterance],
    results: Mapping[str, Converted],
    selection: SelectionOptions,
    audio_dir: Path,
    phonemes: bool = False,
) -> tuple[list[tuple[Utterance, Converted]], list[Skipped]]:
    """Converted recordings that no rule skips, and the others, in the given order."""
    kept, skipped = [], []
    for recording in recordings:
        result = results[recording.id]
        failed = not result.samples
        if failed:
            (reason,) = result.notes.items()
        else:
            reason = reason_to_skip(recording, result.samples, selection, phonemes)
        if reason:
            skipped.append(Skipped.of(recording, *reason, failed=failed))
            (audio_dir / f"{recording.id}.flac").unlink(missing_ok=True)
        else:
            kept.append((recording, result))
    return kept, skipped


def assign_subsets(
    kept: Sequence[tuple[Utterance, Converted]], selection: SelectionOptions, allow_shared: bool
) -> dict[str, str]:
    """Recording id -> subset."""
    members = [
        Member(u.id, u.key, u.speaker, u.group, c.content, u.split, c.samples / SAMPLE_RATE)
        for u, c in kept
    ]
    shares = selection.valid_share, selection.test_share
    subsets = split_members(members, *shares, selection.seed, allow_shared)
    speaker_of = {m.id: m.speaker for m in members}
    if not allow_shared and (shared := shared_between(subsets, speaker_of)):
        print(
            f"note: {', '.join(shared)} is the only speaker to draw subsets from, and is in "
            "several: error rates are of a known voice"
        )
    return subsets


def write_data_set(
    kept: Sequence[tuple[Utterance, int]],
    subsets: Mapping[str, str],
    output_dir: Path,
    prefix: str,
    phonemes: bool = False,
) -> None:
    """Write filelists, labels and dictionary, and print what each subset holds."""
    characters: dict[str, set[str]] = {}
    units = "phn" if phonemes else "ltr"
    for subset in SUBSETS:
        members = [(r, samples) for r, samples in kept if subsets[r.id] == subset]
        name = prefix + subset
        if not members:
            # Those of an earlier run whose subset was not empty.
            for suffix in ("tsv", "wrd", "ltr", "phn"):
                (output_dir / f"{name}.{suffix}").unlink(missing_ok=True)
            continue
        files = [(f"{r.id}.flac", samples) for r, samples in members]
        texts = [r.text for r, _ in members if r.text is not None]
        labels = {"phn": texts} if phonemes else word_labels(texts)
        labels = labels if texts else {}
        write_subset(output_dir, name, (output_dir / "audio").absolute(), files, labels)
        characters[subset] = set(" ".join(texts).split() if phonemes else "".join(texts)) - {" "}
        if texts and subset == "train":
            write_dictionary(output_dir / f"dict.{units}.txt", labels[units])
    if "train" not in characters:
        print(f"note: train is empty, hence no dict.{units}.txt; use that of the training set")
    elif unseen := set().union(*characters.values()) - characters["train"]:
        print(f"note: {' '.join(sorted(unseen))} occur in valid or test, but never in train")


def cpu_variable() -> dict[str, object]:
    """The variable that a recipe needs where there is no GPU."""
    import torch

    return {} if torch.cuda.device_count() else {"CPU": "true"}


def batch_variables(samples: int) -> dict[str, object]:
    """Variables with which scripts/pretrain_base.sh runs on this machine, for so many samples.

    It takes 64 batches for an update; of little audio there are fewer.
    """
    import torch

    fitting = max(1, samples // 1_400_000 // 2)
    batches = min(64, fitting)
    gpus = torch.cuda.device_count()
    processes = gpus if gpus and batches % gpus == 0 else 1
    return {
        **cpu_variable(),
        "NUM_GPUS": processes,
        "UPDATE_FREQ": batches // processes,
        "NUM_CONCAT_BATCHES": 1,
        **({"BATCHES_PER_UPDATE": batches} if fitting < 64 else {}),
    }


def print_dry_run(
    recordings: Sequence[Utterance], cleaned: Sequence[Utterance], skipped: Sequence[Skipped]
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


class Options(NamedTuple):
    """All flags, by group."""

    source: SourceOptions
    tables: TableOptions
    transcripts: TranscriptOptions
    cleanup: CleanupOptions
    selection: SelectionOptions
    segments: SegmentOptions
    work: WorkOptions

    @property
    def phonemes(self) -> bool:
        """Whether transcripts are symbols, not words."""
        return self.source.units == "phonemes"


def parse_options() -> Options:
    """The options of the command line."""
    parser = ArgumentParser("utils.data.import_corpus", __doc__)
    classes = Options.__annotations__.values()
    for cls in classes:
        add_flags(parser, cls, without=("drop_pattern",))
    # People repeat this flag; of a repeated ordinary flag, only the last values would count.
    text = field_help(CleanupOptions)["drop_pattern"]
    repeated = {"action": "extend", "nargs": "*", "default": argparse.SUPPRESS}
    parser.add_argument("--drop_pattern", metavar="REGEX", help=text, **repeated)
    namespace = parser.parse_args()
    return Options(*(from_flags(cls, namespace) for cls in classes))


def settings_of(options: Options) -> dict[str, Any]:
    """The flags that a second run into the same folder must share, as they are recorded."""
    settings = {
        **asdict(options.source),
        **asdict(options.tables),
        **asdict(options.transcripts),
        **asdict(options.selection),
    }
    if options.segments.segment:
        checkpoint = options.segments.checkpoint
        checkpoint = checkpoint and os.path.abspath(checkpoint)
        settings |= {**asdict(options.segments), "checkpoint": checkpoint}
    for flag in ("output_dir", "allow_pipes"):  # the second run may run them
        del settings[flag]
    # The next run may start in another folder.
    for flag in ("table", "audio_dir", "lhotse", "audio_root", "audio_tars"):
        settings[flag] = settings[flag] and os.path.abspath(settings[flag])
    return json.loads(json.dumps(settings))


def prepare_output(options: Options, output_dir: Path) -> bool:
    """Create the folders and record the settings; whether there was nothing before.

    UserError if the folder holds something else.
    """
    if any(character in options.source.output_dir for character in "\t\r\n"):
        raise UserError(
            f"--output_dir {options.source.output_dir!r}: must not hold tabs or line breaks"
        )
    settings = settings_of(options)
    fresh = not (output_dir.exists() and any(output_dir.iterdir()))
    if not was_made_with(settings, output_dir, "import_settings.json", "import"):
        prepare_folder("--output_dir", output_dir)
    prepare_folder("--output_dir", output_dir / "audio")
    # Flags of the transcripts may change: the audio stays, the labels are written again.
    recorded = {**settings, **asdict(options.cleanup)}
    write_json(output_dir / "import_settings.json", recorded)
    return fresh


def write_notes(output_dir: Path, noted: Sequence[Skipped]) -> None:
    """Write notes.jsonl, if there are notes, and print what they are."""
    print_counts("note", noted)
    listed = output_dir / "notes.jsonl"
    listed.unlink(missing_ok=True)
    if noted:
        fields = ("where", "source", "reason", "detail")
        lines = ({name: getattr(entry, name) for name in fields} for entry in noted)
        write_lines(listed, (json.dumps(line, ensure_ascii=False) for line in lines))
        print(f"all that was noted, and imported: {listed}")


def print_training(options: Options, samples: int, recommended: Mapping[str, int]) -> None:
    """Print the recipe that trains on the data set, with `samples` in its training set."""
    output_dir, prefix = Path(options.source.output_dir), options.selection.prefix
    variables: dict[str, object] = {
        "TRAIN_SUBSET": f"{prefix}train",
        "VALID_SUBSET": f"{prefix}valid",
    }
    if not all((output_dir / f"{subset}.tsv").exists() for subset in variables.values()):
        return
    if any(output_dir.glob("dict.*.txt")):
        recipe = "scripts/finetune_own.sh"
        variables |= {"LABELS": "phn"} if options.phonemes else {}
        variables["PRETRAINED_MODEL"] = MULTILINGUAL
        machine = cpu_variable()
    else:
        recipe = "scripts/pretrain_base.sh"
        variables |= recommended
        machine = batch_variables(samples)
    where = {"DATASET_DIR": output_dir, "OUTPUT_DIR": f"results/{output_dir.absolute().name}"}
    print_next_step(f"bash {recipe}", **machine, **where, **variables)
    print("docs/finetune_your_own.md: the whole path, other checkpoints, and a plan beforehand")


class Transcripts(NamedTuple):
    """What the clean-up of a corpus gave."""

    kept: list[Utterance]
    refused: list[Skipped]
    notes: tuple[int, Counter[str], str, Counter[str]]
    """The arguments of print_clean_up."""


def check_transcripts(recordings: Sequence[Utterance], options: Options) -> Transcripts:
    """Clean all transcripts, or check their symbols; UserError if a speaker is in two subsets."""
    taken: Counter[str] = Counter()
    if options.phonemes:
        kept, refused = check_symbols(recordings)
    else:
        kept, refused = clean_transcripts(recordings, options.cleanup, taken)
    if not options.source.allow_shared_speakers:  # before hours of conversion
        check_speakers(Member(u.id, u.key, u.speaker, split=u.split) for u in kept if u.split)
    spells = options.cleanup.digits == "spell" and not options.phonemes
    language = options.cleanup.language if spells else "none"
    notes = count_digits(recordings), count_spaceless(recordings), language, taken
    return Transcripts(kept, refused, notes)


def report(
    options: Options,
    kept: Sequence[tuple[Utterance, Converted]],
    subsets: Mapping[str, str],
    skipped: Sequence[Skipped],
    noted: Sequence[Skipped],
    total: int,
) -> None:
    """Write corpus.json and corpus.html of the data set, and print what counts and what is next."""
    output_dir = Path(options.source.output_dir)
    about = {"licence": options.work.licence, "origin": options.work.origin}
    summary = summarise(kept, subsets, skipped, noted, about)
    write_json(output_dir / "corpus.json", summary)
    page = write_page(output_dir)
    print_summary(summary, output_dir / "corpus.json", page)
    seconds = sum(result.samples for _, result in kept) / SAMPLE_RATE
    print(f"{output_dir}: {len(kept)} of {total} recordings, {seconds / 3600:.3f} h")
    samples = sum(result.samples for u, result in kept if subsets[u.id] == "train")
    print_training(options, samples, summary["recommended"])


@stopped_by_signals("run the import again to resume it")
def main() -> ExitCode:
    options = parse_options()
    selection, work = options.selection, options.work
    found, bad = read_source(options.source, options.tables, options.transcripts)
    recordings = unique_ids(found)
    skipped = [
        Skipped(
            *map(printable, (b.where, b.source, b.reason, b.detail)), b.reason not in NO_FAILURE
        )
        for b in bad
    ]
    cleaned, refused, clean_up = check_transcripts(recordings, options)
    if work.dry_run:
        print_dry_run(recordings[: work.dry_run], cleaned, refused)
        print_counts("skipped", skipped)
        print_clean_up(*clean_up)
        return ExitCode.DONE

    del found, recordings, bad  # of a large corpus they take much memory
    output_dir = Path(options.source.output_dir)
    audio_dir = output_dir / "audio"
    fresh = prepare_output(options, output_dir)
    bounds = Bounds(selection.min_seconds, selection.max_seconds)
    lengths = bounds.least, bounds.most
    cut, uncut, hard_cuts = segment_all(cleaned, options.segments, lengths, audio_dir, work.workers)
    cut = unique_ids(cut)
    results = convert_all(cut, output_dir, work.workers, bounds)
    kept, unusable = select(cut, results, selection, audio_dir, options.phonemes)
    skipped += refused + uncut + unusable
    total = len(kept) + len(skipped)
    listed = output_dir / "skipped.jsonl"
    write_lines(listed, (json.dumps(asdict(entry), ensure_ascii=False) for entry in skipped))
    if not kept:
        if fresh:  # the corrected command finds an empty folder
            shutil.rmtree(output_dir)
        what = f"none of {total} recordings can be used"
        raise UserError(nothing_usable(what, total, skipped))
    subsets = assign_subsets(kept, selection, options.source.allow_shared_speakers)
    samples = [(u, result.samples) for u, result in kept]
    write_data_set(samples, subsets, output_dir, selection.prefix, options.phonemes)
    print_clean_up(*clean_up)
    print_counts("skipped", skipped)
    if skipped:
        print(f"all that was skipped: {listed}")
    noted = [
        Skipped.of(recording, kind, detail, failed=False)
        for recording, result in kept
        for kind, detail in result.notes.items()
    ] + hard_cuts
    write_notes(output_dir, noted)
    report(options, kept, subsets, skipped, noted, total)
    return ExitCode.SOME_FAILED if skipped else ExitCode.DONE


if __name__ == "__main__":
    run_command(main)
