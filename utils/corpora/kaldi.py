"""Kaldi's data directories (also ESPnet's): wav.scp, text, segments, utt2spk."""

from collections.abc import Iterator
from pathlib import Path

from utils.corpora.rows import BadRow, Row, Rows, subset_named
from wav2vec2.cli.errors import UserError
from wav2vec2.files.text import read_lines


def _pairs(path: Path) -> Iterator[tuple[str, str, str]]:
    """(where, key, rest) of each line."""
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            key, _, rest = line.strip().partition(" ")
            if not rest and "\t" in key:
                key, _, rest = key.partition("\t")
            yield f"{path}:{number}", key, rest.strip()


def data_directories(folder: Path) -> list[Path]:
    """The data directories in a folder, or itself if it is one."""
    if (folder / "wav.scp").is_file():
        return [folder]
    return sorted(path.parent for path in folder.glob("*/wav.scp"))


def _root_of(folder: Path, name: str) -> Path:
    """Where a relative path of wav.scp starts: recipes write it from their own folder."""
    for root in (folder, *folder.parents[:4]):
        if (root / name).exists():
            return root
    return folder


def read_kaldi(folder: Path) -> Rows:
    """The utterances of one data directory.  Commands in wav.scp are never run."""
    text = folder / "text"
    if not text.is_file():
        raise UserError(f"{text}: no such file; a data directory has wav.scp and text")
    texts = {key: (where, words) for where, key, words in _pairs(text)}
    optional = {name: folder / name for name in ("utt2spk", "segments")}
    speakers = (
        {key: name for _, key, name in _pairs(optional["utt2spk"])}
        if optional["utt2spk"].is_file()
        else {}
    )
    sources = {key: (where, value) for where, key, value in _pairs(folder / "wav.scp")}
    split = subset_named(folder.name)
    if optional["segments"].is_file():
        pieces = [(where, key, *rest.split()) for where, key, rest in _pairs(optional["segments"])]
    else:
        pieces = [(where, key, key) for key, (where, _) in sources.items()]
    for where, key, *rest in pieces:
        recording = rest[0] if rest else ""
        if recording not in sources:
            yield BadRow(where, key, "missing", f"{folder / 'wav.scp'} has no {recording}")
            continue
        if key not in texts:
            yield BadRow(where, key, "no transcript", f"{text} has no {key}")
            continue
        source = sources[recording][1]
        if source.endswith("|"):
            yield BadRow(
                sources[recording][0],
                source,
                "command",
                "a command in place of a path; run it first and name the file it gives",
            )
            continue
        if ".ark:" in source:
            yield BadRow(
                sources[recording][0], source, "ark", "audio in an ark; copy it to files first"
            )
            continue
        try:
            times = (float(rest[1]), float(rest[2])) if len(rest) >= 3 else (0.0, None)
        except ValueError:
            yield BadRow(where, source, "time", f"not a time: {' '.join(rest[1:])}")
            continue
        if times[1] is not None and times[1] < 0:
            times = times[0], None  # to the end of the file
        yield Row(
            _root_of(folder, source) / source,
            where,
            texts[key][1],
            *times,
            speaker=speakers.get(key, ""),
            split=split,
        )
