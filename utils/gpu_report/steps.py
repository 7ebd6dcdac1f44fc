"""The steps of a GPU report in order of worth: a command of this repository, and its figures."""

import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.gpu_report.corpus import START
from utils.gpu_report.memory import RECIPE, Batch
from utils.reporting.log import LOG, read_log
from wav2vec2.files.text import read_json

Rows = dict[str, dict[str, float]]
"""Rows of a table of docs/results: row -> column -> figure."""


@dataclass(frozen=True)
class Setup:
    """What the commands of all steps share."""

    folder: Path
    cpu: bool
    rounds: int
    minutes: float
    """After which a step should come to its end."""
    dataset_dir: str
    train_subset: str
    valid_subset: str

    @property
    def model(self) -> str:
        return "mini" if self.cpu else "base"

    @property
    def hourglass(self) -> str:
        return "[1,(2,2),1]" if self.cpu else "[2,(8,4),2]"

    @property
    def data(self) -> list[str]:
        """train.py's flags for the corpus."""
        least, most = (4_000, 12_000) if self.cpu else (32_000, 250_000)
        return [
            *("--dataset_dir", self.dataset_dir, "--train_subset", self.train_subset),
            *("--min_sample_size", str(least), "--max_sample_size", str(most)),
        ]


@dataclass(frozen=True)
class Command:
    """A command of this repository, with variables in front of it."""

    words: list[str]
    variables: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """A measurement of the report."""

    name: str
    shows: str
    command: Callable[[Setup, Batch, Path], Command]
    """Its command for a setup, a batch and its own folder."""
    read: Callable[[Path], dict[str, Rows]]
    """Its figures from its folder: table -> rows."""
    minutes: tuple[float, float]
    """Expected on a GPU, not measured yet: for the start, and for each round."""
    precision: str = "bf16"
    needs: tuple[str, ...] = ()
    """Packages without which it is skipped."""
    gpus: int = 1
    models: int = 1
    """Processes that are on the GPU at the same time."""
    scale: float = 1.0
    """Activations of its largest configuration relative to ours in bf16; 0: small ones."""

    def expected(self, rounds: int) -> float:
        """Minutes on a GPU."""
        return self.minutes[0] + self.minutes[1] * rounds


def no_figures(folder: Path) -> dict[str, Rows]:
    return {}


def tests_on_gpu(setup: Setup, batch: Batch, folder: Path) -> Command:
    return Command(["python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu"])


def step_command(
    *flags: str, toy: tuple[str, ...] | None = None, concat: tuple[int, ...] = ()
) -> Callable[..., Command]:
    """utils/benchmarks/step.py with `flags`, or `toy` with --cpu; `concat`: its sub-batches, where
    they are compared."""

    def command(setup: Setup, batch: Batch, folder: Path) -> Command:
        own = [str(n) for n in concat if n <= batch.concat] or [str(batch.concat)]
        size = ["--cpu", "--product_size", "64"] if setup.cpu else []
        asked = toy if toy is not None and setup.cpu else flags
        turn = ("1", "1") if setup.cpu else ("3", "3")
        return Command(
            [
                *("python", "-m", "utils.benchmarks.step", "--model", setup.model, *setup.data),
                *("--max_tokens", str(batch.max_tokens), "--concat", *own, *asked),
                *("--rounds", str(setup.rounds), "--updates", turn[0], "--warmup", turn[1]),
                *("--minutes", f"{setup.minutes:.1f}", "--output_dir", str(folder), *size),
            ]
        )

    return command


def pooling_command(setup: Setup, batch: Batch, folder: Path) -> Command:
    factors = ("1", "2") if setup.cpu else ("1", "2", "3", "4", "5", "6")
    flags = ("--factors", *factors, "--precision", "bf16", "--json", str(folder / "table.json"))
    return step_command(*flags)(setup, batch, folder)


def read_pooling(folder: Path) -> dict[str, Rows]:
    return {"pooling_factor": _json(folder / "table.json")["rows"]}


def _json(path: Path) -> Any:
    return read_json(path, "run the report again")


def read_step(table: str) -> Callable[[Path], dict[str, Rows]]:
    """Of each configuration: speed, also relative to the first of its precision or of all, peak
    memory, and its operations per second in percent of a large matrix product's."""

    def rates(measured: dict[str, Any]) -> list[float]:
        totals = [
            [sum(update[name] for update in turn["updates"]) for name in ("audio_seconds", "took")]
            for turn in measured["turns"]
        ]
        return [audio / took for audio, took in totals]

    def read(folder: Path) -> dict[str, Rows]:
        content = _json(folder / "benchmark_step.json")
        rows: Rows = {}
        first: list[float] = []
        for result, measured in zip(content["results"], content["rounds"]):
            if result["kind"] == "product":
                continue
            own = rates(measured)
            first = first or own
            rows[result["name"]] = {
                "audio": round(statistics.median(own), 1),
                "speed": round(statistics.median(a / b for a, b in zip(own, first)), 2),
                "memory": round(result["memory"]),
                "share": round(100 * result["share_of_product_rate"]["median"], 1),
            }
        return {table: rows}

    return read


def largest_batch(setup: Setup, batch: Batch, folder: Path) -> Command:
    words = ["python", "-m", "utils.benchmarks.largest_batch", "--model", setup.model]
    if setup.cpu:
        words += ["--cpu", "--memory_mib", "1", "--factors", "1", "--seconds", "0.5"]
    else:
        words += ["--factors", "1", "4"]
    return Command([*words, "--precision", "bf16", "--output_dir", str(folder)])


def read_largest(folder: Path) -> dict[str, Rows]:
    rows = {}
    for found in _json(folder / "largest_batch.json")["results"]:
        names = {"utterances": "utterances", "audio": "audio_seconds", "memory": "memory"}
        rows[found["configuration"]] = {k: round(found[name]) for k, name in names.items()}
    return {"gpu_largest_batch": rows}


def inference(setup: Setup, batch: Batch, folder: Path) -> Command:
    size = ["--seconds", "0.3"] if setup.cpu else ["--gpu"]
    return Command(
        [
            *("python", "-m", "utils.benchmarks.inference", "--model", setup.model),
            *("--hourglass_config", setup.hourglass, "--utterances", "1", "4", "8"),
            *("--rounds", str(setup.rounds), "--mixed", "0", "--peers", "transformers"),
            *("--json", str(folder / "inference.json"), *size),
        ]
    )


def read_inference(folder: Path) -> dict[str, Rows]:
    found = _json(folder / "inference.json")["rows"]
    rows = {}
    for title in [name.removeprefix("plain bf16, ") for name in found if "plain bf16" in name]:
        models = {"ours": "plain", "transformers": "transformers", "hourglass": "hourglass"}
        rates = {key: found[f"{model} bf16, {title}"]["speed"] for key, model in models.items()}
        rows[f"batch {title.split()[0]}"] = {
            **{key: round(rate, 1) for key, rate in rates.items()},
            "ratio": round(rates["ours"] / rates["transformers"], 2),
        }
    return {"gpu_inference": rows}


def training(kind: str, gpus: int = 1) -> Callable[..., Command]:
    """A recipe for a few epochs, with data loading, on `gpus` GPUs."""

    def command(setup: Setup, batch: Batch, folder: Path) -> Command:
        variables = {
            "DATASET_DIR": setup.dataset_dir,
            "TRAIN_SUBSET": setup.train_subset,
            "VALID_SUBSET": setup.valid_subset,
            "OUTPUT_DIR": str(folder),
            "NUM_GPUS": str(gpus),
            "NUM_WARMUP_EPOCHS": "0" if setup.cpu else "1",
            "NUM_EPOCHS": "1" if setup.cpu else "3",
            "VALIDATE_FREQUENCY": "1000",
            "BF16": "true",
            "AUTO_GEOMETRY": "true",
        }
        if kind == "finetune":
            variables["PRETRAINED_MODEL"] = str(setup.folder / "data" / START)
            share = batch.utterances / RECIPE.utterances  # of the recipe's memory
            variables["MAX_TOKENS"] = str(max(int(3_200_000 * share), 600_000))
        else:
            variables["NUM_CONCAT_BATCHES"] = str(batch.concat)
            variables["MAX_TOKENS"] = str(batch.max_tokens)
        if setup.cpu:
            variables |= {"CPU": "true", "NUM_WORKERS": "1", "BATCHES_PER_UPDATE": "1"}
            variables |= {"MAX_TOKENS": str(4 * batch.max_tokens)}
            if kind == "pretrain":
                variables |= {"MAX_TOKENS": str(batch.max_tokens)}
                variables |= {"BATCHES_PER_UPDATE": str(gpus * batch.concat)}
                variables |= {"MODEL": "mini", "HOURGLASS_CONFIG": setup.hourglass}
                variables |= {"MIN_SAMPLE_SIZE": "4000", "MAX_SAMPLE_SIZE": "12000"}
        return Command(["bash", f"scripts/{kind}_base_benchmark.sh"], variables)

    return command


def read_training(kind: str, gpus: int = 1) -> Callable[[Path], dict[str, Rows]]:
    def read(folder: Path) -> dict[str, Rows]:
        summary = read_log(folder / LOG).summary
        row = f"{gpus} GPU{'' if gpus == 1 else 's'}"
        names = {"audio": "audio_s/s", "wait": "data_wait", "memory": "memory"}
        figures = {key: round(summary[f"train_avg_{n}"], 1) for key, n in names.items()}
        whole = "pre-training" if kind == "pretrain" else "fine-tuning"
        return {
            "throughput": {row: {kind: round(summary["train_avg_ntokens/s"])}},
            "gpu_training": {f"{whole}, {row}": figures},
        }

    return read


RECIPES_NEED = ("soundfile", "editdistance", "tqdm", "sentencepiece", "safetensors", "tensorboard")
"""Packages that scripts/recipe.sh and train.py ask for."""

BASELINE = ("--factors", "1", "--precision", "bf16")

STEPS = (
    Step(
        "tests",
        "tests/gpu: the GPU gives the CPU's losses",
        tests_on_gpu,
        no_figures,
        (1.0, 0.0),
        needs=("pytest", "soundfile"),
        scale=0.0,
    ),
    Step(
        "pooling_factor",
        "Base by pooling factor, interleaved",
        pooling_command,
        read_pooling,
        (1.2, 0.2),
        models=7,
    ),
    Step(
        "peers",
        "plain Base against transformers, and against the rate of a matrix product",
        step_command(*BASELINE, "--peer", "transformers"),
        read_step("gpu_peers"),
        (0.8, 0.15),
        needs=("transformers",),
        models=3,
        scale=3.5,
    ),
    Step(
        "precision",
        "fp32, TF32, bf16 and fp16",
        step_command(
            *("--factors", "1", "--precision", "fp32", "tf32", "bf16", "fp16"),
            toy=("--factors", "1", "--precision", "tf32", "fp16"),
        ),
        read_step("gpu_precision"),
        (1.0, 0.3),
        precision="",
        models=8,
        scale=2.0,
    ),
    Step(
        "concat",
        "NUM_CONCAT_BATCHES 1 to 8",
        step_command(*BASELINE, concat=(1, 2, 4, 8)),
        read_step("gpu_concat"),
        (0.8, 0.15),
        models=5,
    ),
    Step(
        "largest_batch",
        "the largest batch that fits",
        largest_batch,
        read_largest,
        (8.0, 0.0),
    ),
    Step(
        "finetuning",
        "fine-tuning, with data loading",
        training("finetune"),
        read_training("finetune"),
        (2.0, 0.0),
        needs=RECIPES_NEED,
    ),
    Step(
        "inference",
        "a recogniser against transformers, batches of 1, 4 and 8",
        inference,
        read_inference,
        (1.0, 0.1),
        needs=("transformers",),
        scale=0.0,
    ),
    Step(
        "compile",
        "--compile against without",
        step_command(  # on a CPU it needs a C++ compiler, and minutes
            *(*BASELINE, "--variants", "compile"),
            toy=(*BASELINE, "--variants", "activation_checkpointing"),
        ),
        read_step("gpu_variants"),
        (3.0, 0.1),
        models=3,
    ),
    Step(
        "guesses",
        "kernels, channels-last convolutions, cuDNN's search, activation checkpointing",
        step_command(
            *BASELINE,
            *("--variants", "plain_kernels", "channels_last", "cudnn_benchmark"),
            "activation_checkpointing",
            toy=(*BASELINE, "--variants", "plain_kernels", "channels_last"),
        ),
        read_step("gpu_variants"),
        (1.5, 0.2),
        models=6,
        scale=2.0,
    ),
    Step(
        "apex",
        "apex' fused optimizers",
        step_command(*BASELINE, "--variants", "fused_adam", "fused_lamb"),
        read_step("gpu_variants"),
        (1.0, 0.15),
        needs=("apex",),
        models=4,
    ),
    Step(
        "pretraining",
        "pre-training, with data loading",
        training("pretrain"),
        read_training("pretrain"),
        (2.0, 0.0),
        needs=RECIPES_NEED,
    ),
    *(
        Step(
            f"scaling_{gpus}",
            f"pre-training on {gpus} GPUs (NCCL)",
            training("pretrain", gpus),
            read_training("pretrain", gpus),
            (2.0, 0.0),
            needs=RECIPES_NEED,
            gpus=gpus,
        )
        for gpus in (2, 4, 8)
    ),
)


def merge_rows(tables: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Measurements of the same table and setting as one, with the commands of all."""
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for found in tables:
        key = found["table"], found["setting"]
        if key not in merged:
            merged[key] = json.loads(json.dumps(found))
            continue
        for name, between in (("command", "; "), ("commit", ", ")):
            if found[name] not in merged[key][name]:
                merged[key][name] += between + found[name]
        for row, figures in found["rows"].items():
            merged[key]["rows"].setdefault(row, {}).update(figures)
    return list(merged.values())
