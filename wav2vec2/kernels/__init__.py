"""Which kernel serves an operation: tried once, and logged."""

import logging
from collections.abc import Callable

import torch

_log = logging.getLogger(__name__)


def choose(operation: str, preferred: str, otherwise: str, trial: Callable[[], object]) -> str:
    """`preferred` if `trial`, a small piece of it, runs on this machine and this torch, else
    `otherwise`; `operation` says in the log what for."""
    kernel = preferred
    try:
        with torch.inference_mode(False), torch.enable_grad():  # whatever the caller is in
            trial()
    except (RuntimeError, AttributeError, TypeError) as error:
        kernel, reason = otherwise, str(error).splitlines()[0][:120]
        _log.warning("%s: %s does not work here: %s", operation, preferred, reason)
    _log.info("%s: %s", operation, kernel)
    return kernel
