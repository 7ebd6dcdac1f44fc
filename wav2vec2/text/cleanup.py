"""Written transcripts -> words that a recogniser can be trained on.

Every step is explicit.  A transcript with any other character is refused, so that training never
uses wrong text.
"""

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

from wav2vec2.cli.errors import UserError

APOSTROPHES = str.maketrans(dict.fromkeys("‘’ʼ´`", "'"))
READ_ALOUD = frozenset("%$€£¥&+=@#°§/*^~")
"""Symbols that are read aloud.  A program cannot know as which words."""

_ENGLISH_NUMBER = re.compile(
    r"(?P<minus>(?<![^\W_])-)?"  # a minus sign follows no letter or digit; a hyphen does
    r"(?P<whole>\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?P<fraction>\.\d+)?(?P<ordinal>(?:st|nd|rd|th)\b)?",
    re.IGNORECASE,
)
_WHOLE_NUMBER = re.compile(
    r"(?P<minus>(?<![^\W_])-)?(?P<whole>\d+)(?P<fraction>(?!))?(?P<ordinal>(?!))?"
)
_SEVERAL_READINGS = re.compile(r"\d[^\w\s]+\d|\d'?s\b", re.IGNORECASE)
_LONGEST_CARDINAL = 6  # digits; longer numbers are mostly telephone and account numbers


class Refused(ValueError):
    """A transcript that cannot be cleaned; `reason` is one of a few, for counting."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class CleanupOptions:
    """Transcript clean-up, in this order"""

    drop_pattern: tuple[str, ...] = (r"\[[^\]]*\]", r"<[^>]*>", r"\([^)]*\)")
    """Regular expressions of what is not speech; default: [noise], <tags> and (remarks).  An empty
    list drops nothing; the flag can be repeated."""
    digits: Literal["spell", "refuse", "keep"] = "spell"
    """Numbers: spell them out, refuse the utterance, or keep them as digits.  English spells
    ordinals (2nd), years (any ungrouped 1100 to 1999), thousands (1,000) and decimals (28.8),
    other languages whole numbers; 007 and numbers of more than 6 digits are read digit by digit.
    Numbers with several readings (3-5, 10:30, 1990s) are refused."""
    language: str = "en"
    """Language of spelt numbers, as num2words names it."""
    keep_characters: str = "'"
    """Punctuation that belongs to words; all other punctuation is removed."""
    alphabet: str = ""
    """Letters allowed after the change of case; default: letters of any script."""
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
        for flag in ("keep_characters", "alphabet"):
            if any(c == "|" or c.isspace() for c in getattr(self, flag)):
                raise UserError(f"--{flag}: spaces and | separate words and cannot be part of them")


def spell(number: int, language: str, kind: str = "cardinal") -> str:
    """A number in words; UserError if num2words is missing or lacks the language."""
    try:
        from num2words import num2words
    except ImportError:
        raise UserError(
            "--digits spell needs num2words: pip install num2words, or pass --digits refuse"
        ) from None
    try:
        return num2words(number, lang=language, to=kind).replace(",", "")
    except NotImplementedError:
        raise UserError(
            f"--language {language}: num2words cannot spell its numbers; pass --digits refuse"
        ) from None
    except OverflowError:
        raise Refused("number", f"{number} is too large to spell") from None


def _spell_match(match: re.Match, language: str) -> str:
    digits = match["whole"].replace(",", "")
    grouped = digits != match["whole"]
    by_digit = len(digits) > 1 and digits[0] == "0"  # 007
    if match["ordinal"]:
        words = spell(int(digits), language, "ordinal")
    elif by_digit or (len(digits) > _LONGEST_CARDINAL and not grouped):
        words = " ".join(spell(int(digit), language) for digit in digits)
    else:
        is_year = len(digits) == 4 and 1100 <= int(digits) <= 1999
        as_year = is_year and language.startswith("en") and not (grouped or match["fraction"])
        words = spell(int(digits), language, "year" if as_year else "cardinal")
    if match["minus"]:
        words = spell(-1, language).replace(spell(1, language), words)
    if match["fraction"]:  # English only: a point means thousands in other languages
        words += " point " + " ".join(
            spell(int(digit), language) for digit in match["fraction"][1:]
        )
    return f" {words} "


def spell_numbers(text: str, language: str) -> str:
    """`the 2nd of 12` -> `the second of twelve`; Refused for a number with several readings."""
    pattern = _ENGLISH_NUMBER if language.startswith("en") else _WHOLE_NUMBER
    # Each number is replaced by 0; digits that are then still joined have several readings.
    if _SEVERAL_READINGS.search(pattern.sub("0", text)):
        raise Refused("number", f"can be read in several ways: {text!r}")
    return pattern.sub(lambda match: _spell_match(match, language), text)


def clean(text: str, options: CleanupOptions) -> str:
    """Clean a transcript to words separated by single spaces; Refused, with the reason, if it
    cannot be."""
    if not text.strip():
        raise Refused("no transcript", "it is empty")
    # Apostrophes first: NFKC splits some of them.
    text = unicodedata.normalize("NFKC", text.translate(APOSTROPHES))
    text = "".join(c for c in text if unicodedata.category(c) != "Cf")  # soft hyphens and the like
    for pattern in options.drop_pattern:
        text = re.sub(pattern, " ", text)
    aloud = sorted(READ_ALOUD.intersection(text) - set(options.keep_characters))
    if aloud:
        raise Refused("symbol", f"{aloud[0]!r} stands for a word")
    if any(c.isdigit() for c in text):
        if options.digits == "refuse":
            raise Refused("digits", repr(text))
        if options.digits == "spell":
            text = spell_numbers(text, options.language)
    if options.case != "keep":
        text = text.upper() if options.case == "upper" else text.lower()

    kept = []
    for character in text:
        category = unicodedata.category(character)
        if character in options.keep_characters or character.isspace():
            kept.append(character)
        elif category[0] in "LM" or (options.digits == "keep" and category == "Nd"):
            if options.alphabet and character not in options.alphabet:
                raise Refused("alphabet", f"letter {character!r} is not in it")
            kept.append(character)
        elif category == "Pd" or character in "-_":
            kept.append(" ")  # a hyphen joins separate words
        elif category[0] == "P":
            kept.append(" " if character in ",.;:!?" else "")
        else:
            raise Refused("character", f"{character!r} is neither letter nor punctuation")
    # An apostrophe at a word's edge is a quotation mark.
    words = [word.strip("'") for word in "".join(kept).split()]
    # Kept punctuation alone is not a word.
    words = [word for word in words if word.strip(options.keep_characters)]
    if not words:
        raise Refused("no words", "the clean-up removed all of them")
    return " ".join(words)
