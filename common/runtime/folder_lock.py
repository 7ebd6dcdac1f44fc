"""One run per output folder: a lock file names the process that writes there.

The lock is made by a hard link, which only one process can make, on network file systems too.  Its
holder touches it every BEAT_SECONDS.  A lock whose holder has ended is taken over: on the same
machine the process is looked up; on another one the lock must be untouched for STALE_SECONDS.  A
job that was started again elsewhere watches the lock of its predecessor for WATCH_SECONDS.
"""

import json
import os
import socket
import time
import typing
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event, Thread

from wav2vec2.cli.console import notice
from wav2vec2.cli.errors import UserError, exit_process, report_error
from wav2vec2.files.output import prepare_folder

LOCK_FILE = "run.lock"
"""File in the output folder that names the run's main process."""

BEAT_SECONDS, WATCH_SECONDS, STALE_SECONDS = 15.0, 60.0, 180.0
"""Between two heartbeats, and without one for how long a process elsewhere counts as ended: if it
seems to be the predecessor, and otherwise."""

JOBS = ("SLURM_JOB_ID", "LSB_JOBID", "PBS_JOBID", "RDZV_ENDPOINT")
"""Environment variables that stay the same when a job is started again."""

ATTEMPTS = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")
"""Environment variables that count how often."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock, in plain types."""

    host: str
    pid: int
    started: str
    """When the process began, in the kernel's ticks: a later process may have the same number."""
    machine: str
    """Where the process number counts: the start of a machine's kernel, and a container on it."""
    job: str
    """The values of JOBS, '' if there are none."""
    attempt: int
    """How often the scheduler (thousands) and torchrun (ones) have started the job again."""
    since: str
    token: str
    """Unlike that of any other lock."""

    @classmethod
    def this_process(cls) -> "Holder":
        """This process, with a new token."""
        pid = os.getpid()
        requeues, restarts = (int(os.environ.get(name) or 0) for name in ATTEMPTS)
        return cls(
            host=socket.gethostname(),
            pid=pid,
            started=_state_and_start(pid)[1],
            machine=_process_table(),
            job=" ".join(os.environ[name] for name in JOBS if os.environ.get(name)),
            attempt=1000 * requeues + restarts,
            since=time.strftime("%Y-%m-%d %H:%M:%S"),
            token=uuid.uuid4().hex,
        )

    @classmethod
    def parse(cls, text: str) -> "Holder":
        """The process that the text of a lock names; ValueError if it names none."""
        try:
            found = json.loads(text)
        except RecursionError:
            found = None
        kinds = typing.get_type_hints(cls)
        if not isinstance(found, dict) or {k: type(v) for k, v in found.items()} != kinds:
            raise ValueError("not a lock")
        return cls(**found)

    def ended(self, here: "Holder", age: float) -> str:
        """How the process `here` knows that this one has ended; '' if it may be alive.

        `age`: seconds since the last heartbeat.
        """
        if self.job and self.job == here.job and self.attempt < here.attempt:
            return "of this job before it was started again"
        if (self.host, self.machine) == (here.host, here.machine):
            return "" if self._runs() else "which has ended"
        return f"silent for {age / 60:.0f} minutes" if age > STALE_SECONDS else ""

    def may_precede(self, here: "Holder") -> bool:
        """Whether this may be the run that `here` continues, in a machine or container that has
        started again, or as a job that is on another machine now."""
        if self.host == here.host:
            return self.machine != here.machine
        return self.job != "" and self.job == here.job

    def _runs(self) -> bool:
        """Whether the process exists on this machine."""
        state, started = _state_and_start(self.pid)
        if started:
            ended = state in "ZX"  # only its parent has not asked yet
            return not ended and started == self.started
        try:
            os.kill(self.pid, 0)  # asks only; a system without /proc, or one that hides others'
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} (since {self.since})"


def _process_table() -> str:
    """Holder.machine of this process; without Linux' /proc, the name of the machine."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def _state_and_start(pid: int) -> tuple[str, str]:
    """A process' state and start (fields 3 and 22 of proc(5)'s stat); '' if they are unknown."""
    with suppress(OSError, IndexError):
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        fields = text.rpartition(")")[2].split()  # field 2 is a name that may hold anything
        return fields[0], fields[19]
    return "", ""


def exit_reporting(error: UserError) -> None:
    """End this process at once with the error's line and code."""
    report_error(error)
    exit_process(error)


class FolderLock:
    """The lock of an output folder, for a run's main process."""

    def __init__(self, folder: str | Path, lost: Callable[[UserError], None] = exit_reporting):
        """`lost`: called, in another thread, if another run has taken the lock over."""
        self.folder = Path(folder)
        self.path = self.folder / LOCK_FILE
        self.refused = False
        """Whether another run holds the lock."""
        self._lost = lost
        self._here = Holder.this_process()
        self._own = self.folder / f".{LOCK_FILE}.{self._here.token}.tmp"
        self._done = Event()
        self._beats: Thread | None = None

    def acquire(self, *, force: bool = False) -> None:
        """Create the folder if need be, take its lock, and keep it until `close`.

        `force`: also from a run that may be alive.  Prints from whom the lock is taken over.
        UserError if the folder cannot be written or another run holds the lock.
        """
        prepare_folder("--output_dir", self.folder)
        try:
            while not self._create():
                found = self._find()
                if found is None:  # released just now
                    continue
                holder, age = found
                ended = "by --force" if force else self._ended(holder, age)
                name = str(holder or "an unknown process")
                if not ended:
                    if (self._find() or [None])[0] != holder:  # another one's by now, or released
                        continue
                    self.refused = True
                    raise UserError(
                        f"--output_dir {self.folder}: {name} writes there, its last sign of life "
                        f"{max(age, 0):.0f} s ago ({self.path}); choose another OUTPUT_DIR, or "
                        "stop that run; if it has ended, pass --force"
                    )
                if self._remove(holder):
                    notice(f"note: --output_dir {self.folder}: taken over from {name}, {ended}")
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}); choose another OUTPUT_DIR"
            ) from None
        finally:
            self._own.unlink(missing_ok=True)
        self._beats = Thread(target=self._beat, daemon=True)
        self._beats.start()

    def close(self) -> None:
        """Release the lock if this process holds it."""
        self._done.set()
        if self._beats is None:
            return
        self._beats.join(BEAT_SECONDS)
        with suppress(OSError):
            if self._is_ours():
                self.path.unlink()

    def _ended(self, holder: Holder | None, age: float) -> str:
        """How this process knows that `holder` has ended; '' if it may be alive."""
        if holder is None:
            return "which has ended" if age > STALE_SECONDS else ""
        reason = holder.ended(self._here, age)
        if reason or not holder.may_precede(self._here):
            return reason
        notice(f"note: --output_dir {self.folder}: waiting for a sign of life of {holder}")
        while age < WATCH_SECONDS:
            time.sleep(WATCH_SECONDS / 60)
            found = self._find()
            if found is None or found[0] != holder or found[1] < age:  # a heartbeat
                return ""
            age = found[1]
        return f"silent for {age:.0f} s"

    def _create(self) -> bool:
        """Make the lock, with this process in it; False if there is one."""
        text = json.dumps(asdict(self._here))
        self._own.write_text(text, encoding="utf-8")
        try:
            os.link(self._own, self.path)
        except FileExistsError:
            # The server made the link, but its answer was lost and the request repeated.
            return self._own.stat().st_nlink > 1
        except OSError:  # a file system without hard links
            try:
                with open(self.path, "x", encoding="utf-8") as file:
                    file.write(text)
            except FileExistsError:
                return False
        return True

    def _find(self) -> tuple[Holder | None, float] | None:
        """The lock's holder, None if it is illegible, and the seconds since its heartbeat.

        None if there is no lock.
        """
        try:
            with open(self.path, encoding="utf-8") as file:  # opening asks a server for new times
                text, beat = file.read(), os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            text, beat = "", self.path.stat().st_mtime
        os.utime(self._own)  # by the clock of the file's server, as the heartbeats are
        age = self._own.stat().st_mtime - beat
        try:
            return Holder.parse(text), age
        except ValueError:
            return None, age

    def _remove(self, holder: Holder | None) -> bool:
        """Remove the lock of `holder`; False if it was another's by then, which stays."""
        moved = self._own.with_suffix(".old")
        try:
            os.rename(self.path, moved)
        except FileNotFoundError:
            return False
        try:
            found = Holder.parse(moved.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        same = found == holder
        if not same:
            with suppress(OSError):
                os.link(moved, self.path)
        moved.unlink(missing_ok=True)
        return same

    def _is_ours(self) -> bool:
        return Holder.parse(self.path.read_text(encoding="utf-8")) == self._here

    def _beat(self) -> None:
        """Until `close`: touch the lock, or notice that it is another's."""
        while not self._done.wait(BEAT_SECONDS):
            try:
                if self._is_ours():
                    os.utime(self.path)
                    continue
            except FileNotFoundError:  # removed by hand
                with suppress(OSError):
                    self._create()
                self._own.unlink(missing_ok=True)
                continue
            except OSError:  # the server does not answer at the moment
                continue
            except ValueError:
                pass  # written over, or being written by another run
            self._done.set()
            error = f"--output_dir {self.folder}: another run has taken the folder ({self.path})"
            self._lost(UserError(f"{error}; start this one again with another OUTPUT_DIR"))
