"""Collect a quickstart's figures: `python -m utils.reporting.summarise_quickstart FOLDER`.

Reads the logs and the evaluation of its stages, prints a few hypotheses and the word error rate,
and writes `summary.json`.
"""

from pathlib import Path
from typing import Any

from utils.reporting.log import LOG, read_records
from utils.reporting.runs import Evaluation, read_evaluations
from wav2vec2.cli.errors import UserError, run_command
from wav2vec2.cli.flags import ArgumentParser
from wav2vec2.config import MINI
from wav2vec2.files.output import write_json
from wav2vec2.files.text import read_json

STAGES = ("corpus", "filelists", "pretrain", "finetune", "evaluate")
SUBSET = "test-mini"


def find_evaluation(folder: Path) -> Evaluation:
    """The quickstart's evaluation; UserError if it is missing."""
    for evaluation in read_evaluations(folder):
        if evaluation.subset == SUBSET and evaluation.summary:
            return evaluation
    raise UserError(f"{folder}: holds no evaluation of {SUBSET}; run scripts/quickstart.sh again")


def summarise(folder: Path, evaluation: Evaluation) -> dict[str, Any]:
    """The figures of a finished quickstart in `folder`."""
    log = folder / "pretrain" / LOG
    validations = [
        record["data"]
        for record in read_records(log)
        if record and record.get("step") and "val_accuracy" in record["data"]
    ]
    if not validations:
        raise UserError(f"{log}: holds no validation; remove its folder and run again")
    codes = MINI.codebook_groups * MINI.codebook_entries
    fix = "run scripts/quickstart.sh again"
    return {
        **{name: evaluation.summary[name] for name in ("wer", "uer", "utterances")},
        "pretrain_accuracy_first": validations[0]["val_accuracy"],
        "pretrain_accuracy_last": validations[-1]["val_accuracy"],
        "pretrain_code_perplexity_share": min(v["val_code_perplexity"] for v in validations)
        / codes,
        "seconds": {stage: float(read_json(folder / f"{stage}.seconds", fix)) for stage in STAGES},
    }


def main() -> None:
    parser = ArgumentParser("utils.reporting.summarise_quickstart", __doc__)
    parser.add_argument("folder", type=Path, help="the quickstart's output folder")
    folder = parser.parse_args().folder
    evaluation = find_evaluation(folder)
    summary = summarise(folder, evaluation)
    write_json(folder / "summary.json", summary)

    print()
    shown = evaluation.shown
    for _, pairs in shown[:: max(len(shown) // 5, 1)][:5]:
        reference, hypothesis = (" ".join(filter(None, words)) for words in zip(*pairs))
        print(f"  reference:  {reference}\n  hypothesis: {hypothesis}\n")
    first, last = summary["pretrain_accuracy_first"], summary["pretrain_accuracy_last"]
    print(
        f"pre-training accuracy {first:.3f} -> {last:.3f}; word error rate "
        f"{summary['wer']:.2f} % on {summary['utterances']} utterances of voices not in training; "
        f"{sum(summary['seconds'].values()):.0f} s in total"
    )
    print(f"figures: {folder / 'summary.json'}")


if __name__ == "__main__":
    run_command(main)
