"""A recogniser as a folder for sherpa-onnx' omnilingual type, which takes raw samples.

    model.onnx         one input, samples `[1, samples]`; one output, logits `[1, frames, units]`
    model.int8.onnx    the same with 8-bit matrix products
    tokens.txt         a line `symbol row` per unit; `▁` becomes a space in the text

The type needs no metadata.  It gives each recording zero mean and unit variance, with 1e-5 added to
the variance, before the graph runs.
"""

from pathlib import Path
from typing import Any

from wav2vec2.audio.decode import NORMALIZE_EPS
from wav2vec2.cli.errors import UserError
from wav2vec2.ctc import BLANK
from wav2vec2.files.model_folder import write_model_folder
from wav2vec2.interop import native
from wav2vec2.interop.onnx import graph_of_samples, with_8_bits
from wav2vec2.text.subwords import WORD_START
from wav2vec2.text.vocabulary import WORD_END, Spelling, Vocabulary


def write_sherpa_onnx(content: dict[str, Any], folder: Path) -> None:
    """Write a fine-tuned checkpoint as a folder for sherpa-onnx, whole or not at all.

    UserError if a package is missing, `folder` is not empty, or the model's first layers keep the
    loudness of a recording, which sherpa-onnx removes.
    """
    architecture = native.architecture_of(content, str(folder))
    if not architecture.normalize_input and architecture.extractor_norm != "group":
        raise UserError(
            f"{folder}: not written; sherpa-onnx normalises recordings, and this model was trained "
            "on recordings that are not normalised; use --to onnx and onnxruntime"
        )
    vocabulary = native.vocabulary_of(content, str(folder))
    # The extractor's group norm removes loudness: such models take what sherpa-onnx normalised.
    again = architecture.normalize_input and architecture.normalize_eps != NORMALIZE_EPS
    model = graph_of_samples(content, folder, normalize=again)
    files = {
        "model.onnx": model,
        "model.int8.onnx": with_8_bits(model),
        "tokens.txt": tokens(vocabulary),
    }
    write_model_folder(folder, None, files)


def tokens(vocabulary: Vocabulary) -> str:
    """The text of tokens.txt: one line per row of the output layer."""
    lines = []
    for row, symbol in enumerate(vocabulary.symbols):
        if row == BLANK:
            symbol = "<blk>"
        elif vocabulary.spelling is Spelling.LETTERS and symbol == WORD_END:
            symbol = WORD_START
        elif vocabulary.spelling is Spelling.TOKENS:
            symbol = WORD_START + symbol
        lines.append(f"{symbol} {row}\n")
    return "".join(lines)
