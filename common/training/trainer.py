"""The training loop: epochs of updates, logging, validation, checkpoints.

What is trained, on what, and what is measured comes from a `Task`; the loop knows none of it.
"""

import itertools
import math
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from common.data.batching import BatchPlan, GroupRequest
from common.data.dataset import UtteranceDataset
from common.runtime import distributed
from common.runtime.randomness import refused_operator, reseed
from common.runtime.signals import StopRequest, uninterrupted
from common.training import checkpoint
from common.training.checkpoint import ResumePoint
from common.training.ema import Ema
from common.training.health import Health, warn_data_wait
from common.training.metrics import Sums
from common.training.optimizer import OptimizerOptions
from common.training.precision import LossScaler, Weights
from common.training.schedule import ScheduleOptions
from common.training.step import MicroBatchResult, run_update
from wav2vec2 import kernels
from wav2vec2.cli.console import notice
from wav2vec2.cli.errors import StoppedBySignal, UserError
from wav2vec2.cli.telemetry import Telemetry, peak_memory_mib
from wav2vec2.inference.batches import AudioBatch, dead_worker, load_batches
from wav2vec2.numerics import Precision


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
    """Newest checkpoints kept, beside the best one and those nearest to the milestones."""
    milestones: tuple[int, ...] = (100_000, 200_000, 300_000, 400_000)
    """Updates of which the nearest checkpoint is kept, too."""
    validate_frequency: int = 1
    """Epochs between validations; the last update is always validated."""
    validate_at_start: bool = False
    """Validate once before the first update, too."""
    no_save: bool = False
    """Write no checkpoints."""
    epochs_this_job: int = 0
    """Stop after so many epochs, to be continued by the next job; 0: no such limit."""
    benchmark_epochs_num: int = 0
    """Stop after so many epochs, whose mean is the run's summary: what benchmarks report."""
    benchmark_warmup_epochs: int = 0
    """Epochs before those of --benchmark_epochs_num, not counted."""
    peer_timeout_minutes: float = 30.0
    """Minutes that a process waits for another one before the run ends for want of it."""
    cpu: bool = False
    """Train on the CPU."""
    deterministic: bool = False
    """Repeat to the bit on the same devices, threads and software: slower on GPUs."""
    activation_checkpointing: bool = False
    """Compute the layers again in the backward pass, rather than keep what they computed: the same
    result with less memory and more time."""
    compile: bool = False
    """Have torch.compile fuse the layers, for GPUs: other dropout masks than without; the first
    updates take a minute.  Where it does not work, a warning says so."""
    dry_run: bool = False
    """Print the resolved configuration as JSON and stop."""

    def __post_init__(self) -> None:
        for name in ("log_frequency", "save_frequency", "keep_checkpoints", "validate_frequency"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: must be at least 1")
        for name in (
            "num_workers",
            "save_every_updates",
            "epochs_this_job",
            "benchmark_epochs_num",
            "benchmark_warmup_epochs",
        ):
            if getattr(self, name) < 0:
                raise UserError(f"--{name} {getattr(self, name)}: must not be negative")
        if self.peer_timeout_minutes <= 0:
            raise UserError(
                f"--peer_timeout_minutes {self.peer_timeout_minutes}: must be greater than 0"
            )
        if self.benchmark_epochs_num and self.epochs_this_job:
            raise UserError(
                f"--epochs_this_job {self.epochs_this_job}: a benchmark ends after "
                "--benchmark_warmup_epochs and --benchmark_epochs_num; leave it 0"
            )
        if self.benchmark_warmup_epochs and not self.benchmark_epochs_num:
            raise UserError("--benchmark_warmup_epochs: needs --benchmark_epochs_num, too")

    @property
    def epochs(self) -> int:
        """After how many epochs this job ends; 0: when the training does."""
        return self.epochs_this_job or self.benchmark_warmup_epochs + self.benchmark_epochs_num


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

    def summarise(self, sums: dict[str, Any]) -> dict[str, float]:
        """Sums over an interval -> the metrics to report, without prefix."""
        ...

    def judge(self, sums: dict[str, Any]) -> str | None:
        """Sums over some updates -> why training on is pointless, None if it is not."""
        ...

    def validate(self, sums: Sums) -> None:
        """Add this process' share of the validation set to `sums`; no process waits here."""

    def summarise_validation(self, sums: dict[str, Any]) -> dict[str, float]:
        """What `validate` summed, over all processes -> the metrics to report."""
        ...

    def checkpoint_content(self) -> dict[str, Any]:
        """What makes a checkpoint usable on its own: architecture, dictionary, ..."""
        ...


class Trainer:
    """Runs a task from wherever its output folder stands to its last update."""

    def __init__(
        self,
        task: Task,
        run: RunOptions,
        optimizer_options: OptimizerOptions,
        schedule: ScheduleOptions,
        device: torch.device,
        *,
        precision: Precision = "fp32",
        saved: ResumePoint | None = None,
        configuration: dict[str, Any] | None = None,
    ):
        """`saved`: the checkpoint to continue; `configuration`: plain types, for the log."""
        self.task = task
        self.run = run
        self.device = device
        self.clip_norm = optimizer_options.clip_norm
        self.max_update = schedule.max_update
        self.learning_rate = schedule.function()
        self.writer = checkpoint.CheckpointWriter()
        if run.activation_checkpointing:
            kernels.recompute_layers(task.model)
        self.weights = Weights(task.model, precision)
        self.scaler = LossScaler() if precision == "fp16" else None
        self.optimizer = optimizer_options.build(self.weights.parameters())
        self.ema = Ema(self.weights, optimizer_options.ema) if optimizer_options.ema else None
        self.output_dir = Path(run.output_dir)
        self.recipe = {**task.recipe, **asdict(optimizer_options), **asdict(schedule)}
        self.recipe["seed"] = run.seed
        # May change from one job of a run to the next; a resume says what did.
        self.circumstances = {
            "precision": precision,
            "threads": torch.get_num_threads(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "compile": run.compile,
            **asdict(task.plan.geometry),
        }

        # What a resume needs, all of it, beside weights, optimizer, average and loss scale:
        self.update = 0  # updates applied
        self.position = 0  # updates' worth of batches consumed; an update not applied costs one
        self.validated = 0  # position of the last validation
        self.best: float | None = None
        if saved is not None:
            self._resume(saved)
        self.saved = self.position  # when last saved

        self.telemetry = Telemetry(self.output_dir, enabled=distributed.is_main())
        self.telemetry.parameters({**self.recipe, **(configuration or {})})

    def _resume(self, saved: ResumePoint) -> None:
        content = saved.content
        try:
            differing = differences(content["recipe"], self.recipe)
            if differing:
                raise UserError(
                    f"{saved.path}: OUTPUT_DIR holds a run of another recipe "
                    f"({'; '.join(differing)}); choose another OUTPUT_DIR, or the old values to "
                    "continue that run"
                )
            self.weights.load_state_dict(content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
            if self.ema is not None:
                self.ema.load_state_dict(content["ema_model"])
            if self.scaler is not None and content["loss_scale"] is not None:
                self.scaler.load_state_dict(content["loss_scale"])
            self.update, self.position = content["update"], content["position"]
            self.validated, self.best = content["validated"], content["best"]
            changed = differences(content["circumstances"], self.circumstances)
        except KeyError as error:
            raise UserError(
                f"{saved.path}: not a checkpoint that a run can go on from (it has no {error}); "
                "choose another OUTPUT_DIR"
            ) from None
        notice(f"continuing from {saved.path}" + (f"; {', '.join(changed)}" if changed else ""))

    def _content(self) -> dict[str, Any]:
        return {
            **self.task.checkpoint_content(),
            "model": self.weights.state_dict(),
            "ema_model": self.ema.state_dict() if self.ema else None,
            "recipe": self.recipe,
            "circumstances": self.circumstances,
            "update": self.update,
            "position": self.position,
            "validated": self.validated,
            "best": self.best,
        }

    def save(self) -> None:
        """Have this update's checkpoint written, and those removed that are no longer kept."""
        if self.run.no_save or not distributed.is_main() or self.saved == self.position:
            return
        content = {
            **self._content(),
            "optimizer": self.optimizer.state_dict(),
            "loss_scale": self.scaler.state_dict() if self.scaler else None,
        }
        self.writer.save(
            checkpoint.update_file(self.output_dir, self.update),
            content,
            then=lambda: checkpoint.prune_checkpoints(
                self.output_dir, self.run.keep_checkpoints, self.run.milestones
            ),
        )
        self.saved = self.position

    def _requests(self) -> Iterator[GroupRequest]:
        """This process' groups from the next update on, epoch after epoch, without end."""
        plan = self.task.plan
        first_epoch, start = divmod(self.position, plan.updates_per_epoch)
        for epoch in itertools.count(first_epoch):
            yield from plan.requests(
                epoch, distributed.rank(), start if epoch == first_epoch else 0
            )

    def train(self) -> dict[str, float]:
        """Train to the last update; returns the run's summary.

        Raises UserError for bad input met on the way, HealthError when going on is pointless, and
        StoppedBySignal when asked to stop.  However it ends, what was learnt so far is saved.
        """
        try:
            with StopRequest() as stop:
                summary = self._train(stop)
                self.writer.wait()
                return summary
        except Exception as error:
            with uninterrupted(obey=False):
                if self.update:
                    self.save()
                self.writer.wait()
            known = isinstance(error, RuntimeError) and (
                dead_worker(error) or refused_operator(error)
            )
            if known:
                raise known from None
            raise
        finally:
            self.telemetry.close()

    def _train(self, stop: StopRequest) -> dict[str, float]:
        batches = load_batches(
            self.task.dataset,
            self._requests(),
            workers=self.run.num_workers,
            pin_memory=self.device.type == "cuda",
        )
        with closing(batches):
            return self._loop(batches, stop)

    def _loop(self, batches: Iterator[AudioBatch], stop: StopRequest) -> dict[str, float]:
        plan, run = self.task.plan, self.run
        epoch, in_epoch = divmod(self.position, plan.updates_per_epoch)
        if (run.validate_at_start and self.position == 0) or (
            # Stopped by a signal at the end of an epoch, its validation still to come.
            self.position > self.validated and in_epoch == 0 and epoch % run.validate_frequency == 0
        ):
            self._validate(epoch)
        interval, epoch_total = _Interval(self.task, self.device), _Interval(self.task, self.device)
        summary: dict[str, float] = {}
        measured: deque[dict[str, float]] = deque(maxlen=run.benchmark_epochs_num or 1)
        epochs_done = 0
        health = Health(self.task.judge, self.device)
        self.task.model.train()
        while self.update < self.max_update:
            epoch, iteration = (n + 1 for n in divmod(self.position, plan.updates_per_epoch))
            update, ids, sums = self.update + 1, [], Sums()
            self.task.begin_update(update)
            report = run_update(
                interval.wait_for(itertools.islice(batches, plan.geometry.accumulate)),
                lambda batch, update=update, ids=ids: self._forward(batch, update, ids),
                self.weights,
                self.optimizer,
                learning_rate=self.learning_rate(update),
                clip_norm=self.clip_norm,
                sums=sums,
                device=self.device,
                loss_scale=self.scaler.scale if self.scaler else 1.0,
                stop=lambda: stop.received is not None,
            )
            self.position += 1
            if report.applied:
                self.update = update
                if self.scaler:
                    self.scaler.applied()
                if self.ema:
                    self.ema.update()
                health.applied(sums)
            elif self.scaler:
                self.scaler.overflowed(ids)
            else:
                health.not_finite(update, ids)
            interval.sums.merge(sums)
            interval.updates += 1
            interval.grad_norm = report.grad_norm

            end_of_epoch = iteration == plan.updates_per_epoch
            last = self.update == self.max_update
            if self.position % run.log_frequency == 0 or end_of_epoch or last:
                metrics = interval.metrics()
                metrics["lr"] = self.learning_rate(update)
                if self.scaler:
                    metrics["loss_scale"] = self.scaler.scale
                step = [epoch, iteration, plan.updates_per_epoch]
                self.telemetry.log(step, {f"train_{k}": v for k, v in metrics.items()})
                self.telemetry.scalars("train_inner", self.update, metrics)
                epoch_total.merge(interval)
                interval = _Interval(self.task, self.device)
            if end_of_epoch or last:
                metrics = epoch_total.metrics()
                self.telemetry.log([epoch], {f"train_avg_{k}": v for k, v in metrics.items()})
                measured.append(metrics)
                summary = {f"train_avg_{k}": v for k, v in mean_of_epochs(measured).items()}
                self.telemetry.scalars("train", self.update, metrics)
                warn_data_wait(epoch, metrics["data_wait"], run.num_workers)
                if last or (epoch % run.validate_frequency == 0 and not report.stop):
                    summary.update(self._validate(epoch))
                interval, epoch_total = (
                    _Interval(self.task, self.device),
                    _Interval(self.task, self.device),
                )
            every = run.save_every_updates
            due = every and report.applied and self.update % every == 0
            if due or last or (end_of_epoch and epoch % run.save_frequency == 0):
                self.save()
            if report.stop and not last:
                self.save()
                raise StoppedBySignal(
                    f"stopped by {stop.received.name if stop.received else 'a signal'} after "
                    f"update {self.update}; started again, the run goes on from there"
                )
            if end_of_epoch:
                epochs_done += 1
                if epochs_done == run.epochs:
                    self.save()
                    break
        self.telemetry.log([], summary)
        return summary

    def _forward(self, batch: AudioBatch, update: int, ids: list[str]) -> MicroBatchResult:
        ids += batch.ids
        batch = batch.to(self.device)
        reseed("forward", *batch.key)
        return self.task.forward(batch, update)

    def _validate(self, epoch: int) -> dict[str, float]:
        self.validated = self.position
        metrics = self._measure()
        named = {f"val_{name}": value for name, value in metrics.items()}
        self.telemetry.scalars("valid", self.update, metrics)
        if self.ema:
            with self.ema.in_place():
                metrics = self._measure()
            named |= {f"val_ema_{name}": value for name, value in metrics.items()}
            self.telemetry.scalars("valid_ema", self.update, metrics)
        self.telemetry.log([epoch], named)
        # The average, where there is one, is what is meant to be used; a value that is not a
        # number is never the best.
        value = metrics[self.task.selection]
        if self.update and math.isfinite(value) and (self.best is None or value < self.best):
            self.best = value
            if not self.run.no_save and distributed.is_main():
                best = checkpoint.best_file(self.output_dir)
                self.writer.save(best, self._content(), then=lambda: None)
        return named

    def _measure(self) -> dict[str, float]:
        self.task.model.eval()
        sums = Sums()
        with torch.no_grad():
            distributed.run_on_all_ranks(lambda: self.task.validate(sums))
        self.task.model.train()
        return self.task.summarise_validation(sums.total(self.device))


def mean_of_epochs(epochs: Collection[dict[str, float]]) -> dict[str, float]:
    """The mean of each metric over some epochs; a rate's is that of all their time together."""
    took = sum(metrics["took"] for metrics in epochs)
    mean = {}
    for name in next(iter(epochs), {}):
        if name.endswith("/s"):
            mean[name] = sum(metrics[name] * metrics["took"] for metrics in epochs) / took
        else:
            mean[name] = sum(metrics[name] for metrics in epochs) / len(epochs)
    return mean


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

    def wait_for(self, batches: Iterable[AudioBatch]) -> Iterator[AudioBatch]:
        """The batches, the time until each one is there being counted."""
        iterator = iter(batches)
        while True:
            start = time.perf_counter()
            batch = next(iterator, None)
            self.data_wait += time.perf_counter() - start
            if batch is None:
                return
            yield batch

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
