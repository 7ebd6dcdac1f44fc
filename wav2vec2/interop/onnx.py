"""A recogniser as an ONNX file, in fp32 or with 8-bit weights, and running such a file.

The graph, its inputs and its outputs are those of torch_export.py.  `recogniser.json` is in its
metadata:

    session = onnxruntime.InferenceSession("model.onnx")
    about = json.loads(session.get_modelmeta().custom_metadata_map["recogniser.json"])
    logits, frame_lengths = session.run(None, {"waveforms": waveforms, "lengths": lengths})

Programs that give no lengths take another graph, see `graph_of_samples`; it has the same metadata.
Needs the optional packages onnx and onnxscript, and for 8 bits onnxruntime.
"""

import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wav2vec2.cli.errors import UserError
from wav2vec2.ctc import CTCOutput
from wav2vec2.feature_extractor import frame_count, sample_count
from wav2vec2.files import gate
from wav2vec2.files.output import write_chunks
from wav2vec2.files.text import shown
from wav2vec2.interop import native, torch_export

_FIRST_BYTE = b"\x08"
"""An ONNX file begins with the tag of its version; no checkpoint does."""

_MOST_BYTES = 2**31 - 1
"""The size limit of protobuf, in which ONNX files are written."""


def write_onnx(content: dict[str, Any], path: Path, *, int8: bool = False) -> None:
    """Write a fine-tuned checkpoint's graph as an ONNX file, whole or not at all.

    `int8`: dynamic quantization.  The weights of matrix products have 8 bits, with one scale per
    column; their inputs are rounded to 8 bits as they come; convolutions stay in fp32.  UserError
    if a package is missing, `path` exists or cannot be written, the checkpoint is not a recogniser,
    or it is too large for the format.
    """
    torch_export.check_new(path, ".onnx")
    _check_writable(content, path, int8=int8)
    program = torch_export.export_graph(content, str(path))
    names = torch_export.INPUTS, torch_export.OUTPUTS
    model = _converted(program, *names, torch_export.describe(content, str(path)))
    write_chunks(path, [with_8_bits(model) if int8 else model])


def graph_of_samples(content: dict[str, Any], path: Path, *, normalize: bool) -> bytes:
    """An ONNX model with one input, `input_values` `[batch, samples]`, and one output, `logits`.

    Each row is a recording without padding.  `normalize`: whether the graph normalises its input.
    UserError, naming `path`, as in `write_onnx` with `int8`.
    """
    _check_writable(content, path, int8=True)
    program = torch_export.export_sample_graph(content, str(path), normalize=normalize)
    names = torch_export.SAMPLE_INPUTS, torch_export.SAMPLE_OUTPUTS
    return _converted(program, *names, torch_export.describe(content, str(path)))


def _check_writable(content: dict[str, Any], path: Path, *, int8: bool) -> None:
    """UserError if a package is missing, or the model is too large for the format."""
    _check_packages(path, ("onnx", "onnxscript", *(("onnxruntime",) if int8 else ())))
    size = sum(tensor.numel() * 4 for tensor in content["model"].values())
    if size > _MOST_BYTES:
        raise UserError(
            f"{path}: not written; an ONNX file holds 2 GB, this model takes {size / 1e9:.1f} GB: "
            "write a .pt2 archive instead"
        )


def _converted(
    program: torch.export.ExportedProgram,
    inputs: Sequence[str],
    outputs: Sequence[str],
    description: str,
) -> bytes:
    """The ONNX model of a program, with its description in the metadata."""
    with _silence():
        converted = torch.onnx.export(
            program, input_names=inputs, output_names=outputs, dynamo=True, verbose=False
        )
    assert converted is not None
    converted.model.metadata_props[torch_export.DESCRIPTION] = description
    return converted.model_proto.SerializeToString()


def is_onnx(path: str | Path) -> bool:
    """Whether a file begins as an ONNX model does."""
    if not os.path.isfile(path):  # a folder, a pipe, or missing: the error comes when it is read
        return False
    with open(path, "rb") as file:
        return file.read(1) == _FIRST_BYTE


_GRAPHS = [
    {
        "waveforms": ("tensor(float)", 2),
        "lengths": ("tensor(int64)", 1),
        "logits": ("tensor(float)", 3),
        "frame_lengths": ("tensor(int64)", 1),
    },
    {"input_values": ("tensor(float)", 2), "logits": ("tensor(float)", 3)},
]
"""Names, types and axes of the inputs and outputs of the graphs that are written here."""


class OnnxRecogniser:
    """An ONNX file that is called like a Wav2Vec2ForCTC, on the CPU."""

    def __init__(self, path: str | Path):
        """UserError if onnxruntime is missing, or the file has no graph that was written here."""
        if find_spec("onnxruntime") is None:
            raise UserError(f"{path}: ONNX files run in onnxruntime; `pip install onnxruntime`")
        gate.check_onnx(path)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors have no common base class
            reason = " ".join(str(error).split())[:120]
            raise UserError(
                f"{path}: onnxruntime cannot read it ({reason}); it is damaged, or of a newer "
                "version: write it again with `python -m utils.checkpoints.convert`"
            ) from None
        try:
            about = self._session.get_modelmeta().custom_metadata_map
        except UnicodeDecodeError:
            raise gate.damaged(path) from None
        text = about.get(torch_export.DESCRIPTION, "{}")
        self.content = torch_export.parse_description(text, str(path))
        native.check_entries({**self.content, "model": {}}, str(path))
        self._check_graph(str(path))
        self._conv_layers = native.architecture_of(self.content, str(path)).conv_layers
        self._shortest = sample_count(2, self._conv_layers)

    def _check_graph(self, source: str) -> None:
        """UserError unless the graph has the inputs and outputs that the description is about."""
        units = len(native.output_vocabulary(self.content, source))
        nodes = [*self._session.get_inputs(), *self._session.get_outputs()]
        found = {node.name: (node.type, len(node.shape)) for node in nodes}
        if found not in _GRAPHS or len(nodes) != len(found):
            named = shown({name: f"{kind}, {axes} axes" for name, (kind, axes) in found.items()})
            raise UserError(
                f"{source}: damaged: its description is of a recogniser, its graph has {named}; "
                "write it again with `python -m utils.checkpoints.convert`"
            )
        self._takes_lengths = "lengths" in found
        size = next(node.shape[2] for node in nodes if node.name == "logits")
        if size != units:
            raise UserError(
                f"{source}: damaged: its dictionary has {units} symbols, the four special ones "
                f"included, its graph gives {shown(size)}; write it again with `python -m "
                "utils.checkpoints.convert`"
            )

    def frames(self, samples: Tensor) -> Tensor:
        """Frames that `samples` (any shape) give."""
        return frame_count(samples, self._conv_layers)

    def __call__(self, waveforms: Tensor, lengths: Tensor) -> CTCOutput:
        """Logits of `waveforms` `[batch, samples]`; `lengths` `[batch]`, each at least a frame."""
        if not self._takes_lengths:
            return self._row_by_row(waveforms, lengths)
        waveforms = self._long_enough(waveforms)
        inputs = zip(torch_export.INPUTS, (waveforms.numpy(), lengths.numpy()))
        logits, counts = self._session.run(list(torch_export.OUTPUTS), dict(inputs))
        return CTCOutput(torch.from_numpy(logits), torch.from_numpy(counts))

    def _row_by_row(self, waveforms: Tensor, lengths: Tensor) -> CTCOutput:
        """The same for a graph without lengths: padding would count as sound there.

        It does in a row of a single frame (less than 45 ms), which the graph cannot take as it is.
        """
        counts, rows = self.frames(lengths), []
        for waveform, length, count in zip(waveforms, lengths.tolist(), counts.tolist()):
            inputs = {"input_values": self._long_enough(waveform[None, :length]).numpy()}
            rows.append(torch.from_numpy(self._session.run(["logits"], inputs)[0])[0, :count])
        return CTCOutput(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), counts)

    def _long_enough(self, waveforms: Tensor) -> Tensor:
        """Waveforms with zeros appended to what a graph needs."""
        return F.pad(waveforms, (0, max(0, self._shortest - waveforms.shape[1])))


def _check_packages(path: Path, names: tuple[str, ...]) -> None:
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise UserError(
            f"{path}: ONNX files are written with {' and '.join(missing)}; "
            f"`pip install {' '.join(missing)}`"
        )


@contextmanager
def _silence() -> Iterator[None]:
    """Suppress the exporters' deprecation warnings and advice, which no user can follow."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def with_8_bits(model: bytes) -> bytes:
    """The model with quantized matrix products; onnxruntime only reads and writes files."""
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
