"""Check a recipe's environment variables: `python -m common.runtime.check_variables SCRIPT`.

A misspelt variable would silently train another recipe.  The scripts themselves say which variables
they read and what kind of value each has, in lines like `: "${MAX_UPDATE:=400000}"`.
"""

import difflib
import os
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from common.runtime.nvidia_variables import ARCHITECTURE, unread_variables
from wav2vec2.cli.errors import UserError, run_command

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

RENAMED = {
    "ACCUM_GRAD": "UPDATE_FREQ",
    "AMP": "FP16",
    "GPUS": "NUM_GPUS",
    "GRADIENT_ACCUMULATION": "UPDATE_FREQ",
    "GRADIENT_ACCUMULATION_STEPS": "UPDATE_FREQ",
    "GRAD_ACCUM": "UPDATE_FREQ",
    "HOURGLASS": "HOURGLASS_CONFIG",
    "LAYERDROP": "ENCODER_LAYERDROP",
    "LR": "LEARNING_RATE",
    "MAX_STEPS": "MAX_UPDATE",
    "NGPU": "NUM_GPUS",
    "NGPUS": "NUM_GPUS",
    "N_GPUS": "NUM_GPUS",
    "SEEDS": "SEED",
    "SPEED": "SPEEDS",
    "SPEED_PERTURB": "SPEEDS",
    "UPDATE_FREQUENCY": "UPDATE_FREQ",
    "WARMUP": "WARMUP_UPDATES",
    "WARMUP_STEPS": "WARMUP_UPDATES",
    "WORKERS": "NUM_WORKERS",
}
"""Names in other implementations' scripts -> names here, of the same meaning."""
_EPOCHS = "did you mean MAX_UPDATE? It counts updates, not epochs, for example MAX_UPDATE=20000"
_BATCHES = (
    "did you mean MAX_TOKENS? It counts the audio samples of a sub-batch, for example "
    "MAX_TOKENS=1400000; NUM_CONCAT_BATCHES and UPDATE_FREQ multiply sub-batches"
)
_PRECISION = "did you mean BF16? BF16=true is bfloat16, FP16=true half precision, neither float32"
EXPLAINED = {
    "BATCH_SIZE": _BATCHES,
    "DEVICE": "did you mean CPU? CPU=true runs on CPUs; CUDA_VISIBLE_DEVICES=0 chooses a GPU",
    "DTYPE": _PRECISION,
    "EPOCHS": _EPOCHS,
    "MAX_EPOCH": _EPOCHS,
    "MAX_EPOCHS": _EPOCHS,
    "NUM_EPOCHS": _EPOCHS,
    "NUM_TRAIN_EPOCHS": _EPOCHS,
    "PER_DEVICE_BATCH_SIZE": _BATCHES,
    "PRECISION": _PRECISION,
    "TRAIN_BATCH_SIZE": _BATCHES,
}
"""Names in other implementations' scripts -> what does the same job here in another way."""
# Words that are too common elsewhere to show that a variable is meant for a recipe.
COMMON_WORDS = {
    "ADDR",
    "CPU",
    "DATA",
    "DIR",
    "EXT",
    "JOB",
    "MASTER",
    "NODE",
    "OUTPUT",
    "PORT",
    "PYTHON",
}
FOREIGN_PREFIXES = ("CUDA", "HF_", "LOCAL_", "MKL_", "NCCL_", "PET_", "SLURM_", "TORCH", "WANDB_")
EXAMPLES = {
    "BATCH_SIZE": "8",
    "HOLD_UPDATES": "32000",
    "NUM_WORKERS": "4",
    "WARMUP_UPDATES": "8000",
}
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
    for other in map(script.with_name, _SOURCED.findall(text)):
        if other.exists():  # others, in another folder, declare none
            names = declared(other) | names  # its own default comes first
    return names


def one_edit_apart(a: str, b: str) -> bool:
    """Whether at most one letter was dropped, added or replaced, or two letters swapped."""
    import editdistance  # only a wrong name needs it

    distance = editdistance.eval(a, b)
    return distance < 2 or (distance == 2 and sorted(a) == sorted(b))


def resembles(name: str, known: set[str]) -> bool:
    """Whether `name` was probably meant to be one of `known`."""
    if any(len(name) > 3 and one_edit_apart(name, other) for other in known):
        return True
    # The first words of a name, whole, are another name: a program's FILELISTS is no FILELISTS_DIR.
    others = [other for other in known if not other.startswith(f"{name}_")]
    if len(name) > 5 and difflib.get_close_matches(name, others, n=1, cutoff=SIMILAR):
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


def hint(name: str, value: str, known: Mapping[str, str]) -> str:
    """What to set instead of the unknown variable `name`, with an example."""
    if name in EXPLAINED:
        return EXPLAINED[name]
    near = [RENAMED[name]] if name in RENAMED else []
    near = near or difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    if not near:
        return "unset it"
    default = known.get(near[0], "")
    try:
        check_value(near[0], value, default)
    except UserError:
        value = default
    example = f" For example {near[0]}={shlex.quote(value)}" if value else ""
    return f"did you mean {near[0]}?{example}"


def check_variables(script: Path, environment: Mapping[str, str]) -> list[str]:
    """Notes about variables that this recipe does not read; UserError for a misspelt variable or an
    impossible value."""
    own = declared(script)
    known: dict[str, str] = {}
    for path in sorted(SCRIPTS.rglob("*.sh")):
        known = declared(path) | known
    known |= own
    foreign = RENAMED.keys() | EXPLAINED.keys()
    theirs = unread_variables(script.stem, environment.get("MODEL") or own.get("MODEL", ""))
    notes = []
    for name, value in sorted(environment.items()):
        if name in own:
            check_value(name, value, own[name] or EXAMPLES.get(name, ""))
        elif name in theirs:
            note = theirs[name].check(script.name, name, value)
            notes += [note] if note else []
        elif name.startswith(FOREIGN_PREFIXES):
            continue
        elif name in known.keys() | ARCHITECTURE.keys() and name not in foreign:
            notes.append(f"note: {name} is set, but {script.name} does not read it")
        elif name in foreign or resembles(name, set(known)):
            what = f"{script.name} does not read" if name in known else "no recipe reads"
            raise UserError(f"{name}: {what} this variable; {hint(name, value, known)}")
    return notes


def main() -> None:
    if len(sys.argv) != 2:
        raise UserError("usage: python -m common.runtime.check_variables SCRIPT")
    for note in check_variables(Path(sys.argv[1]), os.environ):
        print(note, file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
