"""Emissions and transcript -> when each unit and word was said, as JSON and TextGrid."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from common.alignment import Span, align_units, group_words, textgrid
from common.audio import SAMPLE_RATE
from common.errors import UserError
from common.manifest import write_lines
from common.vocabulary import WORD_END, Spelling, Vocabulary


@dataclass(frozen=True)
class Alignment:
    """One recording's units and words; frames of `frame_samples` samples."""

    file: str
    samples: int
    """Length of the audio at 16 kHz."""
    frame_samples: int
    """Frame k covers the samples from k * frame_samples on, up to the next frame's.  The model
    sees more around it: its receptive field begins there and is longer (400 samples)."""
    units_name: str
    """What the dictionary's units are: characters, or anything else."""
    units: Sequence[Span]
    words: Sequence[Span]

    def seconds(self, frame: int) -> float:
        """When a frame begins."""
        return frame * self.frame_samples / SAMPLE_RATE

    def tiers(self) -> dict[str, Sequence[Span]]:
        return {"words": self.words, self.units_name: self.units}

    def as_json(self) -> dict[str, Any]:
        def entry(span: Span) -> dict[str, Any]:
            return {
                "text": span.text,
                "start": round(self.seconds(span.start), 6),
                "end": round(self.seconds(span.end), 6),
                "score": round(span.score, 6),
            }

        tiers = {name: [entry(span) for span in spans] for name, spans in self.tiers().items()}
        return {"file": self.file, "duration": self.samples / SAMPLE_RATE, **tiers}

    def as_textgrid(self) -> str:
        tiers = {
            name: [(self.seconds(s.start), self.seconds(s.end), s.text) for s in spans]
            for name, spans in self.tiers().items()
        }
        return textgrid(tiers, self.samples / SAMPLE_RATE)

    def write(self, folder: Path, name: str) -> None:
        """`<name>.json` and `<name>.TextGrid`, each whole or not at all."""
        content = json.dumps(self.as_json(), ensure_ascii=False, indent=1)
        write_lines(folder / f"{name}.json", [content])
        write_lines(folder / f"{name}.TextGrid", [self.as_textgrid().rstrip("\n")])


def align_transcript(
    file: str,
    samples: int,
    emissions: Tensor,
    labels: str,
    vocabulary: Vocabulary,
    frame_samples: int,
) -> Alignment:
    """When the symbols of the label line `labels` were said in `emissions` `[frames, units]`.

    UserError, naming `file`, for symbols that the dictionary lacks and for too few frames.
    """
    if unknown := vocabulary.count_unknown([labels]):
        raise UserError(
            f"{file}: its transcript has symbols that the dictionary lacks ({unknown}); write it "
            "the way the training transcripts are, such as in upper case"
        )
    try:
        units = align_units(emissions.numpy(), vocabulary.encode(labels), labels.split())
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    letters = vocabulary.spelling is Spelling.LETTERS
    return Alignment(
        file=file,
        samples=samples,
        frame_samples=frame_samples,
        units_name="characters" if letters else "units",
        units=[unit for unit in units if not (letters and unit.text == WORD_END)],
        words=group_words(units, vocabulary.spelling),
    )
