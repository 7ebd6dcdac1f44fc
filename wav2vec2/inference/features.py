"""Recordings -> features: a layer's hidden states, the extractor's output, or quantizer codes."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import safetensors.numpy
import torch
from torch import Tensor

from wav2vec2 import kernels
from wav2vec2.audio.decode import read_recording, stream_audio
from wav2vec2.audio.recordings import Recording, recordings_at, unique_ids
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import ExitCode, Failures, UserError, list_failures
from wav2vec2.cli.flags import from_arguments, require_at_least
from wav2vec2.cli.progress import progress
from wav2vec2.files.filelists import read_manifest
from wav2vec2.files.output import (
    atomic_path,
    prepare_folder,
    write_chunks,
    write_json,
    write_lines,
    write_npz,
)
from wav2vec2.hidden_states import hidden_states, layer_count, shortening
from wav2vec2.inference.batches import (
    AudioBatch,
    batch_of,
    select_rows,
    sorted_batches,
    subset_batches,
)
from wav2vec2.inference.device import inference_device, usable_device
from wav2vec2.interop import checkpoints, native
from wav2vec2.quantizer import GumbelQuantizer
from wav2vec2.trunk import Wav2Vec2

Output = Literal["hidden", "extractor", "codes"]


@dataclass(frozen=True)
class FeatureOptions:
    """Features"""

    checkpoint: str
    """Any checkpoint, pre-trained or fine-tuned; codes need a pre-trained one."""
    language: str | None = None
    """Of a recogniser with adapters for several languages, as MMS has: the code of the language to
    use, such as deu."""
    factor: int | None = None
    """Of a model with an hourglass: pooling factor to run at.  Default: that of the checkpoint; of
    several, the largest that costs at most 1 point of WER on validation, or the smallest of a
    pre-trained one."""
    output: Output = "hidden"
    """hidden: hidden states of a layer; extractor: the feature extractor's output after its
    LayerNorm; codes: the quantizer's entries."""
    layer: int | None = None
    """Layer of the hidden states; 0: the input of the first layer.  Default: the last layer."""
    format: Literal["npz", "safetensors", "store"] = "npz"
    """npz, safetensors: a file per recording; store: all in features.npy, listed in index.tsv."""
    dataset_dir: str = "/datasets/LibriSpeech"
    """Folder of the filelists."""
    subset: str = ""
    """Filelist to use, without .tsv, instead of FILE."""
    output_dir: str = "results/features"
    """Folder to write to."""
    batch_size: int = 8
    """Most recordings per batch; results do not depend on it."""
    num_workers: int = 2
    """Data loading workers, for a subset."""
    cpu: bool = False
    """Run on the CPU even if there is a GPU."""

    def __post_init__(self) -> None:
        require_at_least(self, batch_size=1, num_workers=0)
        if self.factor is not None:
            require_at_least(self, factor=1)
        if self.layer is not None and self.output != "hidden":
            raise UserError(
                f"--layer {self.layer}: --output {self.output} has no layers; remove --layer"
            )


@dataclass
class FeatureModel:
    """A model that is ready to give one kind of features."""

    trunk: Wav2Vec2
    quantizer: GumbelQuantizer | None
    normalize_input: bool
    normalize_eps: float
    device: torch.device
    output: Output
    layer: int
    checkpoint: str
    """Path it was read from."""

    @classmethod
    def load(cls, options: FeatureOptions, device: torch.device) -> "FeatureModel":
        """A checkpoint of any kind, on `device`.

        UserError if it has no quantizer for codes, or no such layer.
        """
        content = checkpoints.read_at_factor(options.checkpoint, options.factor, options.language)
        trunk, quantizer = native.load_trunk(content, options.checkpoint)
        if options.output == "codes" and quantizer is None:
            raise UserError(
                f"--output codes: {options.checkpoint} has no quantizer; give the pre-trained "
                "checkpoint it was made from"
            )
        kernels.install(trunk.to(device), device)
        layer = checked_layer(trunk, options.layer, options.checkpoint)
        architecture = native.architecture_of(content, options.checkpoint)
        return cls(
            trunk=trunk,
            quantizer=quantizer.to(device) if quantizer else None,
            normalize_input=architecture.normalize_input,
            normalize_eps=architecture.normalize_eps,
            device=device,
            output=options.output,
            layer=layer,
            checkpoint=options.checkpoint,
        )

    @property
    def factor(self) -> int:
        """Frames of the extractor per frame of the features."""
        return shortening(self.trunk, self.layer) if self.output == "hidden" else 1

    @property
    def frame_seconds(self) -> float:
        """Time from the start of one frame to the start of the next."""
        strides = (stride for _, _, stride in self.trunk.feature_extractor.spec)
        return self.factor * math.prod(strides) / SAMPLE_RATE

    def frames(self, samples: Sequence[int]) -> list[int]:
        """Frames of the extractor for recordings of these lengths."""
        return self.trunk.frames(torch.tensor(samples)).tolist()

    def features(self, audio: Any, rate: int | None = None) -> np.ndarray:
        """Features `[frames, width]` of a file, or of samples at `rate` Hz: fp32, or int32 codes.

        `audio`: see Transcriber.transcribe.  The recording is processed as a whole.
        """
        waveform = np.concatenate([*stream_audio(audio, rate)])
        name = str(audio) if isinstance(audio, (str, Path)) else "audio"
        batch = batch_of(
            [name],
            [waveform],
            normalize_input=self.normalize_input,
            normalize_eps=self.normalize_eps,
        )
        return self.batch_features(batch)[0]

    @torch.no_grad()
    def batch_features(self, batch: AudioBatch) -> list[np.ndarray]:
        """Features of each row, `[its frames, width]`; they do not depend on the other rows.

        A row shorter than the receptive field has no frame.
        """
        counts = self.frames(batch.lengths.tolist())
        rows = [row for row, count in enumerate(counts) if count]
        found = [self.no_frames() for _ in counts]
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
            return frames.features.float()
        if self.output == "hidden":
            return hidden_states(self.trunk, frames, self.layer).float()
        assert self.quantizer is not None
        return self.quantizer(frames.features, temperature=1.0).codes.int()

    def no_frames(self) -> np.ndarray:
        """The features of no frame, `[0, width]`."""
        if self.output == "codes":
            assert self.quantizer is not None
            return np.empty((0, self.quantizer.groups), np.int32)
        if self.output == "extractor":
            return np.empty((0, self.trunk.feature_extractor.channels), np.float32)
        return np.empty((0, len(self.trunk.mask_emb)), np.float32)


def checked_layer(trunk: Wav2Vec2, layer: int | None, checkpoint: str) -> int:
    """The layer, the last for None; UserError if the model, read from `checkpoint`, lacks it."""
    layers = layer_count(trunk)
    layer = layers if layer is None else layer
    if type(layer) is not int or not 0 <= layer <= layers:
        raise UserError(f"--layer {layer}: {checkpoint} has layers 0 to {layers}")
    return layer


def load(
    path: str | Path,
    device: str | torch.device | None,
    output: str,
    layer: int | None,
    factor: int | None,
    language: str | None,
) -> FeatureModel:
    """See `wav2vec2.load_features`."""
    given = {
        "checkpoint": path,
        "output": output,
        "layer": layer,
        "factor": factor,
        "language": language,
    }
    options = from_arguments(FeatureOptions, "load_features", given)
    return FeatureModel.load(options, usable_device(device))


Writer = Callable[[str, np.ndarray], None]
"""Writes the features of the recording with that id."""


def features(options: FeatureOptions, files: Sequence[str]) -> ExitCode:
    """Write the features of files and folders, or of a subset; list what cannot be read."""
    if bool(files) == bool(options.subset):
        raise UserError("features: give either recordings, or --dataset_dir and --subset")
    output_dir = prepare_folder("--output_dir", options.output_dir)
    recordings = unique_ids([found for name in files for found in recordings_at(name)])
    model = FeatureModel.load(options, inference_device(options.cpu))
    failures = Failures()
    if options.subset:
        manifest = read_manifest(options.dataset_dir, options.subset)
        batches = subset_batches(
            manifest,
            model.frames([utterance.samples for utterance in manifest.utterances]),
            options.batch_size,
            normalize_input=model.normalize_input,
            normalize_eps=model.normalize_eps,
            workers=options.num_workers,
            failures=failures,
        )
    else:
        batches = recording_batches(model, options.batch_size, recordings, failures)
    done = 0
    with features_writer(options, model, output_dir) as write:
        for batch in batches:
            for key, values in zip(batch.ids, model.batch_features(batch)):
                write(key, values)
                done += 1
    described = {
        "checkpoint": options.checkpoint,
        "output": options.output,
        "layer": model.layer if options.output == "hidden" else None,
        "width": model.no_frames().shape[1],
        "frame_seconds": model.frame_seconds,
    }
    write_json(output_dir / "features.json", described)
    print(f"features of {done} of {done + len(failures)} recordings in {output_dir}")
    return list_failures(failures)


def recording_batches(
    model: FeatureModel, size: int, recordings: Sequence[Recording], failures: Failures
) -> Iterator[AudioBatch]:
    """Whole recordings, `size` read at a time; those of similar length share a batch."""
    starts = range(0, len(recordings), size)
    for start in progress(starts, len(starts), "features", "batches"):
        names, waveforms = [], []
        for recording in recordings[start : start + size]:
            waveform = failures.attempt(read_recording, recording.source)
            if waveform is not None:
                names.append(recording.id)
                waveforms.append(waveform)
        lengths = model.frames([len(waveform) for waveform in waveforms])
        for batch in sorted_batches(lengths, size):
            yield batch_of(
                [names[n] for n in batch],
                [waveforms[n] for n in batch],
                normalize_input=model.normalize_input,
                normalize_eps=model.normalize_eps,
            )


@contextmanager
def features_writer(
    options: FeatureOptions, model: FeatureModel, output_dir: Path
) -> Iterator[Writer]:
    """The writer for `--format`: one file per recording, or one store for all."""
    if options.format == "store":
        with store_writer(output_dir, model.no_frames()) as write:
            yield write
        return

    def write_file(key: str, values: np.ndarray) -> None:
        tables = {"features": values, "times": np.arange(len(values)) * model.frame_seconds}
        path = output_dir / f"{key}.{options.format}"
        if options.format == "npz":
            write_npz(path, **tables)
        else:
            write_chunks(path, [safetensors.numpy.save(tables)])

    yield write_file


@contextmanager
def store_writer(folder: Path, like: np.ndarray) -> Iterator[Writer]:
    """Writes `features.npy`, the frames of all recordings one after another, and `index.tsv`: id,
    first row and number of rows of each.  `like` has the type and width of the features.

    Only the index is in memory.
    """
    index, rows = ["id\tfirst\tframes"], 0

    def write_header(file: BinaryIO) -> None:
        # numpy pads the header so that any number of rows fits into the same place.
        header = {"descr": like.dtype.str, "fortran_order": False, "shape": (rows, like.shape[1])}
        np.lib.format.write_array_header_1_0(file, header)

    def write(key: str, values: np.ndarray) -> None:
        nonlocal rows
        file.write(values.tobytes())
        index.append(f"{key}\t{rows}\t{len(values)}")
        rows += len(values)

    with atomic_path(folder / "features.npy") as temporary, open(temporary, "wb") as file:
        write_header(file)
        yield write
        file.seek(0)
        write_header(file)
    write_lines(folder / "index.tsv", index)
