"""Word and unit error rates: the only edit distance of the repository."""

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
