"""A model's output for a batch of audio; hypotheses -> error counts and confidences."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from wav2vec2.cli.errors import UserError
from wav2vec2.ctc import BLANK, CTCOutput, Wav2Vec2ForCTC
from wav2vec2.decoding.alignment import align_units, join
from wav2vec2.decoding.greedy import Decoder, Hypothesis
from wav2vec2.inference.batches import AudioBatch, select_rows
from wav2vec2.numerics import at_least_fp32
from wav2vec2.text.error_rate import ErrorCounts
from wav2vec2.text.vocabulary import Vocabulary


@torch.no_grad()
def run_model(
    model: Wav2Vec2ForCTC, batch: AudioBatch, source: str = ""
) -> tuple[AudioBatch, CTCOutput] | None:
    """The rows of a batch that have a frame, and the model's output for them, fp32 at least.

    None if no row has one: all are shorter than the receptive field.  UserError, naming `source`
    (the checkpoint), for logits that are not finite; without `source` they are not checked.
    """
    rows = model.frames(batch.lengths).nonzero()[:, 0].tolist()
    if not rows:
        return None
    batch = select_rows(batch, rows)
    output = model(batch.waveforms, batch.lengths)
    output = replace(output, logits=at_least_fp32(output.logits))
    if source:
        check_finite(output, batch.ids, source)
    return batch, output


def check_finite(output: CTCOutput, ids: Sequence[str], source: str) -> None:
    """UserError, naming `source` and the utterance, for logits that are not finite."""
    counts = output.frame_lengths.to(output.logits.device)
    frames = torch.arange(output.logits.shape[1], device=counts.device)
    broken = ~output.logits.isfinite().all(dim=-1) & (frames < counts[:, None])
    for name, is_broken in zip(ids, broken.any(dim=1).tolist()):
        if is_broken:
            raise UserError(
                f"{source}: its output for {name} is not finite numbers; its weights are damaged, "
                "or too large for --precision fp16: use another copy, or bf16 or fp32"
            )


def logits_by_id(batch: AudioBatch, output: CTCOutput) -> dict[str, Tensor]:
    """Utterance id -> its logits `[its frames, units]`, fp32 on the CPU."""
    rows = output.logits.float().cpu()  # one copy from the device, not one per row
    lengths = output.frame_lengths.tolist()
    return {key: row[:length] for key, row, length in zip(batch.ids, rows, lengths)}


def recognise(
    model: Wav2Vec2ForCTC, decoder: Decoder, batch: AudioBatch
) -> tuple[list[Hypothesis], AudioBatch | None, CTCOutput | None]:
    """The hypothesis of each row; and `run_model`'s rows and output, which a loss needs."""
    selected, output = run_model(model, batch) or (None, None)
    if selected is None or output is None:
        return [Hypothesis([], "") for _ in batch.ids], None, None
    logits = logits_by_id(selected, output)
    hypotheses = [
        decoder(logits[key]) if key in logits else Hypothesis([], "") for key in batch.ids
    ]
    return hypotheses, selected, output


def confidence(hypothesis: Hypothesis, emissions: Tensor, vocabulary: Vocabulary) -> float | None:
    """Geometric mean of the units' posteriors over their frames on the best path, 0 to 1.

    `emissions` `[frames, units]`: log probabilities.  None for a hypothesis without units, or with
    more units than fit the frames.
    """
    if not hypothesis.units:
        return None
    best, path = emissions.max(dim=-1)
    ids = torch.unique_consecutive(path).tolist()
    if vocabulary.decode(i for i in ids if i != BLANK) == hypothesis.units:
        # The best of all paths spells the hypothesis, so it is also the best that does.
        return math.exp(best[path != BLANK].double().mean())
    labels = vocabulary.encode(" ".join(hypothesis.units))
    try:
        units = align_units(emissions.cpu().numpy(), labels, hypothesis.units)
    except UserError:  # the search used another pronunciation of a word, which needs fewer frames
        return None
    return join(units, vocabulary.spelling).score


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

        `reference`: its units; `words`: its transcript, if the units do not spell it.
        """
        words = self.vocabulary.words(reference) if words is None else words
        word_errors = self.words.add(hypothesis.words.split(), words.split())
        return word_errors, self.units.add(hypothesis.units, reference)
