"""Recordings -> what the model makes of them: a layer's hidden states, or the quantizer's codes."""

import io
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import safetensors.numpy
import torch
from torch import Tensor
from tqdm import tqdm

from wav2vec2 import kernels
from wav2vec2.audio.decode import read_recording
from wav2vec2.audio.recordings import Recording, recordings_at, unique_ids
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import ExitCode, UserError, list_failures
from wav2vec2.files.filelists import read_manifest
from wav2vec2.files.output import prepare_folder, write_chunks, write_lines
from wav2vec2.hidden_states import hidden_states, layer_count, shortening
from wav2vec2.inference.batches import AudioBatch, batch_of, sorted_batches, subset_batches
from wav2vec2.inference.device import pick_device
from wav2vec2.inference.recognition import select_rows
from wav2vec2.interop import checkpoints, native
from wav2vec2.quantizer import GumbelQuantizer
from wav2vec2.trunk import Wav2Vec2

Output = Literal["hidden", "extractor", "codes"]


@dataclass(frozen=True)
class FeatureOptions:
    """Features"""

    checkpoint: str
    """Any checkpoint, pre-trained or fine-tuned; codes need a pre-trained one."""
    output: Output = "hidden"
    """Hidden states of a layer, the extractor's output (after its LayerNorm), or codes: the
    quantizer's entries."""
    layer: int | None = None
    """Layer of the hidden states: 0 is the first one's input; the last one if not given."""
    format: Literal["npz", "safetensors", "store"] = "npz"
    """A file each, or all in features.npy with their places in index.tsv."""
    dataset_dir: str = "/datasets/LibriSpeech"
    """Folder of the filelists."""
    subset: str = ""
    """Filelist to use, without .tsv, instead of FILE."""
    output_dir: str = "results/features"
    """Folder to write to."""
    batch_size: int = 8
    """Recordings at a time at most; results do not depend on it."""
    num_workers: int = 2
    """Processes that decode a subset's audio."""
    cpu: bool = False
    """Run on the CPU even where there is a GPU."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"--batch_size {self.batch_size}: must be at least 1")
        if self.num_workers < 0:
            raise UserError(f"--num_workers {self.num_workers}: must not be negative")
        if self.layer is not None and self.output != "hidden":
            raise UserError(f"--layer {self.layer}: --output {self.output} is of no layer")


@dataclass
class Listener:
    """A trunk ready for use, and which of its outputs is asked for."""

    trunk: Wav2Vec2
    quantizer: GumbelQuantizer | None
    normalize_input: bool
    device: torch.device
    output: Output
    layer: int
    checkpoint: str
    """Where it was read from."""

    @classmethod
    def load(cls, options: FeatureOptions) -> "Listener":
        device = pick_device(options.cpu or not torch.cuda.is_available())
        content = checkpoints.read_checkpoint(options.checkpoint)
        trunk, quantizer = native.load_trunk(content, options.checkpoint)
        if options.output == "codes" and quantizer is None:
            raise UserError(
                f"--output codes: {options.checkpoint} has no quantizer; give the pre-trained "
                "checkpoint it was made from"
            )
        kernels.install(trunk.to(device), device)
        layers = layer_count(trunk)
        layer = layers if options.layer is None else options.layer
        if not 0 <= layer <= layers:
            raise UserError(f"--layer {layer}: {options.checkpoint} has layers 0 to {layers}")
        architecture = native.architecture_of(content, options.checkpoint)
        return cls(
            trunk=trunk,
            quantizer=quantizer.to(device) if quantizer else None,
            normalize_input=architecture.normalize_input,
            device=device,
            output=options.output,
            layer=layer,
            checkpoint=options.checkpoint,
        )

    @property
    def factor(self) -> int:
        """Frames of the extractor that one frame of the features stands for."""
        return shortening(self.trunk, self.layer) if self.output == "hidden" else 1

    @property
    def frame_seconds(self) -> float:
        """From one frame's beginning to the next one's."""
        strides = (stride for _, _, stride in self.trunk.feature_extractor.spec)
        return self.factor * math.prod(strides) / SAMPLE_RATE

    def frames(self, samples: Sequence[int]) -> list[int]:
        """Frames of the extractor for recordings of these lengths."""
        return self.trunk.frames(torch.tensor(samples)).tolist()

    @torch.no_grad()
    def features(self, batch: AudioBatch) -> list[np.ndarray]:
        """Of each row `[its frames, width]`: fp32, or int32 codes.

        A row's own do not depend on the others; one too short for the model has no frames.
        """
        counts = self.frames(batch.lengths.tolist())
        rows = [row for row, count in enumerate(counts) if count]
        found = [self.nothing() for _ in counts]
        if rows:
            values = self._run(select_rows(batch.to(self.device), rows)).cpu().numpy()
            for row, value in zip(rows, values):
                found[row] = value[: -(-counts[row] // self.factor)].copy()
                if not np.isfinite(found[row]).all():
                    raise UserError(
                        f"{self.checkpoint}: its features of {batch.ids[row]} are not finite "
                        "numbers; its weights are damaged: use another copy"
                    )
        return found

    def _run(self, batch: AudioBatch) -> Tensor:
        frames = self.trunk.extract(batch.waveforms, batch.lengths)
        if self.output == "extractor":
            return frames.features
        if self.output == "hidden":
            return hidden_states(self.trunk, frames, self.layer)
        assert self.quantizer is not None
        return self.quantizer(frames.features, temperature=1.0).codes.int()

    def nothing(self) -> np.ndarray:
        """The features of no frame, `[0, width]`."""
        if self.output == "codes":
            assert self.quantizer is not None
            return np.empty((0, self.quantizer.groups), np.int32)
        if self.output == "extractor":
            return np.empty((0, self.trunk.feature_extractor.channels), np.float32)
        return np.empty((0, len(self.trunk.mask_emb)), np.float32)


Writer = Callable[[str, np.ndarray], None]
"""Keeps the features of the recording of that id."""


def features(options: FeatureOptions, files: Sequence[str]) -> ExitCode:
    """Write the features of files, folders, or a subset; what cannot be read is listed."""
    if bool(files) == bool(options.subset):
        raise UserError("inference.py features: give either FILEs, or --dataset_dir and --subset")
    output_dir = prepare_folder("--output_dir", options.output_dir)
    recordings = unique_ids([found for name in files for found in recordings_at(name)])
    listener = Listener.load(options)
    failures: list[str] = []
    if options.subset:
        batches = batches_of_subset(listener, options, failures)
    else:
        batches = batches_of_files(listener, options.batch_size, recordings, failures)
    done = 0
    with writer(options, listener, output_dir) as write:
        for batch in batches:
            for key, values in zip(batch.ids, listener.features(batch)):
                write(key, values)
                done += 1
    described = {
        "checkpoint": options.checkpoint,
        "output": options.output,
        "layer": listener.layer if options.output == "hidden" else None,
        "width": listener.nothing().shape[1],
        "frame_seconds": listener.frame_seconds,
    }
    write_lines(output_dir / "features.json", [json.dumps(described, indent=2)])
    print(f"features of {done} of {done + len(failures)} recordings in {output_dir}")
    return list_failures(failures)


def batches_of_subset(
    listener: Listener, options: FeatureOptions, failures: list[str]
) -> Iterator[AudioBatch]:
    manifest = read_manifest(options.dataset_dir, options.subset)
    return subset_batches(
        manifest,
        listener.frames([utterance.samples for utterance in manifest.utterances]),
        options.batch_size,
        normalize_input=listener.normalize_input,
        workers=options.num_workers,
        failures=failures,
    )


def batches_of_files(
    listener: Listener, size: int, recordings: Sequence[Recording], failures: list[str]
) -> Iterator[AudioBatch]:
    """Whole recordings, as many at a time as little padding allows."""
    for start in tqdm(range(0, len(recordings), size), disable=None):
        names, waveforms = [], []
        for recording in recordings[start : start + size]:
            try:
                waveform = read_recording(recording.source)
            except UserError as error:
                failures.append(str(error))
                continue
            names.append(recording.id)
            waveforms.append(waveform)
        lengths = listener.frames([len(waveform) for waveform in waveforms])
        for batch in sorted_batches(lengths, size):
            yield batch_of(
                [names[n] for n in batch],
                [waveforms[n] for n in batch],
                normalize_input=listener.normalize_input,
            )


@contextmanager
def writer(options: FeatureOptions, listener: Listener, output_dir: Path) -> Iterator[Writer]:
    """The way to keep features that `--format` names."""
    if options.format == "store":
        with store(output_dir, listener.nothing()) as write:
            yield write
        return

    def write_file(key: str, values: np.ndarray) -> None:
        times = np.arange(len(values)) * listener.frame_seconds
        tables = {"features": values, "times": times}
        if options.format == "npz":
            content = io.BytesIO()
            np.savez(content, **tables)
            data = content.getvalue()
        else:
            data = safetensors.numpy.save(tables)
        write_chunks(output_dir / f"{key}.{options.format}", [data])

    yield write_file


HEADER = 128
"""Bytes before the numbers of a .npy file; what numpy itself takes for a short description."""


def write_header(file: BinaryIO, like: np.ndarray, rows: int) -> None:
    """The beginning of a .npy file (format 1.0) of `rows` rows of the type and width of `like`."""
    shape = (rows, *like.shape[1:])
    text = repr({"descr": like.dtype.str, "fortran_order": False, "shape": shape})
    start = b"\x93NUMPY\x01\x00" + (HEADER - 10).to_bytes(2, "little")
    file.write(start + text.encode("ascii").ljust(HEADER - 11) + b"\n")


@contextmanager
def store(folder: Path, like: np.ndarray) -> Iterator[Writer]:
    """`features.npy`, all frames one recording after the other, and `index.tsv`, where each one's
    are: id, first row, rows.  Both whole or not at all; nothing is held in memory but the index."""
    target = folder / "features.npy"
    temporary = folder / f".{target.name}.{os.getpid()}.tmp"
    lines, rows = ["id\tfirst\tframes"], 0
    try:
        with open(temporary, "wb") as file:
            write_header(file, like, 0)

            def write(key: str, values: np.ndarray) -> None:
                nonlocal rows
                file.write(values.tobytes())
                lines.append(f"{key}\t{rows}\t{len(values)}")
                rows += len(values)

            yield write
            file.seek(0)
            write_header(file, like, rows)
        os.replace(temporary, target)
    except OSError as error:
        raise UserError(f"{target}: cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)
    write_lines(folder / "index.tsv", lines)
