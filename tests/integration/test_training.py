"""train.py and inference.py in one process: what a run leaves, resumes, and says."""

import json
import os
import re
import shutil
import signal

import numpy as np
import pytest
import soundfile
import torch

import inference
import train
from common.training.checkpoint import CheckpointFolder, ResumePoint
from common.training.console import Console
from common.training.meter import Sums
from common.training.trainer import Trainer
from tasks.recipes import flags_of, parse_recipe, prepare_trainer
from tests.integration.conftest import ROOT, flags, launch, write_corpus
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import HealthError, StoppedBySignal, UserError
from wav2vec2.files.torch_file import load_checkpoint
from wav2vec2.kernels import recomputation


@pytest.fixture(scope="module")
def pretrained(corpus, tmp_path_factory):
    """A MINI model after four updates."""
    output = tmp_path_factory.mktemp("pretrained")
    recipe = parse_recipe(flags("pretrain", corpus, output))
    run(recipe)
    return output / "wav2vec2_update4.pt"


@pytest.fixture(scope="module")
def finetuned(corpus, pretrained, tmp_path_factory):
    output = tmp_path_factory.mktemp("finetuned")
    run(parse_recipe(flags("finetune", corpus, output, pretrained_model=pretrained)))
    return output / "wav2vec2_update4.pt"


def run(recipe):
    """Train as `train.py` does, without its exit."""
    return prepare_trainer(recipe, torch.device("cpu")).train()


def log_records(folder):
    lines = (folder / "nvlog.json").read_text().splitlines()
    return [json.loads(line.removeprefix("DLLL ")) for line in lines]


def losses(folder):
    return [
        (record["step"][1], record["data"]["train_loss"])
        for record in log_records(folder)
        if record["type"] == "LOG" and "train_loss" in record["data"]
    ]


def test_log_lines_have_the_formats_fields(pretrained):
    folder = pretrained.parent
    records = log_records(folder)
    assert (folder / "nvlog.1.json").read_text() == (folder / "nvlog.json").read_text()
    parameters = {
        k: v for r in records if r.get("step") == "PARAMETER" for k, v in r["data"].items()
    }
    assert parameters["max_update"] == 4 and parameters["architecture"]["dim"] > 0
    config = json.loads((folder / "config.json").read_text())
    assert config.pop("architecture") == parameters["architecture"]
    assert config.pop("environment")["processes"] == 1
    recipe = parse_recipe(flags("pretrain", folder, folder))
    assert config.keys() == flags_of(recipe).keys()
    assert (config["command"], config["max_update"]) == ("pretrain", 4)
    interval = next(r for r in records if "train_loss" in r.get("data", {}))
    assert len(interval["step"]) == 3 and interval["type"] == "LOG"
    assert float(interval["timestamp"]) > 1e9 and float(interval["elapsedtime"]) >= 0
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+[+-]\d\d:\d\d$", interval["datetime"])
    wanted = "loss accuracy prob_perplexity code_perplexity ntokens took ntokens/s lr grad_norm"
    wanted += " contrastive_loss diversity_loss features_penalty temperature"
    for name in [*wanted.split(), "frames/s", "audio_s/s", "memory", "data_wait"]:
        assert np.isfinite(interval["data"][f"train_{name}"]), name
    terms = ("contrastive_loss", "diversity_loss", "features_penalty")
    parts = [interval["data"][f"train_{name}"] for name in terms]
    assert sum(parts) == pytest.approx(interval["data"]["train_loss"]) and min(parts) > 0
    assert interval["data"]["train_temperature"] == 2.0  # of the first update
    assert any(r["type"] == "METADATA" and r["metric"] == "train_loss" for r in records)
    validation = [r for r in records if "val_loss" in r.get("data", {}) and r["step"]]
    assert len(validation[-1]["step"]) == 1
    assert records[-1]["step"] == [] and "train_avg_loss" in records[-1]["data"]
    assert {p.name for p in (folder / "tensorboard").iterdir()} == {"train_inner", "train", "valid"}


def test_lines_of_a_run(corpus, tmp_path, capsys):
    """Where standard output is no terminal; the intervals are never shorter than asked for."""
    changed = {"max_tokens": 60_000, "max_update": 11, "log_frequency": 2, "ema": 0.9}
    recipe = parse_recipe(flags("pretrain", corpus, tmp_path, **changed))
    trainer = prepare_trainer(recipe, torch.device("cpu"))
    capsys.readouterr()
    trainer.train()
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 120
    number = r"\d+(\.\d+)?"
    figures = f"loss {number}, accuracy {number}"
    speed = f"audio {number} s/s, memory {number} GiB"
    progress = rf"update \d+/11 \(\d+ %, \d+:\d\d left\): {figures}, {speed}"
    valid = rf"validation after update \d+, epoch \d+: {figures}; average of weights: {figures}"
    assert all(re.fullmatch(f"{progress}|{valid}", line) for line in lines[:-1]), lines
    assert re.fullmatch(rf"finished: update 11/11 after \d:\d\d; {figures}, {speed}", lines[-1])
    steps = [r["step"] for r in log_records(tmp_path) if "train_loss" in r.get("data", {})]
    assert sum(line.startswith("update") for line in lines) == len(steps)
    positions = [(epoch - 1) * length + iteration for epoch, iteration, length in steps]
    assert steps[0][2] % 2, "the epoch's updates are no multiple of the interval's"
    assert positions[-1] == 11 and {n for n in positions if n % steps[0][2] == 0}
    assert min(np.diff([0, *positions])) >= 2, positions


def test_the_start_of_a_run_says_which_programs_take_the_model(
    corpus, pretrained, tmp_path, capsys
):
    """Before the first update, in pre-training and in fine-tuning; a plain encoder has no note."""
    runs = {
        "hourglass": flags("pretrain", corpus, tmp_path / "a"),
        "plain": flags("pretrain", corpus, tmp_path / "b", hourglass_config=""),
        "fine-tuned": flags("finetune", corpus, tmp_path / "c", pretrained_model=pretrained),
    }
    for name, arguments in runs.items():
        prepare_trainer(parse_recipe(arguments), torch.device("cpu"))
        lines = capsys.readouterr().err.splitlines()
        notes = [line for line in lines if line.startswith("note: hourglass [1,(2,2),1]: ")]
        assert len(notes) == (name != "plain")
        assert all("transformers, CTranslate2, fairseq cannot" in note for note in notes)


def stop_during(trainer, update, number=signal.SIGTERM):
    """Let a signal arrive while the trainer computes `update`."""
    forward = trainer.task.forward

    def interrupted(batch, current):
        if current == update:
            os.kill(os.getpid(), number)
        return forward(batch, current)

    trainer.task.forward = interrupted


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_a_run_continues_where_it_stopped(corpus, pretrained, finetuned, tmp_path, kind):
    """Stopped by a signal in its second update and started again: losses and weights to the last
    bit.  A fine-tuning goes on without the pre-trained checkpoint."""
    straight = {"pretrain": pretrained, "finetune": finetuned}[kind]
    start = tmp_path / "start.pt"
    shutil.copy(pretrained, start)
    changed = {"pretrained_model": start} if kind == "finetune" else {}
    recipe = parse_recipe(flags(kind, corpus, tmp_path / "run", **changed))
    trainer = prepare_trainer(recipe, torch.device("cpu"))
    stop_during(trainer, 2)
    with pytest.raises(StoppedBySignal, match="stopped by SIGTERM after update 2; start it again"):
        trainer.train()
    assert CheckpointFolder(tmp_path / "run", "wav2vec2").updates() == [2]
    start.unlink()
    run(recipe)
    assert losses(tmp_path / "run") == losses(straight.parent)
    resumed = load_checkpoint(tmp_path / "run" / "wav2vec2_update4.pt")["model"]
    expected = load_checkpoint(straight)["model"]
    assert resumed.keys() == expected.keys()
    for key, weight in expected.items():
        assert torch.equal(weight, resumed[key]), key


def test_stopped_at_an_epochs_end_the_validation_still_comes(corpus, tmp_path):
    arguments = flags("pretrain", corpus, tmp_path / "straight", max_update=20)
    run(parse_recipe(arguments))
    recipe = parse_recipe(flags("pretrain", corpus, tmp_path / "stopped", max_update=20))
    trainer = prepare_trainer(recipe, torch.device("cpu"))
    stop_during(trainer, trainer.task.plan.updates_per_epoch)
    with pytest.raises(StoppedBySignal):
        trainer.train()
    run(recipe)

    def validations(folder):
        return [
            (record["step"], record["data"]["val_loss"])
            for record in log_records(folder)
            if "val_loss" in record.get("data", {})
        ]

    assert len(validations(tmp_path / "straight")) > 2
    assert validations(tmp_path / "stopped") == validations(tmp_path / "straight")


def test_continued_by_another_number_of_processes(corpus, pretrained, tmp_path):
    """The same product of batches: the same sub-batches and draws, so nearly the same weights."""
    shared = {"max_tokens": "60000", "update_freq": 2}
    run(parse_recipe(flags("pretrain", corpus, tmp_path / "one", **shared)))
    recipe = parse_recipe(flags("pretrain", corpus, tmp_path / "both", **shared))
    trainer = prepare_trainer(recipe, torch.device("cpu"))
    stop_during(trainer, 2)
    with pytest.raises(StoppedBySignal):
        trainer.train()
    result = launch(2, flags("pretrain", corpus, tmp_path / "both", **shared | {"update_freq": 1}))
    assert result.returncode == 0, result.stderr
    assert "resuming from" in result.stderr
    one, both = (
        load_checkpoint(tmp_path / name / "wav2vec2_update4.pt")["model"]
        for name in ("one", "both")
    )
    for key, weight in one.items():  # a key's bias is nothing but rounding
        assert (weight - both[key]).norm() <= 1e-5 * max(weight.norm(), 1e-2), key


def test_a_resume_says_what_is_different(corpus, pretrained, tmp_path, capsys):
    shutil.copytree(pretrained.parent, tmp_path / "copy")
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        prepare_trainer(
            parse_recipe(flags("pretrain", corpus, tmp_path / "copy")), torch.device("cpu")
        )
    finally:
        torch.set_num_threads(threads)
    assert f"threads was {threads}, is now {threads + 1}\n" in capsys.readouterr().err


TIMINGS = ("took", "/s", "memory", "data_wait")


def measurements(folder):
    """(step, metric) -> value: everything the log says of training and validation, but timings."""
    return {
        (tuple(record["step"]), name): value
        for record in log_records(folder)
        if record["type"] == "LOG" and record["step"] != "PARAMETER"
        for name, value in record["data"].items()
        if not name.endswith(TIMINGS)
    }


NOISY = {
    "pretrain": {"dropout": 0.1, "dropout_input": 0.1, "dropout_features": 0.1},
    "finetune": {"dropout": 0.1, "dropout_input": 0.1, "final_dropout": 0.1},
}


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_two_processes_are_one_that_accumulates(corpus, pretrained, tmp_path, kind):
    """Epochs of uneven batches that ranks do not divide, with dropout, LayerDrop and averaged
    weights: every logged loss and validation, and the weights."""
    shared = {"max_tokens": 60_000, "max_update": 12, "layerdrop": 0.3, "attention_dropout": 0.1}
    shared |= {"activation_dropout": 0.1, "ema": 0.9, **NOISY[kind]}
    if kind == "finetune":
        shared |= {"pretrained_model": pretrained, "freeze_finetune_updates": 2}
    recipe = parse_recipe(flags(kind, corpus, tmp_path / "one", **shared, update_freq=2))
    trainer = prepare_trainer(recipe, torch.device("cpu"))
    plan = trainer.task.plan
    assert plan.dropped_batches % 2 == 1 and 2 * plan.updates_per_epoch < 12
    assert len({len(group[0]) for group in plan.groups}) > 1
    trainer.train()
    result = launch(2, flags(kind, corpus, tmp_path / "two", **shared, update_freq=1))
    assert result.returncode == 0, result.stderr

    one, two = (measurements(tmp_path / name) for name in ("one", "two"))
    assert {step for step, name in one if name == "val_ema_loss"} >= {(1,), (2,), (3,)}
    assert sum(name == "train_loss" for _, name in one) == 12
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert two[key] == pytest.approx(value, rel=1e-5), key
    one, two = (
        load_checkpoint(tmp_path / name / "wav2vec2_update12.pt") for name in ("one", "two")
    )
    for kept in ("model", "ema_model"):
        for key, weight in one[kept].items():  # a key's bias is nothing but rounding
            assert (weight - two[kept][key]).norm() <= 1e-5 * max(weight.norm(), 1e-2), key


VALIDATIONS = (
    # WER, UER, loss, and whether it is the best so far
    (100.0, 95.0, 90.0, True),
    (100.0, 75.0, 80.0, True),
    (98.0, 88.8, 70.0, False),
    (99.0, 75.0, 75.0, True),
    (90.5, 75.0, 75.0, False),
    (99.0, 75.0, float("nan"), False),
    (89.0, 80.0, 60.0, True),
    (89.5, 40.0, 20.0, False),
    (99.0, 10.0, 10.0, False),
    (70.0, 90.0, 90.0, True),
)


@pytest.mark.parametrize("stop", [1, 3, 5, 8])
def test_the_best_checkpoint_is_chosen_by_units_then_by_words(
    corpus, pretrained, tmp_path, monkeypatch, stop
):
    """Also by a run that is resumed after `stop` validations."""
    recipe = parse_recipe(flags("finetune", corpus, tmp_path, pretrained_model=pretrained))
    results = iter(VALIDATIONS)
    monkeypatch.setattr(
        Trainer, "_measure", lambda self: dict(zip(("wer", "uer", "loss"), next(results)))
    )
    trainer = prepare_trainer(recipe, torch.device("cpu"))
    best = None
    for number, (*_, is_best) in enumerate(VALIDATIONS, start=1):
        trainer.state.update = trainer.state.position = number
        trainer._validate(number, Console({}, 99, enabled=False))
        trainer.writer.wait()
        best = number if is_best else best
        saved = load_checkpoint(trainer.checkpoints.best_file)
        assert (saved["update"], saved["best"]) == (best, VALIDATIONS[best - 1][0])
        if number == stop:
            trainer.save()
            trainer.writer.wait()
            trainer = prepare_trainer(recipe, torch.device("cpu"))


def test_a_best_result_without_its_rank_still_counts(corpus, pretrained, tmp_path):
    """Of a run that an earlier version began."""
    recipe = parse_recipe(flags("finetune", corpus, tmp_path, pretrained_model=pretrained))
    trainer = prepare_trainer(recipe, torch.device("cpu"))
    trainer.state.best = 40.0
    content = trainer.state.content()
    del content["best_rank"]
    trainer.state.restore(ResumePoint(tmp_path, content))
    assert trainer.state.best_rank is None
    assert not trainer._is_best({"wer": 41.0, "uer": 1.0, "loss": 1.0})
    assert trainer._is_best({"wer": 39.0, "uer": 90.0, "loss": 1.0})


def test_a_finished_run_started_again_changes_nothing(corpus, pretrained, tmp_path):
    shutil.copytree(pretrained.parent, tmp_path / "copy")
    before = losses(tmp_path / "copy")
    run(parse_recipe(flags("pretrain", corpus, tmp_path / "copy")))
    assert losses(tmp_path / "copy") == before


@pytest.mark.filterwarnings("error:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_losses_do_not_depend_on_loader_workers(
    corpus, pretrained, finetuned, tmp_path, kind, workers
):
    straight = {"pretrain": pretrained, "finetune": finetuned}[kind]
    changed = {"pretrained_model": pretrained} if kind == "finetune" else {}
    run(parse_recipe(flags(kind, corpus, tmp_path, num_workers=workers, **changed)))
    assert losses(tmp_path) == losses(straight.parent)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_layers_computed_again_learn_the_same(corpus, tmp_path, monkeypatch, precision):
    """To the bit, dropout and LayerDrop included."""
    seen = []
    again = recomputation.checkpoint

    def recompute(*inputs, **options):
        seen.append(inputs[0])
        return again(*inputs, **options)

    monkeypatch.setattr(recomputation, "checkpoint", recompute)
    for name in ("false", "true"):
        changed = {"activation_checkpointing": name, "precision": precision, "layerdrop": 0.2}
        run(parse_recipe(flags("pretrain", corpus, tmp_path / name, **changed)))
        assert bool(seen) == (name == "true")
    assert losses(tmp_path / "true") == losses(tmp_path / "false")


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_layers_learn_the_same(corpus, tmp_path, caplog):
    """Without dropout, whose masks are others there; layers left out included."""
    caplog.set_level("INFO", "wav2vec2")
    none = {"dropout": 0, "attention_dropout": 0, "activation_dropout": 0, "layerdrop": 0.2}
    for name in ("false", "true"):
        run(parse_recipe(flags("pretrain", corpus, tmp_path / name, compile=name, **none)))
    expected = losses(tmp_path / "false")
    assert losses(tmp_path / "true") == [pytest.approx(loss, rel=1e-4) for loss in expected]
    assert "kernel in use: transformer layers by torch.compile" in caplog.text


def test_validation_does_not_depend_on_its_batches(corpus, pretrained, tmp_path):
    """The same weights validated in batches of other sizes."""
    results = []
    for max_tokens in (30_000, 120_000):
        arguments = flags(
            "pretrain", corpus, tmp_path / str(max_tokens), max_tokens=max_tokens, update_freq=1
        )
        task = parse_recipe(arguments).build_task(torch.device("cpu"))
        task.model.load_state_dict(load_checkpoint(pretrained)["model"])
        task.model.eval()
        sums = Sums()
        with torch.no_grad():
            task.validate(sums)
        results.append(task.summarise_validation(sums.total()))
    for name, value in results[0].items():
        assert results[1][name] == pytest.approx(value, rel=1e-5), name


def test_the_pretrained_weights_are_the_ones_loaded(corpus, pretrained, tmp_path):
    saved = load_checkpoint(pretrained)["model"]
    tasks = {}
    for random in ("false", "true"):
        arguments = flags(
            "finetune", corpus, tmp_path, pretrained_model=pretrained, random_weights=random
        )
        tasks[random] = parse_recipe(arguments).build_task(torch.device("cpu"))
    trunk = {k: v for k, v in saved.items() if k.startswith("wav2vec2.")}
    loaded, fresh = (tasks[random].model.state_dict() for random in ("false", "true"))
    assert trunk.keys() == {k for k in loaded if k.startswith("wav2vec2.")}
    assert all(torch.equal(trunk[key], loaded[key]) for key in trunk)
    weights = [key for key in trunk if key.endswith("fc1.weight")]
    assert weights and not any(torch.equal(trunk[key], fresh[key]) for key in weights)
    assert torch.equal(loaded["proj.weight"], fresh["proj.weight"])  # the same start otherwise


def test_pretraining_goes_on_from_somebodys_weights(corpus, pretrained, tmp_path, command):
    """All weights, a fresh optimizer and schedule; a resume needs the start no more."""
    start = tmp_path / "start.pt"
    shutil.copy(pretrained, start)
    arguments = flags("pretrain", corpus, tmp_path / "o", init_from=start, seed=5)
    trainer = prepare_trainer(parse_recipe(arguments), torch.device("cpu"))
    saved = load_checkpoint(start)["model"]
    for name, weight in trainer.task.model.state_dict().items():
        assert torch.equal(weight, saved[name]), name
    assert trainer.state.update == 0 and not trainer.state.optimizer.state
    stop_during(trainer, 2)
    with pytest.raises(StoppedBySignal):
        trainer.train()
    start.unlink()
    run(parse_recipe(arguments))
    code, _, err = command(
        train.main,
        *flags("pretrain", corpus, tmp_path / "x", init_from=pretrained, hourglass_config=""),
    )
    assert code == 2 and "of another architecture than --model and --hourglass_config say" in err


def test_only_the_output_layer_learns_at_first(corpus, pretrained, tmp_path, capsys):
    run(
        parse_recipe(
            flags(
                "finetune",
                corpus,
                tmp_path,
                pretrained_model=pretrained,
                freeze_finetune_updates=4,
            )
        )
    )
    assert "in 4 updates only the output layer learns" in capsys.readouterr().err
    before, after = load_checkpoint(pretrained), load_checkpoint(tmp_path / "wav2vec2_update4.pt")
    for key, weight in after["model"].items():
        if key.startswith("wav2vec2."):
            assert torch.equal(weight, before["model"][key]), key
    assert after["model"]["proj.bias"].any()


def test_extractor_stays_without_gradient(corpus, pretrained, finetuned):
    """feature_grad_mult 0, the recipes' value: the extractor keeps its pre-trained weights."""
    before, after = load_checkpoint(pretrained)["model"], load_checkpoint(finetuned)["model"]
    moved = [k for k in before if k in after and not torch.equal(before[k], after[k])]
    assert moved and not any("feature_extractor" in key for key in moved)


def test_evaluation_does_not_depend_on_batch_size(corpus, finetuned, tmp_path, command):
    results = {}
    for batch_size in (1, 2, 5):
        output = tmp_path / str(batch_size)
        code, out, _ = command(
            inference.main,
            *["evaluate", "--checkpoint", finetuned, "--dataset_dir", corpus, "--subset", "dev"],
            *["--output_dir", output, "--batch_size", batch_size, "--num_workers", 0],
        )
        assert code == 0 and "WER" in out
        summary = json.loads((output / "summary_dev.json").read_text())
        assert summary["utterances"] == 5 and summary["wer"] >= 0
        lines = (output / "hypotheses_dev.jsonl").read_text().splitlines()
        results[batch_size] = [{**json.loads(line), "confidence": 0} for line in lines]
    assert len(results[1]) == 5
    assert results[1] == results[2] == results[5]


def test_transcribe_any_file_and_list_failures(finetuned, tmp_path, command):
    tone = 0.1 * np.sin(np.arange(44_100) / 30)
    soundfile.write(tmp_path / "stereo.wav", np.stack([tone, tone], 1), 44_100)
    soundfile.write(tmp_path / "short.flac", tone[:160], SAMPLE_RATE)
    (tmp_path / "noise.wav").write_text("no audio")
    files = [tmp_path / name for name in ("stereo.wav", "short.flac", "gone.wav", "noise.wav")]
    code, out, err = command(
        inference.main, "transcribe", "--checkpoint", finetuned, "--cpu", "true", *files
    )
    assert code == 1
    printed = dict(line.split("\t") for line in out.splitlines())
    assert printed.keys() == {str(files[0]), str(files[1])}
    assert printed[str(files[1])] == ""  # ten milliseconds hold no frame, and no words
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(errors) == 2 and "gone.wav" in errors[0] and "noise.wav" in errors[1]


def test_learning_is_possible(tmp_path):
    """Pitches for letters: a few hundred updates from random weights reach WER 0."""
    from tests.integration.conftest import script

    folder = tmp_path / "LibriSpeech"
    write_corpus(folder, {"train": 8}, words=3)
    result = script(
        "generate_filelists.sh",
        DATASET_DIR=folder,
        SUBSETS="train",
        COMBINE="",
        DICTIONARY_FROM="train",
    )
    assert result.returncode == 0, result.stderr
    start = flags("pretrain", folder, tmp_path / "p", valid_subset="train", max_update=1)
    run(parse_recipe(start))
    summary = run(
        parse_recipe(
            flags(
                "finetune",
                folder,
                tmp_path / "f",
                pretrained_model=tmp_path / "p" / "wav2vec2_update1.pt",
                valid_subset="train",
                max_update=120,
                warmup_updates=20,
                hold_updates=60,
                learning_rate=2e-3,
                feature_grad_mult=1.0,
                mask_prob=0,
                mask_channel_prob=0,
                activation_dropout=0,
                layerdrop=0,
                validate_frequency=1000,
                log_frequency=50,
                no_save="true",
            )
        )
    )
    assert summary["val_wer"] == 0.0


def until_collapse(corpus, output, learning_rate, spoil=lambda model: None):
    """Train without the losses that keep codes and features apart; updates taken, what was said."""
    arguments = flags(
        "pretrain",
        corpus,
        output,
        max_tokens=30_000,
        max_update=500,
        warmup_updates=0,
        learning_rate=learning_rate,
        validate_frequency=1000,
        log_frequency=50,
        no_save="true",
    )
    arguments += ["--loss_weights", "0", "0"]
    trainer = prepare_trainer(parse_recipe(arguments), torch.device("cpu"))
    spoil(trainer.task.model)
    with pytest.raises(HealthError) as stopped:
        trainer.train()
    return trainer.state.update, str(stopped.value)


def test_a_learnt_collapse_stops_the_run(corpus, tmp_path):
    """A learning rate far too high: training itself drives all frames to one code."""
    updates, said = until_collapse(corpus, tmp_path, learning_rate=0.03)
    assert updates <= 500 and said.startswith("codebook collapsed: 2.0 of 64 codes in use")
    page = (ROOT / "docs" / "healthy_run.md").read_text(encoding="utf-8")
    assert f"error: {said}" in " ".join(page.split())  # as the page quotes it


def test_a_context_that_says_nothing_stops_the_run(corpus, tmp_path):
    def spoil(model):
        with torch.no_grad():
            model.final_proj.weight.zero_()
            model.final_proj.bias.zero_()

    updates, said = until_collapse(corpus, tmp_path, learning_rate=0, spoil=spoil)
    assert updates == 300 and "as if all candidates were alike" in said


def test_a_gradient_that_is_never_finite_stops_the_run(corpus, tmp_path, capsys):
    trainer = prepare_trainer(
        parse_recipe(flags("pretrain", corpus, tmp_path, max_update=50)), torch.device("cpu")
    )
    with torch.no_grad():
        trainer.task.model.final_proj.weight[0, 0] = float("nan")
    with pytest.raises(HealthError, match="10 updates in a row had a gradient that is not finite"):
        trainer.train()
    assert (trainer.state.update, trainer.state.position) == (0, 10)
    assert "nothing was learnt from utterances 1-7-" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_several_speeds(corpus, pretrained, tmp_path, kind, capsys):
    """Three times the utterances in an epoch; a resumed run keeps to its speeds."""
    changed = {"pretrained_model": pretrained} if kind == "finetune" else {}
    counts = []
    for speeds in (["1"], ["0.9", "1", "1.1"]):
        argv = [*flags(kind, corpus, tmp_path / speeds[0], **changed), "--speeds", *speeds]
        trainer = prepare_trainer(parse_recipe(argv), torch.device("cpu"))
        counts.append(len(trainer.task.dataset))
    assert counts[1] == 3 * counts[0]
    trainer.train()
    assert np.isfinite(log_records(tmp_path / "0.9")[-1]["data"]["train_avg_loss"])
    capsys.readouterr()
    with pytest.raises(UserError, match="speeds"):
        argv = [*flags(kind, corpus, tmp_path / "0.9", **changed), "--speeds", "0.9", "1.1"]
        prepare_trainer(parse_recipe(argv), torch.device("cpu"))
