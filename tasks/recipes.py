"""A command line -> a recipe, and the trainer that it describes.

A recipe is composed of groups of options; each field of a group is a flag of train.py.  The
defaults are the Base recipes on LibriSpeech; the scripts state their differences.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch

from common.runtime import distributed, environment
from common.runtime.check_variables import declared
from common.training.checkpoint import CheckpointFolder
from common.training.trainer import Trainer
from tasks.data import FILE_PREFIX
from tasks.finetuning import FinetuningRecipe
from tasks.pretraining import PretrainingRecipe
from wav2vec2.cli.console import notice
from wav2vec2.cli.errors import EXIT_FILE, UserError
from wav2vec2.cli.flags import ArgumentParser, add_flags, check_command_first, from_flags
from wav2vec2.files.output import prepare_folder, write_json
from wav2vec2.interop.clients.support import hourglass_note
from wav2vec2.kernels import compile_layers

Recipe = PretrainingRecipe | FinetuningRecipe
RECIPES: tuple[type[Recipe], ...] = (PretrainingRecipe, FinetuningRecipe)

NOT_FLAGS = (
    "architecture",
    "environment",
    "ranks",
    "concat",
    "accumulate",
    "dry_run",
    "force",
    "extend",
)
"""Keys of a configuration that --config ignores: they follow from its flags and the machine, or
are decided for each run."""

EXAMPLES = {
    "pretrain": (
        "bash scripts/pretrain_base.sh",
        "python train.py pretrain --dataset_dir datasets/mine --train_subset train "
        "--valid_subset valid",
        "python train.py pretrain --dataset_dir datasets/mine --train_subset train "
        "--valid_subset valid --probe 5000 --probe_subset train valid",
        "python train.py pretrain --config results/pretrain_base/config.json --output_dir new",
    ),
    "finetune": (
        "bash scripts/finetune_base_100h.sh",
        "python train.py finetune --dataset_dir datasets/mine --train_subset train "
        "--valid_subset valid --pretrained_model base.pt",
        "python train.py finetune --config results/finetune_base_100h/config.json --output_dir new",
    ),
}
"""Commands that the help of each recipe shows."""


def parse_recipe(argv: Sequence[str] | None = None) -> Recipe:
    """The recipe that a command line asks for: `pretrain|finetune [--FLAG VALUE ...]`."""
    given = list(sys.argv[1:] if argv is None else argv)
    names = [recipe.command for recipe in RECIPES]
    check_command_first("train.py", given, names, EXAMPLES["pretrain"][1])
    parser = ArgumentParser("train.py", "Train wav2vec 2.0.", version=True)
    commands = parser.add_subparsers(dest="command", required=True, metavar="pretrain|finetune")
    for recipe in RECIPES:
        words: dict[str, Any] = {"help": recipe.__doc__, "description": recipe.__doc__}
        subparser = commands.add_parser(recipe.command, examples=EXAMPLES[recipe.command], **words)
        subparser.set_defaults(subparser=subparser, recipe=recipe)
        subparser.accept_config(recipe.command, NOT_FLAGS)
        for group in fields(recipe):
            add_flags(subparser, type(group.default), vars(group.default))
    namespace = parser.parse_args(given)
    recipe = namespace.recipe
    groups = {group.name: from_flags(type(group.default), namespace) for group in fields(recipe)}
    return recipe(**groups)


CONFIG_FILE = "config.json"
"""File in a run's output folder that holds its flags."""

RECIPE_VARIABLE = "RECIPE_SCRIPT"
"""Environment variable: the recipe script that started train.py."""

VARIABLES = {
    "layerdrop": "ENCODER_LAYERDROP",
    "language": "ADAPTER_LANGUAGE",
    "benchmark_epochs_num": "NUM_EPOCHS",
    "benchmark_warmup_epochs": "NUM_WARMUP_EPOCHS",
}
"""Flag -> the variable of the recipe scripts that sets it, where it is not the same name."""


def flags_of(recipe: Recipe) -> dict[str, Any]:
    """The command and the value of each of its flags, in plain types."""
    flags: dict[str, Any] = {"command": recipe.command}
    for group in fields(recipe):
        flags |= asdict(getattr(recipe, group.name))
    return flags


def defaults_of(command: str, script: Path | None = None) -> dict[str, Any]:
    """The flags of `command` when nothing else is said: those of a recipe script, or train.py's."""
    defaults = flags_of(parse_recipe([command]))
    if script is None:
        return defaults
    variables, arguments = declared(script), [command]
    for flag, value in defaults.items():
        text = variables.get(VARIABLES.get(flag, flag.upper()))
        if text and "$" in text:  # the shell computes it
            continue
        if isinstance(value, tuple) and text is not None:
            arguments += [f"--{flag}", *text.split()]
        elif text or (text is not None and isinstance(value, str)):  # an empty number: no default
            arguments += [f"--{flag}", text]
    # As scripts/launch.sh has it.
    updates = int(variables.get("MAX_UPDATE") or defaults["max_update"])
    if not variables.get("WARMUP_UPDATES"):
        arguments += ["--warmup_updates", str(updates // 10)]
    if command == FinetuningRecipe.command:
        arguments += ["--hold_updates", str(updates * 4 // 10)]
    return flags_of(parse_recipe(arguments))


def describe_flags(recipe: Recipe) -> str:
    """Which flags differ from the defaults of the recipe script, or of train.py without one."""
    script = Path(os.environ.get(RECIPE_VARIABLE, ""))
    known = script.is_file()
    defaults = defaults_of(recipe.command, script if known else None)
    changed = {k: v for k, v in flags_of(recipe).items() if v != defaults[k]}
    lines = [f"configuration: {Path(recipe.run.output_dir) / CONFIG_FILE}"]
    if changed:
        lines[0] += f"; different from {script.name if known else 'train.py'}:"
    for name, value in changed.items():
        lines.append(f"  {name:<24} {_as_text(value)}  (default: {_as_text(defaults[name])})")
    return "\n".join(lines)


def _as_text(value: Any) -> str:
    """A flag's value as it is typed on a command line."""
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "automatic"
    return str(value) or "none"


def configuration_of(recipe: Recipe) -> dict[str, Any]:
    """The flags, and what follows from them, in plain types, as logged."""
    configuration = flags_of(recipe) | asdict(recipe.data.geometry())
    if isinstance(recipe, PretrainingRecipe) and recipe.model.model != "auto":
        configuration["architecture"] = recipe.model.architecture().to_dict()
    return configuration


MACHINE_SETTINGS = {"dataset_dir", "output_dir", "init_from", "pretrained_model", "num_workers"}
"""What may differ between the machines of a run: paths, above all."""


def check_agreement(configuration: dict[str, Any]) -> None:
    """UserError if the processes, started on several machines, got different settings."""
    mine = {k: v for k, v in configuration.items() if k not in MACHINE_SETTINGS}
    mine["NUM_NODES"] = os.environ.get("NUM_NODES", "1")
    first, *others = distributed.gather(mine)
    for rank, other in enumerate(others, start=1):
        found = [f"{k}: {other[k]} instead of {v}" for k, v in first.items() if other[k] != v]
        if found:
            raise UserError(
                f"process {rank} was not started like process 0 ({'; '.join(found)}); give the "
                "recipe the same variables and flags on all machines"
            )


MOST_WORKERS = 4
"""Data loading workers per process that are chosen at most."""


def choose_workers(given: int | None) -> int:
    """The number of data loading workers per process; `given`: the flag's value."""
    cores = environment.cores()
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", distributed.world_size()))
    if given is None:
        workers = min(max(cores // processes - 1, 1), MOST_WORKERS)
        notice(
            f"data loading workers per process: {workers} (cores {cores}, processes {processes})"
        )
        return workers
    if given > cores:
        notice(f"warning: --num_workers {given}: more than this machine's cores ({cores})")
    return given


def prepare_trainer(recipe: Recipe, device: torch.device) -> Trainer:
    """Everything before the first update; an error of one process stops all of them."""
    is_main = distributed.is_main()
    configuration = distributed.run_on_all_ranks(lambda: configuration_of(recipe))
    check_agreement(configuration)
    given = recipe
    run = replace(recipe.run, num_workers=choose_workers(recipe.run.num_workers))
    recipe = replace(recipe, run=run)
    configuration["num_workers"] = run.num_workers

    def prepare_output() -> None:
        if is_main:
            folder = prepare_folder("--output_dir", run.output_dir)
            (folder / EXIT_FILE).unlink(missing_ok=True)

    distributed.run_on_all_ranks(prepare_output)
    checkpoints_of_run = CheckpointFolder(run.output_dir, FILE_PREFIX)
    point = distributed.run_on_all_ranks(lambda: checkpoints_of_run.newest())
    found = distributed.gather(point and point.content.get("update"))
    if len(set(found)) > 1:
        raise UserError(
            f"--output_dir {run.output_dir}: the processes find different checkpoints there "
            f"(updates {found}, by process); use a folder that all machines share"
        )

    def build_trainer() -> Trainer:
        task = recipe.build_task(device, point)
        if run.compile:
            compile_layers(task.model)
        parameters = sum(p.numel() for p in task.model.parameters())
        notice(f"{recipe.command}: {parameters:,} parameters on {device}")
        if note := hourglass_note(task.architecture):
            notice(note)
        # One process writes the log.
        described = environment.describe(device, distributed.world_size()) if is_main else {}
        trainer = Trainer(
            task,
            run,
            recipe.optimizer,
            recipe.schedule,
            device,
            precision=recipe.precision.precision,
            resume_from=point,
            configuration={**configuration, "environment": described},
        )
        if is_main:
            derived = {"architecture": task.recipe["architecture"], "environment": described}
            write_json(Path(run.output_dir) / CONFIG_FILE, flags_of(given) | derived)
        return trainer

    trainer = distributed.run_on_all_ranks(build_trainer)
    if is_main:
        print(describe_flags(given), flush=True)
    return trainer
