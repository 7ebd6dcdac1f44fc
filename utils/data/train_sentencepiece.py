"""Learn sub-word units from transcripts, as labels for fine-tuning with `--labels spm`.

    python -m utils.data.train_sentencepiece --dataset_dir datasets/mine --train_subset train \\
        --subsets valid test --vocab_size 100

Writes `spm.model`, `dict.spm.txt` with its pieces, and `<subset>.spm` with each transcript of
`<subset>.wrd` cut into them, all beside the filelists.  The same words and flags give the same
files.  Everything is read, learnt and cut before anything is written.
"""

import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import sentencepiece

from wav2vec2.cli.errors import UserError, run_command
from wav2vec2.cli.flags import ArgumentParser, parse_dataclasses
from wav2vec2.files.filelists import read_labels, read_manifest
from wav2vec2.files.output import write_chunks, write_lines
from wav2vec2.text.subwords import SubwordModel
from wav2vec2.text.vocabulary import Spelling, Vocabulary

TAKEN = ("tsv", "wrd", "ltr")
"""Extensions of a data set's other files."""


@dataclass(frozen=True)
class SentencepieceOptions:
    """Sub-word units"""

    dataset_dir: str
    """Folder of the filelists and transcripts; results go there too."""
    train_subset: str
    """Subset whose words (.wrd) the model learns from; its labels are written."""
    subsets: tuple[str, ...] = ()
    """Further subsets to write labels of, such as those to validate and test on."""
    labels: str = "spm"
    """Name of the labels: files <labels>.model, dict.<labels>.txt, <subset>.<labels>."""
    model_type: Literal["unigram", "bpe"] = "unigram"
    """How pieces are chosen: the likeliest (Kudo 2018) or merged pair by pair (Sennrich 2016)."""
    vocab_size: int = 1000
    """Pieces to learn: the lines of dict.<labels>.txt."""
    character_coverage: float = 1.0
    """Share of the text whose characters become pieces, 0.98 to 1; the rarest are unknown."""

    def __post_init__(self) -> None:
        if self.vocab_size < 1:
            raise UserError(f"--vocab_size {self.vocab_size}: must be at least 1")
        if not 0.98 <= self.character_coverage <= 1:
            raise UserError(
                f"--character_coverage {self.character_coverage}: must lie between 0.98 and 1"
            )
        if self.labels in TAKEN or not re.fullmatch(r"[\w-]+", self.labels):
            raise UserError(
                f"--labels {self.labels}: must be letters and digits, and none of "
                f"{', '.join(TAKEN)}; choose another, such as spm"
            )


def train(lines: Sequence[str], options: SentencepieceOptions) -> SubwordModel:
    """Learn a model from transcripts; UserError if they do not hold `vocab_size` pieces."""
    content = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=content,
            model_type=options.model_type,
            vocab_size=options.vocab_size + 1,  # sentencepiece counts its <unk>, we have our own
            character_coverage=options.character_coverage,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            normalization_rule_name="identity",  # joined again, pieces are the transcript itself
            max_sentence_length=max(len(line.encode()) for line in lines),  # longer are dropped
            num_threads=1,  # sums in one order: the same model each time
            minloglevel=3,  # what goes wrong is raised
        )
    except RuntimeError as error:
        raise UserError(_explain(str(error), options)) from None
    return SubwordModel(content.getvalue(), f"{options.labels}.model")


def _explain(message: str, options: SentencepieceOptions) -> str:
    """Sentencepiece's complaint in terms of our flags."""
    words = f"the words of {options.train_subset}.wrd"
    size = f"--vocab_size {options.vocab_size}"
    if most := re.search(r"too high .*<= (\d+)", message):
        return f"{size}: {words} give at most {int(most[1]) - 1} pieces; lower it to that or less"
    if least := re.search(r"required_chars.* vs (\d+)", message):
        return (
            f"{size}: {words} need {int(least[1]) - 1} for single characters alone; raise it, or "
            "lower --character_coverage"
        )
    return f"{options.train_subset}.wrd: sentencepiece cannot learn from it: {message}"


def main() -> None:
    parser = ArgumentParser(
        prog="utils.data.train_sentencepiece", description=__doc__.splitlines()[0]
    )
    (options,) = parse_dataclasses(parser, [SentencepieceOptions])
    folder = Path(options.dataset_dir)
    subsets = dict.fromkeys((options.train_subset, *options.subsets))
    words = {
        subset: list(read_labels(read_manifest(folder, subset), "wrd").values())
        for subset in subsets
    }
    model = train([" ".join(line.split()) for line in words[options.train_subset]], options)
    file = folder / f"{options.labels}.model"
    if file.exists() and file.read_bytes() != model.content:
        raise UserError(
            f"{file}: holds another model, of other words or flags; give the new one another name "
            "with --labels, or remove it"
        )
    labels = {subset: [model.encode(line) for line in lines] for subset, lines in words.items()}
    counts = Counter(piece for line in labels[options.train_subset] for piece in line.split())
    pieces = sorted(model.pieces, key=lambda piece: -counts[piece])
    vocabulary = Vocabulary(pieces, Spelling.PIECES, model)

    for subset, lines in labels.items():
        write_lines(folder / f"{subset}.{options.labels}", lines)
        units = sum(len(line.split()) for line in lines)
        per_word = units / sum(len(line.split()) for line in words[subset])
        unknown = vocabulary.count_unknown(lines)
        print(
            f"{folder / subset}.{options.labels}: {len(lines)} utterances, {per_word:.2f} units a "
            f"word{', characters without a piece: ' if unknown else ''}{unknown}"
        )
    write_lines(
        folder / f"dict.{options.labels}.txt", (f"{piece} {counts[piece]}" for piece in pieces)
    )
    write_chunks(file, [model.content])
    print(f"{file}: {len(pieces)} {options.model_type} pieces")


if __name__ == "__main__":
    run_command(main)
