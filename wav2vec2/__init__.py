"""The wav2vec 2.0 model, as the paper (arXiv 2006.11477) describes it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wav2vec2.inference.transcriber import Transcriber

__version__ = "0.1.0"


def load(
    path: str | Path,
    device: str = "cpu",
    *,
    precision: str = "fp32",
    batch_size: int = 8,
    window_seconds: float = 30.0,
    overlap_seconds: float = 4.0,
    **decoding: Any,
) -> "Transcriber":
    """A fine-tuned checkpoint, ready to `transcribe(array, rate)`: docs/python.md.

    `path`: any checkpoint that `inference.py` takes; `device` as torch names it.  The other
    arguments are the flags of `inference.py transcribe`, such as `decoder="beam", lm="4.arpa"`.
    UserError (a ValueError) in one line for what is missing or does not fit.
    """
    # Imported here, so that importing the package costs nothing.
    from wav2vec2.inference.transcriber import load

    return load(path, device, precision, batch_size, window_seconds, overlap_seconds, decoding)
