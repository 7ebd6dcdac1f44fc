"""A recogniser as one graph of tensor operations: torch.export's archive (.pt2).

The graph takes `waveforms` `[batch, samples]`, fp32 at 16 kHz in [-1, 1), and `lengths` `[batch]`,
int64: samples of each row, each at least the receptive field (400); what follows them is not
looked at.  It returns `logits` `[batch, frames, units]`, of which unit 0 is the blank, and
`frame_lengths` `[batch]`, int64: the frames of each row that mean something.  Batch and samples are
free, but samples must give two frames (720): pad what is shorter.  Where the model normalises its
input, the graph does so itself.

The archive carries `recogniser.json`, see `describe`:

    extra = {"recogniser.json": ""}
    graph = torch.export.load("model.pt2", extra_files=extra).module()
    logits, frame_lengths = graph(waveforms, lengths)

It is traced on the CPU and runs there.
"""

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wav2vec2.audio.decode import NORMALIZE_EPS
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import UserError
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.feature_extractor import FeatureExtractor, frame_count, sample_count
from wav2vec2.files.output import write_chunks
from wav2vec2.hourglass import HourglassStack
from wav2vec2.interop import native
from wav2vec2.numerics import GroupNorm
from wav2vec2.text.vocabulary import BLANK
from wav2vec2.trunk import Frames

INPUTS = ("waveforms", "lengths")
OUTPUTS = ("logits", "frame_lengths")
DESCRIPTION = "recogniser.json"


def _valid(lengths: Tensor, size: int) -> Tensor:
    """`[batch]` -> `[batch, size]`, bool: what comes before each row's end."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def standardise(x: Tensor, valid: Tensor, eps: float) -> Tensor:
    """Zero mean and unit (biased) variance along the last axis over what is `valid`.

    `x` `[..., time]`; `valid`, bool, broadcasts to it.  The rest becomes zeros.
    """
    count = valid.sum(dim=-1, keepdim=True)
    mean = x.masked_fill(~valid, 0.0).sum(dim=-1, keepdim=True) / count
    centred = (x - mean).masked_fill(~valid, 0.0)
    variance = centred.square().sum(dim=-1, keepdim=True) / count
    return centred * (variance + eps).rsqrt()


class Graph(nn.Module):
    """A recogniser any row of which may be padded, without a branch or a loop over rows."""

    def __init__(self, model: Wav2Vec2ForCTC, *, normalize_input: bool):
        super().__init__()
        self.model = model
        self.normalize_input = normalize_input

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See the top of the file."""
        trunk = self.model.wav2vec2
        frames = frame_count(waveforms.shape[1], trunk.feature_extractor.spec)
        if self.normalize_input:
            heard = _valid(lengths, waveforms.shape[1])
            waveforms = standardise(waveforms, heard, NORMALIZE_EPS)
        raw = _extract(trunk.feature_extractor, self._whole_groups(waveforms, frames), lengths)
        counts = trunk.frames(lengths)
        context = trunk.encode(
            Frames(
                raw=raw,
                features=trunk.layer_norm(raw),
                valid=_valid(counts, raw.shape[1]),
                counts=counts,
            )
        )
        # Not context[:, :frames]: whether there is a surplus would become a property of the graph.
        context = context.index_select(1, torch.arange(frames, device=context.device))
        return self.model.proj(context), counts

    def _whole_groups(self, waveforms: Tensor, frames: int) -> Tensor:
        """`[batch, samples]` -> the same with zeros behind, for at least two whole groups of the
        frames an hourglass pools.

        With a last group in part the graph would be another than without, with a single one
        another again.
        """
        stack = self.model.wav2vec2.encoder.stack
        if not isinstance(stack, HourglassStack):
            return waveforms
        surplus = -frames % stack.factor + stack.factor
        spec = self.model.wav2vec2.feature_extractor.spec
        return F.pad(waveforms, (0, surplus * math.prod(stride for _, _, stride in spec)))


def _extract(extractor: FeatureExtractor, waveforms: Tensor, lengths: Tensor) -> Tensor:
    """`[batch, samples]` -> `[batch, frames, C]`: the extractor, with the group norm's statistics
    over each row's own steps."""
    x = waveforms[:, None]
    for index, block in enumerate(extractor.conv_layers):
        if isinstance(block.norm, GroupNorm):
            counts = frame_count(lengths, extractor.spec[: index + 1])
            x = F.gelu(_group_norm(block.norm, block.conv(x), counts))
        else:
            x = block(x, None)
    return x.transpose(1, 2)


def _group_norm(norm: GroupNorm, x: Tensor, counts: Tensor) -> Tensor:
    """One group a channel: `x` `[batch, channels, steps]` standardised over its first `counts`."""
    valid = _valid(counts, x.shape[-1])[:, None]
    y = standardise(x, valid, norm.eps) * norm.weight[:, None] + norm.bias[:, None]
    return y.masked_fill(~valid, 0.0)


def export(content: dict[str, Any], source: str) -> torch.export.ExportedProgram:
    """The graph of a fine-tuned checkpoint, batch and samples left open; UserError names
    `source`."""
    model, _ = native.load_ctc(content, source)
    architecture = native.architecture_of(content, source)
    graph = Graph(model, normalize_input=architecture.normalize_input).eval()
    shortest = sample_count(2, architecture.conv_layers)
    free = torch.export.Dim.DYNAMIC
    # Sizes of the example that no part of a model has by chance: equal ones would be tied.
    example = torch.zeros(3, 40 * shortest + 13)
    lengths = torch.tensor([example.shape[1], 20 * shortest, shortest])
    with torch.no_grad():
        return torch.export.export(
            graph,
            (example, lengths),
            dynamic_shapes={"waveforms": {0: free, 1: free}, "lengths": {0: free}},
        )


def describe(content: dict[str, Any], source: str) -> str:
    """What a program needs beside the graph to make text of its logits, as JSON; `checkpoint` is
    what this repository's own checkpoints say of themselves."""
    vocabulary = native.vocabulary_of(content, source)
    own = {
        name: value
        for name, value in native.without_training_state(content).items()
        if name != "model"
    }
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


def described(text: str, source: str) -> dict[str, Any]:
    """What `describe` wrote -> the checkpoint's content, all but its weights; UserError names
    `source`."""
    try:
        content = json.loads(text)["checkpoint"]
        if "sentencepiece" in content:
            model = bytearray(base64.b64decode(content["sentencepiece"], validate=True))
            content["sentencepiece"] = torch.frombuffer(model, dtype=torch.uint8)
        return content
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(
            f"{source}: does not say of what model it is; export it again with "
            "`python -m utils.checkpoints.convert`"
        ) from None


def check_new(path: Path, suffix: str) -> None:
    """UserError if `path` exists already or does not end in `suffix`."""
    if path.suffix != suffix:
        raise UserError(f"{path}: name it something{suffix}, by which other programs know it")
    if path.exists():
        raise UserError(f"{path}: exists already; choose another name")


def write_exported(content: dict[str, Any], path: Path) -> None:
    """Write a fine-tuned checkpoint's graph as a .pt2 archive, whole or not at all.

    UserError if `path` exists or cannot be written, or the checkpoint is no recogniser.
    """
    check_new(path, ".pt2")
    program = export(content, str(path))
    extra = {DESCRIPTION: describe(content, str(path))}
    archive = io.BytesIO()
    torch.export.save(program, archive, extra_files=extra)
    write_chunks(path, [archive.getvalue()])
