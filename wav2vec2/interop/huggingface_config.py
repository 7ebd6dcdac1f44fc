"""transformers' `config.json` and preprocessor <-> our Architecture.

A setting that our model does not support is an error that names its key; it is never ignored.
"""

from pathlib import Path
from typing import Any

from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import UserError
from wav2vec2.config import Architecture
from wav2vec2.files.model_folder import read_object
from wav2vec2.files.text import shown
from wav2vec2.interop.state_dict import refuse_other_model
from wav2vec2.numerics import NORM_EPS

_NUMBERS = {
    "dim": "hidden_size",
    "ffn_dim": "intermediate_size",
    "heads": "num_attention_heads",
    "layers": "num_hidden_layers",
    "position_kernel": "num_conv_pos_embeddings",
    "position_groups": "num_conv_pos_embedding_groups",
    "final_dim": "codevector_dim",
    "codebook_groups": "num_codevector_groups",
    "codebook_entries": "num_codevectors_per_group",
}
"""Whole numbers: name here -> name there.  The defaults are the same: both are those of Base."""

_SWITCHES = {"conv_bias": "conv_bias", "norm_first": "do_stable_layer_norm"}

_FIXED = {
    "model_type": "wav2vec2",
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "layer_norm_eps": NORM_EPS,
    "add_adapter": False,
}
"""Values that all our models have; any other value means another model."""

_FIXED_OF = {
    "wav2vec2": _FIXED,
    "hubert": {
        **_FIXED,
        "model_type": "hubert",
        "feat_proj_layer_norm": True,
        "conv_pos_batch_norm": False,
    },
}
"""The same by model_type: HuBERT's encoder has the same modules, and two more settings."""

_PREPROCESSOR = {
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "feature_size": 1,
    "sampling_rate": SAMPLE_RATE,
}
"""The same for the preprocessor."""

THEIR_EPS = 1e-7
"""What transformers adds to the variance when it normalises."""

_OUR_EPS = "normalize_eps"
"""Key, for ourselves, of what a model written here adds; transformers ignores it."""

_CONVOLUTIONS = ("conv_dim", "conv_kernel", "conv_stride")


def architecture_of_config(config: dict[str, Any], source: Path) -> Architecture:
    """The architecture of a config.json; UserError names `source` and the key.

    The normalisation is not in this file, see `read_normalization`.
    """
    if "model_type" not in config:
        raise UserError(
            f"{source}: has no model_type, so it is of no wav2vec 2.0 model; give another, such as "
            "facebook/wav2vec2-base"
        )
    kind = config["model_type"]
    refuse_other_model(kind, source, "model_type")
    classes = config.get("architectures")
    for name in classes if isinstance(classes, list) else []:
        refuse_other_model(name, source, "architectures")
    if config.get("add_adapter"):
        raise UserError(
            f"{source}: add_adapter is {shown(config['add_adapter'])}: convolutions after the "
            "encoder, which no model here has; use one without, such as facebook/wav2vec2-base"
        )
    _require(config, _FIXED_OF.get(kind, _FIXED) if isinstance(kind, str) else _FIXED, source)
    norm = config.get("feat_extract_norm", "group")
    if norm not in ("group", "layer"):
        raise UserError(f"{source}: feat_extract_norm is {shown(norm)}, not 'group' or 'layer'")
    base = Architecture()
    values: dict[str, Any] = {
        ours: _setting(config, theirs, getattr(base, ours), source)
        for ours, theirs in {**_NUMBERS, **_SWITCHES}.items()
    }
    columns = [
        _setting(config, key, list(column), source)
        for key, column in zip(_CONVOLUTIONS, zip(*base.conv_layers))
    ]
    if len(set(map(len, columns))) != 1:
        raise UserError(f"{source}: {', '.join(_CONVOLUTIONS)} are not of the same length")
    if config.get("adapter_attn_dim") is not None:
        values["adapter_dim"] = _setting(config, "adapter_attn_dim", 1, source)
        if not values["norm_first"]:
            raise UserError(
                f"{source}: adapter_attn_dim is {values['adapter_dim']}, with do_stable_layer_norm "
                "false; use a model whose layers are pre-LN, which alone have adapters"
            )
    try:
        return Architecture(conv_layers=tuple(zip(*columns)), extractor_norm=norm, **values)
    except ValueError as error:
        raise UserError(f"{source}: not a model that can be built ({str(error)[:300]})") from None


def _require(config: dict[str, Any], values: dict[str, Any], source: Path) -> None:
    """Raise UserError if a key of `config` has another value than in `values`."""
    for key, value in values.items():
        if config.get(key, value) != value:
            raise UserError(
                f"{source}: {key} is {shown(config[key])}; only {shown(value)} is supported"
            )


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _setting(config: dict[str, Any], key: str, default: Any, source: Path) -> Any:
    """`config[key]`: a switch, a list of sizes or a size, as `default` is."""
    value = config.get(key, default)
    if isinstance(default, bool):
        valid, wanted = isinstance(value, bool), "true or false"
    elif isinstance(default, list):
        valid = isinstance(value, list) and value and all(map(_is_size, value))
        wanted = "a list of whole numbers"
    else:
        valid, wanted = _is_size(value), "a whole number of at least 1"
    if not valid:
        raise UserError(f"{source}: {key} is {shown(value)}, not {wanted}")
    return value


def vocabulary_size(config: dict[str, Any], source: Path) -> int:
    """The number of rows of the output layer."""
    return _setting(config, "vocab_size", 32, source)  # transformers' default


def check_contrastive_widths(config: dict[str, Any], source: Path) -> None:
    """Raise UserError unless codebook and contrastive space are equally wide, as in all published
    models."""
    base = Architecture().final_dim
    codebook, space = config.get("codevector_dim", base), config.get("proj_codevector_dim", base)
    if codebook != space:
        raise UserError(
            f"{source}: codevector_dim {codebook} is not proj_codevector_dim {space}; only a model "
            "with the same width for both can be expressed here"
        )


def config_of_architecture(architecture: Architecture) -> dict[str, Any]:
    """The keys of a config.json that define the architecture.

    Dropouts and masks are not among them; transformers' defaults apply.
    """
    columns = zip(*architecture.conv_layers)
    return {
        **_FIXED,
        "adapter_attn_dim": architecture.adapter_dim,
        **{key: list(column) for key, column in zip(_CONVOLUTIONS, columns)},
        "feat_extract_norm": architecture.extractor_norm,
        "proj_codevector_dim": architecture.final_dim,
        **{t: getattr(architecture, o) for o, t in {**_NUMBERS, **_SWITCHES}.items()},
    }


def read_normalization(folder: Path) -> dict[str, Any]:
    """Whether the preprocessor of a folder normalises each utterance (`do_normalize`), and with
    what added to the variance, under the names of an Architecture."""
    path = folder / "processor_config.json"  # of transformers >= 5, for all parts
    values = read_object(path).get("feature_extractor") if path.is_file() else None
    if values is None:
        path = folder / "preprocessor_config.json"
        if not path.is_file():
            raise UserError(
                f"{path}: missing; it says whether input is normalised: fetch it, or write it "
                "with Wav2Vec2FeatureExtractor(...).save_pretrained"
            )
        values = read_object(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: feature_extractor is not an object; fetch it again")
    _require(values, _PREPROCESSOR, path)
    if not _setting(values, "do_normalize", True, path):
        return {"normalize_input": False}
    eps = values.get(_OUR_EPS, THEIR_EPS)
    if type(eps) is not float or not 0 < eps < 1:
        raise UserError(f"{path}: {_OUR_EPS} is {shown(eps)}, not a number such as 1e-5")
    return {"normalize_input": True, "normalize_eps": eps}


def preprocessor_of_architecture(architecture: Architecture) -> dict[str, Any]:
    """The content of a preprocessor_config.json.

    Only models with the `layer` extractor get an attention mask: transformers' group norm includes
    padding with or without it, and the published `group` models are used without.
    """
    return {
        **_PREPROCESSOR,
        "padding_side": "right",
        "padding_value": 0.0,
        "do_normalize": architecture.normalize_input,
        **({_OUR_EPS: architecture.normalize_eps} if architecture.normalize_input else {}),
        "return_attention_mask": architecture.extractor_norm == "layer",
    }
