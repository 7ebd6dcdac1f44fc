"""A lexicon: the words a search may choose from, and the units that spell them.

A line is `word<TAB>unit unit ...`, or a word alone, which the dictionary then spells.  A word may
have several lines, one a pronunciation.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from wav2vec2.cli.errors import UserError
from wav2vec2.text.vocabulary import Vocabulary

HOMOPHONES = 6
"""Words of one spelling that flashlight-text's trie holds (its kTrieMaxLabel)."""


@dataclass(frozen=True)
class Lexicon:
    """Words and spellings, and what had to be left out."""

    path: Path
    spellings: dict[str, list[tuple[int, ...]]]
    """Word -> ids of the units of each of its spellings, in file order."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Reason -> lines."""
    example: dict[str, str] = field(default_factory=dict)
    """Reason -> the first line's number and word."""

    @property
    def words(self) -> list[str]:
        return list(self.spellings)

    def notes(self) -> list[str]:
        """A line for each reason for which lines were left out."""
        return [
            f"{self.path}: {count} of its lines left out: {reason}, such as {self.example[reason]}"
            for reason, count in self.left_out.items()
        ]


def read_lexicon(path: str | Path, vocabulary: Vocabulary) -> Lexicon:
    """Read a lexicon for the units of `vocabulary`.

    Lines with units that it lacks, and words after the sixth of one spelling, are left out and
    counted.  UserError if the file cannot be read, a line does not parse, or no word is left.
    """
    path = Path(path)
    lexicon = Lexicon(path, {})
    sharing: Counter[tuple[int, ...]] = Counter()
    for number, line in enumerate(_lines(path), start=1):
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
            reason = f"more than {HOMOPHONES} words of one spelling"
        if reason:
            lexicon.left_out[reason] += 1
            units = f" ({', '.join(map(repr, dict.fromkeys(unknown)))})" if unknown else ""
            lexicon.example.setdefault(reason, f"line {number}, {word}{units}")
            continue
        sharing[ids] += 1
        lexicon.spellings.setdefault(word, []).append(ids)
    if not lexicon.spellings:
        why = f" ({lexicon.notes()[0]})" if lexicon.left_out else ""
        raise UserError(
            f"{path}: holds no word that the checkpoint's dictionary spells{why}; write words the "
            "way its transcripts do, such as in upper case"
        )
    return lexicon


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UserError(
            f"--lexicon {path}: cannot be read ({reason}); it holds a word a line, or "
            "word<TAB>units"
        ) from None


def _parse(line: str, place: str, vocabulary: Vocabulary) -> tuple[str, str]:
    """One line -> word and label line."""
    word, tab, spelling = line.partition("\t")
    word = word.strip()
    if not word or len(word.split()) > 1 or (tab and not spelling.split()):
        raise UserError(
            f"{place}: expected a word, or word<TAB>units like 'HI<TAB>H I |', got {line!r}"
        )
    return word, spelling if tab else vocabulary.spell(word)
