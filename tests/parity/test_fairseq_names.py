"""A checkpoint with fairseq's names gives the same logits here and, renamed, in transformers.

The names on either side are written out, so that ours cannot agree with themselves alone.
"""

import re

import pytest
import torch

from tests.parity.conftest import their_config, transformers
from tests.unit.wav2vec2.interop import names
from tests.unit.wav2vec2.interop.conftest import (
    DICTIONARY,
    INNER,
    LANGUAGES,
    UNITS,
    fairseq_finetuned,
    fairseq_hubert,
    fairseq_hubert_ctc,
    fairseq_mms,
)
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
    (r"\.adapter_layer\.W_a$", ".adapter_layer.linear_1.weight"),
    (r"\.adapter_layer\.b_a$", ".adapter_layer.linear_1.bias"),
    (r"\.adapter_layer\.W_b$", ".adapter_layer.linear_2.weight"),
    (r"\.adapter_layer\.b_b$", ".adapter_layer.linear_2.bias"),
    (r"\.adapter_layer\.ln_W$", ".adapter_layer.norm.weight"),
    (r"\.adapter_layer\.ln_b$", ".adapter_layer.norm.bias"),
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
    assert_equal_outputs(ours, theirs)


def assert_equal_outputs(ours, theirs):
    torch.manual_seed(1)
    waveforms = torch.randn(2, 1_000)
    with torch.no_grad():
        expected = theirs(waveforms).logits
        difference = ours(waveforms).logits - expected
    assert difference.abs().max() <= 1e-4 * max(1, expected.abs().max())


SIZES = [names.Sizes(), names.Sizes(layer_norm=True, conv_bias=True)]


def hubert_config(architecture, **options):
    values = their_config(architecture).to_dict()
    return transformers.HubertConfig(**{**values, "model_type": "hubert", **options})


@pytest.mark.parametrize("sizes", SIZES, ids=["base-like", "large-like"])
def test_hubert(tmp_path, sizes):
    """As transformers' HubertModel: the names of both sides are written out above."""
    given = fairseq_hubert(sizes)
    torch.save(given, tmp_path / "c.pt")
    content = checkpoints.read_checkpoint(tmp_path / "c.pt")
    trunk, _ = native.load_trunk(content, "c")
    theirs = transformers.HubertModel(hubert_config(native.architecture_of(content, "c"))).eval()
    dropped = ("label_embs_concat", "final_proj.weight", "final_proj.bias")
    weights = {
        renamed(f"w2v_encoder.w2v_model.{name}").removeprefix("wav2vec2."): tensor
        for name, tensor in given["model"].items()
        if name not in dropped
    }
    theirs.load_state_dict(weights, strict=True)
    torch.manual_seed(1)
    waveforms = torch.randn(2, 1_000)
    with torch.no_grad():
        expected = theirs(waveforms).last_hidden_state
        difference = trunk.encode(trunk.extract(waveforms, None)) - expected
    assert difference.abs().max() <= 1e-4 * max(1, expected.abs().max())


@pytest.mark.parametrize("sizes", SIZES, ids=["base-like", "large-like"])
def test_fine_tuned_hubert(tmp_path, sizes):
    given = fairseq_hubert_ctc(sizes)
    torch.save(given, tmp_path / "c.pt")
    (tmp_path / "dict.ltr.txt").write_text(DICTIONARY)
    content = checkpoints.read_checkpoint(tmp_path / "c.pt")
    ours, _ = native.load_ctc(content, "c")
    config = hubert_config(native.architecture_of(content, "c"), vocab_size=UNITS)
    theirs = transformers.HubertForCTC(config).eval()
    weights = {
        re.sub("^wav2vec2", "hubert", renamed(name)): tensor
        for name, tensor in given["model"].items()
        if "label_embs" not in name
    }
    theirs.load_state_dict(weights, strict=True)
    assert_equal_outputs(ours, theirs)


@pytest.mark.parametrize("language", LANGUAGES)
def test_mms(tmp_path, language):
    given = fairseq_mms(SIZES[1])
    torch.save(given, tmp_path / "c.pt")
    content = checkpoints.read_checkpoint(tmp_path / "c.pt", language=language)
    ours, vocabulary = native.load_ctc(content, "c")
    config = their_config(
        native.architecture_of(content, "c"), vocab_size=len(vocabulary), adapter_attn_dim=INNER
    )
    theirs = transformers.Wav2Vec2ForCTC(config).eval()
    weights = {
        renamed(name): tensor[0] if ".adapter_layer." in name else tensor
        for name, tensor in (given["model"] | given["adapter"][language]["model"]).items()
    }
    theirs.load_state_dict(weights, strict=True)
    assert_equal_outputs(ours, theirs)
