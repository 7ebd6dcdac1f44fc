"""Product quantization with Gumbel-softmax (arXiv 2006.11477, sections 2 and 3.2)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wav2vec2.numerics import exact_matmul


def perplexity(mean_assignment: Tensor) -> Tensor:
    """Perplexity, exp(entropy), of each codebook's distribution `[G, V]`, summed over codebooks."""
    entropy = -(mean_assignment * torch.log(mean_assignment + 1e-7)).sum(dim=-1)
    return entropy.exp().sum()


def gumbel_temperature(
    update: int, max_update: int, start: float, end: float, decay: float
) -> float:
    """Temperature during update `update`, counted from 1: `start`, times `decay` per update, at
    least `end`.  Decay 0: the factor per update that leads to `end` at half of `max_update`."""
    if not decay:
        decay = (end / start) ** (2 / max_update)
    return max(start * decay ** (update - 1), end)


def sample_gumbel(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw standard Gumbel noise of the shape, device and type of `like`."""
    uniform = torch.empty_like(like, memory_format=torch.legacy_contiguous_format)
    return -uniform.exponential_(generator=generator).log()


@dataclass
class QuantizerOutput:
    """Quantized vectors, their codes, and statistics of the choice."""

    vectors: Tensor
    """`[batch, masked, output_dim]`."""
    codes: Tensor
    """`[batch, masked, G]`, int64: arg-max entry of each codebook, noise included in training."""
    code_counts: Tensor
    """`[G, V]`: frames whose raw logits are largest at each entry."""
    prob_sums: Tensor
    """`[G, V]`: softmax of the raw logits, summed over frames."""
    code_perplexity: Tensor
    """Scalar: perplexity of the mean hard assignment."""
    prob_perplexity: Tensor
    """Scalar with gradient: perplexity of the mean softmax."""


class GumbelQuantizer(nn.Module):
    """Choose one entry of each of G codebooks per frame and concatenate them."""

    keeps_fp32 = True
    """Its parameters stay fp32 in half precision: rounding would change which code is chosen."""

    def __init__(self, input_dim: int, groups: int, entries: int, output_dim: int):
        super().__init__()
        self.groups, self.entries = groups, entries
        self.vars = nn.Parameter(torch.empty(1, groups * entries, output_dim // groups))
        nn.init.uniform_(self.vars)
        self.weight_proj = nn.Linear(input_dim, groups * entries)
        nn.init.normal_(self.weight_proj.weight)
        nn.init.zeros_(self.weight_proj.bias)

    def forward(
        self, x: Tensor, temperature: float, generator: torch.Generator | None = None
    ) -> QuantizerOutput:
        """Quantize `x` `[batch, masked, input_dim]`.

        In training the entry is drawn by hard Gumbel-softmax at `temperature`, with noise from
        `generator` and the gradient of the soft choice.  In evaluation it is the arg-max.
        """
        batch, masked, _ = x.shape
        logits = exact_matmul(x.reshape(batch * masked, -1), self.weight_proj.weight.T)
        logits = (logits + self.weight_proj.bias).view(batch * masked, self.groups, self.entries)
        probabilities = logits.softmax(dim=-1)
        hard = F.one_hot(logits.argmax(dim=-1), self.entries).to(logits.dtype)
        assignment = hard
        if self.training:
            noisy = (logits + sample_gumbel(logits, generator)) / temperature
            soft = noisy.softmax(dim=-1)
            drawn = F.one_hot(soft.argmax(dim=-1), self.entries).to(soft.dtype)
            assignment = drawn + (soft - soft.detach())  # exactly one-hot
        # One entry of each codebook: [G, frames, V] x [G, V, d] -> [G, frames, d]
        codebooks = self.vars.view(self.groups, self.entries, -1)
        vectors = exact_matmul(assignment.transpose(0, 1), codebooks)
        return QuantizerOutput(
            vectors=vectors.transpose(0, 1).reshape(batch, masked, -1).to(x.dtype),
            codes=assignment.argmax(dim=-1).view(batch, masked, self.groups),
            code_counts=hard.sum(dim=0),
            prob_sums=probabilities.sum(dim=0),
            code_perplexity=perplexity(hard.mean(dim=0)),
            prob_perplexity=perplexity(probabilities.mean(dim=0)),
        )
