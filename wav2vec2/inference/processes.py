"""How an evaluation shares its work among processes; the library alone uses one."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


class Processes:
    """A single process.  The module `common.runtime.distributed` has the same functions for the
    processes that torchrun started."""

    def rank(self) -> int:
        """This process' number, from 0."""
        return 0

    def world_size(self) -> int:
        """Number of processes."""
        return 1

    def process_group(self, device: torch.device) -> AbstractContextManager[None]:
        """A context inside which the processes can communicate."""
        return nullcontext()

    def gather(self, value: Any) -> list[Any]:
        """Each process' `value`, by rank."""
        return [value]

    def run_on_all_ranks(self, function: Callable[[], Result]) -> Result:
        """`function()`; a UserError of any process is raised in all of them."""
        return function()
