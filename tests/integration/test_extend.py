"""Runs that are extended to more updates: nothing is lost, and nothing else may change."""

import shutil

import pytest
import torch

import train
from tasks.recipes import parse_recipe, prepare_trainer
from tests.integration.conftest import flags
from tests.integration.test_bad_input import one_line
from tests.integration.test_training import (  # noqa: F401 (fixture)
    log_records,
    pretrained,
    stop_during,
)
from wav2vec2.cli.errors import StoppedBySignal, UserError
from wav2vec2.files.torch_file import load_checkpoint


def trainer_of(corpus, output, **changed):
    return prepare_trainer(
        parse_recipe(flags("pretrain", corpus, output, **changed)), torch.device("cpu")
    )


def same_weights(a, b):
    one, other = load_checkpoint(a), load_checkpoint(b)
    assert all(torch.equal(w, other["model"][name]) for name, w in one["model"].items())
    assert (one["position"], one["update"]) == (other["position"], other["update"])
    moments = zip(one["optimizer"]["state"].values(), other["optimizer"]["state"].values())
    assert all(torch.equal(m["exp_avg_sq"], n["exp_avg_sq"]) for m, n in moments)


def test_extended_like_a_run_continued_by_hand(corpus, pretrained, tmp_path, capsys):  # noqa: F811
    """The finished run of 4 updates (warm-up 1, peak 1e-3) had rates 1e-3 ... 1e-3 / 3."""
    shutil.copytree(pretrained.parent, tmp_path / "run")
    trainer_of(corpus, tmp_path / "run", max_update=6, extend=True).train()
    assert "extended from 4 to 6 updates after update 4: " in capsys.readouterr().err

    by_hand = trainer_of(corpus, tmp_path / "hand", max_update=6)
    saved = load_checkpoint(pretrained)
    by_hand.state.weights.load_state_dict(saved["model"])
    by_hand.state.optimizer.load_state_dict(saved["optimizer"])
    by_hand.state.update, by_hand.state.position = saved["update"], saved["position"]
    # The schedule of 6 updates decays over 5, to 2/5 and 1/5 of the peak in updates 5 and 6.
    by_hand.learning_rate = {5: 1e-3 * (1 - 3 / 5), 6: 1e-3 * (1 - 4 / 5)}.__getitem__
    by_hand.train()
    same_weights(*(tmp_path / folder / "wav2vec2_update6.pt" for folder in ("run", "hand")))


def test_extended_before_the_decay_like_planned_so(corpus, tmp_path):
    changed = {"schedule": "three_stage", "hold_updates": 2}
    stopped = trainer_of(corpus, tmp_path / "run", max_update=4, **changed)
    stop_during(stopped, 2)
    with pytest.raises(StoppedBySignal):
        stopped.train()
    trainer_of(corpus, tmp_path / "run", max_update=6, **changed, extend=True).train()
    trainer_of(corpus, tmp_path / "whole", max_update=6, **changed).train()
    same_weights(*(tmp_path / folder / "wav2vec2_update6.pt" for folder in ("run", "whole")))


def test_a_run_that_was_extended_is_resumed_with_the_flag(corpus, tmp_path):
    """Its warm-up and hold stay as first planned; a recipe derives others from max_update."""
    changed = {"schedule": "three_stage", "hold_updates": 1, "warmup_updates": 0}
    trainer_of(corpus, tmp_path, max_update=1, **changed).train()
    later = {**changed, "max_update": 2, "hold_updates": 2}
    trainer_of(corpus, tmp_path, **later, extend=True).train()
    trainer_of(corpus, tmp_path, **later, extend=True).train()
    with pytest.raises(UserError, match="hold_updates was 1, is now 2.*, keep --extend"):
        trainer_of(corpus, tmp_path, **later)


def test_a_temperature_by_the_number_of_updates_follows_the_extension(corpus, tmp_path):
    """As the learning rate does: that of a run which was planned for so many updates."""
    command = flags("pretrain", corpus, tmp_path, max_update=1)
    falling = ["--gumbel_temperature", "2", "0.5", "0"]
    for changed in ([], ["--max_update", "8", "--extend", "true"]):
        recipe = parse_recipe([*command, *falling, *changed])
        prepare_trainer(recipe, torch.device("cpu")).train()
    lines = [record.get("data", {}) for record in log_records(tmp_path)]
    found = [data["train_temperature"] for data in lines if "train_temperature" in data]
    expected = [2.0, *(2 * 0.25 ** (update / 4) for update in (1, 2, 3)), *[0.5] * 4]
    assert found == pytest.approx(expected)


def test_what_is_refused(corpus, pretrained, tmp_path, command):  # noqa: F811
    folder = pretrained.parent
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.pt")}
    for changed, *parts in [
        ({"max_update": 3, "extend": True}, "--max_update 3", "has done 4"),
        ({"max_update": 6, "extend": True, "learning_rate": 2e-3}, "learning_rate was 0.001"),
        ({"max_update": 6, "extend": True, "seed": 2}, "seed was 1, is now 2"),
        ({"max_update": 6}, "max_update was 4, is now 6", "add --extend (EXTEND=true)"),
    ]:
        one_line(command(train.main, *flags("pretrain", corpus, folder, **changed)), *parts)
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("*.pt")}
    arguments = flags("pretrain", corpus, tmp_path / "new", extend=True)
    one_line(command(train.main, *arguments), "--extend: --output_dir", "holds no run")
