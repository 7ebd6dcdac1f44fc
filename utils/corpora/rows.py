"""What the readers of a corpus yield, before anything is converted, and how they read text."""

import codecs
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wav2vec2.cli.errors import UserError
from wav2vec2.files.text import read_text, split_lines

SUBSETS = ("train", "valid", "test")
_SPLITS = {
    **dict.fromkeys(("train", "training", "trn", "tr"), "train"),
    **dict.fromkeys(("valid", "validation", "val", "dev", "devel", "development", "cv"), "valid"),
    **dict.fromkeys(("test", "testing", "tst", "eval", "evaluation"), "test"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One utterance of a corpus: a file, or a piece of it."""

    audio: Path
    """The file of the recording, or the container that holds it."""
    where: str
    """Its name in messages: file and line, or the path of the audio."""
    text: str | None = None
    """The transcript; None for audio alone."""
    start: float = 0.0
    """Where the utterance begins in the file, in seconds."""
    end: float | None = None
    """Where it ends; None: at the end of the file."""
    declared: float | None = None
    """Length of the whole file, in seconds, as the corpus says; it is compared with the file's."""
    channel: int | None = None
    """The channel to use, from 1; None: as the command says."""
    speaker: str = ""
    group: str = ""
    """What must stay in one subset beside the speaker: a session, a sentence."""
    split: str = ""
    """train, valid or test, if the corpus names one."""
    member: str = ""
    """Which recording of `audio`, if that is a container: `<kind>:<place>`, as
    utils/corpora/containers/members.py reads it."""
    name: str = ""
    """What the container calls the recording, without a suffix; ids are made of it."""
    id: str = ""
    """The utterance's own name, if the corpus gives one."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that names no utterance, and why."""

    where: str
    source: str
    reason: str
    """One of a few kinds, for counting."""
    detail: str


@dataclass(frozen=True)
class Stored:
    """A recording of a container, as the value of a table's audio column."""

    audio: Path
    member: str
    name: str
    """These three as in Row."""


Rows = Iterator[Row | BadRow]


def subset_named(name: str) -> str:
    """train, valid or test for the names that corpora give them (dev, train-clean-100); else ""."""
    first = re.split(r"[-_. ]", name.strip().lower())[0]
    return _SPLITS.get(first, "")


def subset_of_folders(parts: Sequence[str], root: str = "", strict: bool = False) -> str:
    """The subset that one of some folder names tells, the last first; "" if none does.

    The name of the corpus' own folder, `root`, must be exact: it may be `test recordings`.
    So must all if `strict`.
    """
    for name in reversed(parts):
        if (found := subset_named(name)) and not (strict and not _is_subset(name)):
            return found
    return subset_named(root) if _is_subset(root) else ""


def _is_subset(name: str) -> bool:
    """Whether a folder's whole name is that of a subset, as in LibriSpeech: train-clean-100."""
    name = re.sub(r"-(clean|other)(-\d+)?$", "", name.strip().lower())
    return len(name) > 2 and name in _SPLITS


def encoding_of(start: bytes) -> str:
    """UTF-16 if a file begins with its byte order mark, else UTF-8, with or without one."""
    utf16 = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return "utf-16" if utf16 else "utf-8-sig"


def corpus_text(path: Path) -> str:
    """The content of a UTF-8 or UTF-16 file; UserError if it cannot be read."""
    try:
        return read_text(path)
    except UserError:
        try:
            content = path.read_bytes()
            if encoding_of(content) != "utf-16":
                raise
            return content.decode("utf-16")
        except (OSError, UnicodeDecodeError):
            pass
        raise


def corpus_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 or UTF-16 file; UserError if it cannot be read."""
    return split_lines(corpus_text(path))


def split_of(path: Path, folder: Path) -> str:
    """The subset that a file's name gives, or else the folders from `folder` down to it."""
    # Hugging Face converts a part of a large subset: partial-train.
    parts = [part.removeprefix("partial-") for part in path.relative_to(folder).parts]
    return subset_of_folders(parts, folder.name)
