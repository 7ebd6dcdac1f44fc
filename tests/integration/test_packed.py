"""Every command accepts a packed folder in place of the filelists' folder."""

import json
import os

import numpy as np
import pytest
import torch

import inference
import train
from common.data.packed import PackOptions, pack_filelists
from tasks.recipes import parse_recipe, prepare_trainer
from tests.integration.conftest import flags
from tests.integration.test_bad_input import one_line
from tests.integration.test_training import (  # noqa: F401 (fixtures)
    finetuned,
    losses,
    pretrained,
    run,
    stop_during,
)
from utils.benchmarks import loader
from wav2vec2.cli.errors import StoppedBySignal


@pytest.fixture(scope="module")
def packed(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    pack_filelists(
        PackOptions(str(folder), ("train", "dev"), str(corpus), shard_mib=1, num_workers=1)
    )
    return folder


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_training_is_the_same(corpus, packed, pretrained, finetuned, tmp_path, kind):  # noqa: F811
    straight = {"pretrain": pretrained, "finetune": finetuned}[kind]
    changed = {"pretrained_model": pretrained} if kind == "finetune" else {}
    run(parse_recipe(flags(kind, packed, tmp_path, num_workers=1, **changed)))
    assert len(losses(tmp_path)) == 4 and losses(tmp_path) == losses(straight.parent)
    weights = [
        torch.load(path, weights_only=True)["model"]
        for path in (straight, tmp_path / "wav2vec2_update4.pt")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_run_resumes_with_packed_data(corpus, packed, pretrained, tmp_path):  # noqa: F811
    recipe = parse_recipe(flags("pretrain", corpus, tmp_path))
    trainer = prepare_trainer(recipe, torch.device("cpu"))
    stop_during(trainer, 2)
    with pytest.raises(StoppedBySignal):
        trainer.train()
    run(parse_recipe(flags("pretrain", packed, tmp_path)))
    assert losses(tmp_path) == losses(pretrained.parent)


def test_transcripts_are_the_same(corpus, packed, command, random_recogniser, tmp_path):
    results = []
    for name, folder in (("files", corpus), ("packed", packed)):
        arguments = ["--checkpoint", random_recogniser, "--cpu", "--format", "json"]
        arguments += ["--output_dir", tmp_path / name, "--filelist", folder / "dev.tsv"]
        assert command(inference.main, "transcribe", *arguments)[0] == 0
        found = {p.name: json.loads(p.read_text()) for p in (tmp_path / name).glob("*.json")}
        results.append({n: {**result, "file": ""} for n, result in found.items()})
    assert len(results[0]) == 5 and results[0] == results[1]


def test_a_mixture_of_packed_and_other_filelists(corpus, packed, tmp_path):
    results = []
    for name, folder in (("files", corpus), ("both", packed)):
        data = tmp_path / name
        for part, source in (("a", folder), ("b", corpus)):
            (data / part).mkdir(parents=True)
            subset = {"a": "train", "b": "dev"}[part]
            for path in source.glob(f"{subset}*"):
                if path.is_file():
                    os.link(path, data / part / path.name)
        argv = flags("pretrain", data, tmp_path / f"{name}_out", train_subset=None)
        run(parse_recipe([*argv, "--train_subset", "a/train", "b/dev", "--valid_subset", "b/dev"]))
        results.append(losses(tmp_path / f"{name}_out"))
    assert results[0] == results[1] and results[0]


def test_inference_is_the_same(corpus, packed, finetuned, tmp_path, command):  # noqa: F811
    made = []
    for folder in (corpus, packed):
        output = tmp_path / folder.name
        for what in ("evaluate", "align"):
            code, _, error = command(
                inference.main,
                *[what, "--checkpoint", finetuned, "--cpu", "--dataset_dir", folder],
                *["--subset", "dev", "--num_workers", "0", "--output_dir", output / what],
            )
            assert code == 0, error
        hypotheses = (output / "evaluate" / "hypotheses_dev.jsonl").read_text().splitlines()
        aligned = {p.name: p.read_bytes() for p in (output / "align").glob("*.TextGrid")}
        made.append(([json.loads(line) for line in hypotheses], aligned))
    assert made[0] == made[1] and len(made[0][1]) == 5


def test_a_truncated_shard_stops_training_with_one_line(packed, tmp_path, command):
    folder = tmp_path / "cut"
    folder.mkdir()
    for path in packed.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    os.truncate(folder / "train-00000.pack", 100_000)
    arguments = flags("pretrain", folder, tmp_path / "o", num_workers=1)
    one_line(
        command(train.main, *arguments),
        f"{folder}/train-00000.pack: 100000 bytes where its header says",
    )


@pytest.mark.parametrize("given", [True, False])
def test_the_benchmark_prints_its_table(corpus, command, given):
    arguments = ["--dataset_dir", corpus, "--subset", "train"] if given else []
    code, out, error = command(
        loader.main,
        *[*arguments, "--seconds", "20", "--rounds", "1", "--audio_seconds_per_second", "1e6"],
    )
    assert code == 0, error
    rows = [line.split("|") for line in out.splitlines() if line.startswith("|")][2:]
    assert [row[1].strip() for row in rows] == ["flac", "wav", "packed"]
    rates = [[float(cell.split()[0].replace(",", "")) for cell in row[2:-1]] for row in rows]
    assert np.isfinite(rates).all() and np.min(rates) > 0
    assert out.count("s of audio per second take") == 3
