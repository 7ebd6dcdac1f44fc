"""The language model that a checkpoint's folder brings, as transformers' ProcessorWithLM saves it.

`language_model/` holds a KenLM file, `unigrams.txt` with a word per line, and `attrs.json` with the
weights of pyctcdecode, whose language model counts in natural logarithms.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from wav2vec2.cli.errors import UserError
from wav2vec2.decoding.beam_search import DecodingOptions
from wav2vec2.files.text import read_json, shown

FOLDER = "language_model"
_MODELS = (".arpa", ".arpa.gz", ".bin", ".binary", ".klm")
_FIX = "fetch the folder again, or give --lm and --lexicon"


def with_shipped_model(options: DecodingOptions, checkpoint: str) -> tuple[DecodingOptions, str]:
    """The options with the language model in the folder of `checkpoint`, and a note about it.

    Flags that are given stay.  A greedy search does not use it; the note then names the flag that
    does.  Without such a folder the options stay, and the note is empty.  UserError for a folder
    that lacks a file.
    """
    folder = Path(checkpoint) / FOLDER
    if not folder.is_dir():
        return options, ""
    if options.decoder == "greedy":
        return options, (
            f"{folder}: a language model, which greedy search does not use; add --decoder beam"
        )
    if options.lm or options.lexicon:
        return options, ""
    models = sorted(p for p in folder.iterdir() if p.name.endswith(_MODELS) and p.is_file())
    words = folder / "unigrams.txt"
    if len(models) != 1 or not words.is_file():
        raise UserError(
            f"{folder}: should hold one KenLM file ({', '.join(_MODELS)}) and {words.name}; {_FIX}"
        )
    path = folder / "attrs.json"
    weights = read_json(path, _FIX) if path.is_file() else {}
    changed: dict[str, Any] = {"lm": str(models[0]), "lexicon": str(words)}
    for name, theirs, default, factor in (
        ("lm_weight", "alpha", 0.5, math.log(10)),
        ("word_score", "beta", 1.5, 1.0),
    ):
        value = weights.get(theirs, default) if isinstance(weights, dict) else None
        if not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > 1e6:
            raise UserError(f"{path}: {theirs} is {shown(value)}, not a number; {_FIX}")
        if getattr(options, name) == getattr(DecodingOptions, name):
            changed[name] = factor * value
    options = replace(options, **changed)
    return options, (
        f"{folder}: its language model and words are used, with --lm_weight "
        f"{options.lm_weight:.3g} --word_score {options.word_score:.3g}"
    )
