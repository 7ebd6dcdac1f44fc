"""A recogniser as a folder for transformers.js' automatic-speech-recognition pipeline.

    onnx/model.onnx             input `input_values` `[batch, samples]`, output `logits`
    onnx/model_quantized.onnx   the same with 8-bit matrix products (dtype q8)
    tokenizer.json              rows -> text, as the library tokenizers reads it
    tokenizer_config.json, preprocessor_config.json, config.json

The graph normalises its input, if the model does; the preprocessor there does not.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from wav2vec2.ctc import BLANK
from wav2vec2.files.model_folder import write_model_folder
from wav2vec2.interop import native
from wav2vec2.interop.huggingface import ctc_config
from wav2vec2.interop.huggingface_config import (
    config_of_architecture,
    preprocessor_of_architecture,
)
from wav2vec2.interop.huggingface_vocabulary import ROLES, require_unique
from wav2vec2.interop.onnx import graph_of_samples, with_8_bits
from wav2vec2.text.subwords import WORD_START
from wav2vec2.text.vocabulary import SPECIALS, WORD_END, Spelling, Vocabulary


def write_transformers_js(content: dict[str, Any], folder: Path) -> None:
    """Write a fine-tuned checkpoint as a folder for transformers.js, whole or not at all.

    UserError if a package is missing, `folder` is not empty, or two units are written alike.
    """
    architecture = native.architecture_of(content, str(folder))
    vocabulary = native.vocabulary_of(content, str(folder))
    require_unique(vocabulary, folder)
    delimiter = WORD_END if vocabulary.spelling is Spelling.LETTERS else WORD_START
    options = {
        "tokenizer_class": "Wav2Vec2CTCTokenizer",
        **ROLES,
        "word_delimiter_token": delimiter,
    }
    unnormalised = preprocessor_of_architecture(replace(architecture, normalize_input=False))
    model = graph_of_samples(content, folder, normalize=architecture.normalize_input)
    files = {
        "config.json": config_of_architecture(architecture) | ctc_config(vocabulary),
        "preprocessor_config.json": unnormalised,
        "tokenizer_config.json": options,
        "tokenizer.json": tokenizer(vocabulary, delimiter),
        "onnx/model.onnx": model,
        "onnx/model_quantized.onnx": with_8_bits(model),
    }
    write_model_folder(folder, None, files)


def tokenizer(vocabulary: Vocabulary, delimiter: str) -> str:
    """The text of tokenizer.json: it decodes the best row of each frame, repetitions included.

    Units that are words of their own end with the delimiter, which becomes a space.
    """
    end = delimiter if vocabulary.spelling is Spelling.TOKENS else ""
    units = [symbol + end for symbol in vocabulary.symbols[len(SPECIALS) :]]
    blank, *others = ROLES.values()
    rows = {unit: row for row, unit in enumerate((blank, *others, *units))}
    # The blank is not special: special rows are removed before repetitions are merged.
    special = [name for name in others if name != ROLES["unk_token"]]
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": rows[name], "content": name, "special": True, **added} for name in special
        ],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "CTC",
            "pad_token": blank,
            "word_delimiter_token": delimiter,
            "cleanup": True,
        },
        "model": {"type": "WordLevel", "vocab": rows, "unk_token": ROLES["unk_token"]},
    }
    assert rows[blank] == BLANK
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
