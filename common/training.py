"""The training loop: epochs of updates, logging, validation, checkpoints.

What is trained, on what, and what is measured comes from a `Task`; the loop knows none of it.
"""

import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from common import checkpoint, distributed
from common.batching import BatchPlan, GroupRequest
from common.dataset import AudioBatch, UtteranceDataset, load_batches
from common.errors import HealthError, UserError
from common.metrics import Sums
from common.optimizer import OptimizerOptions
from common.randomness import reseed
from common.schedule import ScheduleOptions
from common.step import MicroBatchResult, run_update
from common.telemetry import Telemetry, peak_memory_mib


@dataclass(frozen=True)
class RunOptions:
    """Run"""

    output_dir: str = "results/pretrain_base"
    """Folder for checkpoints and logs.  A run of the same recipe found there is continued."""
    seed: int = 1
    """Seed of weights, batches, crops, masks and dropout."""
    num_workers: int = 4
    """Processes that decode audio beside each training process; 0: none."""
    log_frequency: int = 10
    """Updates between two log lines."""
    save_frequency: int = 1
    """Epochs between checkpoints; the last update is always saved."""
    save_every_updates: int = 0
    """Updates between checkpoints, in addition; 0: none."""
    keep_checkpoints: int = 2
    """Newest checkpoints kept, beside the best one."""
    validate_frequency: int = 1
    """Epochs between validations; the last update is always validated."""
    validate_at_start: bool = False
    """Validate once before the first update, too."""
    no_save: bool = False
    """Write no checkpoints."""
    epochs_this_job: int = 0
    """Stop after so many epochs, to be continued by the next job; 0: no such limit."""
    cpu: bool = False
    """Train on the CPU even where there is a GPU."""

    def __post_init__(self) -> None:
        for name in ("log_frequency", "save_frequency", "keep_checkpoints", "validate_frequency"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: must be at least 1")
        for name in ("num_workers", "save_every_updates", "epochs_this_job"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name} {getattr(self, name)}: must not be negative")


class Task(Protocol):
    """What the loop trains."""

    model: torch.nn.Module
    plan: BatchPlan
    dataset: UtteranceDataset
    selection: str
    """The validation metric that decides which checkpoint is best; lower is better."""
    recipe: dict[str, Any]
    """Everything that defines the training, in plain types: a resume must agree with it."""

    def begin_update(self, update: int) -> None:
        """Prepare the model for update `update`, counted from 1."""

    def forward(self, batch: AudioBatch, update: int) -> MicroBatchResult: ...

    def summarise(self, sums: dict[str, float]) -> dict[str, float]:
        """Sums over an interval -> the metrics to report, without prefix."""
        ...

    def validate(self) -> dict[str, float]: ...

    def checkpoint_content(self) -> dict[str, Any]:
        """What makes a checkpoint usable on its own: architecture, dictionary, ..."""
        ...


MAX_NON_FINITE = 10
"""Updates in a row with a gradient that is not finite, after which the run gives up."""


class Trainer:
    """Runs a task from wherever its output folder stands to its last update."""

    def __init__(
        self,
        task: Task,
        run: RunOptions,
        optimizer_options: OptimizerOptions,
        schedule: ScheduleOptions,
        device: torch.device,
    ):
        self.task = task
        self.run = run
        self.device = device
        self.clip_norm = optimizer_options.clip_norm
        self.max_update = schedule.max_update
        self.learning_rate = schedule.function()
        self.optimizer = optimizer_options.build(task.model.parameters())
        self.output_dir = Path(run.output_dir)
        self.recipe = {**task.recipe, **asdict(optimizer_options), **asdict(schedule)}
        self.recipe["seed"] = run.seed

        # What a resume needs, all of it, beside the model and the optimizer:
        self.update = 0
        self.best: float | None = None
        self.saved = 0  # the update last saved
        self._resume()

        self.telemetry = Telemetry(self.output_dir, enabled=distributed.is_main())

    def _resume(self) -> None:
        """Take up the newest readable checkpoint of the output folder, if there is one."""
        for update in reversed(checkpoint.saved_updates(self.output_dir)):
            path = checkpoint.update_file(self.output_dir, update)
            try:
                content = checkpoint.load(path)
            except UserError as error:
                print(f"warning: {error}; trying the one before", file=sys.stderr)
                continue
            differing = differences(content["recipe"], self.recipe)
            if differing:
                raise UserError(
                    f"{path}: OUTPUT_DIR holds a run of another recipe ({'; '.join(differing)}); "
                    "choose another OUTPUT_DIR, or the old values to continue that run"
                )
            self.task.model.load_state_dict(content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
            self.update = self.saved = content["update"]
            self.best = content["best"]
            if distributed.is_main():
                print(f"continuing from {path}", flush=True)
            return

    def _content(self) -> dict[str, Any]:
        return {
            **self.task.checkpoint_content(),
            "model": self.task.model.state_dict(),
            "recipe": self.recipe,
            "update": self.update,
            "best": self.best,
        }

    def save(self) -> None:
        """Write this update's checkpoint and remove those no longer kept."""
        if self.run.no_save or not distributed.is_main() or self.saved == self.update:
            return
        path = checkpoint.update_file(self.output_dir, self.update)
        checkpoint.save(path, {**self._content(), "optimizer": self.optimizer.state_dict()})
        checkpoint.prune(self.output_dir, self.run.keep_checkpoints)
        self.saved = self.update

    def _requests(self) -> Iterator[GroupRequest]:
        """This process' groups from the next update to the last one, epoch after epoch."""
        plan = self.task.plan
        first_epoch, start = divmod(self.update, plan.updates_per_epoch)
        endless = (
            request
            for epoch in itertools.count(first_epoch)
            for request in plan.requests(
                epoch, distributed.rank(), start if epoch == first_epoch else 0
            )
        )
        count = (self.max_update - self.update) * plan.geometry.accumulate
        return itertools.islice(endless, count)

    def train(self) -> dict[str, float]:
        """Train to the last update; returns the run's summary.

        Raises UserError for bad input met on the way and HealthError when going on is pointless;
        what was learnt so far has then been saved.
        """
        self.telemetry.parameters({**self.recipe, **asdict(self.run)})
        try:
            return self._train()
        except (UserError, HealthError):
            if self.update:
                self.save()
            raise
        finally:
            self.telemetry.close()

    def _train(self) -> dict[str, float]:
        plan, run = self.task.plan, self.run
        batches = load_batches(
            self.task.dataset,
            self._requests(),
            workers=run.num_workers,
            pin_memory=self.device.type == "cuda",
        )
        if run.validate_at_start and self.update == 0:
            self._validate(epoch=0)
        interval, epoch_total = _Interval(self.task, self.device), _Interval(self.task, self.device)
        summary: dict[str, float] = {}
        non_finite = epochs_done = 0
        while self.update < self.max_update:
            waiting = time.perf_counter()
            micro_batches = [next(batches) for _ in range(plan.geometry.accumulate)]
            interval.data_wait += time.perf_counter() - waiting
            epoch, iteration = divmod(self.update, plan.updates_per_epoch)
            epoch, iteration = epoch + 1, iteration + 1
            self.update += 1  # counted from here on as done, whatever becomes of it
            self.task.model.train()
            self.task.begin_update(self.update)
            report = run_update(
                micro_batches,
                self._forward,
                self.optimizer,
                learning_rate=self.learning_rate(self.update),
                clip_norm=self.clip_norm,
                sums=interval.sums,
                device=self.device,
            )
            non_finite = 0 if report.applied else non_finite + 1
            if not report.applied:
                self._warn_non_finite(micro_batches, non_finite)
            interval.updates += 1
            interval.grad_norm = report.grad_norm

            end_of_epoch = iteration == plan.updates_per_epoch
            last = self.update == self.max_update
            if self.update % run.log_frequency == 0 or end_of_epoch or last:
                metrics = interval.metrics()
                metrics["lr"] = self.learning_rate(self.update)
                step = [epoch, iteration, plan.updates_per_epoch]
                self.telemetry.log(step, {f"train_{k}": v for k, v in metrics.items()})
                self.telemetry.scalars("train_inner", self.update, metrics)
                epoch_total.merge(interval)
                interval = _Interval(self.task, self.device)
            if end_of_epoch or last:
                metrics = epoch_total.metrics()
                summary = {f"train_avg_{k}": v for k, v in metrics.items()}
                self.telemetry.log([epoch], summary)
                self.telemetry.scalars("train", self.update, metrics)
                if epoch % run.validate_frequency == 0 or last:
                    summary.update(self._validate(epoch))
                interval, epoch_total = (
                    _Interval(self.task, self.device),
                    _Interval(self.task, self.device),
                )
            due = run.save_every_updates and self.update % run.save_every_updates == 0
            if due or last or (end_of_epoch and epoch % run.save_frequency == 0):
                self.save()
            if end_of_epoch:
                epochs_done += 1
                if epochs_done == run.epochs_this_job:
                    self.save()
                    break
        self.telemetry.log([], summary)
        return summary

    def _forward(self, batch: AudioBatch) -> MicroBatchResult:
        batch = batch.to(self.device)
        reseed("forward", *batch.key)
        return self.task.forward(batch, self.update)

    def _validate(self, epoch: int) -> dict[str, float]:
        self.task.model.eval()
        with torch.no_grad():
            metrics = self.task.validate()
        named = {f"val_{name}": value for name, value in metrics.items()}
        self.telemetry.log([epoch], named)
        self.telemetry.scalars("valid", self.update, metrics)
        value = metrics[self.task.selection]
        if self.update and (self.best is None or value < self.best):
            self.best = value
            if not self.run.no_save and distributed.is_main():
                checkpoint.save(checkpoint.best_file(self.output_dir), self._content())
        return named

    def _warn_non_finite(self, batches: list[AudioBatch], in_a_row: int) -> None:
        ids = [utterance for batch in batches for utterance in batch.ids]
        shown = ", ".join(ids[:20]) + (", ..." if len(ids) > 20 else "")
        print(
            f"warning: update {self.update}: gradient is not finite, update skipped; "
            f"utterances {shown}",
            file=sys.stderr,
            flush=True,
        )
        if in_a_row == MAX_NON_FINITE:
            raise HealthError(
                f"{in_a_row} updates in a row had a gradient that is not finite, the last with "
                f"utterances {shown}; look at this audio, or lower --learning_rate"
            )


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """What two recipes disagree about: `max_update was 100, is now 200`, nested ones dotted."""
    found = []
    for name in sorted({*old, *new}):
        a, b = old.get(name), new.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{name}.")
        elif a != b:
            found.append(f"{prefix}{name} was {a}, is now {b}")
    return found


class _Interval:
    """What is measured between two log lines."""

    def __init__(self, task: Task, device: torch.device):
        self.task = task
        self.device = device
        self.sums = Sums()
        self.start = time.perf_counter()
        self.data_wait = 0.0
        self.updates = 0
        self.grad_norm = 0.0

    def merge(self, other: "_Interval") -> None:
        self.sums.merge(other.sums)
        self.data_wait += other.data_wait
        self.updates += other.updates
        self.grad_norm = other.grad_norm

    def metrics(self) -> dict[str, float]:
        totals = self.sums.total(self.device)
        took = time.perf_counter() - self.start
        metrics = self.task.summarise(totals)
        metrics["took"] = took
        metrics["ntokens/s"] = metrics["ntokens"] / took
        metrics["frames/s"] = totals["frames"] / took
        metrics["audio_s/s"] = totals["audio_seconds"] / took
        metrics["updates/s"] = self.updates / took
        metrics["grad_norm"] = self.grad_norm
        metrics["memory"] = peak_memory_mib(self.device)
        metrics["data_wait"] = 100 * self.data_wait / took
        return metrics
