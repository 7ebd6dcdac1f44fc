"""Check a recipe's environment variables: `python -m common.runtime.check_variables SCRIPT`.

A misspelt variable would silently train another recipe.  The scripts themselves say which variables
they read and what kind of value each has, in lines like `: "${MAX_UPDATE:=400000}"`.
"""

import difflib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import editdistance

from wav2vec2.cli.errors import UserError, run_command

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

# Names in other implementations' scripts -> names here.
ALIASES = {
    "AMP": "FP16",
    "EPOCHS": "MAX_UPDATE",
    "GRADIENT_ACCUMULATION": "UPDATE_FREQ",
    "HOURGLASS": "HOURGLASS_CONFIG",
    "LAYERDROP": "ENCODER_LAYERDROP",
    "LR": "LEARNING_RATE",
    "MAX_STEPS": "MAX_UPDATE",
    "NGPUS": "NUM_GPUS",
    "NUM_EPOCHS": "MAX_UPDATE",
    "UPDATE_FREQUENCY": "UPDATE_FREQ",
    "WARMUP": "WARMUP_UPDATES",
    "WARMUP_STEPS": "WARMUP_UPDATES",
}
# Words that are too common elsewhere to show that a variable is meant for a recipe.
COMMON_WORDS = {"ADDR", "CPU", "DATA", "DIR", "JOB", "MASTER", "NODE", "OUTPUT", "PORT", "PYTHON"}
FOREIGN_PREFIXES = ("CUDA", "HF_", "MKL_", "NCCL_", "PET_", "SLURM_", "TORCH", "WANDB_")
EXAMPLES = {"NUM_WORKERS": "4"}
"""Values of variables without a default, for their kind."""
AT_LEAST_ONE = {"NUM_GPUS", "NUM_NODES"}
SIMILAR = 0.81
"""Least ratio of difflib at which a name of six letters or more counts as misspelt."""

KINDS = {
    r"[0-9]+": "a whole number such as {}",
    r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?": "a number such as {}",
    "true|false": "true or false",
}
"""Pattern of a default -> what a value must be; it must match the first pattern that fits."""

_SOURCED = re.compile(r"^source .*/([a-z0-9_]+\.sh)\b", flags=re.MULTILINE)
_DECLARED = re.compile(r"\$\{([A-Z][A-Z0-9_]*):?([-=?+])([^}\"]*)")


def declared(script: Path) -> dict[str, str]:
    """Variable -> default (or '') of all that a script and the scripts it sources read."""
    text = script.read_text(encoding="utf-8")
    names = {n: default if mark == "=" else "" for n, mark, default in _DECLARED.findall(text)}
    for other in _SOURCED.findall(text):
        names = declared(script.with_name(other)) | names  # its own default comes first
    return names


def one_edit_apart(a: str, b: str) -> bool:
    """Whether at most one letter was dropped, added or replaced, or two letters swapped."""
    distance = editdistance.eval(a, b)
    return distance < 2 or (distance == 2 and sorted(a) == sorted(b))


def resembles(name: str, known: set[str]) -> bool:
    """Whether `name` was probably meant to be one of `known`."""
    if any(len(name) > 3 and one_edit_apart(name, other) for other in known):
        return True
    if len(name) > 5 and difflib.get_close_matches(name, known, n=1, cutoff=SIMILAR):
        return True
    words = {word for other in known for word in other.split("_")} - COMMON_WORDS
    parts = name.split("_")
    return len(parts) > 1 and all(
        any(
            part == word
            or (len(part) > 3 and one_edit_apart(part, word))
            or (min(len(part), len(word)) > 2 and (part.startswith(word) or word.startswith(part)))
            for word in words
        )
        for part in parts
    )


def check_value(name: str, value: str, default: str) -> None:
    """UserError for a value of another kind than the default's; an empty value is the default."""
    kind = next((pattern for pattern in KINDS if re.fullmatch(pattern, default)), None)
    if kind and value and not re.fullmatch(kind, value):
        raise UserError(f"{name}={value}: must be {KINDS[kind].format(default)}")
    if name in AT_LEAST_ONE and value and not value.strip("0"):
        raise UserError(f"{name}={value}: must be a whole number of at least 1")


def check_variables(script: Path, environment: Mapping[str, str]) -> list[str]:
    """Notes about variables that this recipe does not read; UserError for a misspelt variable or an
    impossible value."""
    own = declared(script)
    known = set().union(*(declared(path) for path in sorted(SCRIPTS.rglob("*.sh"))))
    notes = []
    for name, value in sorted(environment.items()):
        if name in own:
            check_value(name, value, own[name] or EXAMPLES.get(name, ""))
        elif name.startswith(FOREIGN_PREFIXES):
            continue
        elif name in known and name not in ALIASES:
            notes.append(f"note: {name} is set, but {script.name} does not read it")
        elif name in ALIASES or resembles(name, known):
            near = [ALIASES[name]] if name in ALIASES else []
            near = near or difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else "unset it"
            raise UserError(f"{name}: no recipe reads this variable; {hint}")
    return notes


def main() -> None:
    if len(sys.argv) != 2:
        raise UserError("usage: python -m common.runtime.check_variables SCRIPT")
    for note in check_variables(Path(sys.argv[1]), os.environ):
        print(note, file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
