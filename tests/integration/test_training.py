"""train.py and inference.py in one process: what a run leaves, resumes, and says."""

import json
import re
import shutil

import numpy as np
import pytest
import soundfile
import torch

import inference
import train
from common import checkpoint
from common.audio import SAMPLE_RATE
from tests.integration.conftest import flags, write_corpus


@pytest.fixture(scope="module")
def pretrained(corpus, tmp_path_factory):
    """A MINI model after four updates."""
    output = tmp_path_factory.mktemp("pretrained")
    command, options = train.parse(flags("pretrain", corpus, output))
    run(command, options)
    return output / "wav2vec2_update4.pt"


@pytest.fixture(scope="module")
def finetuned(corpus, pretrained, tmp_path_factory):
    output = tmp_path_factory.mktemp("finetuned")
    run(*train.parse(flags("finetune", corpus, output, pretrained_model=pretrained)))
    return output / "wav2vec2_update4.pt"


def run(command, options):
    """Train as `train.py` does, without its exit."""
    device = torch.device("cpu")
    train.prepare_output(options[train.RunOptions])
    task = train.build(command, options, device)
    optimizer, schedule = options[train.OptimizerOptions], options[train.ScheduleOptions]
    trainer = train.Trainer(task, options[train.RunOptions], optimizer, schedule, device)
    return trainer.train()


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
    interval = next(r for r in records if "train_loss" in r.get("data", {}))
    assert len(interval["step"]) == 3 and interval["type"] == "LOG"
    assert float(interval["timestamp"]) > 1e9 and float(interval["elapsedtime"]) >= 0
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+[+-]\d\d:\d\d$", interval["datetime"])
    wanted = "loss accuracy prob_perplexity code_perplexity ntokens took ntokens/s lr grad_norm"
    for name in [*wanted.split(), "frames/s", "audio_s/s", "memory", "data_wait"]:
        assert np.isfinite(interval["data"][f"train_{name}"]), name
    assert any(r["type"] == "METADATA" and r["metric"] == "train_loss" for r in records)
    validation = [r for r in records if "val_loss" in r.get("data", {}) and r["step"]]
    assert len(validation[-1]["step"]) == 1
    assert records[-1]["step"] == [] and "train_avg_loss" in records[-1]["data"]
    assert {p.name for p in (folder / "tensorboard").iterdir()} == {"train_inner", "train", "valid"}


def test_a_run_continues_where_it_stopped(corpus, pretrained, tmp_path):
    """Stopped after two updates and started again: losses and weights to the last bit."""
    arguments = flags("pretrain", corpus, tmp_path, save_every_updates=2)
    command, options = train.parse(arguments)
    task = train.build(command, options, torch.device("cpu"))
    train.prepare_output(options[train.RunOptions])
    parts = [
        options[cls] for cls in (train.RunOptions, train.OptimizerOptions, train.ScheduleOptions)
    ]
    trainer = train.Trainer(task, *parts, torch.device("cpu"))

    class Killed(Exception):
        pass

    original = trainer.save

    def save_then_die():
        original()
        raise Killed

    trainer.save = save_then_die
    with pytest.raises(Killed):
        trainer.train()
    assert checkpoint.saved_updates(tmp_path) == [2]
    run(command, options)
    assert losses(tmp_path) == losses(pretrained.parent)
    resumed = checkpoint.load(tmp_path / "wav2vec2_update4.pt")
    straight = checkpoint.load(pretrained)
    for key, weight in straight["model"].items():
        assert torch.equal(weight, resumed["model"][key]), key


def test_a_finished_run_started_again_changes_nothing(corpus, pretrained, tmp_path):
    shutil.copytree(pretrained.parent, tmp_path / "copy")
    before = losses(tmp_path / "copy")
    run(*train.parse(flags("pretrain", corpus, tmp_path / "copy")))
    assert losses(tmp_path / "copy") == before


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 3])
def test_losses_do_not_depend_on_loader_workers(corpus, pretrained, tmp_path, workers):
    run(*train.parse(flags("pretrain", corpus, tmp_path, num_workers=workers)))
    assert losses(tmp_path) == losses(pretrained.parent)


def test_validation_does_not_depend_on_its_batches(corpus, pretrained, tmp_path):
    """The same weights validated in batches of other sizes."""
    results = []
    for max_tokens in (30_000, 120_000):
        arguments = flags(
            "pretrain", corpus, tmp_path / str(max_tokens), max_tokens=max_tokens, update_freq=1
        )
        task = train.build(*train.parse(arguments), torch.device("cpu"))
        task.model.load_state_dict(checkpoint.load(pretrained)["model"])
        task.model.eval()
        with torch.no_grad():
            results.append(task.validate())
    for name, value in results[0].items():
        assert results[1][name] == pytest.approx(value, rel=1e-5), name


def test_the_pretrained_weights_are_the_ones_loaded(corpus, pretrained, tmp_path):
    saved = checkpoint.load(pretrained)["model"]
    tasks = {}
    for random in ("false", "true"):
        arguments = flags(
            "finetune", corpus, tmp_path, pretrained_model=pretrained, random_weights=random
        )
        tasks[random] = train.build(*train.parse(arguments), torch.device("cpu"))
    trunk = {k: v for k, v in saved.items() if k.startswith("wav2vec2.")}
    loaded, fresh = (tasks[random].model.state_dict() for random in ("false", "true"))
    assert trunk.keys() == {k for k in loaded if k.startswith("wav2vec2.")}
    assert all(torch.equal(trunk[key], loaded[key]) for key in trunk)
    weights = [key for key in trunk if key.endswith("fc1.weight")]
    assert weights and not any(torch.equal(trunk[key], fresh[key]) for key in weights)
    assert torch.equal(loaded["proj.weight"], fresh["proj.weight"])  # the same start otherwise


def test_only_the_output_layer_learns_at_first(corpus, pretrained, tmp_path, capsys):
    run(
        *train.parse(
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
    before, after = checkpoint.load(pretrained), checkpoint.load(tmp_path / "wav2vec2_update4.pt")
    for key, weight in after["model"].items():
        if key.startswith("wav2vec2."):
            assert torch.equal(weight, before["model"][key]), key
    assert after["model"]["proj.bias"].any()


def test_extractor_stays_without_gradient(corpus, pretrained, finetuned):
    """feature_grad_mult 0, the recipes' value: the extractor keeps its pre-trained weights."""
    before, after = checkpoint.load(pretrained)["model"], checkpoint.load(finetuned)["model"]
    moved = [k for k in before if k in after and not torch.equal(before[k], after[k])]
    assert moved and not any("feature_extractor" in key for key in moved)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_evaluation_does_not_depend_on_batch_size(
    corpus, finetuned, tmp_path, command, batch_size, request
):
    code, out, _ = command(
        inference.main,
        *["evaluate", "--checkpoint", finetuned, "--dataset_dir", corpus, "--subset", "dev"],
        *["--output_dir", tmp_path, "--batch_size", batch_size, "--num_workers", 0, "--cpu"],
    )
    assert code == 0 and "WER" in out
    result = (tmp_path / "hypotheses_dev.jsonl").read_text()
    expected = request.config.cache.get("evaluation", None) if batch_size > 1 else result
    request.config.cache.set("evaluation", result)
    assert result == expected
    summary = json.loads((tmp_path / "summary_dev.json").read_text())
    assert summary["utterances"] == 5 and summary["wer"] >= 0


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
    run(*train.parse(start))
    summary = run(
        *train.parse(
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
