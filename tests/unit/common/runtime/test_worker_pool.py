import os
import subprocess
import sys

import pytest

from common.runtime.worker_pool import map_in_processes
from wav2vec2.cli.errors import UserError


def square_or_die(number):
    if number < 0:
        os._exit(1)
    return number**2


@pytest.mark.parametrize("workers", [1, 2])
def test_results_are_in_the_order_of_the_tasks(workers):
    results = map_in_processes(square_or_die, range(5), workers, flag="--workers", unit="number")
    assert list(results) == [0, 1, 4, 9, 16]


def test_tasks_are_taken_as_they_are_needed():
    taken = []

    def tasks():
        for number in range(500):
            taken.append(number)
            yield number

    words = {"flag": "--workers", "unit": "number", "total": 500}
    results = map_in_processes(square_or_die, tasks(), 2, **words)
    assert next(results) == 0 and len(taken) < 100
    assert [*results] == [number**2 for number in range(1, 500)]


def test_a_killed_process_is_a_user_error():
    results = map_in_processes(square_or_die, [1, -1, 2], 2, flag="--workers", unit="number")
    with pytest.raises(UserError, match="--workers 2: a worker process was killed"):
        list(results)


@pytest.mark.parametrize("length", [40, 150])
def test_any_length_of_tmpdir(tmp_path, length):
    """The socket of the process that starts the workers lies there."""
    folder = tmp_path / ("x" * length)
    folder.mkdir()
    code = (
        "from common.runtime.worker_pool import map_in_processes\n"
        "print(*map_in_processes(abs, [-1, -2], 2, flag='--workers', unit='number'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("1 2\n", "")
