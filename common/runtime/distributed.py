"""The process group, reductions, and rank-zero helpers.  One process needs no set-up."""

import os
import re
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from threading import Event, Thread
from typing import TypeVar

import torch
import torch.distributed as dist

from wav2vec2.cli.errors import (
    REASONS,
    PeerLost,
    UserError,
    exit_process,
    one_line,
    out_of_memory,
    out_of_memory_as_user_error,
    report_error,
)

Result = TypeVar("Result")

STORE_SECONDS = 5
"""How long a read of the store may take, and process 0 keeps the store before it ends."""

HEARTBEAT_SECONDS, SILENT_SECONDS = 0.5, 2.0
"""Between two heartbeats of a process, and without one for how long it counts as gone."""

GAVE_UP = "gave up"
"""The last heartbeat of a process that ends because it waited in vain."""

PLACE = r"(Gloo \w+ failed with )?\[\S+\] "
"""What an error of gloo begins with: the place in its source."""


def world_size() -> int:
    """Processes of the run, as torchrun says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process' number among them."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this process writes the logs and checkpoints."""
    return rank() == 0


class CollectiveWatchdog:
    """Knows which collective each process has reached, so that a wait in vain can name the others.

    The counts are kept in the store through which the group was formed, which process 0 holds.  A
    process that is stopped inside a collective did reach it: heartbeats show that it is gone.
    """

    def __init__(self, store: dist.Store, limit: float):
        """`limit`: seconds that a process waits for the others."""
        # A store may outlive a restart.
        self._store = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
        self._limit = limit
        self._count = 0  # collectives this process has reached
        self._since = time.monotonic()  # when it reached the last of them
        self._gave_up = False

    def arrive(self) -> None:
        """This process reaches its next collective.  Takes microseconds: nobody answers."""
        self._since = time.monotonic()
        self._count += 1
        self._store.set(f"arrived/{rank()}", str(self._count))

    def beat(self, done: Event) -> None:
        """Until `done`: a heartbeat every HEARTBEAT_SECONDS."""
        number = 0
        with suppress(RuntimeError):  # process 0 has left, and the store with it
            while not done.wait(HEARTBEAT_SECONDS) and not self._gave_up:
                number += 1
                self._store.set(f"alive/{rank()}", str(number))

    def waited(self) -> float:
        """Seconds since this process reached its last collective."""
        return time.monotonic() - self._since

    def _read(self, name: str, default: str) -> list[str]:
        """Each process' entry in the store."""
        keys = [f"{name}/{process}" for process in range(world_size())]
        return [self._store.get(k).decode() if self._store.check([k]) else default for k in keys]

    def _behind(self) -> list[int]:
        counts = self._read("arrived", "0")
        return [process for process, count in enumerate(counts) if int(count) < self._count]

    def _ask(self, question: Callable[[], Result], default: Result) -> Result:
        """What `question` finds in the store; `default` if process 0 does not answer."""
        answers: list[Result] = []

        def ask() -> None:
            with suppress(RuntimeError):  # the connection is closed
                answers.append(question())

        # A process that was stopped leaves its connections open, and a read would wait for ever.
        reader = Thread(target=ask, daemon=True)
        reader.start()
        reader.join(STORE_SECONDS + SILENT_SECONDS)
        return answers[0] if answers else default

    def absent(self) -> list[int]:
        """The processes that have not reached this one's collective; 0 if its store is gone."""
        return self._ask(self._behind, [0])

    def explain(self, why: str) -> PeerLost:
        """The error of a collective that failed for the reason `why`.

        Names the processes without a heartbeat.  Those that are behind are named, too, if the time
        was up, here or in another process, which breaks connections everywhere; otherwise a
        process broke them by its end, and the others behind are only busy.
        """
        seconds = self.waited()
        late = seconds > 0.9 * self._limit

        def look() -> tuple[list[int], str]:
            self._gave_up = True
            time.sleep(HEARTBEAT_SECONDS / 10)  # a heartbeat may be on its way
            self._store.set(f"alive/{rank()}", GAVE_UP)
            if late:
                self._store.set("time is up", why)
            before = self._read("alive", "")
            time.sleep(SILENT_SECONDS)
            after = self._read("alive", "")
            lost = {n for n, beat in enumerate(after) if beat == before[n] != GAVE_UP}
            if not self._store.check(["time is up"]):
                return sorted(lost), why
            lost |= {n for n in self._behind() if after[n] != GAVE_UP}
            return sorted(lost), self._store.get("time is up").decode()

        return self.lost(seconds, *self._ask(look, ([0], why)))

    def lost(self, seconds: float, absent: list[int], why: str) -> PeerLost:
        """The error of a wait for the processes `absent` (none: unknown) that `why` ended."""
        plural = "es" if len(absent) > 1 else ""
        names = f"process{plural} {', '.join(map(str, absent))}" if absent else "the others"
        return PeerLost(
            f"process {rank()} waited {seconds:.0f} s for {names} in vain ({why}); start it again "
            "to resume from the last checkpoint"
        )

    def watch(self, limit: float, end: Callable[[PeerLost], None], done: Event) -> None:
        """Until `done`: when others are more than `limit` seconds late, `end` with the error."""
        while not done.wait(min(1.0, limit / 10)):
            if (seconds := self.waited()) > limit and (absent := self.absent()):
                end(self.lost(seconds, absent, "--peer_timeout_minutes"))
                return


_watchdog: CollectiveWatchdog | None = None  # while there is a process group


@contextmanager
def process_group(
    device: torch.device,
    timeout_minutes: float = 30,
    note: Callable[[PeerLost], None] = lambda error: None,
) -> Iterator[None]:
    """Join the process group that torchrun describes, if any; leave it at the end.

    A process that waits for another for more than `timeout_minutes` raises PeerLost and ends on
    leaving, after `note` was called with the error.  A wait for a GPU cannot be interrupted: there
    the process ends at once.  On GPUs any other error ends it on leaving, too.
    """
    global _watchdog
    if world_size() == 1:
        yield
        return
    limit, gpu = timedelta(minutes=timeout_minutes), device.type == "cuda"
    if not 0 <= rank() < world_size():
        raise UserError(f"RANK={rank()}: must be from 0 to WORLD_SIZE - 1 = {world_size() - 1}")
    try:
        store, *_ = next(dist.rendezvous("env://", timeout=limit))
        # NCCL's own time-out would abort the process without naming who is missing.
        backend, own_limit = ("nccl", 2 * limit) if gpu else ("gloo", limit)
        dist.init_process_group(
            backend, store=store, rank=rank(), world_size=world_size(), timeout=own_limit
        )
    except ValueError as error:
        raise UserError(
            f"WORLD_SIZE={world_size()}: {one_line(error)}; start several processes with "
            "`python -m common.runtime.launcher`, or unset WORLD_SIZE for a single one"
        ) from None
    except RuntimeError as error:
        if not _of_a_peer(error):
            raise
        raise PeerLost(
            f"process {rank()}: WORLD_SIZE={world_size()}, but fewer joined "
            f"({reason_of(error)}); start all of them again, or unset WORLD_SIZE for a single one"
        ) from None
    _watchdog, done = CollectiveWatchdog(store, limit.total_seconds()), Event()

    def end(error: PeerLost) -> None:
        note(error)
        report_error(error)
        _keep_store()
        exit_process(error)

    threads = [Thread(target=_watchdog.beat, args=(done,), daemon=True)]
    if gpu:
        watched = limit.total_seconds(), end, done
        threads.append(Thread(target=_watchdog.watch, args=watched, daemon=True))
    for thread in threads:
        thread.start()
    try:
        with out_of_memory_as_user_error(), _others_named():
            yield
    except PeerLost as error:
        note(error)
        report_error(error)
        if not gpu:
            dist.destroy_process_group()  # ends the wait of others for this process
        _keep_store()
        exit_process(error)  # a thread may still read the store
    except (Exception, KeyboardInterrupt) as error:
        if gpu:
            # On leaving, NCCL would wait for those who wait for this process.
            if isinstance(error, REASONS):
                report_error(error)
            else:
                traceback.print_exc()
            exit_process(error)
        raise
    finally:
        done.set()
        # Python aborts if it ends while a thread is inside the store.
        for thread in threads:
            thread.join(SILENT_SECONDS)
        _watchdog = None
        dist.destroy_process_group()


def _keep_store() -> None:
    """Process 0 ends last: it holds the store in which the others look who is lost."""
    if rank() == 0:
        time.sleep(STORE_SECONDS)


@contextmanager
def _with_peers() -> Iterator[None]:
    """Around a collective: PeerLost when another process is gone or does not come."""
    assert _watchdog, "a collective outside process_group"
    try:
        _watchdog.arrive()
        yield
    except RuntimeError as error:
        # NCCL's errors have a type of their own; gloo's do not.
        if out_of_memory(error) or (
            dist.get_backend() == "nccl" and not isinstance(error, dist.DistError)
        ):
            raise
        raise _watchdog.explain(reason_of(error)) from error


def _of_a_peer(error: RuntimeError) -> bool:
    """Whether it comes from torch's communication."""
    place = re.match(PLACE, str(error))
    return isinstance(error, dist.DistError) or bool(place and "gloo" in place[0])


@contextmanager
def _others_named() -> Iterator[None]:
    """PeerLost for a failure of torch's own collectives, such as those inside a sharded model."""
    assert _watchdog
    try:
        yield
    except RuntimeError as error:
        if not _of_a_peer(error):
            raise
        raise _watchdog.explain(reason_of(error)) from error


def reason_of(error: RuntimeError) -> str:
    """Why a collective failed, in one line."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    if "Last error:" in lines[:-1]:  # NCCL's own words, after torch's
        return lines[lines.index("Last error:") + 1].strip()[:150]
    return re.sub(f"^{PLACE}", "", lines[0])[:150] if lines else type(error).__name__


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """Sum `tensor` over all processes, in place."""
    if dist.is_initialized():
        with _with_peers():
            dist.all_reduce(tensor)
    return tensor


def gather(value: object) -> list:
    """Each process' `value` (plain types), in the order of ranks."""
    if not dist.is_initialized():
        return [value]
    values: list = [None] * world_size()
    with _with_peers():
        dist.all_gather_object(values, value)
    return values


def raise_on_all_ranks(error: UserError | None) -> None:
    """If any process met an error, raise the first one's in all of them.

    Every process calls this at the same place, so that none waits for another that has given up.
    """
    messages = [message for message in gather(str(error) if error else None) if message]
    if messages:
        raise UserError(messages[0]) from error


def run_on_all_ranks(function: Callable[[], Result]) -> Result:
    """`function()`; a UserError that any process meets in it is raised in all of them.

    `function` must not communicate after the point at which it may fail in one process alone.
    """
    result, error = None, None
    try:
        with out_of_memory_as_user_error():
            result = function()
    except UserError as failure:
        error = failure
    raise_on_all_ranks(error)
    return result


def sum_gradients(gradients: list[torch.Tensor], bucket_elements: int = 16_000_000) -> None:
    """Sum each gradient over all processes, in place, in buckets of `bucket_elements`."""
    if not dist.is_initialized():
        return
    bucket: list[torch.Tensor] = []
    size = 0
    for position, gradient in enumerate(gradients):
        bucket.append(gradient)
        size += gradient.numel()
        if size >= bucket_elements or position == len(gradients) - 1:
            flat = torch.cat([g.reshape(-1) for g in bucket])
            sum_over_ranks(flat)
            pieces = flat.split([g.numel() for g in bucket])
            torch._foreach_copy_(bucket, [p.view_as(g) for p, g in zip(pieces, bucket)])
            bucket, size = [], 0
