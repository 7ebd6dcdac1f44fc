"""How an evaluation shares its work among processes; the library alone uses one."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

import torch

Result = TypeVar("Result")


class Processes(Protocol):
    """What evaluation asks of the processes; the module `common.runtime.distributed` is one."""

    def rank(self) -> int:
        """This process' number, from 0."""

    def world_size(self) -> int:
        """How many processes there are."""

    def process_group(self, device: torch.device) -> AbstractContextManager[None]:
        """Inside, the processes can communicate."""

    def gather(self, value: Any) -> list[Any]:
        """Each process' `value`, by rank."""

    def run_on_all_ranks(self, function: Callable[[], Result]) -> Result:
        """`function()`; a UserError of any process is raised in all of them."""


class OneProcess:
    """A single process, which needs no communication."""

    def rank(self) -> int:
        return 0

    def world_size(self) -> int:
        return 1

    def process_group(self, device: torch.device) -> AbstractContextManager[None]:
        return nullcontext()

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def run_on_all_ranks(self, function: Callable[[], Result]) -> Result:
        return function()
