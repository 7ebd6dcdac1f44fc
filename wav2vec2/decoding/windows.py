"""Where long recordings are cut: windows for the model, and pauses for the search."""

import itertools
from dataclasses import dataclass

import numpy as np

from wav2vec2.ctc import BLANK
from wav2vec2.text.subwords import WORD_START
from wav2vec2.text.vocabulary import WORD_END, Spelling, Vocabulary


@dataclass(frozen=True)
class Window:
    """Frames that the model processes together, and those that are kept; the rest is context."""

    start: int
    """First frame."""
    end: int
    """Frame after the last one."""
    keep_start: int
    """First frame kept."""
    keep_end: int
    """Frame after the last one kept: the next window's `keep_start`."""

    @property
    def kept(self) -> int:
        """Number of frames kept."""
        return self.keep_end - self.keep_start


def plan_windows(frames: int, length: int, overlap: int, grid: int) -> list[Window]:
    """Windows of `length` frames that cover `frames`; a recording up to `length` has one window.

    Each starts on a multiple of `grid`, `length - overlap` after the one before.  The last one ends
    with the recording and starts early enough to be as long as the others (up to `grid` less).
    Kept frames change from one window to the next in the middle of their overlap.  `length` and
    `overlap` are multiples of `grid`, and `overlap` is less than `length`.
    """
    assert length % grid == 0 and overlap % grid == 0 and overlap < length
    if frames <= length:
        return [Window(0, frames, 0, frames)]
    last = -(-(frames - length) // grid) * grid
    starts = [*range(0, last, length - overlap), last]
    ends = [start + length for start in starts[:-1]] + [frames]
    parts = [(start + end) // 2 for start, end in zip(starts[1:], ends)]
    return [Window(*edges) for edges in zip(starts, ends, [0, *parts], [*parts, frames])]


def cut_path(path: np.ndarray, most: int, vocabulary: Vocabulary) -> int:
    """The frame, from `most // 2` to `most`, at which a search may end and the next one begin.

    `path` `[frames]`, longer than `most`: the best unit of each frame.  The middle of the longest
    run of blanks between words; if there is none, of the longest run of blanks; else `most`.
    """
    runs = []  # (unit, its first frame, the frame after its last)
    for unit, run in itertools.groupby(range(len(path)), key=lambda frame: int(path[frame])):
        frames = list(run)
        runs.append((unit, frames[0], frames[-1] + 1))
    found = [(False, 0, most)]
    symbols = vocabulary.symbols
    for number, (unit, start, end) in enumerate(runs):
        start, end = max(start, most // 2), min(end, most)
        if unit != BLANK or end <= start:
            continue
        before = symbols[runs[number - 1][0]] if number else WORD_END
        after = symbols[runs[number + 1][0]] if number + 1 < len(runs) else ""
        between = {
            Spelling.LETTERS: before == WORD_END,
            Spelling.PIECES: after.startswith(WORD_START),
            Spelling.TOKENS: True,
        }[vocabulary.spelling]
        found.append((between, end - start, (start + end) // 2))
    return max(found)[2]
