"""utils/benchmarks/training.py prints what it says; what it measures is no test's business."""

import re

import pytest

from utils.benchmarks import training
from wav2vec2.config import MINI

LINES = {
    "loop": r"loop: an update of \d+ ms takes -?[\d.]+ % longer",
    "save": r"save: \d+ MiB block training for [\d.]+ s, [\d.]+ x the time",
    "processes": r"processes: 2 x 1 thread [\d.]+ updates/s, 1 x 2 threads",
}


@pytest.mark.parametrize(
    "what", ["loop", "save", pytest.param("processes", marks=pytest.mark.long)]
)
def test_a_measure_prints_its_line(tmp_path, monkeypatch, capfd, what):
    monkeypatch.setattr(training, "UPDATES", 12)
    monkeypatch.setattr(training, "ROUNDS", 1)
    monkeypatch.setattr(training, "BASE", MINI)
    training.write_corpus(tmp_path, utterances=24)
    training.MEASURES[what](tmp_path)
    assert re.match(LINES[what], capfd.readouterr().out.splitlines()[-1])
