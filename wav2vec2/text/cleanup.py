"""Written transcripts -> words that a recogniser can be trained on.

Every step is explicit.  A transcript that could lose a spoken word or gain a wrong one is refused,
so that training never uses wrong text.
"""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Literal

from wav2vec2.cli.errors import UserError
from wav2vec2.text.numbers import spell_numbers
from wav2vec2.text.refusal import Refused

APOSTROPHES = dict.fromkeys(map(ord, "‘’ʼ´`"), "'")
READ_ALOUD = frozenset("%‰٪$€£¥&+=@#°§/*^~′″")
"""Symbols that are read aloud.  A program cannot know as which words."""

_EVENTS = (
    "noise|laugh|laughs|laughing|laughter|cough|coughs|coughing|breath|breathing|sigh|sighs|sneeze|"
    "smack|sniff|click|beep|tone|tones|music|applause|silence|sil|pause|spn|nsn"
)
NOT_SPEECH = (
    rf"(?i)\[(?:[\w\s-]*[\s_-])?(?:{_EVENTS})\]",
    rf"(?i)<(?:[\w\s-]*[\s_-])?(?:{_EVENTS})\s*/?>",
    rf"(?i)\(\s*(?:{_EVENTS})\s*\)",
    rf"(?i)\{{\s*(?:{_EVENTS})\s*\}}",
)
"""Remarks that name a sound which is no speech, such as [background noise] and (laughs)."""
_REMARK = re.compile(
    r"\[[^\]]*\]|<[^>]*>|\{[^}]*\}"
    r"|\(\s*(?:\(\s*\)|unk|unintelligible|inaudible|indistinct|crosstalk|\?*)\s*\)",
    re.IGNORECASE,
)
"""Other remarks: they may stand for words that somebody spoke."""

_NOT_PLAIN = re.compile("[^A-Za-z ]")
_ANY = re.compile(".", re.DOTALL)

_category = cache(unicodedata.category)

_INSIDE_WORDS = {"՛": "ARMENIAN", "՜": "ARMENIAN", "՞": "ARMENIAN", "՟": "ARMENIAN"}
_INSIDE_WORDS |= {"׳": "HEBREW", "״": "HEBREW"}
"""Punctuation that is written within a word -> the script whose letters surround it there."""

_DOTLESS = ("tr", "az", "crh", "gag", "tt")
"""Languages in which i with a dot and ı without one are two letters."""
_OKINA = ("haw", "mi", "rar", "sm", "to", "ty")
"""Languages with a letter that is often typed as an opening quotation mark, also before a word."""
_GLOTTAL = (*_OKINA, "ay", "crh", "gn", "ha", "mt", "nv", "om", "qu", "so", "uz", "yua")
"""Languages in which an apostrophe may begin or end a word, as a letter."""
_TURNED_COMMA = re.compile(r"(?<=[^\W\d_])[‘`](?=\w|\b|\s|$)")
_TATWEEL = "ـ"
"""Lengthens an Arabic word in print, and is no letter."""
_SPACELESS = ("CJK", "HIRAGANA", "KATAKANA", "KHMER", "LAO", "MYANMAR", "THAI", "TIBETAN")
"""Scripts in which no space separates words."""


@dataclass(frozen=True)
class CleanupOptions:
    """Transcript clean-up, in this order"""

    drop_pattern: tuple[str, ...] = NOT_SPEECH
    """Regular expressions of what is not speech; default: remarks such as [noise] and (laughs).
    Other remarks in [], <> or {} are refused, words in () are kept.  An empty list drops nothing;
    the flag can be repeated."""
    digits: Literal["spell", "refuse", "keep"] = "spell"
    """Numbers: spell them out, refuse the utterance, or keep them as digits.  English spells
    ordinals (2nd), years (any ungrouped 1100 to 1999), thousands (1,000) and decimals (28.8),
    other languages whole numbers; 007 and numbers of more than 6 digits are read digit by digit.
    Numbers with several readings (3-5, 10:30, 1990s, 1 000) are refused."""
    language: str = ""
    """Language of spelt numbers, as num2words names it, and of case and apostrophes; default:
    numbers in English, and refused beside letters that English lacks."""
    keep_characters: str = "'"
    """Punctuation and format characters that belong to words; other punctuation separates words."""
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
        if self.language and not re.fullmatch(r"[A-Za-z]{2,3}([-_]\w+)*", self.language):
            raise UserError(
                f"--language {self.language}: not a language's code, such as de, pt_BR or haw"
            )
        for flag in ("keep_characters", "alphabet"):
            if any(c == "|" or c.isspace() for c in getattr(self, flag)):
                raise UserError(f"--{flag}: spaces and | separate words and cannot be part of them")


def is_language(language: str, codes: tuple[str, ...]) -> bool:
    """Whether a language tag, such as pt_BR, is of one of these languages."""
    return re.split("[-_]", language.lower())[0] in codes


@cache
def _compatible(character: str) -> str:
    """A character in its plain form: full-width A is A, a ligature is its letters.

    Refused where that would change what is read: ² is not 2, № is not No.
    """
    tag, *_ = unicodedata.decomposition(character).split(" ") or [""]
    category = unicodedata.category(character)
    if not tag.startswith("<") or category == "Lm":
        return character
    plain = unicodedata.normalize("NFKC", character)
    if tag == "<compat>" and category[0] not in "LPZM":
        raise Refused("symbol", f"{character!r} stands for a word")
    if tag in ("<super>", "<sub>", "<fraction>", "<circle>", "<square>"):
        raise Refused("symbol", f"{character!r} can be read in several ways")
    return plain


def change_case(text: str, case: str, language: str = "") -> str:
    """Text in "upper" or "lower" case by the rules of its language; "keep" changes nothing."""
    if case == "keep":
        return text
    if is_language(language, _DOTLESS):
        text = text.replace("i", "İ") if case == "upper" else text.replace("I", "ı")
        text = text if case == "upper" else text.replace("İ", "i")
    if case == "upper" and is_language(language, ("de",)):
        text = text.replace("ß", "ẞ")  # as SS, Maße and Masse would be one word
    if case == "upper":  # Georgian sentences have no capitals
        text = "".join(c if "ა" <= c <= "ჿ" else c.upper() for c in text)
    else:
        text = text.lower()
    return unicodedata.normalize("NFC", text)


def _is_inside(text: str, index: int) -> bool:
    """Whether the punctuation at `index` is written within a word."""
    character, around = text[index], text[max(index - 1, 0) : index] + text[index + 1 : index + 2]
    if character == "·":  # Catalan col·lecció
        return around in ("ll", "LL")
    if character == "'":
        return len(around) == 2 and around.isalpha()
    script = _INSIDE_WORDS.get(character)
    return bool(script) and all(unicodedata.name(c, "").startswith(script) for c in around)


def _words(text: str, options: CleanupOptions, taken: Counter[str]) -> str:
    """Letters and kept characters of a text, with spaces where anything else stood."""
    kept, done = [], 0
    for found in (_ANY if options.alphabet else _NOT_PLAIN).finditer(text):
        index, character = found.start(), found[0]
        kept.append(text[done:index])
        done = index + 1
        category = _category(character)
        if character.isspace():
            kept.append(" ")
        elif character in options.keep_characters:
            kept.append(character)
        elif category[0] in "LM" or (options.digits == "keep" and category == "Nd"):
            if options.alphabet and character not in options.alphabet:
                raise Refused("alphabet", f"letter {character!r} is not in it")
            kept.append(character)
        elif category[0] == "P":
            inside = _is_inside(text, index)
            if inside and character == "·" and is_language(options.language, ("ca",)):
                kept.append(character)
                continue
            taken[character] += 1
            kept.append("" if inside else " ")
        else:
            raise Refused("character", f"{character!r} is neither letter nor punctuation")
    return "".join(kept) + text[done:]


def clean(text: str, options: CleanupOptions, taken: Counter[str] | None = None) -> str:
    """Clean a transcript to words separated by single spaces; Refused, with the reason, if it
    cannot be.

    `taken`: counts what is removed, punctuation and remarks.
    """
    taken = Counter() if taken is None else taken
    if not text.strip():
        raise Refused("no transcript", "it is empty")
    glottal = is_language(options.language, _GLOTTAL)
    text = _apostrophes(text, options.language) if glottal else text.translate(APOSTROPHES)
    if not text.isascii():  # these change no ASCII character
        text = unicodedata.normalize("NFC", "".join(map(_compatible, text)))
        taken.update(_shown(c) for c in text if _is_format(c) and c not in options.keep_characters)
        text = "".join(_plain_format(c, options) for c in text)

    def dropped(match: re.Match[str]) -> str:
        taken[match[0]] += 1
        return " "

    for pattern in options.drop_pattern:
        text = re.sub(pattern, dropped, text)
    if remark := _REMARK.search(text):
        raise Refused("remark", f"{remark[0]!r} may stand for speech; --drop_pattern removes it")
    aloud = sorted(READ_ALOUD.intersection(text) - set(options.keep_characters))
    if aloud:
        raise Refused("symbol", f"{aloud[0]!r} stands for a word")
    if any(map(str.isdigit, text)):
        if options.digits == "refuse":
            raise Refused("digits", repr(text))
        if options.digits == "spell":
            text = spell_numbers(text, options.language)
    text = _words(change_case(text, options.case, options.language), options, taken)
    words = text.split()
    if not glottal and "'" in text:  # an apostrophe at a word's edge is a quotation mark
        taken["'"] += sum(len(word) - len(word.strip("'")) for word in words)
        words = [word.strip("'") for word in words]
    # Kept punctuation alone is not a word.
    words = [word for word in words if word.strip(options.keep_characters)]
    if not words:
        raise Refused("no words", "the clean-up removed all of them")
    return " ".join(words)


def _apostrophes(text: str, language: str) -> str:
    """A text of a language that has them as letters, with one character for each of the two."""
    if is_language(language, ("mt",)):
        return text.translate(APOSTROPHES)
    text = _TURNED_COMMA.sub("ʻ", text)
    if is_language(language, _OKINA):
        if re.search(r"(?<!\w)[‘`]\w", text) and re.search(r"\w’(?!\w)", text):
            raise Refused("apostrophe", "‘ and ’ may be letters or quotation marks")
        text = re.sub(r"(?<!\w)[‘`](?=\w)", "ʻ", text)
    return text.replace("’", "'").replace("´", "'")


def _is_format(character: str) -> bool:
    return _category(character) == "Cf" or character == _TATWEEL


def _shown(character: str) -> str:
    """An invisible character by its number."""
    return f"U+{ord(character):04X}"


def _plain_format(character: str, options: CleanupOptions) -> str:
    """A character, or what an invisible one stands for: a zero-width space separates words."""
    if not _is_format(character) or character in options.keep_characters:
        return character
    return " " if character == "\u200b" else ""


def spaceless_script(text: str) -> str:
    """The script of a letter in the text that belongs to one without spaces; "" if none does."""
    for character in text:
        if character > "\u0e00" and _category(character) == "Lo":
            script = unicodedata.name(character, "").partition(" ")[0]
            if script in _SPACELESS:
                return script
    return ""
