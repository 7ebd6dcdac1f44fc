"""The last line of a data command: what to run next, with the real paths."""

import shlex
from collections.abc import Sequence
from pathlib import Path


def print_next_step(command: str, **variables: object) -> None:
    """Print `next: NAME=value ... command`, ready to be pasted into a shell."""
    words = [f"{name}={shlex.quote(str(value))}" for name, value in variables.items()]
    print("next:", *words, command)


def print_training_step(folder: str | Path, subsets: Sequence[str]) -> None:
    """Print how to pre-train on a data set, if its subsets' names say which to train on."""
    train = next((name for name in subsets if name.startswith("train")), None)
    valid = next((name for name in subsets if name.startswith(("dev", "valid"))), None)
    if train and valid:
        print_next_step(
            "bash scripts/pretrain_base.sh",
            DATASET_DIR=folder,
            TRAIN_SUBSET=train,
            VALID_SUBSET=valid,
        )
