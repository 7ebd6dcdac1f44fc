"""Peak memory by parts of a run."""

import pytest
import torch

from wav2vec2.cli.telemetry import peak_memory_mib, reset_peak_memory

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_a_small_part_does_not_inherit_a_large_ones_peak():
    device, peaks = torch.device("cuda"), []
    for mib in (64, 8):
        reset_peak_memory(device)
        before = peak_memory_mib(device)
        torch.empty(mib * 2**20, dtype=torch.uint8, device=device)
        peaks.append(peak_memory_mib(device) - before)
    assert peaks == [64, 8]
