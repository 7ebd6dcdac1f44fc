"""Keyed randomness.

A draw is keyed by what it is for, never by who draws it: no rank, worker or micro-batch number is
part of a key.  So a sub-batch gets the same crops, masks and dropout in every process and every
geometry, and a resume needs no saved generator.
"""

import hashlib
import os
import re

import numpy as np
import torch

from wav2vec2.cli.errors import UserError


def key(purpose: str, *parts: int) -> int:
    """A 63-bit seed for `purpose` and the integers that say which draw it is.

    For example `key("mask", seed, epoch, sub_batch)`, `sub_batch` counting in the epoch's global
    order, or `key("layerdrop", seed, update)`.
    """
    text = ":".join([purpose, *(str(int(part)) for part in parts)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def numpy_generator(purpose: str, *parts: int) -> np.random.Generator:
    """A NumPy generator for one draw, see `key`."""
    return np.random.Generator(np.random.PCG64(key(purpose, *parts)))


def torch_generator(purpose: str, *parts: int) -> torch.Generator:
    """A CPU torch generator for one draw, see `key`."""
    return torch.Generator().manual_seed(key(purpose, *parts))


def use_deterministic_operators() -> None:
    """Have torch use only operators whose results repeat bit-exactly; before the GPU's first use.

    An operator that has no such variant then raises RuntimeError.
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read when cuBLAS starts
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def reseed(purpose: str, *parts: int) -> None:
    """Reseed torch's default generators (CPU and devices), which dropout draws from."""
    seed = key(purpose, *parts)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # else torch.manual_seed would format a stack for later: slow
        torch.cuda.manual_seed_all(seed)


def refused_operator(error: Exception) -> UserError | None:
    """The user's error if `error` says that an operator has no deterministic form, else None."""
    found = re.search(r"(\S+) does not have a deterministic implementation", str(error))
    if not found:
        return None
    return UserError(
        f"--deterministic: torch has no deterministic {found[1]} here; train without "
        "(DETERMINISTIC=false), or on the CPU"
    )
