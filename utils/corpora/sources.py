"""The utterances to import: of a table, a public corpus, or a folder of audio."""

import glob
import itertools
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from utils.corpora.containers.command import KIND as COMMAND
from utils.corpora.containers.nemo import is_tarred, read_tarred
from utils.corpora.containers.tar import SUFFIXES as TAR_SUFFIXES
from utils.corpora.containers.tar import expand
from utils.corpora.containers.webdataset import read_shards
from utils.corpora.layouts import (
    LAYOUTS,
    corpora_in,
    corpus_below,
    has_transcripts,
    layout_of,
    read_ljspeech,
    read_timit_phonemes,
    read_with_transcripts,
)
from utils.corpora.rows import BadRow, Row, Rows, subset_named, subset_of_folders
from utils.corpora.tables import TableOptions, first_path, format_of, read_table
from utils.corpora.timed_text import BY_DEFAULT, TranscriptOptions, read_stm
from utils.corpora.toolkits.lhotse import is_manifest, read_lhotse
from utils.corpus_report.skips import ADVICE, NO_ADVICE, nothing_usable
from wav2vec2.audio.decode import count_channels
from wav2vec2.audio.recordings import AVERAGE, EACH, Recording, parse_channel, recordings_below
from wav2vec2.audio.source import printable, recording_key
from wav2vec2.cli.errors import UserError

LHOTSE = "lhotse"
TABLES = ("tsv", "csv", "jsonl", "json", "stm", "parquet", "arrow", "webdataset", LHOTSE)
BESIDE, AUDIO = "transcripts", "audio"
ARCHIVES = (".zip", ".7z", ".rar")
ALLOW_PIPES = "a command in place of a path; --allow_pipes runs it in the shell"
NO_FAILURE = ("no transcript", "named twice", "split")
"""Reasons for which a row is left out although its file can be used."""


@dataclass(frozen=True)
class SourceOptions:
    """Where the recordings are"""

    output_dir: str
    """Folder to create: audio/, filelists, labels, dictionary, report."""
    table: str = ""
    """Table of audio paths and transcripts: .tsv, .csv, .jsonl or .json, also .gz, or .stm; or with
    the audio inside: .parquet, .arrow, WebDataset's .tar.  Quoted, 'shard-{000..011}.tar' or
    'train-*.parquet' names several."""
    audio_dir: str = ""
    """Folder of a corpus whose format is known, or of audio with or without transcripts beside it
    (instead of --table)."""
    lhotse: str = ""
    """Lhotse's manifest of cuts, recordings or supervisions, or a folder of them, such as Shar
    (instead of --table)."""
    format: str = "auto"
    """Format of the table (tsv, csv, jsonl, json, stm, parquet, arrow, webdataset, lhotse) or the
    folder: kaldi, mls, commonvoice, voxpopuli, an4, vctk, fsdd, audiofolder, ljspeech, librispeech,
    tedlium, timit, voxforge, librilight, lhotse, nemo, parquet, arrow, webdataset, tables,
    transcripts (beside each recording), audio (alone); auto recognises it."""
    audio_root: str = ""
    """Folder that relative paths in the table or manifest start from; default: its own, or its
    clips folder."""
    split: Literal["", "train", "valid", "test"] = ""
    """Subset of all recordings; default: as the corpus says, else drawn."""
    speaker_pattern: str = ""
    """Regular expression that finds the speaker in an audio path below --audio_dir or --audio_root,
    as its first group, such as "^(.+?)/"; default: as the corpus says."""
    units: Literal["words", "phonemes"] = "words"
    """Transcripts are words; or symbols between spaces, which no clean-up changes, and which become
    the labels .phn.  Of timit, the phonemes."""
    allow_shared_speakers: bool = False
    """Accept a split in which a speaker is in several subsets."""
    allow_pipes: bool = False
    """Run the commands that wav.scp or a Lhotse manifest has in place of files, in the shell.  They
    may do anything that you may: read them first."""
    channel: str = AVERAGE
    """average of all channels; or the number of one, from 1; or each (for audio without
    transcripts): every channel becomes a recording, for a speaker per channel."""

    def __post_init__(self) -> None:
        parse_channel(self.channel)
        try:
            groups = re.compile(self.speaker_pattern).groups if self.speaker_pattern else 1
        except re.error as error:
            reason = f"not a regular expression ({error})"
            raise UserError(f"--speaker_pattern {self.speaker_pattern!r}: {reason}") from None
        if not groups:
            raise UserError(
                f"--speaker_pattern {self.speaker_pattern!r}: has no group; put the speaker in ()"
            )
        if sum(map(bool, (self.table, self.audio_dir, self.lhotse))) != 1:
            raise UserError("give one of --table, --audio_dir and --lhotse")
        kind = "--table" if self.table else "--audio_dir" if self.audio_dir else "--lhotse"
        formats = {"--table": TABLES, "--audio_dir": (*LAYOUTS, BESIDE, AUDIO)}
        known = ("auto", *formats.get(kind, (LHOTSE,)))
        if self.format not in known:
            raise UserError(
                f"--format {self.format}: not for {kind}, which takes {', '.join(known)}"
            )
        if self.audio_dir and self.audio_root:
            raise UserError("--audio_root: describes a --table, but --audio_dir is given")
        if not self.audio_dir and self.channel == EACH:
            raise UserError(
                f"--channel each: a row of {kind} has one transcript for all channels; choose "
                "average or a channel's number"
            )


@dataclass(frozen=True, slots=True)
class Utterance(Recording):
    """A recording to import, or a piece of one."""

    start: float = 0.0
    """Where it begins in the file, in seconds."""
    end: float | None = None
    """Where it ends; None: at the end of the file."""
    declared: float | None = None
    """Length of the whole file, in seconds, that the corpus declares."""
    group: str = ""
    """What must stay in one subset beside the speaker."""
    member: str = ""
    """Which recording of `source`, if that is a container."""


def read_source(
    options: SourceOptions, tables: TableOptions, transcripts: TranscriptOptions = BY_DEFAULT
) -> tuple[list[Utterance], list[BadRow]]:
    """The utterances of a table or folder, and the rows that name none.

    UserError if the source as a whole cannot be read.
    """
    given = [f"--{name}" for name, value in asdict(tables).items() if value]
    if options.table:
        root = _table_root(options, tables)
        rows = _rows_of_table(root, options, tables)
    elif options.lhotse:
        if given:
            raise UserError(f"{given[0]}: describes a --table, but --lhotse is given")
        path = Path(os.path.abspath(options.lhotse))
        if not path.exists():
            raise UserError(f"--lhotse {path}: no such file or folder; name a manifest of cuts")
        root = path if path.is_dir() else path.parent
        rows = read_lhotse(path, _audio_root(options))
    else:
        root = Path(os.path.abspath(options.audio_dir))
        if root.is_file():
            _refuse_archive("--audio_dir", root)
            raise UserError(f"--audio_dir {root}: is a file; name it with --table")
        if not root.is_dir():
            raise UserError(f"--audio_dir {root}: no such folder; name the folder of recordings")
        recognised = layout_of(corpus_below(root)) if options.format == "auto" else options.format
        tabular = recognised in LAYOUTS and LAYOUTS[recognised].tabular
        if given and not tabular:
            raise UserError(f"{given[0]}: describes a --table, but --audio_dir is given")
        name, root = _folder_format(options, root, transcripts)
        if name == AUDIO:
            return _audio_alone(options, root), []
        if options.channel == EACH:
            raise UserError(
                "--channel each: a transcript is of all channels; choose average, a channel's "
                "number, or --format audio for audio alone"
            )
        if name == BESIDE:
            files = (recording.source for recording in _audio_alone(options, root))
            rows = read_with_transcripts(files, root, transcripts)
        elif name == "timit" and options.units == "phonemes":
            rows = read_timit_phonemes(root)
        else:
            rows = LAYOUTS[name].read(root, *([tables] if tabular else []))
    found, bad = _utterances(rows, root, options)
    if not found:
        raise _nothing_found(options, root, bad)
    return found, bad


def _nothing_found(options: SourceOptions, root: Path, bad: list[BadRow]) -> UserError:
    """The error of a source without a single utterance."""
    none = f"none of {len(bad)} rows names a recording"
    if len({row.reason for row in bad}) == 1:
        keep = ADVICE.get(bad[0].reason, NO_ADVICE)
        return UserError(f"{bad[0].where}: {bad[0].detail}; {none} ({keep})")
    if bad:
        return UserError(nothing_usable(none, len(bad), bad))
    if options.table:
        return UserError(
            f"--table {options.table}: names no recordings; write a header line and one line "
            "per recording"
        )
    if options.lhotse:
        return UserError(
            f"--lhotse {options.lhotse}: names no recordings; name a manifest such as "
            "cuts.jsonl.gz, or a folder of some"
        )
    asked = "" if options.format == "auto" else f" of format {options.format}"
    return UserError(f"--audio_dir {root}: holds no utterances{asked}; --format names another")


def _audio_root(options: SourceOptions) -> Path | None:
    return Path(os.path.abspath(options.audio_root)) if options.audio_root else None


def _table_root(options: SourceOptions, tables: TableOptions) -> Path:
    """Where relative paths of a table start."""
    table = Path(os.path.abspath(options.table))
    if root := _audio_root(options):
        return root
    clips = table.parent / "clips"
    if not clips.is_dir():
        return table.parent
    # Common Voice's paths start in its clips folder, those of others beside it.
    format = "" if options.format == "auto" else options.format
    first = Path(first_path(table, format, tables))
    return table.parent if first.parts[:1] == ("clips",) else clips


def _refuse_archive(flag: str, path: Path) -> None:
    """UserError for an archive that no reader takes."""
    if path.suffix.lower() in ARCHIVES:
        raise UserError(
            f"{flag} {path}: an archive; unpack it and name its folder with --audio_dir"
        )


def _named_tables(pattern: str) -> list[str]:
    """The files of --table: one, or those of a pattern such as {0..9}.tar or train-*.parquet."""
    if os.path.exists(pattern):
        return [pattern]
    names = []
    for name in expand(pattern):
        is_wildcard = not os.path.exists(name) and glob.has_magic(name)
        names += sorted(glob.glob(name)) if is_wildcard else [name]
    if not names:
        raise UserError(f"--table {pattern}: no file has such a name; correct the pattern")
    return names


def _rows_of_table(root: Path, options: SourceOptions, tables: TableOptions) -> Rows:
    names = [Path(name) for name in _named_tables(options.table)]
    is_tar = options.table.lower().endswith(TAR_SUFFIXES)
    if options.format == "webdataset" or (options.format == "auto" and is_tar):
        return read_shards(names, tables)
    splits = [subset_named(name.name) for name in names]
    if options.split or len(names) == 1 or not all(splits):
        splits = [options.split] * len(names)
    return itertools.chain.from_iterable(
        _rows_of(name, root, split, options, tables) for name, split in zip(names, splits)
    )


def _rows_of(
    table: Path, root: Path, split: str, options: SourceOptions, tables: TableOptions
) -> Rows:
    _refuse_archive("--table", table)
    format = "" if options.format == "auto" else options.format
    if format == "stm" or (not format and table.suffix.lower() == ".stm"):
        return read_stm(table, root, split)
    if format == LHOTSE or (not format and is_manifest(table)):
        return read_lhotse(Path(os.path.abspath(table)), _audio_root(options))
    described = tables.columns or tables.delimiter or tables.audio_column or options.audio_root
    if table.name == "metadata.csv" and not described and layout_of(table.parent) == "ljspeech":
        return read_ljspeech(table.parent)
    if not format and not format_of(table):
        raise UserError(f"--table {table}: unknown suffix; give --format {', '.join(TABLES)}")
    if is_tarred(table, root, format, tables):
        return read_tarred(table, tables, format)
    return read_table(table, root, tables, format, split)


def _folder_format(
    options: SourceOptions, root: Path, transcripts: TranscriptOptions
) -> tuple[str, Path]:
    """The format of a folder, and the folder that holds the corpus."""
    if transcripts.transcript_suffix and options.format == "auto":
        return BESIDE, root
    below = corpus_below(root)
    if options.format != "auto":
        return options.format, below if layout_of(below) == options.format else root
    if name := layout_of(below):
        print(f"format: {name} (found {LAYOUTS[name].marks}); --format names another")
        return name, below
    if has_transcripts([recording.source for recording in _audio_alone(options, root)]):
        print("format: transcripts beside the recordings; --format audio ignores them")
        return BESIDE, root
    for inside, name in corpora_in(root).items():
        print(f"note: {root / inside} has transcripts (format {name}), which are not read: name it")
    return AUDIO, root


def _audio_alone(options: SourceOptions, root: Path) -> list[Utterance]:
    """The audio files below a folder, without hidden ones and those in --output_dir.

    Its folders tell the subsets if they do so for all.
    """
    output_dir = Path(os.path.abspath(options.output_dir))
    try:
        found = recordings_below(root, f"--audio_dir {printable(root)}", without=output_dir)
    except UserError:
        for path in sorted(root.rglob("*")):
            _refuse_archive("--audio_dir: no audio, but", path)
        raise
    channel = parse_channel(options.channel)
    folders = (r.source.relative_to(root).parts[:-1] for r in found)
    splits = [subset_of_folders(parts, strict=True) for parts in folders]
    if options.split or not all(splits):
        splits = [options.split] * len(found)
    utterances = [
        Utterance(
            *(r.id, r.key, r.source, r.where),
            speaker=_speaker(r.source, root, options),
            split=split,
            channel=channel,
        )
        for r, split in zip(found, splits)
    ]
    if options.channel == EACH:
        return [channel for recording in utterances for channel in split_channels(recording)]
    return utterances


def _speaker(source: Path, root: Path, options: SourceOptions) -> str:
    """The speaker that --speaker_pattern finds in a path below the root; "" if it finds none."""
    if not options.speaker_pattern:
        return ""
    name = str(source.relative_to(root) if source.is_relative_to(root) else source)
    found = re.search(options.speaker_pattern, name)
    return (found[1] or "") if found else ""


def split_channels(recording: Utterance) -> list[Utterance]:
    """A recording of each channel; all have the same key, so that they are in the same subset."""
    try:
        channels = count_channels(recording.source)
    except UserError:
        return [recording]  # its conversion reports the error
    return [
        replace(
            recording,
            id=f"{recording.id}_channel{n}",
            where=f"{recording.where} (channel {n})",
            channel=n,
        )
        for n in range(1, channels + 1)
    ]


def _existing(path: Path) -> Path:
    """A path as the file system spells it: composed or decomposed letters."""
    if os.path.exists(path):  # unlike pathlib, false for a name that is too long
        return path
    for form in ("NFC", "NFD"):
        for other in (
            path.parent / unicodedata.normalize(form, path.name),
            Path(unicodedata.normalize(form, str(path))),
        ):
            if os.path.exists(other):
                return other
    return path


def _utterances(
    rows: Iterable[Row | BadRow], root: Path, options: SourceOptions
) -> tuple[list[Utterance], list[BadRow]]:
    """Utterances of the rows, without those that name the same audio a second time."""
    good: list[Row] = []
    bad: list[BadRow] = []
    first: dict[tuple, str] = {}
    for row in rows:
        checked = row if isinstance(row, BadRow) else _checked(row, root, options, first)
        (bad if isinstance(checked, BadRow) else good).append(checked)
    if any(row.text is not None for row in good):  # a data set is transcribed or audio alone
        bad += [
            BadRow(row.where, str(row.audio), "no transcript", "audio alone beside transcripts")
            for row in good
            if row.text is None
        ]
        good = [row for row in good if row.text is not None]
    channel = parse_channel(options.channel)
    keys = _keys(good, root)
    found = []
    named: dict[str, str] = {}
    once: dict[str, str] = {}
    """Names that many rows have: each is kept once."""
    for row in good:
        key = _key(row, keys, named)
        if isinstance(key, BadRow):
            bad.append(key)
            continue
        found.append(
            Utterance(
                id=key,
                key=key,
                source=row.audio,
                where=printable(row.where),
                text=row.text,
                speaker=once.setdefault(row.speaker, row.speaker),
                split=options.split or row.split,
                channel=row.channel if row.channel is not None else channel,
                start=row.start,
                end=row.end,
                declared=row.declared,
                group=once.setdefault(row.group, row.group),
                member=row.member,
            )
        )
    return _with_recordings(found), bad


def _checked(row: Row, root: Path, options: SourceOptions, first: dict[tuple, str]) -> Row | BadRow:
    """The row with the path and the speaker that count, or why it cannot be used.

    `first` keeps where each piece of audio was named.
    """
    if row.member.startswith(f"{COMMAND}:") and not options.allow_pipes:
        return BadRow(row.where, row.member.partition(":")[2], COMMAND, ALLOW_PIPES)
    end = math.inf if row.end is None else row.end
    if not 0 <= row.start < end or math.inf in (row.start, row.end):
        detail = f"{row.start} to {row.end} s is no piece of a recording"
        return BadRow(row.where, str(row.audio), "time", detail)
    plain = os.path.normpath(row.audio)
    source = _existing(row.audio if plain == str(row.audio) else Path(plain))
    piece = (str(source), row.member, row.start, row.end, row.channel)
    if piece in first:
        detail = f"named a second time, first in {first[piece]}"
        return BadRow(row.where, str(source), "named twice", detail)
    first[piece] = row.where
    if not options.speaker_pattern:
        return replace(row, audio=source)
    speaker = _speaker(source, root, options)
    if not speaker:
        detail = f"--speaker_pattern {options.speaker_pattern!r} finds none in its path"
        return BadRow(row.where, str(source), "no speaker", detail)
    return replace(row, audio=source, speaker=speaker)


def _key(row: Row, keys: Mapping[tuple[Path, str], str], named: dict[str, str]) -> str | BadRow:
    """The key of a row's utterance: its own name, or its recording's with start and channel.

    `named` keeps where each was given.
    """
    if row.id:
        key = recording_key(Path(f"{row.id}.wav"), Path())
        if key in named:
            detail = f"the id {row.id} is also that of {named[key]}"
            return BadRow(row.where, str(row.audio), "id named twice", detail)
        named[key] = row.where
        return key
    key = keys[row.audio, row.member]
    is_piece = row.start > 0 or row.end is not None
    key += f"_{round(1000 * row.start):07d}" if is_piece else ""
    key += f"_channel{row.channel}" if row.channel is not None else ""
    if is_piece and key in named:  # another that begins there
        key += "_end" if row.end is None else f"_{round(1000 * row.end):07d}"
        if key in named:
            detail = f"less than a millisecond from {named[key]}"
            return BadRow(row.where, str(row.audio), "named twice", detail)
    if is_piece:
        named[key] = row.where
    return key


def _with_recordings(utterances: list[Utterance]) -> list[Utterance]:
    """Pieces of one recording in one group, since they share voices that no speaker names.

    Not those of one or two recordings, from which no subsets could be made.
    """
    if len({(u.source, u.member) for u in utterances}) < 3:
        return utterances
    one_voice = len({u.speaker for u in utterances}) == 1
    return [
        replace(u, group=f"{u.source}{u.member}")
        if (u.start > 0 or u.end is not None) and not u.group and (one_voice or not u.speaker)
        else u
        for u in utterances
    ]


def _keys(rows: Iterable[Row], root: Path) -> dict[tuple[Path, str], str]:
    """(audio, member) -> key of each recording.

    A member has the name that its container gives it; its container's name is added if another
    recording has the same, and its number if several of its container have.
    """
    keys: dict[tuple[Path, str], str] = {}
    names: dict[tuple[Path, str], Path] = {}
    for row in rows:
        if row.member:
            parts = (part for part in row.name.split("/") if part not in ("", ".", ".."))
            name = Path(("/".join(parts) or row.audio.stem) + ".member")
            names[row.audio, row.member] = name
            keys[row.audio, row.member] = recording_key(name, Path())
        else:
            keys[row.audio, ""] = recording_key(row.audio, root)
    uses = Counter(keys.values())
    shared = [recording for recording in names if uses[keys[recording]] > 1]
    for audio, member in shared:
        container = audio.with_suffix("") if audio.is_file() else audio
        keys[audio, member] = recording_key(container / names[audio, member], root)
    uses = Counter(keys.values())
    numbers: Counter[str] = Counter()
    for recording in shared:
        key = keys[recording]
        if uses[key] > 1:
            numbers[key] += 1
            keys[recording] = f"{key}_{numbers[key]}"
    return keys
