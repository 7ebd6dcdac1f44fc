"""The training loop: epochs of updates, logging, validation, checkpoints.

What is trained, on which data, and what is measured comes from a `Task`.
"""

import itertools
import math
import re
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from common.data.batching import GroupRequest
from common.data.dataset import TrainingBatch
from common.runtime import distributed, sharding
from common.runtime.randomness import refused_operator, reseed
from common.runtime.signals import StopRequest, uninterrupted
from common.training.checkpoint import CheckpointFolder, CheckpointWriter, ResumePoint
from common.training.console import Console
from common.training.ema import Ema
from common.training.health import Health, Warnings, warn_data_wait
from common.training.meter import Meter, Sums
from common.training.optimizer import OptimizerOptions
from common.training.precision import LossScaler, Weights
from common.training.schedule import ResumedSchedule, ScheduleOptions, resume_schedule
from common.training.state import TrainingState
from common.training.step import UpdateReport, UpdateStep
from common.training.task import MicroBatchResult, Task
from wav2vec2 import kernels
from wav2vec2.cli.console import notice
from wav2vec2.cli.errors import HealthError, StoppedBySignal, UserError
from wav2vec2.cli.flags import require_at_least
from wav2vec2.cli.telemetry import Telemetry
from wav2vec2.inference.batches import dead_worker, load_batches
from wav2vec2.numerics import Precision


@dataclass(frozen=True)
class RunOptions:
    """Run"""

    output_dir: str = "results/pretrain_base"
    """Folder for checkpoints and logs.  A run of the same recipe found there is resumed."""
    seed: int = 1
    """Seed of weights, batches, crops, masks and dropout."""
    num_workers: int | None = None
    """Data loading workers per training process; 0: none.  Default: one per core that the processes
    leave free, from 1 to 4."""
    log_frequency: int = 10
    """Updates between two log lines."""
    save_frequency: int = 1
    """Epochs between checkpoints; the last update is always saved."""
    save_every_updates: int = 0
    """Updates between additional checkpoints; 0: none."""
    keep_checkpoints: int = 2
    """Newest checkpoints to keep, besides the best one and those nearest to the milestones."""
    milestones: tuple[int, ...] = (100_000, 200_000, 300_000, 400_000)
    """Updates whose nearest checkpoint is also kept."""
    validate_frequency: int = 1
    """Epochs between validations; the last update is always validated."""
    validate_at_start: bool = False
    """Also validate before the first update."""
    no_save: bool = False
    """Write no checkpoints."""
    epochs_this_job: int = 0
    """Stop after this number of epochs; the next job resumes; 0: no limit."""
    benchmark_epochs_num: int = 0
    """Stop after this number of epochs and report their mean, for benchmarks; 0: off."""
    benchmark_warmup_epochs: int = 0
    """Epochs before those of --benchmark_epochs_num that are not counted."""
    peer_timeout_minutes: float = 30.0
    """Minutes to wait for another process before aborting."""
    cpu: bool = False
    """Train on the CPU."""
    deterministic: bool = False
    """Bit-exact repetition on the same devices, threads and software; slower on GPUs."""
    activation_checkpointing: bool = False
    """Recompute the layers in the backward pass instead of storing their activations: the same
    result with less memory and more time."""
    compile: bool = False
    """Fuse the layers with torch.compile, for GPUs: other dropout masks than without; the first
    updates take a minute.  Prints a warning where it does not work."""
    shard: bool = False
    """Divide weights, gradients and optimizer state over the processes (torch's FSDP2), for models
    that one GPU cannot hold: less memory, more communication."""
    extend: bool = False
    """Continue the run in the output folder to a higher --max_update: docs/recipes.md has the rule
    for the learning rate."""
    force: bool = False
    """Take the output folder from another run whose lock is in it; if that run is alive, it
    stops."""
    dry_run: bool = False
    """Print the resolved configuration as JSON and stop."""

    def __post_init__(self) -> None:
        require_at_least(
            self, log_frequency=1, save_frequency=1, validate_frequency=1, keep_checkpoints=1
        )
        require_at_least(self, save_every_updates=0, epochs_this_job=0)
        if self.num_workers is not None:
            require_at_least(self, num_workers=0)
        require_at_least(self, benchmark_epochs_num=0, benchmark_warmup_epochs=0)
        if self.peer_timeout_minutes <= 0:
            raise UserError(
                f"--peer_timeout_minutes {self.peer_timeout_minutes}: must be greater than 0"
            )
        if self.benchmark_epochs_num and self.epochs_this_job:
            raise UserError(
                f"--epochs_this_job {self.epochs_this_job}: a benchmark ends after "
                "--benchmark_warmup_epochs and --benchmark_epochs_num; set it to 0"
            )
        if self.benchmark_warmup_epochs and not self.benchmark_epochs_num:
            raise UserError("--benchmark_warmup_epochs: also needs --benchmark_epochs_num")


class Trainer:
    """Trains a task from its last checkpoint, or from the start, to its last update."""

    def __init__(
        self,
        task: Task,
        run: RunOptions,
        optimizer_options: OptimizerOptions,
        schedule: ScheduleOptions,
        device: torch.device,
        *,
        precision: Precision = "fp32",
        resume_from: ResumePoint | None = None,
        configuration: dict[str, Any] | None = None,
    ):
        """`resume_from`: the checkpoint to resume; `configuration`: plain types, for the log."""
        self.task, self.run, self.device = task, run, device
        resumed = self._resume_schedule(schedule, resume_from)
        schedule, extension = resumed.options, resumed.extension
        self.max_update = schedule.max_update
        self.learning_rate = schedule.function(extension)
        self.checkpoints = CheckpointFolder(run.output_dir, task.file_prefix)
        if run.activation_checkpointing:
            kernels.recompute_layers(task.model)
        if run.shard:
            self._check_shard(optimizer_options)
            sharding.shard(task.model, precision)
        weights = Weights(task.model, precision, task.trained)
        self.state = TrainingState(
            weights=weights,
            optimizer=optimizer_options.build(weights.parameters()),
            ema=Ema(weights, optimizer_options.ema) if optimizer_options.ema else None,
            scaler=LossScaler() if precision == "fp16" else None,
            recipe={
                **task.recipe,
                **asdict(optimizer_options),
                **asdict(schedule),
                "seed": run.seed,
                **({"extended": [*extension]} if extension else {}),
            },
            circumstances={
                "precision": precision,
                "threads": torch.get_num_threads(),
                "deterministic": torch.are_deterministic_algorithms_enabled(),
                "compile": run.compile,
                **asdict(task.plan.geometry),
                **({"shard": True} if run.shard else {}),
            },
        )
        if resume_from is not None:
            changed = self.state.restore(resume_from, extended=bool(resumed.note))
            notice(
                f"resuming from {resume_from.path}" + (f"; {', '.join(changed)}" if changed else "")
            )
        if resumed.note:
            notice(resumed.note)
        self.saved = self.state.position  # when last saved
        self.step = UpdateStep(
            weights,
            self.state.optimizer,
            device,
            clip_norm=optimizer_options.clip_norm,
            scaler=self.state.scaler,
            memory_hint=task.memory_hint,
        )
        self.health = Health(task.collapse_reason, device)
        self.warnings = Warnings(
            task.problem,
            device,
            warmup_updates=schedule.warmup_updates,
            max_update=schedule.max_update,
        )
        self.interval, self.epoch = Meter(device), Meter(device)
        self.last_rate = 0.0  # learning rate of the last update
        self.stop = StopRequest()
        self.writer = CheckpointWriter()
        self.telemetry = Telemetry(Path(run.output_dir), enabled=distributed.is_main())
        self.telemetry.parameters(
            {**self.state.recipe, **(configuration or {}), **asdict(schedule)}
        )

    def _check_shard(self, optimizer: OptimizerOptions) -> None:
        """UserError for what --shard cannot be combined with."""
        if distributed.world_size() == 1:
            raise UserError(
                "--shard: divides the model over processes, and there is one; start several "
                "(NUM_GPUS=2), or remove --shard (SHARD)"
            )
        if optimizer.optimizer != "adam":
            raise UserError(
                f"--shard: works with --optimizer adam, not {optimizer.optimizer}; change one of "
                "them (SHARD, OPTIMIZER)"
            )
        if self.run.compile:
            raise UserError("--shard: does not work with --compile; remove one of them")

    def _resume_schedule(
        self, given: ScheduleOptions, resume_from: ResumePoint | None
    ) -> ResumedSchedule:
        """The schedule that the flags and the checkpoint to resume give."""
        if resume_from is None:
            if self.run.extend:
                raise UserError(
                    f"--extend: --output_dir {self.run.output_dir} holds no run to extend; correct "
                    "the folder, or remove --extend (EXTEND)"
                )
            return ResumedSchedule(given)
        content = resume_from.content
        try:
            return resume_schedule(given, self.run.extend, content["recipe"], content["update"])
        except (KeyError, TypeError):  # `restore` says what is wrong
            return ResumedSchedule(given)

    def train(self) -> dict[str, float]:
        """Train to the last update; returns the run's summary.

        Raises UserError for bad input met on the way, HealthError when training is pointless, and
        StoppedBySignal when asked to stop.  However it ends, the last update is saved; of a sharded
        model only where all processes end alike.
        """
        try:
            main, labels = distributed.is_main(), self.task.console
            with (
                self.stop,
                closing(self._batches()) as batches,
                Console(labels, self.max_update, self.state.update, enabled=main) as console,
            ):
                summary = self._loop(batches, console)
                self.writer.wait()
                return summary
        except Exception as error:
            with uninterrupted(obey=False):
                alike = isinstance(error, StoppedBySignal | HealthError)
                if self.state.update and (alike or not self.run.shard):
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

    def _batches(self) -> Iterator[TrainingBatch]:
        """This process' batches from the next update on, epoch after epoch, without end."""

        def requests() -> Iterator[GroupRequest]:
            plan = self.task.plan
            first_epoch, start = divmod(self.state.position, plan.updates_per_epoch)
            for epoch in itertools.count(first_epoch):
                yield from plan.requests(epoch, distributed.rank(), start)
                start = 0

        return load_batches(
            self.task.dataset,
            requests(),
            workers=self.run.num_workers or 0,
            pin_memory=self.device.type == "cuda",
        )

    def _loop(self, batches: Iterator[TrainingBatch], console: Console) -> dict[str, float]:
        state, plan, run = self.state, self.task.plan, self.run
        self._validate_at_start(console)
        summary: dict[str, float] = {}
        measured: deque[dict[str, float]] = deque(maxlen=run.benchmark_epochs_num or 1)
        epochs_done = 0
        # 0: no limit.
        most_epochs = run.epochs_this_job or run.benchmark_warmup_epochs + run.benchmark_epochs_num
        self.task.model.train()
        self.interval.reset(), self.epoch.reset()
        while state.update < self.max_update:
            epoch, iteration = (n + 1 for n in divmod(state.position, plan.updates_per_epoch))
            group = itertools.islice(batches, plan.geometry.accumulate)
            report = self.train_on(self.interval.wait_for(group))
            console.advance(state.update)
            end_of_epoch = iteration == plan.updates_per_epoch
            last = state.update == self.max_update
            if end_of_epoch or last or self._interval_ends(iteration):
                self._log_interval([epoch, iteration, plan.updates_per_epoch], console)
            if end_of_epoch or last:
                measured.append(self._log_epoch(epoch))
                summary = {f"train_avg_{k}": v for k, v in mean_of_epochs(measured).items()}
                if last or (epoch % run.validate_frequency == 0 and not report.stop):
                    summary |= self._validate(epoch, console)
                self.interval.reset(), self.epoch.reset()
            frequency = self.task.probe_frequency
            if frequency and report.applied and state.update % frequency == 0:
                self._probe([epoch, iteration, plan.updates_per_epoch], console)
            every = run.save_every_updates
            due = every and report.applied and state.update % every == 0
            if due or last or (end_of_epoch and epoch % run.save_frequency == 0):
                self.save()
            if report.stop and not last:
                self.save()
                name = self.stop.received.name if self.stop.received else "a signal"
                raise StoppedBySignal(
                    f"stopped by {name} after update {state.update}; start it again to resume"
                )
            epochs_done += end_of_epoch
            if end_of_epoch and epochs_done == most_epochs:
                self.save()
                break
        self.telemetry.log([], summary, quiet=True)
        averages = {name.removeprefix("train_avg_"): value for name, value in summary.items()}
        console.finish(averages)
        return summary

    def train_on(self, batches: Iterable[TrainingBatch]) -> UpdateReport:
        """Take the next update on this process' `batches`; every process calls this together."""
        state, ids = self.state, []
        update = state.update + 1
        self.task.begin_update(update)

        def forward(batch: TrainingBatch) -> MicroBatchResult:
            ids.extend(batch.ids)
            batch = batch.to(self.device)
            reseed("forward", *batch.key)
            return self.task.forward(batch, update)

        self.last_rate = self.learning_rate(update)
        report = self.step.run(
            batches, forward, self.last_rate, stop=lambda: self.stop.received is not None
        )
        state.position += 1
        if report.applied:
            state.update = update
            if state.scaler:
                state.scaler.applied()
            if state.ema:
                state.ema.update()
            self.health.applied(report.sums)
            self.warnings.applied(update, report.sums)
        elif state.scaler:
            state.scaler.overflowed(ids)
        else:
            self.health.not_finite(update, ids)
        self.interval.count(report.sums, report.grad_norm)
        return report

    def _interval_ends(self, iteration: int) -> bool:
        """Whether a log line is due after this iteration of an epoch, unless the epoch ends.

        An interval that a resume or the end of the epoch would make short, and its rates noisy,
        continues instead.
        """
        frequency = self.run.log_frequency
        rest = self.task.plan.updates_per_epoch - iteration
        rest = min(rest, self.max_update - self.state.update)
        return iteration % frequency == 0 and min(self.interval.updates, rest) >= frequency

    def _log_interval(self, step: list[int], console: Console) -> None:
        metrics = self.interval.metrics(self.task.summarise)
        metrics["lr"] = self.last_rate
        if self.state.scaler:
            metrics["loss_scale"] = self.state.scaler.scale
        self.telemetry.log(step, {f"train_{k}": v for k, v in metrics.items()}, quiet=True)
        console.interval(metrics)
        self.telemetry.scalars("train_inner", self.state.update, metrics)
        self.epoch.merge(self.interval)
        self.interval.reset()

    def _log_epoch(self, epoch: int) -> dict[str, float]:
        metrics = self.epoch.metrics(self.task.summarise)
        self.telemetry.log([epoch], {f"train_avg_{k}": v for k, v in metrics.items()}, quiet=True)
        self.telemetry.scalars("train", self.state.update, metrics)
        warn_data_wait(epoch, metrics["data_wait"], self.run.num_workers or 0)
        return metrics

    def _validate_at_start(self, console: Console) -> None:
        state, run = self.state, self.run
        epoch, in_epoch = divmod(state.position, self.task.plan.updates_per_epoch)
        # Stopped by a signal at the end of an epoch, before its validation.
        missed = state.position > state.validated and in_epoch == 0
        if (run.validate_at_start and state.position == 0) or (
            missed and epoch % run.validate_frequency == 0
        ):
            self._validate(epoch, console)

    def _validate(self, epoch: int, console: Console) -> dict[str, float]:
        """Validate and log; a result that is the best so far is saved as a checkpoint.

        Where there is an average of the weights, its result decides: it is what will be used.
        """
        state = self.state
        state.validated = state.position
        own, average = self._measure(), None
        metrics = {f"val_{name}": value for name, value in own.items()}
        self.telemetry.scalars("valid", state.update, own)
        if state.ema:
            with state.ema.in_place():
                average = self._measure()
            metrics |= {f"val_ema_{name}": value for name, value in average.items()}
            self.telemetry.scalars("valid_ema", state.update, average)
        self.telemetry.log([epoch], metrics, quiet=True)
        console.validation(epoch, own, average)
        is_best = state.update > 0 and self._is_best(average or own)
        if is_best and not self.run.no_save:
            content = sharding.whole({**self.task.checkpoint_content(), **state.model_content()})
            if distributed.is_main():
                self.writer.save(self.checkpoints.best_file, content, then=lambda: None)
        return metrics

    def _is_best(self, validation: dict[str, float]) -> bool:
        """Whether a validation is better than all before it, which is then noted."""
        state, task = self.state, self.task
        if state.best is not None and state.best_rank is None:
            state.best_rank = task.rank({task.selection: state.best})
        rank = task.rank(validation)
        better = state.best_rank is None or rank < state.best_rank
        if not (better and all(map(math.isfinite, rank))):
            return False
        state.best, state.best_rank = validation[task.selection], rank
        return True

    def _measure(self) -> dict[str, float]:
        """The validation metrics of the weights as they are."""
        sums, task = Sums(), self.task
        task.model.eval()
        with torch.no_grad(), sharding.gathered(task.model):
            distributed.run_on_all_ranks(lambda: task.validate(sums))
        task.model.train()
        return task.summarise_validation(sums.total(self.device))

    def _probe(self, step: list[int], console: Console) -> None:
        """Log what the layers know; the time that it takes counts for no interval."""
        found: dict[str, float] = {}
        with self.interval.paused(), self.epoch.paused(), sharding.gathered(self.task.model):
            distributed.run_on_all_ranks(
                lambda: found.update(self.task.probe() if distributed.is_main() else {})
            )
        names = {name: f"{re.sub(r'[ -]', '_', name)}_probe_uer" for name in found}
        metrics = {names[name]: rate for name, rate in found.items()}
        self.telemetry.log(step, metrics, quiet=True)
        self.telemetry.scalars("probe", self.state.update, metrics)
        console.probe(found)

    def save(self) -> None:
        """Have this update's checkpoint written, and those removed that are no longer kept."""
        state, run = self.state, self.run
        if run.no_save or self.saved == state.position:
            return
        content = sharding.whole({**self.task.checkpoint_content(), **state.content()})
        if distributed.is_main():
            self.writer.save(
                self.checkpoints.update_file(state.update),
                content,
                then=lambda: self.checkpoints.prune(run.keep_checkpoints, run.milestones),
            )
        self.saved = state.position


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
