"""Warnings about a codebook, on curves of healthy and of degenerate runs."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.training.health import SHORTEST_WINDOW, WARNING_PATIENCE, Warnings
from common.training.meter import COUNTS, Sums
from tasks.codebook import codebook_advice
from tasks.pretraining import PretrainingTask
from tests.unit.test_repository import ROOT
from wav2vec2.config import MINI, ContrastiveObjective

LOG = ROOT / "docs" / "results" / "quickstart" / "pretrain" / "nvlog.json"
HEALTHY = [30.0, 0.25]


class Task(SimpleNamespace):
    """What of a pre-training the warnings need."""

    problem, summarise = PretrainingTask.problem, PretrainingTask.summarise


def warnings_of(curve, capsys, warmup=None, architecture=MINI, targets=100, max_update=None):
    """The updates with a warning, and the texts; `curve` `[updates, 2]`: perplexity, accuracy."""
    updates = max_update or len(curve)
    warmup = updates // 10 if warmup is None else warmup
    task = Task(
        architecture=architecture,
        objective=ContrastiveObjective(),
        mixture=SimpleNamespace(measured=lambda totals: {}),
    )
    watched = Warnings(task.problem, torch.device("cpu"), warmup_updates=warmup, max_update=updates)
    none = dict.fromkeys(
        ("loss", "contrastive_loss", "diversity_loss", "features_penalty", "prob_perplexity"), 0.0
    )
    for update, (perplexity, accuracy) in enumerate(curve, start=1):
        sums = Sums()
        sums.add({"targets": 2 * targets, **dict.fromkeys(COUNTS[1:], 0), "temperature": 0.0})
        sums.add({**none, "code_perplexity": 2 * perplexity, "sub_batches": 2})
        sums.add({"correct": 2 * targets * accuracy})
        watched.applied(update, sums)
    lines = capsys.readouterr().err.splitlines()
    return [int(line.split()[2].rstrip(":")) for line in lines], lines


def recorded(path=LOG):
    """The curve of a run's log: each interval's means for each of its updates."""
    curve = []
    for line in path.read_text().splitlines():
        record = json.loads(line.removeprefix("DLLL "))
        data = record.get("data", {})
        if "train_code_perplexity" in data:
            epoch, iteration, length = record["step"]
            rest = (epoch - 1) * length + iteration - len(curve)
            curve += [[data["train_code_perplexity"], data["train_accuracy"]]] * rest
    return curve


def test_the_recorded_healthy_run_has_no_warning(capsys):
    curve = recorded()
    assert len(curve) == 3000
    assert warnings_of(curve, capsys) == ([], [])


@pytest.mark.parametrize("accuracy", [0.6, 0.7])
@pytest.mark.parametrize("updates", [600, 1000, 6000, 400_000 // 50])
def test_few_codes_are_reported_within_a_tenth_of_the_run(capsys, updates, accuracy):
    """Nine of 64 codes from the start; the accuracy rises during the warm-up."""
    rising = np.minimum(np.linspace(0, 10 * accuracy, updates), accuracy)
    curve = np.stack([np.full(updates, 9.0), rising], axis=1)
    found, lines = warnings_of(curve, capsys)
    assert found[0] <= updates // 10 + updates // 10
    repeated = set(np.diff(found))  # every tenth of a run that is not short
    assert repeated == {max(100, updates // 10)}
    assert "degenerate codebook: 9.0 of 64 codes in use" in lines[-1]
    assert "raise the diversity weight, the first of --loss_weights, from 0.1 to 0.5" in lines[0]


def test_a_codebook_that_degenerates_later_is_reported_within_a_tenth(capsys):
    found, lines = warnings_of([HEALTHY] * 500 + [[9.0, 0.65]] * 500, capsys)
    assert 500 < found[0] <= 600 and "degenerate" in lines[0]


def test_few_codes_without_accuracy_are_reported_after_the_warm_up(capsys):
    found, lines = warnings_of([[15.9, 0.1]] * 1000, capsys)
    assert 100 < found[0] <= 200 and "few codes: 15.9 of 64 codes in use" in lines[0]
    assert warnings_of([[16.0, 0.7]] * 1000, capsys) == ([], [])


@pytest.mark.parametrize("warmup", [100, 105, 499])
def test_few_codes_during_the_warm_up_only_are_no_problem(capsys, warmup):
    curve = [[9.0, 0.2]] * warmup + [HEALTHY] * (1000 - warmup)
    assert warnings_of(curve, capsys, warmup=warmup) == ([], [])


def test_a_short_dip_is_no_problem(capsys):
    dip = [[9.0, 0.3]] * (SHORTEST_WINDOW * (WARNING_PATIENCE - 1))
    assert warnings_of((dip + [HEALTHY] * 60) * 10, capsys) == ([], [])


@pytest.mark.parametrize("updates", [1, 4, 49])
def test_a_run_of_few_updates_has_no_warning(capsys, updates):
    assert warnings_of([[2.5, 0.9]] * updates, capsys, warmup=0) == ([], [])


def test_a_short_run_has_one_as_soon_as_there_is_evidence(capsys):
    found, _ = warnings_of([[5.0, 0.7]] * 100, capsys, warmup=10)
    assert found == [SHORTEST_WINDOW * WARNING_PATIENCE]


@pytest.mark.parametrize("groups, entries", [(1, 64), (1, 320), (2, 320)])
def test_other_codebooks(capsys, groups, entries):
    architecture = replace(MINI, codebook_groups=groups, codebook_entries=entries, final_dim=64)
    codes = groups * entries
    few, enough = [[0.24 * codes, 0.4]] * 500, [[0.26 * codes, 0.7]] * 500
    options = {"architecture": architecture, "targets": 2000}
    found, lines = warnings_of(few, capsys, **options)
    assert found and f" of {codes} codes in use" in lines[0]
    assert warnings_of(enough, capsys, **options) == ([], [])


def test_more_codes_than_a_sub_batch_has_masked_frames(capsys):
    """30 masked frames can use 30 codes of each codebook, however large that is."""
    architecture = replace(MINI, codebook_entries=320)
    curve = [[40.0, 0.2]] * 500
    assert warnings_of(curve, capsys, architecture=architecture, targets=30) == ([], [])
    found, lines = warnings_of([[9.0, 0.2]] * 500, capsys, architecture=architecture, targets=30)
    assert found and "9.0 of 60 codes" in lines[0]


def test_the_advice_depends_on_the_weight():
    weight = "raise the diversity weight, the first of --loss_weights, from"
    assert codebook_advice(0.0, True) == f"{weight} 0 to 0.5"
    assert codebook_advice(0.5, True) == f"{weight} 0.5 to 1"
    kept = "set --keep_equal_distractors true, and "
    assert codebook_advice(0.1, False) == f"{kept}{weight} 0.1 to 0.5"
