"""Train wav2vec 2.0: `train.py pretrain` from audio alone, `train.py finetune` on transcripts.

The recipes under scripts/ call this under torchrun; one process also runs without it.
Every flag's default is the Base recipe.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from common.runtime import distributed, environment
from common.runtime.randomness import use_deterministic_operators
from common.training import checkpoint
from common.training.checkpoint import ResumePoint
from common.training.optimizer import OptimizerOptions
from common.training.precision import PrecisionOptions, set_matmul_precision
from common.training.schedule import ScheduleOptions
from common.training.trainer import RunOptions, Task, Trainer
from tasks.data import DataOptions
from tasks.finetuning import FinetuneOptions, FinetuningTask
from tasks.pretraining import CropOptions, PretrainingTask
from wav2vec2.cli.console import notice
from wav2vec2.cli.errors import (
    EXIT_FILE,
    REASONS,
    PeerLost,
    UserError,
    out_of_memory_as_user_error,
    record_exit,
    run_command,
)
from wav2vec2.cli.flags import ArgumentParser, add_flags, from_flags
from wav2vec2.config import (
    PRESETS,
    Architecture,
    ContrastiveObjective,
    Hourglass,
    Masking,
    Regularisation,
)
from wav2vec2.files.output import prepare_folder
from wav2vec2.inference.device import check_supported, pick_device
from wav2vec2.interop import checkpoints, native
from wav2vec2.kernels import compile_layers


@dataclass(frozen=True)
class ModelOptions:
    """Model"""

    model: Literal["base", "large", "mini", "auto"] = "base"
    """Architecture; `auto`: that of --init_from, whose hourglass --hourglass must confirm."""
    hourglass: str = "[2,(8,4),2]"
    """Layers before, (shortened, by which factor), and after; '' for the plain encoder."""
    hourglass_resampling: Literal["naive", "linear"] = "naive"
    """Shorten by mean and repetition, or by learned linear maps."""
    init_from: str = ""
    """Pre-trained checkpoint to start from, ours, fairseq's, NVIDIA's, or a Hugging Face folder,
    with a fresh optimizer and schedule; '': none."""

    def __post_init__(self) -> None:
        if self.model == "auto" and not self.init_from:
            raise UserError("--model auto: takes the architecture of --init_from; give both")

    def architecture(self, start: dict[str, Any] | None = None, source: str = "") -> Architecture:
        """What the flags mean; `start`, from `source`: the checkpoint that `auto` asks."""
        if self.hourglass_resampling != "naive" and not self.hourglass.strip():
            raise UserError(
                f"--hourglass_resampling {self.hourglass_resampling}: the plain encoder has none; "
                "give --hourglass, too"
            )
        try:
            hourglass = Hourglass.parse(self.hourglass, self.hourglass_resampling)
            if self.model != "auto":
                return replace(PRESETS[self.model], hourglass=hourglass)
        except ValueError as error:
            raise UserError(str(error)) from None
        assert start is not None
        found = native.architecture_of(start, source)
        if found.hourglass != hourglass:
            raise UserError(
                f"--hourglass {self.hourglass!r}: {source} has "
                f"{found.hourglass or 'the plain encoder'}; give {native.flags_of(found)}"
            )
        return found


PRETRAIN = (
    DataOptions,
    CropOptions,
    ModelOptions,
    Regularisation,
    Masking,
    ContrastiveObjective,
    OptimizerOptions,
    ScheduleOptions,
    PrecisionOptions,
    RunOptions,
)
FINETUNE = (
    DataOptions,
    FinetuneOptions,
    Regularisation,
    Masking,
    OptimizerOptions,
    ScheduleOptions,
    PrecisionOptions,
    RunOptions,
)
# Fields that a command does not use are no flags of it.
UNUSED = {
    "pretrain": {"final_dropout", "mask_channel_prob", "mask_channel_span"},
    "finetune": {"dropout_features"},
}
# The Base recipe on 100 hours, where fine-tuning differs from pre-training.
FINETUNE_DEFAULTS = {
    "train_subset": ("train-clean-100",),
    "max_tokens": 3_200_000,
    "num_concat_batches": 1,
    "batches_per_update": 8,
    "dropout": 0.0,
    "dropout_input": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.1,
    "layerdrop": 0.1,
    "feature_grad_mult": 0.0,
    "mask_channel_prob": 0.5,
    "adam_eps": 1e-8,
    "weight_decay": 0.0,
    "clip_norm": 0.0,
    "learning_rate": 3e-5,
    "schedule": "three_stage",
    "max_update": 80_000,
    "warmup_updates": 8_000,
    "hold_updates": 32_000,
    "output_dir": "results/finetune_base_100h",
    "save_frequency": 10,
}


def parse(argv: Sequence[str] | None = None) -> tuple[str, dict[type, Any]]:
    """The command and its options, one object of each class above."""
    parser = ArgumentParser(prog="train.py", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="pretrain|finetune")
    pretrain = commands.add_parser("pretrain", help="contrastive pre-training on audio alone")
    finetune = commands.add_parser("finetune", help="CTC training on transcribed audio")
    for cls in PRETRAIN:
        add_flags(pretrain, cls, without=UNUSED["pretrain"])
    for cls in FINETUNE:
        add_flags(finetune, cls, FINETUNE_DEFAULTS, without=UNUSED["finetune"])
    pretrain.set_defaults(subparser=pretrain, classes=PRETRAIN)
    finetune.set_defaults(subparser=finetune, classes=FINETUNE)
    namespace = parser.parse_args(argv)
    return namespace.command, {cls: from_flags(cls, namespace) for cls in namespace.classes}


def resolved(command: str, options: dict[type, Any]) -> dict[str, Any]:
    """The whole configuration in plain types, as printed and logged."""
    configuration: dict[str, Any] = {"command": command}
    for values in options.values():
        configuration.update(asdict(values))
    configuration.update(asdict(options[DataOptions].geometry()))
    if command == "pretrain" and options[ModelOptions].model != "auto":
        configuration["architecture"] = options[ModelOptions].architecture().to_dict()
    return configuration


def build(
    command: str, options: dict[type, Any], device: torch.device, saved: ResumePoint | None = None
) -> Task:
    """The task a command's options describe; `saved`: the checkpoint that is to be continued."""
    data, run = options[DataOptions], options[RunOptions]
    regularisation, masking = options[Regularisation], options[Masking]
    if command == "pretrain":
        init_from = options[ModelOptions].init_from
        weights = checkpoints.read_checkpoint(init_from) if init_from and saved is None else None
        source, start = (str(saved.path), saved.content) if saved else (init_from, weights)
        architecture = options[ModelOptions].architecture(start, source)
        crop, objective = options[CropOptions], options[ContrastiveObjective]
        choices = (data, crop, architecture, regularisation, masking, objective, run, device)
        return PretrainingTask(*choices, init_from, weights, saved)
    finetune, max_update = options[FinetuneOptions], options[ScheduleOptions].max_update
    return FinetuningTask(data, finetune, regularisation, masking, run, max_update, device, saved)


# What each machine may have its own value of: paths, above all.
OF_A_MACHINE = {"dataset_dir", "output_dir", "init_from", "pretrained_model", "num_workers"}


def check_agreement(configuration: dict[str, Any]) -> None:
    """UserError if the processes, started on several machines, were not started alike."""
    mine = {k: v for k, v in configuration.items() if k not in OF_A_MACHINE}
    mine["NUM_NODES"] = os.environ.get("NUM_NODES", "1")
    first, *others = distributed.gather(mine)
    for rank, other in enumerate(others, start=1):
        found = [f"{k}: {other[k]} instead of {v}" for k, v in first.items() if other[k] != v]
        if found:
            raise UserError(
                f"process {rank} was not started like process 0 ({'; '.join(found)}); give the "
                "recipe the same variables and flags on all machines"
            )


def prepare(command: str, options: dict[type, Any], device: torch.device) -> Trainer:
    """Everything that comes before the first update; what one process cannot do stops all."""
    run = options[RunOptions]
    configuration = distributed.run_on_all_ranks(lambda: resolved(command, options))
    check_agreement(configuration)

    def prepare_output() -> None:
        if distributed.is_main():
            folder = prepare_folder("--output_dir", run.output_dir)
            (folder / EXIT_FILE).unlink(missing_ok=True)

    distributed.run_on_all_ranks(prepare_output)
    if distributed.is_main():
        print(f"configuration: {json.dumps(configuration)}", flush=True)

    saved = distributed.run_on_all_ranks(lambda: checkpoint.newest_checkpoint(run.output_dir))
    found = distributed.gather(saved and saved.content.get("update"))
    if len(set(found)) > 1:
        raise UserError(
            f"--output_dir {run.output_dir}: not all processes find the same checkpoint there "
            f"(updates {found}, by process); use a folder that all machines share"
        )

    def build_trainer() -> Trainer:
        task = build(command, options, device, saved)
        if run.compile:
            compile_layers(task.model)
        parameters = sum(p.numel() for p in task.model.parameters())
        notice(f"{command}: {parameters:,} parameters on {device}")
        optimizer, schedule = options[OptimizerOptions], options[ScheduleOptions]
        # One process writes the log.
        main = distributed.is_main()
        surroundings = environment.describe(device, distributed.world_size()) if main else {}
        return Trainer(
            task,
            run,
            optimizer,
            schedule,
            device,
            precision=options[PrecisionOptions].precision,
            saved=saved,
            configuration={**configuration, "environment": surroundings},
        )

    return distributed.run_on_all_ranks(build_trainer)


def main() -> None:
    command, options = parse()
    run = options[RunOptions]
    if run.dry_run:
        if distributed.is_main():
            print(json.dumps(resolved(command, options), indent=2))
        return
    if run.deterministic:
        use_deterministic_operators()
    device = pick_device(run.cpu)
    check_supported(options[PrecisionOptions].precision, device)
    set_matmul_precision(options[PrecisionOptions].tf32)

    def note(error: Exception) -> None:
        # The lost process may be the main one.
        if distributed.is_main() or isinstance(error, PeerLost):
            record_exit(Path(run.output_dir) / EXIT_FILE, error)

    with distributed.process_group(device, run.peer_timeout_minutes, note):
        try:
            with out_of_memory_as_user_error():
                prepare(command, options, device).train()
        except REASONS as error:
            note(error)
            raise


if __name__ == "__main__":
    run_command(main)
