"""Outside the environment, every entry point ends in one line that says what to do."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from wav2vec2.cli.requirements import REQUIRED, how_to_install

ROOT = Path(__file__).resolve().parents[4]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "utils").rglob("*.py")
    if "run_command(main" in path.read_text("utf-8")
)
BLOCK = """
import runpy, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
sys.path.insert(0, {root!r})
sys.argv = ["command", *{arguments!r}]
runpy.{run}({entry!r}, run_name="__main__"{more})
"""


def without(package, run, entry, *arguments):
    """The result of an entry point in a Python that cannot import `package`."""
    more = ", alter_sys=True" if run == "run_module" else ""
    values = {"package": package, "run": run, "entry": entry, "arguments": arguments}
    code = BLOCK.format(**values, root=str(ROOT), more=more)
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


def check(result, package):
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith(f"error: the Python package {package} is not installed; ")
    assert "source" in result.stderr or "pip install" in result.stderr


@pytest.mark.parametrize(
    ("run", "entry"),
    [
        ("run_path", "train.py"),
        ("run_path", "inference.py"),
        ("run_module", "common.runtime.launcher"),
    ],
)
def test_without_torch(run, entry):
    check(without("torch", run, entry, "evaluate", "--help"), "torch")


@pytest.mark.parametrize("module", MODULES)
def test_every_utils_command_says_it(module):
    """A command that needs no torch shows its help."""
    result = without("torch", "run_module", module, "--help")
    if result.returncode:
        check(result, "torch")


def test_without_another_package():
    check(without("soundfile", "run_path", "train.py", "pretrain"), "soundfile")


def test_a_bug_keeps_its_traceback():
    result = without("tarfile", "run_module", "utils.data.download_librispeech")
    assert result.returncode == 1 and "Traceback" in result.stderr


def test_all_requirements_are_known():
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    names = {re.match(r"[\w-]+", line)[0] for line in lines if line and line[0] != "#"}
    assert names | {"torch"} == REQUIRED


def test_what_to_do(tmp_path):
    assert "pip install torch" in how_to_install("torch", tmp_path)
    (tmp_path / "requirements.txt").touch()
    assert "bash scripts/quickstart.sh" in how_to_install("torch", tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    assert how_to_install("torch", tmp_path).endswith(".venv/bin/activate")
