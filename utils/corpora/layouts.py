"""Public corpora as they are unpacked: which one a folder holds, and its rows."""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from utils.corpora.containers import folders
from utils.corpora.containers.parquet import column_names
from utils.corpora.rows import BadRow, Row, Rows, subset_named
from utils.corpora.tables import PLAIN, TableOptions, read_table
from utils.corpora.timed_text import (
    audio_named,
    read_beside,
    read_stm,
    row_of_text,
    transcript_beside,
)
from utils.corpora.toolkits.kaldi import data_directories, read_kaldi_folders
from utils.corpora.toolkits.lhotse import manifests_in, read_lhotse
from wav2vec2.files.folders import files_below
from wav2vec2.files.text import read_lines


def read_librispeech(folder: Path) -> Rows:
    """LibriSpeech: `<speaker>-<chapter>.trans.txt` beside the audio; subsets by folder names."""
    for path in files_below(folder, lambda name: name.endswith(".trans.txt")):
        parts = path.relative_to(folder).parts
        split = next(filter(None, map(subset_named, reversed((folder.name, *parts[:-1])))), "")
        speaker = path.name.partition("-")[0]
        for number, line in enumerate(read_lines(path), start=1):
            key, _, text = line.partition(" ")
            audio = audio_named(path.parent, key)
            yield Row(audio, f"{path}:{number}", text, speaker=speaker, split=split)


def _mls_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*/transcripts.txt") if subset_named(path.parts[-2]))


def read_mls(folder: Path) -> Rows:
    """Multilingual LibriSpeech: transcripts.txt and `audio/<speaker>/<book>/` in each subset."""
    for path in _mls_folders(folder):
        for number, line in enumerate(read_lines(path), start=1):
            key, _, text = line.partition("\t")
            speaker, _, rest = key.partition("_")
            book = rest.partition("_")[0]
            audio = audio_named(path.parent / "audio" / speaker / book, key)
            yield Row(
                audio, f"{path}:{number}", text, speaker=speaker, split=subset_named(path.parts[-2])
            )


def read_common_voice(folder: Path) -> Rows:
    """Common Voice: train.tsv, dev.tsv, test.tsv and clips/."""
    for name in ("train", "dev", "test"):
        if (table := folder / f"{name}.tsv").is_file():
            yield from read_table(table, folder / "clips", TableOptions(), split=subset_named(name))


def read_voxpopuli(folder: Path) -> Rows:
    """VoxPopuli's transcribed part: asr_train.tsv and others, audio in folders of years."""
    for name in ("train", "dev", "test"):
        table = folder / f"asr_{name}.tsv"
        if not table.is_file():
            continue
        options = TableOptions(
            audio_column="id", text_column=_first(table, "normalized_text", "raw_text")
        )
        for row in read_table(table, folder, options, split=subset_named(name)):
            if isinstance(row, Row):  # the id begins with the date
                year = row.audio.name[:4]
                place = folder / year if (folder / year).is_dir() else folder
                row = replace(row, audio=audio_named(place, row.audio.name))
            yield row


def _first(table: Path, *columns: str) -> str:
    header = next(iter(read_lines(table)), "").split("\t")
    return next((name for name in columns if name in header), columns[0])


def read_tedlium(folder: Path) -> Rows:
    """TED-LIUM: stm/ and sph/ in each subset."""
    for path in files_below(folder, lambda name: name.endswith(".stm")):
        subset = path.parent.parent if path.parent.name == "stm" else path.parent
        audio = subset / "sph" if (subset / "sph").is_dir() else subset
        yield from read_stm(path, audio, subset_named(subset.name))


def read_timit(folder: Path) -> Rows:
    """TIMIT: `<speaker>/<sentence>.WAV` and .TXT, whose line begins with two sample numbers."""
    for path in files_below(folder, lambda name: name.lower().endswith(".txt")):
        if not _sibling(path, ".phn"):
            continue
        audio = _sibling(path, ".wav")
        if audio is None:
            yield BadRow(str(path), str(path), "missing", "no .WAV beside it")
            continue
        parts = path.relative_to(folder).parts
        split = next(filter(None, map(subset_named, parts)), "")
        # The two sentences sa1 and sa2 are read by everybody.
        yield row_of_text(audio, path, 2, speaker=path.parent.name, split=split)


def _sibling(path: Path, suffix: str) -> Path | None:
    for name in (suffix, suffix.upper()):
        if (found := path.with_suffix(name)).is_file():
            return found
    return None


def read_an4(folder: Path) -> Rows:
    """AN4: etc/an4_train.transcription, `<s> WORDS </s> (id)`, and the paths in .fileids."""
    for name in ("train", "test"):
        transcripts = folder / "etc" / f"an4_{name}.transcription"
        if not transcripts.is_file():
            continue
        paths = read_lines(folder / "etc" / f"an4_{name}.fileids")
        by_id = {Path(path).name: folder / "wav" / path for path in paths}
        for number, line in enumerate(read_lines(transcripts), start=1):
            found = re.fullmatch(r"\s*(?:<s>)?(.*?)(?:</s>)?\s*\((.+)\)\s*", line)
            where = f"{transcripts}:{number}"
            if not found or found[2] not in by_id:
                yield BadRow(where, "", "row", "not `<s> WORDS </s> (id)` with an id of .fileids")
                continue
            path = by_id[found[2]]
            audio = audio_named(path.parent, path.name)
            speaker = path.parent.name
            yield Row(audio, where, found[1].strip(), speaker=speaker, split=name)


def read_ljspeech(folder: Path) -> Rows:
    """LJSpeech: wavs/ and metadata.csv, without a header, of id, text, normalized text."""
    path = folder / "metadata.csv"
    for number, line in enumerate(read_lines(path), start=1):
        key, *texts = line.split("|")
        where = f"{path}:{number}"
        if not texts:
            yield BadRow(where, "", "row", "not id|text|normalized text")
        else:
            yield Row(audio_named(folder / "wavs", key), where, texts[-1])


def read_vctk(folder: Path) -> Rows:
    """VCTK: `txt/<speaker>/<id>.txt`, and the recordings of one microphone or of two."""
    (audio,) = sorted(path for path in folder.glob("wav48*") if path.is_dir())[:1]
    for path in files_below(folder / "txt", lambda name: name.endswith(".txt")):
        speaker, key = path.parent.name, path.stem
        found = sorted((audio / speaker).glob(f"{key}.*"))
        found += sorted((audio / speaker).glob(f"{key}_mic*.*"))
        if not found:
            yield BadRow(str(path), key, "missing", f"{audio / speaker} has no {key}")
        for file in found:
            yield row_of_text(file, path, speaker=speaker)


DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_SPOKEN_DIGIT = re.compile(r"(\d)_([^_]+)_\d+\.wav")


def read_spoken_digits(folder: Path) -> Rows:
    """Free Spoken Digit Dataset: `recordings/<digit>_<speaker>_<number>.wav`."""
    for path in sorted((folder / "recordings").glob("*.wav")):
        if found := _SPOKEN_DIGIT.fullmatch(path.name):
            yield Row(path, str(path), DIGITS[int(found[1])], speaker=found[2])


def _metadata(folder: Path) -> list[Path]:
    """Hugging Face's metadata files of an audio folder, one per split at most."""
    found = []
    places = (folder, *sorted(folder.glob("*/")), *sorted(folder.glob("data/*/")))
    for place in places:
        for name in ("metadata.csv", "metadata.jsonl", "metadata.parquet"):
            path = place / name
            if path.is_file() and "file_name" in _header(path):
                found.append(path)
    return found


def _header(metadata: Path) -> str | list[str]:
    """The names of a file's columns, in a text or a list."""
    if metadata.suffix == ".parquet":
        return column_names(metadata)
    return next(iter(read_lines(metadata)), "")


def read_audio_folder(folder: Path, options: TableOptions = PLAIN) -> Rows:
    """Hugging Face's audio folder: metadata.csv, .jsonl or .parquet, with file_name and a text."""
    for path in _metadata(folder):
        split = subset_named(path.parent.name)
        for row in read_table(path, path.parent, options, split=split):
            if isinstance(row, Row) and not split:  # one file may describe train/ and test/
                row = replace(row, split=row.split or subset_named(_first_folder(row, path)))
            yield row


def _first_folder(row: Row, metadata: Path) -> str:
    """The folder of a recording below its metadata file."""
    parts = Path(os.path.relpath(row.audio, metadata.parent)).parts
    return parts[parts[0] == "data"] if len(parts) > 1 else ""


def read_with_transcripts(files: Iterable[Path]) -> Rows:
    """Recordings with a transcript of the same name beside each."""
    for path in files:
        yield from read_beside(path)


@dataclass(frozen=True)
class Layout:
    """One way in which corpora lie on disk."""

    marks: str
    """What tells it, in words."""
    found: Callable[[Path], bool]
    """Whether a folder has it."""
    read: Callable[..., Rows]
    """Its rows, of the folder."""
    tabular: bool = False
    """Whether flags of tables describe it; `read` then takes them, too."""


def _has(*patterns: str) -> Callable[[Path], bool]:
    return lambda folder: all(any(folder.glob(pattern)) for pattern in patterns)


@lru_cache(maxsize=1)
def _marking_files(folder: Path) -> list[Path]:
    """The files below a folder that tell its format by their ending; one walk for all formats."""
    return files_below(folder, lambda name: name.lower().endswith((".trans.txt", ".stm", ".phn")))


def _below(ending: str) -> Callable[[Path], bool]:
    return lambda folder: any(p.name.lower().endswith(ending) for p in _marking_files(folder))


def _any(find: Callable[[Path], list[Path]]) -> Callable[[Path], bool]:
    return lambda folder: bool(find(folder))


LAYOUTS = {
    "kaldi": Layout("wav.scp", lambda f: bool(data_directories(f)), read_kaldi_folders),
    "mls": Layout("transcripts.txt", lambda f: bool(_mls_folders(f)), read_mls),
    "commonvoice": Layout("clips/", _has("clips", "*.tsv"), read_common_voice),
    "voxpopuli": Layout("asr_*.tsv", _has("asr_*.tsv"), read_voxpopuli),
    "an4": Layout("etc/an4_*", _has("etc/an4_*.transcription"), read_an4),
    "vctk": Layout("txt/, wav48*/", _has("txt/*/*.txt", "wav48*"), read_vctk),
    "fsdd": Layout(
        "recordings/0_name_0.wav", _has("recordings/[0-9]_*_[0-9]*.wav"), read_spoken_digits
    ),
    "audiofolder": Layout("metadata files", lambda f: bool(_metadata(f)), read_audio_folder),
    "ljspeech": Layout("metadata.csv, wavs/", _has("metadata.csv", "wavs"), read_ljspeech),
    "librispeech": Layout("*.trans.txt", _below(".trans.txt"), read_librispeech),
    "tedlium": Layout("*.stm", _below(".stm"), read_tedlium),
    "timit": Layout("*.phn", _below(".phn"), read_timit),
    "lhotse": Layout("cuts*.jsonl.gz", lambda f: bool(manifests_in(f)), read_lhotse),
    "nemo": Layout(folders.MANIFEST, _any(folders.manifests), folders.read_nemo_folder, True),
    "parquet": Layout(
        "*.parquet", _any(folders.parquet_files), folders.read_parquet_folder, tabular=True
    ),
    "arrow": Layout("*.arrow", _any(folders.arrow_files), folders.read_arrow_folder, tabular=True),
    "webdataset": Layout("*.tar", _any(folders.shards), folders.read_shard_folder, tabular=True),
}
"""Format -> its layout; the first that a folder has is taken."""


def layout_of(folder: Path) -> str:
    """The format that a folder has; "" if it has none of LAYOUTS."""
    return next((name for name, layout in LAYOUTS.items() if layout.found(folder)), "")


def has_transcripts(files: Iterator[Path]) -> bool:
    """Whether one of the first recordings has a transcript beside it."""
    return any(transcript_beside(path) for path, _ in zip(files, range(100)))
