"""The recipe scripts themselves, on a corpus of seconds, by environment variables alone."""

import json
import re
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.integration.conftest import script
from wav2vec2.files.torch_file import load_checkpoint

SMALL = {
    "CPU": "true",
    "NUM_GPUS": "1",
    "NUM_WORKERS": "1",
    "MAX_UPDATE": "2",
    "WARMUP_UPDATES": "1",
    "LOG_FREQUENCY": "1",
    "TRAIN_SUBSET": "train",
    "VALID_SUBSET": "dev",
}
MINI = {"MODEL": "mini", "HOURGLASS_CONFIG": "[1,(2,2),1]"}
PRETRAIN = {"NUM_CONCAT_BATCHES": "2", "MAX_TOKENS": "60000", "MAX_SAMPLE_SIZE": "30000"}


def log_records(folder):
    lines = (folder / "nvlog.json").read_text().splitlines()
    records = [json.loads(line.removeprefix("DLLL ")) for line in lines]
    return [r for r in records if r["type"] == "LOG" and r["step"] != "PARAMETER"]


def finetune_variables():
    return {key: value for key, value in SMALL.items() if key != "WARMUP_UPDATES"}


@pytest.fixture(scope="module")
def base_checkpoint(corpus, tmp_path_factory):
    """The real Base model with the recipe's Hourglass, two updates."""
    output = tmp_path_factory.mktemp("pretrain_base")
    result = script(
        "pretrain_base.sh",
        **{**SMALL, **PRETRAIN, "MIN_SAMPLE_SIZE": "10000"},
        DATASET_DIR=corpus,
        OUTPUT_DIR=output,
    )
    assert result.returncode == 0, result.stderr
    assert "95,044,608 parameters" in result.stderr
    return output / "wav2vec2_update2.pt"


def test_base_from_pretraining_to_transcripts(corpus, base_checkpoint, tmp_path):
    result = script(
        "finetune_base_100h.sh",
        **finetune_variables(),
        MAX_TOKENS="120000",
        DATASET_DIR=corpus,
        OUTPUT_DIR=tmp_path / "finetune",
        PRETRAINED_MODEL=base_checkpoint,
    )
    assert result.returncode == 0, result.stderr
    # A fine-tuned checkpoint alone is enough: copied elsewhere, the pre-trained one gone.
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(tmp_path / "finetune" / "wav2vec2_best.pt", alone / "model.pt")
    shutil.rmtree(tmp_path / "finetune")
    base_checkpoint.rename(tmp_path / "gone.pt")
    try:
        result = script(
            "inference.sh",
            FINETUNED_MODEL=alone / "model.pt",
            CPU="true",
            DATASET_DIR=corpus,
            SUBSETS="dev",
            OUTPUT_DIR=alone,
        )
    finally:
        (tmp_path / "gone.pt").rename(base_checkpoint)
    assert result.returncode == 0, result.stderr
    assert "dev: WER" in result.stdout
    lines = (alone / "hypotheses_dev.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [f"2-7-{n:04d}" for n in range(5)]


def test_pretrain_large_script(corpus, tmp_path):
    """The Large recipe's flags, on the MINI architecture to keep it short."""
    result = script(
        "pretrain_large.sh",
        **{**SMALL, **PRETRAIN, "MODEL": "mini", "UPDATE_FREQ": "2", "NUM_CONCAT_BATCHES": "1"},
        MIN_SAMPLE_SIZE="10000",
        DATASET_DIR=corpus,
        OUTPUT_DIR=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "wav2vec2_update2.pt").exists()


@pytest.fixture(scope="module")
def mini_checkpoint(corpus, tmp_path_factory):
    output = tmp_path_factory.mktemp("pretrain_mini")
    result = script(
        "pretrain_base.sh",
        **{**SMALL, **PRETRAIN, **MINI, "MIN_SAMPLE_SIZE": "10000"},
        DATASET_DIR=corpus,
        OUTPUT_DIR=output,
    )
    assert result.returncode == 0, result.stderr
    return output / "wav2vec2_update2.pt"


@pytest.mark.parametrize("recipe", ["1h", "10h", "960h"])
def test_other_finetuning_recipes(corpus, mini_checkpoint, tmp_path, recipe):
    result = script(
        f"finetune_base_{recipe}.sh",
        **finetune_variables(),
        MAX_TOKENS="120000",
        DATASET_DIR=corpus,
        OUTPUT_DIR=tmp_path,
        PRETRAINED_MODEL=mini_checkpoint,
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "wav2vec2_update2.pt").exists()
    assert "hypothesis:" in result.stderr


@pytest.mark.parametrize("model", ["mini", "small"])
def test_small_recipes(corpus, tmp_path, model):
    """From audio to a recogniser by MODEL alone; the hourglass, learning rate, warm-up, temperature
    and batches follow."""
    updates = {"MAX_UPDATE": "2", "LOG_FREQUENCY": "1"}
    shared = {**updates, "CPU": "true", "DATASET_DIR": corpus, "VALID_SUBSET": "dev"}
    pretrained, tuned = tmp_path / "pretrain", tmp_path / "finetune"
    result = script("pretrain_small.sh", **shared, MODEL=model, OUTPUT_DIR=pretrained)
    assert result.returncode == 0, result.stderr
    millions = {"mini": "1,2", "small": "7,2"}[model]
    assert re.search(rf"\b{millions}\d\d,\d{{3}} parameters", result.stderr)
    assert "effective batch size differs" not in result.stderr
    found = json.loads((pretrained / "config.json").read_text())
    assert found["learning_rate"] == {"mini": 0.002, "small": 0.001}[model]
    logged = [record["data"] for record in log_records(pretrained)]
    temperatures = [d["train_temperature"] for d in logged if "train_temperature" in d]
    assert temperatures == [2.0, 0.5]  # at its end from half of the updates

    shared |= {"PRETRAINED_MODEL": pretrained / "wav2vec2_best.pt", "SPEEDS": "0.9 1 1.1"}
    result = script("finetune_small.sh", **shared, OUTPUT_DIR=tuned)
    assert result.returncode == 0, result.stderr
    assert "hypothesis:" in result.stderr
    found = json.loads((tuned / "config.json").read_text())
    assert found["speeds"] == [0.9, 1.0, 1.1]
    assert found["architecture"]["layers"] == {"mini": 4, "small": 8}[model]


def test_benchmark(corpus, tmp_path):
    """Ends after its epochs, saves nothing, and its summary is the mean of those that count."""
    result = script(
        "pretrain_base_benchmark.sh",
        **{**SMALL, **PRETRAIN, **MINI, "MIN_SAMPLE_SIZE": "10000", "MAX_UPDATE": "1000"},
        NUM_WARMUP_EPOCHS="1",
        NUM_EPOCHS="2",
        DATASET_DIR=corpus,
        OUTPUT_DIR=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert not list(tmp_path.glob("*.pt"))
    records = log_records(tmp_path)
    epochs = [r["data"] for r in records if len(r["step"]) == 1 and "train_avg_loss" in r["data"]]
    summary = records[-1]
    assert summary["step"] == [] and len(epochs) == 3
    first, second = epochs[1:]
    took = first["train_avg_took"] + second["train_avg_took"]
    assert summary["data"]["train_avg_took"] == pytest.approx(took / 2)
    tokens = first["train_avg_ntokens"] + second["train_avg_ntokens"]
    assert summary["data"]["train_avg_ntokens/s"] == pytest.approx(tokens / took)
    assert "val_accuracy" in summary["data"]


def test_two_processes_through_torchrun(corpus, tmp_path):
    """Also: the same recipe as one process that accumulates, so the same weights."""
    variables = {**SMALL, **PRETRAIN, **MINI, "MIN_SAMPLE_SIZE": "10000"}
    variables["NUM_CONCAT_BATCHES"] = "1"
    variables["MAX_UPDATE"] = "3"
    for name, changed in (("two", {"NUM_GPUS": "2"}), ("one", {"UPDATE_FREQ": "2"})):
        result = script(
            "pretrain_base.sh",
            **{**variables, **changed},
            DATASET_DIR=corpus,
            OUTPUT_DIR=tmp_path / name,
        )
        assert result.returncode == 0, result.stderr
    two, one = (
        torch.load(tmp_path / name / "wav2vec2_update3.pt", weights_only=True)["model"]
        for name in ("two", "one")
    )
    for key, weight in one.items():
        assert (weight - two[key]).norm() <= 1e-5 * max(weight.norm(), 1e-3), key


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_a_deterministic_run_repeats_to_the_bit(corpus, mini_checkpoint, tmp_path, kind):
    """With loader workers and without."""
    recipe = {"pretrain": "pretrain_base.sh", "finetune": "finetune_base_100h.sh"}[kind]
    variables = {
        "pretrain": {**SMALL, **PRETRAIN, **MINI, "MIN_SAMPLE_SIZE": "10000"},
        "finetune": {**finetune_variables(), "PRETRAINED_MODEL": mini_checkpoint},
    }[kind]
    variables |= {
        "DETERMINISTIC": "true",
        "OMP_NUM_THREADS": "1",  # two would wait for whatever else runs
        "MAX_TOKENS": "60000",
        "MAX_UPDATE": "6",
    }
    for workers in ("0", "2"):
        result = script(
            recipe,
            **{**variables, "NUM_WORKERS": workers, "DATASET_DIR": corpus},
            OUTPUT_DIR=tmp_path / workers,
        )
        assert result.returncode == 0, result.stderr
    one, two = (load_checkpoint(tmp_path / n / "wav2vec2_update6.pt") for n in ("0", "2"))
    assert one["circumstances"]["deterministic"] and one["circumstances"]["threads"] == 1
    for name, weight in one["model"].items():
        assert torch.equal(weight, two["model"][name]), name
    logged = [
        [r["data"]["train_loss"] for r in log_records(tmp_path / n) if "train_loss" in r["data"]]
        for n in ("0", "2")
    ]
    assert len(logged[0]) == 6 and logged[0] == logged[1]


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.fixture(scope="module")
def one_machine(corpus, tmp_path_factory):
    """What one process that accumulates two batches trains."""
    folder = tmp_path_factory.mktemp("one")
    result = script("pretrain_base.sh", **machine(corpus, folder, UPDATE_FREQ="2"))
    assert result.returncode == 0, result.stderr
    return torch.load(folder / "wav2vec2_update2.pt", weights_only=True)["model"]


def machine(corpus, folder, **own):
    variables = {**SMALL, **PRETRAIN, **MINI, "MIN_SAMPLE_SIZE": "10000"}
    variables |= {"NUM_CONCAT_BATCHES": "1", "DATASET_DIR": str(corpus), "OUTPUT_DIR": str(folder)}
    return variables | own


@pytest.mark.parametrize("meeting", ["MASTER_ADDR", "RDZV_ENDPOINT"])
def test_two_machines(corpus, one_machine, tmp_path, meeting):
    """Two launchers that meet on the loopback: the same weights as one process."""
    own = [{"NUM_NODES": "2"}, {"NUM_NODES": "2"}]
    if meeting == "RDZV_ENDPOINT":
        shared = {"RDZV_ENDPOINT": f"127.0.0.1:{free_port()}"}
    else:
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        for number in (0, 1):
            own[number]["NODE_RANK"] = str(number)
    commands = [machine(corpus, tmp_path, **shared, **variables) for variables in own]
    with ThreadPoolExecutor() as pool:
        for result in pool.map(lambda variables: script("pretrain_base.sh", **variables), commands):
            assert result.returncode == 0, result.stderr
    two = torch.load(tmp_path / "wav2vec2_update2.pt", weights_only=True)["model"]
    for key, weight in one_machine.items():
        assert (weight - two[key]).norm() <= 1e-5 * max(weight.norm(), 1e-3), key


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "error: NUM_NODES=2: set MASTER_ADDR"),
        ({"NODE_RANK": "2"}, "error: NODE_RANK=2: must be from 0 to 1"),
        pytest.param(
            {"NODE_RANK": "0"},
            "error: the 2 machines did not find each other",
            marks=pytest.mark.long,
        ),
        pytest.param(
            {"NODE_RANK": "1"},
            "error: the 2 machines did not find each other",
            marks=pytest.mark.long,
        ),
        ({"RDZV_ENDPOINT": ""}, "error: the 2 machines did not find each other"),
    ],
)
def test_a_machine_that_does_not_find_the_others(corpus, tmp_path, variables, message):
    """It ends with code 2 and one line, below what torch logs, soon after PEER_TIMEOUT_MINUTES."""
    if "RDZV_ENDPOINT" in variables:
        variables = {"RDZV_ENDPOINT": f"127.0.0.1:{free_port()}"}
    elif variables:
        variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    variables |= {"NUM_NODES": "2", "PEER_TIMEOUT_MINUTES": "0.05"}
    result = script("pretrain_base.sh", **machine(corpus, tmp_path, **variables))
    assert result.returncode == 2, result.stderr
    assert result.stderr.splitlines()[-1].startswith(message), result.stderr
    assert "Traceback" not in result.stderr


def test_more_processes_than_validation_batches(corpus, mini_checkpoint, tmp_path):
    """A process without any batch to validate neither waits for the others nor miscounts."""
    result = script(
        "finetune_base_100h.sh",
        **{**finetune_variables(), "NUM_GPUS": "3", "MAX_UPDATE": "1", "MAX_TOKENS": "200000"},
        DATASET_DIR=corpus,
        OUTPUT_DIR=tmp_path,
        PRETRAINED_MODEL=mini_checkpoint,
    )
    assert result.returncode == 0, result.stderr
    (validation,) = (line for line in result.stdout.splitlines() if "validation" in line)
    assert "epoch 1: " in validation and "WER 100.00 %" in validation


def test_torchrun_hands_on_the_exit_code(corpus, tmp_path):
    result = script(
        "pretrain_base.sh",
        **{**SMALL, **MINI, "NUM_GPUS": "2", "MAX_TOKENS": "60000"},
        DATASET_DIR=corpus,
        OUTPUT_DIR=tmp_path,
    )
    assert result.returncode == 2
    assert "error: --max_sample_size 250000 exceeds --max_tokens 60000" in result.stderr


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("UPDATE_FREQUENCY", "2", "did you mean UPDATE_FREQ?"),
        ("MAX_UPDATES", "2", "did you mean MAX_UPDATE?"),
        ("NUM_CONCAT_BATCH", "2", "did you mean NUM_CONCAT_BATCHES?"),
        ("BF16", "maybe", "BF16=maybe: must be true or false"),
    ],
)
def test_misspelt_variables_are_errors(corpus, tmp_path, name, value, message):
    result = script(
        "pretrain_base.sh", **{name: value}, DATASET_DIR=corpus, OUTPUT_DIR=tmp_path / "none"
    )
    assert result.returncode == 2
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "none").exists()


MINI_MODEL = {"MODEL": "mini", "HOURGLASS_CONFIG": "[1,(2,2),1]"}


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"CPU": "yes"}, "results/pretrain_base_cpu"),
        (MINI_MODEL, "results/pretrain_base_mini"),
        ({"CPU": "true", "OUTPUT_DIR": "results/mine"}, "results/mine"),
    ],
    ids=["cpu", "model", "given"],
)
def test_a_smoke_test_leaves_the_recipes_folder_alone(variables, folder):
    result = script("pretrain_base.sh", "--dry_run", **variables)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["output_dir"] == folder
    note = f"note: results go to {folder}; results/pretrain_base is for the recipe itself\n"
    assert result.stderr == ("" if "OUTPUT_DIR" in variables else note)


def test_flags_after_the_scripts_name_reach_train(corpus, tmp_path):
    result = script(
        "pretrain_base.sh",
        "--max_updat",
        "3",
        **SMALL,
        DATASET_DIR=corpus,
        OUTPUT_DIR=tmp_path / "none",
    )
    assert result.returncode == 2
    assert "unknown flag --max_updat (did you mean --max_update?)" in result.stderr
