"""Killed without warning, again and again, a run ends as if nothing had happened."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.integration.conftest import ROOT, flags
from wav2vec2.files.torch_file import load_checkpoint

UPDATES = 40


def start(arguments, processes, *options):
    command = [sys.executable, "train.py"]
    if processes > 1:
        command = [
            sys.executable,
            "-m",
            "common.runtime.launcher",
            "--standalone",
            "--nproc_per_node",
        ]
        command += [str(processes), *options, "train.py"]
    return subprocess.Popen(
        [*command, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_all(output_dir):
    """Every process of the run: those with its folder on their command line."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if str(output_dir).encode() in (entry / "cmdline").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
            except OSError:
                pass


def losses(folder):
    """(epoch, iteration) -> loss and learning rate: the last word on each."""
    found = {}
    for line in (folder / "nvlog.json").read_text().splitlines():
        try:
            record = json.loads(line.removeprefix("DLLL "))
        except ValueError:
            continue  # cut off by a kill
        if "train_loss" in record.get("data", {}):
            data = record["data"]
            found[tuple(record["step"][:2])] = (data["train_loss"], data["train_lr"])
    return found


def run_with_kills(corpus, folder, kills, processes, seed):
    arguments = flags(
        "pretrain",
        corpus,
        folder,
        max_update=UPDATES,
        max_tokens=60_000,
        save_every_updates=1,
        validate_frequency=2,
        update_freq=2 // processes,
    )
    moments = random.Random(seed)
    killed = 0
    while True:
        process = start(arguments, processes)
        if killed == kills:
            _, err = process.communicate(timeout=300)
            assert process.returncode == 0, err
            return
        # Some updates after it goes on, at any point of an update or a save.
        goal = len(losses(folder)) if (folder / "nvlog.json").exists() else 0
        goal += moments.randint(1, max(UPDATES // (kills + 1), 2))
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if (folder / "nvlog.json").exists() and len(losses(folder)) >= min(goal, UPDATES - 1):
                break
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.15))
        kill_all(folder)
        process.communicate()
        killed += 1


def check(corpus, tmp_path, kills, processes, seed):
    run_with_kills(corpus, tmp_path / "straight", 0, processes, seed)
    run_with_kills(corpus, tmp_path / "killed", kills, processes, seed)
    straight, killed = (
        load_checkpoint(tmp_path / name / f"wav2vec2_update{UPDATES}.pt")
        for name in ("straight", "killed")
    )
    for name, weight in straight["model"].items():
        assert torch.equal(weight, killed["model"][name]), name
    for key, state in straight["optimizer"]["state"].items():
        for name, value in state.items():
            assert torch.equal(value, killed["optimizer"]["state"][key][name]), (key, name)
    assert (straight["update"], straight["best"]) == (killed["update"], killed["best"])
    assert losses(tmp_path / "straight") == losses(tmp_path / "killed")
    assert len(losses(tmp_path / "straight")) == UPDATES
    assert not list((tmp_path / "killed").glob(".*.tmp"))


def test_three_kills(corpus, tmp_path):
    check(corpus, tmp_path, kills=3, processes=1, seed=1)


@pytest.mark.long
def test_twenty_kills(corpus, tmp_path):
    check(corpus, tmp_path, kills=20, processes=1, seed=2)


@pytest.mark.long
def test_two_processes_and_four_kills(corpus, tmp_path):
    check(corpus, tmp_path, kills=4, processes=2, seed=3)


def test_a_run_that_lost_a_process_starts_again_by_itself(corpus, tmp_path):
    """With restarts allowed: from its last checkpoint, to the bit."""
    run_with_kills(corpus, tmp_path / "straight", 0, 2, seed=0)
    folder = tmp_path / "killed"
    arguments = flags(
        "pretrain",
        corpus,
        folder,
        max_update=UPDATES,
        max_tokens=60_000,
        save_every_updates=1,
        validate_frequency=2,
        update_freq=1,
    )
    process = start(arguments, 2, "--max_restarts", "1")
    os.kill(max(workers_in(process, folder, UPDATES // 4)), signal.SIGKILL)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "resuming from" in err
    straight, killed = (
        load_checkpoint(tmp_path / name / f"wav2vec2_update{UPDATES}.pt")["model"]
        for name in ("straight", "killed")
    )
    for name, weight in straight.items():
        assert torch.equal(weight, killed[name]), name


def workers_in(process, folder, updates):
    """The ids of the run's two processes, once it has made that many updates."""
    deadline = time.monotonic() + 120
    while not ((folder / "nvlog.json").exists() and len(losses(folder)) >= updates):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    entries = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    workers = [int(entry.name) for entry in entries if is_worker(entry, folder)]
    assert len(workers) == 2
    return workers


def rank_of(worker):
    environment = Path(f"/proc/{worker}/environ").read_bytes().split(b"\0")
    (value,) = (v for v in environment if v.startswith(b"RANK="))
    return int(value.removeprefix(b"RANK="))


@pytest.mark.long  # torchrun waits half a minute before it kills a hung process
@pytest.mark.parametrize("restarts", [0, 1])
def test_a_process_that_hangs_is_named_and_ended(corpus, tmp_path, restarts):
    """The other one waits no longer than it may; with a restart allowed the run ends well."""
    arguments = flags(
        "pretrain",
        corpus,
        tmp_path,
        max_update=UPDATES,
        max_tokens=60_000,
        save_every_updates=1,
        peer_timeout_minutes=0.1,
    )
    process = start(arguments, 2, "--max_restarts", str(restarts))
    hanging, other = workers_in(process, tmp_path, 3)
    os.kill(hanging, signal.SIGSTOP)
    named, stopped = rank_of(hanging), time.monotonic()
    while is_worker(Path(f"/proc/{other}"), tmp_path):
        assert time.monotonic() < stopped + 30
        time.sleep(0.1)
    record = json.loads((tmp_path / "last_exit.json").read_text())
    assert record["code"] == 5 and f"s for process {named} in vain (Timed out" in record["reason"]
    _, err = process.communicate(timeout=300)
    assert not Path(f"/proc/{hanging}").exists()
    if restarts:
        assert process.returncode == 0 and "resuming from" in err, err
        assert (tmp_path / f"wav2vec2_update{UPDATES}.pt").exists()
    else:
        assert process.returncode == 5 and f"error: {record['reason']}\n" in err, err


def is_worker(entry, folder):
    try:
        command = (entry / "cmdline").read_bytes()
    except OSError:
        return False
    return str(folder).encode() in command and b"common.runtime.launcher" not in command
