"""The parameters of fairseq's and NVIDIA's wav2vec 2.0 models, written out.

From the modules that fairseq (fairseq/models/wav2vec/wav2vec2.py at v0.12.3) and NVIDIA's recipe
(PyTorch/SpeechRecognition/wav2vec2/wav2vec2/trunk.py of DeepLearningExamples at commit 35d8759)
register, not from our own.
"""

from dataclasses import dataclass


@dataclass
class Sizes:
    """A small model; `hourglass` is (layers, shortened layers, layers, factor)."""

    conv: tuple = ((8, 10, 5), (8, 3, 2), (12, 2, 2))
    layer_norm: bool = False
    conv_bias: bool = False
    dim: int = 16
    ffn: int = 24
    layers: int = 3
    kernel: int = 8
    groups: int = 4
    final: int = 6
    codebooks: int = 2
    entries: int = 5
    hourglass: tuple | None = None
    linear_resampling: bool = False
    masked_extractor: bool = False


def linear(name, outputs, inputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def extractor(s):
    shapes, inputs = {}, 1
    for i, (channels, kernel, _) in enumerate(s.conv):
        block = f"feature_extractor.conv_layers.{i}"
        conv = f"{block}.conv" if s.masked_extractor else f"{block}.0"
        shapes[f"{conv}.weight"] = (channels, inputs, kernel)
        if s.conv_bias:
            shapes[f"{conv}.bias"] = (channels,)
        if s.layer_norm:
            shapes |= norm(f"{block}.2.1", channels)
        elif i == 0:
            group = f"{block}.norm._group_norm" if s.masked_extractor else f"{block}.2"
            shapes |= norm(group, channels)
        inputs = channels
    return shapes


def transformer_layer(name, s):
    shapes = {}
    for projection in ("k_proj", "v_proj", "q_proj", "out_proj"):
        shapes |= linear(f"{name}.self_attn.{projection}", s.dim, s.dim)
    shapes |= norm(f"{name}.self_attn_layer_norm", s.dim)
    shapes |= linear(f"{name}.fc1", s.ffn, s.dim) | linear(f"{name}.fc2", s.dim, s.ffn)
    return shapes | norm(f"{name}.final_layer_norm", s.dim)


def encoder(s):
    shapes = {
        "encoder.pos_conv.0.bias": (s.dim,),
        "encoder.pos_conv.0.weight_g": (1, 1, s.kernel),
        "encoder.pos_conv.0.weight_v": (s.dim, s.dim // s.groups, s.kernel),
    }
    parts = {"layers": s.layers}
    if s.hourglass:
        before, shortened, after, factor = s.hourglass
        parts = {"layers": before, "hourglass_layers": shortened, "post_layers": after}
        if s.linear_resampling:
            shapes |= linear("encoder.upsample_layer.linear", s.dim * factor, s.dim)
            shapes |= linear("encoder.downsample_layer.linear", s.dim, s.dim * factor)
    for part, count in parts.items():
        for i in range(count):
            shapes |= transformer_layer(f"encoder.{part}.{i}", s)
    return shapes | norm("encoder.layer_norm", s.dim)


def trunk(s):
    channels = s.conv[-1][0]
    shapes = {"mask_emb": (s.dim,)} | extractor(s)
    if channels != s.dim:
        shapes |= linear("post_extract_proj", s.dim, channels)
    return shapes | encoder(s) | norm("layer_norm", channels)


def pretraining(s):
    """Name -> shape of a pre-trained model."""
    codes = s.codebooks * s.entries
    shapes = {"quantizer.vars": (1, codes, s.final // s.codebooks)}
    shapes |= linear("quantizer.weight_proj", codes, s.conv[-1][0])
    shapes |= linear("project_q", s.final, s.final) | linear("final_proj", s.final, s.dim)
    return trunk(s) | shapes


def ctc(s, units):
    """Name -> shape of a fine-tuned model."""
    shapes = {f"w2v_encoder.w2v_model.{name}": shape for name, shape in trunk(s).items()}
    return shapes | linear("w2v_encoder.proj", units, s.dim)


def hubert(s, classes=7):
    """Name -> shape of a pre-trained HuBERT (fairseq/models/hubert/hubert.py at v0.12.3)."""
    return (
        trunk(s) | linear("final_proj", s.final, s.dim) | {"label_embs_concat": (classes, s.final)}
    )


def hubert_ctc(s, units, classes=7):
    """Name -> shape of a fine-tuned HuBERT, which keeps the embeddings of its targets."""
    targets = {"w2v_encoder.w2v_model.label_embs_concat": (classes, s.final)}
    return ctc(s, units) | targets


def adapters(s, inner, corpora=1):
    """Name -> shape of the adapters of a recogniser with `layer_type` trf_adp, as MMS has."""
    shapes = {}
    for i in range(s.layers):
        name = f"w2v_encoder.w2v_model.encoder.layers.{i}.adapter_layer"
        shapes |= {f"{name}.W_a": (corpora, inner, s.dim), f"{name}.W_b": (corpora, s.dim, inner)}
        shapes |= {f"{name}.b_a": (corpora, inner), f"{name}.b_b": (corpora, s.dim)}
        shapes |= {f"{name}.ln_W": (corpora, s.dim), f"{name}.ln_b": (corpora, s.dim)}
    return shapes
