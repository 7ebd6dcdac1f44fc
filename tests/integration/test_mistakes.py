"""Plausible mistakes of a first hour: each ends with exit code 2 and one line with the fix."""

import os
import shutil
import subprocess
import sys

import pytest
import torch

import inference
import train
from tests.integration.conftest import ROOT, flags, script
from utils.data import import_corpus, pack_dataset, train_sentencepiece
from utils.reporting import report


def check(code, errors, *parts):
    (line,) = errors.splitlines()
    assert code == 2 and line.startswith("error: "), errors
    for part in parts:
        assert part in line, line


@pytest.mark.parametrize(
    ("name", "variables", "parts"),
    [
        ("pretrain_base.sh", {"GPUS": "2"}, ["NUM_GPUS=2"]),
        ("pretrain_base.sh", {"BATCH_SIZE": "16"}, ["MAX_TOKENS=1400000", "NUM_CONCAT_BATCHES"]),
        ("pretrain_large.sh", {"DEVICE": "cpu"}, ["CPU=true"]),
        ("finetune_base_1h.sh", {"EPOCHS": "10"}, ["MAX_UPDATE=20000"]),
        ("finetune_base_1h.sh", {"PRECISION": "bf16"}, ["BF16=true"]),
        ("finetune_base_1h.sh", {"NUM_GPUS": "two"}, ["NUM_GPUS=two", "whole number such as 8"]),
        ("finetune_base_1h.sh", {"BF16": "bfloat16"}, ["BF16=bfloat16", "true or false"]),
        ("pretrain_base.sh", {"FP16": "1", "BF16": "on"}, ["FP16=true BF16=true", "choose one"]),
        ("pretrain_base.sh", {"NUM_NODES": "2"}, ["set MASTER_ADDR", "NODE_RANK"]),
        ("download_data.sh", {"DATASET_DIR": "/tmp/speech"}, ["end in /LibriSpeech"]),
        ("download_data.sh", {"SUBSETS": "dev-claen"}, ["did you mean dev-clean?"]),
        ("generate_filelists.sh", {"DATASET_DIR": "/nowhere"}, ["/nowhere: no such folder"]),
        ("docker/run.sh", {"CONTAINER_ENGINE": "dokcer"}, ["not installed", "CONTAINER_ENGINE"]),
        ("slurm/pretrain_base.sbatch", {}, ["submit it", "sbatch"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else None,
)
def test_scripts(name, variables, parts, monkeypatch):
    monkeypatch.chdir(ROOT)
    result = script(name, **variables)
    check(result.returncode, result.stderr, *parts)


@pytest.mark.parametrize("other", [{"SEED": "2"}, {"LABEL_MINUTES": "3"}, {"HOURGLASS_CONFIG": ""}])
def test_a_quickstart_in_the_folder_of_another(other, tmp_path):
    """A finished stage is not run again: its results would pass for those of the new settings."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    python = tmp_path / "python3"  # every command succeeds and does nothing
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)

    def quickstart(**variables):
        environment = {**os.environ, "PYTHON": str(python), "OUTPUT_DIR": "out", **variables}
        command = ["bash", str(tmp_path / "scripts" / "quickstart.sh")]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    assert quickstart().returncode == 0
    again = quickstart()
    assert again.returncode == 0 and again.stdout.count("done already") == 5
    result = quickstart(**other)
    check(result.returncode, result.stderr, "OUTPUT_DIR out holds", "out/settings")


@pytest.mark.parametrize(
    "name", ["pretrain_base.sh", "inference.sh", "generate_filelists.sh", "hourglass_benchmark.sh"]
)
def test_outside_the_environment(name, tmp_path):
    bare = tmp_path / "python3"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    bare.chmod(0o755)
    result = script(name, PYTHON=bare)
    check(result.returncode, result.stderr, "has no torch", "pip install torch -r requirements.txt")
    result = script(name, PYTHON="/no/such/python")
    check(result.returncode, result.stderr, "/no/such/python has no Python", "python3 -m venv")


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("GO ON\n" * 30)
    return path


def test_checkpoint_that_is_none(command, text_file, tmp_path):
    for path, part in (
        (tmp_path / "gone.pt", "no such"),
        (tmp_path, str(tmp_path)),
        (text_file, str(text_file)),
    ):
        code, _, err = command(
            inference.main, "transcribe", "--cpu", "--checkpoint", path, text_file
        )
        check(code, err, part)


def test_training_without_filelists(command, tmp_path):
    code, _, err = command(train.main, *flags("pretrain", tmp_path, tmp_path / "o"))
    check(code, err, "train.tsv: no such file", "generate_filelists")


def test_fine_tuning_without_its_checkpoint(command, corpus, tmp_path):
    arguments = flags("finetune", corpus, tmp_path / "o", pretrained_model=tmp_path / "gone.pt")
    code, _, err = command(train.main, *arguments)
    check(code, err, "gone.pt: no such checkpoint")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_training_without_a_gpu(command, corpus, tmp_path):
    code, _, err = command(train.main, *flags("pretrain", corpus, tmp_path / "o", cpu="false"))
    check(code, err, "no GPU found", "CPU=true")


def test_labels_of_another_length(command, corpus, random_recogniser, tmp_path):
    for suffix in ("tsv", "wrd", "ltr"):
        shutil.copy(corpus / f"dev.{suffix}", tmp_path)
    (tmp_path / "dev.wrd").write_text("CAT\n")
    (tmp_path / "dev.ltr").write_text("C A T |\n")
    arguments = ["--cpu", "--checkpoint", random_recogniser, "--dataset_dir", tmp_path]
    code, _, err = command(
        inference.main, "evaluate", *arguments, "--subset", "dev", "--output_dir", tmp_path / "o"
    )
    check(code, err.splitlines()[-1], "1 label lines", "lists 5")  # after the kernels in use


def test_evaluation_of_an_unknown_subset(command, corpus, random_recogniser, tmp_path):
    arguments = ["--cpu", "--checkpoint", random_recogniser, "--dataset_dir", corpus]
    code, _, err = command(
        inference.main, "evaluate", *arguments, "--subset", "dve", "--output_dir", tmp_path / "o"
    )
    check(code, err, "dve.tsv: no such file", "dev.tsv")


@pytest.mark.parametrize(
    ("table", "arguments", "parts"),
    [
        ("path,spoken\na.wav,GO\n", [], ["no column text", "--text_column"]),
        ("path,text\na.mp3,GO\n", [], ["none of 1 recordings can be used", "a.mp3"]),
        ("path,text\n", [], ["names no recordings"]),
        ("path,text\na.mp3,GO\n", ["--audio_dir", "."], ["one of --table, --audio_dir"]),
    ],
    ids=["column", "not an mp3", "empty", "two sources"],
)
def test_import(command, tmp_path, table, arguments, parts):
    (tmp_path / "table.csv").write_text(table)
    (tmp_path / "a.mp3").write_text("no audio")
    places = ["--table", tmp_path / "table.csv", "--output_dir", tmp_path / "mine"]
    code, _, err = command(import_corpus.main, *places, "--workers", "1", *arguments)
    check(code, err, *parts)


def test_import_of_a_missing_folder(command, tmp_path):
    places = ["--audio_dir", tmp_path / "gone", "--output_dir", tmp_path / "mine"]
    check(*command(import_corpus.main, *places)[::2], "gone: no such folder")


def test_packing_an_unknown_subset(command, corpus, tmp_path):
    places = ["--dataset_dir", corpus, "--output_dir", tmp_path / "packed"]
    code, _, err = command(pack_dataset.main, *places, "--subsets", "trian")
    check(code, err, "trian.tsv: no such file", "train.tsv")


def test_more_pieces_than_the_words_give(command, corpus):
    arguments = ["--dataset_dir", corpus, "--train_subset", "train", "--vocab_size", "5000"]
    check(*command(train_sentencepiece.main, *arguments)[::2], "--vocab_size 5000", "lower it")


def test_report_of_no_run(command, tmp_path):
    check(*command(report.main)[::2], "name at least one RUN")
    check(*command(report.main, tmp_path / "gone")[::2], "gone")


def test_an_unknown_command(tmp_path):
    """From another folder, as a process of its own."""
    result = subprocess.run(
        [sys.executable, str(ROOT / "inference.py"), "transcirbe"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    check(result.returncode, result.stderr, "transcirbe", "--help")
