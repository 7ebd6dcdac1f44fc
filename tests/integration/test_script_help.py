"""`--help` of every script prints what it does and its variables, and does nothing else."""

import os
import re
import subprocess

import pytest

from common.runtime.check_variables import declared
from tests.integration.conftest import ROOT

SOURCED = {"environment.sh", "launch.sh", "recipe.sh", "shared.sh", "engine.sh", "job.sh"}
INSIDE_THE_IMAGE = {"install_dependencies.sh"}
STARTED = sorted(
    path
    for pattern in ("*.sh", "*.sbatch")
    for path in (ROOT / "scripts").rglob(pattern)
    if path.name not in SOURCED | INSIDE_THE_IMAGE
)


@pytest.fixture
def bare_machine(tmp_path):
    """A PATH without Python, package managers or engines, and a HOME that must stay empty."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("bash", "cat", "cut", "dirname", "grep", "id", "nproc", "realpath", "sed", "sort"):
        found = subprocess.run(["which", name], capture_output=True, text=True, check=True)
        (programs / name).symlink_to(found.stdout.strip())
    return programs


def run(script, *arguments, programs, **variables):
    home = programs.parent / "home"
    home.mkdir()
    result = subprocess.run(
        [str(programs / "bash"), str(script), *arguments],
        cwd=home,
        env={
            "PATH": str(programs),
            "HOME": str(home),
            "SLURM_SUBMIT_DIR": str(ROOT),
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert not list(home.iterdir())
    return result


@pytest.mark.parametrize("script", STARTED, ids=lambda p: str(p.relative_to(ROOT / "scripts")))
def test_help(bare_machine, script):
    result = run(script, "--help", programs=bare_machine)
    assert (result.returncode, result.stderr) == (0, "")
    assert f"scripts/{script.relative_to(ROOT / 'scripts')}" in result.stdout.splitlines()[0]
    own = re.findall(r'^: "\$\{([A-Z_]+):?=', script.read_text(encoding="utf-8"), re.MULTILINE)
    for name in own:
        assert f"\n  {name}=" in result.stdout, name


def test_help_of_a_recipe(bare_machine):
    script = ROOT / "scripts" / "finetune_base_benchmark.sh"
    help_text = run(script, "--seed", "3", "-h", programs=bare_machine).stdout
    assert "`python train.py finetune --help` lists its flags" in help_text
    assert "NO_SAVE=true" in help_text and "NO_SAVE=false" not in help_text  # its own default
    explained = r"MAX_TOKENS=3200000 +# audio samples in a sub-batch, padding included\n"
    assert re.search(explained, help_text)
    assert "bash scripts/finetune_base_benchmark.sh --dry_run" in help_text
    shown = set(re.findall(r"^  ([A-Z0-9_]+)=", help_text, re.MULTILINE))
    meeting = {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "RDZV_ENDPOINT"}
    assert declared(script).keys() - shown <= meeting | {
        "OMP_NUM_THREADS",
        "OMP_WAIT_POLICY",
        "HOURGLASS_CONFIG",
    }


def test_help_of_a_command_inside_the_container_is_the_commands(bare_machine):
    script = ROOT / "scripts" / "docker" / "run.sh"
    result = run(script, "bash", "--help", programs=bare_machine, CONTAINER_ENGINE="none")
    assert result.returncode == 2 and result.stderr.startswith("error: none: not installed")


@pytest.mark.parametrize("value", ["1", "yes", "On", "TRUE"])
def test_spellings_of_true(value):
    command = 'source scripts/shared.sh; echo "$BF16 $CPU $NO_SAVE $DETERMINISTIC"'
    variables = {"BF16": value, "CPU": "no", "NO_SAVE": "0", "DETERMINISTIC": "perhaps"}
    result = subprocess.run(
        ["bash", "-euc", command], cwd=ROOT, env=os.environ | variables, capture_output=True
    )
    assert result.stdout.split() == [b"true", b"false", b"false", b"perhaps"], result.stderr
