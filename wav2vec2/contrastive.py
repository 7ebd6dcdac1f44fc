"""The contrastive task (arXiv 2006.11477, section 3.2): distractors, logits, loss."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wav2vec2.numerics import at_least_fp32, exact_matmul

COSINE_EPS = 1e-8
"""Least norm that a vector is divided by, as in torch's cosine similarity."""


def draw_distractors(
    rows: int, masked: int, count: int, generator: np.random.Generator
) -> np.ndarray:
    """Distractors of each masked frame, int64 `[rows, masked, count]`.

    Numbers 0 ... masked - 1 of the other masked frames of the same utterance, uniform and with
    replacement.  ValueError if there is no other masked frame.
    """
    if masked < 2:
        raise ValueError(f"{masked} masked frames: a distractor needs another masked frame")
    drawn = generator.integers(0, masked - 1, size=(rows, masked, count))
    drawn += drawn >= np.arange(masked)[:, None]  # steps over the frame itself
    return drawn


def contrastive_logits(
    predictions: Tensor, targets: Tensor, codes: Tensor, distractors: Tensor, temperature: float
) -> Tensor:
    """Similarities to the true target (index 0) and the distractors, `[batch, M, 1 + K]`.

    `predictions`, `targets` `[batch, M, dim]`; `codes` `[batch, M, G]`; `distractors`
    `[batch, M, K]`.  Cosine similarity divided by `temperature`, in fp32 at least; -inf for a
    distractor of the target's own codes.  One M x M matrix an utterance holds every pair, so no
    gather of vectors is needed.
    """
    batch, masked, _ = predictions.shape
    predictions = F.normalize(at_least_fp32(predictions), dim=-1, eps=COSINE_EPS)
    targets = F.normalize(at_least_fp32(targets), dim=-1, eps=COSINE_EPS)
    similarity = exact_matmul(predictions, targets.mT)  # [batch, M, M]
    own = torch.arange(masked, device=distractors.device).expand(batch, masked)
    candidates = torch.cat([own[..., None], distractors], dim=-1)  # [batch, M, 1 + K]
    logits = similarity.gather(2, candidates) / temperature

    # Equal codes are equal vectors; comparing indices needs no vectors.
    same = (codes[:, :, None] == codes[:, None, :]).all(dim=-1)  # [batch, M, M]
    hidden = same.gather(2, candidates)
    hidden[..., 0] = False
    return logits.masked_fill(hidden, float("-inf"))


def contrastive_loss(logits: Tensor) -> Tensor:
    """Cross-entropy of index 0, summed over the masked frames of `[batch, M, 1 + K]`."""
    flat = logits.reshape(-1, logits.shape[-1])
    truth = torch.zeros(len(flat), dtype=torch.long, device=flat.device)
    return F.cross_entropy(flat, truth, reduction="sum")


def chance_loss(logits: Tensor) -> Tensor:
    """`contrastive_loss` of a model to which all candidates look alike, hidden (-inf) ones apart.

    `logits` `[batch, M, 1 + K]`; a scalar in nats, summed over the masked frames.
    """
    return logits.isfinite().sum(dim=-1).to(logits.dtype).log().sum()


def count_correct(logits: Tensor) -> Tensor:
    """Masked frames whose largest logit is index 0; one whose logits are all equal is wrong."""
    first = logits.argmax(dim=-1) == 0
    all_equal = first & (logits.argmin(dim=-1) == 0)
    return first.sum() - all_equal.sum()
