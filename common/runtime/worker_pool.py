"""Work spread over processes, its results in the order of the tasks."""

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from wav2vec2.cli.errors import UserError
from wav2vec2.cli.progress import progress
from wav2vec2.cli.workers import end_with_parent

Task = TypeVar("Task")
Result = TypeVar("Result")


def map_in_processes(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    workers: int,
    *,
    flag: str,
    unit: str,
    title: str = "",
) -> Iterator[Result]:
    """Yield `function(task)` for each task, in order, computed by up to `workers` processes.

    With one worker or one task everything runs in this process.  Progress counts tasks in `unit`
    under `title`.  Raises UserError if a process is killed; `flag` is the one that set `workers`.
    An interruption ends the processes at once: what they write must be whole or absent at any time.
    """
    if workers == 1 or len(tasks) < 2:
        yield from progress(map(function, tasks), len(tasks), title, unit)
        return
    # Forks of a server process: it has no threads, whose state a fork would copy, and imports once
    # what this process has imported of these packages.  Its socket's path must fit 107 bytes.
    fits = len(os.fsencode(tempfile.gettempdir())) < 70
    context = multiprocessing.get_context("forkserver" if fits else "spawn")
    imported = [name for name in sys.modules if name.startswith(("common.", "wav2vec2."))]
    context.set_forkserver_preload(imported)
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(min(workers, len(tasks)), context, initializer=_start_worker)
    try:
        yield from progress(pool.map(function, tasks), len(tasks), title, unit)
    except BrokenProcessPool:
        raise UserError(
            f"{flag} {workers}: a worker process was killed, perhaps because memory ran out; "
            "run again with fewer"
        ) from None
    except (KeyboardInterrupt, GeneratorExit):  # nobody waits for the results any more
        for process in multiprocessing.active_children():
            if process not in others:
                process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)  # after an error, nothing more is started


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent answers it
    end_with_parent()
