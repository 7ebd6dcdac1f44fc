"""This repository's own checkpoints: what they hold, and loading them into models.

A native content is a dict.  It holds the architecture, the weights and, if fine-tuned, the
dictionary, so that no other file is needed.
"""

import hashlib
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from wav2vec2.cli.errors import UserError
from wav2vec2.config import LARGEST_FACTOR, PRESETS, Architecture, Regularisation
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.files.text import shown
from wav2vec2.interop.state_dict import (
    TRUNK,
    check_claims,
    fitting_weights,
    is_weight,
    match_weights,
    shapes_only,
    trunk_weights,
)
from wav2vec2.pretraining import Wav2Vec2ForPretraining
from wav2vec2.quantizer import GumbelQuantizer
from wav2vec2.text.subwords import SubwordModel
from wav2vec2.text.vocabulary import SPECIALS, UNKNOWN, Spelling, Vocabulary, parse_dictionary
from wav2vec2.trunk import Wav2Vec2

_QUANTIZER = "quantizer."

ADAPTED = "adapted"
"""Entry of a checkpoint that holds a difference from another, its base: `kind` (lora, adapters),
`base` (a path, or the id of a model on the Hub), `language` (of its adapters), `digest` (of its
trunk's weights); of LoRA, `rank` and `alpha`."""

FACTOR_WER = "factor_wer"
"""Entry of a recogniser with an elastic hourglass: pooling factor, as text -> its word error rate
in the last validation, percent."""

MOST_COST = 1.0
"""Points of word error rate by which inference may be worse than with the best factor, to be
faster."""

_LORA_A, _LORA_B = ".lora_A.", ".lora_B."

NEVER = -1e4
"""Logit of a special symbol that a vocabulary lacks: e^-10000 is 0, and fp16 can hold it."""


def pretraining_content(architecture: Architecture) -> dict[str, Any]:
    """All entries of a pre-training checkpoint's content but its weights."""
    return {"kind": "pretraining", "architecture": architecture.to_dict()}


def ctc_content(architecture: Architecture, vocabulary: Vocabulary, labels: str) -> dict[str, Any]:
    """All entries of a fine-tuned checkpoint's content but its weights."""
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
    """A checkpoint's content without optimizer, averaged weights, recipe and progress."""
    kept = ("kind", "architecture", "dictionary", "labels", "spelling", "sentencepiece", "update")
    kept += (FACTOR_WER, ADAPTED, "model")
    return {name: content[name] for name in kept if name in content}


def trunk_digest(content: dict[str, Any]) -> str:
    """The SHA-256 of the trunk's weights in fp32, with their names: the same in every format."""
    known = content.get("merged_digest")  # sums of a merge round differently on other machines
    return known or _digest(trunk_weights(content["model"]))


def _digest(weights: dict[str, torch.Tensor], start: str = "") -> str:
    hashed = hashlib.sha256(start.encode())
    for name, tensor in sorted(weights.items()):
        hashed.update(f"{name} {list(tensor.shape)}\n".encode())
        hashed.update(tensor.detach().float().contiguous().reshape(-1).numpy())
    return hashed.hexdigest()


def merge(content: dict[str, Any], base: dict[str, Any], source: str) -> dict[str, Any]:
    """The content of an adapted checkpoint with the weights of `base`, the model it started from.

    Adapter layers join them.  LoRA (arXiv 2106.09685): W + alpha / rank x B A, which takes the
    place of W in `base`.  UserError names `source` if they do not fit together.
    """
    adapted, weights = content[ADAPTED], trunk_weights(base["model"])
    for name, first in content["model"].items():
        if _LORA_A not in name:
            if _LORA_B not in name:
                weights[name] = first
            continue
        second = content["model"].get(name.replace(_LORA_A, _LORA_B))
        target = f"{name.partition(_LORA_A)[0]}.weight"
        whole, rank = weights.get(target), adapted["rank"]
        if (
            (whole is None or second is None or first.dim() != 2 or second.dim() != 2)
            or (first.shape[0] != rank or second.shape[1] != rank)
            or (whole.shape != (second.shape[0], first.shape[1]))
        ):
            raise UserError(f"{source}: damaged, {name} does not fit its base; use another copy")
        # In place: all weights may have such a product.
        delta = adapted["alpha"] / rank * (second.float() @ first.float())
        weights[target] = whole.float().add_(delta)
    rest = {n: v for n, v in content.items() if n not in (ADAPTED, "ema_model", "optimizer")}
    combined = _digest(trunk_weights(content["model"]), adapted["digest"])
    return {**rest, "model": weights, "merged": adapted["kind"], "merged_digest": combined}


def architecture_of(content: dict[str, Any], source: str) -> Architecture:
    """The architecture that a checkpoint's content declares, compared with its weights.

    UserError names `source`; no model is built.
    """
    try:
        architecture = Architecture.from_dict(content["architecture"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{source}: damaged, or does not describe a model this version knows "
            f"({' '.join(str(error).split())[:300]})"
        ) from None
    if "model" in content:  # not in the description beside a graph
        check_claims(architecture, content["model"], source)
    return architecture


def default_factor(rates: dict[str, float]) -> int:
    """The largest pooling factor whose word error rate is at most MOST_COST points above the lowest
    of `rates`, a FACTOR_WER."""
    lowest = min(rates.values())
    return max(int(factor) for factor, rate in rates.items() if rate <= lowest + MOST_COST)


def describe_factors(rates: dict[str, float]) -> str:
    """The pooling factor that inference takes by default, and why, in one line."""
    listed = ", ".join(f"{factor}: {rate:.2f}" for factor, rate in rates.items())
    return (
        f"pooling factor {default_factor(rates)} is the default of inference, the largest that "
        f"costs at most {MOST_COST:g} point of WER on validation (WER % by factor: {listed})"
    )


def at_factor(
    content: dict[str, Any], factor: int | None, source: str
) -> tuple[dict[str, Any], str]:
    """A checkpoint's content with one pooling factor, and a note for the user, perhaps empty.

    `factor` None: that of the checkpoint; of several, the one of `default_factor`, or the smallest
    if their error rates are not known.  UserError, naming `source`, if the model has no hourglass,
    or learned its resampling for another factor.
    """
    architecture = architecture_of(content, source)
    hourglass = architecture.hourglass
    if factor is not None and factor > LARGEST_FACTOR:
        raise UserError(f"--factor {factor}: must be at most {LARGEST_FACTOR}")
    if hourglass is None:
        if factor is not None:
            raise UserError(f"--factor {factor}: {source} has no hourglass; remove the flag")
        return content, ""
    rates = content.get(FACTOR_WER) or {}
    rates = {n: rate for n, rate in rates.items() if int(n) in hourglass.factors}
    note = ""
    if factor is None and rates:
        factor, note = default_factor(rates), f"{describe_factors(rates)}; --factor chooses another"
    elif factor is None:
        factor = hourglass.factor
        if hourglass.factors:
            note = (
                f"pooling factor {factor} of {hourglass}, the smallest, because no error rates by "
                "factor are known; --factor chooses another"
            )
    elif factor not in (hourglass.factors or (hourglass.factor,)):
        if hourglass.resampling != "naive":
            raise UserError(
                f"--factor {factor}: {source} has learned maps for the pooling factor "
                f"{hourglass.factor} (--hourglass_resampling linear); remove the flag"
            )
        note = (
            f"pooling factor {factor}: {source} has {hourglass} and was not trained with it; "
            "expect more errors"
        )
    chosen = replace(hourglass, factor=factor, factors=())
    rest = {name: value for name, value in content.items() if name != FACTOR_WER}
    return {**rest, "architecture": replace(architecture, hourglass=chosen).to_dict()}, note


_ENTRIES: dict[str, type] = {
    "model": dict,
    "architecture": dict,
    "dictionary": str,
    "spelling": str,
    "labels": str,
    "sentencepiece": torch.Tensor,
    "update": int,
    "ema_model": dict,
    "recipe": dict,
    ADAPTED: dict,
    FACTOR_WER: dict,
}
"""Types of the entries that a checkpoint may have."""


def check_entries(content: dict[str, Any], source: str) -> None:
    """UserError if an entry of a checkpoint's content is of another type than this version writes.

    Every reader's result passes here before anything is built from it.  `model` is empty in a
    description beside a graph.
    """
    problems = [f"kind is {shown(content.get('kind'))}"]
    if content.get("kind") in ("pretraining", "ctc"):
        problems = []
    for name, kind in _ENTRIES.items():
        value = content.get(name)
        missing = value is None and name not in ("model", "architecture")
        if not missing and not isinstance(value, kind):
            problems.append(f"{name} is {shown(type(value).__name__)}")
    if not problems:
        problems = _unusable(content)
    if problems:
        raise UserError(
            f"{source}: damaged, or not a checkpoint this version reads ({'; '.join(problems)}); "
            "use another copy"
        )


def _unusable(content: dict[str, Any]) -> list[str]:
    """What is wrong in entries of the right types."""
    problems = []
    adapted = content.get(ADAPTED)
    if adapted is not None and not _is_reference(adapted):
        problems.append(f"{ADAPTED} describes no base that this version knows")
    if content.get("spelling") not in (None, *(spelling.value for spelling in Spelling)):
        problems.append(f"spelling is {shown(content['spelling'])}")
    if content.get("dictionary") is not None and not re.fullmatch(
        r"[\w-]{1,40}", content.get("labels") or ""
    ):
        problems.append(f"labels is {shown(content.get('labels'))}")
    if not all(map(_is_rate, (content.get(FACTOR_WER) or {}).items())):
        problems.append(f"{FACTOR_WER} holds no error rates of pooling factors")
    model = content.get("sentencepiece")
    if model is not None and (model.dtype != torch.uint8 or model.dim() != 1):
        problems.append("sentencepiece is no row of bytes")
    for table in ("model", "ema_model"):
        for name, tensor in (content.get(table) or {}).items():
            if not isinstance(name, str) or not is_weight(tensor):
                problems.append(f"{table} holds {shown(name)}, no floating-point tensor")
                break
    return problems


def _is_rate(entry: tuple[Any, Any]) -> bool:
    """Whether an item of FACTOR_WER is a pooling factor and a rate."""
    factor, rate = entry
    known = isinstance(factor, str) and re.fullmatch(r"[1-9][0-9]{0,3}", factor)
    return bool(known) and type(rate) in (int, float) and math.isfinite(rate)


def _is_reference(adapted: dict[str, Any]) -> bool:
    """Whether an entry ADAPTED says what a merge needs."""
    kind, rank, alpha = (adapted.get(name) for name in ("kind", "rank", "alpha"))
    texts = (adapted.get("base"), adapted.get("digest"), adapted.get("language") or "")
    sizes = type(rank) is int and rank >= 1 and type(alpha) is float and math.isfinite(alpha)
    known = kind == "adapters" or (kind == "lora" and sizes)
    return known and all(isinstance(text, str) for text in texts)


def _load(module: nn.Module, content: dict[str, Any], source: str, prefix: str = "") -> None:
    """Give `module` a checkpoint's weights that begin with `prefix`; every one must match.

    They become its parameters themselves: there is no second copy in memory.
    """
    weights = {n: tensor for n, tensor in content["model"].items() if n.startswith(prefix)}
    expected = module.state_dict()
    matched = match_weights(weights, expected, source, lambda name: prefix + name)
    module.load_state_dict(matched, assign=True)


class _Draws(TorchDispatchMode):
    """Draws initial values of tensors without memory into memory that is used again and again."""

    def __init__(self) -> None:
        super().__init__()
        self._scratch = torch.empty(0, device="cpu")

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):  # type: ignore
        if torch.Tag.nondeterministic_seeded in operator.tags and args[0].is_meta:
            number = args[0].numel()
            if number > self._scratch.numel():
                self._scratch = torch.empty(number, device="cpu")
            operator(self._scratch[:number], *args[1:], **(kwargs or {}))
            return args[0]
        return operator(*args, **(kwargs or {}))


@contextmanager
def without_memory() -> Iterator[None]:
    """Inside, modules are built whose weights have no memory, to be given some by a `load_...`.

    Initial values are drawn all the same, so that those of other parts are what they would be.
    """
    with torch.device("meta"), _Draws():
        yield


def load_pretrained_trunk(model: Wav2Vec2ForCTC, content: dict[str, Any], source: str) -> None:
    """Copy the trunk of any checkpoint into a recogniser; every weight must match."""
    _load(model.wav2vec2, content, source, TRUNK)


def load_output_rows(
    model: Wav2Vec2ForCTC,
    vocabulary: Vocabulary,
    content: dict[str, Any],
    source: str,
    *,
    train_unknown: bool = False,
) -> list[str]:
    """Copy a recogniser's output rows of the symbols that `vocabulary`, of `model`, has, too.

    Returns the symbols whose rows keep their initial values.  Special symbols are shared; <unk> is
    not if it will be trained (`train_unknown`) and the checkpoint has it as a row that is never
    the largest.  UserError if the checkpoint's dictionary does not fit its output layer.
    """
    theirs = output_vocabulary(content, source)
    architecture = architecture_of(content, source)
    weights = fitting_weights(content["model"], architecture, "ctc", source, units=len(theirs))
    # Of units that are written alike, the first is the one that labels mean.
    rows = {symbol: row for row, symbol in reversed([*enumerate(theirs.symbols)])}
    if train_unknown and weights["proj.bias"][UNKNOWN] <= NEVER:
        del rows[SPECIALS[UNKNOWN]]
    shared = [(n, rows[symbol]) for n, symbol in enumerate(vocabulary.symbols) if symbol in rows]
    ours, others = map(list, zip(*shared))
    with torch.no_grad():
        model.proj.weight[ours] = weights["proj.weight"][others]
        model.proj.bias[ours] = weights["proj.bias"][others]
    return [symbol for symbol in vocabulary.symbols if symbol not in rows]


def load_trunk(content: dict[str, Any], source: str) -> tuple[Wav2Vec2, GumbelQuantizer | None]:
    """The trunk of any checkpoint, and its quantizer if it has one, in evaluation mode."""
    check_complete(content, source)
    architecture = architecture_of(content, source)
    with shapes_only():
        trunk = Wav2Vec2.from_config(architecture, Regularisation())
    _load(trunk, content, source, TRUNK)
    if not _has_quantizer(content):
        return trunk.eval(), None
    with shapes_only():
        quantizer = GumbelQuantizer(
            trunk.feature_extractor.channels,
            architecture.codebook_groups,
            architecture.codebook_entries,
            architecture.final_dim,
        )
    _load(quantizer, content, source, _QUANTIZER)
    return trunk.eval(), quantizer.eval()


def _has_quantizer(content: dict[str, Any]) -> bool:
    return any(name.startswith(_QUANTIZER) for name in content["model"])


def flags_of(architecture: Architecture) -> str:
    """The flags of `train.py pretrain` that select `architecture` for `--init_from`."""
    hourglass = architecture.hourglass
    plain = replace(architecture, hourglass=None)
    model = next((name for name, preset in PRESETS.items() if preset == plain), "auto")
    flags = f"--model {model} --hourglass_config '{hourglass or ''}'"
    if hourglass is not None and hourglass.resampling != "naive":
        flags += f" --hourglass_resampling {hourglass.resampling}"
    return f"{flags} (MODEL, HOURGLASS_CONFIG)"


def is_pretraining(content: dict[str, Any], architecture: Architecture) -> bool:
    """Whether a checkpoint is of pre-training, and declares this architecture."""
    declared = content.get("architecture")
    return content.get("kind") == "pretraining" and declared == architecture.to_dict()


def load_pretraining(
    model: Wav2Vec2ForPretraining, content: dict[str, Any], source: str, expected: Architecture
) -> None:
    """Copy a pre-training checkpoint into `model`, whose architecture is `expected`."""
    if content.get("kind") != "pretraining":
        raise UserError(
            f"{source}: not a pre-training checkpoint but {content.get('kind')!r}; give a "
            "pre-trained one, or fine-tune this one (PRETRAINED_MODEL)"
        )
    if not _has_quantizer(content):
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
    _load(model, content, source)


def vocabulary_of(content: dict[str, Any], source: str) -> Vocabulary:
    """The dictionary of a fine-tuned checkpoint."""
    subwords = None
    if "sentencepiece" in content:
        model = content["sentencepiece"].numpy().tobytes()
        subwords = SubwordModel(model, f"{source} (sentencepiece)")
    # Checkpoints older than this entry are of letters.
    symbols = parse_dictionary(content["dictionary"], f"{source} (dictionary)")
    spelling = Spelling(content.get("spelling", Spelling.LETTERS.value))
    return Vocabulary(symbols, spelling, subwords, repeated=True)


def output_vocabulary(content: dict[str, Any], source: str) -> Vocabulary:
    """The dictionary of a recogniser; UserError if the output layer has another size."""
    if content.get("kind") != "ctc" or content.get("dictionary") is None:
        raise UserError(
            f"{source}: has no output layer and dictionary; fine-tune it first with "
            "scripts/finetune_own.sh or another fine-tuning recipe"
        )
    vocabulary = vocabulary_of(content, source)
    outputs = content.get("model", {}).get("proj.bias")
    if isinstance(outputs, torch.Tensor) and outputs.numel() != len(vocabulary):
        raise UserError(
            f"{source}: its dictionary has {len(vocabulary)} symbols, the four special ones "
            f"included, its output layer {outputs.numel()}: it was put together from two models; "
            "use another copy"
        )
    return vocabulary


def load_ctc(content: dict[str, Any], source: str) -> tuple[Wav2Vec2ForCTC, Vocabulary]:
    """The recogniser of a checkpoint and its dictionary, in evaluation mode."""
    vocabulary = output_vocabulary(content, source)
    architecture = architecture_of(content, source)
    fitting_weights(content["model"], architecture, "ctc", source, units=len(vocabulary))
    with shapes_only():
        model = Wav2Vec2ForCTC.from_config(architecture, Regularisation(), len(vocabulary))
    _load(model, content, source)
    return model.eval(), vocabulary


def check_complete(content: dict[str, Any], source: str) -> None:
    """Raise UserError unless a checkpoint holds its model's weights, no others, and a recogniser's
    dictionary.

    A pre-trained trunk may lack the quantizer and its projections, as the bare models of Hugging
    Face do.
    """
    if content.get("kind") == "ctc":
        units = len(output_vocabulary(content, source))
        architecture = architecture_of(content, source)
        fitting_weights(content["model"], architecture, "ctc", source, units=units)
        return
    architecture = architecture_of(content, source)
    bare = content["model"].keys() == trunk_weights(content["model"]).keys()
    fitting_weights(content["model"], architecture, "trunk" if bare else "pretraining", source)
