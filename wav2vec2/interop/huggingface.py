"""Hugging Face transformers' wav2vec 2.0 folders <-> native contents.

transformers itself is not needed.  A folder holds `config.json`, the weights (`model.safetensors`,
`pytorch_model.bin`, or several with an index), `preprocessor_config.json` (or the newer
`processor_config.json`) and, for a recogniser, `vocab.json` and the other tokenizer files.

Supported are Wav2Vec2ForPreTraining, Wav2Vec2ForCTC and the bare Wav2Vec2Model, of any width and
depth: Base-like (post-LN, `group` extractor), Large-like ("stable layer norm", `layer` extractor)
or mixed.  Sizes come from config.json; every tensor must be there, with that size, and no other.
A bare Wav2Vec2Model lacks the quantizer: it can be fine-tuned, not pre-trained further.
HuBERT's encoder has the same modules: its models are read like a bare Wav2Vec2Model, or with CTC.
MMS' recognisers have adapters after their layers (`adapter_attn_dim`), one file of them and one
vocabulary for each language; reading takes those of one language.
Refused, naming the key: convolutions after the encoder (`add_adapter`), other activations, another
`model_type` (WavLM, data2vec, Conformer), different widths of codebook and contrastive space, an
input as wide as the encoder that is projected all the same.

Differences between the two formats:

- The blank is their padding token and our row 0, see huggingface_vocabulary.py.  Reading reorders
  the rows, writing keeps their order.  A special token that a vocabulary lacks becomes a row that
  is never the largest.
- `do_normalize` becomes `normalize_input`.  Published `group` models say true although Base was
  pre-trained without; the norm in their extractor removes scale and offset, so results differ
  little.  transformers adds 1e-7 to the variance, we (and fairseq) 1e-5, which changes the frames
  of quiet recordings: a model from there keeps its 1e-7 here.  One written for it gets 1e-7 there.
- transformers' group norm includes padding, ours does not.  `group` models give equal results for
  single utterances or equal lengths; `layer` models also for padded batches with their attention
  mask, which `return_attention_mask` asks for.
- Published recognisers often lack `masked_spec_embed`, which only training uses.  It is set to
  zeros, with a notice.
- Dropouts, masks and LayerDrop belong to the recipe here and to config.json there.  They are
  neither read nor written.
- transformers has no hourglass encoder, and no CTC tokenizer for sentencepiece units.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from wav2vec2.cli.console import notice
from wav2vec2.cli.errors import UserError
from wav2vec2.config import Architecture
from wav2vec2.ctc import BLANK
from wav2vec2.files.model_folder import (
    REFETCH,
    read_object,
    read_weight_file,
    read_weights,
    write_model_folder,
)
from wav2vec2.files.text import shown
from wav2vec2.interop import native
from wav2vec2.interop.huggingface_config import (
    architecture_of_config,
    check_contrastive_widths,
    config_of_architecture,
    preprocessor_of_architecture,
    read_normalization,
    vocabulary_size,
)
from wav2vec2.interop.huggingface_vocabulary import (
    choose_language,
    read_vocabulary,
    tokenizer_files,
)
from wav2vec2.interop.state_dict import (
    OLDER_WEIGHT_NORM,
    TRUNK,
    check_claims,
    fitting_weights,
    rename,
    rename_all,
    trunk_weights,
)
from wav2vec2.text.vocabulary import SPECIALS, Spelling, Vocabulary

_CONFIG = "config.json"

_RENAMES = [
    (r"^wav2vec2\.mask_emb$", "wav2vec2.masked_spec_embed"),
    (r"\.conv_layers\.(\d+)\.norm\.", r".conv_layers.\1.layer_norm."),
    (r"^wav2vec2\.layer_norm\.", "wav2vec2.feature_projection.layer_norm."),
    (r"^wav2vec2\.post_extract_proj\.", "wav2vec2.feature_projection.projection."),
    (r"\.encoder\.pos_conv\.conv\.", ".encoder.pos_conv_embed.conv."),
    (r"\.encoder\.stack\.layers\.", ".encoder.layers."),
    (r"\.self_attn\.", ".attention."),
    (r"\.self_attn_layer_norm\.", ".layer_norm."),
    (r"\.fc1\.", ".feed_forward.intermediate_dense."),
    (r"\.fc2\.", ".feed_forward.output_dense."),
    (r"\.adapter\.", ".adapter_layer."),
    (r"^quantizer\.vars$", "quantizer.codevectors"),
    (r"^final_proj\.", "project_hid."),
    (r"^proj\.", "lm_head."),
]

_OTHER_PREFIX = [(r"^hubert\.", TRUNK)]
"""The prefix of HuBERT's trunk in a recogniser."""

ADAPTER = "adapter."
"""Beginning of the name of the file with the adapters of a language: `adapter.deu.safetensors`."""

_OTHER_NAMES = [
    (r"(^|\.)mask_time_emb_vector$", r"\1masked_spec_embed"),  # of early recognisers
    (r"(\.pos_conv_embed\.conv\.)weight_g$", r"\1parametrizations.weight.original0"),
    (r"(\.pos_conv_embed\.conv\.)weight_v$", r"\1parametrizations.weight.original1"),
]
"""Other names that files have -> those above: the mask vector's first name, and torch's newer names
for gain and direction of a weight-normalised convolution."""

_MASK_VECTOR = "wav2vec2.masked_spec_embed"
_PROJECTION = "wav2vec2.feature_projection.projection."

_LABELS = {Spelling.LETTERS: "ltr", Spelling.TOKENS: "phn"}
"""Extension of the label files of a vocabulary; a folder does not state it."""


def is_huggingface(path: Path) -> bool:
    """Whether `path` is a folder with a config.json."""
    return (path / _CONFIG).is_file()


def their_name(ours: str) -> str:
    """The name of a parameter here -> its name in transformers."""
    return rename(ours, _RENAMES)


def their_weights(weights: dict[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
    """Our state dict under their names.

    If the extractor is as wide as the encoder, we have no projection between them.  transformers
    always has one: it becomes the identity.
    """
    renamed = {their_name(name): tensor for name, tensor in weights.items()}
    if not _has_projection(architecture):
        renamed[f"{_PROJECTION}weight"] = torch.eye(architecture.dim)
        renamed[f"{_PROJECTION}bias"] = torch.zeros(architecture.dim)
    return renamed


def _has_projection(architecture: Architecture) -> bool:
    return architecture.conv_layers[-1][0] != architecture.dim


def read_huggingface(folder: Path, language: str | None = None) -> dict[str, Any]:
    """The native content of the model in `folder`.

    `language`: which adapter of a recogniser that has some for several languages.  UserError,
    naming the file, if anything in the folder is not supported or does not match.
    """
    source = folder / _CONFIG
    config = read_object(source)
    architecture = architecture_of_config(config, source)
    architecture = replace(architecture, **read_normalization(folder))
    chosen = choose_language(folder, language)
    tensors = rename_all(read_weights(folder), _OTHER_PREFIX, str(folder))
    prefix = [] if trunk_weights(tensors) else [("^", TRUNK)]  # a bare Wav2Vec2Model has none
    tensors = rename_all(tensors, _OTHER_NAMES + prefix, str(folder))
    if chosen:
        tensors |= _read_adapter(folder, chosen, tensors)
    check_claims(architecture, tensors, str(folder))
    if not _has_projection(architecture):
        _drop_identity(tensors, architecture.dim, folder)
    if any(name.startswith("lm_head.") for name in tensors):
        return _read_ctc(folder, config, architecture, tensors, chosen)
    quantized = any(name.startswith("quantizer.") for name in tensors)
    if quantized:
        check_contrastive_widths(config, source)
    kind: Literal["pretraining", "trunk"] = "pretraining" if quantized else "trunk"
    weights = fitting_weights(tensors, architecture, kind, str(folder), their_name)
    return {**native.pretraining_content(architecture), "model": weights}


def check_description(folder: Path, language: str | None) -> None:
    """UserError if the small files of a folder describe a model that cannot be read."""
    source = folder / _CONFIG
    architecture_of_config(read_object(source), source)
    choose_language(folder, language)


def _read_adapter(folder: Path, language: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The adapters and the output layer of a language; `tensors`: those of the whole model.

    The model's own are those of one of the languages.
    """
    paths = [folder / f"{ADAPTER}{language}{suffix}" for suffix in (".safetensors", ".bin")]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise UserError(
            f"{folder}: has no {paths[0].name}, which holds the adapters of {language}; fetch it, "
            "or choose another --language"
        )
    found = read_weight_file(path)
    for name in found:
        if not name.startswith("lm_head.") and ".adapter_layer." not in name:
            raise UserError(
                f"{path}: holds {shown(name)}, which is no weight of an adapter; {REFETCH}"
            )
    lacking = sorted(n for n in tensors if ".adapter_layer." in n and n not in found)
    if lacking:
        raise UserError(f"{path}: lacks {lacking[0]}; {REFETCH}")
    return found


def _drop_identity(tensors: dict[str, Tensor], dim: int, folder: Path) -> None:
    """Remove the projection that `their_weights` adds to a model that has none."""
    weight = tensors.pop(f"{_PROJECTION}weight", None)
    bias = tensors.pop(f"{_PROJECTION}bias", None)
    if weight is None or not torch.equal(weight, torch.eye(dim)) or bias is None or bias.any():
        raise UserError(
            f"{folder / _CONFIG}: hidden_size {dim} is also the last of conv_dim; such a model has "
            "no projection between them here, and this one's is not the identity"
        )


def _read_ctc(
    folder: Path,
    config: dict[str, Any],
    architecture: Architecture,
    tensors: dict[str, Tensor],
    language: str,
) -> dict[str, Any]:
    if _MASK_VECTOR not in tensors:
        notice(f"{folder}: has no mask vector (masked_spec_embed), which only training uses: zeros")
        tensors[_MASK_VECTOR] = torch.zeros(architecture.dim)
    size = vocabulary_size(config, folder / _CONFIG)
    if language and "lm_head.bias" in tensors:  # each language has its own number of symbols
        size = tensors["lm_head.bias"].numel()
    weights = fitting_weights(tensors, architecture, "ctc", str(folder), their_name, size)
    vocabulary, rows = read_vocabulary(folder, config, size, language)
    weights["proj.weight"] = _reordered(weights["proj.weight"], rows, absent=0.0)
    weights["proj.bias"] = _reordered(weights["proj.bias"], rows, absent=native.NEVER)
    labels = _LABELS[vocabulary.spelling]
    return {**native.ctc_content(architecture, vocabulary, labels), "model": weights}


def _reordered(tensor: Tensor, rows: list[int | None], absent: float) -> Tensor:
    """The rows of `tensor` in the order `rows`; `absent` fills a row that is None there."""
    taken = tensor[[row or 0 for row in rows]]
    taken[[row is None for row in rows]] = absent
    return taken


def write_huggingface(content: dict[str, Any], folder: Path) -> None:
    """Write a native content as a folder for transformers' `from_pretrained`, whole or not at all.

    It becomes a Wav2Vec2ForPreTraining (a bare Wav2Vec2Model if it has no quantizer), or a
    Wav2Vec2ForCTC with its processor.  UserError if `folder` is not empty, or transformers has no
    such model.
    """
    architecture = native.architecture_of(content, str(folder))
    if architecture.hourglass is not None:
        raise UserError(
            f"{folder}: not written; transformers has no hourglass encoder like this model's "
            f"{architecture.hourglass}; graphs take it: --to onnx, sherpa_onnx or transformers_js"
        )
    config = config_of_architecture(architecture)
    files = {"preprocessor_config.json": preprocessor_of_architecture(architecture)}
    native.check_complete(content, str(folder))
    theirs = their_weights(content["model"], architecture)
    weights = rename_all(theirs, OLDER_WEIGHT_NORM, str(folder))
    if content["kind"] == "ctc":
        vocabulary = native.vocabulary_of(content, str(folder))
        files |= tokenizer_files(vocabulary, folder)
        config |= ctc_config(vocabulary)
    elif "quantizer.codevectors" in weights:
        config["architectures"] = ["Wav2Vec2ForPreTraining"]
    else:
        config["architectures"] = ["Wav2Vec2Model"]
        weights = {name.removeprefix(TRUNK): tensor for name, tensor in weights.items()}
    write_model_folder(folder, weights, {_CONFIG: config, **files})


def ctc_config(vocabulary: Vocabulary) -> dict[str, Any]:
    """The keys of a config.json that a recogniser adds."""
    return {
        "architectures": ["Wav2Vec2ForCTC"],
        "vocab_size": len(vocabulary),
        "pad_token_id": BLANK,
        "bos_token_id": SPECIALS.index("<pad>"),  # see the table in huggingface_vocabulary.py
        "eos_token_id": SPECIALS.index("</s>"),
        "ctc_loss_reduction": "sum",
        "ctc_zero_infinity": True,
    }
