"""Work spread over processes, its results in the order of the tasks."""

import multiprocessing
import os
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import TypeVar

from common.runtime.signals import interrupts_left_to_parent, note_signal, obey_signals
from wav2vec2.cli.errors import StoppedBySignal, UserError
from wav2vec2.cli.progress import progress
from wav2vec2.cli.workers import end_with_parent

Task = TypeVar("Task")
Result = TypeVar("Result")

LARGEST_SHARE, SHARES = 16, 32
"""Most tasks that are sent to a worker at once, and the fewest parts that make its work."""

AHEAD = 3
"""Parts for each worker that are sent before the first result is taken."""


def map_in_processes(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    workers: int,
    *,
    flag: str,
    unit: str,
    title: str = "",
    total: int | None = None,
) -> Iterator[Result]:
    """Yield `function(task)` for each task, in order, computed by up to `workers` processes.

    With one worker or one task everything runs in this process.  Progress counts tasks in `unit`
    under `title`.  Raises UserError if a process is killed; `flag` is the one that set `workers`.
    Signals are obeyed between tasks and where a task calls `obey_signals`.
    Tasks are taken as they are needed; `total`: how many there are, unless they have a length.
    """
    total = len(tasks) if total is None else total  # type: ignore[arg-type]
    if workers == 1 or total < 2:
        yield from progress(_one_by_one(function, tasks), total, title, unit)
        return
    # Forks of a server process: it has no threads, whose state a fork would copy, and imports once
    # what this process has imported of these packages.  Its socket's path must fit 107 bytes.
    fits = len(os.fsencode(tempfile.gettempdir())) < 70
    context = multiprocessing.get_context("forkserver" if fits else "spawn")
    imported = [name for name in sys.modules if name.startswith(("common.", "wav2vec2."))]
    context.set_forkserver_preload(imported)
    workers = min(workers, total)
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker)
    size = max(1, min(LARGEST_SHARE, total // (workers * SHARES)))
    try:
        yield from progress(_in_shares(pool, function, tasks, size, workers), total, title, unit)
    except (KeyboardInterrupt, StoppedBySignal, GeneratorExit):  # not wait for what has begun
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise
    except BrokenProcessPool:
        raise UserError(
            f"{flag} {workers}: a worker process was killed, perhaps because memory ran out; "
            "run again with fewer"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)  # after an error, nothing more is started


def _one_by_one(function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
    for task in tasks:
        obey_signals()
        yield function(task)


def _in_shares(
    pool: ProcessPoolExecutor,
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    size: int,
    workers: int,
) -> Iterator[Result]:
    """The results of tasks that are sent `size` at a time, few of them before they are needed."""
    tasks = iter(tasks)
    begun: deque[Future[list[Result]]] = deque()
    while share := list(islice(tasks, size)):
        with interrupts_left_to_parent():  # the first call starts the processes
            begun.append(pool.submit(_run_share, function, share))
        if len(begun) == AHEAD * workers:
            yield from _await(begun.popleft())
    while begun:
        yield from _await(begun.popleft())


def _await(future: Future[list[Result]]) -> list[Result]:
    """Its result; meanwhile, signals are obeyed."""
    while not future.done():
        obey_signals()
        wait([future], timeout=0.1)
    obey_signals()
    return future.result()


_running = _ending = False


def _run_share(function: Callable[[Task], Result], share: list[Task]) -> list[Result]:
    global _running
    _running = True
    try:
        return [function(task) for task in share]
    finally:
        _running = False
        if _ending:
            os._exit(1)


def _terminate(number: int, _: object) -> None:
    """End the process, from within a task where that obeys signals and removes its files."""
    global _ending
    _ending = True
    if not _running:
        os._exit(1)
    note_signal(number)


def _start_worker() -> None:
    # As `interrupts_left_to_parent`, and for the programs that a task starts.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, _terminate)
    end_with_parent()
