"""Transcripts as people write them -> words a recogniser can be trained on.

Every step is explicit, and what is left unexplained refuses the utterance instead of silently
teaching it something wrong.
"""

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

from common.errors import UserError

APOSTROPHES = str.maketrans(dict.fromkeys("‘’ʼ´`", "'"))
READ_ALOUD = frozenset("%$€£¥&+=@#°§/*^~")
"""Symbols that stand for words: which ones, a program cannot know."""

_NUMBER = re.compile(
    r"(?P<ordinal>\d+)(?:st|nd|rd|th)\b"
    r"|(?P<grouped>\d{1,3}(?:,\d{3})+)(?P<fraction>\.\d+)?"
    r"|(?P<plain>\d+(?:\.\d+)?)",
    re.IGNORECASE,
)


class Refused(ValueError):
    """This transcript cannot be cleaned; the message says why."""


@dataclass(frozen=True)
class CleanupOptions:
    """Transcript clean-up, in this order"""

    drop_pattern: tuple[str, ...] = (r"\[[^\]]*\]", r"<[^>]*>", r"\([^)]*\)")
    """Regular expressions of what is not speech; the default drops [noise], <tags> and (remarks).
    Give none to drop nothing."""
    digits: Literal["spell", "refuse", "keep"] = "spell"
    """Numbers: spell them out, refuse the utterance, or keep them as digits."""
    language: str = "en"
    """Language in which numbers are spelt, as num2words names it."""
    keep_characters: str = "'"
    """Punctuation that belongs to words; all other punctuation is removed."""
    alphabet: str = ""
    """Letters allowed, after the change of case; empty: letters of any script."""
    case: Literal["upper", "lower", "keep"] = "upper"
    """Case of the result."""

    def __post_init__(self) -> None:
        for pattern in self.drop_pattern:
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(
                    f"--drop_pattern {pattern!r}: not a regular expression ({error})"
                ) from None
        if self.digits == "spell":
            spell("1", self.language)


def spell(number: str, language: str, kind: str = "cardinal") -> str:
    """A number in words; UserError if num2words is missing or lacks the language."""
    try:
        from num2words import num2words
    except ImportError:
        raise UserError(
            "--digits spell needs num2words: pip install num2words, or pass --digits refuse"
        ) from None
    try:
        value = float(number) if "." in number else int(number)
        return num2words(value, lang=language, to=kind).replace(",", "")
    except NotImplementedError:
        raise UserError(
            f"--language {language}: num2words cannot spell its numbers; pass --digits refuse"
        ) from None
    except OverflowError:
        raise Refused(f"number {number} is too large to spell") from None


def _spell_match(match: re.Match, language: str) -> str:
    if match["ordinal"]:
        return f" {spell(match['ordinal'], language, 'ordinal')} "
    if match["grouped"]:
        return f" {spell(match['grouped'].replace(',', '') + (match['fraction'] or ''), language)} "
    plain = match["plain"]
    if len(plain) > 1 and plain[0] == "0" and "." not in plain:  # 007: digit by digit
        return " " + " ".join(spell(digit, language) for digit in plain) + " "
    year = len(plain) == 4 and plain.isdigit() and 1100 <= int(plain) <= 1999
    return f" {spell(plain, language, 'year' if year else 'cardinal')} "


def clean(text: str, options: CleanupOptions) -> str:
    """Words separated by single spaces; Refused, saying why, if that cannot be had."""
    text = unicodedata.normalize("NFKC", text).translate(APOSTROPHES)
    for pattern in options.drop_pattern:
        text = re.sub(pattern, " ", text)
    aloud = sorted(READ_ALOUD.intersection(text) - set(options.keep_characters))
    if aloud:
        raise Refused(f"symbol {aloud[0]!r} stands for a word")
    if any(c.isdigit() for c in text):
        if options.digits == "refuse":
            raise Refused("holds digits")
        if options.digits == "spell":
            text = _NUMBER.sub(lambda match: _spell_match(match, options.language), text)
    if options.case != "keep":
        text = text.upper() if options.case == "upper" else text.lower()

    kept = []
    for character in text:
        category = unicodedata.category(character)
        if character in options.keep_characters or character.isspace():
            kept.append(character)
        elif category[0] in "LM" or (options.digits == "keep" and category == "Nd"):
            if options.alphabet and character not in options.alphabet:
                raise Refused(f"letter {character!r} is not in the alphabet")
            kept.append(character)
        elif category == "Pd" or character in "-_":
            kept.append(" ")  # a hyphen joins words that are said apart
        elif category[0] == "P":
            kept.append(" " if character in ",.;:!?" else "")
        else:
            raise Refused(f"character {character!r} is neither letter nor punctuation")
    # An apostrophe at a word's edge is a quotation mark.
    words = [word.strip("'") for word in "".join(kept).split()]
    words = [word for word in words if word]
    if not words:
        raise Refused("no words are left")
    return " ".join(words)
