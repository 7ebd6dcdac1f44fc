"""The output units of a recogniser, and their numbers."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from common.errors import UserError
from common.manifest import write_lines

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
BLANK = 0
UNKNOWN = 3
WORD_END = "|"


class Vocabulary:
    """Symbols <-> ids: four special symbols (the first is the CTC blank), then the dictionary's.

    The order is fairseq's, so that fine-tuned checkpoints keep their meaning.
    """

    def __init__(self, symbols: Sequence[str]):
        """`symbols`: the dictionary's own, in file order, without the special ones."""
        self.symbols = (*SPECIALS, *symbols)
        self._ids = {symbol: index for index, symbol in enumerate(self.symbols)}
        if len(self._ids) != len(self.symbols):
            twice = [s for s, n in Counter(self.symbols).items() if n > 1]
            raise UserError(f"dictionary: symbol {twice[0]!r} is listed twice; remove one")

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, labels: str) -> list[int]:
        """A label line such as `H I |` -> ids; a symbol outside the dictionary becomes <unk>."""
        return [self._ids.get(symbol, UNKNOWN) for symbol in labels.split()]

    def unknown(self, labels: str) -> list[str]:
        """The symbols of a label line that the dictionary lacks."""
        return [symbol for symbol in labels.split() if symbol not in self._ids]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Ids -> symbols, special ones left out (except <unk>, which a reader should see)."""
        return [self.symbols[i] for i in ids if i >= len(SPECIALS) or self.symbols[i] == "<unk>"]

    @staticmethod
    def words(symbols: Iterable[str]) -> str:
        """Characters -> words: `H I | Y O U |` -> `HI YOU`."""
        return " ".join("".join(symbols).replace(WORD_END, " ").split())

    def to_text(self) -> str:
        """The dictionary as text, special symbols left out; `from_text` reads it back."""
        return "".join(f"{symbol}\n" for symbol in self.symbols[len(SPECIALS) :])

    @classmethod
    def from_text(cls, text: str, source: str | Path = "dictionary") -> "Vocabulary":
        """Parse `symbol count` lines (the count may be absent); UserError names the line."""
        symbols = []
        for number, line in enumerate(text.splitlines(), start=1):
            fields = line.split()
            if not fields:
                continue
            if len(fields) > 2 or (len(fields) == 2 and not fields[1].isdigit()):
                raise UserError(
                    f"{source}:{number}: expected 'symbol count' like 'E 1089', got {line!r}"
                )
            symbols.append(fields[0])
        if not symbols:
            raise UserError(f"{source}: lists no symbols; a line looks like 'E 1089'")
        return cls(symbols)

    @classmethod
    def read(cls, path: str | Path) -> "Vocabulary":
        """Read `dict.ltr.txt`; UserError if it is missing or a line does not parse."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise UserError(
                f"{path}: dictionary cannot be read ({reason}); "
                "write it with scripts/generate_filelists.sh or utils/import_corpus.py"
            ) from None
        return cls.from_text(text, path)


def write_dictionary(path: str | Path, label_lines: Iterable[str]) -> None:
    """Count the symbols of label lines and write `symbol count`, most frequent first."""
    counts = Counter(symbol for line in label_lines for symbol in line.split())
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    write_lines(path, (f"{symbol} {count}" for symbol, count in ordered))
