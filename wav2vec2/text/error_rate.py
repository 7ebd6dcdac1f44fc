"""Word and unit error rates, and which words they are: the only edit distances there are."""

from collections.abc import Sequence
from dataclasses import dataclass

import editdistance


@dataclass
class ErrorCounts:
    """Edits and reference length, summed over utterances (corpus level)."""

    errors: int = 0
    """Substitutions, insertions and deletions."""
    reference: int = 0
    """Units in the references."""

    def add(self, hypothesis: Sequence[str], reference: Sequence[str]) -> int:
        """Count one utterance; returns its own number of errors."""
        errors = editdistance.eval(list(hypothesis), list(reference))
        self.errors += errors
        self.reference += len(reference)
        return errors

    @property
    def rate(self) -> float:
        """Percent; of an empty reference, 0 without errors and infinity with."""
        if self.reference == 0:
            return 0.0 if self.errors == 0 else float("inf")
        return 100.0 * self.errors / self.reference


Pair = tuple[str | None, str | None]
"""What was said and what was heard for it; None: nothing, an insertion or a deletion."""


def pair_words(hypothesis: Sequence[str], reference: Sequence[str]) -> list[Pair]:
    """Which word was heard for which, in order, with the fewest errors there can be.

    Where several alignments have as few, words are rather exchanged than left out and put in.
    """
    same = 0
    while same < min(len(hypothesis), len(reference)) and hypothesis[same] == reference[same]:
        same += 1
    pairs: list[Pair] = [(word, word) for word in reference[:same]]
    hypothesis, reference = hypothesis[same:], reference[same:]
    # errors[i][j]: of the first i words said and the first j heard
    errors = [list(range(len(hypothesis) + 1))]
    for said in reference:
        above = errors[-1]
        row = [above[0] + 1]
        for j, heard in enumerate(hypothesis):
            row.append(min(above[j] + (said != heard), above[j + 1] + 1, row[j] + 1))
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
