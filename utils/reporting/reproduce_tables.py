"""Run what a table of the README needs: `python -m utils.reporting.reproduce_tables TABLE`.

Steps are the recipes of scripts/, each with an output folder of its own under --runs_dir.  A step
that has finished is not run again, one that was interrupted goes on from its checkpoint.  At the
end the figures are collected into --output, which `utils.reporting.report --update-readme` puts
into the README, and the table is printed beside the published one.
"""

import json
import os
import shlex
import statistics
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from common.runtime import environment
from utils.reporting import results
from utils.reporting.log import read_log
from utils.reporting.panels import PUBLISHED_ACCURACY
from utils.reporting.tables import PUBLISHED_LATENCY
from wav2vec2.cli.errors import UserError, run_command
from wav2vec2.cli.flags import ArgumentParser, add_flags, from_flags
from wav2vec2.files.output import prepare_folder, write_lines

FINISHED = "finished"
"""File in a step's output folder that holds the command it finished with."""

Fields = dict[str, Any]
"""Of a Measurement, its rows at least."""


@dataclass(frozen=True)
class ReproductionOptions:
    """Reproduction"""

    runs_dir: str = "results/tables"
    """Folder of the runs, a folder a table."""
    output: str = ""
    """File to write; empty: docs/results/TABLE.json."""
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    """Seeds of tables that have a run for each; the word error rate is their median's."""
    gpus: tuple[int, ...] = (1, 4, 8)
    """Numbers of GPUs of the throughput table."""
    pretrained: str = "results/pretrain_base/wav2vec2_update400000.pt"
    """Checkpoint that the throughput of fine-tuning starts from."""
    finetuned: str = "results/finetune_base_960h/wav2vec2_best.pt"
    """Checkpoint whose latency is measured."""
    dry_run: bool = False
    """Print the commands, one a line, and run nothing."""


@dataclass(frozen=True)
class Step:
    """A recipe with its variables."""

    script: str
    folder: Path
    """Its OUTPUT_DIR."""
    variables: dict[str, Any] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()

    def command(self) -> str:
        """As a user would type it."""
        variables = {**self.variables, "OUTPUT_DIR": self.folder}
        pairs = [f"{name}={shlex.quote(str(value))}" for name, value in variables.items()]
        return " ".join(
            [*pairs, "bash", f"scripts/{self.script}", *map(shlex.quote, self.arguments)]
        )

    def run(self) -> None:
        """UserError if it does not finish."""
        marker = self.folder / FINISHED
        if marker.is_file() and marker.read_text(encoding="utf-8").strip() == self.command():
            print(f"== finished already: {self.command()}", flush=True)
            return
        print(f"== {self.command()}", flush=True)
        variables = {name: str(value) for name, value in self.variables.items()}
        code = subprocess.run(
            ["bash", f"scripts/{self.script}", *self.arguments],
            env={**os.environ, **variables, "OUTPUT_DIR": str(self.folder)},
            cwd=results.ROOT,
        ).returncode
        if code:
            raise UserError(
                f"{self.script} ended with exit code {code}, see above; once that is mended, give "
                "the same command again: it goes on from there"
            )
        write_lines(prepare_folder("--runs_dir", self.folder) / FINISHED, [self.command()])


@dataclass(frozen=True)
class Reproduction:
    """How a table is made."""

    needs: str
    steps: Callable[[ReproductionOptions, Path], list[Step]]
    collect: Callable[[ReproductionOptions, Path], Fields]
    setting: str = "bf16"


def seed_folders(options: ReproductionOptions, folder: Path) -> list[tuple[int, Path]]:
    return [(seed, folder / f"seed_{seed}") for seed in options.seeds]


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); remove its folder and run again"
        ) from None


def pretraining(options: ReproductionOptions, folder: Path) -> list[Step]:
    return [
        Step("pretrain_base.sh", path, {"SEED": seed, "BF16": "true"})
        for seed, path in seed_folders(options, folder)
    ]


def accuracies(options: ReproductionOptions, folder: Path) -> Fields:
    """Mean and deviation over the seeds of the validation nearest to each update."""
    rows, curves = {}, []
    for _, path in seed_folders(options, folder):
        curve = read_log(path / "nvlog.json").curves.get("val_accuracy")
        if curve is None:
            raise UserError(f"{path / 'nvlog.json'}: holds no validation")
        curves.append(curve)
    for update in PUBLISHED_ACCURACY:
        values = [float(c.mean[abs(c.update - update).argmin()]) for c in curves]
        rows[f"{update:,} updates"] = {
            "accuracy": round(statistics.mean(values), 3),
            "deviation": round(statistics.stdev(values), 3) if len(values) > 1 else 0.0,
        }
    return {"rows": rows}


def recognisers(options: ReproductionOptions, folder: Path) -> list[Step]:
    steps = []
    pretrained = pretraining(options, folder.parent / "pretraining_accuracy")
    for start, (seed, path) in zip(pretrained, seed_folders(options, folder)):
        weights = start.folder / "wav2vec2_update400000.pt"
        variables = {"SEED": seed, "BF16": "true", "PRETRAINED_MODEL": weights}
        judged = {"FINETUNED_MODEL": path / "wav2vec2_best.pt", "SUBSETS": "dev-other"}
        steps += [
            start,
            Step("finetune_base_960h.sh", path, variables),
            Step("inference.sh", path / "dev-other", judged),
        ]
    return steps


def word_error_rate(options: ReproductionOptions, folder: Path) -> Fields:
    rates = [
        read_json(path / "dev-other" / "summary_dev-other.json")["wer"]
        for _, path in seed_folders(options, folder)
    ]
    return {"rows": {"dev-other": {"wer": round(statistics.median(rates), 3)}}}


def throughput_folders(options: ReproductionOptions, folder: Path) -> list[tuple[int, str, Path]]:
    kinds = ("pretrain", "finetune")
    return [(n, kind, folder / f"{kind}_{n}") for n in options.gpus for kind in kinds]


def throughput(options: ReproductionOptions, folder: Path) -> list[Step]:
    steps = []
    for gpus, kind, path in throughput_folders(options, folder):
        variables = {"NUM_GPUS": gpus, "AUTO_GEOMETRY": "true", "BF16": "true"}
        if kind == "finetune":
            variables["PRETRAINED_MODEL"] = options.pretrained
        steps.append(Step(f"{kind}_base_benchmark.sh", path, variables))
    return steps


def target_rates(options: ReproductionOptions, folder: Path) -> Fields:
    rows: dict[str, dict[str, int]] = {}
    for gpus, kind, path in throughput_folders(options, folder):
        rate = read_log(path / "nvlog.json").summary.get("train_avg_ntokens/s")
        if rate is None:
            raise UserError(
                f"{path / 'nvlog.json'}: holds no summary; remove its folder and run again"
            )
        rows.setdefault(f"{gpus} GPU{'s' * (gpus > 1)}", {})[kind] = round(rate)
    return {"rows": rows}


def factors(options: ReproductionOptions, folder: Path) -> list[Step]:
    return [Step("hourglass_benchmark.sh", folder, {}, ("--json", str(folder / "table.json")))]


def factor_table(options: ReproductionOptions, folder: Path) -> Fields:
    """As the benchmark wrote it: it knows which device and precision it ran in."""
    return read_json(folder / "table.json")


def latency(options: ReproductionOptions, folder: Path) -> list[Step]:
    variables = {
        "FINETUNED_MODEL": options.finetuned,
        "BATCH_SIZES": " ".join(map(str, PUBLISHED_LATENCY)),
        "PRECISION": "bf16",
    }
    return [Step("inference_benchmark.sh", folder, variables)]


def latencies(options: ReproductionOptions, folder: Path) -> Fields:
    names = {"mean": "mean", "p90": "0_9", "p95": "0_95", "p99": "0_99"}
    rows = {
        f"batch {entry['batch_size']}": {
            column: round(entry[f"data+dnn_latency_{name}"], 2) for column, name in names.items()
        }
        for entry in read_json(folder / "latency_test-other.json")
    }
    return {"rows": rows}


QUICKSTARTS = {
    **{f"seed {seed}": {"SEED": seed} for seed in (1, 2, 3)},
    "seed 1, RANDOM_WEIGHTS=true": {"SEED": 1, "RANDOM_WEIGHTS": "true"},
}


def quickstart_folder(folder: Path, number: int) -> Path:
    return folder / f"run_{number}"


def quickstarts(options: ReproductionOptions, folder: Path) -> list[Step]:
    return [
        Step("quickstart.sh", quickstart_folder(folder, number), variables)
        for number, variables in enumerate(QUICKSTARTS.values(), start=1)
    ]


def error_rates(options: ReproductionOptions, folder: Path) -> Fields:
    summaries = (
        read_json(quickstart_folder(folder, number) / "summary.json")
        for number in range(1, len(QUICKSTARTS) + 1)
    )
    rows = {
        row: {name: round(summary[name], 2) for name in ("wer", "uer")}
        for row, summary in zip(QUICKSTARTS, summaries)
    }
    return {"rows": rows}


LIBRISPEECH = "LibriSpeech as filelists in DATASET_DIR (130 GB with the archives)"

REPRODUCTIONS = {
    "pooling_factor": Reproduction(
        f"{LIBRISPEECH}; 1 GPU (published on one of 80 GB); time not measured yet",
        factors,
        factor_table,
    ),
    "throughput": Reproduction(
        f"{LIBRISPEECH}; as many GPUs as the largest of --gpus; a pre-trained checkpoint; 14 "
        "epochs for each number of GPUs, time not measured yet",
        throughput,
        target_rates,
    ),
    "pretraining_accuracy": Reproduction(
        f"{LIBRISPEECH}; published: 8 GPUs of 80 GB and 48.1 hours a seed, stability being the "
        "deviation over --seeds",
        pretraining,
        accuracies,
    ),
    "finetuning_wer": Reproduction(
        f"{LIBRISPEECH}; published: 8 GPUs of 80 GB and, beyond pre-training, 6.5 hours a seed",
        recognisers,
        word_error_rate,
    ),
    "latency": Reproduction(
        "LibriSpeech's test-other as a filelist in DATASET_DIR; 1 GPU; a fine-tuned checkpoint; "
        "minutes",
        latency,
        latencies,
    ),
    "quickstart": Reproduction(
        "no data and no GPU; 4 runs of about 5 minutes on 2 CPU cores",
        quickstarts,
        error_rates,
        "",
    ),
}


def listing() -> str:
    width = max(map(len, REPRODUCTIONS))
    return "\n".join(f"{name:{width}}  {r.needs}" for name, r in REPRODUCTIONS.items())


def surroundings() -> dict[str, Any]:
    """Hardware, versions and commit, as docs/results has them.  How many GPUs a run had, of those
    that there are, its own row or recipe says."""
    gpu = torch.cuda.is_available()
    found = environment.describe(torch.device("cuda" if gpu else "cpu"), 1)
    return {
        "hardware": found["hardware"] if gpu else f"{found['cores']} CPU cores",
        "versions": {"torch": found["torch"].partition("+")[0]},
        "commit": found.get("commit", ""),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(
        prog="utils.reporting.reproduce_tables", description=f"{(__doc__ or '').splitlines()[0]}"
    )
    parser.add_argument(
        "table", nargs="?", metavar="TABLE", help=f"one of {', '.join(REPRODUCTIONS)}"
    )
    add_flags(parser, ReproductionOptions)
    namespace = parser.parse_args(argv)
    options: ReproductionOptions = from_flags(ReproductionOptions, namespace)
    if namespace.table is None:
        print(f"Which table?  Each needs:\n\n{listing()}")
        return
    if namespace.table not in REPRODUCTIONS:
        raise UserError(
            f"{namespace.table}: no table of that name; one of {', '.join(REPRODUCTIONS)}"
        )
    reproduction = REPRODUCTIONS[namespace.table]
    folder = Path(options.runs_dir) / namespace.table
    steps = reproduction.steps(options, folder)
    if options.dry_run:
        print("\n".join(step.command() for step in steps))
        return
    output = Path(options.output or results.RESULTS / f"{namespace.table}.json")
    prepare_folder("--output", output.parent)
    print(f"{namespace.table} needs {reproduction.needs}", flush=True)
    for step in steps:
        step.run()
    measurement = {
        "table": namespace.table,
        "command": f"bash scripts/reproduce_tables.sh {namespace.table}",
        "setting": reproduction.setting,
        **surroundings(),
        **reproduction.collect(options, folder),
    }
    write_lines(output, json.dumps(measurement, indent=1).splitlines())
    shape = results.TABLES[namespace.table]
    print(f"\n{results.table(shape, [results.Measurement.read(output)])}\n\n{output}")


if __name__ == "__main__":
    run_command(main)
