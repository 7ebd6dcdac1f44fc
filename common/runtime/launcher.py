"""torchrun that ends with the exit codes of wav2vec2/cli/errors.py and one line of explanation.

`python -m common.runtime.launcher [torchrun's options] train.py pretrain ...`

A worker that ends for a documented reason writes it to a file instead of standard error; this
process prints it once for all of them.  Reasons that would recur are never restarted: a worker
that finds one in the file ends at once for the same reason.
"""

import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from argparse import Namespace
from pathlib import Path

import torch
from torch.distributed import DistError
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.elastic.rendezvous.utils import _parse_rendezvous_config

from wav2vec2.cli.errors import RECORD_VARIABLE, ExitCode, one_line

OWN = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1}
"""Signals that torchrun itself sends to the workers that are left."""

SECONDS_TO_SAVE = "120"
"""How long torchrun waits after forwarding a signal before it kills."""


def died(failure: ProcessFailure) -> str | None:
    """How a process was killed, None if it ended by itself or torchrun ended it."""
    if failure.exitcode >= 0 or -failure.exitcode in OWN:
        return None
    name = signal.Signals(-failure.exitcode).name
    hint = ": out of memory?" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"


def explain(record: Path, failures: dict[int, ProcessFailure]) -> tuple[str, int]:
    """One line on why the processes ended, and the exit code."""
    written = json.loads(record.read_text(encoding="utf-8")) if record.exists() else None
    if written and written["code"] != ExitCode.PEER_LOST:
        return written["reason"], written["code"]
    first = min((failure.timestamp for failure in failures.values()), default=0)
    for rank, failure in sorted(failures.items()):
        # Those that outlived the first by seconds were killed by torchrun.
        if failure.timestamp <= first + 1 and (how := died(failure)):
            return (
                f"process {rank} {how}; start it again to resume from the last checkpoint",
                ExitCode.PEER_LOST,
            )
    if written:
        return written["reason"], written["code"]
    rank, failure = min(failures.items(), key=lambda item: item[1].timestamp)
    return f"process {rank} failed with exit code {failure.exitcode}; see its traceback above", 1


def not_connected(machines: str, why: str) -> str:
    """The message for machines that cannot connect."""
    return (
        f"the {machines} machines did not find each other ({why}); check that NUM_NODES and "
        "MASTER_ADDR or RDZV_ENDPOINT are the same on all of them, that each NODE_RANK is used "
        "once, and that the port is open"
    )


def watch(arguments: Namespace, started: threading.Event) -> None:
    """Set `started` once this machine has workers; end the launcher if it never gets any.

    A c10d rendezvous makes a surplus machine wait for as long as the others train.
    """
    seconds = int(_parse_rendezvous_config(arguments.rdzv_conf).get("join_timeout", 600))
    deadline = time.monotonic() + seconds + min(seconds, 60)
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    while children.exists():
        if children.read_text():
            started.set()
            return
        if time.monotonic() > deadline:
            reason = not_connected(arguments.nnodes, "is this one too many?")
            print(f"error: {reason}", file=sys.stderr, flush=True)
            os._exit(ExitCode.USER_ERROR)
        time.sleep(0.2)


def main(argv: list[str]) -> int:
    # Its reports repeat for every process what is printed below.
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    logging.getLogger("torch.distributed.elastic.agent.server.api").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "exit.json"
        os.environ[RECORD_VARIABLE] = str(record)
        os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", SECONDS_TO_SAVE)
        # Its warnings about a lost process come with a stack of C++ frames; the errors that it
        # logs on CPUs are those that it raises.
        level = "ERROR" if torch.cuda.is_available() else "FATAL"
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", level)
        # After a restart a shared store still holds the addresses of the processes before.
        os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
        arguments = torchrun.parse_args(argv)
        if arguments.standalone and not arguments.local_addr:
            # In some containers the name of the machine does not resolve.
            arguments.local_addr = "127.0.0.1"
        arguments.signals_to_handle = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
        started, failures = threading.Event(), {}
        threading.Thread(target=watch, args=(arguments, started), daemon=True).start()
        try:
            torchrun.run(arguments)
            return ExitCode.DONE
        except ChildFailedError as error:
            failures = error.failures
        except SignalException as error:
            reason, code = f"stopped by {error.sigval.name}", 128 + error.sigval
        except (RendezvousError, DistError) as error:
            why = one_line(error).split(" Exception raised from ")[0] or type(error).__name__
            if started.is_set():
                reason = (
                    f"another machine is gone ({why}); start it again to resume from the last "
                    "checkpoint"
                )
                code = ExitCode.PEER_LOST
            else:
                reason, code = not_connected(arguments.nnodes, why), ExitCode.USER_ERROR
        if failures or record.exists():
            reason, code = explain(record, failures)
    print(f"error: {reason}", file=sys.stderr, flush=True)
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
