"""An elastic hourglass from training to inference: one checkpoint, several pooling factors."""

import json
import signal
import sys

import pytest
import torch

import inference
import tasks.probe
import wav2vec2
from tasks.data import draw_factor
from tasks.recipes import parse_recipe, prepare_trainer
from tests.integration.conftest import flags, launch
from utils import probe
from utils.checkpoints import convert, release
from utils.reporting import results
from utils.reporting.log import read_log
from utils.reporting.panels import panel_of
from utils.reproduction import reproduce_tables
from wav2vec2.cli.errors import StoppedBySignal, UserError
from wav2vec2.files.torch_file import load_checkpoint
from wav2vec2.interop import native

RANGE = "[1,(2,2:4),1]"


def prepare(kind, corpus, output, **changed):
    own = {"hourglass_config": RANGE, "validate_frequency": 1, **changed}
    return prepare_trainer(parse_recipe(flags(kind, corpus, output, **own)), torch.device("cpu"))


@pytest.fixture(scope="module")
def pretrained(corpus, tmp_path_factory):
    output = tmp_path_factory.mktemp("pretrained")
    prepare("pretrain", corpus, output).train()
    return output / "wav2vec2_update4.pt"


@pytest.fixture(scope="module")
def finetuned(corpus, pretrained, tmp_path_factory):
    output = tmp_path_factory.mktemp("finetuned")
    prepare("finetune", corpus, output, pretrained_model=pretrained).train()
    return output / "wav2vec2_update4.pt"


@pytest.fixture(scope="module")
def fixed(corpus, tmp_path_factory):
    output = tmp_path_factory.mktemp("fixed")
    prepare("pretrain", corpus, output, hourglass_config="[1,(2,4),1]", max_update=1).train()
    return output / "wav2vec2_update1.pt"


def test_a_validation_reports_each_factor(pretrained, finetuned):
    for checkpoint, metric in ((pretrained, "accuracy"), (finetuned, "wer")):
        curves = read_log(checkpoint.parent / "nvlog.json").curves
        rates = [curves[f"val_factor_{n}_{metric}"].last for n in (2, 3, 4)]
        assert curves[f"val_{metric}"].last == pytest.approx(sum(rates) / 3)
        assert "val_factor_5_loss" not in curves
    losses = [
        read_log(pretrained.parent / "nvlog.json").curves[f"val_factor_{n}_loss"].last
        for n in (2, 3, 4)
    ]
    assert len(set(losses)) == 3
    panel, label, _ = panel_of("val_factor_3_wer")
    assert (panel.title, label) == ("Word error rate", "validation factor 3")


def test_checkpoints_carry_the_range_and_the_rates(pretrained, finetuned):
    first, second = load_checkpoint(pretrained), load_checkpoint(finetuned)
    for content in (first, second):
        assert content["architecture"]["hourglass"]["factors"] == [2, 3, 4]
        assert content["recipe"]["architecture"] == content["architecture"]
    assert native.FACTOR_WER not in first
    curves = read_log(finetuned.parent / "nvlog.json").curves
    assert second[native.FACTOR_WER] == {
        str(n): pytest.approx(curves[f"val_factor_{n}_wer"].last) for n in (2, 3, 4)
    }


def test_a_fixed_factor_leaves_no_trace(fixed):
    content = load_checkpoint(fixed)
    assert content["architecture"]["hourglass"] == {
        **{"pre": 1, "middle": 2, "factor": 4, "post": 1, "resampling": "naive"}
    }
    assert not any("factor_" in name for name in read_log(fixed.parent / "nvlog.json").curves)


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_a_resumed_run_draws_the_same_factors(corpus, pretrained, finetuned, tmp_path, kind):
    whole = {"pretrain": pretrained, "finetune": finetuned}[kind]
    changed = {"pretrained_model": pretrained} if kind == "finetune" else {}
    trainer = prepare(kind, corpus, tmp_path, **changed)
    train_on = trainer.train_on

    def stopping(batches):
        report = train_on(batches)
        if trainer.state.update == 2:
            trainer.stop.received = signal.SIGTERM
        return report

    trainer.train_on = stopping
    with pytest.raises(StoppedBySignal):
        trainer.train()
    resumed = prepare(kind, corpus, tmp_path, **changed)
    drawn, begin = [], resumed.task.begin_update

    def begin_update(update):
        begin(update)
        drawn.append(resumed.task.model.wav2vec2.encoder.stack.factor)

    resumed.task.begin_update = begin_update
    resumed.train()
    assert drawn == [draw_factor((2, 3, 4), 1, update) for update in range(4 - len(drawn) + 1, 5)]
    a, b = load_checkpoint(whole), load_checkpoint(tmp_path / whole.name)
    assert a["model"].keys() == b["model"].keys()
    assert all(torch.equal(a["model"][name], b["model"][name]) for name in a["model"])
    assert a.get(native.FACTOR_WER) == b.get(native.FACTOR_WER)


def test_two_processes_draw_the_same_factor(corpus, tmp_path):
    """Two processes are one that accumulates: with other factors their gradients would differ."""
    changed = {"hourglass_config": RANGE, "max_tokens": 60_000, "no_save": "false"}
    one = [*flags("pretrain", corpus, tmp_path / "one", **changed), "--update_freq", "2"]
    prepare_trainer(parse_recipe(one), torch.device("cpu")).train()
    result = launch(2, flags("pretrain", corpus, tmp_path / "two", **changed))
    assert result.returncode == 0, result.stderr
    a, b = (
        load_checkpoint(tmp_path / name / "wav2vec2_update4.pt")["model"] for name in ("one", "two")
    )
    for name, weights in a.items():
        torch.testing.assert_close(weights, b[name], rtol=0, atol=2e-6)


def test_inference_takes_a_factor(corpus, finetuned, tmp_path, command, caplog):
    def evaluate(*arguments):
        output = tmp_path / "_".join(["evaluation", *arguments])
        code, out, err = command(
            inference.main, "evaluate", "--cpu", "--checkpoint", finetuned, "--dataset_dir", corpus,
            "--subset", "dev", "--output_dir", output, "--num_workers", "0", "--save_log_probs",
            *arguments,
        )  # fmt: skip
        assert code == 0, err
        probabilities = sorted((output / "log_probs" / "dev").glob("*.npz"))
        return json.loads((output / "summary_dev.json").read_text()), probabilities, err

    rates = load_checkpoint(finetuned)[native.FACTOR_WER]
    for factor, rate in rates.items():
        summary, *_ = evaluate("--factor", factor)
        assert summary["wer"] == pytest.approx(rate)
    *_, text = evaluate()
    assert f"note: pooling factor {native.default_factor(rates)} is the default of infer" in text
    *_, text = evaluate("--factor", "6")
    assert f"note: pooling factor 6: {finetuned} has {RANGE} and was not trained with it" in text


def test_every_command_takes_a_factor(corpus, finetuned, pretrained, tmp_path, command):
    recording = next(iter(sorted((corpus / "dev").rglob("*.flac"))))
    model = ("--checkpoint", finetuned, "--cpu", "--factor", "3")
    runs = (
        (inference.main, "transcribe", *model, recording),
        (inference.main, "align", *model, recording, "--text", "AN",
         "--output_dir", tmp_path / "a"),
        (inference.main, "features", *model, recording, "--output_dir", tmp_path / "f"),
        (inference.main, "benchmark", *model, "--dataset_dir", corpus, "--subset", "dev",
         "--output_dir", tmp_path / "b", "--batch_sizes", "1", "--warmup", "0"),
        (inference.main, "convert", finetuned, tmp_path / "m.pt2", "--to", "exported",
         "--factor", "3"),
    )  # fmt: skip
    for main, *arguments in runs:
        code, _, err = command(main, *arguments)
        assert code == 0 and "note: pooling factor" not in err, (arguments, err)
    code, _, err = command(
        inference.main, "features", "--checkpoint", pretrained, "--cpu", recording, "--layer", "2",
        "--output_dir", tmp_path / "g",
    )  # fmt: skip
    assert code == 0 and "note: pooling factor 2 of [1,(2,2:4),1], the smallest" in err


def test_python_takes_a_factor(corpus, finetuned, pretrained):
    recording = next(iter(sorted((corpus / "dev").rglob("*.flac"))))
    frames = wav2vec2.load_features(pretrained, "cpu", output="extractor").features(recording)
    for factor in (2, 5):
        found = wav2vec2.load_features(pretrained, "cpu", layer=2, factor=factor)
        assert len(found.features(recording)) == -(-len(frames) // factor)
        transcriber = wav2vec2.load(finetuned, "cpu", factor=factor)
        assert transcriber.recogniser.shortening == factor
    with pytest.raises(UserError, match="factor"):
        wav2vec2.load(finetuned, "cpu", factor=0)


def test_a_fixed_checkpoint_at_another_factor(fixed, corpus, command, tmp_path):
    recording = next(iter(sorted((corpus / "dev").rglob("*.flac"))))
    arguments = ("features", "--cpu", "--checkpoint", fixed, recording, "--output_dir")
    code, _, err = command(inference.main, *arguments, tmp_path / "4", "--factor", "4")
    assert code == 0 and "note" not in err
    code, _, err = command(inference.main, *arguments, tmp_path / "2", "--factor", "2")
    assert code == 0
    assert f"note: pooling factor 2: {fixed} has [1,(2,4),1] and was not trained with it" in err


def test_probe_takes_a_factor(pretrained, corpus, command, tmp_path, monkeypatch):
    monkeypatch.setattr(tasks.probe, "STEPS", 4)
    monkeypatch.setattr(tasks.probe, "LEARNING_RATES", (0.03,))
    code, out, err = command(
        probe.main, pretrained, "--cpu", "--dataset_dir", corpus, "--train_subset", "train",
        "--valid_subset", "dev", "--minutes", "0.2", "--factor", "4", "--output_dir", tmp_path,
    )  # fmt: skip
    assert code == 0 and "note" not in err, err


def test_a_release_says_its_factors(finetuned, tmp_path, command):
    code, _, err = command(release.main, finetuned, tmp_path / "model")
    assert code == 0, err
    card = (tmp_path / "model" / "README.md").read_text()
    rates = load_checkpoint(finetuned)[native.FACTOR_WER]
    assert f"pooling factor {native.default_factor(rates)} is the default of inference" in card
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config[native.FACTOR_WER] == rates
    transcriber = wav2vec2.load(tmp_path / "model", "cpu")
    assert transcriber.recogniser.shortening == native.default_factor(rates)


def test_what_takes_no_factor_says_so(finetuned, tmp_path, command):
    for arguments, message in (
        (("--to", "native", "--factor", "2"), "--factor 2: --to native keeps the checkpoint's"),
        (("--to", "huggingface"), "transformers has no hourglass encoder"),
        (("--to", "fairseq"), "hourglass [1,(2,2:4),1]: fairseq has none"),
    ):
        code, _, err = command(convert.main, finetuned, tmp_path / "out", *arguments)
        assert code == 2 and message in err and err.count("\n") == 1, err
    code, _, err = command(convert.main, finetuned, tmp_path / "copy.pt", "--to", "native")
    assert code == 0
    copy, own = load_checkpoint(tmp_path / "copy.pt"), load_checkpoint(finetuned)
    assert copy[native.FACTOR_WER] == own[native.FACTOR_WER]
    assert copy["architecture"] == own["architecture"]


def test_finetuning_confirms_the_range(corpus, pretrained, tmp_path):
    for wrong in ("[1,(2,4),1]", "[1,(2,2:5),1]", "[1,(2,2-4),1]"):
        with pytest.raises(UserError, match="--hourglass_config"):
            prepare("finetune", corpus, tmp_path, pretrained_model=pretrained,
                    hourglass_config=wrong)  # fmt: skip
    prepare(
        "finetune", corpus, tmp_path, pretrained_model=pretrained,
        hourglass_config="[1, (2, [2,3,4]), 1]",
    )  # fmt: skip


@pytest.mark.long
def test_the_table_with_a_few_updates(tmp_path, monkeypatch, capfd):
    """By the scripts that make the real one; a second call trains and evaluates nothing."""
    pytest.importorskip("espeakng_loader")
    monkeypatch.setattr(reproduce_tables, "ELASTIC_MODELS", {"elastic": ("2:4", (1, 3))})
    short = {"MINUTES": 1, "LABEL_MINUTES": 1, "PRETRAIN_UPDATES": 2, "FINETUNE_UPDATES": 2}
    monkeypatch.setattr(reproduce_tables, "ELASTIC_TRAINING", short)
    few = {"NUM_GPUS": "1", "DATASET_DIR": str(tmp_path / "mini")}
    few |= {"PYTHON": sys.executable, "PIP_NO_INDEX": "1"}
    for name, value in few.items():
        monkeypatch.setenv(name, value)
    arguments = ["elastic", "--seeds", "1", "--runs_dir", str(tmp_path / "runs")]
    reproduce_tables.main([*arguments, "--output", str(tmp_path / "table.json")])
    rows = results.Measurement.read(tmp_path / "table.json").rows
    assert list(rows) == ["elastic, run at 1", "elastic, run at 3"]
    for row in rows.values():
        assert row["wer_lowest"] == row["wer"] == row["wer_highest"] and row["speed"] > 0
    own = tmp_path / "runs" / "elastic" / "elastic" / "seed_1"
    rates = load_checkpoint(own / "finetune" / "wav2vec2_best.pt")[native.FACTOR_WER]
    assert rates.keys() == {"2", "3", "4"}
    capfd.readouterr()
    reproduce_tables.main([*arguments, "--output", str(tmp_path / "again.json")])
    assert capfd.readouterr().out.count("== finished: ") == 3
    assert results.Measurement.read(tmp_path / "again.json").rows == rows
