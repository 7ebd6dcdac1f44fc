"""The container scripts, up to the engine: what they ask of it, and what they say without one."""

import os
import subprocess

import pytest

from tests.integration.conftest import ROOT


def run(script, *arguments, engine, **variables):
    environment = {**os.environ, "CONTAINER_ENGINE": str(engine), **variables}
    return subprocess.run(
        ["bash", str(ROOT / "scripts" / "docker" / script), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def engine(tmp_path):
    """An engine that writes down what it is asked for."""
    path = tmp_path / "engine"
    path.write_text(f'#!/bin/sh\n[ "$1" = info ] || printf "%s\\n" "$@" > {tmp_path}/asked\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("script", ["build.sh", "run.sh"])
def test_without_an_engine(script, tmp_path):
    result = run(script, engine="no-such-engine")
    assert result.returncode == 2
    assert result.stderr.startswith("error: no-such-engine: not installed")
    dead = tmp_path / "dead"
    dead.write_text("#!/bin/sh\nexit 1\n")
    dead.chmod(0o755)
    result = run(script, engine=dead)
    assert result.returncode == 2 and "daemon does not answer" in result.stderr


def test_build_passes_its_arguments_on(engine, tmp_path):
    result = run("build.sh", "--build-arg", "FROM_IMAGE_NAME=localhost/base", engine=engine)
    assert result.returncode == 0, result.stderr
    asked = (tmp_path / "asked").read_text().split()
    assert asked[0] == "build" and asked[-1] == "."
    assert "FROM_IMAGE_NAME=localhost/base" in asked


def test_run_mounts_and_passes_recipe_variables(engine, tmp_path):
    data, results = tmp_path / "data", tmp_path / "results"
    data.mkdir()
    result = run(
        *("run.sh", "bash", "scripts/pretrain_base.sh"),
        engine=engine,
        DATA_DIR=str(data),
        RESULTS_DIR=str(results),
        MAX_UPDATE="7",
        MASTER_ADDR="node0",
        MASTER_PORT="29500",
        NODE_RANK="1",
        PEER_TIMEOUT_MINUTES="5",
        PYTHON="/somewhere/python",
    )
    assert result.returncode == 0, result.stderr
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[-3:] == ["wav2vec2-recipes", "bash", "scripts/pretrain_base.sh"]
    assert f"{data}:/datasets" in asked and results.is_dir()
    assert {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "PEER_TIMEOUT_MINUTES"} <= set(asked)
    assert "RDZV_ENDPOINT" not in asked  # not set outside
    assert asked[asked.index("--network") + 1] == "host"
    assert "MAX_UPDATE" in asked and "PYTHON" not in asked and "--gpus" not in asked
    assert f"{os.getuid()}:{os.getgid()}" in asked


def test_a_machine_of_its_own_keeps_its_network(engine, tmp_path):
    assert (
        run(
            "run.sh", engine=engine, DATA_DIR=str(tmp_path), RESULTS_DIR=str(tmp_path / "results")
        ).returncode
        == 0
    )
    assert "--network" not in (tmp_path / "asked").read_text()


def test_run_needs_the_data_folder(engine, tmp_path):
    result = run("run.sh", engine=engine, DATA_DIR=str(tmp_path / "none"))
    assert result.returncode == 2 and "no such folder" in result.stderr
