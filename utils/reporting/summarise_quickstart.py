"""Collect a quickstart's figures: `python -m utils.reporting.summarise_quickstart FOLDER`.

Reads the logs and the evaluation its stages left, prints a few hypotheses and the word error rate,
and writes `summary.json`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wav2vec2.cli.errors import UserError, run_command
from wav2vec2.cli.flags import ArgumentParser
from wav2vec2.config import MINI
from wav2vec2.files.output import write_lines

STAGES = ("corpus", "filelists", "pretrain", "finetune", "evaluate")
SUBSET = "test-mini"


@dataclass(frozen=True)
class Validation:
    """The validations a training log holds, oldest first."""

    records: list[dict[str, float]]

    @classmethod
    def read(cls, log: Path) -> "Validation":
        """From a DLLogger file; UserError if it holds none."""
        records = []
        for line in read(log).splitlines():
            record = json.loads(line.removeprefix("DLLL "))
            data = record.get("data", {})
            if "val_accuracy" in data and record["step"]:
                records.append(data)
        if not records:
            raise UserError(f"{log}: holds no validation; remove its folder and run again")
        return cls(records)


def read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); run scripts/quickstart.sh again"
        ) from None


def summarise(folder: Path) -> dict[str, Any]:
    """The figures of a finished quickstart in `folder`."""
    evaluation = json.loads(read(folder / f"summary_{SUBSET}.json"))
    pretraining = Validation.read(folder / "pretrain" / "nvlog.json").records
    codes = MINI.codebook_groups * MINI.codebook_entries
    return {
        "wer": evaluation["wer"],
        "uer": evaluation["uer"],
        "utterances": evaluation["utterances"],
        "pretrain_accuracy_first": pretraining[0]["val_accuracy"],
        "pretrain_accuracy_last": pretraining[-1]["val_accuracy"],
        "pretrain_code_perplexity_share": min(r["val_code_perplexity"] for r in pretraining)
        / codes,
        "seconds": {stage: float(read(folder / f"{stage}.seconds")) for stage in STAGES},
    }


def main() -> None:
    parser = ArgumentParser(
        prog="utils.reporting.summarise_quickstart", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("folder", type=Path, help="the quickstart's output folder")
    folder = parser.parse_args().folder
    summary = summarise(folder)
    write_lines(folder / "summary.json", json.dumps(summary, indent=2).splitlines())

    print()
    hypotheses = read(folder / f"hypotheses_{SUBSET}.jsonl").splitlines()
    for line in hypotheses[:: max(len(hypotheses) // 5, 1)][:5]:
        result = json.loads(line)
        print(f"  said:  {result['reference']}\n  heard: {result['hypothesis']}\n")
    first, last = summary["pretrain_accuracy_first"], summary["pretrain_accuracy_last"]
    print(
        f"pre-training accuracy {first:.3f} -> {last:.3f}; word error rate "
        f"{summary['wer']:.2f} % on {summary['utterances']} utterances of voices never heard in "
        f"training; {sum(summary['seconds'].values()):.0f} s in all"
    )
    print(f"figures: {folder / 'summary.json'}")


if __name__ == "__main__":
    run_command(main)
