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
_SEVERAL_READINGS = re.compile(
    r"\d[^\w\s]+\d|\d'?s\b"  # 3-5, 10:30, 1990s
    r"|\d['’]\w"  # Turkish 5'te
    r"|(?<![\w.,])[.,]\d"  # .5
    r"|\dx\d"
    # Units, and what stands before a number: their words are not those of the letters.
    r"|\d\s?(?:kg|km|cm|mm|ml|mg|k?hz|mhz|ghz|kb|mb|gb|tb|kw|mph|lbs?|oz|[hmglst])(?![\w'’.]|\.\w)"
    r"|\b(?:no|nr|num|núm|pp?|str|vol|fig|art|abs|kap|cap|ch)\.\s?\d",
    re.IGNORECASE,
)
_GROUPED_BY_SPACES = re.compile(r"(?<!\d)\d{1,3}(?:\s\d{3})+(?!\d)")
_WITH_LETTERS = re.compile(r"\d[^\W\d_]|[^\W\d_]\d")
_BEFORE_A_WORD = re.compile(r"\d(?!(?:[ap]m|st|nd|rd|th)\b)[^\W\d_]{2}", re.IGNORECASE)
_LONGEST_CARDINAL = 6  # digits; longer numbers are mostly telephone and account numbers

_ORDINAL_POINT = "az bs da de eu fo hsb hu lb mk nb nn no sr tr"
"""Languages in which a point after a number may make it an ordinal: German 2. is second."""
_YEARS_IN_HUNDREDS = "da de lb nb nl nn no sv"
"""Languages that read the year 1985 as nineteen hundred eighty-five, but not other numbers."""
_CHANGING = "ar be bs cs cy el et fi he hr hsb hy is ka ko lt lv pl ru sk sl sr uk"
"""Languages whose numerals change with the noun, by gender or case, or have two sets of them."""
_ONE = ["da", "de", "fr", "it", "nb", "nn", "no", "sv"]
_ONE_AND_TWO = ["bg", "ca", "gl", "mk", "pt", "ro"]
_HUNDREDS = ["ca", "es", "gl", "pt"]
AGREEING = {
    **dict.fromkeys([*_ONE, "es"], (1,)),
    **dict.fromkeys(_ONE_AND_TWO, (1, 2)),
    "hu": (2,),
}
"""Language -> last numerals that have another form before a noun: German ein, eine, eins."""


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
        as_year = (
            _is_year(digits) and language.startswith("en") and not (grouped or match["fraction"])
        )
        words = spell(int(digits), language, "year" if as_year else "cardinal")
    if match["minus"]:
        words = spell(-1, language).replace(spell(1, language), words)
    if match["fraction"]:  # English only: a point means thousands in other languages
        words += " point " + " ".join(
            spell(int(digit), language) for digit in match["fraction"][1:]
        )
    return f" {words} "


def _agrees(match: re.Match, code: str) -> bool:
    """Whether a number may have another form before the noun that follows it."""
    if not re.match(r"\s+[^\W\d_]", match.string[match.end() :]):
        return False
    number = int(match["whole"])
    if code in _HUNDREDS and number % 1000 >= 200:  # Spanish doscientos, doscientas
        return True
    if code == "de":
        return number % 100 == 1
    # Eleven and twelve are words of their own, except in Romanian.
    compound = number % 100 // 10 == 1 and code != "ro"
    return not compound and number % 10 in AGREEING.get(code, ())


def _is_year(digits: str) -> bool:
    return len(digits) == 4 and 1100 <= int(digits) <= 1999


def _is_unclear(text: str, code: str, pattern: re.Pattern) -> bool:
    """Whether a number in a text has several readings in a language."""
    # Each number is replaced by 0; digits that are then still joined have several readings.
    if _SEVERAL_READINGS.search(pattern.sub("0", text)) or _GROUPED_BY_SPACES.search(text):
        return True
    if code == "en":
        return _BEFORE_A_WORD.search(text) is not None
    if _WITH_LETTERS.search(text) or code in _CHANGING.split():
        return True
    if code in _ORDINAL_POINT.split() and re.search(r"\d\.", text):
        return True
    numbers = [*pattern.finditer(text)]
    if code in _YEARS_IN_HUNDREDS.split() and any(_is_year(m["whole"]) for m in numbers):
        return True
    return any(_agrees(match, code) for match in numbers)


def spell_numbers(text: str, language: str = "") -> str:
    """`the 2nd of 12` -> `the second of twelve`; Refused for a number with several readings.

    Without a language it is English, and Refused if the text has letters that English lacks.
    """
    if not language and any(c.isalpha() and not c.isascii() for c in text):
        raise Refused("digits", f"no English letters: {text!r}; name the language with --language")
    language = language or "en"
    code = re.split("[-_]", language.lower())[0]
    pattern = _ENGLISH_NUMBER if code == "en" else _WHOLE_NUMBER
    if _is_unclear(text, code, pattern):
        raise Refused("number", f"can be read in several ways: {text!r}")
    return pattern.sub(lambda match: _spell_match(match, language), text)
