import os

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


def test_a_killed_process_is_a_user_error():
    results = map_in_processes(square_or_die, [1, -1, 2], 2, flag="--workers", unit="number")
    with pytest.raises(UserError, match="--workers 2: a worker process was killed"):
        list(results)
