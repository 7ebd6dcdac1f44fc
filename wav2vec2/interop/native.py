"""This repository's own checkpoints -> models.

A checkpoint is self-contained: architecture, weights and, when fine-tuned, the dictionary.
"""

from dataclasses import replace
from typing import Any

import torch

from wav2vec2.cli.errors import UserError
from wav2vec2.config import PRESETS, Architecture, ContrastiveObjective, Regularisation
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.pretraining import Wav2Vec2ForPretraining
from wav2vec2.quantizer import GumbelQuantizer
from wav2vec2.text.subwords import SubwordModel
from wav2vec2.text.vocabulary import Spelling, Vocabulary
from wav2vec2.trunk import Wav2Vec2

_TRUNK = "wav2vec2."
_QUANTIZER = "quantizer."


def pretraining_content(architecture: Architecture) -> dict[str, Any]:
    """What a pre-training checkpoint says of itself beside its weights."""
    return {"kind": "pretraining", "architecture": architecture.to_dict()}


def ctc_content(architecture: Architecture, vocabulary: Vocabulary, labels: str) -> dict[str, Any]:
    """What a fine-tuned checkpoint says of itself beside its weights."""
    content = {
        "kind": "ctc",
        "architecture": architecture.to_dict(),
        "dictionary": vocabulary.to_text(),
        "spelling": vocabulary.spelling.value,
        "labels": labels,
    }
    if vocabulary.subwords is not None:
        model = bytearray(vocabulary.subwords.content)
        content["sentencepiece"] = torch.frombuffer(model, dtype=torch.uint8)
    return content


def without_training_state(content: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of its model, without the state of its training."""
    kept = ("kind", "architecture", "dictionary", "labels", "spelling", "sentencepiece", "update")
    return {name: content[name] for name in (*kept, "model") if name in content}


def architecture_of(content: dict[str, Any], source: str) -> Architecture:
    """The architecture a loaded checkpoint declares; UserError names `source`."""
    try:
        return Architecture.from_dict(content["architecture"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{source}: does not describe a model this version knows ({error})"
        ) from None


def _check_weights(model: Any, weights: dict[str, Any], source: str) -> None:
    """UserError, with the list, unless the weights are those of `model`, one for one."""
    expected = model.state_dict()
    problems = [f"{name} is missing" for name in expected if name not in weights]
    problems += [f"{name} is unknown" for name in weights if name not in expected]
    for name in expected.keys() & weights.keys():
        tensor, shape = weights[name], list(expected[name].shape)
        found = list(tensor.shape) if isinstance(tensor, torch.Tensor) else "no tensor"
        if found != shape:
            problems.append(f"{name} is {found} instead of {shape}")
    if problems:
        raise UserError(
            f"{source}: its weights do not fit the architecture it declares "
            f"({'; '.join(problems)}); use another copy"
        )


def _load(model: Any, weights: dict[str, Any], source: str) -> None:
    _check_weights(model, weights, source)
    model.load_state_dict(weights)


def load_pretrained_trunk(model: Wav2Vec2ForCTC, content: dict[str, Any], source: str) -> None:
    """Copy a pre-trained model's trunk into `model`; every key must match."""
    if content.get("kind") != "pretraining":
        raise UserError(
            f"{source}: not a pre-training checkpoint but {content.get('kind')!r}; "
            "PRETRAINED_MODEL names one that was pre-trained only"
        )
    _load(model.wav2vec2, _part(content, _TRUNK), source)


def _part(content: dict[str, Any], prefix: str) -> dict[str, torch.Tensor]:
    """The weights whose names begin with `prefix`, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in content["model"].items()
        if name.startswith(prefix)
    }


def load_trunk(content: dict[str, Any], source: str) -> tuple[Wav2Vec2, GumbelQuantizer | None]:
    """The trunk of any checkpoint, and its quantizer if it has one, ready for use."""
    architecture = architecture_of(content, source)
    trunk = Wav2Vec2.from_config(architecture, Regularisation())
    _load(trunk, _part(content, _TRUNK), source)
    weights = _part(content, _QUANTIZER)
    if not weights:
        return trunk.eval(), None
    quantizer = GumbelQuantizer(
        trunk.feature_extractor.channels,
        architecture.codebook_groups,
        architecture.codebook_entries,
        architecture.final_dim,
    )
    _load(quantizer, weights, source)
    return trunk.eval(), quantizer.eval()


def flags_of(architecture: Architecture) -> str:
    """The flags of `train.py pretrain` that mean `architecture` when it starts from its weights."""
    hourglass = architecture.hourglass
    plain = replace(architecture, hourglass=None)
    model = next((name for name, preset in PRESETS.items() if preset == plain), "auto")
    flags = f"--model {model} --hourglass_config '{hourglass or ''}'"
    if hourglass is not None and hourglass.resampling != "naive":
        flags += f" --hourglass_resampling {hourglass.resampling}"
    return f"{flags} (MODEL, HOURGLASS_CONFIG)"


def load_pretraining(
    model: Wav2Vec2ForPretraining, content: dict[str, Any], source: str, expected: Architecture
) -> None:
    """Copy a whole pre-training model into `model`, whose architecture is `expected`."""
    if content.get("kind") != "pretraining":
        raise UserError(f"{source}: not a pre-training checkpoint but {content.get('kind')!r}")
    if not any(name.startswith(_QUANTIZER) for name in content["model"]):
        raise UserError(
            f"{source}: holds the trunk without its quantizer, which fine-tuning can use "
            "(PRETRAINED_MODEL) but pre-training cannot continue"
        )
    architecture = architecture_of(content, source)
    found, wanted = architecture.to_dict(), expected.to_dict()
    differing = [f"{name} {found[name]}" for name in wanted if found[name] != wanted[name]]
    if differing:
        raise UserError(
            f"{source}: of another architecture than --model and --hourglass_config say "
            f"({'; '.join(differing)}); give {flags_of(architecture)}"
        )
    _load(model, content["model"], source)


def vocabulary_of(content: dict[str, Any], source: str) -> Vocabulary:
    """The dictionary of a fine-tuned checkpoint."""
    subwords = None
    if "sentencepiece" in content:
        model = content["sentencepiece"].numpy().tobytes()
        subwords = SubwordModel(model, f"{source} (sentencepiece)")
    # Checkpoints from before there was a choice are of letters.
    spelling = Spelling(content.get("spelling", Spelling.LETTERS.value))
    return Vocabulary.from_text(content["dictionary"], f"{source} (dictionary)", spelling, subwords)


def _recogniser(content: dict[str, Any], source: str) -> tuple[Wav2Vec2ForCTC, Vocabulary]:
    """The recogniser that a checkpoint describes, without its weights, and its dictionary, whose
    size is that of the output layer."""
    if content.get("kind") != "ctc" or "dictionary" not in content:
        raise UserError(
            f"{source}: has no output layer and dictionary; fine-tune it first with "
            "scripts/finetune_base_100h.sh or another fine-tuning recipe"
        )
    vocabulary = vocabulary_of(content, source)
    outputs = content["model"].get("proj.bias")
    if isinstance(outputs, torch.Tensor) and outputs.numel() != len(vocabulary):
        raise UserError(
            f"{source}: its dictionary has {len(vocabulary)} symbols, the four special ones "
            f"included, its output layer {outputs.numel()}: it was put together from two models; "
            "use another copy"
        )
    model = Wav2Vec2ForCTC.from_config(
        architecture_of(content, source), Regularisation(), len(vocabulary)
    )
    return model, vocabulary


def load_ctc(content: dict[str, Any], source: str) -> tuple[Wav2Vec2ForCTC, Vocabulary]:
    """The recogniser of a loaded checkpoint and its dictionary, ready for inference."""
    model, vocabulary = _recogniser(content, source)
    _load(model, content["model"], source)
    return model.eval(), vocabulary


def check(content: dict[str, Any], source: str) -> None:
    """UserError unless a checkpoint is whole: each weight of the model that it describes, nothing
    else, and of a recogniser the dictionary.  A trunk may lack the quantizer and its projections,
    as the bare models of Hugging Face do."""
    with torch.device("meta"):  # names and shapes are all that is wanted
        if content.get("kind") == "ctc":
            model, _ = _recogniser(content, source)
        else:
            architecture = architecture_of(content, source)
            objective = ContrastiveObjective()
            model = Wav2Vec2ForPretraining.from_config(architecture, Regularisation(), objective)
            if all(name.startswith(_TRUNK) for name in content["model"]):
                _check_weights(model.wav2vec2, _part(content, _TRUNK), source)
                return
    _check_weights(model, content["model"], source)
