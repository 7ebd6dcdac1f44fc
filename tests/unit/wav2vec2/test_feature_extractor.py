import pytest
import torch

from wav2vec2.config import BASE, MINI
from wav2vec2.feature_extractor import FeatureExtractor, frame_count, sample_count, scale_gradient


def test_published_geometry():
    assert frame_count(16_000, BASE.conv_layers) == 49
    assert frame_count(399, BASE.conv_layers) == 0
    assert frame_count(400, BASE.conv_layers) == 1
    assert frame_count(719, BASE.conv_layers) == 1
    assert frame_count(720, BASE.conv_layers) == 2


def test_length_arithmetic_is_that_of_the_convolutions():
    extractor = FeatureExtractor(MINI.conv_layers, "layer", True)
    for samples in (400, 401, 719, 720, 1234, 5000):
        frames = extractor(torch.randn(1, samples)).shape[1]
        assert frames == frame_count(samples, MINI.conv_layers)
    counts = frame_count(torch.tensor([0, 399, 400, 5000]), MINI.conv_layers)
    assert counts.tolist() == [0, 0, 1, frame_count(5000, MINI.conv_layers)]


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_padding_leaves_valid_frames_alone(norm):
    torch.manual_seed(0)
    extractor = FeatureExtractor(MINI.conv_layers, norm, norm == "layer").double()
    short = torch.randn(1, 3000, dtype=torch.float64)
    batch = torch.zeros(2, 5000, dtype=torch.float64)
    batch[0, :3000] = short
    batch[1] = 10 * torch.randn(5000)
    alone = extractor(short)
    together = extractor(batch, torch.tensor([3000, 5000]))
    torch.testing.assert_close(together[:1, : alone.shape[1]], alone, rtol=1e-12, atol=1e-12)


def test_group_norm_statistics_are_over_an_utterances_time():
    """The first block, against mean and variance written out."""
    torch.manual_seed(0)
    block = FeatureExtractor(MINI.conv_layers, "group", False).conv_layers[0].double()
    x = torch.randn(1, 1, 2000, dtype=torch.float64)
    y = block.conv(x)
    mean, variance = y.mean(-1, keepdim=True), y.var(-1, keepdim=True, unbiased=False)
    expected = torch.nn.functional.gelu((y - mean) / (variance + 1e-5).sqrt())
    torch.testing.assert_close(block(x, None), expected)


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_fewest_samples(frames):
    needed = sample_count(frames, BASE.conv_layers)
    assert frame_count(needed, BASE.conv_layers) == frames
    assert frame_count(needed - 1, BASE.conv_layers) == frames - 1


def test_scale_gradient():
    x = torch.randn(3, requires_grad=True)
    y = scale_gradient(x, 0.1)
    assert torch.equal(x, y)
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.full((3,), 0.1))
