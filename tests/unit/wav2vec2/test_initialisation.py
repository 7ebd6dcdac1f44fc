"""How weights start, parameter by parameter, as a table."""

import math
import re
from dataclasses import replace

import pytest
import torch

from wav2vec2.config import BASE, ContrastiveObjective, Hourglass, Regularisation
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.pretraining import Wav2Vec2ForPretraining

D, FFN, C, KERNEL = 192, 768, 96, 128
ARCHITECTURE = replace(
    BASE,
    conv_layers=tuple((C, kernel, stride) for _, kernel, stride in BASE.conv_layers),
    conv_bias=True,
    dim=D,
    ffn_dim=FFN,
    layers=4,
    hourglass=Hourglass(1, 2, 3, 1, "linear"),
    final_dim=64,
)


def normal(std):
    return lambda w: (
        (abs(w.mean()) < 4 * std / math.sqrt(w.numel()))
        and (abs(w.std() / std - 1) < 5 / math.sqrt(w.numel()) and w.abs().max() > 2 * std)
    )


def uniform(low, high):
    width = high - low
    return lambda w: (
        (low <= w.min() < low + 0.05 * width)
        and (
            high - 0.05 * width < w.max() <= high
            and abs(w.mean() - (low + high) / 2) < 4 * width / math.sqrt(12 * w.numel())
        )
    )


def constant(value):
    return lambda w: bool((w == value).all())


def default(inputs):
    """PyTorch's own, of weights and biases alike."""
    return uniform(-1 / math.sqrt(inputs), 1 / math.sqrt(inputs))


def kaiming(inputs):
    return normal(math.sqrt(2 / inputs))


TABLE = {
    r"mask_emb": uniform(0, 1),
    r"feature_extractor\.conv_layers\.0\.conv\.weight": kaiming(10),
    r"feature_extractor\.conv_layers\.[1-4]\.conv\.weight": kaiming(3 * C),
    r"feature_extractor\.conv_layers\.[56]\.conv\.weight": kaiming(2 * C),
    r"feature_extractor\.conv_layers\.0\.conv\.bias": default(10),
    r"feature_extractor\.conv_layers\.[1-4]\.conv\.bias": default(3 * C),
    r"feature_extractor\.conv_layers\.[56]\.conv\.bias": default(2 * C),
    r".*(norm)\.weight": constant(1),
    r".*(norm)\.bias": constant(0),
    r"post_extract_proj\.(weight|bias)": default(C),
    r"encoder\.pos_conv\.conv\.bias": constant(0),
    r"encoder\.pos_conv\.conv\.parametrizations\.weight\.original1": normal(
        math.sqrt(4 / (KERNEL * D))
    ),
    r"encoder\.stack\.layers\.\d\.(self_attn\.[qkv]_proj|self_attn\.out_proj|fc1|fc2)\.weight": (
        normal(0.02)
    ),
    r"encoder\.stack\.(shorten|upsample)_linear\.weight": normal(0.02),
    r"encoder\.stack\..*\.bias": constant(0),
}
HEADS = {
    r"quantizer\.vars": uniform(0, 1),
    r"quantizer\.weight_proj\.weight": normal(1),
    r"quantizer\.weight_proj\.bias": constant(0),
    r"project_q\.(weight|bias)": default(64),
    r"final_proj\.(weight|bias)": default(D),
}
OUTPUT = {
    r"proj\.weight": uniform(-math.sqrt(6 / (D + 500)), math.sqrt(6 / (D + 500))),
    r"proj\.bias": constant(0),
}
GAIN = "encoder.pos_conv.conv.parametrizations.weight.original0"


@pytest.mark.parametrize("kind", ["pretraining", "ctc"])
def test_every_parameter(kind):
    torch.manual_seed(1)
    if kind == "pretraining":
        model = Wav2Vec2ForPretraining.from_config(
            ARCHITECTURE, Regularisation(), ContrastiveObjective()
        )
        table = TABLE | HEADS
    else:
        model = Wav2Vec2ForCTC.from_config(ARCHITECTURE, Regularisation(), 500)
        table = TABLE | OUTPUT
    used = set()
    for name, parameter in model.named_parameters():
        name = name.removeprefix("wav2vec2.")
        if name == GAIN:  # the norm of each tap, so that the product is the direction
            direction = dict(model.named_parameters())[f"wav2vec2.{name[:-1]}1"]
            torch.testing.assert_close(parameter, direction.norm(dim=(0, 1), keepdim=True))
            assert parameter.shape == (1, 1, KERNEL)
            continue
        pattern = next(p for p in table if re.fullmatch(p, name))
        used.add(pattern)
        assert table[pattern](parameter.detach()), f"{name}: {pattern}"
    assert used == table.keys()
