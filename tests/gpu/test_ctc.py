"""CTC with logits on the device and lengths on the CPU."""

import pytest
import torch

from wav2vec2.ctc import ctc_loss

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(params=[False, True], ids=["", "deterministic"])
def deterministic(request):
    torch.use_deterministic_algorithms(request.param)
    yield
    torch.use_deterministic_algorithms(False)


def test_loss_and_gradient_are_those_of_the_cpu(deterministic):
    torch.manual_seed(0)
    logits = torch.randn(2, 30, 7)
    labels = torch.tensor([3, 3, 5, 6, 1, 2, 6])
    lengths = torch.tensor([30, 21]), labels, torch.tensor([4, 3])
    results = []
    for device in ("cpu", "cuda"):
        x = logits.detach().to(device).requires_grad_()
        loss = ctc_loss(x, *lengths)
        loss.backward()
        assert loss.device == x.device
        results.append((loss.detach().cpu(), x.grad.cpu()))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)
