"""What the readers of a corpus yield, before anything is converted."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SUBSETS = ("train", "valid", "test")
_SPLITS = {
    **dict.fromkeys(("train", "training", "trn", "tr"), "train"),
    **dict.fromkeys(("valid", "validation", "val", "dev", "devel", "development", "cv"), "valid"),
    **dict.fromkeys(("test", "testing", "tst", "eval", "evaluation"), "test"),
}


@dataclass(frozen=True)
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


@dataclass(frozen=True)
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


def split_of(path: Path, folder: Path) -> str:
    """The subset that a file's name gives, or else the names of the folders down from `folder`.

    That one's own name counts if it is one word: `test`, but not `test_corpus`.
    """
    own = folder.name if folder.name.isalpha() else ""
    names = (path.name, *reversed(path.relative_to(folder).parts[:-1]), own)
    # Hugging Face converts a part of a large subset: partial-train.
    return next(filter(None, (subset_named(name.removeprefix("partial-")) for name in names)), "")
