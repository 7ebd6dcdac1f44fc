"""Digits in a transcript -> words, where there is one way to read them."""

import re

from wav2vec2.cli.errors import UserError
from wav2vec2.text.refusal import Refused

_ENGLISH_NUMBER = re.compile(
    r"(?P<minus>(?<![^\W_])-)?"  # a minus sign follows no letter or digit; a hyphen does
    r"(?P<whole>\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?P<fraction>\.\d+)?(?P<ordinal>(?:st|nd|rd|th)\b)?",
    re.IGNORECASE,
)
_WHOLE_NUMBER = re.compile(
    r"(?P<minus>(?<![^\W_])-)?(?P<whole>\d+)(?P<fraction>(?!))?(?P<ordinal>(?!))?"
)
_SEVERAL_READINGS = re.compile(r"\d[^\w\s]+\d|\d'?s\b", re.IGNORECASE)
_GROUPED_BY_SPACES = re.compile(r"(?<!\d)\d{1,3}(?:\s\d{3})+(?!\d)")
_WITH_LETTERS = re.compile(r"\d[^\W\d_]|[^\W\d_]\d")
_LONGEST_CARDINAL = 6  # digits; longer numbers are mostly telephone and account numbers

_ORDINAL_POINT = "az bs cs da de et eu fi fo hr hsb hu is lb lt lv mk nb nn no pl sk sl sr tr"
"""Languages in which a point after a number may make it an ordinal: German 2. is second."""
_ONE_AGREES = "be bg ca cs da de el es fr gl hr it lt lv nb nn no pl pt ro ru sk sl sr sv uk"
"""Languages whose word for one agrees with the noun that follows: German ein, eine, eins."""


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


def _agrees(match: re.Match, code: str) -> bool:
    """Whether a number's last word is one, which has another form before some nouns."""
    number = int(match["whole"])
    ends_in_one = number % 100 == 1 if code == "de" else number % 10 == 1 and number % 100 != 11
    return ends_in_one and re.match(r"\s+[^\W\d_]", match.string[match.end() :]) is not None


def spell_numbers(text: str, language: str = "") -> str:
    """`the 2nd of 12` -> `the second of twelve`; Refused for a number with several readings.

    Without a language it is English, and Refused if the text has letters that English lacks.
    """
    if not language and any(c.isalpha() and not c.isascii() for c in text):
        raise Refused("digits", f"no English letters: {text!r}; name the language with --language")
    language = language or "en"
    code = re.split("[-_]", language.lower())[0]
    pattern = _ENGLISH_NUMBER if code == "en" else _WHOLE_NUMBER
    # Each number is replaced by 0; digits that are then still joined have several readings.
    unclear = _SEVERAL_READINGS.search(pattern.sub("0", text)) or _GROUPED_BY_SPACES.search(text)
    if code != "en":
        unclear = unclear or _WITH_LETTERS.search(text)
    if code in _ORDINAL_POINT.split():
        unclear = unclear or re.search(r"\d\.", text)
    if code in _ONE_AGREES.split():
        unclear = unclear or any(_agrees(match, code) for match in pattern.finditer(text))
    if unclear:
        raise Refused("number", f"can be read in several ways: {text!r}")
    return pattern.sub(lambda match: _spell_match(match, language), text)
