"""What is skipped of a filelist, and what is said of it."""

from pathlib import Path

import pytest

from tasks.data import filter_utterances
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
