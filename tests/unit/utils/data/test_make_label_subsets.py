"""Subsets by minutes: never longer than asked, part of each other, with their own labels."""

import sys

import numpy as np
import pytest

from utils.data import make_label_subsets
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import UserError
from wav2vec2.files.filelists import read_labels, read_manifest, write_manifest
from wav2vec2.files.output import write_lines

COUNT = 400


@pytest.fixture
def lists(tmp_path):
    """A filelist of utterances of 1 to 5 seconds; their audio is not opened."""
    samples = np.random.default_rng(0).integers(SAMPLE_RATE, 5 * SAMPLE_RATE, COUNT)
    files = [(f"a/{n}.flac", int(size)) for n, size in enumerate(samples)]
    files[7] = ("/elsewhere/7.flac", files[7][1])
    write_manifest(tmp_path, "train", "/data", files)
    for kind in ("wrd", "ltr"):
        write_lines(tmp_path / f"train.{kind}", [f"{kind} {n}" for n in range(COUNT)])
    return tmp_path


@pytest.fixture
def run(lists, monkeypatch):
    def call(*flags):
        argv = ["command", "--dataset_dir", str(lists), "--subset", "train", *flags]
        monkeypatch.setattr(sys, "argv", argv)
        make_label_subsets.main()

    return call


def minutes(manifest):
    return sum(u.samples for u in manifest.utterances) / SAMPLE_RATE / 60


@pytest.mark.parametrize("asked", [("1", "3", "10"), ("0.25", "5", "15")])
def test_lengths_labels_and_nesting(lists, run, asked):
    run("--minutes", *asked)
    whole, smaller = read_manifest(lists, "train"), set()
    order = [u.id for u in whole.utterances]
    for text in asked:
        subset = read_manifest(lists, f"train-{text}min")
        ids = [u.id for u in subset.utterances]
        assert float(text) - 6 / 60 < minutes(subset) <= float(text)
        assert smaller < set(ids)
        assert ids == sorted(ids, key=order.index)
        for kind in ("wrd", "ltr"):
            labels = read_labels(subset, kind)
            assert labels == {key: f"{kind} {key}" for key in ids}
        smaller = set(ids)
    assert "/elsewhere/7.flac" in {u.path for u in whole.utterances}


def test_the_seed_chooses(lists, run):
    chosen = []
    for seed in ("1", "2", "1"):
        run("--minutes", "3", "--seed", seed)
        chosen.append((lists / "train-3min.tsv").read_bytes())
    assert chosen[0] == chosen[2] != chosen[1]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--minutes", "60"], "has"),
        (["--minutes", "0.001"], "too few for an utterance"),
        (["--minutes", "3", "-1"], "must be positive"),
        (["--minutes", "3", "--labels", "phn"], "phn"),
    ],
)
def test_a_mistake_writes_nothing(lists, run, flags, said):
    before = sorted(path.name for path in lists.iterdir())
    with pytest.raises(UserError, match=said):
        run(*flags)
    assert sorted(path.name for path in lists.iterdir()) == before
