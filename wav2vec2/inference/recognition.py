"""Audio batches -> transcripts, and transcripts -> error rates and confidences."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from wav2vec2.cli.errors import UserError
from wav2vec2.ctc import BLANK, CTCOutput, Wav2Vec2ForCTC
from wav2vec2.decoding.alignment import align
from wav2vec2.decoding.greedy import Decoder, Hypothesis
from wav2vec2.inference.batches import AudioBatch, select_rows
from wav2vec2.numerics import at_least_fp32
from wav2vec2.text.error_rate import ErrorCounts
from wav2vec2.text.vocabulary import Vocabulary


def check_finite(output: CTCOutput, ids: Sequence[str], source: str) -> None:
    """UserError, naming `source` and the utterance, for scores that are not numbers."""
    counts = output.frame_lengths.to(output.logits.device)
    frames = torch.arange(output.logits.shape[1], device=counts.device)
    broken = ~output.logits.isfinite().all(dim=-1) & (frames < counts[:, None])
    for name, is_broken in zip(ids, broken.any(dim=1).tolist()):
        if is_broken:
            raise UserError(
                f"{source}: its scores of {name} are not finite numbers; its weights are damaged, "
                "or too large for --precision fp16: use another copy, or bf16 or fp32"
            )


@torch.no_grad()
def recognise(
    model: Wav2Vec2ForCTC, decoder: Decoder, batch: AudioBatch, source: str = ""
) -> tuple[list[Hypothesis], AudioBatch | None, CTCOutput | None]:
    """What `decoder` hears in each row of a batch.

    An utterance shorter than the model's receptive field has no frame and an empty transcript.
    Also returns the rows that have frames, and the model's output for them (None if none has).
    `source`: the checkpoint that a UserError names if the scores are not finite; without it they
    are not looked at.
    """
    frames = model.frames(batch.lengths)
    rows = [row for row, count in enumerate(frames.tolist()) if count > 0]
    transcripts = [Hypothesis([], "") for _ in batch.ids]
    if not rows:
        return transcripts, None, None
    audible = select_rows(batch, rows)
    output = model(audible.waveforms, audible.lengths)
    output = replace(output, logits=at_least_fp32(output.logits))
    if source:
        check_finite(output, audible.ids, source)
    for row, hypothesis in zip(rows, decoder(output.logits, output.frame_lengths)):
        transcripts[row] = hypothesis
    return transcripts, audible, output


def confidence(hypothesis: Hypothesis, emissions: Tensor, vocabulary: Vocabulary) -> float | None:
    """Geometric mean of the posteriors of the hypothesis' units over the frames that are theirs on
    its best path, 0 to 1; None if it has no units, or none that fit into its frames.

    `emissions` `[frames, units]`: log probabilities.
    """
    if not hypothesis.units:
        return None
    best, path = emissions.max(dim=-1)
    spoken = path != BLANK
    ids = torch.unique_consecutive(path).tolist()
    if vocabulary.decode(i for i in ids if i != BLANK) == hypothesis.units:
        return math.exp(best[spoken].double().mean())  # of all paths the best, so of its own, too
    labels = vocabulary.encode(" ".join(hypothesis.units))
    try:
        spans = align(emissions.cpu().numpy(), labels)
    except UserError:  # another of a word's pronunciations was heard, which takes fewer frames
        return None
    frames = sum(end - start for start, end, _ in spans)
    total = sum((end - start) * math.log(max(score, 1e-300)) for start, end, score in spans)
    return math.exp(total / frames)


@dataclass
class Score:
    """Corpus-level word and unit errors; `|` counts as a unit like any other."""

    vocabulary: Vocabulary
    words: ErrorCounts = field(default_factory=ErrorCounts)
    units: ErrorCounts = field(default_factory=ErrorCounts)

    def add(
        self, hypothesis: Hypothesis, reference: Sequence[str], words: str | None = None
    ) -> tuple[int, int]:
        """Count one utterance; returns its word and unit errors.

        `reference`: its symbols; `words`: its transcript, if a lexicon's words are not what the
        symbols spell.
        """
        words = self.vocabulary.words(reference) if words is None else words
        word_errors = self.words.add(hypothesis.words.split(), words.split())
        return word_errors, self.units.add(hypothesis.units, reference)
