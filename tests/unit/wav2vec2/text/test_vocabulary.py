import pytest

from tests.unit.wav2vec2.text.test_subwords import learn
from wav2vec2.cli.errors import UserError
from wav2vec2.ctc import BLANK
from wav2vec2.text.vocabulary import (
    SPECIALS,
    UNKNOWN,
    Spelling,
    Vocabulary,
    letters,
    parse_dictionary,
    write_dictionary,
)


def test_order_is_special_symbols_then_the_file():
    vocabulary = Vocabulary(parse_dictionary("| 10\nE 5\nT 3\n", "dictionary"))
    assert vocabulary.symbols == ("<s>", "<pad>", "</s>", "<unk>", "|", "E", "T")
    assert BLANK == 0 and vocabulary.symbols[BLANK] == "<s>"
    assert vocabulary.encode("T E |") == [6, 5, 4]


def test_unknown_symbols():
    vocabulary = Vocabulary(["|", "A"])
    assert vocabulary.encode("A Ä |") == [5, UNKNOWN, 4]
    assert vocabulary.unknown("A Ä |") == ["Ä"]
    assert vocabulary.decode([5, UNKNOWN]) == ["A", "<unk>"]


def test_special_symbols_are_in_no_dictionary():
    """A label <s> would be the blank; <unk> is known only where the user asks for it."""
    vocabulary = Vocabulary(["|", "A"])
    assert vocabulary.unknown("<s> A <unk> | <pad> </s>") == ["<s>", "<unk>", "<pad>", "</s>"]


@pytest.mark.parametrize("symbol", ["<s>", "<pad>", "</s>", "<unk>"])
def test_a_dictionary_does_not_list_special_symbols(symbol):
    with pytest.raises(UserError, match=f"d:2: '{symbol}' is one of the model's own symbols"):
        parse_dictionary(f"A 1\n{symbol} 1\n", "d", SPECIALS)


def test_only_a_line_feed_ends_an_entry_of_a_dictionary():
    with pytest.raises(UserError, match=r"d:1: expected 'symbol count'"):
        parse_dictionary("A 1\u2028B 2\n", "d")


def test_decode_leaves_special_symbols_out():
    assert Vocabulary(["|", "A"]).decode([0, 1, 2, 5, 4]) == ["A", "|"]


@pytest.mark.parametrize(
    ("spelling", "symbols", "words"),
    [
        (Spelling.LETTERS, "H I | Y O |", "HI YO"),
        (Spelling.LETTERS, "| | H | |", "H"),
        (Spelling.LETTERS, "", ""),
        (Spelling.PIECES, "▁HI ▁YO U", "HI YOU"),
        (Spelling.PIECES, "H I ▁ ▁ Y ▁", "HI Y"),
        (Spelling.PIECES, "▁A <unk>", "A<unk>"),
        (Spelling.TOKENS, "HH AY Y UW", "HH AY Y UW"),
        (Spelling.TOKENS, "", ""),
    ],
)
def test_words(spelling, symbols, words):
    assert spelling.words(symbols.split()) == words
    assert Vocabulary(["A"], spelling).words(symbols.split()) == words


@pytest.mark.parametrize(
    ("symbols", "spelling"),
    [
        ("E T |", Spelling.LETTERS),
        ("HH AY", Spelling.TOKENS),
        ("▁ E T", Spelling.PIECES),
        ("▁THE |", Spelling.PIECES),  # a piece of a text with '|', not a separator
    ],
)
def test_spelling_follows_from_the_dictionary(symbols, spelling):
    assert Spelling.of(symbols.split()) is spelling


def test_list_unknown():
    vocabulary = Vocabulary(["|", "A"])
    assert vocabulary.list_unknown(["A Ä |", "Ö Ä |"]) == "'Ä' 2x, 'Ö' 1x"
    assert vocabulary.list_unknown(["A |"]) == ""
    assert vocabulary.list_unknown(["b c d e f g h i j k l"]).endswith("'k' 1x, ...")


def pieces(tmp_path):
    """A dictionary and a model that belong together."""
    model = learn(["AN BE AN", "BE"], vocab_size=6)
    (tmp_path / "spm.model").write_bytes(model.content)
    (tmp_path / "dict.spm.txt").write_text("".join(f"{piece} 0\n" for piece in model.pieces))
    return tmp_path / "dict.spm.txt"


def test_pieces_are_read_with_their_model(tmp_path):
    vocabulary = Vocabulary.from_file(pieces(tmp_path))
    assert vocabulary.spelling is Spelling.PIECES
    line = vocabulary.subwords.encode("AN  BE")
    assert UNKNOWN not in vocabulary.encode(line)
    assert vocabulary.words(line.split()) == "AN BE"


def test_pieces_without_their_model(tmp_path):
    path = pieces(tmp_path)
    (tmp_path / "spm.model").unlink()
    with pytest.raises(UserError, match=r"spm\.model: .* cannot be read .*train_sentencepiece"):
        Vocabulary.from_file(path)
    (tmp_path / "spm.model").write_bytes(b"noise")
    with pytest.raises(UserError, match=r"spm\.model: not a sentencepiece model"):
        Vocabulary.from_file(path)


def test_pieces_of_another_model(tmp_path):
    path = pieces(tmp_path)
    (tmp_path / "spm.model").write_bytes(learn(["ON"], vocab_size=3).content)
    with pytest.raises(UserError, match=r"dict\.spm\.txt: does not list the pieces of spm\.model"):
        Vocabulary.from_file(path)


def test_dictionary_round_trip(tmp_path):
    write_dictionary(tmp_path / "dict.ltr.txt", ["B A | A |", "A |"])
    assert (tmp_path / "dict.ltr.txt").read_text() == "A 3\n| 3\nB 1\n"
    vocabulary = Vocabulary.from_file(tmp_path / "dict.ltr.txt")
    assert vocabulary.symbols[4:] == ("A", "|", "B")
    again = Vocabulary(parse_dictionary(vocabulary.to_text(), "dictionary"))
    assert again.symbols == vocabulary.symbols


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no symbols"),
        ("A 1\nB x\n", ":2: expected 'symbol count'"),
        ("A 1 2\n", ":1: expected 'symbol count'"),
        ("A 1\nA 2\n", "'A' is listed twice"),
        ("<pad> 1\n", "'<pad>' is one of the model's own symbols"),
    ],
)
def test_bad_dictionaries(tmp_path, text, message):
    path = tmp_path / "dict.ltr.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        Vocabulary.from_file(path)


def test_missing_dictionary(tmp_path):
    with pytest.raises(UserError, match=r"dict\.ltr\.txt: cannot be read"):
        Vocabulary.from_file(tmp_path / "dict.ltr.txt")
    (tmp_path / "dict.ltr.txt").write_bytes(b"\xff 1\n")
    with pytest.raises(UserError, match=r"dict\.ltr\.txt: .*\(not UTF-8 text\)"):
        Vocabulary.from_file(tmp_path / "dict.ltr.txt")


def test_counts_and_blank_lines_are_optional():
    assert Vocabulary(parse_dictionary("|\n\nA 3\n", "dictionary")).symbols[4:] == ("|", "A")


def test_letters():
    assert letters("HELLO WORLD") == "H E L L O | W O R L D |"
