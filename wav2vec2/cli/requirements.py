"""One line instead of a traceback when a required package is not installed.

Imports nothing but the standard library, because it is imported before everything else.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

REQUIRED = {
    "torch",
    "numpy",
    "soundfile",
    "soxr",
    "sentencepiece",
    "editdistance",
    "tensorboard",
    "tqdm",
    "safetensors",
    "num2words",
    "huggingface_hub",
}
"""Packages of requirements.txt, and torch; each is imported by the name it is installed by."""

IMPORTED_LATER = ("soundfile", "editdistance", "sentencepiece", "tqdm", "safetensors")
"""Required packages that are imported where they are used: benchmarks work without them."""

ROOT = Path(__file__).resolve().parents[2]
"""The repository, or the folder of an installed package."""


def how_to_install(package: str, root: Path = ROOT) -> str:
    """What to do if `package` is missing: activate the environment in `root`, or install it."""
    environment = root / ".venv"
    activate = environment / "bin" / "activate"
    if activate.exists() and Path(sys.prefix).resolve() != environment.resolve():
        return f"activate the environment: source {os.path.relpath(activate)}"
    if not (root / "requirements.txt").exists():
        return f"install it: {sys.executable} -m pip install {package}"
    return (
        "install it: bash scripts/quickstart.sh makes an environment, or use "
        f"{sys.executable} -m pip install torch -r requirements.txt"
    )


def _explain_missing(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """An excepthook: a missing required package ends the command in one line, with exit code 2."""
    package = (getattr(error, "name", None) or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or package not in REQUIRED:
        sys.__excepthook__(kind, error, traceback)
        return
    message = f"the Python package {package} is not installed; {how_to_install(package)}"
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(2)


def explain_missing_packages() -> None:
    """From now on, a missing required package ends this program in one line.

    A program that handles its uncaught errors itself, or an interactive session, is left alone.
    """
    if sys.excepthook is sys.__excepthook__ and not hasattr(sys, "ps1"):
        sys.excepthook = _explain_missing


def require_packages() -> None:
    """ModuleNotFoundError unless the packages that are imported later are installed.

    A command that works for hours calls this first.
    """
    for package in IMPORTED_LATER:
        if find_spec(package) is None:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
