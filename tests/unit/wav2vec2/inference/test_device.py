"""The device that a program gets if it names none."""

import pytest
import torch

from wav2vec2.inference.device import usable_device


@pytest.mark.parametrize("there_is", [False, True])
def test_a_gpu_if_there_is_one(there_is, monkeypatch):
    """As the commands choose it, the process' own among several."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there_is)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2 * there_is)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: None)
    monkeypatch.setenv("LOCAL_RANK", "1")
    expected = torch.device("cuda", 1) if there_is else torch.device("cpu")
    assert usable_device(None) == expected
    assert usable_device("cpu") == torch.device("cpu")
