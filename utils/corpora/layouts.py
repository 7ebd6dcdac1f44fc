"""Public corpora as they are unpacked: which one a folder holds, and its rows."""

import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from utils.corpora.containers import folders
from utils.corpora.containers.parquet import column_names
from utils.corpora.rows import (
    BadRow,
    Row,
    Rows,
    corpus_lines,
    corpus_text,
    subset_named,
    subset_of_folders,
)
from utils.corpora.tables import PLAIN, TableOptions, first_row, is_table_of_audio, read_table
from utils.corpora.timed_text import (
    TranscriptOptions,
    audio_named,
    read_beside,
    read_stm,
    row_of_text,
    transcript_beside,
)
from utils.corpora.toolkits.kaldi import data_directories, read_kaldi_folders
from utils.corpora.toolkits.lhotse import manifests_in, read_lhotse
from wav2vec2.cli.errors import UserError
from wav2vec2.files.folders import files_below


def _each(places: Iterable[Path], read: Callable[[Path], Rows]) -> Rows:
    """The rows of several files or folders; one that cannot be read is a BadRow."""
    for place in places:
        try:
            yield from read(place)
        except UserError as error:
            detail = str(error).removeprefix(f"{place}: ")
            yield BadRow(str(place), str(place), "transcript file", detail)


def _ends_with(*endings: str) -> Callable[[str], bool]:
    return lambda name: name.lower().endswith(endings)


def read_librispeech(folder: Path) -> Rows:
    """LibriSpeech: `<speaker>-<chapter>.trans.txt` beside the audio; subsets by folder names."""

    def chapter(path: Path) -> Rows:
        split = subset_of_folders(path.relative_to(folder).parts[:-1], folder.name)
        speaker = path.name.partition("-")[0]
        for number, line in enumerate(corpus_lines(path), start=1):
            key, _, text = line.partition(" ")
            audio = audio_named(path.parent, key)
            yield Row(audio, f"{path}:{number}", text, speaker=speaker, split=split)

    yield from _each(files_below(folder, _ends_with(".trans.txt")), chapter)


def _books(folder: Path) -> list[Path]:
    """Libri-light's descriptions of recordings, whose names are those of the recordings."""
    described = [path for path in _marking_files(folder) if path.suffix == ".json"]
    return described if any(_speaker_of_book(path) for path in described[:100]) else []


def _speaker_of_book(path: Path) -> str:
    try:
        content = json.loads(corpus_text(path))
    except (UserError, ValueError, RecursionError):
        return ""
    known = isinstance(content, dict) and {"speaker", "book_meta"} <= set(content)
    return str(content["speaker"]) if known else ""


def read_librilight(folder: Path) -> Rows:
    """Libri-light's audio without transcripts: a .json beside each recording names the speaker."""
    for path in _books(folder):
        audio = audio_named(path.parent, path.stem)
        yield Row(audio, str(path), speaker=_speaker_of_book(path))


def _mls_folders(folder: Path) -> list[Path]:
    """The folders of an MLS corpus that hold transcripts: its subsets, or itself."""
    found = [path.parent for path in folder.glob("*/transcripts.txt")]
    found = [path for path in found if subset_named(path.name) and (path / "audio").is_dir()]
    alone = (folder / "transcripts.txt").is_file() and (folder / "audio").is_dir()
    return sorted(found) or [folder] * alone


def _handles(folder: Path) -> list[Path]:
    """The lists of utterances in a folder of MLS' limited supervision."""
    inside = "limited_supervision" in (folder.name, folder.parent.name, folder.parent.parent.name)
    return files_below(folder, lambda name: name == "handles.txt") if inside else []


def read_mls(folder: Path) -> Rows:
    """Multilingual LibriSpeech: transcripts.txt and `audio/<speaker>/<book>/` in each subset.

    Of a folder in limited_supervision/, the utterances that its handles.txt lists.
    """
    wanted: set[str] = set()
    for path in _handles(folder):
        wanted.update(filter(None, map(str.strip, corpus_lines(path))))
    places = _mls_folders(folder)
    if wanted:
        places = [p for p in folder.parents[:3] if (p / "transcripts.txt").is_file()][:1]

    def subset(place: Path) -> Rows:
        path = place / "transcripts.txt"
        for number, line in enumerate(corpus_lines(path), start=1):
            key, _, text = line.partition("\t")
            if wanted and key not in wanted:
                continue
            speaker, _, rest = key.partition("_")
            audio = audio_named(place / "audio" / speaker / rest.partition("_")[0], key)
            split = "" if wanted else subset_of_folders((), place.name)
            yield Row(audio, f"{path}:{number}", text, speaker=speaker, split=split)

    yield from _each(places, subset)


def read_common_voice(folder: Path) -> Rows:
    """Common Voice: train.tsv, dev.tsv and test.tsv, else validated.tsv, else other.tsv; clips/."""
    official = [n for n in ("train", "dev", "test") if (folder / f"{n}.tsv").is_file()]
    rest = [n for n in ("validated", "other") if (folder / f"{n}.tsv").is_file()]
    yield from _each(
        [folder / f"{name}.tsv" for name in official or rest[:1]],
        lambda table: read_table(
            table, folder / "clips", TableOptions(), split=subset_named(table.name)
        ),
    )


def read_voxpopuli(folder: Path) -> Rows:
    """VoxPopuli's transcribed part: asr_train.tsv and others, audio in folders of years.

    Without those tables, the one that they are made from: asr_<language>.tsv.gz.
    """
    tables = [folder / f"asr_{name}.tsv" for name in ("train", "dev", "test")]
    tables = [path for path in tables if path.is_file()]
    if not tables:  # the file that those are made from: one for all subsets, with other names
        tables = sorted(folder.glob("asr_*.tsv")) or sorted(folder.glob("asr_*.tsv.gz"))

    def rows(table: Path) -> Rows:
        original = not subset_named(table.name.removeprefix("asr_"))
        options = TableOptions(
            delimiter="|" if original else "",
            audio_template="{session_id}-{id_}" if original else "{id}",
            text_column="normed_text" if original else "",
        )
        for row in read_table(table, folder, options):
            if isinstance(row, Row):  # the id begins with the date
                year = folder / row.audio.name[:4]
                speaker = "" if row.speaker == "None" else row.speaker
                audio = audio_named(year if year.is_dir() else folder, row.audio.name)
                row = replace(row, audio=audio, speaker=speaker)
            yield row

    yield from _each(tables, rows)


_TED_PIECES = re.compile(r"\(\d+\)|<sil>| (?='(?:s|t|d|m|re|ve|ll|em|n|til|cause)\b)")
"""In TED-LIUM's transcripts: numbers of pronunciations, silence, the space before a suffix."""


def read_tedlium(folder: Path) -> Rows:
    """TED-LIUM: stm/ and sph/ in each subset; of release 3, legacy/, which has its subsets."""
    legacy = folder / "legacy"

    def talk(path: Path) -> Rows:
        subset = path.parent.parent if path.parent.name == "stm" else path.parent
        places = (subset / "sph", folder / "data" / "sph", path.parent)
        audio = next(place for place in places if place.is_dir())
        split = subset_of_folders(subset.relative_to(folder).parts, folder.name)
        for row in read_stm(path, audio, split):
            if isinstance(row, Row):
                text = re.sub(r"\{(U[HM])\}", r"\1", row.text or "")
                row = replace(row, text=_TED_PIECES.sub("", text).strip())
            yield row

    yield from _each(files_below(legacy if legacy.is_dir() else folder, _ends_with(".stm")), talk)


def _timit_rows(folder: Path, read: Callable[[Path, Path, str, str], Row | BadRow]) -> Rows:
    for path in files_below(folder, _ends_with(".phn")):
        audio = _sibling(path, ".wav")
        if audio is None:
            yield BadRow(str(path), str(path), "missing", "no .WAV beside it")
            continue
        split = subset_of_folders(path.relative_to(folder).parts[:-1], folder.name)
        yield read(path, audio, path.parent.name, split)


def read_timit(folder: Path) -> Rows:
    """TIMIT: `<speaker>/<sentence>.WAV` and .TXT, or with `--units phonemes` .PHN."""

    def words(path: Path, audio: Path, speaker: str, split: str) -> Row | BadRow:
        text = _sibling(path, ".txt")
        if text is None:
            return BadRow(str(path), str(audio), "no transcript", "no .TXT beside it")
        return row_of_text(audio, text, 2, speaker=speaker, split=split)

    # The two sentences sa1 and sa2 are read by everybody.
    yield from _timit_rows(folder, words)


def read_timit_phonemes(folder: Path) -> Rows:
    """TIMIT's phonemes, as .PHN lists them with their sample numbers."""

    def phonemes(path: Path, audio: Path, speaker: str, split: str) -> Row | BadRow:
        try:
            lines = [line.split() for line in corpus_lines(path) if line.strip()]
        except UserError as error:
            return BadRow(str(path), str(audio), "transcript file", str(error))
        if any(len(fields) != 3 for fields in lines):
            return BadRow(str(path), str(audio), "row", "not `start end phoneme` in each line")
        text = " ".join(fields[2] for fields in lines)
        return Row(audio, str(path), text, speaker=speaker, split=split)

    yield from _timit_rows(folder, phonemes)


def _sibling(path: Path, suffix: str) -> Path | None:
    for name in (suffix, suffix.upper(), suffix.upper() + ".wav"):
        if (found := path.with_suffix(name)).is_file():
            return found
    return None


def read_an4(folder: Path) -> Rows:
    """AN4: etc/an4_train.transcription, `<s> WORDS </s> (id)`, and the paths in .fileids."""

    def part(transcripts: Path) -> Rows:
        name = transcripts.stem.removeprefix("an4_")
        paths = corpus_lines(folder / "etc" / f"an4_{name}.fileids")
        by_id = {Path(path.strip()).name: folder / "wav" / path.strip() for path in paths}
        for number, line in enumerate(corpus_lines(transcripts), start=1):
            found = re.fullmatch(r"\s*(?:<s>)?(.*?)(?:</s>)?\s*\((.+)\)\s*", line)
            where = f"{transcripts}:{number}"
            if not found or found[2] not in by_id:
                yield BadRow(where, "", "row", "not `<s> WORDS </s> (id)` with an id of .fileids")
                continue
            path = by_id[found[2]]
            audio = audio_named(path.parent, path.name)
            yield Row(audio, where, found[1].strip(), speaker=path.parent.name, split=name)

    lists = (folder / "etc" / f"an4_{name}.transcription" for name in ("train", "test"))
    yield from _each((path for path in lists if path.is_file()), part)


def read_ljspeech(folder: Path) -> Rows:
    """LJSpeech: wavs/ and metadata.csv, without a header, of id, text, normalized text."""
    path = folder / "metadata.csv"
    for number, line in enumerate(corpus_lines(path), start=1):
        key, *texts = line.split("|")
        where = f"{path}:{number}"
        if not texts:
            yield BadRow(where, "", "row", "not id|text|normalized text")
        else:
            text = next((text for text in reversed(texts) if text.strip()), "")
            yield Row(audio_named(folder / "wavs", key), where, text)


def read_vctk(folder: Path) -> Rows:
    """VCTK: `txt/<speaker>/<id>.txt`, and the recordings of one microphone or of two."""
    (place,) = sorted(path for path in folder.glob("wav[0-9]*") if path.is_dir())[:1]
    found = set()
    for audio in files_below(place, _ends_with(".flac", ".wav")):
        speaker, key = audio.parent.name, re.sub(r"_mic\d+$", "", audio.stem)
        path = folder / "txt" / speaker / f"{key}.txt"
        found.add(path)
        if path.is_file():
            yield row_of_text(audio, path, speaker=speaker)
        else:  # those of p315 were lost
            yield BadRow(str(audio), str(audio), "no transcript", f"{path}: no such file")
    for path in files_below(folder / "txt", _ends_with(".txt")):
        if path not in found:
            yield BadRow(str(path), path.stem, "missing", f"{place} has no {path.stem}")


_PROMPTS = ("PROMPTS", "prompts-original", "prompts.txt")


def _sessions(folder: Path) -> list[Path]:
    """VoxForge's folders, one per upload of a speaker."""
    places = (folder, *sorted(path for path in folder.iterdir() if path.is_dir()))
    return [
        place
        for place in places
        if any((place / "etc" / name).is_file() for name in _PROMPTS)
        and any((place / name).is_dir() for name in ("wav", "flac"))
    ]


def read_voxforge(folder: Path) -> Rows:
    """VoxForge: etc/PROMPTS, `<path>/<id> WORDS`, and wav/ or flac/ in a folder per session."""

    def session(place: Path) -> Rows:
        path = next(p for name in _PROMPTS if (p := place / "etc" / name).is_file())
        audio = place / ("wav" if (place / "wav").is_dir() else "flac")
        user = place.name.partition("-")[0]
        speaker = place.name if user.lower() == "anonymous" else user
        for number, line in enumerate(corpus_lines(path), start=1):
            key, _, text = line.strip().partition(" ")
            if key:
                key = key.replace("\\", "/").rpartition("/")[2]
                yield Row(audio_named(audio, key), f"{path}:{number}", text, speaker=speaker)

    yield from _each(_sessions(folder), session)


DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_SPOKEN_DIGIT = re.compile(r"(\d)_([^_]+)_\d+\.wav")


def read_spoken_digits(folder: Path) -> Rows:
    """Free Spoken Digit Dataset: `recordings/<digit>_<speaker>_<number>.wav`."""
    for path in sorted((folder / "recordings").glob("*.wav")):
        if found := _SPOKEN_DIGIT.fullmatch(path.name):
            yield Row(path, str(path), DIGITS[int(found[1])], speaker=found[2])


def _metadata(folder: Path) -> list[Path]:
    """Hugging Face's metadata files of an audio folder, one per split at most."""
    places = (folder, *folder.glob("*"), *folder.glob("data/*"))
    names = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
    found = {place / name for place in places if place.is_dir() for name in names}
    return sorted(path for path in found if "file_name" in _header(path))


def _header(metadata: Path) -> str | list[str]:
    """The names of a file's columns, in a text or a list; empty without the file."""
    if metadata.suffix == ".parquet":
        return column_names(metadata) if metadata.is_file() else ""
    return first_row(metadata)


def read_audio_folder(folder: Path, options: TableOptions = PLAIN) -> Rows:
    """Hugging Face's audio folder: metadata.csv, .jsonl or .parquet, with file_name and a text."""

    def rows(path: Path) -> Rows:
        split = subset_of_folders((), path.parts[-2])
        for row in read_table(path, path.parent, options, split=split):
            if isinstance(row, Row) and not row.split:  # one file may describe train/ and test/
                inside = Path(os.path.relpath(row.audio, path.parent)).parts[:-1]
                row = replace(row, split=subset_of_folders(inside, strict=True))
            yield row

    yield from _each(_metadata(folder), rows)


_TABLE_NAMES = {"train", "training", "dev", "valid", "validation", "val", "test"}


def _subset_of_table(path: Path) -> str:
    """The subset that a table's name tells: mini_train.csv, dev_manifest.json; else ""."""
    parts = re.split("[-_.]", path.name.lower())
    return next((subset_named(part) for part in parts if part in _TABLE_NAMES), "")


def _tables(folder: Path) -> list[Path]:
    """The tables in a folder that are named for subsets, or else all."""
    found = [path for path in sorted(folder.iterdir()) if is_table_of_audio(path)]
    return [path for path in found if _subset_of_table(path)] or found


def read_tables(folder: Path) -> Rows:
    """Tables of audio paths and transcripts: train.csv, dev_manifest.json, or a single one."""
    tables = _tables(folder)
    if len(tables) > 1 and not _subset_of_table(tables[0]):
        names = ", ".join(path.name for path in tables)
        raise UserError(f"--audio_dir {folder}: has several tables ({names}); name one: --table")
    yield from _each(
        tables,
        lambda path: read_table(path, folder, TableOptions(), split=_subset_of_table(path)),
    )


def read_with_transcripts(files: Iterable[Path], root: Path, options: TranscriptOptions) -> Rows:
    """Recordings with a transcript of the same name beside each; subsets by folder names."""
    rows = []
    for path in files:
        split = subset_of_folders(path.relative_to(root).parts[:-1], strict=True)
        for row in read_beside(path, options):
            rows.append(replace(row, split=split) if isinstance(row, Row) else row)
    known = all(row.split for row in rows if isinstance(row, Row))
    yield from (replace(r, split="") if isinstance(r, Row) and not known else r for r in rows)


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
    return files_below(folder, _ends_with(".trans.txt", ".stm", ".phn", ".json"))


def _below(ending: str) -> Callable[[Path], bool]:
    return lambda folder: any(p.name.lower().endswith(ending) for p in _marking_files(folder))


def _any(find: Callable[[Path], list[Path]]) -> Callable[[Path], bool]:
    return lambda folder: bool(find(folder))


LAYOUTS = {
    "kaldi": Layout("wav.scp", lambda f: bool(data_directories(f)), read_kaldi_folders),
    "mls": Layout("transcripts.txt", lambda f: bool(_mls_folders(f) or _handles(f)), read_mls),
    "commonvoice": Layout("clips/", _has("clips", "*.tsv"), read_common_voice),
    "voxpopuli": Layout("asr_*.tsv", _has("asr_*.tsv*"), read_voxpopuli),
    "an4": Layout("etc/an4_*", _has("etc/an4_*.transcription"), read_an4),
    "vctk": Layout("txt/, wav48*/", _has("txt/*/*.txt", "wav[0-9]*"), read_vctk),
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
    "voxforge": Layout("etc/PROMPTS", lambda f: bool(_sessions(f)), read_voxforge),
    "librilight": Layout("*.json of books", lambda f: bool(_books(f)), read_librilight),
    "tables": Layout("train.csv or the like", lambda f: bool(_tables(f)), read_tables),
}
"""Format -> its layout; the first that a folder has is taken."""


def layout_of(folder: Path) -> str:
    """The format that a folder has; "" if it has none of LAYOUTS."""
    return next((name for name, layout in LAYOUTS.items() if layout.found(folder)), "")


def corpus_below(folder: Path) -> Path:
    """The folder itself, or the only one in it if that holds a corpus: archives unpack so."""
    if layout_of(folder):
        return folder
    inside = [path for path in folder.iterdir() if path.name[0] != "."]
    if len(inside) != 1 or not inside[0].is_dir():
        return folder
    below = corpus_below(inside[0])
    return below if layout_of(below) else folder


def corpora_in(folder: Path) -> dict[str, str]:
    """Name -> format of the folders in one that are corpora with transcripts."""
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    found = {path.name: layout_of(path) for path in inside[:100]}
    return {name: layout for name, layout in found.items() if layout}


def has_transcripts(files: Sequence[Path]) -> bool:
    """Whether one of the recordings, of up to a thousand evenly spaced, has a transcript beside."""
    return any(map(transcript_beside, files[:: len(files) // 1000 + 1]))
