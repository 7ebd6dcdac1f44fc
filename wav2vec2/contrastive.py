"""The contrastive task (arXiv 2006.11477, section 3.2): distractors, logits, loss."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wav2vec2.numerics import at_least_fp32, exact_matmul

COSINE_EPS = 1e-8
"""Smallest norm that a vector is divided by, as in torch's cosine similarity."""


def draw_distractors(
    rows: int, masked: int, count: int, generator: np.random.Generator
) -> np.ndarray:
    """Draw the distractors of each masked frame, int64 `[rows, masked, count]`.

    They are indices (0 ... masked - 1) of other masked frames of the same utterance, uniform and
    with replacement.  ValueError if there is no other masked frame.
    """
    if masked < 2:
        raise ValueError(f"{masked} masked frames: a distractor needs another masked frame")
    drawn = generator.integers(0, masked - 1, size=(rows, masked, count))
    drawn += drawn >= np.arange(masked)[:, None]  # skips the frame itself
    return drawn


def contrastive_logits(
    predictions: Tensor, targets: Tensor, codes: Tensor, distractors: Tensor, temperature: float
) -> Tensor:
    """Compare predictions with the true target (index 0) and the distractors: `[batch, M, 1 + K]`.

    `predictions`, `targets` `[batch, M, dim]`; `codes` `[batch, M, G]`; `distractors`
    `[batch, M, K]`.  Logits are cosine similarities divided by `temperature`, in fp32; -inf for a
    distractor with the same codes as the target.  One M x M matrix per utterance holds every pair,
    so vectors need not be gathered.
    """
    batch, masked, _ = predictions.shape
    predictions = F.normalize(at_least_fp32(predictions), dim=-1, eps=COSINE_EPS)
    targets = F.normalize(at_least_fp32(targets), dim=-1, eps=COSINE_EPS)
    similarity = exact_matmul(predictions, targets.mT)  # [batch, M, M]
    own = torch.arange(masked, device=distractors.device).expand(batch, masked)
    candidates = torch.cat([own[..., None], distractors], dim=-1)  # [batch, M, 1 + K]
    logits = similarity.gather(2, candidates) / temperature

    # Equal codes are equal vectors, so comparing codes is enough.
    same = (codes[:, :, None] == codes[:, None, :]).all(dim=-1)  # [batch, M, M]
    hidden = same.gather(2, candidates)
    hidden[..., 0] = False
    return logits.masked_fill(hidden, float("-inf"))


def keep_equal(logits: Tensor) -> Tensor:
    """Give the distractors with the target's codes, -inf in `logits` `[batch, M, 1 + K]`, their own
    logits: the target's, as equal codes are equal vectors.

    With them the loss bounds the information that the context has about the codes (InfoNCE, arXiv
    1807.03748, section 2.3), so few codes give a high loss.  Without them, as in the paper's code,
    few codes give a low one: of the candidates, few are left.
    """
    return torch.where(logits.isneginf(), logits[..., :1], logits)


def contrastive_loss(logits: Tensor) -> Tensor:
    """Cross-entropy with index 0 as the truth, summed over the masked frames; in nats.

    `logits` `[batch, M, 1 + K]`.
    """
    flat = logits.reshape(-1, logits.shape[-1])
    truth = torch.zeros(len(flat), dtype=torch.long, device=flat.device)
    return F.cross_entropy(flat, truth, reduction="sum")


def chance_loss(logits: Tensor) -> Tensor:
    """`contrastive_loss` of a model that gives all candidates the same logit.

    `logits` `[batch, M, 1 + K]`, of which only the -inf matter: they are no candidates.
    """
    return logits.isfinite().sum(dim=-1).to(logits.dtype).log().sum()


def count_correct(logits: Tensor) -> Tensor:
    """Count masked frames whose largest logit is at index 0; all logits equal counts as wrong."""
    first = logits.argmax(dim=-1) == 0
    all_equal = first & (logits.argmin(dim=-1) == 0)
    return first.sum() - all_equal.sum()
