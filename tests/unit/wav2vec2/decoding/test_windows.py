"""Windows cover a recording once, on the grid; cuts lie in pauses."""

import numpy as np
import pytest

from wav2vec2.decoding.windows import Window, cut_path, plan_windows
from wav2vec2.text.vocabulary import Spelling, Vocabulary


@pytest.mark.parametrize(("length", "overlap", "grid"), [(12, 4, 4), (12, 6, 3), (10, 0, 1)])
def test_windows_cover_every_frame_once_with_context(length, overlap, grid):
    for frames in range(100):
        windows = plan_windows(frames, length, overlap, grid)
        kept = [f for w in windows for f in range(w.keep_start, w.keep_end)]
        assert kept == list(range(frames))
        if frames <= length:
            assert windows == [Window(0, frames, 0, frames)]
            continue
        for window, following in zip(windows, windows[1:]):
            assert window.end - window.start == length
            assert following.start - window.start <= length - overlap
            assert window.end - window.keep_end >= overlap // 2
            assert following.keep_start - following.start >= overlap // 2
        assert all(w.start % grid == 0 for w in windows)
        assert windows[-1].end == frames
        assert length - grid < windows[-1].end - windows[-1].start <= length


def path_of(text, vocabulary):
    """`_` is the blank."""
    return np.array([0 if s == "_" else vocabulary.encode(s)[0] for s in text.split()])


LETTERS = Vocabulary(["|", "A", "B"])


@pytest.mark.parametrize(
    ("vocabulary", "text", "cut"),
    [
        # Between words, although a pause inside a word is longer.
        (LETTERS, "A A B | _ _ _ A _ _ _ _ _ B B B", 6),
        # No end of a word in reach: the longest run of blanks.
        (LETTERS, "A A A A A _ _ A _ _ _ _ B | _ _", 10),
        # Neither: where it must.
        (LETTERS, "A " * 16, 12),
        # The word ends before the reach begins, its pause is in it.
        (LETTERS, "A | _ _ _ _ _ _ _ _ _ _ _ _ _ _", 9),
        (Vocabulary(["▁A", "B"], Spelling.PIECES), "B B B B B B _ _ _ B B _ ▁A B B B", 11),
        (Vocabulary(["A"], Spelling.TOKENS), "A A A A A A A A _ _ A A A A A A", 9),
    ],
)
def test_cuts(vocabulary, text, cut):
    assert cut_path(path_of(text, vocabulary), 12, vocabulary) == cut


def test_cuts_are_in_reach():
    generator = np.random.default_rng(0)
    for _ in range(300):
        path = generator.choice([0, 0, 0, 4, 5, 6], size=30)
        assert 10 <= cut_path(path, 20, LETTERS) <= 20
