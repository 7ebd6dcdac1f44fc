import pytest

from common.errors import UserError
from common.vocabulary import BLANK, UNKNOWN, Vocabulary, write_dictionary


def test_order_is_special_symbols_then_the_file():
    vocabulary = Vocabulary.from_text("| 10\nE 5\nT 3\n")
    assert vocabulary.symbols == ("<s>", "<pad>", "</s>", "<unk>", "|", "E", "T")
    assert BLANK == 0 and vocabulary.symbols[BLANK] == "<s>"
    assert vocabulary.encode("T E |") == [6, 5, 4]


def test_unknown_symbols():
    vocabulary = Vocabulary(["|", "A"])
    assert vocabulary.encode("A Ä |") == [5, UNKNOWN, 4]
    assert vocabulary.unknown("A Ä |") == ["Ä"]
    assert vocabulary.decode([5, UNKNOWN]) == ["A", "<unk>"]


def test_decode_leaves_special_symbols_out():
    assert Vocabulary(["|", "A"]).decode([0, 1, 2, 5, 4]) == ["A", "|"]


def test_words():
    assert Vocabulary([]).words(["H", "I", "|", "Y", "O", "|"]) == "HI YO"
    assert Vocabulary([]).words(["|", "|", "H", "|", "|"]) == "H"
    assert Vocabulary([]).words([]) == ""


def test_dictionary_round_trip(tmp_path):
    write_dictionary(tmp_path / "dict.ltr.txt", ["B A | A |", "A |"])
    assert (tmp_path / "dict.ltr.txt").read_text() == "A 3\n| 3\nB 1\n"
    vocabulary = Vocabulary.read(tmp_path / "dict.ltr.txt")
    assert vocabulary.symbols[4:] == ("A", "|", "B")
    assert Vocabulary.from_text(vocabulary.to_text()).symbols == vocabulary.symbols


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no symbols"),
        ("A 1\nB x\n", ":2: expected 'symbol count'"),
        ("A 1 2\n", ":1: expected 'symbol count'"),
        ("A 1\nA 2\n", "'A' is listed twice"),
        ("<pad> 1\n", "'<pad>' is listed twice"),
    ],
)
def test_bad_dictionaries(tmp_path, text, message):
    path = tmp_path / "dict.ltr.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        Vocabulary.read(path)


def test_missing_dictionary(tmp_path):
    with pytest.raises(UserError, match=r"dict\.ltr\.txt: dictionary cannot be read"):
        Vocabulary.read(tmp_path / "dict.ltr.txt")
    (tmp_path / "dict.ltr.txt").write_bytes(b"\xff 1\n")
    with pytest.raises(UserError, match=r"dict\.ltr\.txt: .*\(not UTF-8 text\)"):
        Vocabulary.read(tmp_path / "dict.ltr.txt")


def test_counts_and_blank_lines_are_optional():
    assert Vocabulary.from_text("|\n\nA 3\n").symbols[4:] == ("|", "A")
