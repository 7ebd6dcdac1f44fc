"""Recordings that a user names: files, and folders of audio."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wav2vec2.audio.decode import HEADERLESS
from wav2vec2.audio.zip_member import stem
from wav2vec2.cli.errors import UserError

# fmt: off
AUDIO_SUFFIXES = {
    ".3gp", ".aac", ".aif", ".aiff", ".amr", ".au", ".caf", ".flac", ".g722", ".m4a", ".mka",
    ".mkv", ".mp3", ".mp4", ".ogg", ".opus", ".rf64", ".sph", ".w64", ".wav", ".webm", ".wma",
    *HEADERLESS,
}
# fmt: on
LONGEST_ID = 200
"""Bytes of an id at most; file names end at 255, and a suffix follows."""


@dataclass(frozen=True)
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


def recording_key(path: Path, root: Path) -> str:
    """A path as a file stem: relative to `root` if it is below it, without its suffix."""
    if path.is_relative_to(root):
        path = path.relative_to(root)
    name = str(path.with_name(stem(path))).lstrip("/").encode("utf-8", "replace").decode()
    name = re.sub(r"[\s/\\]", "_", name)
    if len(name.encode()) > LONGEST_ID:
        digest = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
        name = name.encode()[-(LONGEST_ID - 17) :].decode("utf-8", "ignore") + "_" + digest
    return name


def recordings_below(folder: Path, name: str, without: Path | None = None) -> list[Recording]:
    """The audio files below a folder, by suffix, sorted; skips hidden ones and the folder
    `without`.

    UserError, which calls the folder `name`, if there are none.
    """
    files = []
    for place, subfolders, names in os.walk(folder):
        subfolders[:] = [s for s in subfolders if Path(place, s) != without and s[0] != "."]
        paths = (Path(place, file) for file in names if file[0] != ".")
        files += [path for path in paths if path.suffix.lower() in AUDIO_SUFFIXES]
    if not files:
        suffixes = " ".join(sorted(AUDIO_SUFFIXES))
        raise UserError(f"{name}: a folder without audio files ({suffixes})")
    return [named_recording(recording_key(file, folder), file) for file in sorted(files)]


def recordings_at(name: str) -> list[Recording]:
    """The file with that name, or the audio files below the folder with that name."""
    path = Path(name)
    if path.is_dir():
        return recordings_below(path, name)
    return [named_recording(recording_key(path, path.parent), path, name)]


def named_recording(key: str, path: Path, name: str = "") -> Recording:
    """A recording without transcript, called `name`; default: its path."""
    return Recording(key, key, path, (name or str(path)).encode("utf-8", "replace").decode())


def _kind(recording: Recording) -> str:
    """The suffix without its dot; for a zip member that of the archive."""
    return recording.source.suffix.lstrip(".").lower().partition(":")[0]


def unique_ids(recordings: Sequence[Recording]) -> list[Recording]:
    """The recordings, with equal ids made different by the suffix (a.wav, a.mp3).

    UserError for a file that is named twice, or ids that are still equal (a/b.wav, a_b.wav).
    """
    first: dict[Path, Recording] = {}
    for recording in recordings:
        if recording.source in first:
            raise UserError(
                f"{recording.where}: {recording.source} is named a second time, first in "
                f"{first[recording.source].where}; remove one"
            )
        first[recording.source] = recording
    counts = Counter(r.id for r in recordings)
    named = [r if counts[r.id] == 1 else replace(r, id=f"{r.id}_{_kind(r)}") for r in recordings]
    owner: dict[str, Recording] = {}
    for recording in named:
        other = owner.setdefault(recording.id, recording)
        if other is not recording:
            raise UserError(
                f"{recording.where}: {recording.source} and {other.source} would both be called "
                f"{recording.id}; rename one"
            )
    return named
