"""Fine-tuned model: the trunk and a CTC output layer (arXiv 2006.11477, section 4.3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wav2vec2.config import Architecture, Regularisation
from wav2vec2.encoder import dropout_module
from wav2vec2.numerics import at_least_fp32
from wav2vec2.trunk import Wav2Vec2

BLANK = 0
"""The unit of CTC that stands for no symbol; row 0 of the output layer and of every dictionary."""


@dataclass
class CTCOutput:
    """Logits of each frame."""

    logits: Tensor
    """`[batch, frames, vocabulary]`."""
    frame_lengths: Tensor
    """`[batch]`, int64 on the CPU: number of valid frames of each row."""


class Wav2Vec2ForCTC(nn.Module):
    """Waveforms -> logits of the units.

    An utterance's logits do not depend on the other utterances in the batch.
    """

    def __init__(self, wav2vec2: Wav2Vec2, *, dim: int, vocabulary: int, final_dropout: float):
        super().__init__()
        self.wav2vec2 = wav2vec2
        self.final_dropout = dropout_module(final_dropout)
        self.proj = nn.Linear(dim, vocabulary)
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    @classmethod
    def from_config(
        cls,
        architecture: Architecture,
        regularisation: Regularisation,
        vocabulary_size: int,
        final_dropout: float = 0.0,
    ) -> "Wav2Vec2ForCTC":
        return cls(
            Wav2Vec2.from_config(architecture, regularisation),
            dim=architecture.dim,
            vocabulary=vocabulary_size,
            final_dropout=final_dropout,
        )

    def frames(self, samples: Tensor) -> Tensor:
        """Number of frames that `samples` (any shape) give."""
        return self.wav2vec2.frames(samples)

    def forward(
        self,
        waveforms: Tensor,
        lengths: Tensor | None = None,
        *,
        time_mask: Tensor | None = None,
        channel_mask: Tensor | None = None,
        kept_layers: Sequence[bool] | None = None,
        freeze_encoder: bool = False,
    ) -> CTCOutput:
        """Compute the logits of `waveforms` `[batch, samples]`.

        `lengths` `[batch]`, int64 on the CPU: samples of each row, followed by zeros, at least
        the receptive field; None if no row is padded.  Masks and `kept_layers`: see
        Wav2Vec2.encode.  `freeze_encoder`: the trunk gets no gradient; its dropout and masks stay
        on.
        """
        learns = torch.is_grad_enabled() and not freeze_encoder
        with torch.set_grad_enabled(learns):
            frames = self.wav2vec2.extract(waveforms, lengths)
            context = self.wav2vec2.encode(
                frames, time_mask=time_mask, channel_mask=channel_mask, kept_layers=kept_layers
            )
        counts = frames.counts
        if counts is None:
            counts = torch.full((len(context),), context.shape[1])
        return CTCOutput(logits=self.proj(self.final_dropout(context)), frame_lengths=counts)


def ctc_loss(
    logits: Tensor, frame_lengths: Tensor, labels: Tensor, label_lengths: Tensor
) -> Tensor:
    """CTC loss (Graves et al. 2006) in nats, summed over the batch; infinite losses count as 0.

    `logits` `[batch, frames, vocabulary]`; `labels` `[sum of label_lengths]`, int64.  Both lengths
    are `[batch]` on the CPU, wherever the logits are, because torch's CTC reads them there; from a
    GPU it would copy them and wait.  Computed in fp32.  With
    `torch.use_deterministic_algorithms` it runs on the CPU, because CUDA's CTC gradient is not
    deterministic.
    """
    log_probabilities = at_least_fp32(logits).log_softmax(dim=-1).transpose(0, 1)
    if torch.are_deterministic_algorithms_enabled():
        log_probabilities = log_probabilities.cpu()
    loss = F.ctc_loss(
        log_probabilities,  # [frames, batch, vocabulary]
        labels.to(log_probabilities.device, non_blocking=True),
        frame_lengths,
        label_lengths,
        blank=BLANK,
        reduction="sum",
        zero_infinity=True,
    )
    return loss.to(logits.device)
