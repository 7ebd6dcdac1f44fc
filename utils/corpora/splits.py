"""The split of a corpus into training, validation and test, whole speakers at a time."""

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from utils.corpora.rows import SUBSETS
from wav2vec2.cli.errors import UserError

FEW_GROUPS = 100
"""Up to so many groups are chosen one by one to meet the shares.  More are drawn independently, so
that new recordings move none, unless a few speakers with much audio spoil the shares."""


@dataclass(frozen=True, slots=True)
class Member:
    """What the split needs to know of an utterance."""

    id: str
    key: str
    """Decides its draw if it has no speaker."""
    speaker: str = ""
    group: str = ""
    content: str = ""
    """Equal for two copies of one recording."""
    split: str = ""
    """The subset that the corpus gives it."""
    seconds: float = 1.0


def group_members(members: Sequence[Member]) -> dict[str, list[Member]]:
    """Name -> the members that must stay in one subset: of a speaker, a group or one content."""
    parent: dict[Hashable, Hashable] = {}

    def root(name: Hashable) -> Hashable:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    def names(member: Member) -> list[tuple[str, str]]:
        own = ("speaker", member.speaker) if member.speaker else ("key", member.key)
        others = (("group", member.group), ("content", member.content))
        return [own, *(pair for pair in others if pair[1])]

    for member in members:
        first, *others = map(root, names(member))
        for other in others:
            parent[root(other)] = root(first)
    found = defaultdict(list)
    for member in members:
        found[root(names(member)[0])].append(member)
    return {min(m.speaker or m.key for m in group): group for group in found.values()}


def draw(name: str, seed: int) -> float:
    """A number in [0, 1) that depends on a name and the seed alone."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


def draw_split(
    members: Sequence[Member], valid_share: float, test_share: float, seed: int
) -> dict[str, str]:
    """Id -> subset, by groups; the shares are met as well as whole groups allow.

    The utterances of a single speaker are divided, so that there is a validation set.
    """
    if not members:
        return {}
    groups = group_members(members)
    if len({m.speaker for m in members}) == 1:  # no split could test another voice
        groups = group_members([replace(m, speaker="") for m in members])
    order = sorted(groups, key=lambda name: draw(name, seed))
    shares = {"valid": valid_share, "test": test_share}
    subsets = _draw_groups(order, shares, seed)
    if any(m.speaker or m.group for m in members) and (
        len(groups) <= FEW_GROUPS or not _are_met(shares, subsets, groups)
    ):
        subsets = _choose_groups(groups, order, shares)
    return {m.id: subsets[name] for name, group in groups.items() for m in group}


def _draw_groups(order: Sequence[str], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Name -> subset, each drawn alone, so that new recordings move no others."""
    subsets = {}
    for name in order:
        number = draw(name, seed)
        drawn = "test" if number < shares["valid"] + shares["test"] else "train"
        subsets[name] = "valid" if number < shares["valid"] else drawn
    if shares["valid"] > 0 and len(order) > 1 and "valid" not in subsets.values():
        subsets[order[0]] = "valid"  # training needs something to validate on
    if shares["test"] > 0 and len(order) > 2 and "test" not in subsets.values():
        subsets[next(name for name in order if subsets[name] == "train")] = "test"
    if "train" not in subsets.values():
        subsets[order[-1]] = "train"
    return subsets


def _seconds(groups: Mapping[str, list[Member]]) -> dict[str, float]:
    return {name: sum(m.seconds for m in group) for name, group in groups.items()}


def _are_met(
    shares: Mapping[str, float], subsets: Mapping[str, str], groups: Mapping[str, list[Member]]
) -> bool:
    """Whether each subset's share of the audio is within a fifth of what was asked."""
    seconds = _seconds(groups)
    total = sum(seconds.values())
    for subset, share in shares.items():
        taken = sum(seconds[name] for name, drawn in subsets.items() if drawn == subset)
        if abs(taken - share * total) > 0.2 * share * total:
            return False
    return True


def _choose_groups(
    groups: Mapping[str, list[Member]], order: list[str], shares: Mapping[str, float]
) -> dict[str, str]:
    """Name -> subset.  Each subset takes groups in the drawn order while they fit its share."""
    seconds = _seconds(groups)
    total = sum(seconds.values())
    subsets = dict.fromkeys(order, "train")
    for subset, share in shares.items():
        free = [name for name in order if subsets[name] == "train"]
        if share == 0 or len(free) < 2:  # training keeps one
            continue
        target, taken = share * total, 0.0
        for name in free[:-1]:
            if abs(taken + seconds[name] - target) < abs(taken - target):
                subsets[name] = subset
                taken += seconds[name]
        if not taken:  # every group is larger than twice the share
            subsets[min(free, key=seconds.__getitem__)] = subset
    return subsets


def split_members(
    members: Sequence[Member],
    valid_share: float,
    test_share: float,
    seed: int,
    allow_shared_speakers: bool = False,
) -> dict[str, str]:
    """Id -> subset: as the corpus says, else drawn.

    Where it names no validation set, that is drawn from its training set.  UserError if it puts a
    speaker into several subsets.
    """
    given = [m for m in members if m.split]
    if given and not allow_shared_speakers:
        check_speakers(given)
    if given and all(m.split != "valid" for m in given):
        # The draw keeps test recordings out; it divides training and what has no split.
        drawn = draw_split([m for m in members if m.split != "test"], valid_share, 0, seed)
    else:
        drawn = draw_split([m for m in members if not m.split], valid_share, test_share, seed)
    return {m.id: drawn.get(m.id, m.split) for m in members}


def check_speakers(members: Iterable[Member]) -> None:
    """UserError if a speaker is in several subsets."""
    subsets = defaultdict(set)
    for member in members:
        if member.speaker:
            subsets[member.speaker].add(member.split)
    shared = [speaker for speaker, found in subsets.items() if len(found) > 1]
    if shared:
        where = " and ".join(name for name in SUBSETS if name in subsets[shared[0]])
        raise UserError(
            f"{len(shared)} speakers are in several subsets, such as {shared[0]} in {where}, so "
            "error rates would be of known voices; correct the split, or accept it with "
            "--allow_shared_speakers true"
        )


def shared_between(subsets: Mapping[str, str], values: Mapping[str, str]) -> dict[str, set[str]]:
    """Value -> its subsets, for what (a text, a content) is in more than one; ids are the keys."""
    first: dict[str, str] = {}
    shared: dict[str, set[str]] = {}
    for key, value in values.items():
        if value and first.setdefault(value, subsets[key]) != subsets[key]:
            shared.setdefault(value, {first[value]}).add(subsets[key])
    return shared
