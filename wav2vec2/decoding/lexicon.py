"""A lexicon: the words a search may choose from, and the units that spell them.

A line is `word<TAB>unit unit ...`, or a word alone, which the dictionary then spells.  A word may
have several lines, one per pronunciation.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from wav2vec2.cli.errors import UserError
from wav2vec2.files.text import read_lines
from wav2vec2.text.vocabulary import Vocabulary

HOMOPHONES = 6
"""Words that may share a spelling: the limit of flashlight-text's trie (its kTrieMaxLabel)."""


@dataclass(frozen=True)
class Lexicon:
    """Words and their spellings, and which lines were skipped."""

    path: Path
    spellings: dict[str, list[tuple[int, ...]]]
    """Word -> ids of the units of each of its spellings, in file order."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Reason -> number of lines."""
    example: dict[str, str] = field(default_factory=dict)
    """Reason -> the first line's number and word."""

    @property
    def words(self) -> list[str]:
        return list(self.spellings)

    def notes(self) -> list[str]:
        """One line per reason for which lines were skipped."""
        return [
            f"{self.path}: skipped {count} of its lines: {reason}, such as {self.example[reason]}"
            for reason, count in self.skipped.items()
        ]


def read_lexicon(path: str | Path, vocabulary: Vocabulary) -> Lexicon:
    """Read a lexicon for the units of `vocabulary`.

    Skips and counts lines with units that the vocabulary lacks, and words after the sixth with the
    same spelling.  UserError if the file cannot be read, a line does not parse, or every word
    was skipped.
    """
    path = Path(path)
    lexicon = Lexicon(path, {})
    sharing: Counter[tuple[int, ...]] = Counter()
    lines = read_lines(
        path, name=f"--lexicon {path}", fix="it holds a word per line, or word<TAB>units"
    )
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        word, spelling = _parse(line, f"{path}:{number}", vocabulary)
        unknown = vocabulary.unknown(spelling)
        ids = tuple(vocabulary.encode(spelling))
        if ids in lexicon.spellings.get(word, ()):
            continue
        reason = ""
        if unknown:
            reason = "units that the dictionary lacks"
        elif sharing[ids] == HOMOPHONES:
            reason = f"more than {HOMOPHONES} words with the same spelling"
        if reason:
            lexicon.skipped[reason] += 1
            units = f" ({', '.join(map(repr, dict.fromkeys(unknown)))})" if unknown else ""
            lexicon.example.setdefault(reason, f"line {number}, {word}{units}")
            continue
        sharing[ids] += 1
        lexicon.spellings.setdefault(word, []).append(ids)
    if not lexicon.spellings:
        why = f" ({lexicon.notes()[0]})" if lexicon.skipped else ""
        raise UserError(
            f"{path}: holds no word that the checkpoint's dictionary can spell{why}; write words "
            "as in the training transcripts, such as in upper case"
        )
    return lexicon


def _parse(line: str, place: str, vocabulary: Vocabulary) -> tuple[str, str]:
    """One line -> word and label line."""
    word, tab, spelling = line.partition("\t")
    word = word.strip()
    if not word or len(word.split()) > 1 or (tab and not spelling.split()):
        raise UserError(
            f"{place}: expected a word, or word<TAB>units like 'HI<TAB>H I |', got {line!r}"
        )
    return word, spelling if tab else vocabulary.spell(word)
