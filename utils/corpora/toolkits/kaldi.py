"""Data directories of Kaldi and ESPnet: wav.scp, text, segments, utt2spk."""

import os
import re
import unicodedata
from functools import lru_cache
from pathlib import Path

from utils.corpora.containers.command import KIND as COMMAND
from utils.corpora.rows import BadRow, Row, Rows, subset_named
from utils.corpora.toolkits.places import resolved, shallowest
from wav2vec2.audio.decode import count_channels
from wav2vec2.cli.errors import UserError
from wav2vec2.files.text import read_lines

Entries = dict[str, tuple[str, str]]
"""Key -> (where, the rest of the line)."""

_SIDES = {"A": 1, "B": 2}


def data_directories(folder: Path) -> list[Path]:
    """The data directory that a folder is, or else those in the first level that has any."""
    return [path.parent for path in shallowest(folder, "wav.scp")]


def read_kaldi_folders(folder: Path) -> Rows:
    """Kaldi's and ESPnet's data directories: files, arks or pipes, with or without text."""
    for place in data_directories(folder):
        yield from read_kaldi(place)


def _subset(name: str) -> str:
    """The subset of a data directory; train_dev and test_dev93 are for validation."""
    first, *others = re.split(r"[-_.]", name.lower())
    return "valid" if any(part.startswith("dev") for part in others) else subset_named(first)


def _entries(path: Path, bad: list[BadRow]) -> Entries:
    """The lines of a file by their keys, composed letters; none if there is no file."""
    found: Entries = {}
    if not path.is_file():
        return found
    for number, line in enumerate(read_lines(path, errors="surrogateescape"), start=1):
        key, *rest = re.split(r"[ \t]+", line.strip(" \t"), maxsplit=1)
        key = unicodedata.normalize("NFC", key)
        where = f"{path}:{number}"
        if key in found:
            detail = f"named a second time, first in {found[key][0]}"
            bad.append(BadRow(where, key, "named twice", detail))
        elif key:
            found[key] = where, rest[0] if rest else ""
    return found


def read_kaldi(folder: Path) -> Rows:
    """The utterances of one data directory; without `text` they are audio alone."""
    bad: list[BadRow] = []
    names = ("wav.scp", "text", "segments", "utt2spk", "utt2dur", "reco2file_and_channel")
    sources, texts, segments, speakers, seconds, sides = (
        _entries(folder / name, bad) for name in names
    )
    yield from bad
    transcribed = (folder / "text").is_file()
    pieces = segments if (folder / "segments").is_file() else sources
    for key, (where, rest) in pieces.items():
        fields = rest.split() if pieces is segments else [key]
        recording = unicodedata.normalize("NFC", fields[0]) if fields else ""
        if recording not in sources:
            yield BadRow(where, key, "missing", f"{folder / 'wav.scp'} has no {recording}")
            continue
        if transcribed and key not in texts:
            yield BadRow(where, key, "no transcript", f"{folder / 'text'} has no {key}")
            continue
        place, value = sources[recording]
        if transcribed and any(0xDC80 <= ord(letter) <= 0xDCFF for letter in texts[key][1]):
            yield BadRow(texts[key][0], key, "transcript file", "not UTF-8 text")
            continue
        try:
            audio, member = _source(folder, value)
            start, end, channel = _piece(fields[1:]) if pieces is segments else (0.0, None, None)
        except ValueError as error:
            reason, _, detail = str(error).partition(": ")
            yield BadRow(place if reason != "time" else where, value, reason, detail)
            continue
        if channel is None and recording in sides and not member:
            channel = _side(sides[recording][1], audio)
        declared = seconds[key][1] if pieces is sources and key in seconds else ""
        speaker = speakers[key][1] if key in speakers else ""
        yield Row(
            audio,
            where,
            texts[key][1] if transcribed else None,
            start,
            end,
            declared=float(declared) if re.fullmatch(r"\d+(\.\d+)?", declared) else None,
            channel=channel,
            speaker=speaker,
            group="" if speaker else f"{folder}:{recording}",
            split=_subset(folder.name),
            member=member,
            name=recording if member else "",
        )
    for key in texts.keys() - pieces.keys():
        file = folder / ("segments" if pieces is segments else "wav.scp")
        yield BadRow(texts[key][0], key, "missing", f"{file} has no {key}")


def _source(folder: Path, value: str) -> tuple[Path, str]:
    """(file, member) of what wav.scp names; ValueError, `reason: detail`, if it is no recording."""
    if not value:
        raise ValueError("no audio: wav.scp names no file")
    if value.endswith("|"):
        return folder / "wav.scp", f"{COMMAND}:{value[:-1].strip()}"
    if value.endswith("]") and ".ark:" in value:
        raise ValueError("ark: a range of an ark; name the recording without [...]")
    if found := re.fullmatch(r"(.+):(\d{1,18})", value):
        ark = resolved(found[1], folder)
        if os.path.exists(ark) or not os.path.exists(resolved(value, folder)):
            return ark, f"ark:{found[2]}"
    path = resolved(value, folder)
    if os.path.exists(path):  # unlike pathlib, false for a name that is too long
        return path, ""
    several = value.split()
    if len(several) > 1 and all(os.path.exists(resolved(name, folder)) for name in several):
        raise ValueError("channels: a file per channel; name one, or join them to one file")
    return path, ""


def _piece(fields: list[str]) -> tuple[float, float | None, int | None]:
    """(start, end, channel) of a line of segments; ValueError, `time: detail`, if it is wrong.

    An end below 0 is that of the file.  Channels count from 0, or are A and B.
    """
    try:
        start, end = map(float, fields[:2])
        side = fields[2] if len(fields) > 2 else ""
        channel = _SIDES.get(side) or (int(side) + 1 if side else None)
    except ValueError:
        raise ValueError(f"time: not `start end` in seconds: {' '.join(fields)}") from None
    if channel is not None and channel < 1:
        channel = None
    return start, end if end >= 0 else None, channel


def _side(fields: str, audio: Path) -> int | None:
    """The channel that reco2file_and_channel names, if the file has several."""
    name = fields.split()[-1] if fields else ""
    channel = _SIDES.get(name) or (int(name) if name.isdigit() else None)
    return channel if channel and _channels(audio) > 1 else None


@lru_cache(maxsize=1)
def _channels(audio: Path) -> int:
    try:
        return count_channels(audio)
    except UserError:
        return 1  # its conversion reports the error
