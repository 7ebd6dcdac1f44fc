"""Collect a quickstart's figures: `python -m utils.reporting.summarise_quickstart FOLDER`.

Reads the logs and the evaluation of its stages, prints what to try next, a few hypotheses and the
word error rate with and without pre-training, and writes `summary.json` and `recordings.csv`.
"""

import csv
import io
import os
import shlex
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.reporting.log import LOG, read_log, read_records
from utils.reporting.runs import Evaluation, as_texts, read_evaluations
from utils.reporting.tables import NONE, Table
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import UserError, run_command
from wav2vec2.cli.flags import ArgumentParser, parse_bool
from wav2vec2.config import MINI
from wav2vec2.files.filelists import Manifest, read_labels, read_manifest
from wav2vec2.files.output import write_json, write_lines
from wav2vec2.files.text import read_json, read_text, split_lines

STAGES = ("corpus", "filelists", "pretrain", "finetune", "evaluate")
SUBSET = "test-mini"

STORED = Path(__file__).parents[2] / "docs" / "results" / "quickstart.json"
"""Measured quickstarts."""

RANDOM_ROW = "RANDOM_WEIGHTS=true"
LONG_ROW = "PRETRAIN_UPDATES=16000"
"""The names of their rows say after the seed what is not the default."""


def find_evaluation(folder: Path) -> Evaluation:
    """The quickstart's evaluation; UserError if it is missing."""
    for evaluation in read_evaluations(folder):
        if evaluation.subset == SUBSET and evaluation.summary:
            return evaluation
    raise UserError(f"{folder}: holds no evaluation of {SUBSET}; run scripts/quickstart.sh again")


def summarise(
    folder: Path, evaluation: Evaluation, minutes: float, random_weights: bool = False
) -> dict[str, Any]:
    """The figures of a finished quickstart in `folder`.

    `minutes`: of audio with transcripts; `random_weights`: whether fine-tuning started from them,
    so that the pre-training says nothing.
    """
    log = folder / "pretrain" / LOG
    validations = [
        record["data"]
        for record in read_records(log)
        if record and record.get("step") and "val_accuracy" in record["data"]
    ]
    if not validations:
        raise UserError(f"{log}: holds no validation; remove its folder and run again")
    fix = "run scripts/quickstart.sh again"
    seconds = {stage: float(read_json(folder / f"{stage}.seconds", fix)) for stage in STAGES}
    codes = MINI.codebook_groups * MINI.codebook_entries
    pretraining = {
        "pretrain_accuracy_first": validations[0]["val_accuracy"],
        "pretrain_accuracy_last": validations[-1]["val_accuracy"],
        "pretrain_code_perplexity_share": validations[-1]["val_code_perplexity"] / codes,
    }
    return {
        **{name: evaluation.summary[name] for name in ("wer", "uer", "utterances")},
        "transcribed_minutes": round(minutes, 1),
        "random_weights": random_weights,
        **({} if random_weights else pretraining),
        "seconds": seconds,
    }


def stored_rates(row: str, minutes: float) -> list[float]:
    """The word error rates in docs/results of quickstarts of a kind (`RANDOM_ROW`, `LONG_ROW`, or
    empty: the default) with so many minutes of transcripts; none where the file is not at hand."""
    if not STORED.is_file():
        return []
    rows = read_json(STORED, "fetch the repository again")["rows"]
    return [
        figures["wer"]
        for name, figures in rows.items()
        if figures.get("transcribed_minutes") == minutes and name.partition(", ")[2] == row
    ]


def comparison(summary: dict[str, Any]) -> str:
    """What the transcripts gave with pre-training and without: this run, and the median of stored
    ones of the other kind."""
    random, minutes = summary["random_weights"], summary["transcribed_minutes"]
    ways = {False: "with pre-training", True: "without"}
    rates = {random: f"{summary['wer']:.1f} %"}
    if stored := stored_rates("" if random else RANDOM_ROW, minutes):
        rates[not random] = f"{statistics.median(stored):.1f} %"
    parts = [f"{rates[kind]} {ways[kind]}" for kind in sorted(rates)]
    unit = "minute" if minutes == 1 else "minutes"
    return f"with {minutes:g} {unit} of transcripts: WER {', '.join(parts)}"


def write_table(path: Path, manifest: Manifest, words: dict[str, str]) -> None:
    """Write audio paths and transcripts of a subset as a table that `import_corpus` reads."""
    text = io.StringIO()
    rows = [(u.path, words[u.id]) for u in manifest.utterances]
    csv.writer(text, lineterminator="\n").writerows([("path", "text"), *rows])
    write_lines(path, split_lines(text.getvalue()))


def shortest(path: str | Path) -> str:
    """A path as seen from this folder, if it lies below."""
    path, here = Path(path).absolute(), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def python_command() -> tuple[str, str]:
    """(how to enter the repository and its environment in a new terminal, how to call Python)."""
    enter = f"cd {shlex.quote(os.getcwd())}"
    if Path(sys.prefix) == Path.cwd() / ".venv":
        return f"{enter} && source .venv/bin/activate", "python"
    if sys.prefix != sys.base_prefix:
        return enter, shlex.quote(sys.executable)
    return enter, Path(sys.executable).name


def next_commands(folder: Path, dataset_dir: Path) -> list[tuple[str, str]]:
    """What to try after the quickstart: (what it does, command for a shell) of each.

    Writes `recordings.csv`, the table that the last command reads, to `folder`.
    """
    manifest = read_manifest(dataset_dir, SUBSET)
    words = read_labels(manifest, "wrd")
    write_table(folder / "recordings.csv", manifest, words)
    utterance = manifest.utterances[0]
    model = ["--cpu", "--checkpoint", folder / "finetune" / "wav2vec2_best.pt"]
    recording = shortest(utterance.path)
    times = ["--text", words[utterance.id], "--output_dir", folder / "alignment"]
    table = ["--table", folder / "recordings.csv"]
    mine = ["--output_dir", shortest(dataset_dir.absolute().parent / "mine")]
    _, python = python_command()
    commands = {
        "transcribe a recording": ["inference.py", "transcribe", *model, recording],
        "when each word of it is spoken": ["inference.py", "align", *model, recording, *times],
        "make a data set of recordings; write your own into the table": [
            *("-m", "utils.data.import_corpus", *table, *mine)
        ],
    }
    return [
        (purpose, " ".join([python, *(shlex.quote(str(word)) for word in command)]))
        for purpose, command in commands.items()
    ]


def closing_lines(folder: Path) -> str:
    """What a finished quickstart in `folder` prints of its results: a few hypotheses, then the
    figures."""
    evaluation = find_evaluation(folder)
    summary = read_json(folder / "summary.json", "run scripts/quickstart.sh again")
    lines = []
    shown = evaluation.shown
    for _, pairs in shown[:: max(len(shown) // 5, 1)][:2]:
        reference, hypothesis = as_texts(pairs)
        lines += [f"  reference:  {reference}", f"  hypothesis: {hypothesis}", ""]
    if not summary["random_weights"]:
        first, last = summary["pretrain_accuracy_first"], summary["pretrain_accuracy_last"]
        lines.append(f"pre-training accuracy: {first:.3f} before, {last:.3f} after")
        more = "with more updates pre-training gains more"
        if stored := stored_rates(LONG_ROW, summary["transcribed_minutes"]):
            more += f": WER {statistics.median(stored):.1f} % with {LONG_ROW}"
        lines.append(f"{more} (docs/quickstart.md)")
    lines += [
        f"word error rate: {summary['wer']:.2f} % on {summary['utterances']} utterances of voices "
        "not in training",
        f"time: {sum(summary['seconds'].values()):.0f} s",
        comparison(summary),
    ]
    return "".join(f"{line}\n" for line in lines)


def fenced(text: str) -> str:
    """Text as a block of code of a document."""
    return f"```\n{text}```\n"


def quote_evaluation(folder: Path) -> str:
    """The totals of the evaluation's report, above its first list of errors."""
    path = folder / f"report_{SUBSET}.md"
    text = read_text(path, fix="run scripts/quickstart.sh again")
    return fenced(text.partition("\n## ")[0])


def quote_pretraining(folder: Path) -> str:
    """A table of the pre-training's log lines at some updates."""
    columns = {
        "train_loss": ("loss", ".2f"),
        "train_contrastive_loss": ("contrastive loss", ".2f"),
        "train_accuracy": ("accuracy", ".3f"),
        "train_code_perplexity": ("code perplexity", ".1f"),
        "train_grad_norm": ("gradient norm", ".2f"),
    }
    updates = logged_updates(folder / "pretrain", "train_loss")
    shown = sorted({updates[np.searchsorted(updates, share * updates[-1])] for share in SHARES})
    return log_table(folder / "pretrain", columns, shown)


def quote_finetuning(folder: Path) -> str:
    """A table of the fine-tuning's first log line and its validations."""
    columns = {
        "train_loss": ("loss", ".2f"),
        "val_loss": ("validation loss", ".2f"),
        "val_wer": ("validation WER, %", ".2f"),
        "val_uer": ("validation CER, %", ".2f"),
        "val_blank_share": ("blank frames, %", ".1f"),
    }
    first = logged_updates(folder / "finetune", "train_loss")[0]
    shown = [first, *logged_updates(folder / "finetune", "val_wer")]
    return log_table(folder / "finetune", columns, shown)


SHARES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0)
"""Of the pre-training, where its log is quoted."""


def logged_updates(run: Path, metric: str) -> np.ndarray:
    """The updates `[points]` at which a run logged a metric."""
    curves = read_log(run / LOG).curves
    if metric not in curves:
        raise UserError(f"{run / LOG}: has no {metric}; run scripts/quickstart.sh again")
    return curves[metric].update


def log_table(run: Path, columns: dict[str, tuple[str, str]], updates: Sequence[int]) -> str:
    """A markdown table of a run's metrics at `updates`; `columns`: metric -> heading, format."""
    curves = read_log(run / LOG).curves
    rows = []
    for update in updates:
        row = [str(update)]
        for metric, (_, digits) in columns.items():
            curve = curves.get(metric)
            found = [] if curve is None else curve.mean[curve.update == update]
            row.append(format(found[0], digits) if len(found) else NONE)
        rows.append(row)
    headings = ["update", *(heading for heading, _ in columns.values())]
    return f"\n{Table('', headings, rows).markdown()}\n\n"


def quote_stages(folder: Path) -> str:
    """A table of the seconds of each stage."""
    seconds = read_json(folder / "summary.json", "run scripts/quickstart.sh again")["seconds"]
    rows = [[stage, str(seconds[stage])] for stage in STAGES]
    return f"\n{Table('', ['stage', 'seconds'], rows).markdown()}\n\n"


QUOTED = {
    "quickstart": lambda folder: fenced(closing_lines(folder)),
    "quickstart_stages": quote_stages,
    "evaluation": quote_evaluation,
    "pretraining": quote_pretraining,
    "finetuning": quote_finetuning,
}
"""Name of an output block of a document -> its markdown, from a quickstart's output folder."""

QUOTED_FILES = (
    "summary.json",
    f"summary_{SUBSET}.json",
    f"hypotheses_{SUBSET}.jsonl",
    f"report_{SUBSET}.md",
    f"pretrain/{LOG}",
    f"finetune/{LOG}",
)
"""What QUOTED reads of that folder."""


def main() -> None:
    parser = ArgumentParser("utils.reporting.summarise_quickstart", __doc__)
    parser.add_argument("folder", type=Path, help="the quickstart's output folder")
    parser.add_argument(
        "--dataset_dir", type=Path, default="datasets/mini", help="the quickstart's corpus"
    )
    parser.add_argument(
        "--labelled", default="train-mini-10min", help="the filelist it was fine-tuned on"
    )
    words = {"type": parse_bool, "metavar": "true|false", "default": False}
    text = "whether its fine-tuning started from random weights"
    parser.add_argument("--random_weights", help=text, **words)
    arguments = parser.parse_args()
    folder, dataset_dir = arguments.folder, arguments.dataset_dir
    labelled = read_manifest(dataset_dir, arguments.labelled)
    minutes = sum(u.samples for u in labelled.utterances) / SAMPLE_RATE / 60
    evaluation = find_evaluation(folder)
    summary = summarise(folder, evaluation, minutes, arguments.random_weights)
    write_json(folder / "summary.json", summary)
    print(f"\nfigures: {folder / 'summary.json'}")
    print(f"\nTo try next, in a new terminal:\n\n  {python_command()[0]}")
    for purpose, command in next_commands(folder, dataset_dir):
        print(f"\n  # {purpose}\n  {command}")
    print(f"\n{closing_lines(folder)}", end="")


if __name__ == "__main__":
    run_command(main)
