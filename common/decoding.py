"""From frame-wise logits to units: CTC greedy search."""

from collections.abc import Sequence

import torch
from torch import Tensor


def ctc_greedy(
    logits: Tensor, frame_lengths: Tensor | Sequence[int], blank: int = 0
) -> list[list[int]]:
    """Best path: arg-max of each frame, repeats merged, blanks removed (Graves et al. 2006).

    `logits` `[batch, frames, units]`; `frame_lengths` `[batch]`, valid frames of each row.
    Returns the ids of each row.
    """
    best = logits.argmax(dim=-1).cpu()
    return [
        [i for i in torch.unique_consecutive(row[: int(n)]).tolist() if i != blank]
        for row, n in zip(best, frame_lengths)
    ]
