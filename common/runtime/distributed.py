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

LIST_SECONDS = 5
"""How long a process may take to read the list of who came, and process 0 keeps it for that."""

SIGN_SECONDS, SILENT_SECONDS = 0.5, 2.0
"""Between two signs of life of a process; without one for how long it is not there any more."""

GAVE_UP = "gave up"
"""The last sign of a process that ends because it waited in vain."""


def world_size() -> int:
    """Processes of the run, as torchrun says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process' number among them."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this process writes the logs and checkpoints."""
    return rank() == 0


class Attendance:
    """To which collective each process has come, so that a wait in vain can name the others.

    The list is kept in the store through which the group was formed, which process 0 holds.  A
    process that is stopped inside a collective did come to it: signs of life tell that it is gone.
    """

    def __init__(self, store: dist.Store, limit: float):
        """`limit`: seconds that a process waits for the others."""
        # A store may outlive a restart.
        self._store = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
        self._limit = limit
        self._count = 0  # collectives this process has come to
        self._since = time.monotonic()  # when it came to the last of them
        self._gave_up = False

    def _key(self, process: int) -> str:
        return f"arrived/{process}"

    def _sign(self, process: int) -> str:
        return f"alive/{process}"

    def arrive(self) -> None:
        """This process comes to its next collective.  Takes microseconds: nobody answers."""
        self._since = time.monotonic()
        self._count += 1
        self._store.set(self._key(rank()), str(self._count))

    def give_signs(self, done: Event) -> None:
        """Until `done`: a sign of life every SIGN_SECONDS."""
        sign = 0
        with suppress(RuntimeError):  # process 0 has left, and the list with it
            while not done.wait(SIGN_SECONDS) and not self._gave_up:
                sign += 1
                self._store.set(self._sign(rank()), str(sign))

    def waited(self) -> float:
        """Seconds since this process came to its last collective."""
        return time.monotonic() - self._since

    def _read(self, key: Callable[[int], str], default: str) -> list[str]:
        """What the list has of each process."""
        keys = map(key, range(world_size()))
        return [self._store.get(k).decode() if self._store.check([k]) else default for k in keys]

    def _behind(self) -> list[int]:
        counts = self._read(self._key, "0")
        return [process for process, count in enumerate(counts) if int(count) < self._count]

    def _ask(self, question: Callable[[], Result], otherwise: Result) -> Result:
        """What `question` finds in the list; `otherwise`, if process 0 does not show it."""
        answers: list[Result] = []

        def ask() -> None:
            with suppress(RuntimeError):  # the connection is closed
                answers.append(question())

        # A process that was stopped leaves its connections open, and a read would wait for ever.
        reader = Thread(target=ask, daemon=True)
        reader.start()
        reader.join(LIST_SECONDS + SILENT_SECONDS)
        return answers[0] if answers else otherwise

    def absent(self) -> list[int]:
        """The processes that have not come to this one's collective; 0 if its list is gone."""
        return self._ask(self._behind, [0])

    def explain(self, why: str) -> PeerLost:
        """The error of a collective that failed for the reason `why`.

        Names who gives no sign of life.  Who is behind is named, too, if the time was up, here or
        in another process, which breaks connections everywhere; otherwise a process broke them
        by its end, and the others behind are only busy.
        """
        seconds = self.waited()
        late = seconds > 0.9 * self._limit

        def look() -> tuple[list[int], str]:
            self._gave_up = True
            time.sleep(SIGN_SECONDS / 10)  # a sign may be on its way
            self._store.set(self._sign(rank()), GAVE_UP)
            if late:
                self._store.set("time is up", why)
            before = self._read(self._sign, "")
            time.sleep(SILENT_SECONDS)
            after = self._read(self._sign, "")
            lost = {n for n, sign in enumerate(after) if sign == before[n] != GAVE_UP}
            if not self._store.check(["time is up"]):
                return sorted(lost), why
            lost |= {n for n in self._behind() if after[n] != GAVE_UP}
            return sorted(lost), self._store.get("time is up").decode()

        return self.lost(seconds, *self._ask(look, ([0], why)))

    def lost(self, seconds: float, absent: list[int], why: str) -> PeerLost:
        """The error of a wait for `absent`, or for nobody knows whom, that `why` ended."""
        plural = "es" if len(absent) > 1 else ""
        names = f"process{plural} {', '.join(map(str, absent))}" if absent else "the others"
        return PeerLost(
            f"process {rank()} waited {seconds:.0f} s for {names} in vain ({why}); "
            "started again, the run goes on from its last checkpoint"
        )

    def watch(self, limit: float, end: Callable[[PeerLost], None], done: Event) -> None:
        """Until `done`: when others are more than `limit` seconds late, `end` with the error."""
        while not done.wait(min(1.0, limit / 10)):
            if (seconds := self.waited()) > limit and (absent := self.absent()):
                end(self.lost(seconds, absent, "--peer_timeout_minutes"))
                return


_attendance: Attendance | None = None  # while there is a process group


@contextmanager
def process_group(
    device: torch.device,
    timeout_minutes: float = 30,
    note: Callable[[PeerLost], None] = lambda error: None,
) -> Iterator[None]:
    """Join the group torchrun describes, if it does; leave it at the end.

    Who waits for another process for more than `timeout_minutes` raises PeerLost, and the process
    ends on leaving; but a wait for a GPU cannot be interrupted: there, `note` is called with the
    error and the process ends at once.  On GPUs any other error ends it on leaving, too.
    """
    global _attendance
    if world_size() == 1:
        yield
        return
    limit, gpu = timedelta(minutes=timeout_minutes), device.type == "cuda"
    if not 0 <= rank() < world_size():
        raise UserError(f"RANK={rank()}: must be from 0 to WORLD_SIZE - 1 = {world_size() - 1}")
    try:
        store, *_ = next(dist.rendezvous("env://", timeout=limit))
        # NCCL's own time-out would abort the process without a word on who did not come.
        backend, own_limit = ("nccl", 2 * limit) if gpu else ("gloo", limit)
        dist.init_process_group(
            backend, store=store, rank=rank(), world_size=world_size(), timeout=own_limit
        )
    except ValueError as error:
        raise UserError(
            f"WORLD_SIZE={world_size()}: {one_line(error)}; start several processes with "
            "`python -m common.runtime.launcher`, or unset WORLD_SIZE for a single one"
        ) from None
    except dist.DistError as error:
        why = one_line(error).split(" Exception raised from ")[0]
        raise PeerLost(
            f"process {rank()}: WORLD_SIZE={world_size()}, but not so many came ({why}); start "
            "all of them again, or unset WORLD_SIZE for a single one"
        ) from None
    _attendance, done = Attendance(store, limit.total_seconds()), Event()

    def end(error: PeerLost) -> None:
        note(error)
        report_error(error)
        _keep_list()
        exit_process(error)

    threads = [Thread(target=_attendance.give_signs, args=(done,), daemon=True)]
    if gpu:
        watched = limit.total_seconds(), end, done
        threads.append(Thread(target=_attendance.watch, args=watched, daemon=True))
    for thread in threads:
        thread.start()
    try:
        with out_of_memory_as_user_error():
            yield
    except PeerLost as error:
        report_error(error)
        if not gpu:
            dist.destroy_process_group()  # who waits for this process need not any longer
        _keep_list()
        exit_process(error)  # Python would stumble over a thread that still reads the list
    except (Exception, KeyboardInterrupt) as error:
        if gpu:
            # NCCL would wait, in leaving the group, for those who wait for this process.
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
        _attendance = None
        dist.destroy_process_group()


def _keep_list() -> None:
    """Process 0 ends last: with it goes the list in which the others look who is lost."""
    if rank() == 0:
        time.sleep(LIST_SECONDS)


@contextmanager
def _with_peers() -> Iterator[None]:
    """Around a collective: it fails when another process is gone or does not come."""
    assert _attendance, "a collective outside process_group"
    try:
        _attendance.arrive()
        yield
    except RuntimeError as error:
        # NCCL's errors have a type; gloo's have none, but what else a GPU may say does.
        if out_of_memory(error) or (
            dist.get_backend() == "nccl" and not isinstance(error, dist.DistError)
        ):
            raise
        raise _attendance.explain(reason_of(error)) from error


def reason_of(error: RuntimeError) -> str:
    """Why a collective failed, in a line."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    if "Last error:" in lines[:-1]:  # NCCL's own words, after torch's
        return lines[lines.index("Last error:") + 1].strip()[:150]
    return re.sub(r"^\[\S+\] ", "", lines[0])[:150] if lines else type(error).__name__


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
