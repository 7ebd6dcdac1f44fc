"""Contrastive pre-training (arXiv 2006.11477, section 3)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from wav2vec2.config import Architecture, ContrastiveObjective, Regularisation
from wav2vec2.contrastive import (
    chance_loss,
    contrastive_logits,
    contrastive_loss,
    count_correct,
    keep_equal,
)
from wav2vec2.encoder import dropout_module
from wav2vec2.numerics import at_least_fp32
from wav2vec2.quantizer import GumbelQuantizer, QuantizerOutput
from wav2vec2.trunk import Frames, Wav2Vec2


@dataclass
class SubBatch:
    """The draws for some rows of a batch; the loss normalises over each sub-batch."""

    masked: Tensor
    """`[rows, M]`, int64: masked frames of each row, ascending."""
    distractors: Tensor
    """`[rows, M, K]`, int64: which masked frames (0 ... M - 1) of the row are its distractors."""
    noise_seed: int
    """Seed of the Gumbel noise."""


@dataclass
class PretrainingBatch:
    """Sub-batches that run through the model as one batch."""

    waveforms: Tensor
    """`[batch, samples]`; the sub-batches' rows one after the other."""
    sub_batches: Sequence[SubBatch]
    lengths: Tensor | None = None
    """`[batch]`, int64 on the CPU: samples of each row; None if no row is padded."""


@dataclass
class PretrainingOutput:
    """Sums over masked frames; perplexities are summed over sub-batches."""

    loss: Tensor
    """Scalar: contrastive_loss + diversity_loss + features_penalty."""
    contrastive_loss: Tensor
    """Scalar: summed cross-entropy, in nats."""
    diversity_loss: Tensor
    """Scalar: weight x masked frames x (G V - prob_perplexity) / (G V)."""
    features_penalty: Tensor
    """Scalar: weight x masked frames x mean squared extractor output."""
    targets: int
    """Masked frames."""
    chance_loss: Tensor
    """Scalar: the contrastive loss if all candidates were equally similar."""
    correct: Tensor
    """Scalar: masked frames whose true target has the largest logit."""
    code_perplexity: Tensor
    """Scalar: perplexity of the mean hard assignment."""
    prob_perplexity: Tensor
    """Scalar: perplexity of the mean softmax."""
    code_counts: Tensor
    """`[G, V]`: hard assignments, summed."""
    prob_sums: Tensor
    """`[G, V]`: soft assignments, summed."""


def take_frames(x: Tensor, indices: Tensor) -> Tensor:
    """Select the frames `indices` `[rows, M]` of `x` `[rows, frames, dim]`: `[rows, M, dim]`."""
    return x.gather(1, indices[..., None].expand(-1, -1, x.shape[-1]))


@dataclass
class _Part:
    """A sub-batch's rows of the batch's tensors."""

    draws: SubBatch
    raw: Tensor
    """`[rows, frames, C]`: the extractor's output."""
    features: Tensor
    """`[rows, frames, C]`: the quantizer's input."""
    context: Tensor
    """`[rows, frames, D]`."""
    valid: Tensor | None
    """`[rows, frames]`; None if no frame is padding."""


class Wav2Vec2ForPretraining(nn.Module):
    """The trunk with the quantizer and the projections into the contrastive space."""

    def __init__(
        self,
        wav2vec2: Wav2Vec2,
        quantizer: GumbelQuantizer,
        *,
        dim: int,
        final_dim: int,
        dropout_features: float,
        logit_temperature: float,
        loss_weights: tuple[float, float],
        keep_equal: bool = False,
    ):
        super().__init__()
        self.wav2vec2 = wav2vec2
        self.dropout_features = dropout_module(dropout_features)
        self.quantizer = quantizer
        self.project_q = nn.Linear(final_dim, final_dim)
        self.final_proj = nn.Linear(dim, final_dim)
        self.logit_temperature = logit_temperature
        self.diversity_weight, self.penalty_weight = loss_weights
        self.keep_equal = keep_equal

    @classmethod
    def from_config(
        cls,
        architecture: Architecture,
        regularisation: Regularisation,
        objective: ContrastiveObjective,
    ) -> "Wav2Vec2ForPretraining":
        trunk = Wav2Vec2.from_config(architecture, regularisation)
        return cls(
            trunk,
            GumbelQuantizer(
                trunk.feature_extractor.channels,
                architecture.codebook_groups,
                architecture.codebook_entries,
                architecture.final_dim,
            ),
            dim=architecture.dim,
            final_dim=architecture.final_dim,
            dropout_features=objective.dropout_features,
            logit_temperature=objective.logit_temperature,
            loss_weights=objective.loss_weights,
            keep_equal=objective.keep_equal_distractors,
        )

    def forward(
        self,
        batch: PretrainingBatch,
        *,
        temperature: float,
        kept_layers: Sequence[bool] | None = None,
    ) -> PretrainingOutput:
        """Compute the losses and metrics of a batch.

        The extractor and the encoder process all sub-batches as one batch.  Masks, quantizer
        statistics, distractors, diversity loss and features penalty belong to each sub-batch, so
        the gradient is the sum of the sub-batches' own.  `temperature`: that of the
        Gumbel-softmax; `kept_layers`: see TransformerStack.
        """
        rows = [len(sub_batch.masked) for sub_batch in batch.sub_batches]
        # Section 2, feature encoder
        frames = self.wav2vec2.extract(batch.waveforms, batch.lengths)
        quantizer_input = self.dropout_features(frames.features)
        time_mask = self.mask(frames, batch.sub_batches, rows)  # section 3.1
        # Section 2, context network
        context = self.wav2vec2.encode(frames, time_mask=time_mask, kept_layers=kept_layers)
        outputs = []
        for part in _split(batch.sub_batches, rows, frames, quantizer_input, context):
            # Computed first, so that its backward pass runs last, when less memory is in use.
            penalty = mean_square(part.raw, part.valid)
            quantized = self.quantize(part, temperature)  # section 2, quantization module
            logits = self.contrast(part, quantized)  # section 3.2, contrastive loss
            outputs.append(self.sum_losses(quantized, logits, penalty))  # section 3.2, objective
        return _sum_outputs(outputs)

    def mask(self, frames: Frames, sub_batches: Sequence[SubBatch], rows: Sequence[int]) -> Tensor:
        """`[batch, frames]`, bool: the frames that the mask vector replaces.

        `rows`: rows of each sub-batch.
        """
        mask = torch.zeros_like(frames.features[..., 0], dtype=torch.bool)
        for part, sub_batch in zip(mask.split(rows), sub_batches):
            part.scatter_(1, sub_batch.masked, True)
        return mask

    def quantize(self, part: _Part, temperature: float) -> QuantizerOutput:
        """Quantize the features of the masked frames: they are the targets."""
        generator = None
        if self.training:
            generator = torch.Generator(part.features.device).manual_seed(part.draws.noise_seed)
        return self.quantizer(take_frames(part.features, part.draws.masked), temperature, generator)

    def contrast(self, part: _Part, quantized: QuantizerOutput) -> Tensor:
        """Logits `[rows, M, 1 + K]` of the true target (index 0) and the distractors."""
        return contrastive_logits(
            self.final_proj(take_frames(part.context, part.draws.masked)),
            self.project_q(quantized.vectors),
            quantized.codes,
            part.draws.distractors,
            self.logit_temperature,
        )

    def sum_losses(
        self, quantized: QuantizerOutput, logits: Tensor, penalty: Tensor
    ) -> PretrainingOutput:
        """Contrastive loss + weighted diversity loss + weighted features penalty."""
        targets = logits[..., 0].numel()
        codes = self.quantizer.groups * self.quantizer.entries
        candidates = keep_equal(logits) if self.keep_equal else logits
        contrastive = contrastive_loss(candidates)
        diversity = self.diversity_weight * targets * (codes - quantized.prob_perplexity) / codes
        penalty = self.penalty_weight * targets * penalty
        return PretrainingOutput(
            loss=contrastive + diversity + penalty,
            contrastive_loss=contrastive,
            diversity_loss=diversity,
            features_penalty=penalty,
            targets=targets,
            chance_loss=chance_loss(candidates),
            correct=count_correct(logits),
            code_perplexity=quantized.code_perplexity,
            prob_perplexity=quantized.prob_perplexity,
            code_counts=quantized.code_counts,
            prob_sums=quantized.prob_sums,
        )


def mean_square(x: Tensor, valid: Tensor | None) -> Tensor:
    """Mean square of the `valid` `[rows, frames]` frames of `x` `[rows, frames, C]`, in fp32."""
    squares = at_least_fp32(x).square()
    if valid is None:
        return squares.mean()
    total = squares.masked_fill(~valid[..., None], 0.0).sum()
    return total / (valid.sum() * squares.shape[-1])


def _split(
    sub_batches: Sequence[SubBatch],
    rows: Sequence[int],
    frames: Frames,
    features: Tensor,
    context: Tensor,
) -> Iterator[_Part]:
    """The rows of each sub-batch.

    Tensors are split, not sliced: a slice's gradient is as large as the whole, mostly zeros.
    """
    valid = [None] * len(rows) if frames.valid is None else frames.valid.split(rows)
    tensors = frames.raw.split(rows), features.split(rows), context.split(rows), valid
    yield from map(_Part, sub_batches, *tensors)


def _sum_outputs(outputs: Sequence[PretrainingOutput]) -> PretrainingOutput:
    """Add up the outputs of the sub-batches."""
    return PretrainingOutput(
        **{
            field.name: sum(getattr(output, field.name) for output in outputs)
            for field in fields(PretrainingOutput)
        }
    )
