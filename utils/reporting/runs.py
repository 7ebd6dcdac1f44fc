"""The folders that a user names -> the runs in them, with their logs and evaluations."""

import heapq
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.reporting.log import LOG, RunLog, read_log
from wav2vec2.cli.errors import UserError
from wav2vec2.text.error_rate import Pair, pair_words

SHOWN = 50
"""Utterances of an evaluation that are shown: so many of the worst, and so many of the first."""


@dataclass
class Evaluation:
    """What a model heard in a subset."""

    subset: str
    summary: dict[str, Any] = field(default_factory=dict)
    """summary_<subset>.json, as far as there is one."""
    utterances: int = 0
    wrong: int = 0
    """Utterances with a word error."""
    shown: list[tuple[str, list[Pair]]] = field(default_factory=list)
    """Id and word pairs of the utterances to show, in the order of the filelist."""
    notes: list[str] = field(default_factory=list)


@dataclass
class Run:
    """A log, evaluations, or both."""

    path: Path
    log: RunLog
    evaluations: list[Evaluation]
    name: str = ""
    """What tells it from the others, see `name_runs`."""

    @property
    def kind(self) -> str:
        """`pretrain`, `finetune`, or `other`: by its configuration, else by its metrics.  Only
        recognisers are evaluated."""
        command = self.log.parameters.get("command")
        if command in ("pretrain", "finetune"):
            return command
        metrics = " ".join([*self.log.curves, *self.log.summary])
        if "accuracy" in metrics or "perplexity" in metrics:
            return "pretrain"
        if "wer" in metrics or "uer" in metrics or self.evaluations:
            return "finetune"
        return "other"

    def final(self, metric: str) -> float | None:
        """The run's own summary of a metric, else its last value."""
        if metric in self.log.summary:
            return float(self.log.summary[metric])
        return self.log.curves[metric].last if metric in self.log.curves else None


def find_runs(path: Path) -> tuple[list[Run], list[str]]:
    """The run at `path`, a log or a folder, or those in the folders below it; and what could not
    be read, a line each.  UserError if nothing there is a run."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; name a run's folder, or its {LOG}")
    if not path.is_dir():
        return [Run(path, read_log(path), [])], []
    folders = [path]
    if not (path / LOG).is_file():
        folders = [*sorted(log.parent for log in path.glob(f"*/{LOG}")), path]
    runs, failures = [], []
    for folder in folders:
        log, evaluations = RunLog(), list(read_evaluations(folder))
        try:
            if (folder / LOG).is_file():
                log = read_log(folder / LOG)
            elif not evaluations:
                continue
            runs.append(Run(folder, log, evaluations))
        except UserError as error:
            failures.append(str(error))
    runs.sort(key=lambda run: run.log.started or "~")  # what was evaluated without a log, last
    if not runs:
        reason = failures[0] if failures else f"{path}: holds no {LOG}; name a run's folder"
        raise UserError(reason)
    return runs, failures


def name_runs(runs: list[Run]) -> None:
    """Give each run as many of the last parts of its path as tell it from all others."""
    # What was named as `.` or `..` has a name, too.
    paths = [
        (run.path.parent if run.path.name == LOG else run.path).resolve().parts for run in runs
    ]
    names = []
    for parts in paths:
        length = 1
        while sum(other[-length:] == parts[-length:] for other in set(paths)) > 1:
            length += 1
        names.append("/".join(parts[-length:]))
    for number, (run, name) in enumerate(zip(runs, names), start=1):
        run.name = f"{name} ({number})" if names.count(name) > 1 else name  # the same run twice


def read_evaluations(folder: Path) -> Iterator[Evaluation]:
    """Those that `inference.py evaluate` left in `folder`."""
    for path in sorted(folder.glob("hypotheses_*.jsonl")):
        try:
            evaluation = read_hypotheses(path)
        except OSError as error:
            note = f"{path}: cannot be read: {error.strerror}; skipped"
            yield Evaluation(path.stem.removeprefix("hypotheses_"), notes=[note])
            continue
        summary = folder / f"summary_{evaluation.subset}.json"
        if summary.is_file():
            try:
                found = json.loads(summary.read_text(encoding="utf-8"))
                evaluation.summary = found if isinstance(found, dict) else {}
            except (OSError, ValueError, RecursionError):
                evaluation.notes.append(f"{summary}: not an evaluation's summary; skipped")
        if evaluation.utterances or evaluation.summary:
            yield evaluation


def read_hypotheses(path: Path) -> Evaluation:
    """The utterances of a hypotheses_<subset>.jsonl, line by line."""
    evaluation = Evaluation(path.stem.removeprefix("hypotheses_"))
    worst: list[tuple[int, int]] = []  # (errors, -number): of equally bad ones the first
    kept: dict[int, tuple[str, list[Pair]]] = {}
    skipped = 0
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                result = json.loads(line)
                key, said, heard = (str(result[k]) for k in ("id", "reference", "hypothesis"))
            except (ValueError, KeyError, TypeError, RecursionError):
                skipped += bool(line.strip())
                continue
            number = evaluation.utterances
            evaluation.utterances += 1
            if said == heard and number >= SHOWN:
                continue
            pairs = pair_words(heard.split(), said.split())
            errors = sum(one != other for one, other in pairs)
            evaluation.wrong += errors > 0
            if number < SHOWN:
                kept[number] = (key, pairs)
            if errors:
                kept[number] = (key, pairs)
                out = (
                    heapq.heappushpop(worst, (errors, -number))
                    if len(worst) == SHOWN
                    else heapq.heappush(worst, (errors, -number))
                )
                if out and -out[1] >= SHOWN:
                    del kept[-out[1]]
    evaluation.shown = [kept[number] for number in sorted(kept)]
    if skipped:
        evaluation.notes.append(f"{path}: {skipped:,} lines are no hypotheses; skipped")
    return evaluation
