"""Audio and texts that occur more than once in a data set."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

MOST_GROUPS = 20
MOST_MEMBERS = 3


def repeated(values: Iterable[str | None]) -> list[list[int]]:
    """The indices of each value that occurs more than once, without empty ones."""
    first: dict[str, int] = {}
    groups: dict[str, list[int]] = {}
    for index, value in enumerate(values):
        if value and first.setdefault(value, index) != index:
            groups.setdefault(value, [first[value]]).append(index)
    return sorted(groups.values())


def describe_repeated(
    groups: Sequence[Sequence[int]],
    subset_of: Callable[[int], str],
    entry: Callable[[int], dict[str, Any]],
) -> dict[str, Any]:
    """Counts of groups of utterances, by their index, and some groups: first those that are in
    several subsets."""
    across = [group for group in groups if len(set(map(subset_of, group))) > 1]
    within = [group for group in groups if len(set(map(subset_of, group))) == 1]
    examples = []
    for group in [*across, *within][:MOST_GROUPS]:
        first = {subset_of(index): index for index in reversed(group)}  # one of each subset leads
        rest = [index for index in group if first[subset_of(index)] != index]
        members = [*sorted(first.values()), *rest][:MOST_MEMBERS]
        examples.append({"utterances": len(group), "members": [entry(i) for i in members]})
    return {
        "groups": len(groups),
        "utterances": sum(map(len, groups)),
        "across_subsets": len(across),
        "examples": examples,
    }
