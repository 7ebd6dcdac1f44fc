"""Runs that want the same output folder: one at a time, and never locked out by a dead one."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import train
from common.runtime.folder_lock import LOCK_FILE, FolderLock
from tasks.recipes import flags_of, parse_recipe
from tests.integration.conftest import ROOT, flags, launch
from wav2vec2.files.output import write_json
from wav2vec2.files.torch_file import load_checkpoint

BEATING = (
    "from common.runtime import folder_lock; import train; from wav2vec2.cli.errors import *; "
    "folder_lock.BEAT_SECONDS = 0.1; run_command(train.main)"
)


@pytest.fixture
def start(corpus):
    """Start a run of many updates; returns its process once it holds its folder and trains."""
    started = []

    def start(folder, *more):
        arguments = flags("pretrain", corpus, folder, max_update=400, save_every_updates=1)
        before = set(folder.glob("wav2vec2_update*.pt"))
        process = subprocess.Popen(
            [sys.executable, "-c", BEATING, *arguments, *more],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        deadline = time.monotonic() + 120
        while not holds(process, folder) or not {*folder.glob("wav2vec2_update*.pt")} - before:
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.05)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stderr.close()


def holds(process, folder):
    try:
        return json.loads((folder / LOCK_FILE).read_text())["pid"] == process.pid
    except FileNotFoundError:
        return False


def test_a_second_run_ends_and_the_first_goes_on(corpus, tmp_path, start, command):
    first = start(tmp_path)
    other = flags("pretrain", corpus, tmp_path, learning_rate="2e-3", seed=7)
    code, out, err = command(train.main, *other)
    (line,) = err.splitlines()
    assert code == 2 and out == ""
    assert line.startswith(f"error: --output_dir {tmp_path}: process {first.pid} on ")
    assert "writes there" in line and "--force" in line
    assert first.poll() is None and not (tmp_path / "last_exit.json").exists()
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=120)
    assert first.returncode == 4
    assert not (tmp_path / LOCK_FILE).exists()
    assert json.loads((tmp_path / "last_exit.json").read_text())["code"] == 4
    newest = max(tmp_path.glob("wav2vec2_update*.pt"), key=lambda path: path.stat().st_mtime)
    assert load_checkpoint(newest)["recipe"]["learning_rate"] == 1e-3


def test_a_killed_run_starts_again_at_once(tmp_path, start):
    first = start(tmp_path)
    first.kill()
    first.wait()
    assert (tmp_path / LOCK_FILE).exists()
    second = start(tmp_path)
    second.send_signal(signal.SIGTERM)
    _, err = second.communicate(timeout=120)
    assert second.returncode == 4
    assert f"taken over from process {first.pid} on " in err and "which has ended" in err
    assert "resuming from" in err


@pytest.mark.long  # the unit tests hold its parts
def test_force_stops_the_run_that_has_the_folder(tmp_path, start):
    first = start(tmp_path)
    second = start(tmp_path, "--force")
    _, err = first.communicate(timeout=120)
    assert first.returncode == 2
    assert f"error: --output_dir {tmp_path}: another run has taken the folder" in err
    assert holds(second, tmp_path)
    second.kill()
    assert "by --force" in second.communicate()[1]


def test_several_processes_have_one_lock(corpus, tmp_path):
    """They are refused with one line, before anything is written, and release it at their end."""
    lock = FolderLock(tmp_path)
    lock.acquire()
    result = launch(2, flags("pretrain", corpus, tmp_path))
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("error: "))
    assert result.returncode == 2 and f"process {os.getpid()} on" in line
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]
    lock.close()
    result = launch(2, flags("pretrain", corpus, tmp_path))
    assert result.returncode == 0, result.stderr
    assert "taken over" not in result.stderr and not (tmp_path / LOCK_FILE).exists()


def test_a_recipe_that_fails_leaves_no_lock(corpus, tmp_path, command):
    arguments = flags("pretrain", corpus, tmp_path / "o", train_subset="none")
    assert command(train.main, *arguments)[0] == 2
    assert not (tmp_path / "o").exists()
    (tmp_path / "o").mkdir()
    assert command(train.main, *arguments)[0] == 2
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["last_exit.json"]


def test_a_configuration_does_not_force(tmp_path):
    """config.json holds all flags of a run; another one that takes them asks anew."""
    forced = parse_recipe(["pretrain", "--force"])
    assert forced.run.force
    write_json(tmp_path / "config.json", flags_of(forced))
    assert not parse_recipe(["pretrain", "--config", str(tmp_path / "config.json")]).run.force
