"""A recogniser as an ONNX file, in fp32 or with 8-bit weights.

The graph, its inputs and outputs are those of exported.py; `recogniser.json` is in the file's
metadata:

    session = onnxruntime.InferenceSession("model.onnx")
    about = json.loads(session.get_modelmeta().custom_metadata_map["recogniser.json"])
    logits, frame_lengths = session.run(None, {"waveforms": waveforms, "lengths": lengths})

Needs the optional packages onnx and onnxscript, and for 8 bits onnxruntime.
"""

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError
from common.manifest import write_chunks
from wav2vec2.interop.exported import DESCRIPTION, INPUTS, OUTPUTS, check_new, describe, export

LARGEST = 2**31 - 1
"""Bytes of an ONNX file: protobuf's limit."""


def write_onnx(content: dict[str, Any], path: Path, *, int8: bool = False) -> None:
    """Write a fine-tuned checkpoint's graph as an ONNX file, whole or not at all.

    `int8`: the weights of the matrix products with 8 bits, one scale a column, and their inputs
    rounded to 8 bits as they come (dynamic quantization); the convolutions stay fp32.  UserError
    if a package is missing, `path` exists or cannot be written, the checkpoint is no recogniser,
    or it is too large for the format.
    """
    check_new(path, ".onnx")
    _check_packages(path, ("onnx", "onnxscript", *(("onnxruntime",) if int8 else ())))
    size = sum(tensor.numel() * 4 for tensor in content["model"].values())
    if size > LARGEST:
        raise UserError(
            f"{path}: not written; an ONNX file holds 2 GB, this model takes {size / 1e9:.1f} GB: "
            "write a .pt2 archive instead"
        )
    program = export(content, str(path))
    with _silence():
        exported = torch.onnx.export(
            program, input_names=INPUTS, output_names=OUTPUTS, dynamo=True, verbose=False
        )
    exported.model.metadata_props[DESCRIPTION] = describe(content, str(path))
    model = exported.model_proto.SerializeToString()
    write_chunks(path, [_with_8_bits(model) if int8 else model])


def _check_packages(path: Path, names: tuple[str, ...]) -> None:
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise UserError(
            f"{path}: ONNX files are written with {' and '.join(missing)}; "
            f"`pip install {' '.join(missing)}`"
        )


@contextmanager
def _silence() -> Iterator[None]:
    """Without the exporters' deprecation warnings and advice, which no user can follow."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _with_8_bits(model: bytes) -> bytes:
    """The file with quantized matrix products; onnxruntime reads and writes files only."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder, _silence():
        whole, small = Path(folder, "whole.onnx"), Path(folder, "small.onnx")
        whole.write_bytes(model)
        quantize_dynamic(
            whole,
            small,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["MatMul", "Gemm"],
        )
        return small.read_bytes()
