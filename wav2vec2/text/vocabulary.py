"""The output units of a recogniser and their ids."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from enum import Enum
from pathlib import Path

from wav2vec2.cli.errors import UserError
from wav2vec2.files.gate import regular_file
from wav2vec2.files.output import write_lines
from wav2vec2.files.text import read_text, split_lines
from wav2vec2.text.subwords import WORD_START, SubwordModel

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
UNKNOWN = SPECIALS.index("<unk>")
RESERVED = frozenset(SPECIALS) - {"<unk>"}
"""Symbols that no label may contain; <unk> may stand for what a transcriber did not understand."""
WORD_END = "|"


def refuse_reserved(labels: str, place: str, key: str) -> None:
    """UserError, naming `place` and utterance `key`, if a label line has a symbol of RESERVED."""
    for symbol in labels.split():
        if symbol in RESERVED:
            raise UserError(
                f"{place}: {symbol!r} (utterance {key}) is one of the model's own symbols, not "
                "speech; remove it from the label line"
            )


def letters(words: str) -> str:
    """Spell a transcript the .ltr way: `HI YOU` -> `H I | Y O U |`."""
    return " ".join(character for word in words.split() for character in (*word, WORD_END))


class Spelling(Enum):
    """How units spell words, and so what a word error rate counts."""

    LETTERS = "letters"
    """`H I | Y O U |`: units are joined, `|` ends a word."""
    PIECES = "pieces"
    """`▁HI ▁YO U`: units are joined, `▁` starts a word."""
    TOKENS = "tokens"
    """`HH AY Y UW`: each unit counts as a word."""

    @property
    def unit_rate(self) -> str:
        """The name of the error rate of units: `CER` where they are letters, else `UER`."""
        return "CER" if self is Spelling.LETTERS else "UER"

    @classmethod
    def of(cls, symbols: Iterable[str]) -> "Spelling":
        """The spelling of a dictionary with these symbols."""
        symbols = set(symbols)
        if any(symbol.startswith(WORD_START) for symbol in symbols):
            return cls.PIECES
        return cls.LETTERS if WORD_END in symbols else cls.TOKENS

    def words(self, symbols: Iterable[str]) -> str:
        """Units -> words separated by spaces: `H I | Y O U |` -> `HI YOU`."""
        if self is Spelling.TOKENS:
            return " ".join(symbols)
        mark = WORD_END if self is Spelling.LETTERS else WORD_START
        return " ".join("".join(symbols).replace(mark, " ").split())


class Vocabulary:
    """Symbols <-> ids: four special symbols (the first is the CTC blank), then the dictionary's.

    The order is fairseq's, so that fine-tuned checkpoints keep their meaning.
    """

    def __init__(
        self,
        symbols: Sequence[str],
        spelling: Spelling = Spelling.LETTERS,
        subwords: SubwordModel | None = None,
        *,
        repeated: bool = False,
    ):
        """`symbols`: of the dictionary, in file order, without the special ones; `subwords`: the
        model that splits words into them, if they are pieces.

        `repeated`: several units may be written alike, as in some models of other toolkits; labels
        then mean the first.  Default is UserError.
        """
        self.spelling, self.subwords = spelling, subwords
        self.symbols = (*SPECIALS, *symbols)
        numbered = list(enumerate(self.symbols))
        self._ids = {symbol: index for index, symbol in reversed(numbered)}
        if self.repeats and not repeated:
            twice = [s for s, n in Counter(self.symbols).items() if n > 1]
            raise UserError(f"dictionary: symbol {twice[0]!r} is listed twice; remove one")

    @property
    def repeats(self) -> bool:
        """Whether several units are written alike."""
        return len(self._ids) != len(self.symbols)

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, labels: str) -> list[int]:
        """A label line such as `H I |` -> ids; a symbol outside the dictionary becomes <unk>."""
        return [self._ids.get(symbol, UNKNOWN) for symbol in labels.split()]

    def spell(self, words: str) -> str:
        """Words -> label line: `HI YOU` -> `H I | Y O U |`; tokens stand for themselves."""
        if self.spelling is Spelling.LETTERS:
            return letters(words)
        return self.subwords.encode(words) if self.subwords else " ".join(words.split())

    def unknown(self, labels: str) -> list[str]:
        """The symbols of a label line that the dictionary lacks; it has no special symbols."""
        return [s for s in labels.split() if s not in self._ids or s in SPECIALS]

    def list_unknown(self, label_lines: Iterable[str]) -> str:
        """The symbols the dictionary lacks, most frequent first: `'Ñ' 2x, 'Ö' 1x`; '' if none."""
        counts = Counter(symbol for line in label_lines for symbol in self.unknown(line))
        listed = ", ".join(f"{symbol!r} {count}x" for symbol, count in counts.most_common(10))
        return f"{listed}, ..." if len(counts) > 10 else listed

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Ids -> symbols, without special ones, except <unk>, which a reader should see."""
        return [self.symbols[i] for i in ids if i >= len(SPECIALS) or i == UNKNOWN]

    def words(self, symbols: Iterable[str]) -> str:
        """Symbols -> words separated by spaces; see Spelling."""
        return self.spelling.words(symbols)

    def to_text(self) -> str:
        """The dictionary as text, without special symbols; `parse_dictionary` reads it."""
        return "".join(f"{symbol}\n" for symbol in self.symbols[len(SPECIALS) :])

    @classmethod
    def from_file(cls, path: str | Path) -> "Vocabulary":
        """Read `dict.<labels>.txt`, and `<labels>.model` beside it if its symbols are pieces.

        UserError if one is missing, a line does not parse, or the two have different pieces.
        """
        path = Path(path)
        if path.exists():  # a pipe would wait for ever
            regular_file(path)
        text = read_text(
            path,
            fix="write the dictionary with scripts/generate_filelists.sh, "
            "utils/data/import_corpus.py or utils/data/train_sentencepiece.py, or by hand for "
            "labels of your own",
        )
        symbols = parse_dictionary(text, path, SPECIALS)
        spelling = Spelling.of(symbols)
        if spelling is not Spelling.PIECES:
            return cls(symbols, spelling)
        labels = path.name.removeprefix("dict.").removesuffix(".txt")
        subwords = SubwordModel.from_file(path.with_name(f"{labels}.model"))
        differing = sorted(set(symbols) ^ set(subwords.pieces))
        if differing:
            raise UserError(
                f"{path}: does not list the pieces of {labels}.model ({differing[0]!r} is in one "
                "only); write both again with utils/data/train_sentencepiece.py"
            )
        return cls(symbols, spelling, subwords)


def parse_dictionary(text: str, source: str | Path, refused: Collection[str] = ()) -> list[str]:
    """The symbols of `symbol count` lines (the count may be absent); UserError names the line.

    `refused`: the model's own symbols, which a user's dictionary must not list.  In that of
    another toolkit's checkpoint they may be ordinary tokens, with another one as the blank.
    """
    symbols = []
    for number, line in enumerate(split_lines(text), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) > 2 or (len(fields) == 2 and not fields[1].isdigit()):
            raise UserError(
                f"{source}:{number}: expected 'symbol count' like 'E 1089', got {line[:100]!r}"
            )
        if fields[0] in refused:
            raise UserError(
                f"{source}:{number}: {fields[0]!r} is one of the model's own symbols, which a "
                "dictionary does not list; remove the line"
            )
        symbols.append(fields[0])
    if not symbols:
        raise UserError(f"{source}: lists no symbols; a line looks like 'E 1089'")
    return symbols


def write_dictionary(path: str | Path, label_lines: Iterable[str]) -> None:
    """Count the symbols of label lines and write `symbol count`, most frequent first."""
    counts: Counter[str] = Counter()
    for line in label_lines:
        counts.update(line.split())
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    write_lines(path, (f"{symbol} {count}" for symbol, count in ordered))
