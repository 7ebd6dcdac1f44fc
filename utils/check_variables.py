"""Check a recipe's environment: `python -m utils.check_variables scripts/pretrain_base.sh`.

A misspelt variable would silently train another recipe.  The names the recipes read are taken
from the scripts themselves, from lines like `: "${MAX_UPDATE:=400000}"`.
"""

import difflib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from common.errors import UserError, run_command

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"

# Names from other implementations' scripts, and what they are called here.
ALIASES = {
    "UPDATE_FREQUENCY": "UPDATE_FREQ",
    "GRADIENT_ACCUMULATION": "UPDATE_FREQ",
    "NGPUS": "NUM_GPUS",
    "LR": "LEARNING_RATE",
}
# Named in recipes elsewhere, not offered here: setting one must not be silently ignored.
UNAVAILABLE = {
    "FP16": "training runs in fp32 (TF32 on GPUs that have it)",
    "BF16": "training runs in fp32 (TF32 on GPUs that have it)",
    "EMA": "weights are not averaged",
}
OFF = {"", "0", "false"}
SHORTEST_COMPARED = 6  # shorter names resemble too many unrelated ones
SIMILAR = 0.81


def declared(script: Path) -> set[str]:
    """The variables a script gives a default to."""
    return set(re.findall(r"\$\{([A-Z][A-Z0-9_]*):?[=?+]", script.read_text(encoding="utf-8")))


def check(script: Path, environment: Mapping[str, str]) -> list[str]:
    """Notes about variables this recipe does not read; UserError for a misspelt one."""
    own = declared(script) | declared(SCRIPTS / "launch.sh")
    known = set().union(*(declared(path) for path in sorted(SCRIPTS.glob("*.sh"))))
    notes = []
    for name, value in sorted(environment.items()):
        if name in own:
            continue
        if name in UNAVAILABLE and value.lower() not in OFF:
            raise UserError(f"{name}={value}: not offered here, {UNAVAILABLE[name]}; unset it")
        if name in known:
            notes.append(f"note: {name} is set, but {script.name} does not read it")
            continue
        near = [ALIASES[name]] if name in ALIASES else []
        if not near and len(name) >= SHORTEST_COMPARED:
            near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=SIMILAR)
        if near:
            raise UserError(f"{name}: no recipe reads this variable; did you mean {near[0]}?")
    return notes


def main() -> None:
    if len(sys.argv) != 2:
        raise UserError("usage: python -m utils.check_variables SCRIPT")
    for note in check(Path(sys.argv[1]), os.environ):
        print(note, file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
