"""A recogniser as one graph of tensor operations: an archive of torch.export (.pt2).

The graph takes `waveforms` `[batch, samples]`, fp32 at 16 kHz in [-1, 1), and `lengths` `[batch]`,
int64: the samples of each row, at least the receptive field (400).  Padding may hold any values.
It returns `logits` `[batch, frames, units]`, of which unit 0 is the blank, and `frame_lengths`
`[batch]`, int64: the valid frames of each row.  Batch and samples are free, but samples must give
two frames (720): pad what is shorter.  If the model normalises its input, the graph does it.

The archive carries `recogniser.json`, see `describe`:

    extra = {"recogniser.json": ""}
    graph = torch.export.load("model.pt2", extra_files=extra).module()
    logits, frame_lengths = graph(waveforms, lengths)

The graph is traced on the CPU and runs there.

`torch.export.load` is not safe for files from others: it unpickles without restriction and
evaluates expressions.  `read_exported` does neither: the archive describes its model, and the
weights lie in it as plain numbers under the names of that model's parameters.
"""

import base64
import io
import json
import math
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import UserError
from wav2vec2.config import Architecture
from wav2vec2.ctc import BLANK, Wav2Vec2ForCTC
from wav2vec2.feature_extractor import frame_count, sample_count, valid_steps
from wav2vec2.files import gate
from wav2vec2.files.output import write_chunks
from wav2vec2.files.text import parse_json, shown
from wav2vec2.hourglass import HourglassStack
from wav2vec2.interop import native
from wav2vec2.trunk import Frames

INPUTS = ("waveforms", "lengths")
OUTPUTS = ("logits", "frame_lengths")
SAMPLE_INPUTS = ("input_values",)
SAMPLE_OUTPUTS = ("logits",)
DESCRIPTION = "recogniser.json"

_MARK = "archive_format"
"""Member by which a zip file is recognised as an archive of torch.export."""

_PREFIX = "model."
"""Prefix of the parameters: the graph holds the recogniser as `model`."""

_FP32 = 7
"""The number of fp32 in torch's schema of exported programs."""


def standardise(x: Tensor, valid: Tensor, eps: float) -> Tensor:
    """`x` `[..., time]` with zero mean and unit (biased) variance over its `valid` steps.

    `valid`, bool, broadcasts to `x`; the other steps become zeros.
    """
    count = valid.sum(dim=-1, keepdim=True)
    mean = x.masked_fill(~valid, 0.0).sum(dim=-1, keepdim=True) / count
    centred = (x - mean).masked_fill(~valid, 0.0)
    variance = centred.square().sum(dim=-1, keepdim=True) / count
    return centred * (variance + eps).rsqrt()


class Graph(nn.Module):
    """A recogniser for padded batches, without a branch or a loop over rows."""

    def __init__(self, model: Wav2Vec2ForCTC, architecture: Architecture):
        super().__init__()
        self.model = model
        self.normalize_input = architecture.normalize_input
        self.normalize_eps = architecture.normalize_eps

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`waveforms` `[batch, samples]` and `lengths` `[batch]` -> logits and valid frames."""
        trunk = self.model.wav2vec2
        frames = frame_count(waveforms.shape[1], trunk.feature_extractor.spec)
        if self.normalize_input:
            valid = valid_steps(lengths, waveforms.shape[1], lengths.device)
            waveforms = standardise(waveforms, valid, self.normalize_eps)
        raw = trunk.feature_extractor(self._whole_groups(waveforms, frames), lengths)
        counts = trunk.frames(lengths)
        context = trunk.encode(
            Frames(
                raw=raw,
                features=trunk.layer_norm(raw),
                valid=valid_steps(counts, raw.shape[1], raw.device),
                counts=counts,
            )
        )
        # Not context[:, :frames]: the export would decide once for all whether there is a surplus.
        context = context.index_select(1, torch.arange(frames, device=context.device))
        return self.model.proj(context), counts

    def _whole_groups(self, waveforms: Tensor, frames: int) -> Tensor:
        """Append zeros to `waveforms` for at least two whole groups of an hourglass' frames.

        A partial last group, or a single group, would each be traced to another graph.
        """
        stack = self.model.wav2vec2.encoder.stack
        if not isinstance(stack, HourglassStack):
            return waveforms
        surplus = -frames % stack.factor + stack.factor
        spec = self.model.wav2vec2.feature_extractor.spec
        return F.pad(waveforms, (0, surplus * math.prod(stride for _, _, stride in spec)))


class SampleGraph(Graph):
    """A recogniser for programs that give no lengths: each row is a recording without padding."""

    def forward(self, input_values: Tensor) -> Tensor:  # type: ignore[override]
        """`input_values` `[batch, samples]` -> logits `[batch, frames, units]`."""
        rows, samples = input_values.shape
        lengths = torch.full((rows,), samples, device=input_values.device)
        return super().forward(input_values, lengths)[0]


def export_graph(content: dict[str, Any], source: str) -> torch.export.ExportedProgram:
    """Trace the graph of a fine-tuned checkpoint, with free batch and samples; UserError names
    `source`."""
    model, _ = native.load_ctc(content, source)
    architecture = native.architecture_of(content, source)
    example = _example(architecture)
    shortest = sample_count(2, architecture.conv_layers)
    lengths = torch.tensor([example.shape[1], 20 * shortest, shortest])
    shapes = {"waveforms": _FREE, "lengths": {0: _FREE[0]}}
    return _trace(Graph(model, architecture), (example, lengths), shapes)


def export_sample_graph(
    content: dict[str, Any], source: str, *, normalize: bool
) -> torch.export.ExportedProgram:
    """The same for SampleGraph; `normalize`: whether it normalises its input."""
    model, _ = native.load_ctc(content, source)
    architecture = replace(native.architecture_of(content, source), normalize_input=normalize)
    example = _example(architecture)
    return _trace(SampleGraph(model, architecture), (example,), {"input_values": _FREE})


_FREE = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}


def _example(architecture: Architecture) -> Tensor:
    """Sizes that no part of a model has: the export treats equal sizes as always equal."""
    return torch.zeros(3, 40 * sample_count(2, architecture.conv_layers) + 13)


def _trace(
    graph: Graph, examples: tuple[Tensor, ...], shapes: dict[str, Any]
) -> torch.export.ExportedProgram:
    with torch.no_grad():
        return torch.export.export(graph.eval(), examples, dynamic_shapes=shapes)


def describe(content: dict[str, Any], source: str) -> str:
    """The JSON text that a program needs beside the graph to decode its logits.

    Its entry `checkpoint` is the native content without the weights.
    """
    vocabulary = native.vocabulary_of(content, source)
    own = native.without_training_state(content)
    del own["model"]
    if "sentencepiece" in own:
        own["sentencepiece"] = base64.b64encode(own["sentencepiece"].numpy().tobytes()).decode()
    architecture = native.architecture_of(content, source)
    return json.dumps(
        {
            "sample_rate": SAMPLE_RATE,
            "units": vocabulary.symbols,
            "blank": BLANK,
            "spelling": vocabulary.spelling.value,
            "shortest_row": sample_count(1, architecture.conv_layers),
            "shortest_batch": sample_count(2, architecture.conv_layers),
            "checkpoint": own,
        },
        ensure_ascii=False,
    )


def parse_description(text: str, source: str) -> dict[str, Any]:
    """The native content, without weights, of the text of `describe`; UserError names `source`."""
    try:
        content = parse_json(text, source, "export it again")["checkpoint"]
        if not isinstance(content, dict):
            raise TypeError
        if "sentencepiece" in content:
            model = bytearray(base64.b64decode(content["sentencepiece"], validate=True))
            content["sentencepiece"] = torch.frombuffer(model, dtype=torch.uint8)
        return content
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{source}: does not say of what model it is, or damaged; export it again with "
            "`python -m utils.checkpoints.convert`"
        ) from None


def check_new(path: Path, suffix: str) -> None:
    """UserError if `path` exists already or does not end in `suffix`."""
    if path.suffix != suffix:
        raise UserError(f"{path}: other programs need the suffix {suffix}; choose another name")
    if path.exists():
        raise UserError(f"{path}: exists already; choose another name")


def write_exported(content: dict[str, Any], path: Path) -> None:
    """Write a fine-tuned checkpoint's graph as a .pt2 archive, whole or not at all.

    UserError if `path` exists or cannot be written, or the checkpoint is not a recogniser.
    """
    check_new(path, ".pt2")
    program = export_graph(content, str(path))
    extra = {DESCRIPTION: describe(content, str(path))}
    archive = io.BytesIO()
    torch.export.save(program, archive, extra_files=extra)
    write_chunks(path, [archive.getvalue()])


def is_exported(path: Path) -> bool:
    """Whether `path` is a zip file with the mark of a torch.export archive."""
    if not gate.is_zip(path):
        return False
    with gate.open_zip(path) as archive:
        return any(name.partition("/")[2] == _MARK for name in archive.namelist())


def read_exported(path: Path) -> dict[str, Any]:
    """The native content of a .pt2 archive.

    UserError if it is damaged, of another program, or needs an unrestricted pickle for its weights.
    """
    try:
        with gate.open_zip(path) as archive:
            root = archive.namelist()[0].partition("/")[0]
            description = f"{root}/extra/{DESCRIPTION}"
            known = description in archive.namelist()
            text = gate.read_text_member(archive, description) if known else "{}"
            about = parse_description(text, str(path))
            return {**about, "model": _weights(archive, root, path)}
    except UserError as error:
        again = "export it again with `python -m utils.checkpoints.convert`"
        raise UserError(str(error).replace("use another copy", again)) from None
    except (OSError, zipfile.BadZipFile, KeyError, IndexError, TypeError, ValueError, RuntimeError):
        raise UserError(
            f"{path}: a torch.export archive that cannot be read (damaged, or of another version "
            "of torch); export it again with `python -m utils.checkpoints.convert`"
        ) from None


def _weights(archive: zipfile.ZipFile, root: str, path: Path) -> dict[str, Tensor]:
    """The parameters in fp32, by name; reading verifies the checksums of the zip file."""
    table = gate.read_text_member(archive, f"{root}/data/weights/model_weights_config.json")
    config = parse_json(table, path, "export it again")["config"]
    if len(config) > gate.MOST_TENSORS:
        raise gate.claims_too_much(path, f"{len(config):,} tensors")
    found: dict[str, Tensor] = {}
    parts: set[str] = set()
    for name, entry in config.items():
        meta = entry["tensor_meta"]
        if entry["use_pickle"] or meta["dtype"] != _FP32 or not name.startswith(_PREFIX):
            raise ValueError(name)
        part = f"{root}/data/weights/{entry['path_name']}"
        sizes, strides = ([n["as_int"] for n in meta[key]] for key in ("sizes", "strides"))
        held = archive.getinfo(part).file_size // 4
        if part in parts or math.prod(sizes) > held:
            raise gate.claims_too_much(path, f"{shown(name)} is larger than the {held:,} numbers")
        parts.add(part)
        data = archive.read(part)
        # as_strided refuses sizes and strides that reach outside the data.
        whole = torch.frombuffer(bytearray(data), dtype=torch.float32)
        tensor = whole.as_strided(sizes, strides, meta["storage_offset"]["as_int"])
        found[name.removeprefix(_PREFIX)] = tensor.contiguous()
    return found
