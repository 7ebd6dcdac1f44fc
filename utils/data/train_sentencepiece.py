"""Learn sub-word units from transcripts, as labels for fine-tuning with `--labels spm`.

    python -m utils.data.train_sentencepiece --dataset_dir datasets/mine --train_subset train \\
        --subsets valid test --vocab_size 100

Writes beside the filelists `spm.model`, its pieces `dict.spm.txt`, and `<subset>.spm`: the
transcripts of `<subset>.wrd` split into pieces.  The same words and flags give the same files.  All
files are written at the end, after every possible error.
"""

import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import sentencepiece

from utils.data.next_step import print_next_step
from wav2vec2.cli.errors import UserError, run_command
from wav2vec2.cli.flags import parse_options, require_at_least
from wav2vec2.files.filelists import read_labels, read_manifest
from wav2vec2.files.output import write_chunks, write_lines
from wav2vec2.text.subwords import SubwordModel
from wav2vec2.text.vocabulary import Spelling, Vocabulary

TAKEN = ("tsv", "wrd", "ltr")
"""Extensions that other files of a data set have."""


@dataclass(frozen=True)
class SentencepieceOptions:
    """Sub-word units"""

    dataset_dir: str
    """Folder of the filelists and transcripts; results go there too."""
    train_subset: str
    """Subset whose words (.wrd) the model learns from, and whose labels are written."""
    subsets: tuple[str, ...] = ()
    """Further subsets to write labels for, such as those for validation and tests."""
    labels: str = "spm"
    """Name of the labels: files <labels>.model, dict.<labels>.txt, <subset>.<labels>."""
    model_type: Literal["unigram", "bpe"] = "unigram"
    """Choice of pieces: the most likely (Kudo 2018) or merged pairs (Sennrich 2016)."""
    vocab_size: int = 1000
    """Number of pieces to learn: the lines of dict.<labels>.txt."""
    character_coverage: float = 1.0
    """Share of the text that the pieces must cover, 0.98 to 1; rarer characters are unknown."""

    def __post_init__(self) -> None:
        require_at_least(self, vocab_size=1)
        if not 0.98 <= self.character_coverage <= 1:
            raise UserError(
                f"--character_coverage {self.character_coverage}: must lie between 0.98 and 1"
            )
        if self.labels in TAKEN or not re.fullmatch(r"[\w-]+", self.labels):
            raise UserError(
                f"--labels {self.labels}: must be letters and digits, and none of "
                f"{', '.join(TAKEN)}; choose another, such as spm"
            )


def train_subwords(lines: Sequence[str], options: SentencepieceOptions) -> SubwordModel:
    """Learn a model from transcripts; UserError if they cannot give `vocab_size` pieces."""
    content = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=content,
            model_type=options.model_type,
            vocab_size=options.vocab_size + 1,  # plus sentencepiece's own <unk>
            character_coverage=options.character_coverage,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            normalization_rule_name="identity",  # joined pieces are the transcript
            max_sentence_length=max(len(line.encode()) for line in lines),  # else dropped
            num_threads=1,  # sums in one order give the same model
            minloglevel=3,  # errors are raised, not printed
        )
    except RuntimeError as error:
        raise UserError(_explain(str(error), options)) from None
    return SubwordModel(content.getvalue(), f"{options.labels}.model")


def _explain(message: str, options: SentencepieceOptions) -> str:
    """Sentencepiece's message in terms of our flags."""
    words = f"the words of {options.train_subset}.wrd"
    size = f"--vocab_size {options.vocab_size}"
    if most := re.search(r"too high .*<= (\d+)", message):
        return f"{size}: {words} give at most {int(most[1]) - 1} pieces; lower it to that or less"
    if least := re.search(r"required_chars.* vs (\d+)", message):
        return (
            f"{size}: {words} need {int(least[1]) - 1} for their characters; raise it, or lower "
            "--character_coverage"
        )
    return f"{options.train_subset}.wrd: sentencepiece cannot learn from it ({message}); add words"


def main() -> None:
    options = parse_options(SentencepieceOptions, "utils.data.train_sentencepiece", __doc__)
    folder = Path(options.dataset_dir)
    subsets = dict.fromkeys((options.train_subset, *options.subsets))
    words = {
        subset: list(read_labels(read_manifest(folder, subset), "wrd").values())
        for subset in subsets
    }
    model = train_subwords(
        [" ".join(line.split()) for line in words[options.train_subset]], options
    )
    file = folder / f"{options.labels}.model"
    if file.exists() and file.read_bytes() != model.content:
        raise UserError(
            f"{file}: holds a model of other words or flags; remove it, or name the new one with "
            "--labels"
        )
    labels = {subset: [model.encode(line) for line in lines] for subset, lines in words.items()}
    counts = Counter(piece for line in labels[options.train_subset] for piece in line.split())
    pieces = sorted(model.pieces, key=lambda piece: -counts[piece])
    vocabulary = Vocabulary(pieces, Spelling.PIECES, model)

    for subset, lines in labels.items():
        write_lines(folder / f"{subset}.{options.labels}", lines)
        units = sum(len(line.split()) for line in lines)
        per_word = units / sum(len(line.split()) for line in words[subset])
        unknown = vocabulary.list_unknown(lines)
        print(
            f"{folder / subset}.{options.labels}: {len(lines)} utterances, {per_word:.2f} units "
            f"per word{', characters without a piece: ' if unknown else ''}{unknown}"
        )
    write_lines(
        folder / f"dict.{options.labels}.txt", (f"{piece} {counts[piece]}" for piece in pieces)
    )
    write_chunks(file, [model.content])
    print(f"{file}: {len(pieces)} {options.model_type} pieces")
    if options.subsets:
        print_next_step(
            "bash scripts/finetune_base_100h.sh",
            DATASET_DIR=folder,
            TRAIN_SUBSET=options.train_subset,
            VALID_SUBSET=options.subsets[0],
            LABELS=options.labels,
        )


if __name__ == "__main__":
    run_command(main)
