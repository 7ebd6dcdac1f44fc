"""fairseq's checkpoints <-> native contents.

A file holds `model` and either `cfg`, a nested configuration, or the older `args`, a flat one.  A
fine-tuned file nests the configuration of pre-training in `w2v_args`.  Its dictionary is a separate
file or, in newer checkpoints, in `task_state`.

HuBERT's encoder has the same modules and names.  What only its pre-training needs is dropped: it
is read as a trunk, or as a recogniser.  MMS' recognisers have adapters in their layers; `adapter`
holds those of each language, with its output layer and its dictionary.

NVIDIA's recipe has the same parameter names, and others for the parts of an hourglass.
"""

import ast
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from torch import Tensor

from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import UserError
from wav2vec2.config import Architecture, Hourglass
from wav2vec2.files.output import write_lines
from wav2vec2.files.text import shown
from wav2vec2.files.torch_file import write_torch_file
from wav2vec2.interop import native
from wav2vec2.interop.state_dict import (
    OLDER_WEIGHT_NORM,
    TRUNK,
    Kind,
    fitting_weights,
    is_hubert,
    pick_language,
    refuse_other_model,
    rename,
    rename_all,
    require_known,
)
from wav2vec2.text.vocabulary import SPECIALS, Spelling, Vocabulary, parse_dictionary

Setting = TypeVar("Setting", bool, int, str)

CTC_TRUNK = "w2v_encoder.w2v_model."
"""Prefix of the trunk's weights in a recogniser."""

CTC_OUTPUT = "w2v_encoder.proj."
"""Prefix of the output layer's weights."""

_OURS_TO_THEIRS = [
    (r"\.conv_layers\.(\d+)\.conv\.", r".conv_layers.\1.0."),
    (r"\.pos_conv\.conv\.", ".pos_conv.0."),
    *OLDER_WEIGHT_NORM,
    (r"\.encoder\.stack\.shorten_linear\.", ".encoder.downsample_layer.linear."),
    (r"\.encoder\.stack\.upsample_linear\.", ".encoder.upsample_layer.linear."),
    (r"\.adapter\.linear_1\.weight$", ".adapter_layer.W_a"),
    (r"\.adapter\.linear_1\.bias$", ".adapter_layer.b_a"),
    (r"\.adapter\.linear_2\.weight$", ".adapter_layer.W_b"),
    (r"\.adapter\.linear_2\.bias$", ".adapter_layer.b_b"),
    (r"\.adapter\.norm\.weight$", ".adapter_layer.ln_W"),
    (r"\.adapter\.norm\.bias$", ".adapter_layer.ln_b"),
]

OTHER_SPELLINGS = [
    *OLDER_WEIGHT_NORM,
    # NVIDIA's feature extractor with padding masks.
    (r"\.conv_layers\.(\d+)\.conv\.", r".conv_layers.\1.0."),
    (r"\.conv_layers\.(\d+)\.norm\.(?:_group_norm\.)?", r".conv_layers.\1.2."),
]
"""Other names that files have -> those of fairseq's own files."""

_MOST_CONVOLUTIONS = 100
"""A longer list is refused; it cannot describe a feature extractor."""

_FIRST = "feature_extractor.conv_layers.0."
_LAYER = re.compile(r"encoder\.(layers|hourglass_layers|post_layers)\.\d+")

_ADAPTER = ".adapter_layer."
_FIRST_ADAPTER = f"encoder.layers.0{_ADAPTER}W_a"

_OF_HUBERT = re.compile(
    rf"(?:{re.escape(CTC_TRUNK)})?(?:label_embs_concat$|final_proj\.|target_glu\.)"
)
"""Weights of HuBERT that only its pre-training needs."""

_KNOWN = {
    "activation_fn": ("gelu",),
    "layer_type": ("transformer", "trf_adp"),
    "pos_conv_depth": (1,),
    "conv_pos_batch_norm": (False,),
    "adp_act_fn": ("relu",),
    "adp_trf_idx": ("all",),
}
"""Settings that weights do not show -> the values that all models here have."""


def their_name(ours: str, architecture: Architecture, kind: Kind) -> str:
    """The name of a parameter here -> its name in fairseq."""
    # fairseq puts LayerNorm between two transpositions, GroupNorm alone.
    norm = "2.1" if architecture.extractor_norm == "layer" else "2"
    name = re.sub(r"\.conv_layers\.(\d+)\.norm\.", rf".conv_layers.\1.{norm}.", ours)
    name = re.sub(
        r"\.encoder\.stack\.layers\.(\d+)\.",
        lambda found: f".encoder.{_their_layer(int(found[1]), architecture.hourglass)}.",
        name,
    )
    name = rename(name, _OURS_TO_THEIRS)
    if kind == "ctc" and name.startswith("proj."):
        return CTC_OUTPUT + name.removeprefix("proj.")
    return (CTC_TRUNK if kind == "ctc" else "") + name.removeprefix(TRUNK)


def _their_layer(number: int, hourglass: Hourglass | None) -> str:
    """Here the layers of an hourglass are one list, there each of its three parts is one."""
    if hourglass is None or number < hourglass.pre:
        return f"layers.{number}"
    number -= hourglass.pre
    if number < hourglass.middle:
        return f"hourglass_layers.{number}"
    return f"post_layers.{number - hourglass.middle}"


def to_theirs(
    weights: Mapping[str, Tensor], architecture: Architecture, kind: Kind
) -> dict[str, Tensor]:
    """Our state dict as fairseq's."""
    return {their_name(name, architecture, kind): tensor for name, tensor in weights.items()}


def is_fairseq(content: Any) -> bool:
    """Whether the content of a file, in plain types, has the layout of fairseq's checkpoints."""
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        return False
    return any(isinstance(content.get(name), dict) for name in ("args", "cfg"))


def read_fairseq(
    content: dict[str, Any],
    source: Path,
    dictionary: Path | None = None,
    language: str | None = None,
) -> dict[str, Any]:
    """The native content of a pre-trained or fine-tuned model.

    `content`: the file `source` in plain types.  `dictionary`: that of a fine-tuned model; default
    is the one in the file, or `dict.<labels>.txt` beside it.  `language`: which of the adapters of
    a recogniser that has some for several languages.  UserError names what is missing.
    """
    model, task = _configuration(content, source)
    check_settings(model, source)
    refuse_other_model(task.get("_name"), source, "task")
    content = _with_language(content, language, source)
    weights = rename_all(content["model"], OTHER_SPELLINGS, str(source))
    hubert = "label_embs_concat" in weights or _is_hubert(model)
    normalize = {"normalize": (task if "normalize" in task else model).get("normalize")}
    if not any(name.startswith(CTC_TRUNK) for name in weights):
        if hubert:
            weights = _without_targets(weights)
        settings = {**model, **normalize}
        return native_content(weights, settings, source, "trunk" if hubert else "pretraining")
    inner = _pretraining_settings(model, source)
    check_settings(inner, source)
    if hubert or _is_hubert(inner):
        weights = _without_targets(weights)
    settings = {**inner, **normalize}
    labels = labels_of(task)
    units = _output_units(weights, source)
    found = _find_vocabulary(content, units, source, dictionary, labels)
    return native_content(
        _one_adapter(weights, source), settings, source, "ctc", vocabulary=found, labels=labels
    )


def check_settings(settings: Mapping[str, Any], source: Path) -> None:
    """UserError if settings are those of a model that is not read here."""
    for key in ("_name", "arch"):
        refuse_other_model(settings.get(key), source, key)
    require_known(settings, _KNOWN, source)


def _is_hubert(settings: dict[str, Any]) -> bool:
    return any(is_hubert(settings.get(key)) for key in ("_name", "arch"))


def _without_targets(weights: dict[str, Any]) -> dict[str, Any]:
    """HuBERT's weights without those that predict the targets of its pre-training."""
    return {name: tensor for name, tensor in weights.items() if not _OF_HUBERT.match(name)}


def _with_language(content: dict[str, Any], given: str | None, source: Path) -> dict[str, Any]:
    """A content with the adapters, the output layer and the dictionary of a language in place.

    Those of the model itself are of one of the languages.
    """
    table = content.get("adapter")
    table = table if isinstance(table, dict) else {}
    damaged = UserError(f"{source}: damaged, its adapters are no table of languages")
    if not all(isinstance(name, str) and re.fullmatch(r"[\w-]+", name) for name in table):
        raise damaged
    chosen = pick_language(table, given, source)
    if not chosen:
        return content
    entry = table[chosen]
    weights = entry.get("model") if isinstance(entry, dict) else None
    if not isinstance(weights, dict):
        raise damaged
    lacking = [n for n in content["model"] if _ADAPTER in str(n) and n not in weights]
    if lacking:
        raise UserError(f"{source}: the adapter of {chosen} lacks {lacking[0]}; use another copy")
    whole = {**content["model"], **weights}
    return {**content, "model": whole, "task_state": entry.get("task_state")}


def _one_adapter(weights: dict[str, Any], source: Path) -> dict[str, Any]:
    """`weights` with adapters as matrices: fairseq stacks those of `adp_num` corpora."""
    plain = dict(weights)
    for name, tensor in weights.items():
        if _ADAPTER not in name or not getattr(tensor, "ndim", 0):
            continue
        if len(tensor) != 1:
            raise UserError(
                f"{source}: adp_num is {len(tensor)}: {name} holds adapters of several corpora in "
                "one; use a model with one per layer, such as facebook/mms-1b-all"
            )
        plain[name] = tensor[0]
    return plain


def native_content(
    weights: Mapping[str, Any],
    settings: Mapping[str, Any],
    source: Path,
    kind: Kind | Literal["trunk"],
    *,
    hourglass: Hourglass | None = None,
    vocabulary: tuple[Vocabulary, str] | None = None,
    labels: str = "",
) -> dict[str, Any]:
    """The native content of a pre-training model, of its trunk or, with a `vocabulary`, of a
    recogniser.

    `settings`: those of its pre-training and `normalize`.  `vocabulary`: with the name of its file,
    for messages.  UserError if weights, settings and vocabulary do not belong together.
    """
    architecture = _architecture(weights, settings, kind, source, hourglass)
    units = 0
    if vocabulary is None:
        described = native.pretraining_content(architecture)
    else:
        symbols, dictionary = vocabulary
        units = _output_units(weights, source)
        if len(symbols) != units:
            raise UserError(
                f"{dictionary}: {len(symbols)} symbols, the four special ones included; the output "
                f"layer of {source} has {units}: give the dictionary it was trained with"
            )
        described = native.ctc_content(architecture, symbols, labels)
    named: Kind = "ctc" if kind == "ctc" else "pretraining"
    name = partial(their_name, architecture=architecture, kind=named)
    fitting = fitting_weights(weights, architecture, kind, str(source), name, units)
    return {**described, "model": fitting}


def labels_of(settings: Mapping[str, Any]) -> str:
    """The extension of a recogniser's label files; default is that of letters."""
    labels = settings.get("labels")
    if isinstance(labels, list) and len(labels) == 1:  # HuBERT's task has a list
        labels = labels[0]
    return labels if isinstance(labels, str) and re.fullmatch(r"[\w-]+", labels) else "ltr"


def _configuration(content: dict[str, Any], source: Path) -> tuple[dict, dict]:
    """The settings of the model and of the task: two sections of `cfg`, or both `args`."""
    if isinstance(content.get("args"), dict):
        return content["args"], content["args"]
    sections = content["cfg"].get("model"), content["cfg"].get("task")
    if not all(isinstance(section, dict) for section in sections):
        raise UserError(f"{source}: its cfg has no sections model and task; use another copy")
    return sections


def _pretraining_settings(model: dict[str, Any], source: Path) -> dict[str, Any]:
    """The pre-training settings that a fine-tuned model carries."""
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
    """`values[name]`; UserError if it is missing or of another type.

    There is no default: a wrong one would give another model with the same weights.
    """
    value = values.get(name)
    if type(value) is not kind:
        found = "lacks it" if value is None else f"says {shown(value)}"
        raise UserError(
            f"{source}: {name} must be known to read its weights, and its configuration {found}; "
            "use another copy"
        )
    return value


def _architecture(
    weights: Mapping[str, Any],
    settings: Mapping[str, Any],
    kind: Kind | Literal["trunk"],
    source: Path,
    hourglass: Hourglass | None,
) -> Architecture:
    """The architecture of a model: sizes from its tensors, the rest from `settings`."""
    trunk = {name.removeprefix(CTC_TRUNK): tensor for name, tensor in weights.items()}

    def shape(name: str) -> tuple[int, ...]:
        if not hasattr(trunk.get(name), "shape"):
            raise UserError(f"{source}: lacks {name}; not a wav2vec 2.0 model, or damaged")
        return tuple(trunk[name].shape)

    layers = sorted({found[0] for found in map(_LAYER.match, trunk) if found})
    try:
        (dim,) = shape("mask_emb")
        _, per_group, kernel = shape("encoder.pos_conv.0.weight_v")
        return Architecture(
            conv_layers=parse_conv_layers(setting(settings, "conv_feature_layers", str, source)),
            extractor_norm="layer" if f"{_FIRST}2.1.weight" in trunk else "group",
            conv_bias=f"{_FIRST}0.bias" in trunk,
            normalize_input=setting(settings, "normalize", bool, source),
            dim=dim,
            ffn_dim=shape(f"{[*layers, 'encoder.layers.0'][0]}.fc1.weight")[0],
            heads=setting(settings, "encoder_attention_heads", int, source),
            layers=hourglass.layers if hourglass else len(layers),
            norm_first=setting(settings, "layer_norm_first", bool, source),
            position_kernel=kernel,
            position_groups=dim // per_group,
            hourglass=hourglass,
            adapter_dim=shape(_FIRST_ADAPTER)[0] if _FIRST_ADAPTER in trunk else None,
            **(_codebook(shape) if kind == "pretraining" else {}),
        )
    except UserError:
        raise
    except (IndexError, ValueError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{source}: damaged, or describes no model this version knows ({reason}); use another "
            "copy"
        ) from None


def _codebook(shape: Any) -> dict[str, int]:
    """Sizes of the quantizer and of the contrastive space."""
    _, codes, width = shape("quantizer.vars")
    groups = shape("project_q.weight")[1] // width
    return {
        "final_dim": shape("final_proj.weight")[0],
        "codebook_groups": groups,
        "codebook_entries": codes // groups,
    }


def parse_conv_layers(text: str) -> tuple[tuple[int, int, int], ...]:
    """`[(512, 10, 5)] + [(512, 3, 2)] * 4` -> (channels, kernel, stride) of each convolution.

    ValueError for anything but sums and repetitions of lists of whole numbers.
    """
    try:
        layers = _literal(ast.parse(text.strip(), mode="eval").body)
        return tuple((channels, kernel, stride) for channels, kernel, stride in layers)
    except (SyntaxError, TypeError, ValueError, RecursionError):
        raise ValueError(f"conv_feature_layers {shown(text)} is no list of convolutions") from None


def _literal(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=int()):
            return node.value
        case ast.Tuple() | ast.List():
            return [_literal(element) for element in node.elts]
        case ast.BinOp(op=ast.Add()):
            return _literal(node.left) + _literal(node.right)
        case ast.BinOp(op=ast.Mult()):
            items, count = _literal(node.left), _literal(node.right)
            if len(items) * count <= _MOST_CONVOLUTIONS:
                return items * count
    raise ValueError


def _output_units(weights: Mapping[str, Any], source: Path) -> int:
    """The number of units of a recogniser's output layer, special ones included."""
    output = weights.get(f"{CTC_OUTPUT}weight")
    if not hasattr(output, "shape"):
        raise UserError(f"{source}: lacks {CTC_OUTPUT}weight; only CTC recognisers can be read")
    return len(output)


def vocabulary_of_text(text: str, name: str) -> tuple[Vocabulary, str]:
    """The vocabulary of a dictionary's text, and `name`."""
    symbols = parse_dictionary(text, name)
    return Vocabulary(symbols, Spelling.of(symbols)), name


def _find_vocabulary(
    content: dict[str, Any], units: int, source: Path, given: Path | None, labels: str
) -> tuple[Vocabulary, str]:
    state = content.get("task_state")
    own = state.get("target_dictionary") if isinstance(state, dict) else None
    if given is None and isinstance(own, dict):
        symbols = own.get("symbols")
        if not isinstance(symbols, list) or tuple(symbols[: len(SPECIALS)]) != SPECIALS:
            raise UserError(f"{source}: its dictionary does not begin with {' '.join(SPECIALS)}")
        text = "\n".join(map(str, symbols[len(SPECIALS) :]))
        return vocabulary_of_text(text, f"{source} (dictionary)")
    path = given or source.parent / f"dict.{labels}.txt"
    if given is None and not path.is_file():
        raise UserError(
            f"{source}: a fine-tuned recogniser ({units} units) without its dictionary; put the "
            f"file it was trained with beside it as {path.name}, or convert it once with `python "
            "-m utils.checkpoints.convert --dictionary`"
        )
    return Vocabulary.from_file(path), str(path)


def write_fairseq(content: dict[str, Any], path: Path) -> None:
    """Write a native content for fairseq, and a recogniser's dictionary beside it.

    UserError for an hourglass, and if another dictionary is in the place of this one.
    """
    converted = to_fairseq(content, path.resolve().parent)
    if content["kind"] != "ctc":
        write_torch_file(path, converted)
        return
    symbols = content["dictionary"].split()
    if len(set(symbols)) != len(symbols):
        raise UserError(
            f"{path}: not written; two units of its dictionary are written alike, which fairseq's "
            "cannot list"
        )
    dictionary = path.with_name(f"dict.{content['labels']}.txt")
    exists = dictionary.exists()
    if exists and parse_dictionary(dictionary.read_text("utf-8"), dictionary) != symbols:
        raise UserError(
            f"{dictionary}: exists already, with other symbols than the checkpoint's; choose "
            "another folder for OUTPUT"
        )
    write_torch_file(path, converted)
    if not exists:
        # fairseq wants a count per symbol but uses only their order.
        write_lines(dictionary, (f"{symbol} 1" for symbol in symbols))


def to_fairseq(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A native content as fairseq (0.12 and later) loads it, in plain types.

    `folder`: where a recogniser's dictionary will lie, as `dict.<labels>.txt`.  UserError for an
    hourglass, which fairseq does not have.
    """
    architecture = native.architecture_of(content, "checkpoint")
    if architecture.adapter_dim is not None:
        raise UserError(
            "adapters after the transformer layers: fairseq's file for them is another; write "
            "--to huggingface"
        )
    if architecture.hourglass is not None:
        raise UserError(
            f"hourglass {architecture.hourglass}: fairseq has none; only plain encoders can be "
            "written for it"
        )
    kind: Kind = content["kind"]
    if kind == "pretraining" and "quantizer.vars" not in content["model"]:
        raise UserError(
            "a pre-trained trunk without quantizer, as HuBERT's: fairseq's file of wav2vec 2.0 "
            "needs one; write --to huggingface"
        )
    units = len(SPECIALS) + len(content.get("dictionary", "").split())
    fitting_weights(content["model"], architecture, kind, "checkpoint", units=units)
    task = {
        "_name": "audio_pretraining",
        "data": str(folder),
        "sample_rate": SAMPLE_RATE,
        "normalize": architecture.normalize_input,
    }
    configuration = {"model": _model_settings(architecture), "task": task}
    if kind == "ctc":
        model = {
            "_name": "wav2vec_ctc",
            "w2v_path": "",
            "w2v_args": configuration,
            "normalize": task["normalize"],
            "data": task["data"],
        }
        task = {**task, "_name": "audio_finetuning", "labels": content["labels"]}
        configuration = {"model": model, "task": task}
    return {
        "args": None,
        "cfg": configuration,
        "model": to_theirs(content["model"], architecture, kind),
        # fairseq reads these keys of the last entry.
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
