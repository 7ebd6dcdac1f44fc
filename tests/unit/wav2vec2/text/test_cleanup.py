"""The clean-up of transcripts: nothing that was spoken is lost, nothing wrong is added."""

import sys
import unicodedata
from collections import Counter

import pytest

from wav2vec2.cli.errors import UserError
from wav2vec2.text.cleanup import CleanupOptions, change_case, clean, spaceless_script
from wav2vec2.text.refusal import Refused


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Agent's  ‘logged’ on.\tPress 2 now [beep]", "AGENT'S LOGGED ON PRESS TWO NOW"),
        ("the 2nd of May 1984, 3D", "THE SECOND OF MAY NINETEEN EIGHTY FOUR THREE D"),
        ("1,234.50", "ONE THOUSAND TWO HUNDRED AND THIRTY FOUR POINT FIVE ZERO"),
        ("-5 or A-5", "MINUS FIVE OR A FIVE"),
        ("007", "ZERO ZERO SEVEN"),
        ("5551234", "FIVE FIVE FIVE ONE TWO THREE FOUR"),
        ("1,000,000", "ONE MILLION"),
        ("A.M. well-known", "A M WELL KNOWN"),
        ("don´t (laughs) <noise/> na\u0308ive\u200b", "DON'T NÄIVE"),
        ("Berlin (Germany) in May [loud laughter]", "BERLIN GERMANY IN MAY"),
        ("{NOISE} so {breath} um", "SO UM"),
        ("ＡＢ ﬁve…six", "AB FIVE SIX"),
    ],
)
def test_clean(text, expected):
    assert clean(text, CleanupOptions()) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("3-5", "number"),
        ("10:30", "number"),
        ("1.2.3", "number"),
        ("the 1990s", "number"),
        ("50%", "symbol"),
        ("press #", "symbol"),
        ("smile ☺", "character"),
        ("room № 5", "symbol"),
        ("12 m²", "symbol"),
        ("½ hour", "symbol"),
        ("chapter Ⅳ", "symbol"),
        ("5 ٪", "symbol"),
        ("1 000 people", "number"),
        ("1\u202f000 people", "number"),
        ("le 1er janvier", "number"),
        ("5kg", "number"),
        ("12 km", "number"),
        ("a 2x4", "number"),
        (".5 percent", "number"),
        ("No. 5", "number"),
        ("5′ 3″", "symbol"),
        ("₹5", "character"),
        ("so <unk> it", "remark"),
        ("so [unintelligible] it", "remark"),
        ("so (()) it", "remark"),
        ("so {um} it", "remark"),
        ("ich habe 21 Bücher", "digits"),
        ("у меня 3 дома", "digits"),
        ("دارم ۳ کتاب", "digits"),
        ("[noise]", "no words"),
        ("  ", "no transcript"),
    ],
)
def test_clean_refuses_what_it_cannot_spell(text, reason):
    with pytest.raises(Refused) as refused:
        clean(text, CleanupOptions())
    assert refused.value.reason == reason


def test_clean_options():
    assert clean("Room 12", CleanupOptions(digits="keep", case="lower")) == "room 12"
    assert clean("Straße", CleanupOptions(case="keep")) == "Straße"
    assert clean("um yes", CleanupOptions(drop_pattern=(r"\bum\b",))) == "YES"
    assert clean("(yes)", CleanupOptions(drop_pattern=())) == "YES"
    assert clean("well-known - it's", CleanupOptions(keep_characters="-")) == "WELL-KNOWN ITS"
    assert clean("tengo 1984", CleanupOptions(language="es")) == (
        "TENGO MIL NOVECIENTOS OCHENTA Y CUATRO"
    )
    with pytest.raises(Refused, match="several ways"):  # a decimal there, thousands elsewhere
        clean("1,5", CleanupOptions(language="es"))
    with pytest.raises(Refused, match="digits"):
        clean("Room 12", CleanupOptions(digits="refuse"))
    with pytest.raises(Refused, match="'É'"):
        clean("café", CleanupOptions(alphabet="ACF"))
    with pytest.raises(UserError, match="--drop_pattern"):
        CleanupOptions(drop_pattern=("(",))
    with pytest.raises(UserError, match="--keep_characters"):
        CleanupOptions(keep_characters="'|")
    for name in ("german", "Deutsch", "d"):
        with pytest.raises(UserError, match=f"--language {name}: not a language's code"):
            CleanupOptions(language=name)
    with pytest.raises(UserError, match="--language xx"):
        clean("12", CleanupOptions(language="xx"))


def test_num2words_is_needed_for_numbers_only(monkeypatch):
    monkeypatch.setitem(sys.modules, "num2words", None)
    assert clean("no number", CleanupOptions()) == "NO NUMBER"
    with pytest.raises(UserError, match="pip install num2words"):
        clean("12", CleanupOptions())
    assert clean("12", CleanupOptions(digits="keep")) == "12"


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("de", "ich habe 21 Bücher", "ICH HABE EINUNDZWANZIG BÜCHER"),
        ("fa", "دارم ۳ کتاب", "دارم سه کتاب"),
        ("fr", "il a 12 ans. Et 3 chats.", "IL A DOUZE ANS ET TROIS CHATS"),
        ("es_MX", "son 16 gatos", "SON DIECISÉIS GATOS"),
        ("es", "son 102 gatos. Y 200.", "SON CIENTO DOS GATOS Y DOSCIENTOS"),
        ("hu", "3 könyv", "HÁROM KÖNYV"),
        ("tr", "5 gün", "BEŞ GÜN"),
        ("it", "8 case", "OTTO CASE"),
        ("de", "Zimmer 1", "ZIMMER EINS"),
    ],
)
def test_numbers_of_a_language(language, text, expected):
    assert clean(text, CleanupOptions(language=language)) == expected


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("fr", "1 000 euros"),
        ("fr", "le 1er mai"),
        ("fr", "21 maisons"),
        ("de", "am 2. Mai"),
        ("de", "Karl der 2."),
        ("de", "ich habe 1 Buch"),
        ("es", "el 3r piso"),
        ("ru", "21 книга"),
        ("cs", "kapitola 2. začíná"),
        ("ru", "2 книги"),
        ("pl", "w 5 domach"),
        ("ar", "لدي ٣ كتب"),
        ("ko", "3 명"),
        ("pt", "2 meninas"),
        ("es", "200 casas"),
        ("ro", "12 case"),
        ("hu", "2 könyv"),
        ("de", "im Jahr 1985"),
        ("sv", "år 1750"),
        ("fr", "à 12 h 30"),
        ("fr", "la p. 12"),
        ("tr", "saat 5'te"),
    ],
)
def test_numbers_with_several_readings_are_refused(language, text):
    with pytest.raises(Refused) as refused:
        clean(text, CleanupOptions(language=language))
    assert refused.value.reason == "number"


GLUED = [
    "نعم،لا",
    "هل؟نعم",
    "गया।फिर",
    "ሰላም፡ዓለም",
    "ဟုတ်။မဟုတ်",
    "はい。いいえ",
    "A•B",
    "sí·no",
    "a“b",
    "a‚b",
]


@pytest.mark.parametrize("text", GLUED)
def test_punctuation_of_any_script_separates_words(text):
    assert len(clean(text, CleanupOptions()).split()) == 2


def test_no_punctuation_glues_letters():
    glued = []
    for character in map(chr, range(0x80, 0x20000)):
        if unicodedata.category(character)[0] == "P":
            try:
                glued += [character] * (clean(f"A{character}B", CleanupOptions()) == "AB")
            except Refused:
                continue
    assert glued == []


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("ի՞նչ է", "", "Ի\u0546Չ Է"),
        ("צה״ל", "", "צהל"),
        ("la col·lecció", "ca", "LA COL·LECCIÓ"),
        ("la col·lecció", "", "LA COLLECCIÓ"),
        ("ʻāina", "haw", "ʻĀINA"),
        ("‘ōlelo Hawai‘i", "haw", "ʻŌLELO HAWAIʻI"),
        ("fa`alavelave", "sm", "FAʻALAVELAVE"),
        ("o‘zbek va g‘alaba, ma’no", "uz", "OʻZBEK VA GʻALABA MA'NO"),
        ("‘o‘zbek’", "en", "O'ZBEK"),
        ("ta’ Malta", "mt", "TA' MALTA"),
        ("м’ята м'ята", "uk", "М'ЯТА М'ЯТА"),
        ("ng’ombe", "sw", "NG'OMBE"),
        ("ta' Malta", "mt", "TA' MALTA"),
        ("oʻzbek maʼno", "uz", "OʻZBEK MAʼNO"),
        ("'quoted' words", "en", "QUOTED WORDS"),
    ],
)
def test_marks_within_words(text, language, expected):
    assert clean(text, CleanupOptions(language=language)) == expected


def test_marks_that_may_be_letters_or_quotation_marks_are_refused():
    with pytest.raises(Refused, match="quotation"):
        clean("‘ōlelo wahi’", CleanupOptions(language="haw"))


def test_arabic_letters_and_marks():
    taken = Counter()
    assert clean("كتـــاب مُحَمَّد", CleanupOptions(), taken) == "كتاب مُحَمَّد"
    assert +taken == {"U+0640": 3}
    assert clean("ﻛﺘﺎﺏ", CleanupOptions()) == "كتاب"  # forms of letters for print


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("สวัสดี", "THAI"),
        ("ສະບາຍດີ", "LAO"),
        ("សួស្តី", "KHMER"),
        ("你好", "CJK"),
        ("こんにちは", "HIRAGANA"),
        ("hello नमस्ते 안녕", ""),
    ],
)
def test_scripts_without_spaces(text, script):
    assert spaceless_script(text) == script


def test_format_characters_are_kept_where_they_are_named():
    text = "می\u200cرود خانه\u200cها"
    assert clean(text, CleanupOptions(keep_characters="\u200c")) == text
    assert clean(text, CleanupOptions()) == text.replace("\u200c", "")
    assert clean("ក\u200bខ", CleanupOptions()) == "ក ខ"


@pytest.mark.parametrize(
    ("language", "case", "text", "expected"),
    [
        ("tr", "upper", "Bir ılık gün İzmir Iğdır", "BİR ILIK GÜN İZMİR IĞDIR"),
        ("tr", "lower", "Bir ılık gün İzmir Iğdır", "bir ılık gün izmir ığdır"),
        ("az", "lower", "ISTI İSTİ", "ıstı isti"),
        ("", "upper", "i ı", "I I"),
        ("de", "upper", "Maße Masse", "MAẞE MASSE"),
        ("de", "lower", "MAẞE", "maße"),
        ("", "upper", "Straße", "STRASSE"),
        ("el", "lower", "ΟΔΟΣ", "οδος"),
        ("ka", "upper", "ქართული ენა", "ქართული ენა"),
        ("", "keep", "Keep iI", "Keep iI"),
    ],
)
def test_case_by_language(language, case, text, expected):
    result = change_case(text, case, language)
    assert result == expected == unicodedata.normalize("NFC", result)


def test_what_is_taken_away_is_counted():
    taken = Counter()
    options = CleanupOptions()
    clean("Well, [noise] 'yes', she said.", options, taken)
    clean("No [noise]", options, taken)
    assert +taken == {"[noise]": 2, ",": 2, "'": 2, ".": 1}
