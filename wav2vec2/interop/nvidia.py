"""Checkpoints of NVIDIA DeepLearningExamples' wav2vec 2.0 recipe -> native contents.

Its `Checkpointer` (PyTorch/SpeechRecognition/wav2vec2/common/helpers.py at commit 35d8759) writes
`model`, `ema_model`, `optimizer`, `scaler`, `train_state`, `args` as a dict with `mode` and, if
fine-tuned, the text of the dictionary as `output_labels`.  Parameter names are fairseq's, except
those of an hourglass' layers.
"""

from pathlib import Path
from typing import Any

from wav2vec2.cli.errors import UserError
from wav2vec2.config import Hourglass
from wav2vec2.files.text import shown
from wav2vec2.interop import fairseq
from wav2vec2.interop.state_dict import rename_all
from wav2vec2.text.vocabulary import Vocabulary


def is_nvidia(content: Any) -> bool:
    """Whether the content of a file, in plain types, has the layout of NVIDIA's recipe."""
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        return False
    args = content.get("args")
    return isinstance(args, dict) and args.get("mode") in ("pretrain", "finetune")


def read_nvidia(
    content: dict[str, Any], source: Path, dictionary: Path | None = None
) -> dict[str, Any]:
    """The native content of a pre-trained or fine-tuned model.

    `content`: the file `source` in plain types.  `dictionary` replaces the one in a fine-tuned
    file.  UserError names what is missing.
    """
    args = content["args"]
    if args.get("rotary_embeddings") or args.get("use_spectrogram_features"):
        raise UserError(
            f"{source}: trained with rotary_embeddings or use_spectrogram_features, which this "
            "model does not have"
        )
    fairseq.check_settings(args, source)
    hourglass = _hourglass(args, source)
    weights = rename_all(content["model"], fairseq.OTHER_SPELLINGS, str(source))
    if args["mode"] == "pretrain":
        return fairseq.native_content(weights, args, source, "pretraining", hourglass=hourglass)
    text = content.get("output_labels")
    if dictionary is not None:
        found = Vocabulary.from_file(dictionary), str(dictionary)
    elif isinstance(text, str):
        found = fairseq.vocabulary_of_text(text, f"{source} (output_labels)")
    else:
        raise UserError(
            f"{source}: fine-tuned, but without its dictionary (output_labels); convert it with "
            "`python -m utils.checkpoints.convert --dictionary`"
        )
    labels = fairseq.labels_of(args)
    return fairseq.native_content(
        weights, args, source, "ctc", hourglass=hourglass, vocabulary=found, labels=labels
    )


def _hourglass(args: dict[str, Any], source: Path) -> Hourglass | None:
    """The hourglass of `[n_pre,(n_hourglass,shorten_factor),n_post]`; None: the plain encoder."""
    text = args.get("hourglass_transformer")
    if not text:
        return None
    resampling = fairseq.setting(args, "hourglass_resample", str, source)
    try:
        return Hourglass.parse(text, resampling)
    except (AttributeError, ValueError):
        raise UserError(
            f"{source}: its hourglass_transformer {shown(text)} is not of the form [2,(8,4),2]"
        ) from None
