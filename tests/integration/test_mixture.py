"""Several corpora trained together through train.py."""

import json

import pytest
import torch

import train
from tasks.recipes import parse_recipe, prepare_trainer
from tests.integration.conftest import flags, script, write_corpus
from tests.integration.test_training import log_records, run


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora")
    write_corpus(folder, {"one": 24, "two": 8, "dev": 3, "test": 4})
    result = script(
        "generate_filelists.sh",
        DATASET_DIR=folder,
        SUBSETS="one two dev test",
        COMBINE="",
        DICTIONARY_FROM="one",
    )
    assert result.returncode == 0, result.stderr
    return folder


def arguments(kind, corpora, output, *mixture, **changed):
    argv = flags(kind, corpora, output, train_subset=None, valid_subset=None, **changed)
    return [*argv, "--train_subset", "one", "two", "--valid_subset", "dev", "test", *mixture]


def test_shares_and_validation_are_logged_apart_and_a_resume_goes_on(corpora, tmp_path, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    mixture = ("--train_weights", "1", "3")
    for output, jobs in ((whole, 1), (parts, 3)):
        for _ in range(jobs):
            limit = 0 if jobs == 1 else 1
            argv = arguments(
                "pretrain", corpora, output, *mixture, max_tokens=60_000, max_update=60
            )
            run(parse_recipe([*argv, "--epochs_this_job", str(limit), "--layerdrop", "0.3"]))
    assert "two: 0.00 h, 75.0 % of an epoch (3." in capsys.readouterr().err
    records = [r["data"] for r in log_records(parts) if r["type"] == "LOG"]
    first = next(r for r in records if "train_avg_share_one" in r)
    assert first["train_avg_share_one"] + first["train_avg_share_two"] == pytest.approx(100)
    assert first["train_avg_share_two"] == pytest.approx(75, abs=8)
    validated = next(r for r in records if "val_dev_accuracy" in r)
    tokens = [validated[f"val_{part}ntokens"] for part in ("", "dev_", "test_")]
    assert tokens[0] == tokens[1] + tokens[2]
    losses = [validated[f"val_{part}loss"] for part in ("", "dev_", "test_")]
    weighted = (losses[1] * tokens[1] + losses[2] * tokens[2]) / tokens[0]
    assert losses[0] == pytest.approx(weighted)
    saved = sorted(parts.glob("wav2vec2_update*.pt"))[-1]
    uninterrupted = {
        record["step"][0]: record["data"]["train_avg_loss"]
        for record in log_records(whole)
        if record["type"] == "LOG" and "train_avg_loss" in record["data"] and record["step"]
    }
    resumed = {
        record["step"][0]: record["data"]["train_avg_loss"]
        for record in log_records(parts)
        if record["type"] == "LOG" and "train_avg_loss" in record["data"] and record["step"]
    }
    assert saved.exists() and len(resumed) == 3
    assert resumed.items() <= uninterrupted.items()


def test_finetuning_on_two_corpora(corpora, tmp_path):
    pretrained = tmp_path / "p"
    run(parse_recipe(arguments("pretrain", corpora, pretrained, max_update=1)))
    argv = arguments(
        "finetune",
        corpora,
        tmp_path / "f",
        pretrained_model=pretrained / "wav2vec2_update1.pt",
        max_update=2,
    )
    recipe = parse_recipe([*argv, "--train_alpha", "0.5"])
    trainer = prepare_trainer(recipe, torch.device("cpu"))
    task = trainer.task
    for utterance, labels in zip(task.dataset.utterances, task.dataset.labels, strict=True):
        text = task.vocabulary.words(task.vocabulary.decode(labels))
        chapter = next(corpora.rglob(f"{utterance.id}.flac")).parent
        (transcripts,) = chapter.glob("*.trans.txt")
        assert f"{utterance.id} {text}" in transcripts.read_text().splitlines()
    summary = trainer.train()
    assert {"val_wer", "val_dev_wer", "val_test_wer", "val_test_loss"} <= summary.keys()


def test_filelists_of_one_name_in_different_folders(corpora, tmp_path):
    for name, source in (("a", "one"), ("b", "two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.tsv").write_text((corpora / f"{source}.tsv").read_text())
    argv = flags("pretrain", tmp_path, tmp_path / "o", train_subset=None, valid_subset=None)
    argv += ["--train_subset", "a/train", "b/train", "--valid_subset", "b/train", "a/train"]
    summary = run(parse_recipe(argv))
    assert {"train_avg_share_a/train", "val_b/train_loss"} <= summary.keys()


def test_the_recipes_variables(corpora, tmp_path):
    result = script(
        "pretrain_base.sh",
        "--dry_run",
        NUM_GPUS="1",
        TRAIN_SUBSET="one two",
        TRAIN_WEIGHTS="0.3 0.7",
        VALID_SUBSET="dev test",
    )
    assert result.returncode == 0, result.stderr
    resolved = json.loads(result.stdout)
    assert resolved["train_subset"] == ["one", "two"] and resolved["valid_subset"][1] == "test"
    assert resolved["train_weights"] == [0.3, 0.7]


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        (["--train_weights", "1", "2", "3"], "--train_weights: 3 weights for 2 filelists"),
        (["--train_weights", "1", "0"], "--train_weights (1.0, 0.0): must be above 0"),
        (["--train_alpha", "2"], "--train_alpha 2.0: must be from 0 to 1"),
        (["--train_weights", "1", "2", "--train_alpha", "0.5"], "give only one of them"),
        (["--train_subset", "one", "one"], "--train_subset: names one twice"),
        (["--train_subset"], "--train_subset: names no filelist"),
        (["--num_concat_batches", "4"], "--train_subset two: its audio does not fill 4 batches"),
    ],
)
def test_mistakes(corpora, tmp_path, command, mixture, message):
    argv = arguments("pretrain", corpora, tmp_path / "o", *mixture)
    code, _, error = command(train.main, *argv)
    assert code == 2 and message in error and error.count("\n") < 4
