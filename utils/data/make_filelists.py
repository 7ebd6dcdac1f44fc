"""Write filelists and labels for a corpus in LibriSpeech's layout.

    python -m utils.data.make_filelists --corpus_dir CORPUS --subsets dev-clean dev-other

Writes for each subset `<subset>.tsv` (audio files and their lengths), `.wrd` (words) and `.ltr`
(letters), and on request `dict.ltr.txt`.  Reads and checks everything before it writes anything.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import soundfile

from utils.data.next_step import print_training_step
from wav2vec2.audio.decode import UNKNOWN_LENGTH
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import UserError, run_command
from wav2vec2.cli.flags import parse_options
from wav2vec2.cli.progress import progress
from wav2vec2.cli.stderr import silent_stderr
from wav2vec2.files.filelists import Manifest, Utterance, write_manifest
from wav2vec2.files.folders import files_below, require_no_pipe
from wav2vec2.files.output import write_lines
from wav2vec2.files.text import split_lines
from wav2vec2.text.vocabulary import WORD_END, letters, refuse_reserved, write_dictionary

TRANSCRIPT_EXAMPLE = "'84-121123-0000 GO DO YOU HEAR'"
TRANSCRIPTS = ".trans.txt"
"""Ends of the names of a subset's files."""
FETCH_AGAIN = "download the archive again, or remove what is damaged"


@dataclass(frozen=True)
class FilelistOptions:
    """Filelists"""

    corpus_dir: str
    """Folder that holds the subsets' folders."""
    subsets: tuple[str, ...]
    """Subsets to list."""
    output_dir: str = ""
    """Folder to write to; the corpus folder if empty."""
    extension: Literal["flac", "wav"] = "flac"
    """Ending of the recordings' names."""
    combine: tuple[str, ...] = ()
    """Lists of several subsets together, like train-full-960=train-clean-100,train-..."""
    dictionary_from: str = ""
    """Subset or combined list whose letters form dict.ltr.txt; no dictionary if empty."""

    def __post_init__(self) -> None:
        if not self.subsets:
            raise UserError("--subsets: names none; give folders in --corpus_dir")
        names = (*self.subsets, *(text.partition("=")[0] for text in self.combine))
        for name, count in Counter(names).items():
            if count > 1:
                raise UserError(
                    f"{name}: named {count} times in --subsets and --combine; name it once"
                )


@dataclass(frozen=True)
class Entry:
    """One utterance of a subset."""

    path: str
    """Relative to the root of its filelist."""
    samples: int
    words: str


def read_transcripts(files: Iterable[Path]) -> dict[str, tuple[str, str]]:
    """Utterance id -> (words, file:line), from every file `*.trans.txt`."""
    transcripts: dict[str, tuple[str, str]] = {}
    for path in files:
        try:
            require_no_pipe(path)
            lines = split_lines(path.read_bytes().decode())
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"{path}: cannot be read as UTF-8 text ({error}); {FETCH_AGAIN}"
            ) from None
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            key, _, words = line.partition(" ")
            if not key or not words.strip() or "\t" in line or WORD_END in words:
                raise UserError(
                    f"{path}:{number}: expected '<utterance-id> TRANSCRIPT' like "
                    f"{TRANSCRIPT_EXAMPLE}, without tab or '{WORD_END}', got {line!r}"
                )
            refuse_reserved(words, f"{path}:{number}", key)
            if key in transcripts:
                raise UserError(
                    f"{path}:{number}: utterance id {key!r} is also in {transcripts[key][1]}; "
                    "remove one"
                )
            transcripts[key] = (" ".join(words.split()), f"{path}:{number}")
    return transcripts


def read_length(path: Path) -> int:
    """Samples of an audio file, from its header; UserError if it cannot be trained on."""
    try:
        require_no_pipe(path)
        if path.stat().st_size == 0:
            raise UserError(f"{path}: the file is empty; {FETCH_AGAIN}")
        with silent_stderr(), soundfile.SoundFile(os.fsencode(path)) as file:  # names of any bytes
            rate, channels, samples = file.samplerate, file.channels, file.frames
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror}); {FETCH_AGAIN}") from None
    except soundfile.LibsndfileError as error:
        raise UserError(
            f"{path}: not decodable audio ({error.error_string}); {FETCH_AGAIN}"
        ) from None
    if rate != SAMPLE_RATE or channels != 1:
        raise UserError(
            f"{path}: {rate} Hz, {channels} channels; needs {SAMPLE_RATE} Hz mono: "
            "convert the corpus with utils/data/import_corpus.py"
        )
    if samples in (0, UNKNOWN_LENGTH):
        raise UserError(f"{path}: its header gives no number of samples; {FETCH_AGAIN}")
    return samples


def first_few(ids: Sequence[str]) -> str:
    """The first three ids, for messages."""
    return ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")


def unique_by_stem(files: Iterable[Path]) -> dict[str, Path]:
    """Utterance id -> audio file; UserError if two files share an id."""
    stems: dict[str, Path] = {}
    for path in files:
        if path.stem in stems:
            raise UserError(
                f"{path}: utterance id {path.stem!r} is also that of {stems[path.stem]}; remove or "
                "rename one, ids must be unique within a filelist"
            )
        stems[path.stem] = path
    return stems


def subset_folder(corpus_dir: Path, subset: str) -> Path:
    """The folder of a subset; UserError, naming the folders there are, if it is missing."""
    folder = corpus_dir / subset
    if not folder.is_dir():
        found = sorted(p.name for p in corpus_dir.glob("*") if p.is_dir())
        raise UserError(
            f"{folder}: no such subset; {corpus_dir} holds {', '.join(found) or 'no folder'}: "
            "download it with scripts/download_data.sh or name another"
        )
    return folder


def read_subset(folder: Path, extension: str = "flac") -> list[Entry]:
    """A subset's utterances, sorted by path, paired with their transcripts by id."""
    subset = folder.name
    found = files_below(folder, lambda name: name.endswith((f".{extension}", TRANSCRIPTS)))
    files = [path for path in found if path.suffix == f".{extension}"]
    if not files:
        raise UserError(
            f"{folder}: holds no .{extension} file; run scripts/download_data.sh, or name another "
            "--extension"
        )
    stems = unique_by_stem(files)
    transcripts = read_transcripts(path for path in found if path.name.endswith(TRANSCRIPTS))
    if lacking := [key for key in stems if key not in transcripts]:
        raise UserError(
            f"{stems[lacking[0]]}: no transcript; {len(lacking)} of {len(stems)} files of {subset} "
            f"have no line like {TRANSCRIPT_EXAMPLE} in a .trans.txt ({first_few(lacking)}): "
            f"{FETCH_AGAIN}"
        )
    if lacking := [key for key in transcripts if key not in stems]:
        raise UserError(
            f"{transcripts[lacking[0]][1]}: no audio file of this id; {len(lacking)} of "
            f"{len(transcripts)} transcripts of {subset} have none ({first_few(lacking)}): "
            f"{FETCH_AGAIN}"
        )
    with ThreadPoolExecutor(8) as pool:  # reading headers waits for the disk, not for Python
        lengths = progress(pool.map(read_length, files), len(files), subset)
        return [
            Entry(str(path.relative_to(folder)), samples, transcripts[path.stem][0])
            for samples, path in zip(lengths, files)  # in this order progress reaches its end
        ]


def parse_combinations(texts: Sequence[str], subsets: Sequence[str]) -> dict[str, list[str]]:
    """`name=a,b` -> {name: [a, b]}; UserError for a part that is not among `subsets`."""
    combinations = {}
    for text in texts:
        name, equals, parts = text.partition("=")
        if not name or not equals or not parts:
            raise UserError(f"--combine {text}: write it like train-full-960=train-a,train-b")
        combinations[name] = parts.split(",")
        missing = [part for part in combinations[name] if part not in subsets]
        if missing:
            raise UserError(f"--combine {text}: {missing[0]} is not among --subsets; add it")
    return combinations


def check_writable(folder: Path) -> None:
    """UserError if files cannot be created in `folder`: known before an hour of reading."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(
            f"--output_dir {folder}: {existing} is not a folder that can be written; choose another"
        )


def word_labels(transcripts: Sequence[str]) -> dict[str, Sequence[str]]:
    """Extension -> label lines: words (`wrd`) and letters (`ltr`)."""
    return {"wrd": transcripts, "ltr": [letters(words) for words in transcripts]}


def write_subset(
    folder: str | Path,
    subset: str,
    root: Path,
    files: Sequence[tuple[str, int]],
    labels: Mapping[str, Sequence[str]],
) -> None:
    """Write `<subset>.tsv` and one file per kind of labels, and print the subset's size.

    `files`: (path relative to `root` or absolute, samples); `labels`: extension -> lines.
    """
    path = write_manifest(folder, subset, root, files)
    for extension, lines in labels.items():
        write_lines(path.with_suffix(f".{extension}"), lines)
    hours = sum(samples for _, samples in files) / SAMPLE_RATE / 3600
    print(f"{path}: {len(files)} utterances, {hours:.3f} h")


def write_part(
    folder: str | Path,
    subset: str,
    manifest: Manifest,
    chosen: Sequence[Utterance],
    labels: Mapping[str, Mapping[str, str]],
) -> None:
    """Write the filelist `<subset>.tsv` of some utterances of `manifest`, with their labels.

    `labels`: extension -> utterance id -> line.  Paths stay as in the source filelist: relative to
    its root, or absolute.
    """
    files = [(u.path.removeprefix(f"{manifest.root}{os.sep}"), u.samples) for u in chosen]
    lines = {kind: [by_id[u.id] for u in chosen] for kind, by_id in labels.items()}
    write_subset(folder, subset, manifest.root, files, lines)


def main() -> None:
    options = parse_options(FilelistOptions, "utils.data.make_filelists", __doc__)
    corpus_dir = Path(options.corpus_dir).absolute()
    output_dir = Path(options.output_dir or corpus_dir).absolute()
    combinations = parse_combinations(options.combine, options.subsets)
    names = [*options.subsets, *combinations]
    if options.dictionary_from and options.dictionary_from not in names:
        raise UserError(
            f"--dictionary_from {options.dictionary_from}: not among {', '.join(names)}; "
            "name one of these"
        )
    if not corpus_dir.is_dir():
        raise UserError(
            f"--corpus_dir {corpus_dir}: no such folder; name the one that holds "
            f"{', '.join(options.subsets)}"
        )
    check_writable(output_dir)

    folders = {subset: subset_folder(corpus_dir, subset) for subset in options.subsets}
    lists = {
        subset: (folder, read_subset(folder, options.extension))
        for subset, folder in folders.items()
    }
    for name, parts in combinations.items():
        entries = [
            Entry(f"{part}/{entry.path}", entry.samples, entry.words)
            for part in parts
            for entry in lists[part][1]
        ]
        unique_by_stem(Path(entry.path) for entry in entries)
        lists[name] = (corpus_dir, entries)
    for name, (root, entries) in lists.items():
        labels = word_labels([entry.words for entry in entries])
        write_subset(output_dir, name, root, [(e.path, e.samples) for e in entries], labels)
        if name == options.dictionary_from:
            write_dictionary(output_dir / "dict.ltr.txt", labels["ltr"])
            print(f"{output_dir / 'dict.ltr.txt'}: the letters of {name}")
    print_training_step(output_dir, [*combinations, *options.subsets])


if __name__ == "__main__":
    run_command(main)
