"""Sub-word units: a sentencepiece model, kept as bytes because checkpoints carry it."""

from pathlib import Path

from wav2vec2.cli.errors import UserError
from wav2vec2.files.folders import require_no_pipe

WORD_START = "▁"
"""Sentencepiece's mark of the start of a word (U+2581, not an underscore)."""


class SubwordModel:
    """Splits transcripts into sub-word pieces."""

    def __init__(self, content: bytes, source: str | Path):
        """`content`: bytes of a .model file; UserError, naming `source`, if they are not."""
        import sentencepiece  # only models of sub-words need it

        self.content = content
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.load_from_serialized_proto(content)
        except RuntimeError:
            raise UserError(
                f"{source}: not a sentencepiece model; write it with "
                "utils/data/train_sentencepiece.py"
            ) from None

    @classmethod
    def from_file(cls, path: Path) -> "SubwordModel":
        """Read a .model file; UserError if it is missing or not a model."""
        try:
            require_no_pipe(path)
            content = path.read_bytes()
        except OSError as error:
            raise UserError(
                f"{path}: sentencepiece model cannot be read ({error.strerror}); write it with "
                "utils/data/train_sentencepiece.py"
            ) from None
        return cls(content, path)

    @property
    def pieces(self) -> list[str]:
        """All pieces in the model's order, without its own special symbols."""
        model = self._processor
        special = {i for i in range(len(model)) if model.is_unknown(i) or model.is_control(i)}
        return [model.id_to_piece(i) for i in range(len(model)) if i not in special]

    def encode(self, words: str) -> str:
        """A transcript as a label line: `HI YOU` -> `▁HI ▁YO U`.

        Characters that the model does not know stay as they are; the dictionary then lacks them.
        """
        return " ".join(self._processor.encode(" ".join(words.split()), out_type=str))
