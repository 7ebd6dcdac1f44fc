"""fairseq's checkpoints <-> native checkpoint contents.

Its files hold `model` and either `cfg`, a nested configuration, or the older `args`, a flat one.  A
fine-tuned file nests the configuration of pre-training in `w2v_args`; its dictionary is a file of
its own, or, in newer files, in `task_state`.
"""

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from wav2vec2.cli.errors import UserError
from wav2vec2.config import Architecture, Hourglass
from wav2vec2.interop import native
from wav2vec2.interop.fairseq_weights import (
    CTC_OUTPUT,
    CTC_TRUNK,
    Kind,
    to_ours,
    to_theirs,
    usual_spelling,
)
from wav2vec2.text.vocabulary import SPECIALS, Spelling, Vocabulary, parse_dictionary

Setting = TypeVar("Setting", bool, int, str)

MOST_CONVOLUTIONS = 100
"""Longer lists are none of convolutions."""

_FIRST = "feature_extractor.conv_layers.0."
_LAYER = re.compile(r"encoder\.(layers|hourglass_layers|post_layers)\.\d+")


def is_fairseq(content: Any) -> bool:
    """Whether plain `content` is laid out like a checkpoint of fairseq."""
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        return False
    return any(isinstance(content.get(name), dict) for name in ("args", "cfg"))


def read_fairseq(
    content: dict[str, Any], source: Path, dictionary: Path | None = None
) -> dict[str, Any]:
    """A pre-trained or fine-tuned model as a native content.

    `content`: the file `source` in plain types.  `dictionary`: that of a fine-tuned model; without
    it the file's own, or `dict.<labels>.txt` beside it.  UserError names what is missing.
    """
    model, task = _configuration(content, source)
    weights = usual_spelling(content["model"], str(source))
    if not any(name.startswith(CTC_TRUNK) for name in weights):
        normalize = setting(task, "normalize", bool, source)
        architecture = architecture_from(model, weights, "pretraining", normalize, source)
        ours = to_ours(weights, architecture, "pretraining", str(source))
        return {**native.pretraining_content(architecture), "model": ours}

    pretraining = _pretraining_settings(model, source)
    normalize = setting(task if "normalize" in task else model, "normalize", bool, source)
    architecture = architecture_from(pretraining, weights, "ctc", normalize, source)
    labels = labels_of(task)
    units = output_units(weights, source)
    vocabulary = _vocabulary(content, units, source, dictionary, labels)
    ours = to_ours(weights, architecture, "ctc", str(source), units)
    return {**native.ctc_content(architecture, vocabulary, labels), "model": ours}


def labels_of(settings: Mapping[str, Any]) -> str:
    """The extension of the labels a recogniser was trained on; letters if it is not said."""
    labels = settings.get("labels")
    return labels if isinstance(labels, str) and re.fullmatch(r"[\w-]+", labels) else "ltr"


def _configuration(content: dict[str, Any], source: Path) -> tuple[dict, dict]:
    """Settings of the model and of the task: sections of `cfg`, one and the same in `args`."""
    if isinstance(content.get("args"), dict):
        return content["args"], content["args"]
    sections = content["cfg"].get("model"), content["cfg"].get("task")
    if not all(isinstance(section, dict) for section in sections):
        raise UserError(f"{source}: its cfg has no sections model and task; use another copy")
    return sections


def _pretraining_settings(model: dict[str, Any], source: Path) -> dict[str, Any]:
    """What a fine-tuned model says of the model it was made from."""
    nested = model.get("w2v_args")
    if not isinstance(nested, dict):
        raise UserError(
            f"{source}: does not say what model was fine-tuned (w2v_args); files that need the "
            "pre-trained one beside them cannot be read"
        )
    inner = nested.get("model")
    return inner if isinstance(inner, dict) else nested


def setting(
    values: Mapping[str, Any], name: str, kind: type[Setting], source: Path | str
) -> Setting:
    """`values[name]`; UserError if it is not there or of another type.  Nothing is assumed: a
    default of another version would be another function of the same weights."""
    value = values.get(name)
    if type(value) is not kind:
        found = "lacks it" if name not in values else f"says {value!r}"
        raise UserError(
            f"{source}: {name} must be known to read its weights, and its configuration {found}; "
            "use another copy"
        )
    return value


def architecture_from(
    settings: Mapping[str, Any],
    weights: Mapping[str, Any],
    kind: Kind,
    normalize: bool,
    source: Path | str,
    hourglass: Hourglass | None = None,
) -> Architecture:
    """Sizes from the tensors; what they do not show from the pre-training's `settings`."""
    trunk = {name.removeprefix(CTC_TRUNK): tensor for name, tensor in weights.items()}

    def shape(name: str) -> tuple[int, ...]:
        if not hasattr(trunk.get(name), "shape"):
            raise UserError(f"{source}: lacks {name}; not a wav2vec 2.0 model, or damaged")
        return tuple(trunk[name].shape)

    activation = settings.get("activation_fn", "gelu")
    if activation != "gelu":
        raise UserError(f"{source}: its activation_fn is {activation!r}; only gelu is known here")
    layers = sorted({found[0] for found in map(_LAYER.match, trunk) if found})
    try:
        (dim,) = shape("mask_emb")
        _, per_group, kernel = shape("encoder.pos_conv.0.weight_v")
        return Architecture(
            conv_layers=parse_conv_layers(setting(settings, "conv_feature_layers", str, source)),
            extractor_norm="layer" if f"{_FIRST}2.1.weight" in trunk else "group",
            conv_bias=f"{_FIRST}0.bias" in trunk,
            normalize_input=normalize,
            dim=dim,
            ffn_dim=shape(f"{[*layers, 'encoder.layers.0'][0]}.fc1.weight")[0],
            heads=setting(settings, "encoder_attention_heads", int, source),
            layers=hourglass.layers if hourglass else len(layers),
            norm_first=setting(settings, "layer_norm_first", bool, source),
            position_kernel=kernel,
            position_groups=dim // per_group,
            hourglass=hourglass,
            **(_codebook(shape) if kind == "pretraining" else {}),
        )
    except UserError:
        raise
    except (IndexError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"{source}: describes no model this version knows ({error})") from None


def _codebook(shape: Any) -> dict[str, int]:
    """Sizes of the quantizer and of the space in which its vectors are compared."""
    _, codes, width = shape("quantizer.vars")
    groups = shape("project_q.weight")[1] // width
    return {
        "final_dim": shape("final_proj.weight")[0],
        "codebook_groups": groups,
        "codebook_entries": codes // groups,
    }


def parse_conv_layers(text: str) -> tuple[tuple[int, int, int], ...]:
    """`[(512, 10, 5)] + [(512, 3, 2)] * 4` -> (channels, kernel, stride) of each convolution.

    ValueError if it is anything but lists of whole numbers, added and repeated.
    """
    try:
        layers = _value(ast.parse(text.strip(), mode="eval").body)
        return tuple((channels, kernel, stride) for channels, kernel, stride in layers)
    except (SyntaxError, TypeError, ValueError, RecursionError):
        raise ValueError(f"conv_feature_layers {text[:200]!r} is no list of convolutions") from None


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=int()):
            return node.value
        case ast.Tuple() | ast.List():
            return [_value(element) for element in node.elts]
        case ast.BinOp(op=ast.Add()):
            return _value(node.left) + _value(node.right)
        case ast.BinOp(op=ast.Mult()):
            items, count = _value(node.left), _value(node.right)
            if len(items) * count <= MOST_CONVOLUTIONS:
                return items * count
    raise ValueError


def output_units(weights: Mapping[str, Any], source: Path | str) -> int:
    """Units of a recogniser's output layer, the four special ones included."""
    output = weights.get(f"{CTC_OUTPUT}weight")
    if not hasattr(output, "shape"):
        raise UserError(f"{source}: lacks {CTC_OUTPUT}weight; only CTC recognisers can be read")
    return len(output)


def check_size(vocabulary: Vocabulary, units: int, dictionary: Path | str, source: Path) -> None:
    """UserError unless `vocabulary`, read from `dictionary`, has `units` symbols."""
    if len(vocabulary) != units:
        raise UserError(
            f"{dictionary}: {len(vocabulary)} symbols, the four special ones included; the output "
            f"layer of {source} has {units}: give the dictionary it was trained with"
        )


def _vocabulary(
    content: dict[str, Any], units: int, source: Path, dictionary: Path | None, labels: str
) -> Vocabulary:
    beside = source.parent / f"dict.{labels}.txt"
    state = content.get("task_state")
    own = state.get("target_dictionary") if isinstance(state, dict) else None
    if dictionary is None and isinstance(own, dict):
        symbols = own.get("symbols")
        if not isinstance(symbols, list) or tuple(symbols[: len(SPECIALS)]) != SPECIALS:
            raise UserError(f"{source}: its dictionary does not begin with {' '.join(SPECIALS)}")
        text = "\n".join(map(str, symbols[len(SPECIALS) :]))
        symbols = parse_dictionary(text, f"{source} (dictionary)")
        vocabulary = Vocabulary(symbols, Spelling.of(symbols))
        check_size(vocabulary, units, f"{source} (dictionary)", source)
        return vocabulary
    if dictionary is None and not beside.is_file():
        raise UserError(
            f"{source}: a fine-tuned recogniser ({units} units) without its dictionary; put the "
            f"file it was trained with beside it as {beside.name}, or convert it once with `python "
            "-m utils.checkpoints.convert --dictionary` (training starts from pre-trained files)"
        )
    vocabulary = Vocabulary.from_file(dictionary or beside)
    check_size(vocabulary, units, dictionary or beside, source)
    return vocabulary


def write_fairseq(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A native content as fairseq (0.12 and later) loads it, in plain types.

    `folder`: where a recogniser's dictionary will lie, as `dict.<labels>.txt`.  UserError for an
    hourglass, which fairseq does not have.
    """
    architecture = native.architecture_of(content, "checkpoint")
    if architecture.hourglass is not None:
        raise UserError(
            f"hourglass {architecture.hourglass}: fairseq has none; only plain encoders can be "
            "written for it"
        )
    kind: Kind = content["kind"]
    weights = to_theirs(content["model"], architecture, kind)
    units = output_units(weights, "checkpoint") if kind == "ctc" else 0
    to_ours(weights, architecture, kind, "checkpoint", units)  # says what does not match
    pretraining = {
        "model": _model_settings(architecture),
        "task": _task_settings(architecture, "audio_pretraining", folder),
    }
    configuration = pretraining if kind == "pretraining" else _ctc_settings(pretraining, content)
    return {
        "args": None,
        "cfg": configuration,
        "model": weights,
        # fairseq looks for a last entry, and for these keys in it.
        "optimizer_history": [
            {"optimizer_name": "", "criterion_name": "", "lr_scheduler_state": {}, "num_updates": 0}
        ],
        "task_state": {},
        "extra_state": {},
    }


def _model_settings(architecture: Architecture) -> dict[str, Any]:
    return {
        "_name": "wav2vec2",
        "extractor_mode": "layer_norm" if architecture.extractor_norm == "layer" else "default",
        "encoder_layers": architecture.layers,
        "encoder_embed_dim": architecture.dim,
        "encoder_ffn_embed_dim": architecture.ffn_dim,
        "encoder_attention_heads": architecture.heads,
        "activation_fn": "gelu",
        "layer_norm_first": architecture.norm_first,
        "conv_feature_layers": str(list(architecture.conv_layers)),
        "conv_bias": architecture.conv_bias,
        "conv_pos": architecture.position_kernel,
        "conv_pos_groups": architecture.position_groups,
        "quantize_targets": True,
        "final_dim": architecture.final_dim,
        "latent_vars": architecture.codebook_entries,
        "latent_groups": architecture.codebook_groups,
        "latent_dim": 0,
    }


def _task_settings(architecture: Architecture, name: str, folder: Path) -> dict[str, Any]:
    normalize = architecture.normalize_input
    return {"_name": name, "data": str(folder), "sample_rate": 16_000, "normalize": normalize}


def _ctc_settings(pretraining: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    task = {**pretraining["task"], "_name": "audio_finetuning", "labels": content["labels"]}
    model = {
        "_name": "wav2vec_ctc",
        "w2v_path": "",
        "w2v_args": pretraining,
        "normalize": task["normalize"],
        "data": task["data"],
    }
    return {"model": model, "task": task}


def dictionary_text(content: dict[str, Any]) -> str:
    """A recogniser's dictionary as fairseq reads it: a symbol and a count a line.

    Only the order counts; how often the symbols occurred is not known any more.
    """
    return "".join(f"{symbol} 1\n" for symbol in content["dictionary"].split())
