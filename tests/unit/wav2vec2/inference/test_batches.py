"""Batches of whole recordings."""

import torch

from wav2vec2.inference.batches import batch_of


def test_a_batch_without_rows():
    """All its utterances may have been skipped; its lengths are whole numbers all the same."""
    batch = batch_of([], [], normalize_input=True)
    assert batch.waveforms.shape == (0, 0) and batch.lengths.dtype == torch.long
