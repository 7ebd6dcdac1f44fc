"""The Slurm jobs against imitations of srun and scontrol: what they queue again, and what not."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.integration.conftest import ROOT

SRUN = """#!/usr/bin/env bash
# One task, in a process group of its own, to which Slurm would send its signals.
shift  # --kill-on-bad-exit=0
exec setsid --wait bash -c 'echo $$ >"$IMITATION/group"; export SLURM_NODEID=0; exec "$@"' task "$@"
"""
SCONTROL = """#!/usr/bin/env bash
case $1 in
    show) echo localhost ;;
    requeue) echo "$2" >"$IMITATION/requeued" ;;
esac
"""


@pytest.fixture
def job(corpus, tmp_path):
    """Start a job script with variables; returns the process."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    started = []

    def start(script, **variables):
        environment = {
            **os.environ,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "PYTHON": sys.executable,
            "OMP_NUM_THREADS": "1",
            "IMITATION": str(tmp_path),
            "SLURM_SUBMIT_DIR": str(ROOT),
            "SLURM_JOB_ID": "77",
            "SLURM_JOB_NUM_NODES": "1",
            "SLURM_JOB_NODELIST": "localhost",
            **{
                "CPU": "true",
                "NUM_WORKERS": "0",
                "DATASET_DIR": str(corpus),
                "OUTPUT_DIR": str(tmp_path / "o"),
                "TRAIN_SUBSET": "train",
                "VALID_SUBSET": "dev",
                "LOG_FREQUENCY": "1",
                "MODEL": "mini",
                "HOURGLASS_CONFIG": "[1,(2,2),1]",
                "MAX_TOKENS": "60000",
                "MAX_SAMPLE_SIZE": "30000",
                "MIN_SAMPLE_SIZE": "8000",
                "NUM_CONCAT_BATCHES": "1",
            },
            **variables,
        }
        process = subprocess.Popen(
            ["bash", str(ROOT / "scripts" / "slurm" / script)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_job_whose_time_is_up_saves_and_queues_itself_again(job, tmp_path, processes):
    process = job("pretrain_base.sbatch", NUM_GPUS=processes, MAX_UPDATE="100000")
    log = tmp_path / "o" / "nvlog.json"
    deadline = time.monotonic() + 120
    while not (log.exists() and '"train_loss"' in log.read_text()):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.2)
    os.killpg(int((tmp_path / "group").read_text()), signal.SIGUSR1)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 4, err
    assert "stopped by SIGUSR1 after update" in err and "Traceback" not in err
    assert "back into the queue" in out
    assert (tmp_path / "requeued").read_text() == "77\n"
    assert list((tmp_path / "o").glob("wav2vec2_update*.pt"))


def test_a_reason_that_would_recur_ends_the_job(job, tmp_path):
    process = job("pretrain_base.sbatch", NUM_GPUS="2", TRAIN_SUBSET="trian")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2 and "trian.tsv: no such file" in err
    assert not (tmp_path / "requeued").exists()
