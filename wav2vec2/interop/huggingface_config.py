"""transformers' `config.json` and preprocessor <-> Architecture.

What our model cannot express is refused under its name there, never dropped in silence.
"""

from pathlib import Path
from typing import Any

from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import UserError
from wav2vec2.config import Architecture
from wav2vec2.interop.huggingface_files import read_json
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
"""Whole numbers: name here -> name there.  A key that is absent there means the same default in
both: transformers', too, are those of Base."""

_SWITCHES = {"conv_bias": "conv_bias", "norm_first": "do_stable_layer_norm"}

_FIXED = {
    "model_type": "wav2vec2",
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "layer_norm_eps": NORM_EPS,
    "add_adapter": False,
    "adapter_attn_dim": None,
}
"""What every model here has: any other value there is another model."""

_CONVOLUTIONS = ("conv_dim", "conv_kernel", "conv_stride")


def architecture_of_config(config: dict[str, Any], source: Path) -> Architecture:
    """The architecture of a config.json, but for the input's normalisation, which is said
    elsewhere; UserError names `source` and the key."""
    if "model_type" not in config:
        raise UserError(f"{source}: has no model_type; it is not the config of a model")
    for key, value in _FIXED.items():
        if config.get(key, value) != value:
            raise UserError(
                f"{source}: {key} is {config[key]!r}; only {value!r} can be expressed here"
            )
    norm = config.get("feat_extract_norm", "group")
    if norm not in ("group", "layer"):
        raise UserError(f"{source}: feat_extract_norm is {norm!r}, not 'group' or 'layer'")
    values: dict[str, Any] = {
        ours: _checked(config, theirs, getattr(Architecture(), ours), source)
        for ours, theirs in {**_NUMBERS, **_SWITCHES}.items()
    }
    conv_layers = _conv_layers(config, source)
    try:
        return Architecture(conv_layers=conv_layers, extractor_norm=norm, **values)
    except ValueError as error:
        raise UserError(f"{source}: not a model that can be built ({error})") from None


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _checked(config: dict[str, Any], key: str, default: Any, source: Path) -> Any:
    """A whole number of at least 1, or a switch, as the `default` is."""
    value = config.get(key, default)
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise UserError(f"{source}: {key} is {value!r}, not true or false")
    elif not _is_size(value):
        raise UserError(f"{source}: {key} is {value!r}, not a whole number of at least 1")
    return value


def _conv_layers(config: dict[str, Any], source: Path) -> tuple[tuple[int, int, int], ...]:
    columns = []
    for position, key in enumerate(_CONVOLUTIONS):
        column = config.get(key, [layer[position] for layer in Architecture().conv_layers])
        if not isinstance(column, list) or not column or not all(map(_is_size, column)):
            raise UserError(f"{source}: {key} is {column!r}, not a list of whole numbers")
        columns.append(column)
    if len(set(map(len, columns))) != 1:
        raise UserError(f"{source}: {', '.join(_CONVOLUTIONS)} are not of the same length")
    return tuple(zip(*columns))


def vocabulary_size(config: dict[str, Any], source: Path) -> int:
    """Rows of the output layer."""
    return _checked(config, "vocab_size", 32, source)  # transformers' default


def check_contrastive_widths(config: dict[str, Any], source: Path) -> None:
    """Codebook vectors and contrastive space must be equally wide, as in every published model."""
    base = Architecture().final_dim
    codebook, space = config.get("codevector_dim", base), config.get("proj_codevector_dim", base)
    if codebook != space:
        raise UserError(
            f"{source}: codevector_dim {codebook} is not proj_codevector_dim {space}; only a model "
            "with the same width for both can be expressed here"
        )


def config_of_architecture(architecture: Architecture) -> dict[str, Any]:
    """The keys of a config.json that say what the weights mean.

    Dropouts and masks are not among them: a recipe's choice, they are transformers' defaults.
    """
    columns = zip(*architecture.conv_layers)
    return {
        **_FIXED,
        **{key: list(column) for key, column in zip(_CONVOLUTIONS, columns)},
        "feat_extract_norm": architecture.extractor_norm,
        "proj_codevector_dim": architecture.final_dim,
        **{t: getattr(architecture, o) for o, t in {**_NUMBERS, **_SWITCHES}.items()},
    }


def read_normalize_input(folder: Path) -> bool:
    """Whether the folder's preprocessor normalises each utterance (`do_normalize`)."""
    unified, path = folder / "processor_config.json", folder / "preprocessor_config.json"
    values = None
    if unified.is_file():  # transformers >= 5 keeps all parts in this one
        values = read_json(unified).get("feature_extractor")
    if values is not None:
        path = unified
    elif path.is_file():
        values = read_json(path)
    else:
        raise UserError(
            f"{path}: missing, and with it whether input is normalised; fetch it, or write it "
            "with Wav2Vec2FeatureExtractor(...).save_pretrained"
        )
    if not isinstance(values, dict):
        raise UserError(f"{path}: feature_extractor is not an object; fetch it again")
    expected = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "sampling_rate": SAMPLE_RATE,
        "feature_size": 1,
    }
    for key, value in expected.items():
        if values.get(key, value) != value:
            raise UserError(f"{path}: {key} is {values[key]!r}; only {value!r} can be used here")
    normalize = values.get("do_normalize", True)
    if not isinstance(normalize, bool):
        raise UserError(f"{path}: do_normalize is {normalize!r}, not true or false")
    return normalize


def preprocessor_of_architecture(architecture: Architecture) -> dict[str, Any]:
    """The content of a preprocessor_config.json.

    transformers gives an attention mask to the `layer` extractor only: its group norm sees
    padding whether masked or not, and the published `group` models are used without.
    """
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": SAMPLE_RATE,
        "padding_side": "right",
        "padding_value": 0.0,
        "do_normalize": architecture.normalize_input,
        "return_attention_mask": architecture.extractor_norm == "layer",
    }
