"""Contrastive pre-training (arXiv 2006.11477, section 3)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from wav2vec2.config import Architecture, ContrastiveObjective, Regularisation
from wav2vec2.contrastive import chance_loss, contrastive_logits, contrastive_loss, count_correct
from wav2vec2.kernels.dropout import Dropout
from wav2vec2.numerics import at_least_fp32
from wav2vec2.quantizer import GumbelQuantizer
from wav2vec2.trunk import Wav2Vec2


@dataclass
class SubBatch:
    """What was drawn for the rows over which the loss' constants are defined."""

    masked: Tensor
    """`[rows, M]`, int64: masked frames of each row, ascending."""
    distractors: Tensor
    """`[rows, M, K]`, int64: which masked frames (0 ... M - 1) of the row distract."""
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

    def to(self, device: torch.device) -> "PretrainingBatch":
        moved = [
            replace(
                s,
                masked=s.masked.to(device, non_blocking=True),
                distractors=s.distractors.to(device, non_blocking=True),
            )
            for s in self.sub_batches
        ]
        waveforms = self.waveforms.to(device, non_blocking=True)
        return replace(self, waveforms=waveforms, sub_batches=moved)


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
    """Scalar: the contrastive loss if all candidates looked alike."""
    correct: Tensor
    """Scalar: masked frames whose true target has the largest logit."""
    code_perplexity: Tensor
    prob_perplexity: Tensor
    code_counts: Tensor
    """`[G, V]`: hard assignments, summed."""
    prob_sums: Tensor
    """`[G, V]`: soft assignments, summed."""


def take_frames(x: Tensor, indices: Tensor) -> Tensor:
    """`x` `[rows, frames, dim]` at `indices` `[rows, M]` -> `[rows, M, dim]`."""
    return x.gather(1, indices[..., None].expand(-1, -1, x.shape[-1]))


class Wav2Vec2ForPretraining(nn.Module):
    """The trunk, the quantizer, and the projections into the contrastive space."""

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
    ):
        super().__init__()
        self.wav2vec2 = wav2vec2
        self.dropout_features = Dropout(dropout_features)
        self.quantizer = quantizer
        self.project_q = nn.Linear(final_dim, final_dim)
        self.final_proj = nn.Linear(dim, final_dim)
        self.logit_temperature = logit_temperature
        self.diversity_weight, self.penalty_weight = loss_weights

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
        )

    def forward(
        self,
        batch: PretrainingBatch,
        *,
        temperature: float,
        kept_layers: Sequence[bool] | None = None,
    ) -> PretrainingOutput:
        """Losses and measures of a batch.

        Extractor and encoder see all sub-batches as one batch; masks, quantizer statistics,
        distractors, diversity loss and features penalty are each sub-batch' own, so the gradient
        is that of the sub-batches one by one.  `temperature`: the Gumbel-softmax'; `kept_layers`:
        see TransformerStack.
        """
        frames = self.wav2vec2.extract(batch.waveforms, batch.lengths)
        quantizer_input = self.dropout_features(frames.features)
        rows = [len(s.masked) for s in batch.sub_batches]
        time_mask = torch.zeros(
            frames.features.shape[:2], dtype=torch.bool, device=batch.waveforms.device
        )
        for part, sub_batch in zip(time_mask.split(rows), batch.sub_batches):
            part.scatter_(1, sub_batch.masked, True)
        context = self.wav2vec2.encode(frames, time_mask=time_mask, kept_layers=kept_layers)

        # Split, not sliced: a slice's gradient is as large as the whole, zeros for the most part.
        valid = [None] * len(rows) if frames.valid is None else frames.valid.split(rows)
        parts = zip(
            batch.sub_batches,
            context.split(rows),
            quantizer_input.split(rows),
            map(self._penalty, frames.raw.split(rows), valid),
        )
        return _join([self._sub_batch(*part, temperature) for part in parts])

    def _penalty(self, raw: Tensor, valid: Tensor | None) -> Tensor:
        """Mean squared extractor output of a sub-batch' valid frames, in fp32."""
        squares = at_least_fp32(raw).square()
        if valid is None:
            return squares.mean()
        total = squares.masked_fill(~valid[..., None], 0.0).sum()
        return total / (valid.sum() * squares.shape[-1])

    def _sub_batch(
        self,
        sub_batch: SubBatch,
        context: Tensor,
        features: Tensor,
        penalty: Tensor,
        temperature: float,
    ) -> PretrainingOutput:
        generator = None
        if self.training:
            generator = torch.Generator(context.device).manual_seed(sub_batch.noise_seed)
        quantized = self.quantizer(take_frames(features, sub_batch.masked), temperature, generator)
        logits = contrastive_logits(
            self.final_proj(take_frames(context, sub_batch.masked)),
            self.project_q(quantized.vectors),
            quantized.codes,
            sub_batch.distractors,
            self.logit_temperature,
        )
        n = sub_batch.masked.numel()
        codes = self.quantizer.groups * self.quantizer.entries
        contrastive = contrastive_loss(logits)
        diversity = self.diversity_weight * n * (codes - quantized.prob_perplexity) / codes
        penalty = self.penalty_weight * n * penalty
        return PretrainingOutput(
            loss=contrastive + diversity + penalty,
            contrastive_loss=contrastive,
            diversity_loss=diversity,
            features_penalty=penalty,
            targets=n,
            chance_loss=chance_loss(logits),
            correct=count_correct(logits),
            code_perplexity=quantized.code_perplexity,
            prob_perplexity=quantized.prob_perplexity,
            code_counts=quantized.code_counts,
            prob_sums=quantized.prob_sums,
        )


def _join(outputs: Sequence[PretrainingOutput]) -> PretrainingOutput:
    """One output from those of the sub-batches."""

    def total(name: str) -> Tensor:
        return torch.stack([getattr(output, name) for output in outputs]).sum(dim=0)

    return PretrainingOutput(
        loss=total("loss"),
        contrastive_loss=total("contrastive_loss"),
        diversity_loss=total("diversity_loss"),
        features_penalty=total("features_penalty"),
        targets=sum(output.targets for output in outputs),
        chance_loss=total("chance_loss"),
        correct=total("correct"),
        code_perplexity=total("code_perplexity"),
        prob_perplexity=total("prob_perplexity"),
        code_counts=total("code_counts"),
        prob_sums=total("prob_sums"),
    )
