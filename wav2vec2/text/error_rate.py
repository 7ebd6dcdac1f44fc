"""Word and unit error rates, and the alignment of a hypothesis with its reference."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class ErrorCounts:
    """Edits and reference length, summed over utterances (corpus level)."""

    errors: int = 0
    """Substitutions, insertions and deletions."""
    reference: int = 0
    """Units in the references."""

    def add(self, hypothesis: Sequence[str], reference: Sequence[str]) -> int:
        """Count one utterance; returns its own number of errors."""
        import editdistance  # only scoring needs it

        errors = editdistance.eval(list(hypothesis), list(reference))
        self.errors += errors
        self.reference += len(reference)
        return errors

    @property
    def rate(self) -> float:
        """Percent; for an empty reference 0 without errors, else infinity."""
        if self.reference == 0:
            return 0.0 if self.errors == 0 else float("inf")
        return 100.0 * self.errors / self.reference


Pair = tuple[str | None, str | None]
"""Reference word and hypothesis word; None in the first place: an insertion, in the second: a
deletion."""


def pair_words(hypothesis: Sequence[str], reference: Sequence[str]) -> list[Pair]:
    """Align hypothesis and reference with the fewest errors: pairs of words, in order.

    Of alignments with equally few errors, prefers substitutions to a deletion and an insertion.
    """
    same = 0
    while same < min(len(hypothesis), len(reference)) and hypothesis[same] == reference[same]:
        same += 1
    pairs: list[Pair] = [(word, word) for word in reference[:same]]
    hypothesis, reference = hypothesis[same:], reference[same:]
    # errors[i][j]: between the first i words of the reference and the first j of the hypothesis
    errors = [list(range(len(hypothesis) + 1))]
    for word in reference:
        above = errors[-1]
        row = [above[0] + 1]
        for j, other in enumerate(hypothesis):
            row.append(min(above[j] + (word != other), above[j + 1] + 1, row[j] + 1))
        errors.append(row)
    i, j = len(reference), len(hypothesis)
    backwards: list[Pair] = []
    while i or j:
        here = errors[i][j]
        differs = bool(i and j and reference[i - 1] != hypothesis[j - 1])
        if i and j and here == errors[i - 1][j - 1] + differs:
            i, j = i - 1, j - 1
            backwards.append((reference[i], hypothesis[j]))
        elif i and here == errors[i - 1][j] + 1:
            i -= 1
            backwards.append((reference[i], None))
        else:
            j -= 1
            backwards.append((None, hypothesis[j]))
    return pairs + backwards[::-1]
