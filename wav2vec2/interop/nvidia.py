"""Checkpoints of NVIDIA DeepLearningExamples' wav2vec 2.0 recipe -> native checkpoint contents.

Laid out by its `Checkpointer` (PyTorch/SpeechRecognition/wav2vec2/common/helpers.py at commit
35d8759): `model`, `ema_model`, `optimizer`, `scaler`, `train_state`, `args` as a dict with `mode`,
and the dictionary's text as `output_labels` when fine-tuned.  Names are fairseq's, but for the
layers of an hourglass.
"""

from pathlib import Path
from typing import Any

from wav2vec2.cli.errors import UserError
from wav2vec2.config import Hourglass
from wav2vec2.interop import native
from wav2vec2.interop.fairseq import architecture_from, check_size, labels_of, output_units, setting
from wav2vec2.interop.fairseq_weights import Kind, to_ours, usual_spelling
from wav2vec2.text.vocabulary import Spelling, Vocabulary, parse_dictionary

MODES: dict[str, Kind] = {"pretrain": "pretraining", "finetune": "ctc"}


def is_nvidia(content: Any) -> bool:
    """Whether plain `content` is laid out like a checkpoint of NVIDIA's recipe."""
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        return False
    args = content.get("args")
    return isinstance(args, dict) and args.get("mode") in MODES


def read_nvidia(
    content: dict[str, Any], source: Path, dictionary: Path | None = None
) -> dict[str, Any]:
    """A pre-trained or fine-tuned model as a native content.

    `content`: the file `source` in plain types; `dictionary` replaces the one a fine-tuned file
    carries.  UserError names what is missing.
    """
    args = content["args"]
    kind = MODES[args["mode"]]
    if args.get("rotary_embeddings") or args.get("use_spectrogram_features"):
        raise UserError(
            f"{source}: trained with rotary_embeddings or use_spectrogram_features, which this "
            "model does not have"
        )
    hourglass = _hourglass(args, source)
    weights = usual_spelling(content["model"], str(source))
    normalize = setting(args, "normalize", bool, source)
    architecture = architecture_from(args, weights, kind, normalize, source, hourglass)
    if kind == "pretraining":
        ours = to_ours(weights, architecture, kind, str(source))
        return {**native.pretraining_content(architecture), "model": ours}
    units = output_units(weights, source)
    vocabulary = _vocabulary(content, units, source, dictionary)
    ours = to_ours(weights, architecture, kind, str(source), units)
    return {**native.ctc_content(architecture, vocabulary, labels_of(args)), "model": ours}


def _hourglass(args: dict[str, Any], source: Path) -> Hourglass | None:
    """`[n_pre,(n_hourglass,shorten_factor),n_post]`, or None for the plain encoder."""
    text = args.get("hourglass_transformer")
    if not text:
        return None
    try:
        return Hourglass.parse(text, setting(args, "hourglass_resample", str, source))
    except UserError:
        raise
    except (AttributeError, ValueError):
        raise UserError(
            f"{source}: its hourglass_transformer {text!r} is not of the form [2,(8,4),2]"
        ) from None


def _vocabulary(
    content: dict[str, Any], units: int, source: Path, dictionary: Path | None
) -> Vocabulary:
    if dictionary is not None:
        vocabulary = Vocabulary.from_file(dictionary)
        check_size(vocabulary, units, dictionary, source)
        return vocabulary
    text = content.get("output_labels")
    if not isinstance(text, str):
        raise UserError(
            f"{source}: fine-tuned, but without its dictionary (output_labels); convert it with "
            "`python -m utils.checkpoints.convert --dictionary`"
        )
    symbols = parse_dictionary(text, f"{source} (output_labels)")
    vocabulary = Vocabulary(symbols, Spelling.of(symbols))
    check_size(vocabulary, units, f"{source} (output_labels)", source)
    return vocabulary
