"""Transcripts with times beside a recording: STM, SRT, VTT, Audacity's labels, TextGrid, ELAN.

`pip install praatio pympi-ling` reads the last two.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from utils.corpora.rows import BadRow, Row, Rows
from wav2vec2.audio.recordings import AUDIO_SUFFIXES
from wav2vec2.cli.errors import UserError
from wav2vec2.files.text import read_lines, read_text

Cue = tuple[float, float, str, str]
"""(start, end, text, speaker), in seconds."""

_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
_ARROW = re.compile(rf"{_TIME}\s*-->\s*{_TIME}")


def _seconds(hours: str | None, minutes: str, seconds: str, fraction: str) -> float:
    whole = 3600 * int(hours or 0) + 60 * int(minutes) + int(seconds)
    return whole + int(fraction) / 10 ** len(fraction)


def read_subtitles(path: Path) -> Iterator[Cue]:
    """The cues of an SRT or VTT file, without their mark-up."""
    for block in re.split(r"\n\s*\n", read_text(path).replace("\r\n", "\n")):
        found = _ARROW.search(block)
        if found:
            text = block[found.end() :].partition("\n")[2]  # after the cue's settings
            speaker = re.search(r"<v(?:\.\S+)? ([^>]+)>", text)
            text = re.sub(r"<[^>\n]*>|\{\\[^}]*\}", "", text)
            start, end = _seconds(*found.groups()[:4]), _seconds(*found.groups()[4:])
            yield start, end, " ".join(text.split()), speaker[1] if speaker else ""


def read_audacity(path: Path) -> Iterator[Cue]:
    """The labels that Audacity exports: start, end and text between tabs."""
    for line in read_lines(path):
        fields = line.split("\t")
        if len(fields) >= 3 and fields[0] != "\\":  # \ begins a line of frequencies
            yield float(fields[0]), float(fields[1]), fields[2], ""


def is_audacity(path: Path) -> bool:
    """Whether a text file is one of Audacity's labels."""
    first = next(iter(read_lines(path)), "")
    return bool(re.match(r"\d+\.\d+\t\d+\.\d+\t", first))


def read_textgrid(path: Path) -> Iterator[Cue]:
    """The labelled intervals of a TextGrid's first interval tier that is no tier of phones."""
    try:
        from praatio import textgrid
    except ImportError:
        raise UserError(f"{path}: needs `pip install praatio`") from None
    try:
        grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=False)
    except Exception as error:  # praatio raises many kinds
        raise UserError(f"{path}: not a readable TextGrid ({error})") from None
    tiers = [
        tier for tier in grid.tiers if isinstance(tier, textgrid.IntervalTier) and tier.entries
    ]
    tiers.sort(key=lambda tier: bool(re.search("phone|segment", tier.name.lower())))
    for start, end, text in tiers[0].entries if tiers else ():
        yield float(start), float(end), text, ""


def read_elan(path: Path) -> Iterator[Cue]:
    """The annotations of an ELAN file's first tier with times; its participant is the speaker."""
    try:
        from pympi.Elan import Eaf
    except ImportError:
        raise UserError(f"{path}: needs `pip install pympi-ling`") from None
    try:
        file = Eaf(str(path))
        for tier in file.get_tier_names():
            cues = file.get_annotation_data_for_tier(tier)
            if cues:
                speaker = file.get_parameters_for_tier(tier).get("PARTICIPANT", "")
                for start, end, text, *_ in cues:
                    yield start / 1000, end / 1000, text, speaker
                return
    except Exception as error:  # pympi raises many kinds
        raise UserError(f"{path}: not a readable ELAN file ({error})") from None


TIMED: dict[str, Callable[[Path], Iterator[Cue]]] = {
    ".srt": read_subtitles,
    ".vtt": read_subtitles,
    ".textgrid": read_textgrid,
    ".eaf": read_elan,
}
PLAIN = (".txt", ".lab")


def rows_of_cues(audio: Path, path: Path, read: Callable[[Path], Iterator[Cue]]) -> Rows:
    """A row per cue of a file of times that belongs to one recording."""
    try:
        for number, (start, end, text, speaker) in enumerate(read(path), start=1):
            where = f"{path}, cue {number}"
            if text.strip():  # the pieces of one recording stay together
                yield Row(audio, where, text, start, end, speaker=speaker, group=str(audio))
    except (UserError, ValueError) as error:
        yield BadRow(str(path), str(audio), "transcript file", str(error))


def transcript_beside(audio: Path) -> Path | None:
    """The file with a recording's transcript: of its name, with another suffix."""
    for suffix in (*TIMED, *PLAIN):
        for name in (audio.with_suffix(suffix), audio.with_suffix(suffix.upper())):
            if name.is_file():
                return name
        if suffix == ".textgrid" and (name := audio.with_suffix(".TextGrid")).is_file():
            return name
    return None


def read_beside(audio: Path) -> Rows:
    """The rows of a recording whose transcript lies beside it; BadRow if there is none."""
    path = transcript_beside(audio)
    if path is None:
        yield BadRow(str(audio), str(audio), "no transcript", "no .txt, .lab, .srt, ... beside it")
        return
    try:
        if path.suffix.lower() in TIMED:
            yield from rows_of_cues(audio, path, TIMED[path.suffix.lower()])
        elif is_audacity(path):
            yield from rows_of_cues(audio, path, read_audacity)
        else:
            yield row_of_text(audio, path)
    except UserError as error:
        yield BadRow(str(path), str(audio), "transcript file", str(error))


def row_of_text(audio: Path, path: Path, skip: int = 0, **fields: str) -> Row | BadRow:
    """The row of a recording whose transcript is a text file, without its first `skip` words."""
    try:
        words = read_text(path).split()[skip:]
    except UserError as error:
        return BadRow(str(path), str(audio), "transcript file", str(error))
    return Row(audio, str(path), " ".join(words), **fields)


def read_stm(path: Path, audio_folder: Path, split: str = "") -> Rows:
    """The segments of an STM file: `file channel speaker start end <label> words`.

    Segments to ignore in scoring are left out.
    """
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip() or line.startswith(";;"):
            continue
        where = f"{path}:{number}"
        fields = line.split(None, 5)
        try:
            name, channel, speaker, start, end = fields[:5]
            times = float(start), float(end)
        except ValueError:
            yield BadRow(where, "", "row", "not `file channel speaker start end words`")
            continue
        text = re.sub(r"^<[^>]*>\s*", "", fields[5] if len(fields) > 5 else "")
        if text.strip() == "ignore_time_segment_in_scoring":
            continue
        audio = audio_named(audio_folder, name)
        number_of = {"A": 1, "B": 2, "1": 1, "2": 2}.get(channel)
        yield Row(audio, where, text, *times, channel=number_of, speaker=speaker, split=split)


def audio_named(folder: Path, stem: str) -> Path:
    """The recording of this name in a folder, with whatever suffix of audio it has."""
    if (exact := folder / stem).suffix.lower() in AUDIO_SUFFIXES and exact.exists():
        return exact
    for suffix in sorted(AUDIO_SUFFIXES):
        for name in (f"{stem}{suffix}", f"{stem}{suffix.upper()}"):
            if (folder / name).exists():
                return folder / name
    return folder / f"{stem}.wav"
