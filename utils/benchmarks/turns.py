"""Measuring several things in turns, so that what changes meanwhile changes all of them."""

from collections.abc import Callable, Mapping
from typing import TypeVar

Name = TypeVar("Name")


def measure_in_turns(
    measures: Mapping[Name, Callable[[], float]], rounds: int
) -> dict[Name, list[float]]:
    """What each measure returned in each round; a first round does not count."""
    found: dict[Name, list[float]] = {name: [] for name in measures}
    for number in range(rounds + 1):
        for name, measure in measures.items():
            value = measure()
            if number:
                found[name].append(value)
    return found
