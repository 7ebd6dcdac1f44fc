"""Folders -> the runs in them, with their logs and evaluations."""

import heapq
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.reporting.log import LOG, RunLog, read_log, read_records
from wav2vec2.cli.errors import Failures, UserError
from wav2vec2.text.error_rate import Pair, pair_words

SHOWN = 50
"""Utterances of an evaluation that are shown: this many of the first, and of the worst."""


@dataclass
class Evaluation:
    """What a model transcribed in a subset."""

    subset: str
    summary: dict[str, Any] = field(default_factory=dict)
    """Content of summary_<subset>.json; empty if there is none."""
    utterances: int = 0
    wrong: int = 0
    """Utterances with a word error."""
    shown: list[tuple[str, list[Pair]]] = field(default_factory=list)
    """(id, word pairs) of the utterances to show, in the order of the filelist."""
    notes: list[str] = field(default_factory=list)
    clips: dict[str, str] = field(default_factory=dict)
    """id -> audio of an utterance to show, as a data URI or a link relative to the page."""

    @property
    def unit_rate(self) -> str:
        """The name of its error rate of units, `CER` where these are letters, else `UER`."""
        return "CER" if self.summary.get("unit_rate") == "CER" else "UER"


@dataclass
class Run:
    """A log, evaluations, or both, of one output folder."""

    path: Path
    log: RunLog
    evaluations: list[Evaluation]
    name: str = ""
    """Distinguishes it from the other runs, see `name_runs`."""

    @property
    def kind(self) -> str:
        """`pretrain`, `finetune` or `other`: by its configuration, else by its metrics."""
        command = self.log.parameters.get("command")
        if command in ("pretrain", "finetune"):
            return command
        metrics = " ".join([*self.log.curves, *self.log.summary])
        if "accuracy" in metrics or "perplexity" in metrics:
            return "pretrain"
        if "wer" in metrics or "uer" in metrics or self.evaluations:  # only recognisers have them
            return "finetune"
        return "other"

    @property
    def unit_rate(self) -> str:
        """The name of its error rate of units: `CER` where these are letters, else `UER`."""
        labels = self.log.parameters.get("labels")
        if labels is None and self.evaluations:
            return self.evaluations[0].unit_rate
        return "CER" if labels == "ltr" else "UER"

    def final(self, metric: str) -> float | None:
        """The value of a metric in the run's summary, else its last value."""
        if metric in self.log.summary:
            return float(self.log.summary[metric])
        return self.log.curves[metric].last if metric in self.log.curves else None


def as_texts(pairs: list[Pair]) -> tuple[str, str]:
    """Word pairs as (reference, hypothesis)."""
    reference = " ".join(word for word, _ in pairs if word)
    return reference, " ".join(word for _, word in pairs if word)


def find_runs(path: Path) -> tuple[list[Run], list[str]]:
    """The run at `path` (a log or a folder), or the runs in its subfolders, and what could not be
    read, one line each.  UserError if there is no run."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; name a run's folder, or its {LOG}")
    if not path.is_dir():
        return [Run(path, read_log(path), [])], []
    folders = [path]
    if not is_run_log(path / LOG):
        logs = sorted(filter(is_run_log, path.glob(f"*/{LOG}")))
        folders = [*(log.parent for log in logs), path]
    runs, failures = [], Failures()
    for folder in folders:
        evaluations = list(read_evaluations(folder))
        logged = is_run_log(folder / LOG)
        log = failures.attempt(read_log, folder / LOG) if logged else RunLog()
        if log and (logged or evaluations):
            runs.append(Run(folder, log, evaluations))
    runs.sort(key=lambda run: run.log.started or "~")  # evaluations without a log come last
    if not runs:
        reason = failures[0] if failures else f"{path}: holds no {LOG}; name a run's folder"
        raise UserError(reason)
    return runs, failures


def is_run_log(path: Path) -> bool:
    """Whether there is a log, and not that of an evaluation, whose summaries say more."""
    if not path.is_file():
        return False
    try:
        first = next(read_records(path), None)
    except UserError:
        return True  # reported when it is read
    data = first.get("data") if first else None
    return not (isinstance(data, dict) and data.get("command") == "evaluate")


def name_runs(runs: list[Run]) -> None:
    """Name each run by as many last parts of its path as distinguish it from all others."""
    paths = [  # resolved, so that `.` and `..` have a name
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
    """Yield the evaluations that `inference.py evaluate` wrote to `folder`."""
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
    """Read a hypotheses_<subset>.jsonl line by line, keeping only the utterances to show."""
    evaluation = Evaluation(path.stem.removeprefix("hypotheses_"))
    worst: list[tuple[int, int]] = []  # a heap of (errors, -number): earlier ones win ties
    first: dict[int, tuple[str, list[Pair]]] = {}
    kept: dict[int, tuple[str, list[Pair]]] = {}
    skipped = 0
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                result = json.loads(line)
                key, *texts = (str(result[k]) for k in ("id", "reference", "hypothesis"))
            except (ValueError, KeyError, TypeError, RecursionError):
                skipped += bool(line.strip())
                continue
            number = evaluation.utterances
            evaluation.utterances += 1
            reference, hypothesis = (text.split() for text in texts)
            if reference == hypothesis and number >= SHOWN:
                continue
            pairs = pair_words(hypothesis, reference)
            errors = sum(one != other for one, other in pairs)
            evaluation.wrong += errors > 0
            if number < SHOWN:
                first[number] = (key, pairs)
            if errors:
                kept[number] = (key, pairs)
                heapq.heappush(worst, (errors, -number))
            if len(worst) > SHOWN:
                del kept[-heapq.heappop(worst)[1]]
    evaluation.shown = [pairs for _, pairs in sorted((first | kept).items())]
    if skipped:
        evaluation.notes.append(f"{path}: lines that are no hypotheses, skipped: {skipped:,}")
    return evaluation
