"""The unit tests on the oldest torch that is supported."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import ROOT

TORCH = "torch==2.9.*"
# What calls torch; the other unit tests start commands that import it, dozens of times.
UNIT_TESTS = [f"tests/unit/{room}" for room in ("wav2vec2", "common", "tasks")]


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """A Python with that torch, made once; skips, saying why, where none can be made.

    Several GB where torch comes with CUDA: TORCH_INDEX_URL may name an index without.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = root / "wav2vec2-tests" / TORCH.replace("*", "x")
    folder.mkdir(parents=True, exist_ok=True)
    executable, complete = folder / "venv" / "bin" / "python", folder / "complete"
    constraint = tmp_path_factory.mktemp("oldest") / "constraint.txt"
    constraint.write_text(TORCH)
    install = [executable, "-m", "pip", "install", "-q", "--no-cache-dir"]
    index = os.environ.get("TORCH_INDEX_URL")
    steps = [
        [*install, TORCH, *(["--index-url", index] if index else [])],
        [*install, "-r", ROOT / "requirements-test.txt", "-c", constraint],
    ]
    with open(folder / "lock", "w") as lock:  # another run's tests wait for the first to build it
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            steps.insert(0, [sys.executable, "-m", "venv", "--clear", folder / "venv"])
        for step in steps:
            result = subprocess.run(step, capture_output=True, text=True)
            if result.returncode:
                last = (result.stderr.strip().splitlines() or ["no message"])[-1]
                pytest.skip(f"no environment with {TORCH} can be made: {last}")
        complete.touch()
    return executable


@pytest.mark.long
def test_unit_tests(python, tmp_path):
    print_version = "import torch; print(torch.__version__)"
    found = subprocess.run([python, "-c", print_version], capture_output=True, text=True)
    assert found.stdout.startswith("2.9."), found.stderr
    result = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp", tmp_path / "inner"]
        + UNIT_TESTS,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert result.returncode == 0, result.stdout[-5000:]
