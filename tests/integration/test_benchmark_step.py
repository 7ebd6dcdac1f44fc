"""utils/benchmarks/step.py end to end on a tiny model; how fast it is is no test's business."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.runtime.randomness import reseed
from tasks.recipes import parse_recipe
from tests.integration.conftest import flags, script
from utils.benchmarks import step, step_worker
from utils.benchmarks.step import hourglass
from utils.benchmarks.step_tables import Configuration, Result, ratio, spread
from utils.reporting.results import Measurement

TINY = ["--cpu", "--model", "mini", "--rounds", "2", "--warmup", "1", "--warmup_updates", "10"]
NOISE = ["--utterances", "2", "--seconds", "0.7", "--product_size", "64"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Baseline, factor 2 and transformers in turns, by the recipe's script."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("benchmark")
    variables = {"CPU": "true", "DATASET_DIR": "", "MODEL": "mini", "NUM_CONCAT_BATCHES": "2"}
    result = script(
        "hourglass_benchmark.sh",
        *("--warmup_updates", "10", "--product_size", "64", "--json", str(folder / "table.json")),
        "--profile",
        **{**variables, "UTTERANCES": "2", "UTTERANCE_SECONDS": "0.7", "FACTORS": "1 2"},
        **{"PRECISIONS": "fp32", "PEERS": "transformers", "ROUNDS": "2", "UPDATES_A_TURN": "1"},
        WARMUP="1",
        OUTPUT_DIR=folder,
    )
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


def test_profiles(measured):
    """Of every contestant, products among the operators."""
    folder, _ = measured
    for name in ("baseline_fp32_x_2", "factor_2_fp32_x_2", "transformers_fp32_x_2"):
        lines = (folder / f"profile_{name}.md").read_text().splitlines()
        shares = [float(line.split("|")[-2]) for line in lines[4:]]
        assert "mm" in " ".join(lines) and sum(shares) == pytest.approx(100, abs=2)


def test_everything_is_measured_on_the_same_batches(measured):
    folder, _ = measured
    content = json.loads((folder / "benchmark_step.json").read_text())
    names = ["baseline fp32 x 2", "factor 2 fp32 x 2", "transformers fp32 x 2", "product fp32"]
    assert [result["name"] for result in content["results"]] == names
    *runs, product = content["rounds"]
    assert all(turn["flops/s"] > 0 for turn in product["turns"])
    work = {}
    for run, result in zip(runs, content["results"]):
        turns = [run["warmup"], *run["turns"]]
        updates = [update for turn in turns for update in turn["updates"]]
        assert len(updates) == 3 and all(math.isfinite(u["loss"]) for u in updates)
        work[run["name"]] = [(u["batch"], u["frames"], u["ntokens"]) for u in updates]
        assert result["frames/s"]["min"] <= result["frames/s"]["median"]
        assert result["memory"] > 0
        assert result["counted_by_torch"] == pytest.approx(1, abs=0.1)
    first, *others = work.values()
    assert len({batch for batch, *_ in first}) == 3  # batches differ, contestants' do not
    assert all(other == first for other in others)
    assert first[0][1] == 4 * 34  # 2 sub-batches of 2 utterances of 0.7 s
    # Our plain encoder and transformers' have the same weights to learn.
    parameters = [result["parameters"] for result in content["results"][:3]]
    assert parameters == [parameters[0]] * 3
    assert str(folder) not in json.dumps(content)
    assert content["environment"]["transformers"]


def test_tables(measured):
    folder, out = measured
    table = Measurement.read(folder / "table.json")
    assert table.rows["baseline"] == {"throughput": 1.0, "memory": 100.0}
    assert set(table.rows) == {"baseline", "factor 2"}
    text = (folder / "benchmark_step.md").read_text()
    assert text in out
    row = next(line for line in text.splitlines() if line.startswith("| factor 2 |"))
    assert row.endswith("| 1.25 | 70.98 |")
    assert "throughput against transformers fp32" in text
    records = (folder / "nvlog.json").read_text()
    for metric in ("ntokens/s", "frames/s", "audio_s/s", "updates/s", "memory", "flops/s"):
        assert f'"{metric}": ' in records


def test_variants_change_what_they_say(command, tmp_path):
    """On the same batches; and rounds end when their minutes are over."""
    code, out, err = command(
        step.main,
        *(*TINY, *NOISE, "--factors", "1", "--precision", "tf32", "--minutes", "0.0001"),
        *("--variants", "activation_checkpointing", "channels_last", "--output_dir", tmp_path),
    )
    assert code == 0, err
    content = json.loads((tmp_path / "benchmark_step.json").read_text())
    names = ["baseline tf32", "baseline, activation_checkpointing tf32"]
    assert [r["name"] for r in content["results"]][:2] == names
    assert [len(run["turns"]) for run in content["rounds"]] == [1] * 4  # of --rounds 2
    flops = [r["counted_by_torch"] for r in content["results"][:3]]
    assert flops[1] > 1.1 * flops[0] and flops[2] == pytest.approx(flops[0], rel=0.05)


def test_channels_last_convolutions_are_the_plain_ones(monkeypatch):
    x, weight, bias = torch.randn(2, 4, 50), torch.randn(6, 2, 3), torch.randn(6)
    x.requires_grad_()
    settings = {"stride": (2,), "padding": (1,), "dilation": (2,), "groups": 2}
    plain = F.conv1d(x, weight, bias, **settings)
    monkeypatch.setattr(F, "conv1d", F.conv1d)  # restored after the test
    step_worker.PATCHES["channels_last"]()
    changed = F.conv1d(x, weight, bias, **settings)
    torch.testing.assert_close(changed, plain, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(y.sin().sum(), x)[0] for y in (plain, changed)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_precisions_are_what_they_are_called():
    """fp32 is without TF32, and a peer or a product computes in its own precision."""
    for precision, expected in {"fp32": ("fp32", False), "tf32": ("fp32", True)}.items():
        configuration = Configuration("ours", precision)
        flags = step.configuration_flags(configuration, "mini", [], Path("out"))
        recipe = parse_recipe(["pretrain", *flags]).precision
        assert (recipe.precision, recipe.tf32) == expected
    for precision in ("bf16", "fp16"):
        configuration = Configuration("ours", precision)
        flags = step.configuration_flags(configuration, "mini", [], Path("out"))
        assert parse_recipe(["pretrain", *flags]).precision.precision == precision


def test_peer_hears_and_guesses_the_same(corpus, tmp_path):
    """Masks are the same frames; the distractors' numbers lead to the same utterance's frames."""
    pytest.importorskip("transformers")
    recipe = parse_recipe(
        flags("pretrain", corpus, tmp_path, hourglass_config="", num_concat_batches=2)
    )
    device = torch.device("cpu")
    ours = recipe.build_task(device)
    theirs = step_worker.TransformersTask(recipe, device, "fp32")
    request = next(iter(ours.plan.requests(0, 0, 0)))
    batch, peers = ours.dataset.load(request), theirs.dataset.load(request)
    assert torch.equal(batch.waveforms, peers.waveforms)
    assert step_worker.digest(batch) == step_worker.digest(peers)
    for mine, other in zip(batch.draws, peers.draws, strict=True):
        frames = other.mask.shape[1]
        for row, masked in enumerate(mine.masked):
            assert np.array_equal(np.flatnonzero(other.mask[row]), masked)
            for position, frame in enumerate(masked):
                expected = [row * frames + masked[d] for d in mine.distractors[row, position]]
                assert other.negatives[row, frame].tolist() == expected
        outside = other.negatives[~other.mask]
        assert not outside.any()

    for task in (ours, theirs):
        task.begin_update(1)
        task.model.train()
    assert theirs.kept_layers == ours.kept_layers
    seen = {}
    call = theirs.model.forward

    def watched(waveforms, **inputs):
        seen.update(inputs)
        return call(waveforms, **inputs)

    theirs.model.forward = watched
    losses = []
    for task in (ours, theirs):
        reseed("forward", 1)
        result = task.forward((batch if task is ours else peers).to(device), 1)
        assert result.targets == sum(d.masked.size for d in batch.draws)
        assert result.frames == len(batch.ids) * frames
        losses.append(float(result.loss.detach()) / result.targets)
    # Other weights and dropout, the same task: 100 distractors, so about log(101) nats.
    assert all(2 < loss < 8 for loss in losses)
    # Rows of the second sub-batch follow those of the first.
    rows = len(batch.draws[0].masked)
    assert len(seen["mask_time_indices"]) == len(batch.ids)
    numbers = seen["sampled_negative_indices"][rows:][seen["mask_time_indices"][rows:]]
    assert int(numbers.min()) >= rows * frames and int(numbers.max()) < len(batch.ids) * frames


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--rounds", "0"], "--rounds 0: must be at least 1"),
        (["--factors", "0", "2"], "--factors 0 2: give one or more"),
        (["--variants", "compiled"], "--variants compiled: choose from compile, activation_"),
        (["--utterances", "12"], "choose 8"),
        (["--factors", "2", "--json", "t.json"], "factor 1 among --factors"),
        (["--peer", "fairseq"], "invalid choice: 'fairseq'"),
        (["--mask_prob", "2"], "--mask_prob 2.0: must be within [0, 1]"),
        (["--hourglas", ""], "unknown flag --hourglas"),
    ],
)
def test_mistakes(command, tmp_path, arguments, message):
    code, _, err = command(step.main, *TINY, "--output_dir", tmp_path, *arguments)
    assert code == 2 and message in err and len(err.splitlines()) == 1


def test_a_mistake_found_by_a_process_of_its_own(command, corpus, tmp_path):
    arguments = ["--dataset_dir", corpus, "--train_subset", "absent", "--factors", "1"]
    code, _, err = command(step.main, *TINY, *NOISE, "--output_dir", tmp_path, *arguments)
    assert code == 2 and "absent.tsv" in err and len(err.splitlines()) == 1


def test_figures_are_medians_of_the_rounds():
    def result(factor, seconds):
        turns = [
            {"updates": [{"took": s, "frames": 10, "flops": 100}], "memory": 50} for s in seconds
        ]
        return Result(Configuration("ours", "fp32", factor), {"memory_before": 10}, {}, turns)

    slow, fast = result(1, [1.0, 4.0, 2.0]), result(2, [0.5, 4.0, 0.5])
    assert ratio(fast, slow) == 2.0  # of 2, 1 and 4
    assert slow.rates("frames") == [10.0, 2.5, 5.0] and slow.memory == 40
    assert spread([4.0, 1.0, 2.0, 3.0]) == {
        "median": 2.5,
        "lower_quartile": 1.75,
        "upper_quartile": 3.25,
        "min": 1.0,
        "max": 4.0,
    }


def test_hourglass_of_a_factor():
    assert [hourglass("base", factor) for factor in (1, 4)] == ["", "[2,(8,4),2]"]
    assert hourglass("mini", 2) == "[1,(2,2),1]" and hourglass("large", 3) == "[4,(16,3),4]"
