"""Recordings that a user names: files, and folders of audio."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wav2vec2.audio.decode import HEADERLESS
from wav2vec2.audio.source import is_regular, printable, recording_key
from wav2vec2.cli.errors import UserError
from wav2vec2.files.folders import files_below

_log = logging.getLogger(__name__)

# fmt: off
AUDIO_SUFFIXES = {
    ".3gp", ".aac", ".aif", ".aiff", ".amr", ".au", ".caf", ".flac", ".g722", ".m4a", ".mka",
    ".mkv", ".mp3", ".mp4", ".ogg", ".opus", ".rf64", ".sph", ".w64", ".wav", ".webm", ".wma",
    *HEADERLESS,
}
# fmt: on

EACH = "each"
AVERAGE = "average"


def parse_channel(text: str) -> int | None:
    """The number, from 1, that --channel gives; None for `average` and `each`."""
    if text in (AVERAGE, EACH):
        return None
    if text.isascii() and text.isdigit() and int(text) >= 1:
        return int(text)
    raise UserError(f"--channel {text}: must be average, each, or a channel's number from 1")


@dataclass(frozen=True, slots=True)
class Recording:
    """One file, or one row of a table."""

    id: str
    """Stem of the files written for it."""
    key: str
    """Decides the split.  Unlike the id, it does not depend on the other recordings."""
    source: Path
    where: str
    """Its name in messages: its path, or file and line of the table."""
    text: str | None = None
    speaker: str = ""
    split: str = ""
    channel: int | None = None
    """The channel to use, from 1; None: their average."""


def recordings_below(folder: Path, name: str, without: Path | None = None) -> list[Recording]:
    """The audio files below a folder, by suffix, sorted; skips hidden ones and the folder
    `without`.

    Links to folders are followed.  UserError, which calls the folder `name`, if there are none.
    """
    hidden = without and without.resolve()
    files = []
    for path in files_below(
        folder,
        lambda file: file[0] != "." and Path(file).suffix.lower() in AUDIO_SUFFIXES,
        lambda place: place.name[0] == "." or place.resolve() == hidden,
    ):
        if is_regular(path):
            files.append(path)
        else:  # nothing may ever be written to a pipe
            _log.warning("%s: skipped, not a file", printable(path))
    if not files:
        suffixes = " ".join(sorted(AUDIO_SUFFIXES))
        raise UserError(f"{name}: a folder without audio files ({suffixes})")
    return [named_recording(recording_key(file, folder), file) for file in sorted(files)]


def recordings_at(name: str) -> list[Recording]:
    """The file with that name, or the audio files below the folder with that name."""
    path = Path(name)
    if os.path.isdir(name):  # unlike pathlib's, it raises nothing for a name that is too long
        return recordings_below(path, name)
    return [named_recording(recording_key(path, path.parent), path, name)]


def named_recording(key: str, path: Path, name: str = "") -> Recording:
    """A recording without transcript, called `name`; default: its path."""
    return Recording(key, key, path, printable(name or path))


def _kind(recording: Recording) -> str:
    """The suffix without its dot; for a zip member that of the archive."""
    kind = recording.source.suffix.lstrip(".").lower().partition(":")[0]
    return recording_key(Path(kind), Path())


def unique_ids(recordings: Sequence[Recording]) -> list[Recording]:
    """The recordings, with equal ids made different: by their folders (a/x.wav, b/x.wav: a_x, b_x)
    or their suffixes (x.wav, x.mp3: x_wav, x_mp3), or else by numbers (a/b.wav, a_b.wav:
    a_b_wav, a_b_wav_2).

    UserError for a file that is named twice.
    """
    first: dict[tuple[str, int | None, str], Recording] = {}
    for recording in recordings:  # pieces of one file have keys of their own
        piece = (str(recording.source), recording.channel, recording.key)
        other = first.setdefault(piece, recording)
        if other is not recording:
            raise UserError(
                f"{recording.where}: {printable(recording.source)} is named a second time, first "
                f"in {other.where}; remove one"
            )
    named = _told_apart(_told_apart(recordings, _id_with_folders), _id_with_suffix)
    taken = {recording.id for recording in named}
    if len(taken) == len(named):
        return named
    used: set[str] = set()
    found = []
    for recording in named:
        key, number = recording.id, 1
        while key in used or (number > 1 and key in taken):
            number += 1
            key = f"{recording.id}_{number}"
        used.add(key)
        found.append(recording if number == 1 else replace(recording, id=key))
    return found


def _told_apart(
    recordings: Sequence[Recording], id_of: Callable[[Recording, Path], str]
) -> list[Recording]:
    """The recordings; those that share an id have `id_of(recording, folder above them all)`."""
    counts = Counter(recording.id for recording in recordings)
    folders: dict[str, list[str]] = {}
    for recording in recordings:
        if counts[recording.id] > 1:
            folder = os.path.abspath(recording.source.parent)
            folders.setdefault(recording.id, []).append(folder)
    above = {key: Path(os.path.commonpath(paths)) for key, paths in folders.items()}
    return [replace(r, id=id_of(r, above[r.id])) if r.id in above else r for r in recordings]


def _id_with_folders(recording: Recording, root: Path) -> str:
    return recording_key(Path(os.path.abspath(recording.source)), root)


def _id_with_suffix(recording: Recording, root: Path) -> str:
    return f"{recording.id}_{_kind(recording)}"
