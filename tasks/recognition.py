"""Audio batches -> transcripts, and transcripts -> error rates."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from common.dataset import AudioBatch
from common.decoding import ctc_greedy
from common.error_rate import ErrorCounts
from common.vocabulary import Vocabulary
from wav2vec2.ctc import CTCOutput, Wav2Vec2ForCTC


def select_rows(batch: AudioBatch, rows: Sequence[int]) -> AudioBatch:
    """The batch without its other rows, and without the padding only those needed."""
    lengths = batch.lengths[list(rows)]
    return replace(
        batch,
        ids=[batch.ids[r] for r in rows],
        waveforms=batch.waveforms[list(rows), : int(lengths.max())],
        lengths=lengths,
        labels=[batch.labels[r] for r in rows] if batch.labels else [],
    )


@torch.no_grad()
def recognise(
    model: Wav2Vec2ForCTC, vocabulary: Vocabulary, batch: AudioBatch
) -> tuple[list[list[str]], AudioBatch | None, CTCOutput | None]:
    """Greedy transcripts of a batch, as symbols, one list a row.

    An utterance shorter than the model's receptive field has no frame and an empty transcript.
    Also returns the rows that have frames, and the model's output for them (None if none has).
    """
    frames = model.frames(batch.lengths)
    rows = [row for row, count in enumerate(frames.tolist()) if count > 0]
    transcripts: list[list[str]] = [[] for _ in batch.ids]
    if not rows:
        return transcripts, None, None
    audible = select_rows(batch, rows)
    output = model(audible.waveforms, audible.lengths)
    for row, ids in zip(rows, ctc_greedy(output.logits, output.frame_lengths)):
        transcripts[row] = vocabulary.decode(ids)
    return transcripts, audible, output


@dataclass
class Score:
    """Corpus-level word and unit errors; `|` counts as a unit like any other."""

    vocabulary: Vocabulary
    words: ErrorCounts = field(default_factory=ErrorCounts)
    units: ErrorCounts = field(default_factory=ErrorCounts)

    def add(self, hypothesis: Sequence[str], reference: Sequence[str]) -> tuple[int, int]:
        """Count one utterance given as symbols; returns its word and unit errors."""
        words = self.vocabulary.words
        word_errors = self.words.add(words(hypothesis).split(), words(reference).split())
        return word_errors, self.units.add(hypothesis, reference)
