"""What is skipped of a filelist, and what is said of it."""

from pathlib import Path

import pytest
import torch

from tasks.data import draw_factor, filter_utterances
from wav2vec2.cli.errors import UserError
from wav2vec2.files.filelists import Manifest, Utterance


def manifest(*samples):
    utterances = [Utterance(f"u{n}", f"u{n}.flac", count, n + 2) for n, count in enumerate(samples)]
    return Manifest(Path("train.tsv"), Path("/data"), tuple(utterances))


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        ((10, 990), "train.tsv: 1 of 2 utterances are short\n"),
        ((60, 940), "warning: train.tsv: 1 of 2 utterances are short, 6 % of the audio\n"),
        ((0, 0), "train.tsv: 1 of 2 utterances are short, 100 % of the audio\n"),
    ],
)
def test_much_lost_audio_is_a_warning(samples, said, capsys):
    kept = filter_utterances(manifest(*samples), [False, True], "are short")
    assert [u.id for u in kept] == ["u1"]
    assert said in "".join(capsys.readouterr())


def test_nothing_is_said_if_all_are_kept(capsys):
    assert len(filter_utterances(manifest(1, 2), [True, True], "are short")) == 2
    assert "".join(capsys.readouterr()) == ""
    with pytest.raises(UserError, match="all of its 2 utterances are short"):
        filter_utterances(manifest(1, 2), [False, False], "are short")


def test_the_factor_of_an_update_is_drawn_evenly():
    """Each within five deviations of its share, in any order; another seed draws others."""
    factors, updates = (2, 3, 4, 5, 6), 5_000
    drawn = [draw_factor(factors, 1, update) for update in range(1, updates + 1)]
    for factor in factors:
        assert abs(drawn.count(factor) - updates / 5) < 5 * (updates * 0.2 * 0.8) ** 0.5
    pairs = list(zip(drawn, drawn[1:]))
    for pair in ((2, 2), (2, 6), (6, 2)):
        assert abs(pairs.count(pair) - updates / 25) < 5 * (updates / 25) ** 0.5
    other = [draw_factor(factors, 2, update) for update in range(1, updates + 1)]
    assert 0.1 < sum(a == b for a, b in zip(drawn, other)) / updates < 0.3


def test_the_factor_depends_on_seed_and_update_alone():
    torch.manual_seed(3)
    first = [draw_factor((2, 4, 6), 1, update) for update in range(1, 9)]
    torch.manual_seed(4)
    torch.rand(7)
    assert [draw_factor((2, 4, 6), 1, update) for update in (8, 3)] == [first[7], first[2]]
    state = torch.get_rng_state()
    assert draw_factor((), 1, 1) is None and draw_factor((2, 3), 1, 1) in (2, 3)
    assert torch.equal(state, torch.get_rng_state())  # dropout's draws stay as they were
