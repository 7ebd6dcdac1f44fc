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


@dataclass(frozen=True, slots=True)
class Row:
    """One utterance of a corpus: a file, or a piece of it."""

    audio: Path
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


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that names no utterance, and why."""

    where: str
    source: str
    reason: str
    """One of a few kinds, for counting."""
    detail: str


Rows = Iterator[Row | BadRow]


def subset_named(name: str) -> str:
    """train, valid or test for the names that corpora give them (dev, train-clean-100); else ""."""
    first = re.split(r"[-_. ]", name.strip().lower())[0]
    return _SPLITS.get(first, "")
