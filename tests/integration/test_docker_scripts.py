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


def fake(folder, name, text):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def fake_engine(folder, name="engine", info="true"):
    """Writes down what it is asked for; the command `info` answers when it is asked for that."""
    return fake(
        folder, name, f'[ "$1" = info ] && exec {info}\nprintf "%s\\n" "$@" > {folder}/asked'
    )


@pytest.fixture
def engine(tmp_path):
    return fake_engine(tmp_path)


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
    assert {"MASTER_ADDR=node0", "MAX_UPDATE=7"} <= set(asked)
    names = {text.partition("=")[0] for text in asked}
    assert {"MASTER_PORT", "NODE_RANK", "PEER_TIMEOUT_MINUTES"} <= names
    assert "RDZV_ENDPOINT" not in names  # not set outside
    assert asked[asked.index("--network") + 1] == "host"
    assert "PYTHON" not in names and "--gpus" not in asked
    assert f"{os.getuid()}:{os.getgid()}" in asked


def asked_of(tmp_path, engine, **variables):
    """What run.sh asks of `engine`."""
    variables = {"DATA_DIR": str(tmp_path), "RESULTS_DIR": str(tmp_path / "results"), **variables}
    result = run("run.sh", engine=engine, **variables)
    assert result.returncode == 0, result.stderr
    return (tmp_path / "asked").read_text().splitlines()


@pytest.mark.parametrize("filelists", [False, True])
def test_dataset_dir_names_the_folder_outside(engine, tmp_path, filelists):
    """As in NVIDIA's recipe; a path inside the container and DATA_DIR keep their meaning."""
    data = tmp_path / "my data"
    data.mkdir()
    if filelists:
        (data / "train.tsv").touch()
    results = {"RESULTS_DIR": str(tmp_path / "results")}
    result = run("run.sh", engine=engine, DATASET_DIR=str(data), **results)
    assert result.returncode == 0, result.stderr
    asked = (tmp_path / "asked").read_text().splitlines()
    assert f"{data}:/datasets" in asked
    inside = [text for text in asked if text.startswith("DATASET_DIR=")]
    assert inside == (["DATASET_DIR=/datasets"] if filelists else [])
    asked = asked_of(tmp_path, engine, DATASET_DIR="/datasets/LibriSpeech")
    assert "DATASET_DIR=/datasets/LibriSpeech" in asked and f"{tmp_path}:/datasets" in asked
    missing = run("run.sh", engine=engine, DATASET_DIR=str(tmp_path / "none"), **results)
    assert missing.returncode == 2 and f"{tmp_path / 'none'}: no such folder" in missing.stderr


def test_variables_of_nvidias_recipe_reach_their_error(engine, tmp_path):
    asked = asked_of(tmp_path, engine, ENCODER_LAYERS="6", TORCHSCRIPT="true", LATENT_TEMP="2 1 1")
    assert {"ENCODER_LAYERS=6", "TORCHSCRIPT=true", "LATENT_TEMP=2 1 1"} <= set(asked)


def test_a_machine_of_its_own_keeps_its_network(engine, tmp_path):
    assert "--network" not in asked_of(tmp_path, engine)


def test_gpus_are_given_where_the_engine_can(tmp_path, monkeypatch):
    """docker says so itself; a GPU that a container would not get is no silent loss."""
    fake(tmp_path, "nvidia-smi", "echo GPU 0")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    able = fake_engine(tmp_path, "docker", info="echo Runtimes: nvidia runc")
    asked = asked_of(tmp_path, able)
    assert asked[asked.index("--gpus") + 1] == "all"
    unable = fake_engine(tmp_path, "docker")
    result = run("run.sh", engine=unable, DATA_DIR=str(tmp_path), RESULTS_DIR=str(tmp_path / "r"))
    assert result.returncode == 2 and "has a GPU, but containers do not get it" in result.stderr
    assert "--gpus" not in asked_of(tmp_path, unable, CPU="true")


def test_podman_and_buildah(tmp_path, monkeypatch):
    """Both name the file format that has health checks; podman maps the caller's user id; buildah
    runs what it built through podman where that is installed."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    podman, buildah = fake_engine(tmp_path, "podman"), fake_engine(tmp_path, "buildah")
    for engine in (podman, buildah):
        assert run("build.sh", engine=engine).returncode == 0
        asked = (tmp_path / "asked").read_text().splitlines()
        assert asked[asked.index("--format") + 1] == "docker"
        asked = asked_of(tmp_path, engine, CONTAINER_USER="7:8")
        assert asked[asked.index("--userns") + 1] == "keep-id"
        assert asked[asked.index("--user") + 1] == "7:8" and "wav2vec2-recipes" in asked


def test_run_needs_the_data_folder(engine, tmp_path):
    result = run("run.sh", engine=engine, DATA_DIR=str(tmp_path / "none"))
    assert result.returncode == 2 and "no such folder" in result.stderr
