"""Half precision and averaged weights through train.py: MINI on a CPU."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import inference
from tasks.recipes import parse_recipe, prepare_trainer
from tests.integration.conftest import flags
from tests.integration.test_training import (  # noqa: F401 (fixtures)
    finetuned,
    log_records,
    losses,
    pretrained,
    run,
)
from utils.checkpoints import export_average
from wav2vec2.cli.errors import UserError
from wav2vec2.files.torch_file import load_checkpoint
from wav2vec2.inference.device import check_supported

CPU = torch.device("cpu")


def offered(precision):
    try:
        check_supported(precision, CPU)
        return True
    except UserError:
        return False


HALVES = [
    pytest.param(p, marks=pytest.mark.skipif(not offered(p), reason=f"this CPU has no {p}"))
    for p in ("bf16", "fp16")
]


@pytest.mark.parametrize("hourglass", ["[1,(2,2),1]", ""])
@pytest.mark.parametrize("precision", HALVES)
def test_both_tasks(corpus, tmp_path, precision, hourglass):
    changed = {"precision": precision, "hourglass_config": hourglass}
    summary = run(parse_recipe(flags("pretrain", corpus, tmp_path / "p", **changed)))
    assert np.isfinite(summary["val_loss"])
    saved = load_checkpoint(tmp_path / "p" / "wav2vec2_update4.pt")
    assert all(tensor.dtype == torch.float32 for tensor in saved["model"].values())
    changed = {"precision": precision, "pretrained_model": tmp_path / "p" / "wav2vec2_update4.pt"}
    summary = run(parse_recipe(flags("finetune", corpus, tmp_path / "f", **changed)))
    assert np.isfinite(summary["val_loss"])
    scales = [
        record["data"]["train_loss_scale"]
        for record in log_records(tmp_path / "f")
        if "train_loss_scale" in record.get("data", {})
    ]
    assert scales == ([128.0] * 4 if precision == "fp16" else [])


@pytest.mark.parametrize("precision", HALVES)
def test_the_first_loss_is_nearly_that_of_fp32(corpus, pretrained, tmp_path, precision):  # noqa: F811
    run(parse_recipe(flags("pretrain", corpus, tmp_path, precision=precision, max_update=2)))
    assert losses(tmp_path)[0] == pytest.approx(losses(pretrained.parent)[0], rel=5e-3)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_bf16_learns_as_fp32_does(corpus, tmp_path):
    """Mean loss of updates 151 to 200: within the spread of three fp32 seeds, or 2 %."""

    def late_loss(name, **changed):
        arguments = flags(
            "pretrain",
            corpus,
            tmp_path / name,
            max_update=200,
            warmup_updates=20,
            max_tokens=60_000,
            log_frequency=50,
            validate_frequency=1000,
            no_save="true",
            **changed,
        )
        trainer = prepare_trainer(parse_recipe(arguments), CPU)
        # One epoch of 200 updates, so that a line covers 50 updates.
        plan = trainer.task.plan
        plan.corpora = [replace(plan.corpora[0], take=200)]
        plan.updates_per_epoch = 200
        trainer.train()
        lines = [r["data"] for r in log_records(tmp_path / name) if len(r.get("step", "")) == 3]
        assert len(lines) == 4
        return lines[-1]["train_loss"], lines[0]["train_loss"]

    full = [late_loss(f"seed{seed}", seed=seed)[0] for seed in (1, 2, 3)]
    half, first = late_loss("bf16", precision="bf16")
    assert half < 0.97 * first  # it learns at all
    mean = np.mean(full)
    assert min(*full, 0.98 * mean) <= half <= max(*full, 1.02 * mean), (full, half)


def test_a_run_goes_on_in_another_precision(corpus, tmp_path, capsys):
    """fp32 -> bf16 -> fp32: nothing is lost, and the change is said."""
    arguments = {"max_update": 9, "epochs_this_job": 1, "max_tokens": 240_000}
    for precision, expected in (("fp32", 3), ("bf16", 6), ("fp32", 9)):
        recipe = parse_recipe(flags("pretrain", corpus, tmp_path, precision=precision, **arguments))
        trainer = prepare_trainer(recipe, CPU)
        before = {k: v.clone() for k, v in trainer.state.weights.state_dict().items()}
        if trainer.state.update:
            saved = load_checkpoint(tmp_path / f"wav2vec2_update{trainer.state.update}.pt")["model"]
            assert all(torch.equal(saved[name], before[name]) for name in saved)
        trainer.train()
        assert trainer.state.update == expected
    assert "precision was bf16, is now fp32" in capsys.readouterr().err


def test_average(corpus, tmp_path, command):
    """Kept, validated, continued to the bit, exported, and usable."""
    arguments = flags("pretrain", corpus, tmp_path / "p", ema=0.5, save_every_updates=2)
    run(parse_recipe(arguments))
    validation = [r["data"] for r in log_records(tmp_path / "p") if "val_loss" in r.get("data", {})]
    assert np.isfinite(validation[0]["val_ema_loss"])
    assert validation[0]["val_ema_loss"] != validation[0]["val_loss"]
    straight = load_checkpoint(tmp_path / "p" / "wav2vec2_update4.pt")
    gain = "wav2vec2.encoder.pos_conv.conv.parametrizations.weight.original0"
    assert gain in straight["ema_model"]
    (tmp_path / "p" / "wav2vec2_update4.pt").unlink()
    run(parse_recipe(arguments))
    again = load_checkpoint(tmp_path / "p" / "wav2vec2_update4.pt")
    for name, average in straight["ema_model"].items():
        assert torch.equal(average, again["ema_model"][name]), name

    start = tmp_path / "average.pt"
    code, out, _ = command(
        export_average.main,
        *["--checkpoint", tmp_path / "p" / "wav2vec2_update4.pt", "--output", start],
    )
    assert code == 0 and "after update 4" in out
    assert command(export_average.main, "--checkpoint", start, "--output", tmp_path / "x")[0] == 2
    arguments = flags("finetune", corpus, tmp_path / "f", pretrained_model=start, ema=0.9)
    run(parse_recipe(arguments))
    recogniser = tmp_path / "recogniser.pt"
    best = tmp_path / "f" / "wav2vec2_best.pt"
    assert command(export_average.main, "--checkpoint", best, "--output", recogniser)[0] == 0
    code, out, _ = command(
        inference.main,
        *["evaluate", "--checkpoint", recogniser, "--dataset_dir", corpus, "--subset", "dev"],
        *["--output_dir", tmp_path, "--num_workers", 0, "--cpu"],
    )
    assert code == 0 and "WER" in out
