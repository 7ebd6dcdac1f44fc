"""Both variants of the feature extractor against the plain one, in results and gradients."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from wav2vec2.config import MINI
from wav2vec2.feature_extractor import FeatureExtractor, frame_count, valid_steps
from wav2vec2.kernels import convolution, recomputation
from wav2vec2.kernels.convolution import CpuFeatureExtractor
from wav2vec2.kernels.recomputation import RecomputedExtractor

CPU = torch.device("cpu")
SHALLOW = ((6, 10, 5), (5, 3, 2))
GAPS = ((4, 2, 3), (5, 3, 2), (6, 1, 2))  # kernels shorter than their stride
NORMS = [("group", False), ("group", True), ("layer", True), ("layer", False)]


def build(spec, norm, bias, dtype=torch.float64, variant=FeatureExtractor):
    torch.manual_seed(0)
    extractor = variant(spec, norm, bias)
    for parameter in extractor.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return extractor.to(dtype)


def changed_to(variant, extractor):
    """The same module, weights shared, as another class."""
    other = copy.copy(extractor)
    other.__class__ = variant
    return other


@pytest.mark.parametrize("norm, bias", NORMS)
@pytest.mark.parametrize("spec", [MINI.conv_layers, SHALLOW, GAPS, ((7, 10, 5),)])
@pytest.mark.parametrize("stretch", [3, 2048])
def test_frames_and_gradients(monkeypatch, spec, norm, bias, stretch):
    """In fp64, padded and not, in stretches of any size."""
    monkeypatch.setattr(convolution, "STRETCH", stretch)
    extractor = build(spec, norm, bias)
    waveforms = torch.randn(3, 1500, dtype=torch.float64)
    lengths = torch.tensor([1500, 997, 1203])
    for row, n in zip(waveforms, lengths):
        row[n:] = 0
    for given in (None, lengths):
        expected = extractor(waveforms, given)
        counts = frame_count(lengths if given is not None else torch.tensor([1500] * 3), spec)
        valid = torch.arange(expected.shape[1]) < counts[:, None]
        weights = torch.randn(expected.shape, dtype=expected.dtype) * valid[..., None]
        parameters = list(extractor.parameters())
        theirs = torch.autograd.grad((expected * weights).sum(), parameters, allow_unused=True)
        for variant in (CpuFeatureExtractor, RecomputedExtractor):
            found = changed_to(variant, extractor)(waveforms, given)
            torch.testing.assert_close(found * valid[..., None], expected * valid[..., None])
            mine = torch.autograd.grad((found * weights).sum(), parameters, allow_unused=True)
            for parameter, a, b in zip(parameters, mine, theirs):
                a, b = (torch.zeros_like(parameter) if g is None else g for g in (a, b))
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * float(b.abs().max() + 1))


@pytest.mark.parametrize("norm, bias", NORMS[::2])
@pytest.mark.parametrize("dtype, least", [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_precisions(dtype, least, norm, bias):
    """Frames and gradients are as near to fp64's as the plain ones, or within `least`."""
    exact, rounded = build(MINI.conv_layers, norm, bias), build(MINI.conv_layers, norm, bias, dtype)
    exact.load_state_dict({k: v.double() for k, v in rounded.state_dict().items()})
    waveforms = torch.randn(2, 4000)

    def run(extractor):
        extractor.zero_grad()
        frames = extractor(waveforms.to(extractor.conv_layers[0].conv.weight.dtype))
        frames.double().square().sum().backward()
        return [frames, *(p.grad for p in extractor.parameters() if p.grad is not None)]

    expected, theirs = run(exact), run(rounded)

    def error(a, b):
        return float(((a.double() - b).norm() / (b.norm() + 1e-12)).detach())

    for variant in (CpuFeatureExtractor, RecomputedExtractor):
        for a, b, c in zip(run(changed_to(variant, rounded)), theirs, expected):
            if float(c.detach().norm()) > 1e-6:  # a bias before the group norm has no gradient
                assert error(a, c) < max(least, 2 * error(b, c))


def test_inference_mode():
    extractor, waveforms = build(SHALLOW, "group", False), torch.randn(2, 800).double()
    with torch.inference_mode():
        expected = extractor(waveforms)
        for variant in (CpuFeatureExtractor, RecomputedExtractor):
            torch.testing.assert_close(changed_to(variant, extractor)(waveforms), expected)


@pytest.mark.parametrize("case", ["float16", "gradient of the waveforms", "autocast"])
def test_when_products_give_way_to_plain_torch(monkeypatch, case):
    monkeypatch.setattr(convolution, "_Convolutions", None)
    dtype = torch.float16 if case == "float16" else torch.float32
    extractor = build(SHALLOW, "layer", True, dtype, CpuFeatureExtractor)
    waveforms = torch.randn(1, 800).requires_grad_(case == "gradient of the waveforms")
    with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
        assert extractor(waveforms).shape[2] == 5


def gradients_of(extractor):
    """Gradients, zeros where there are none: a bias that group norm cancels has none."""
    return [
        torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in extractor.parameters()
    ]


def kept_and_counted(extractor, waveforms, lengths):
    """Frames, gradients, operations, and bytes kept for the backward pass, parameters apart."""
    extractor.zero_grad()
    sizes, parameters = {}, {p.data_ptr() for p in extractor.parameters()}

    def pack(x):
        if x.data_ptr() not in parameters:
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            frames = extractor(waveforms, lengths)
        if lengths is not None:
            valid = valid_steps(frame_count(lengths, extractor.spec), frames.shape[1], CPU)
            frames = frames * valid[..., None]
        (frames.square().sum() / len(frames)).backward()
    return frames, gradients_of(extractor), counter.get_total_flops(), sum(sizes.values())


@pytest.mark.parametrize("norm, bias", NORMS)
@pytest.mark.parametrize("lengths", [None, torch.tensor([3000, 2000])])
def test_what_is_computed_again(norm, bias, lengths):
    """The same frames and gradients as when all is kept; only the first convolution runs twice,
    and the outputs of the others are what is kept."""
    extractor = build(MINI.conv_layers, norm, bias)
    waveforms = torch.randn(2, 3000, dtype=torch.float64)
    frames, gradients, operations, memory = kept_and_counted(
        changed_to(RecomputedExtractor, extractor), waveforms, lengths
    )
    expected, expected_gradients, fewest, most = kept_and_counted(extractor, waveforms, lengths)
    torch.testing.assert_close(frames, expected, rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(gradients, expected_gradients):
        largest = max(float(g.abs().max()) for g in expected_gradients)
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12 * largest)
    (channels, kernel, _), steps = MINI.conv_layers[0], frame_count(3000, MINI.conv_layers[:1])
    a_tap = 2 * 2 * steps * channels
    again = (kernel + 3) * a_tap  # once more, and each time, and backwards, the bias as a tap
    if norm == "group":  # the windows' covariance, and each channel's variance from it
        again += 2 * (2 * steps * kernel**2 + 3 * 2 * channels * kernel**2)
    assert fewest + again >= operations > fewest + 0.9 * again
    if lengths is None:
        steps = [frame_count(3000, MINI.conv_layers[: n + 1]) for n in range(1, 7)]
        outputs = sum(2 * c * n * 8 for (c, _, _), n in zip(MINI.conv_layers[1:], steps))
        assert outputs < memory < 1.4 * outputs < most / 2


@pytest.mark.parametrize("norm, bias", NORMS)
@pytest.mark.parametrize("lengths", [None, torch.tensor([3000, 2000, 2500, 400, 2999])])
@pytest.mark.parametrize("elements", [1, 600 * 8 * 2])  # a row at a time; two, and the odd one
def test_rows_a_few_at_a_time(monkeypatch, norm, bias, lengths, elements):
    """The same frames and gradients as of all rows together, with gradients and without."""
    extractor = build(MINI.conv_layers, norm, bias, variant=RecomputedExtractor)
    waveforms = torch.randn(5, 3000, dtype=torch.float64)
    expected = extractor(waveforms, lengths)
    expected.square().sum().backward()
    gradients = gradients_of(extractor)
    extractor.zero_grad()
    monkeypatch.setattr(recomputation, "ELEMENTS", elements)
    frames = extractor(waveforms, lengths)
    frames.square().sum().backward()
    torch.testing.assert_close(frames, expected, rtol=1e-12, atol=1e-12)
    for own, whole in zip(gradients_of(extractor), gradients):
        torch.testing.assert_close(own, whole, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(extractor(waveforms, lengths), expected)


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("elements", [1, 2**26])
def test_a_row_is_itself_in_any_batch(monkeypatch, norm, elements):
    """Alone, and padded among others, a few rows at a time or all."""
    monkeypatch.setattr(recomputation, "ELEMENTS", elements)
    extractor = build(MINI.conv_layers, norm, False, variant=RecomputedExtractor)
    batch, lengths = torch.zeros(4, 3000, dtype=torch.float64), [3000, 2000, 400, 2999]
    for row, length in zip(batch, lengths):
        row[:length] = torch.randn(length)
    together = extractor(batch, torch.tensor(lengths))
    for row, found, length in zip(batch, together, lengths):
        alone = extractor(row[None, :length])[0]
        torch.testing.assert_close(found[: len(alone)], alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_soft_channels_keep_their_digits(dtype, norm):
    """For kernels that pass only quiet frequencies, the norm amplifies the output, but no rounding
    error.  Against the same weights in fp64."""
    half = build(SHALLOW, norm, False, dtype, RecomputedExtractor)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # highest differences of neighbouring samples, exact in 16 bits
        kernel = torch.tensor([1.0, -4, 6, -4, 1, 0, 0, 0, 0, 0]).roll(1)
        scales = 2.0 ** torch.randint(-3, 3, (6, 1, 1), generator=generator)
        half.conv_layers[0].conv.weight.copy_(kernel * scales)
    double = build(SHALLOW, norm, False, variant=RecomputedExtractor)
    double.load_state_dict(half.state_dict())
    noise = torch.randn(2, 4000, generator=generator, dtype=torch.float64)
    audio = noise.cumsum(1).cumsum(1)  # nearly all below the kernels' pass band
    audio = (audio / audio.abs().max()).float()

    def begin(extractor, waveforms):
        x = extractor.first_output(*extractor.windows(waveforms, None))
        activate = F.gelu if norm == "group" else extractor.conv_layers[0].activate
        return activate(x).detach()

    ours, exact = begin(half, audio), begin(double, audio.double())
    assert float((ours.double() - exact).norm() / exact.norm()) < 0.01


def test_parts_are_summed_before_they_are_rounded(monkeypatch):
    """In half precision the gradient of many parts errs as little as that of one."""
    double = build(SHALLOW, "group", False, variant=RecomputedExtractor)
    half = build(SHALLOW, "group", False, torch.bfloat16, RecomputedExtractor)
    double.load_state_dict(half.state_dict())
    waveforms = torch.randn(256, 400).bfloat16()

    def error(elements):
        monkeypatch.setattr(recomputation, "ELEMENTS", elements)
        half.zero_grad()
        half(waveforms).square().sum().backward()
        pairs = zip(half.parameters(), double.parameters())
        return max(float((a.grad - b.grad).abs().max() / b.grad.abs().max()) for a, b in pairs)

    double(waveforms.double()).square().sum().backward()
    assert error(1) < 1.5 * error(2**26) < 0.02
