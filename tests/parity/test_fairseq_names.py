"""A checkpoint with fairseq's names gives the same logits here and, renamed, in transformers.

The names on either side are written out, so that ours cannot agree with themselves alone.
"""

import re

import pytest
import torch

from tests.parity.conftest import their_config, transformers
from tests.unit.wav2vec2.interop import names
from tests.unit.wav2vec2.interop.conftest import DICTIONARY, UNITS, fairseq_finetuned
from wav2vec2.interop import checkpoints, native

FAIRSEQ_TO_TRANSFORMERS = [
    (r"^w2v_encoder\.w2v_model\.", "wav2vec2."),
    (r"^w2v_encoder\.proj\.", "lm_head."),
    (r"\.mask_emb$", ".masked_spec_embed"),
    (r"\.conv_layers\.(\d+)\.0\.", r".conv_layers.\1.conv."),
    (r"\.conv_layers\.(\d+)\.2\.1\.", r".conv_layers.\1.layer_norm."),
    (r"\.conv_layers\.(\d+)\.2\.", r".conv_layers.\1.layer_norm."),
    (r"^wav2vec2\.layer_norm\.", "wav2vec2.feature_projection.layer_norm."),
    (r"\.post_extract_proj\.", ".feature_projection.projection."),
    (r"\.pos_conv\.0\.weight_g$", ".pos_conv_embed.conv.parametrizations.weight.original0"),
    (r"\.pos_conv\.0\.weight_v$", ".pos_conv_embed.conv.parametrizations.weight.original1"),
    (r"\.pos_conv\.0\.bias$", ".pos_conv_embed.conv.bias"),
    (r"\.self_attn\.", ".attention."),
    (r"\.self_attn_layer_norm\.", ".layer_norm."),
    (r"\.fc1\.", ".feed_forward.intermediate_dense."),
    (r"\.fc2\.", ".feed_forward.output_dense."),
]


def renamed(name: str) -> str:
    for pattern, replacement in FAIRSEQ_TO_TRANSFORMERS:
        name = re.sub(pattern, replacement, name)
    return name


@pytest.mark.parametrize(
    "sizes",
    [names.Sizes(), names.Sizes(layer_norm=True, conv_bias=True)],
    ids=["base-like", "large-like"],
)
def test_the_same_logits(tmp_path, sizes):
    given = fairseq_finetuned(sizes)
    torch.save(given, tmp_path / "c.pt")
    (tmp_path / "dict.ltr.txt").write_text(DICTIONARY)
    content = checkpoints.read_checkpoint(tmp_path / "c.pt")
    ours, _ = native.load_ctc(content, "c")
    architecture = native.architecture_of(content, "c")
    theirs = transformers.Wav2Vec2ForCTC(their_config(architecture, vocab_size=UNITS)).eval()
    weights = {renamed(name): tensor for name, tensor in given["model"].items()}
    theirs.load_state_dict(weights, strict=True)
    torch.manual_seed(1)
    waveforms = torch.randn(2, 1_000)
    with torch.no_grad():
        expected = theirs(waveforms).logits
        difference = ours(waveforms).logits - expected
    assert difference.abs().max() <= 1e-4 * max(1, expected.abs().max())
