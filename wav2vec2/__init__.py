"""wav2vec 2.0 (arXiv 2006.11477): the model, and its use for speech recognition and features."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wav2vec2.inference.features import FeatureModel
    from wav2vec2.inference.transcriber import Transcriber

__version__ = "0.1.0"

# The functions import what they need, so that importing the package is fast.


def load(
    path: str | Path,
    device: str | None = None,
    *,
    precision: str = "fp32",
    batch_size: int = 8,
    window_seconds: float = 30.0,
    overlap_seconds: float = 4.0,
    language: str | None = None,
    factor: int | None = None,
    **decoding: Any,
) -> "Transcriber":
    """Load a fine-tuned checkpoint to `transcribe` and `align` recordings: docs/python.md.

    `path`: any checkpoint that `inference.py` takes; `device`: a torch device, such as "cuda"
    (default: a GPU if there is one, else the CPU).  The other arguments are the flags of
    `inference.py transcribe`, such as `decoder="beam", lm="4.arpa"`.  Raises UserError, a
    ValueError with a one-line message, if a file is missing or an argument does not fit.
    """
    from wav2vec2.inference.transcriber import load

    windows = window_seconds, overlap_seconds
    return load(path, device, precision, batch_size, *windows, language, factor, decoding)


def load_features(
    path: str | Path,
    device: str | None = None,
    *,
    output: str = "hidden",
    layer: int | None = None,
    factor: int | None = None,
    language: str | None = None,
) -> "FeatureModel":
    """Load any checkpoint to compute `features` of recordings: docs/python.md.

    `output`, `layer`, `factor` and `language` are the flags of `inference.py features`: hidden
    states of a layer (default: the last), "extractor", or "codes"; the pooling factor; which
    adapters of a recogniser that has some for several languages.  `device` and UserError as in
    `load`.
    """
    from wav2vec2.inference.features import load

    return load(path, device, output, layer, factor, language)


def export(
    checkpoint: str | Path,
    path: str | Path,
    *,
    int8: bool = False,
    factor: int | None = None,
    language: str | None = None,
) -> None:
    """Write a fine-tuned checkpoint's graph for other programs: docs/checkpoints.md.

    The suffix of `path` chooses the format: .onnx, or .pt2 for torch.export's archive.  `int8`
    writes 8-bit weights and needs .onnx.  `factor`: pooling factor of the graph (default: as in
    `inference.py transcribe`).  `language`: as in `load`.  UserError if `path` exists, has another
    suffix, or a package is missing.
    """
    from wav2vec2.cli.errors import UserError
    from wav2vec2.interop.checkpoints import read_at_factor
    from wav2vec2.interop.onnx import write_onnx
    from wav2vec2.interop.torch_export import write_exported

    path = Path(path)
    if int8 and path.suffix != ".onnx":
        raise UserError(f"export: int8: {path} is no ONNX file; name it something.onnx")
    content = read_at_factor(checkpoint, factor, language)
    if path.suffix == ".onnx":
        write_onnx(content, path, int8=int8)
    else:
        write_exported(content, path)
