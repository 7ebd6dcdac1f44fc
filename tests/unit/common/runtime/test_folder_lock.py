"""A folder's lock: kept from a second run, and taken over from one that has ended."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import pytest

from common.runtime import folder_lock
from common.runtime.folder_lock import LOCK_FILE, STALE_SECONDS, FolderLock, Holder
from wav2vec2.cli.errors import UserError


@pytest.fixture
def acquire():
    """Take a folder's lock; it is released after the test."""
    taken = []

    def acquire(folder, **options):
        lock = FolderLock(folder)
        lock.acquire(**options)
        taken.append(lock)
        return lock

    yield acquire
    for lock in taken:
        lock.close()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(folder_lock, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(folder_lock, "WATCH_SECONDS", 0.6)


def leave_lock(folder, age=0.0, **changed):
    """The lock of a run like this process, but for `changed`, last touched `age` seconds ago."""
    holder = replace(Holder.this_process(), **changed)
    path = folder / LOCK_FILE
    path.write_text(json.dumps(asdict(holder)))
    os.utime(path, (time.time() - age, time.time() - age))
    return holder


ELSEWHERE = {"host": "elsewhere", "machine": "another kernel"}


def pid_that_ended():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_lock_is_one_file_and_goes(tmp_path, acquire):
    lock = acquire(tmp_path / "new" / "o")
    assert [path.name for path in lock.folder.iterdir()] == [LOCK_FILE]
    found = json.loads(lock.path.read_text())
    assert (found["pid"], found["host"]) == (os.getpid(), os.uname().nodename)
    lock.close()
    assert list(lock.folder.iterdir()) == []
    acquire(lock.folder)


def test_a_second_run_is_refused_and_told_by_whom(tmp_path, acquire):
    first = acquire(tmp_path)
    second = FolderLock(tmp_path)
    with pytest.raises(UserError) as error:
        second.acquire()
    for part in (f"process {os.getpid()} on {os.uname().nodename}", str(tmp_path), "--force"):
        assert part in str(error.value)
    assert second.refused and not first.refused
    second.close()
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]


@pytest.mark.parametrize(
    ("holder", "age", "reason"),
    [
        ({"pid": "ended"}, 0, "which has ended"),
        ({"started": "1"}, 0, "which has ended"),  # the number is another process' now
        (ELSEWHERE, STALE_SECONDS + 60, "silent for 4 minutes"),
        ({**ELSEWHERE, "job": "77", "attempt": 0}, 1, "of this job before it was started again"),
    ],
)
def test_the_lock_of_a_run_that_ended_is_taken_over(
    tmp_path, acquire, monkeypatch, capsys, holder, age, reason
):
    if holder.get("pid") == "ended":
        holder = {"pid": pid_that_ended()}
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    left = leave_lock(tmp_path, age, **holder)
    lock = acquire(tmp_path)
    line = f"note: --output_dir {tmp_path}: taken over from {left}, {reason}\n"
    assert capsys.readouterr().err == line
    assert json.loads(lock.path.read_text())["pid"] == os.getpid()
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]


@pytest.mark.parametrize(
    ("holder", "age"),
    [
        ({**ELSEWHERE, "job": ""}, STALE_SECONDS - 60),
        ({"host": "elsewhere", "job": "", "pid": 1, "started": "1"}, 5),
        ({**ELSEWHERE, "job": "78"}, 5),
        ({**ELSEWHERE, "job": "77", "attempt": 2001}, 0),
        ({"machine": "another container", "job": ""}, 0),
        ({"pid": os.getppid(), "started": "parent"}, STALE_SECONDS + 60),
    ],
)
def test_a_run_that_may_live_keeps_its_folder(tmp_path, monkeypatch, quick, holder, age):
    """Elsewhere with a recent heartbeat, in another job; here, while its process exists."""
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    if holder.get("started"):
        holder = {**holder, "started": folder_lock._state_and_start(holder["pid"])[1]}
    left = leave_lock(tmp_path, age, **holder)
    path, done = tmp_path / LOCK_FILE, threading.Event()

    def live():
        while not age and not done.wait(0.05):
            os.utime(path)

    thread = threading.Thread(target=live)
    thread.start()
    before = path.read_bytes()
    try:
        with pytest.raises(UserError, match=f"{left.pid} on {left.host} .* writes there"):
            FolderLock(tmp_path).acquire()
    finally:
        done.set()
        thread.join()
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "holder",
    [{"machine": "the kernel before"}, {**ELSEWHERE, "job": "77"}],
    ids=["a machine that started again", "a job that is elsewhere now"],
)
def test_a_predecessor_that_gives_no_sign_of_life_is_taken_over(
    tmp_path, acquire, monkeypatch, quick, capsys, holder
):
    """The machine or container has started again, or another scheduler has queued the job again."""
    monkeypatch.setenv("LSB_JOBID", "77")
    leave_lock(tmp_path, **holder)
    acquire(tmp_path)
    waits, taken = capsys.readouterr().err.splitlines()
    assert "waiting for a sign of life of process" in waits and "silent for 1 s" in taken


def test_force_takes_the_lock_from_any_run(tmp_path, acquire, quick, capsys):
    lost = threading.Event()
    first = FolderLock(tmp_path, lost=lambda error: (errors.append(str(error)), lost.set()))
    errors: list[str] = []
    first.acquire()
    second = acquire(tmp_path, force=True)
    assert "taken over from process" in (err := capsys.readouterr().err) and "by --force" in err
    assert lost.wait(20)
    assert errors[0].startswith(f"--output_dir {tmp_path}: another run has taken the folder")
    first.close()
    assert Holder.parse(second.path.read_text()).token == second._here.token
    second.close()
    leave_lock(tmp_path, **ELSEWHERE)
    acquire(tmp_path, force=True)


def test_the_holder_touches_its_lock_and_makes_it_again(tmp_path, acquire, quick):
    lock = acquire(tmp_path)
    os.utime(lock.path, (0, 0))
    deadline = time.monotonic() + 20
    while lock.path.stat().st_mtime == 0:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    lock.path.unlink()
    while not lock.path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(UserError):
        FolderLock(tmp_path).acquire()


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"pid": 1}', "[" * 100_000, "\ud800"])
def test_a_lock_that_cannot_be_read(tmp_path, acquire, text):
    """It may be half written: another run's for as long as it is new."""
    path = tmp_path / LOCK_FILE
    path.write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(UserError, match="an unknown process writes there"):
        FolderLock(tmp_path).acquire()
    os.utime(path, (0, 0))
    acquire(tmp_path)


def test_values_of_another_type_are_no_lock():
    good = asdict(Holder.this_process())
    assert Holder.parse(json.dumps(good)) == Holder(**good)
    for changed in ({"pid": "1"}, {"attempt": [0]}, {"host": None}, {"started": 7}, {"more": 1}):
        with pytest.raises(ValueError, match="not a lock"):
            Holder.parse(json.dumps(good | changed))


def test_without_hard_links(tmp_path, acquire, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    acquire(tmp_path)
    with pytest.raises(UserError, match=f"process {os.getpid()} on .* writes there"):
        FolderLock(tmp_path).acquire()
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]


def test_many_at_once_make_one_holder(tmp_path):
    """A stale lock and eight processes that want the folder at the same time."""
    leave_lock(tmp_path, pid=pid_that_ended())
    code = (
        "import sys, time; from common.runtime.folder_lock import FolderLock\n"
        "lock = FolderLock(sys.argv[1])\n"
        "sys.stdin.readline()\n"
        "try: lock.acquire()\n"
        "except ValueError: sys.exit(2)\n"
        "print('mine', flush=True); sys.stdin.readline(); lock.close()\n"
    )
    words = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", code, str(tmp_path)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, **words) for _ in range(8)]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    while sum(process.poll() == 2 for process in processes) < 7:
        assert not any(process.poll() not in (None, 2) for process in processes)
        time.sleep(0.02)
    (holder,) = (process for process in processes if process.poll() is None)
    assert Holder.parse((tmp_path / LOCK_FILE).read_text()).pid == holder.pid
    out, _ = holder.communicate("\n", timeout=60)
    assert out == "mine\n" and holder.returncode == 0
    assert list(tmp_path.iterdir()) == []
    for process in processes:
        process.communicate()
