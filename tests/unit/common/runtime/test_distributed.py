"""Two gloo processes on this machine, started the way torchrun does."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.runtime.distributed import reason_of
from common.runtime.launcher import explain
from wav2vec2.cli.errors import UserError

ROOT = Path(__file__).resolve().parents[4]


def run(tmp_path, body, processes=2, timeout_minutes=1.0, before="", note="len"):
    """Run `body` in each process; returns the launcher's result.  `rank`, `out` are there.

    `before`: what runs before the group is formed.  `note`: what is called with the text of the
    error of a lost process.
    """
    script = tmp_path / "script.py"
    script.write_text(
        "import json, os, pathlib, signal, subprocess, sys, threading, time, torch\n"
        "from common.runtime import distributed\n"
        "from wav2vec2.inference.device import pick_device\n"
        "from wav2vec2.cli.errors import UserError, exit_process, report_error, run_command\n"
        "from common.training.meter import Sums\n"
        f"out = pathlib.Path({str(tmp_path)!r})\n"
        f"{before.strip()}\n"
        "def main():\n"
        "    device = pick_device(cpu=True)\n"
        f"    note = lambda error: {note}(str(error))\n"
        f"    with distributed.process_group(device, {timeout_minutes}, note):\n"
        "        rank = distributed.rank()\n"
        + "".join(f"        {line}\n" for line in body.strip().splitlines())
        + "run_command(main)\n"
    )
    return subprocess.run(
        [sys.executable, "-m", "common.runtime.launcher", "--standalone"]
        + ["--nproc_per_node", str(processes), str(script)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_sums(tmp_path):
    """Gradients across bucket borders, scalars and tensors of a log line."""
    result = run(
        tmp_path,
        """
gradients = [torch.full(shape, float(rank + 1)) for shape in ((3, 2), (5,), (), (4, 1))]
distributed.sum_gradients(gradients, bucket_elements=7)
sums = Sums()
sums.add({"loss": torch.tensor(1.5 + rank), "n": 2})
sums.add({"n": 1, "codes": torch.tensor([[1.0, rank]])})
total = sums.total()
total["codes"] = total["codes"].tolist()
(out / f"{rank}.json").write_text(json.dumps([[g.tolist() for g in gradients], total]))
""",
    )
    assert result.returncode == 0, result.stderr
    gradients, total = json.loads((tmp_path / "0.json").read_text())
    assert [gradients, total] == json.loads((tmp_path / "1.json").read_text())
    assert gradients == [[[3.0, 3.0]] * 3, [3.0] * 5, 3.0, [[3.0]] * 4]
    assert total == {"loss": 4.0, "n": 6.0, "codes": [[2.0, 1.0]]}


def test_one_process_mistake_is_everybodys(tmp_path):
    result = run(
        tmp_path,
        """
def work():
    if rank == 1:
        raise UserError("file 7: is empty")
try:
    distributed.run_on_all_ranks(work)
finally:
    (out / f"left.{rank}").touch()
""",
    )
    assert result.returncode == 2
    assert result.stderr.splitlines() == ["error: file 7: is empty"]
    assert {path.name for path in tmp_path.glob("left.*")} == {"left.0", "left.1"}


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_is_named(tmp_path, killed):
    result = run(
        tmp_path,
        f"""
distributed.sum_over_ranks(torch.ones(1))
if rank == {killed}:
    os.kill(os.getpid(), signal.SIGKILL)
distributed.sum_over_ranks(torch.ones(1))
""",
    )
    assert result.returncode == 5
    assert result.stderr.startswith(
        f"error: process {killed} was killed by SIGKILL: out of memory?"
    )
    assert len(result.stderr.splitlines()) == 1


# Stops the process for a while: its connections stay open, and a signal to end it waits, too.
STOP = """
if rank == {rank}:
    later = f"sleep 15; kill -CONT {{os.getpid()}}"
    subprocess.Popen(["sh", "-c", later], start_new_session=True)
    os.kill(os.getpid(), signal.SIGSTOP)
"""


@pytest.mark.parametrize("hanging", [0, 2])
def test_a_process_that_hangs_is_named(tmp_path, hanging):
    """Process 0 keeps the list of who came, too."""
    result = run(
        tmp_path,
        "distributed.sum_over_ranks(torch.ones(1))"
        + STOP.format(rank=hanging)
        + "distributed.sum_gradients([torch.ones(5), torch.ones(5)], bucket_elements=5)",
        processes=3,
        timeout_minutes=0.05,
    )
    assert result.returncode == 5
    assert re.match(
        rf"error: process \d waited \d+ s for process {hanging} in vain \(Timed out waiting 3000ms",
        result.stderr,
    ), result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_process_stopped_inside_a_collective_is_named(tmp_path):
    """It did come; its silence tells."""
    result = run(
        tmp_path,
        """
distributed.sum_over_ranks(torch.ones(1))
if rank == 1:
    later = f"sleep 0.5; kill -STOP {os.getpid()}; sleep 12; kill -CONT {os.getpid()}"
    subprocess.Popen(["sh", "-c", later], start_new_session=True)
else:
    time.sleep(1.5)
distributed.sum_over_ranks(torch.ones(1))
""",
        timeout_minutes=0.05,
    )
    assert result.returncode == 5
    said = r"error: process 0 waited \d+ s for process 1 in vain \(Timed out"
    assert re.match(said, result.stderr), result.stderr


@pytest.mark.long
def test_who_is_only_busy_when_another_dies_is_not_named(tmp_path):
    result = run(
        tmp_path,
        """
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # training ends after its update, not at once
distributed.sum_over_ranks(torch.ones(1))
if rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
if rank == 2:
    time.sleep(4)
try:
    distributed.sum_over_ranks(torch.ones(1))
except distributed.PeerLost as error:
    (out / f"said.{rank}").write_text(str(error))
    raise
""",
        processes=3,
    )
    assert result.returncode == 5
    assert " for process 1 in vain (" in (tmp_path / "said.0").read_text()


def test_a_wait_that_cannot_be_interrupted_ends_the_process(tmp_path):
    """What watches over NCCL: the process' main thread takes no part."""
    result = run(
        tmp_path,
        """
distributed.sum_over_ranks(torch.ones(1))
def end(error):
    (out / "noted").write_text(str(error))
    report_error(error)
    exit_process(error)
if rank == 0:
    distributed._watchdog.arrive()
    watched = (1.0, end, threading.Event())
    threading.Thread(target=distributed._watchdog.watch, args=watched).start()
time.sleep(60)
""",
    )
    assert result.returncode == 5
    said = "error: process 0 waited 1 s for process 1 in vain (--peer_timeout_minutes); "
    assert result.stderr.startswith(said)
    assert result.stderr == f"error: {(tmp_path / 'noted').read_text()}\n"


# A group of gloo where the code takes a GPU's ways; leaving it would wait for the others, as NCCL
# does while they wait for this process.
AS_A_GPU = """
import types
formed, taken_for = torch.distributed.init_process_group, torch.distributed.get_backend
torch.distributed.init_process_group = lambda backend, **others: formed("gloo", **others)
torch.distributed.get_backend = lambda: "nccl"
torch.distributed.destroy_process_group = lambda: time.sleep(600)
pick_device = lambda cpu: types.SimpleNamespace(type="cuda")
"""


@pytest.mark.parametrize(
    "error, code, said",
    [
        ("UserError('disk full')", 2, "error: disk full"),
        (
            "torch.OutOfMemoryError('CUDA out of memory. Tried')",
            2,
            "error: out of memory (CUDA out",
        ),
        ("ZeroDivisionError('a defect')", 1, "ZeroDivisionError: a defect"),
    ],
)
def test_an_error_of_one_process_on_gpus_ends_all(tmp_path, error, code, said):
    """The others wait for it in a collective."""
    body = f"""
if rank == 1:
    raise {error}
time.sleep(600)
"""
    result = run(tmp_path, body, before=AS_A_GPU)
    assert result.returncode == code, result.stderr
    assert said in result.stderr


@pytest.mark.parametrize("error", ["torch.OutOfMemoryError('x')", "RuntimeError('device assert')"])
def test_a_gpus_own_error_in_a_collective_is_no_lost_peer(tmp_path, error):
    body = f"""
torch.distributed.all_reduce(torch.zeros(1))  # both processes have joined
def fail(tensor):
    raise {error}
torch.distributed.all_reduce = fail
distributed.sum_over_ranks(torch.ones(1))
"""
    result = run(tmp_path, body, before=AS_A_GPU)
    assert result.returncode == 1, result.stderr
    assert error.split("(")[0].split(".")[-1] in result.stderr


SHARDED = """
from common.runtime import sharding
from wav2vec2.config import MINI, Regularisation
from wav2vec2.ctc import Wav2Vec2ForCTC
torch.manual_seed(0)
model = Wav2Vec2ForCTC.from_config(MINI, Regularisation(), 12)
sharding.shard(model, "fp32")
layer = model.wav2vec2.encoder.stack.layers[1].fc1
def die(*_):
    os._exit(0)  # the launcher sees no error and waits for the other process
"""


@pytest.mark.parametrize(
    "death",
    [
        "layer.register_forward_pre_hook(die)",
        "layer.register_full_backward_pre_hook(die)",
        "sharding.gathered = die",
    ],
)
def test_a_process_that_is_lost_inside_a_sharded_model_is_named(tmp_path, death):
    """The collectives inside the model's passes are torch's own."""
    result = run(
        tmp_path,
        f"""{SHARDED}
if rank == 1:
    {death}
model(torch.randn(1, 9000)).logits.sum().backward()
with sharding.gathered(model):
    pass
""",
        note="(out / 'noted').write_text",
    )
    assert result.returncode == 5, result.stderr
    said = result.stderr.splitlines()
    assert len(said) == 1 and re.match(
        r"error: process 0 waited \d+ s for process 1 in vain \(.*; start it again to resume",
        said[0],
    )
    assert (tmp_path / "noted").read_text() == said[0].removeprefix("error: ")


def test_another_runtime_error_is_no_lost_peer(tmp_path):
    result = run(tmp_path, "torch.ones(2) @ torch.ones(3)")
    assert result.returncode == 1 and "RuntimeError" in result.stderr


def test_why_a_collective_failed():
    gloo = RuntimeError("[/a/pair.cc:534] Connection closed by peer [127.0.0.1]:1")
    assert reason_of(gloo) == "Connection closed by peer [127.0.0.1]:1"
    forming = RuntimeError("Gloo connectFullMesh failed with [/gloo/pair.h:311] Connect timeout")
    assert reason_of(forming) == "Connect timeout"
    nccl = RuntimeError(
        "NCCL error in: x.cpp:5, remote process exited or there was a network error\n"
        "ncclRemoteError: A call failed possibly due to a network error.\nLast error:\n"
        "socketProgress: Connection closed by remote peer n1<4711>"
    )
    assert reason_of(nccl) == "socketProgress: Connection closed by remote peer n1<4711>"
    assert reason_of(RuntimeError("")) == "RuntimeError"


def test_a_slow_process_is_waited_for(tmp_path):
    """Nobody stays away from the last reduction, however long ago that was."""
    result = run(
        tmp_path,
        """
distributed.sum_over_ranks(torch.ones(1))
watched = (1.5, exit_process, threading.Event())
threading.Thread(target=distributed._watchdog.watch, args=watched, daemon=True).start()
time.sleep(4)
distributed.sum_over_ranks(torch.ones(1))
""",
    )
    assert result.returncode == 0, result.stderr


def test_nothing_is_left_of_the_group(tmp_path):
    """Python aborts if it ends while a thread is inside the store."""
    result = run(
        tmp_path,
        "distributed.sum_over_ranks(torch.ones(1))",
        before="""
def end_late(attendance, done):
    done.wait()
    time.sleep(0.5)

def check():
    destroy()
    left = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
    assert not left, left

distributed.CollectiveWatchdog.beat, destroy = end_late, torch.distributed.destroy_process_group
torch.distributed.destroy_process_group = check
""",
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("variables", "code", "message"),
    [
        ({"RANK": "0"}, 2, "error: WORLD_SIZE=2: Error initializing torch.distributed"),
        ({"RANK": "2"}, 2, "error: RANK=2: must be from 0 to WORLD_SIZE - 1 = 1"),
        (
            {"RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"},
            5,
            "error: process 0: WORLD_SIZE=2, but fewer joined (Timed out",
        ),
    ],
)
def test_a_world_size_that_nobody_keeps(variables, code, message):
    """WORLD_SIZE from elsewhere, without a launcher."""
    body = """
import torch
from common.runtime import distributed
from wav2vec2.cli.errors import run_command
def main():
    with distributed.process_group(torch.device("cpu"), 0.02):
        pass
run_command(main)
"""
    result = subprocess.run(
        [sys.executable, "-c", body],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == code, result.stderr
    assert result.stderr.splitlines()[-1].startswith(message), result.stderr
    assert "Traceback" not in result.stderr


def test_a_process_that_is_lost_while_the_group_forms(tmp_path):
    """Process 1 has said where it listens and dies before process 0 connects to it."""
    body = f"""
import os, pathlib, signal, threading, time
import torch
from common.runtime import distributed
from wav2vec2.cli.errors import run_command
go, form = pathlib.Path({str(tmp_path)!r}) / "go", torch.distributed.init_process_group
def form_late(*arguments, **options):
    if distributed.is_main():
        while not go.exists():
            time.sleep(0.1)
    else:
        threading.Timer(1, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    form(*arguments, **options)
torch.distributed.init_process_group = form_late
def main():
    with distributed.process_group(torch.device("cpu"), 0.1):
        pass
run_command(main)
"""
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "FATAL"}
    environment |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    first, second = [
        subprocess.Popen(
            [sys.executable, "-c", body],
            cwd=ROOT,
            env=environment | {"RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        second.communicate(timeout=120)
        (tmp_path / "go").touch()
        said = first.communicate(timeout=120)[1]
    finally:
        first.kill()
        second.kill()
    assert (first.returncode, second.returncode) == (5, -signal.SIGKILL), said
    last = said.splitlines()[-1]  # gloo reports its attempts to connect before
    assert last.startswith("error: process 0: WORLD_SIZE=2, but fewer joined ("), said
    assert "Traceback" not in said


def test_processes_of_one_machine_need_no_name_for_it(tmp_path):
    result = run(tmp_path, "(out / f'address.{rank}').write_text(os.environ['MASTER_ADDR'])")
    assert result.returncode == 0, result.stderr
    assert {(tmp_path / f"address.{n}").read_text() for n in (0, 1)} == {"127.0.0.1"}


def machine(*own, script):
    """A launcher, one of two that meet on the loopback."""
    return subprocess.Popen(
        [sys.executable, "-m", "common.runtime.launcher", "--nnodes", "2", *own, str(script)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.mark.long
def test_a_machine_too_many(tmp_path):
    """Two train; the third does not wait for a place among them until they are done."""
    script = tmp_path / "script.py"
    script.write_text("import time\ntime.sleep(60)\n")
    port = free_port()
    meeting = ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"127.0.0.1:{port}"]
    meeting += ["--rdzv_conf", "join_timeout=20"]
    machines = [machine(*meeting, script=script)]
    with socket.socket() as probe:  # the machine where all meet must not be the one too many
        while probe.connect_ex(("127.0.0.1", int(port))):
            assert machines[0].poll() is None
            time.sleep(0.1)
    machines += [machine(*meeting, script=script) for _ in range(2)]
    said = sorted((m.wait(180), m.stderr.read()) for m in machines)
    assert [code for code, _ in said] == [0, 0, 2]
    refusal = said[-1][1].splitlines()[-1]
    assert refusal.startswith("error: the 2 machines did not find each other (is this one too many")


@pytest.mark.long
def test_a_machine_that_is_gone_is_no_mistake(tmp_path):
    """The other one would start again, finds nobody, and leaves that to the scheduler."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, pathlib, time\n"
        "node = os.environ['GROUP_RANK']\n"
        f"(pathlib.Path({str(tmp_path)!r}) / node).write_text(str(os.getpid()))\n"
        "time.sleep(60 if node == '0' else 5)\n"
        "raise SystemExit(1)\n"
    )
    meeting = ["--master_addr", "127.0.0.1", "--master_port", free_port(), "--max_restarts", "1"]
    meeting += ["--rdzv_conf", "timeout=20", "--node_rank"]
    first, second = (machine(*meeting, number, script=script) for number in "01")
    while not (tmp_path / "1").exists() or not (tmp_path / "0").exists():
        assert first.poll() is None and second.poll() is None
        time.sleep(0.1)
    first.kill()
    os.kill(int((tmp_path / "0").read_text()), signal.SIGKILL)
    _, err = second.communicate(timeout=120)
    assert second.returncode == 5, err
    assert err.splitlines()[-1].startswith("error: another machine is gone (")


def test_our_own_bug_keeps_its_traceback(tmp_path):
    result = run(tmp_path, "distributed.gather(0) and {}['bug']")
    assert result.returncode == 1
    assert "KeyError: 'bug'" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: process ")


def test_the_code_that_was_written_down(tmp_path):
    record = tmp_path / "exit.json"
    record.write_text(json.dumps({"code": 3, "reason": "codebook collapsed"}))
    assert explain(record, {}) == ("codebook collapsed", 3)
    killed = SimpleNamespace(exitcode=-9, timestamp=1)
    assert explain(record, {1: killed}) == ("codebook collapsed", 3)  # it had said why
    record.write_text(json.dumps({"code": 5, "reason": "waited in vain"}))
    reason, code = explain(record, {1: killed})
    assert code == 5 and reason.startswith("process 1 was killed by SIGKILL")
    hung = SimpleNamespace(exitcode=-9, timestamp=32)  # killed by torchrun in the end
    left = SimpleNamespace(exitcode=5, timestamp=1)
    assert explain(record, {0: left, 1: hung})[0] == "waited in vain"
    ended = SimpleNamespace(exitcode=-15, timestamp=2)  # by torchrun, because of the first
    assert explain(record, {0: ended})[0] == "waited in vain"


def test_reasons_that_would_recur_are_not_tried_again(tmp_path, monkeypatch):
    from wav2vec2.cli.errors import RECORD_VARIABLE, HealthError, PeerLost, record_exit, run_command

    record, ran = tmp_path / "exit.json", []
    monkeypatch.setenv(RECORD_VARIABLE, str(record))
    for error, code in ((UserError("wrong"), 2), (HealthError("ill"), 3)):
        record.unlink(missing_ok=True)
        record_exit(record, error)
        with pytest.raises(SystemExit) as stop:
            run_command(lambda: ran.append(1))
        assert stop.value.code == code and not ran
    record.unlink()
    record_exit(record, PeerLost("process 1 is gone"))
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: ran.append(1))
    assert stop.value.code == 0 and ran == [1] and not record.exists()
