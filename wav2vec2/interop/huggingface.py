"""Hugging Face transformers' wav2vec 2.0 folders -> our checkpoints, and back.

transformers itself is not needed.  A folder is `config.json`, the weights (`model.safetensors`,
`pytorch_model.bin`, or several with an index), `preprocessor_config.json` (or the newer
`processor_config.json`) and, for a recogniser, `vocab.json` and the other tokenizer files.

Read are Wav2Vec2ForPreTraining, Wav2Vec2ForCTC and the bare Wav2Vec2Model, Base-like (post-LN,
`group` extractor) and Large-like ("stable layer norm", `layer` extractor) or mixed, of any width
and depth; the sizes come from config.json and every tensor must be there, of that size, and no
other.  A bare Wav2Vec2Model lacks the quantizer: it can be fine-tuned, not pre-trained further.
Refused, naming the key: adapters (`add_adapter`, MMS' `adapter_attn_dim`), other activations,
another `model_type` (HuBERT, WavLM, data2vec, Conformer), codebook and contrastive space of
different widths, an input width that equals the encoder's and yet is projected.

What differs between the two worlds:

- The blank is their padding token and our row 0: see huggingface_vocabulary.py.  Rows are
  reordered on reading; on writing they stay.  A special token that a vocabulary lacks becomes a
  row that is never the largest.
- `do_normalize` is taken at its word as `normalize_input`.  Published `group` models say true
  although Base was pre-trained without; their extractor's norm removes scale and offset, so the
  results differ little.  transformers adds 1e-7 to the variance, we (and fairseq) 1e-5: only very
  quiet recordings notice.
- transformers' group norm sees padding, ours does not.  For `group` models equal results come
  from single utterances or equal lengths; for `layer` models also from padded batches with their
  attention mask, which `return_attention_mask` asks for.
- Published recognisers often lack `masked_spec_embed`, which only training uses; it reads as
  zeros, and a line says so.
- Dropouts, masks and LayerDrop are a recipe's choice here, in config.json there: they are
  neither read nor written.
- There is no hourglass encoder in transformers, and no CTC tokenizer for sentencepiece units.
"""

import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wav2vec2.cli.console import notice
from wav2vec2.cli.errors import UserError
from wav2vec2.config import Architecture, ContrastiveObjective, Regularisation
from wav2vec2.ctc import BLANK, Wav2Vec2ForCTC
from wav2vec2.interop import native
from wav2vec2.interop.huggingface_config import (
    architecture_of_config,
    check_contrastive_widths,
    config_of_architecture,
    preprocessor_of_architecture,
    read_normalize_input,
    vocabulary_size,
)
from wav2vec2.interop.huggingface_files import (
    new_folder,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)
from wav2vec2.interop.huggingface_vocabulary import read_vocabulary, tokenizer_files
from wav2vec2.pretraining import Wav2Vec2ForPretraining
from wav2vec2.text.vocabulary import SPECIALS, Spelling, Vocabulary
from wav2vec2.trunk import Wav2Vec2

_CONFIG = "config.json"

_TRUNK = "wav2vec2."

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
    (r"^quantizer\.vars$", "quantizer.codevectors"),
    (r"^final_proj\.", "project_hid."),
    (r"^proj\.", "lm_head."),
]

_WEIGHT_NORM = {
    "parametrizations.weight.original0": "weight_g",
    "parametrizations.weight.original1": "weight_v",
}
"""Gain and direction of a weight-normalised convolution: torch's newer name -> the older, which
every version of transformers reads."""

_MASK_VECTOR = "wav2vec2.masked_spec_embed"
_PROJECTION = "wav2vec2.feature_projection.projection."

NEVER = -1e4
"""Logit of a special token that a vocabulary lacks: e^-10000 is 0, and fp16 can hold it."""

_LABELS = {Spelling.LETTERS: "ltr", Spelling.TOKENS: "phn"}
"""Extension of the label files that go with a dictionary; a folder does not say."""


def is_huggingface(path: Path) -> bool:
    """Whether `path` is a folder with a model's config.json."""
    return (path / _CONFIG).is_file()


def their_name(ours: str) -> str:
    """A parameter's name here -> in transformers."""
    for pattern, replacement in _RENAMES:
        ours = re.sub(pattern, replacement, ours)
    return ours


def their_weights(weights: dict[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
    """A state dict of ours under their names.

    Where the extractor is as wide as the encoder we have no projection, but they always do: it
    becomes the identity.
    """
    renamed = {their_name(name): tensor for name, tensor in weights.items()}
    if not _has_projection(architecture):
        renamed[f"{_PROJECTION}weight"] = torch.eye(architecture.dim)
        renamed[f"{_PROJECTION}bias"] = torch.zeros(architecture.dim)
    return renamed


def _has_projection(architecture: Architecture) -> bool:
    return architecture.conv_layers[-1][0] != architecture.dim


def read_huggingface(folder: Path) -> dict[str, Any]:
    """The content of a checkpoint of ours that is the same model as `folder`.

    UserError, naming the file, if anything in it cannot be expressed here or does not fit.
    """
    source = folder / _CONFIG
    config = read_json(source)
    architecture = architecture_of_config(config, source)
    architecture = replace(architecture, normalize_input=read_normalize_input(folder))
    tensors = _with_usual_names(read_tensors(folder), folder)
    if not _has_projection(architecture):
        _drop_identity(tensors, architecture.dim, folder)
    if any(name.startswith("lm_head.") for name in tensors):
        return _read_ctc(folder, config, architecture, tensors)
    if any(name.startswith("quantizer.") for name in tensors):
        check_contrastive_widths(config, source)
        expected = _pretraining_shapes(architecture)
    else:
        expected = _trunk_shapes(architecture)
    weights = _renamed_back(tensors, expected, folder)
    return {**native.pretraining_content(architecture), "model": weights}


def _with_usual_names(tensors: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """Both spellings of weight norm as the newer; a bare Wav2Vec2Model with the trunk's prefix."""
    bare = not any(name.startswith(_TRUNK) for name in tensors)
    found = {}
    for name, tensor in tensors.items():
        for newer, older in _WEIGHT_NORM.items():
            name = re.sub(rf"(\.pos_conv_embed\.conv\.){older}$", rf"\1{newer}", name)
        found[f"{_TRUNK}{name}" if bare else name] = tensor
    if len(found) != len(tensors):
        raise UserError(f"{folder}: holds its positional convolution twice, as weight_g and newer")
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
    folder: Path, config: dict[str, Any], architecture: Architecture, tensors: dict[str, Tensor]
) -> dict[str, Any]:
    if _MASK_VECTOR not in tensors:
        notice(f"{folder}: has no mask vector (masked_spec_embed); it is for training only, zeros")
        tensors[_MASK_VECTOR] = torch.zeros(architecture.dim)
    size = vocabulary_size(config, folder / _CONFIG)
    weights = _renamed_back(tensors, _ctc_shapes(architecture, size), folder)
    theirs = read_vocabulary(folder, config, size)
    weights["proj.weight"] = _reordered(weights["proj.weight"], theirs.rows, absent=0.0)
    weights["proj.bias"] = _reordered(weights["proj.bias"], theirs.rows, absent=NEVER)
    labels = _LABELS[theirs.vocabulary.spelling]
    return {**native.ctc_content(architecture, theirs.vocabulary, labels), "model": weights}


def _reordered(tensor: Tensor, rows: list[int | None], absent: float) -> Tensor:
    """The rows of `tensor` in the order `rows`, filled with `absent` where it is None."""
    taken = tensor[[row or 0 for row in rows]]
    taken[[row is None for row in rows]] = absent
    return taken


Shapes = dict[str, torch.Size]
"""Name of each of our parameters -> its shape."""


def _shapes(model: torch.nn.Module, prefix: str = "") -> Shapes:
    return {f"{prefix}{name}": tensor.shape for name, tensor in model.state_dict().items()}


def _trunk_shapes(architecture: Architecture) -> Shapes:
    with torch.device("meta"):  # shapes without memory
        return _shapes(Wav2Vec2.from_config(architecture, Regularisation()), _TRUNK)


def _pretraining_shapes(architecture: Architecture) -> Shapes:
    with torch.device("meta"):
        return _shapes(
            Wav2Vec2ForPretraining.from_config(
                architecture, Regularisation(), ContrastiveObjective()
            )
        )


def _ctc_shapes(architecture: Architecture, vocabulary_size: int) -> Shapes:
    with torch.device("meta"):
        return _shapes(Wav2Vec2ForCTC.from_config(architecture, Regularisation(), vocabulary_size))


def _renamed_back(tensors: dict[str, Tensor], expected: Shapes, folder: Path) -> dict[str, Tensor]:
    """Their tensors under our names, checked against what config.json says."""
    ours = {their_name(name): name for name in expected}
    _check_fit(tensors, {theirs: expected[name] for theirs, name in ours.items()}, folder)
    return {name: tensors[theirs] for theirs, name in ours.items()}


def _check_fit(tensors: dict[str, Tensor], expected: Shapes, folder: Path) -> None:
    """UserError lists what is missing, left over or of another size than expected."""
    missing, unexpected = expected.keys() - tensors, tensors.keys() - expected
    if missing or unexpected:
        raise UserError(
            f"{folder}: its weights are not those its configuration describes: missing "
            f"{_listed(missing)}; unexpected {_listed(unexpected)}"
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name]:
            raise UserError(
                f"{folder}: {name} is {list(tensor.shape)}, by its configuration it should be "
                f"{list(expected[name])}"
            )


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def write_huggingface(content: dict[str, Any], folder: Path) -> None:
    """Write a checkpoint's content as a folder for transformers' `from_pretrained`.

    It becomes a Wav2Vec2ForPreTraining (a bare Wav2Vec2Model if it has no quantizer), or a
    Wav2Vec2ForCTC with its processor.  Whole or not at all; UserError if `folder` holds something,
    or transformers has no such model.
    """
    architecture = native.architecture_of(content, str(folder))
    if architecture.hourglass is not None:
        raise UserError(
            f"{folder}: not written; transformers has no hourglass encoder like this model's "
            f"{architecture.hourglass}"
        )
    config = config_of_architecture(architecture)
    files = {"preprocessor_config.json": preprocessor_of_architecture(architecture)}
    weights = content["model"]
    if content["kind"] == "ctc":
        vocabulary = native.vocabulary_of(content, str(folder))
        files |= tokenizer_files(vocabulary, folder)
        config |= _ctc_config(vocabulary)
        expected = _ctc_shapes(architecture, len(vocabulary))
    elif "quantizer.vars" in weights:
        config["architectures"] = ["Wav2Vec2ForPreTraining"]
        expected = _pretraining_shapes(architecture)
    else:
        config["architectures"] = ["Wav2Vec2Model"]
        expected = _trunk_shapes(architecture)
    _check_fit(weights, expected, folder)
    tensors = _with_older_names(their_weights(weights, architecture))
    if config["architectures"] == ["Wav2Vec2Model"]:
        tensors = {name.removeprefix(_TRUNK): tensor for name, tensor in tensors.items()}
    with new_folder(folder) as temporary:
        write_tensors(temporary / "model.safetensors", tensors)
        for name, values in {_CONFIG: config, **files}.items():
            write_json(temporary / name, values)


def _ctc_config(vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        "architectures": ["Wav2Vec2ForCTC"],
        "vocab_size": len(vocabulary),
        "pad_token_id": BLANK,
        "bos_token_id": SPECIALS.index("<pad>"),  # the row that is theirs, see the table there
        "eos_token_id": SPECIALS.index("</s>"),
        "ctc_loss_reduction": "sum",
        "ctc_zero_infinity": True,
    }


def _with_older_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in weights.items():
        for newer, older in _WEIGHT_NORM.items():
            name = name.replace(newer, older)
        renamed[name] = tensor
    return renamed
