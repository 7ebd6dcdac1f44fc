"""Transcripts beside a recording: plain text, and with times STM, SRT, VTT, Audacity's labels,
TextGrid, ELAN.

`pip install praatio pympi-ling` reads the last two.
"""

import html
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from utils.corpora.rows import BadRow, Row, Rows, corpus_lines, corpus_text
from wav2vec2.audio.recordings import AUDIO_SUFFIXES
from wav2vec2.cli.errors import UserError

Cue = tuple[float, float, str, str]
"""(start, end, text, speaker), in seconds."""
Cues = Iterator[Cue | BadRow]

PAUSE = 0.3
"""Seconds between two words of a tier of words that end an utterance."""

_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
_ARROW = re.compile(rf"{_TIME}\s*-->\s*{_TIME}")
_WORD_TIER = re.compile(r"word|token|\bort\b", re.IGNORECASE)
_PHONE_TIER = re.compile(r"phon|segment|syll|\b(kan|mau)$", re.IGNORECASE)


def _seconds(hours: str | None, minutes: str, seconds: str, fraction: str) -> float:
    whole = 3600 * int(hours or 0) + 60 * int(minutes) + int(seconds)
    return whole + int(fraction) / 10 ** len(fraction)


def read_subtitles(path: Path, tier: str = "") -> Cues:
    """The cues of an SRT or VTT file, without their mark-up."""
    for block in re.split(r"\n\s*\n", corpus_text(path).replace("\r\n", "\n")):
        found = _ARROW.search(block)
        if found and not block.startswith("NOTE"):
            text = block[found.end() :].partition("\n")[2]  # after the cue's settings
            speaker = re.search(r"<v(?:\.\S+)? ([^>]+)>", text)
            text = html.unescape(re.sub(r"<[^>\n]*>|\{\\[^}]*\}", "", text))
            start, end = _seconds(*found.groups()[:4]), _seconds(*found.groups()[4:])
            yield start, end, " ".join(text.split()), speaker[1].strip() if speaker else ""


_LABEL = re.compile(r"(-?\d+[.,]\d+)\t(-?\d+[.,]\d+)\t(.*)")


def read_audacity(path: Path, tier: str = "") -> Cues:
    """The labels that Audacity exports: start, end and text between tabs."""
    for number, line in enumerate(corpus_lines(path), start=1):
        if found := _LABEL.fullmatch(line):
            start, end = (float(found[n].replace(",", ".")) for n in (1, 2))
            yield start, end, found[3], ""
        elif line.strip() and not line.startswith("\\"):  # \ begins a line of frequencies
            yield BadRow(f"{path}:{number}", str(path), "row", "not `start end text` between tabs")


def is_audacity(path: Path) -> bool:
    """Whether a text file is one of Audacity's labels."""
    return bool(_LABEL.fullmatch(next(iter(corpus_lines(path)), "")))


def _joined(cues: Iterable[Cue]) -> Iterator[Cue]:
    """Words -> utterances, which a pause separates."""
    held: Cue | None = None
    for start, end, text, speaker in cues:
        if held and start - held[1] < PAUSE:
            held = held[0], end, f"{held[2]} {text}", speaker
            continue
        if held:
            yield held
        held = start, end, text, speaker
    if held:
        yield held


def _other_tiers(path: Path, names: Iterable[str], read: Iterable[str]) -> Cues:
    """A report of each tier that is not read, though it may hold speech."""
    for name in names:
        detail = f"tier {name!r} is not read but {', '.join(map(repr, read))}; name it with --tier"
        yield BadRow(f"{path} {name}", str(path), "other tier", detail)


def _no_tier(path: Path, tier: str, names: Iterable[str]) -> UserError:
    listed = ", ".join(map(repr, names)) or "none"
    return UserError(f"{path}: no tier {tier!r}; its tiers with text are {listed}")


def read_textgrid(path: Path, tier: str = "") -> Cues:
    """The labelled intervals of the tiers that `tier` matches; by default of the first that is no
    tier of phones.  Words are joined to utterances."""
    try:
        from praatio import textgrid
    except ImportError:
        raise UserError(f"{path}: needs `pip install praatio`") from None
    try:
        grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=False)
    except Exception as error:  # praatio raises many kinds
        raise UserError(f"{path}: not a readable TextGrid ({error})") from None
    tiers = {
        t.name: t.entries
        for t in grid.tiers
        if isinstance(t, textgrid.IntervalTier) and any(e.label.strip() for e in t.entries)
    }
    if tier:
        chosen = [name for name in tiers if re.fullmatch(tier, name)]
        others = []
        if not chosen:
            raise _no_tier(path, tier, tiers)
    else:
        spoken = [name for name in tiers if not _PHONE_TIER.search(name)]
        spoken = [name for name in spoken if not _WORD_TIER.search(name)] or spoken or [*tiers]
        chosen, others = spoken[:1], spoken[1:]
    for name in chosen:
        cues = ((float(e.start), float(e.end), e.label, "") for e in tiers[name])
        yield from _joined(cues) if _WORD_TIER.search(name) else cues
    yield from _other_tiers(path, others, chosen)


def read_elan(path: Path, tier: str = "") -> Cues:
    """The annotations of the tiers that `tier` matches; by default of those that have the type of
    the first one, and depend on no other.  A tier's participant is the speaker."""
    try:
        from pympi.Elan import Eaf
    except ImportError:
        raise UserError(f"{path}: needs `pip install pympi-ling`") from None
    try:
        file = Eaf(str(path))
        names = [name for name in file.get_tier_names() if file.get_annotation_data_for_tier(name)]
        facts = {name: file.get_parameters_for_tier(name) for name in names}
        cues = {name: file.get_annotation_data_for_tier(name) for name in names}
    except Exception as error:  # pympi raises many kinds
        raise UserError(f"{path}: not a readable ELAN file ({error})") from None
    if tier:
        chosen = [name for name in names if re.fullmatch(tier, name)]
        others = []
        if not chosen:
            raise _no_tier(path, tier, names)
    else:
        spoken = [name for name in names if not facts[name].get("PARENT_REF")]
        kinds = [facts[name].get("LINGUISTIC_TYPE_REF") for name in spoken]
        people = [facts[name].get("PARTICIPANT") for name in spoken]
        chosen = [n for n, k, p in zip(spoken, kinds, people) if k == kinds[0] and p] or spoken[:1]
        if spoken and spoken[0] not in chosen:
            chosen = spoken[:1]
        others = [name for name in spoken if name not in chosen]
    for name in chosen:
        for start, end, text, *_ in sorted(cues[name]):
            yield start / 1000, end / 1000, text, facts[name].get("PARTICIPANT") or ""
    yield from _other_tiers(path, others, chosen)


TIMED: dict[str, Callable[[Path, str], Cues]] = {
    ".srt": read_subtitles,
    ".vtt": read_subtitles,
    ".textgrid": read_textgrid,
    ".eaf": read_elan,
}
PLAIN = (".txt", ".lab")
_TEXT_FOLDERS = ("txt", "text", "lab", "label", "labels", "transcript", "transcripts")
_AUDIO_FOLDERS = ("wav", "wavs", "audio", "flac", "mp3", "recordings", "clips", "speech")


@dataclass(frozen=True)
class TranscriptOptions:
    """Transcripts beside recordings"""

    transcript_suffix: str = ""
    """What a transcript's name has in place of the recording's suffix, such as .normalized.txt;
    default: .txt, .lab, .srt, .vtt, .TextGrid or .eaf."""
    tier: str = ""
    """Regular expression of the tiers to read in TextGrid and ELAN files; default: the first with
    words, and in ELAN the others of its type.  Tiers not read are listed."""

    def __post_init__(self) -> None:
        try:
            re.compile(self.tier)
        except re.error as error:
            raise UserError(f"--tier {self.tier!r}: not a regular expression ({error})") from None


BY_DEFAULT = TranscriptOptions()


def rows_of_cues(
    audio: Path, path: Path, read: Callable[[Path, str], Cues], tier: str = ""
) -> Rows:
    """A row per cue of a file of times that belongs to one recording."""
    try:
        for number, cue in enumerate(read(path, tier), start=1):
            if isinstance(cue, BadRow):
                yield cue
                continue
            start, end, text, speaker = cue
            if text.strip():
                yield Row(audio, f"{path}, cue {number}", text, start, end, speaker=speaker)
    except UserError as error:
        yield BadRow(str(path), str(audio), "transcript file", str(error))


@lru_cache(maxsize=1024)
def _places(folder: Path) -> tuple[Path, ...]:
    """Where transcripts of a folder's recordings may lie: in it, or in txt/ for wav/."""
    found = [folder]
    for above in (folder, *folder.parents[:2]):
        if above.name.lower() in _AUDIO_FOLDERS:
            places = (above.parent / name / folder.relative_to(above) for name in _TEXT_FOLDERS)
            found += [place for place in places if place.is_dir()]
    return tuple(found)


def transcript_beside(audio: Path, suffix: str = "") -> Path | None:
    """The file with a recording's transcript: of its name, with another suffix."""
    for place in _places(audio.parent):
        for ending in (suffix,) if suffix else (*TIMED, *PLAIN):
            endings = {ending: None, ending.upper(): None}
            if ending == ".textgrid":
                endings = {".TextGrid": None, **endings}
            for stem in dict.fromkeys((audio.stem, audio.name)):
                for each in endings:
                    if (name := place / f"{stem}{each}").is_file():
                        return name
    return None


def read_beside(audio: Path, options: TranscriptOptions = BY_DEFAULT) -> Rows:
    """The rows of a recording whose transcript lies beside it; BadRow if there is none."""
    path = transcript_beside(audio, options.transcript_suffix)
    if path is None:
        looked_for = options.transcript_suffix or ".txt, .lab, .srt, ..."
        yield BadRow(str(audio), str(audio), "no transcript", f"no {looked_for} beside it")
        return
    try:
        if path.suffix.lower() in TIMED:
            yield from rows_of_cues(audio, path, TIMED[path.suffix.lower()], options.tier)
        elif is_audacity(path):
            yield from rows_of_cues(audio, path, read_audacity)
        else:
            yield row_of_text(audio, path)
    except UserError as error:
        yield BadRow(str(path), str(audio), "transcript file", str(error))


def row_of_text(audio: Path, path: Path, skip: int = 0, **fields: str) -> Row | BadRow:
    """The row of a recording whose transcript is a text file, without its first `skip` words."""
    try:
        words = corpus_text(path).split()[skip:]
    except UserError as error:
        return BadRow(str(path), str(audio), "transcript file", str(error))
    return Row(audio, str(path), " ".join(words), **fields)


_STM_LABEL = re.compile(r"^<(?:[^>\s]*,[^>\s]*|F\d_[FM]|NA)>", re.IGNORECASE)


def read_stm(path: Path, audio_folder: Path, split: str = "") -> Rows:
    """The segments of an STM file: `file channel speaker start end <label> words`.

    Segments to ignore in scoring are left out.
    """
    for number, line in enumerate(corpus_lines(path), start=1):
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
        text = _STM_LABEL.sub("", fields[5] if len(fields) > 5 else "").strip()
        if text.lower() == "ignore_time_segment_in_scoring":
            continue
        audio = audio_named(audio_folder, name)
        number_of = {"A": 1, "B": 2, "1": 1, "2": 2}.get(channel)
        yield Row(audio, where, text, *times, channel=number_of, speaker=speaker, split=split)


def audio_named(folder: Path, stem: str) -> Path:
    """The recording of this name in a folder, with whatever suffix of audio it has."""
    if (exact := folder / stem).suffix.lower() in AUDIO_SUFFIXES and exact.exists():
        return exact
    place = exact.parent  # the name may hold folders
    try:
        names = _audio_in(place, place.stat().st_mtime_ns)
    except (OSError, ValueError):
        return exact
    return place / names.get(unicodedata.normalize("NFC", exact.name), exact.name)


@lru_cache(maxsize=256)
def _audio_in(folder: Path, changed: int) -> dict[str, str]:
    """Name without suffix -> name, of the recordings in a folder that was changed at that time."""
    found = {}
    for name in sorted(os.listdir(folder), reverse=True):  # the first of equals counts
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in AUDIO_SUFFIXES:
            found[unicodedata.normalize("NFC", stem)] = name
    return found
