"""Reproduce a table of the README: `python -m utils.reproduction.reproduce_tables TABLE`.

Runs recipes of scripts/, each with its own output folder below --runs_dir.  Finished ones are not
run again, interrupted ones resume.  At the end, the figures are written to --output and printed
beside the published ones; `utils.reporting.report --update-docs` puts them into README and docs.
"""

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from common.runtime import environment
from utils.reporting import results
from utils.reporting.log import LOG, read_log
from utils.reporting.panels import PUBLISHED_ACCURACY
from utils.reporting.summarise_quickstart import LONG_ROW, RANDOM_ROW
from utils.reporting.tables import PUBLISHED_LATENCY
from utils.reproduction.label_efficiency import (
    collect_label_efficiency,
    label_efficiency_steps,
)
from utils.reproduction.steps import (
    SLOW_TEMPERATURE,
    Fields,
    Reproduction,
    ReproductionOptions,
    Step,
    error_rates,
    folder_of,
    read_result,
)
from wav2vec2.cli.errors import UserError, run_command
from wav2vec2.cli.flags import ArgumentParser, add_flags, from_flags
from wav2vec2.files.output import prepare_folder, write_json


def pretraining_steps(options: ReproductionOptions, folder: Path) -> list[Step]:
    return [
        Step("pretrain_base.sh", folder / f"seed_{seed}", {"SEED": seed, "BF16": "true"})
        for seed in options.seeds
    ]


def collect_accuracies(steps: list[Step]) -> Fields:
    """Mean and deviation over the seeds of the validation nearest to each update."""
    rows, curves = {}, []
    for step in steps:
        curve = read_log(step.folder / LOG).curves.get("val_accuracy")
        if curve is None:
            raise UserError(f"{step.folder / LOG}: holds no validation; remove it and run again")
        curves.append(curve)
    for update in PUBLISHED_ACCURACY:
        values = [float(c.mean[abs(c.update - update).argmin()]) for c in curves]
        rows[f"{update:,} updates"] = {
            "accuracy": round(statistics.mean(values), 3),
            "deviation": round(statistics.stdev(values), 3) if len(values) > 1 else 0.0,
        }
    return {"rows": rows}


def finetuning_steps(options: ReproductionOptions, folder: Path) -> list[Step]:
    steps = []
    for start in pretraining_steps(options, folder.parent / "pretraining_accuracy"):
        own = folder / start.folder.name
        weights = start.folder / "wav2vec2_update400000.pt"
        evaluated = {"FINETUNED_MODEL": own / "wav2vec2_best.pt", "SUBSETS": "dev-other"}
        steps += [
            start,
            Step("finetune_base_960h.sh", own, {**start.variables, "PRETRAINED_MODEL": weights}),
            Step("inference.sh", own / "dev-other", evaluated),
        ]
    return steps


def collect_word_error_rate(steps: list[Step]) -> Fields:
    """The median over the seeds."""
    rates = [read_result(s.folder / "summary_dev-other.json")["wer"] for s in steps[2::3]]
    return {"rows": {"dev-other": {"wer": round(statistics.median(rates), 3)}}}


def throughput_steps(options: ReproductionOptions, folder: Path) -> list[Step]:
    steps = []
    for gpus in options.gpus:
        variables = {"NUM_GPUS": gpus, "AUTO_GEOMETRY": "true", "BF16": "true"}
        for kind in ("pretrain", "finetune"):
            steps.append(Step(f"{kind}_base_benchmark.sh", folder / f"{kind}_{gpus}", variables))
    return steps


def collect_throughput(steps: list[Step]) -> Fields:
    rows: dict[str, dict[str, int]] = {}
    for step in steps:
        rate = read_log(step.folder / LOG).summary.get("train_avg_ntokens/s")
        if rate is None:
            raise UserError(f"{step.folder / LOG}: holds no summary; remove it and run again")
        kind, _, gpus = step.folder.name.partition("_")
        rows.setdefault(f"{gpus} GPU{'' if gpus == '1' else 's'}", {})[kind] = round(rate)
    return {"rows": rows}


def pooling_steps(options: ReproductionOptions, folder: Path) -> list[Step]:
    return [Step("hourglass_benchmark.sh", folder, {}, ("--json", str(folder / "table.json")))]


def collect_pooling(steps: list[Step]) -> Fields:
    """All fields as the benchmark wrote them: it knows its device and precision."""
    return read_result(steps[0].folder / "table.json")


def latency_steps(options: ReproductionOptions, folder: Path) -> list[Step]:
    sizes = " ".join(map(str, PUBLISHED_LATENCY))
    return [Step("inference_benchmark.sh", folder, {"BATCH_SIZES": sizes, "PRECISION": "bf16"})]


def collect_latencies(steps: list[Step]) -> Fields:
    names = {"mean": "mean", "p90": "0_9", "p95": "0_95", "p99": "0_99"}
    rows = {
        f"batch {entry['batch_size']}": {
            column: round(entry[f"data+dnn_latency_{name}"], 2) for column, name in names.items()
        }
        for entry in read_result(steps[0].folder / "latency_test-other.json")
    }
    return {"rows": rows}


QUICKSTART_KINDS = {
    "": {},
    RANDOM_ROW: {"RANDOM_WEIGHTS": "true"},
    LONG_ROW: {"PRETRAIN_UPDATES": 16_000, "PRETRAIN_SPEEDS": "0.88 1 1.12"},
}
"""End of a row's name -> variables of the quickstart."""

QUICKSTARTS = {
    f"seed {seed}" + (f", {kind}" if kind else ""): {"SEED": seed, **variables}
    for kind, variables in QUICKSTART_KINDS.items()
    for seed in (1, 2, 3)
}


QUICKSTART_DIGITS = {
    "transcribed_minutes": 1,
    "wer": 2,
    "uer": 2,
    "pretrain_accuracy_first": 3,
    "pretrain_accuracy_last": 3,
    "pretrain_code_perplexity_share": 2,
}
"""Figure of a quickstart's summary -> decimals."""


def quickstart_steps(options: ReproductionOptions, folder: Path) -> list[Step]:
    return [
        Step("quickstart.sh", folder / f"run_{number}", variables)
        for number, variables in enumerate(QUICKSTARTS.values(), start=1)
    ]


def collect_error_rates(steps: list[Step]) -> Fields:
    rows = {}
    for row, step in zip(QUICKSTARTS, steps):
        summary = read_result(step.folder / "summary.json")
        rows[row] = {
            name: round(summary[name], digits)
            for name, digits in QUICKSTART_DIGITS.items()
            if name in summary
        }
    return {"rows": rows}


ELASTIC_MODELS: dict[str, tuple[str, Sequence[int]]] = {
    "fixed 1": ("1", (1,)),
    "fixed 2": ("2", (2,)),
    "fixed 4": ("4", (1, 2, 3, 4, 5, 6)),
    "fixed 6": ("6", (6,)),
    "elastic": ("2:6", (1, 2, 3, 4, 5, 6)),
}
"""Name of a model -> its pooling factors in training, and those that inference is measured at."""


ELASTIC_TRAINING = {"MINUTES": 30, "LABEL_MINUTES": 30, "PRETRAIN_UPDATES": 1_000}
"""Shorter than the quickstart, with more transcripts: pre-training is not what is compared."""


def elastic_steps(options: ReproductionOptions, folder: Path) -> list[Step]:
    """A quickstart of each model and seed, and its evaluations, a step each."""
    steps = []
    data = {"DATASET_DIR": os.environ.get("DATASET_DIR", folder / "data")}
    for name, (trained, factors) in ELASTIC_MODELS.items():
        for seed in options.seeds:
            own = folder / folder_of(name) / f"seed_{seed}"
            layers = {"HOURGLASS_CONFIG": f"[1,(2,{trained}),1]", "SEED": seed}
            steps.append(Step("quickstart.sh", own, data | ELASTIC_TRAINING | layers))
            weights = {"FINETUNED_MODEL": own / "finetune" / "wav2vec2_best.pt"}
            evaluated = weights | data | {"SUBSETS": "test-mini", "CPU": "true", "NUM_WORKERS": 0}
            for factor in factors:
                place = own / f"factor_{factor}"
                steps.append(Step("inference.sh", place, evaluated, ("--factor", str(factor))))
    return steps


def collect_elastic(steps: list[Step]) -> Fields:
    """Word error rates over the seeds, and the median throughput of the evaluations."""
    found: dict[tuple[str, str], list[Any]] = {}
    for step in steps:
        if step.script == "inference.sh":
            key = step.folder.parents[1].name, step.arguments[-1]
            found.setdefault(key, []).append(read_result(step.folder / "summary_test-mini.json"))
    rows = {}
    for name, (_, factors) in ELASTIC_MODELS.items():
        for factor in factors:
            summaries = found[folder_of(name), str(factor)]
            speeds = [1 / summary["real_time_factor"] for summary in summaries]
            rows[f"{name}, run at {factor}"] = {
                **error_rates(summaries, "wer"),
                "speed": round(statistics.median(speeds), 1),
            }
    return {"rows": rows}


CODEBOOKS = {
    "counted": {},
    "not_counted": {"KEEP_EQUAL_DISTRACTORS": "false", "LOSS_WEIGHTS": "0.1 0.0"},
}
"""What happens to distractors with the target's codes -> variables of the pre-training."""

CODEBOOK_UPDATES = (50, 100, 200, 300, 500, 1_000, 1_500, 2_000)
"""Rows of the table `codebook`."""


def codebook_steps(options: ReproductionOptions, folder: Path) -> list[Step]:
    """Two pre-trainings on the corpus in DATASET_DIR, both with the slow temperature: the small
    recipe's, and one with the weights and distractors of the paper's code."""
    shared = {"MODEL": "mini", "MAX_UPDATE": CODEBOOK_UPDATES[-1], "LOG_FREQUENCY": 50}
    shared |= {"CPU": str(not torch.cuda.is_available()).lower(), "NUM_WORKERS": 0, "SPEEDS": ""}
    shared |= SLOW_TEMPERATURE
    return [
        Step("pretrain_small.sh", folder / name, shared | variables)
        for name, variables in CODEBOOKS.items()
    ]


def collect_codebooks(steps: list[Step]) -> Fields:
    """Loss, accuracy and codes in use at some updates of both."""
    rows: dict[str, dict[str, float]] = {f"{update:,} updates": {} for update in CODEBOOK_UPDATES}
    metrics = {"contrastive_loss": 2, "accuracy": 3, "code_perplexity": 1}
    for step in steps:
        curves = read_log(step.folder / LOG).curves
        for metric, digits in metrics.items():
            curve = curves[f"train_{metric}"]
            for update in CODEBOOK_UPDATES:
                nearest = abs(curve.update - update).argmin()
                value = round(float(curve.mean[nearest]), digits)
                rows[f"{update:,} updates"][f"{step.folder.name}_{metric}"] = value
    return {"rows": rows}


LIBRISPEECH = "LibriSpeech as filelists in DATASET_DIR (130 GB with the archives)"

REPRODUCTIONS = {
    "pooling_factor": Reproduction(
        f"{LIBRISPEECH}; 1 GPU (published on one of 80 GB); time not measured yet",
        pooling_steps,
        collect_pooling,
    ),
    "throughput": Reproduction(
        f"{LIBRISPEECH}; as many GPUs as the largest of --gpus; a pre-trained checkpoint "
        "(PRETRAINED_MODEL); 14 epochs for each number of GPUs, time not measured yet",
        throughput_steps,
        collect_throughput,
    ),
    "pretraining_accuracy": Reproduction(
        f"{LIBRISPEECH}; published: 8 GPUs of 80 GB and 48.1 hours per seed; the deviation is over "
        "--seeds",
        pretraining_steps,
        collect_accuracies,
    ),
    "finetuning_wer": Reproduction(
        f"{LIBRISPEECH}; published: 8 GPUs of 80 GB and, after pre-training, 6.5 hours per seed",
        finetuning_steps,
        collect_word_error_rate,
    ),
    "latency": Reproduction(
        "LibriSpeech's test-other as a filelist in DATASET_DIR; 1 GPU; a fine-tuned checkpoint "
        "(FINETUNED_MODEL); minutes",
        latency_steps,
        collect_latencies,
    ),
    "quickstart": Reproduction(
        "no data and no GPU; 6 runs of 3 to 9 minutes and 3 of about 40 minutes on 2 CPU cores",
        quickstart_steps,
        collect_error_rates,
        "",
    ),
    "elastic": Reproduction(
        "no data and no GPU; for each of 5 models and each of --seeds a quickstart of 5 minutes on "
        "a CPU core, then evaluations of seconds",
        elastic_steps,
        collect_elastic,
        "",
        (1, 2, 3),
    ),
    "codebook": Reproduction(
        "recordings of people, with the filelists train and valid in DATASET_DIR (published on 3 "
        "hours of Mboshi); no GPU; 2 pre-trainings of MINI, 4 minutes each on a CPU core",
        codebook_steps,
        collect_codebooks,
        "",
    ),
    "label_efficiency": Reproduction(
        "no data and no GPU; for each of --seeds 2 pre-trainings of MINI, 12 fine-tunings and "
        "evaluations, 1.5 to 2.5 hours on a CPU core; recordings of people (DIGITS_DIR, "
        "MBOSHI_DIR, PROMPTS_DIR: see scripts/label_efficiency_data.sh) add 4 pre-trainings, 18 "
        "fine-tunings and 1.5 to 2.5 hours",
        label_efficiency_steps,
        collect_label_efficiency,
        "",
        (1, 2, 3),
        partial=True,
    ),
}


def describe_environment() -> Fields:
    """Hardware, versions, commit and date.  A run's row or recipe gives the number of its GPUs."""
    gpu = torch.cuda.is_available()
    found = environment.describe(torch.device("cuda" if gpu else "cpu"), 1)
    return {
        "hardware": found["hardware"] + ("" if gpu else f", {found['cores']} cores"),
        "versions": {"python": found["python"], "torch": found["torch"].partition("+")[0]},
        "commit": found.get("commit", ""),
        "date": time.strftime("%Y-%m-%d"),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser("utils.reproduction.reproduce_tables", __doc__)
    parser.add_argument(
        "table", nargs="?", metavar="TABLE", help=f"one of {', '.join(REPRODUCTIONS)}"
    )
    add_flags(parser, ReproductionOptions)
    namespace = parser.parse_args(argv)
    options: ReproductionOptions = from_flags(ReproductionOptions, namespace)
    if namespace.table is None:
        print("Choose a TABLE.  Each needs:\n")
        for name, reproduction in REPRODUCTIONS.items():
            print(f"{name:{max(map(len, REPRODUCTIONS))}}  {reproduction.needs}")
        return
    if namespace.table not in REPRODUCTIONS:
        raise UserError(f"{namespace.table}: no such table; choose from {', '.join(REPRODUCTIONS)}")
    reproduction = REPRODUCTIONS[namespace.table]
    options = replace(options, seeds=options.seeds or reproduction.seeds)
    folder = Path(options.runs_dir) / namespace.table
    steps = reproduction.steps(options, folder)
    if options.dry_run:
        print("\n".join(step.command() for step in steps))
        return
    output = Path(options.output or results.RESULTS / f"{namespace.table}.json")
    prepare_folder("--output", output.parent)
    print(f"{namespace.table} needs {reproduction.needs}", flush=True)
    fields = {
        "table": namespace.table,
        "command": f"bash scripts/reproduce_tables.sh {namespace.table}",
        "setting": reproduction.setting,
        **describe_environment(),
    }
    for step in steps:
        step.run()
        if reproduction.partial and (found := reproduction.collect(steps))["rows"]:
            write_json(output, {**fields, **found}, indent=1)
    write_json(output, {**fields, **reproduction.collect(steps)}, indent=1)
    shape = results.TABLES[namespace.table]
    print(f"\n{results.measured_table(shape, [results.Measurement.read(output)])}\n\n{output}")


if __name__ == "__main__":
    run_command(main)
