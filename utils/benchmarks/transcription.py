"""Memory and speed of `inference.py transcribe` by the length of a recording.

    python -m utils.benchmarks.transcription --model base --minutes 0.5 1.5 5 10 60

The model has random weights and the recordings are noise: neither matters for time and memory.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from common.runtime.randomness import numpy_generator
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import UserError, run_command
from wav2vec2.cli.flags import ArgumentParser, parse_dataclasses
from wav2vec2.config import PRESETS, Architecture, Regularisation
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.files.output import prepare_folder
from wav2vec2.files.torch_file import save_checkpoint
from wav2vec2.interop import native
from wav2vec2.text.vocabulary import Vocabulary

INFERENCE = Path(__file__).parents[2] / "inference.py"
UNITS = [*"|ABCDEFGHIJKLMNOPQRSTUVWXYZ'"]
"""LibriSpeech's units; with the special symbols 32."""


@dataclass(frozen=True)
class TranscriptionBenchmarkOptions:
    """Benchmark"""

    output_dir: str = "results/measure_transcription"
    """Folder for checkpoint, recordings (FLAC, 80 MB per hour) and transcripts."""
    model: Literal["base", "large", "mini"] = "base"
    """Architecture of the model."""
    minutes: tuple[float, ...] = (10.0, 30.0, 60.0)
    """Lengths of the recordings."""

    def __post_init__(self) -> None:
        if not self.minutes or min(self.minutes) <= 0:
            raise UserError("--minutes: give lengths above 0")


def random_model(architecture: Architecture) -> tuple[dict[str, Any], Wav2Vec2ForCTC]:
    """A letter model with random weights: the content of its checkpoint, and the network."""
    torch.manual_seed(0)
    vocabulary = Vocabulary(UNITS)
    network = Wav2Vec2ForCTC.from_config(architecture, Regularisation(), len(vocabulary))
    weights = {name: weight.clone() for name, weight in network.state_dict().items()}
    content = {**native.ctc_content(architecture, vocabulary, "ltr"), "model": weights}
    return content, network


def write_model(path: Path, name: str) -> None:
    """Write a fine-tuned checkpoint with random weights."""
    save_checkpoint(path, random_model(PRESETS[name])[0])


def write_noise(path: Path, minutes: float) -> None:
    """Write one minute of noise, repeated, as 16-bit FLAC at 16 kHz."""
    import soundfile

    noise = numpy_generator("noise").standard_normal(60 * SAMPLE_RATE) / 100
    left = round(minutes * len(noise))
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, "PCM_16", format="FLAC") as file:
        while left > 0:
            file.write(noise[:left])
            left -= len(noise)


def time_transcription(model: Path, recording: Path, output_dir: Path) -> tuple[float, float]:
    """Transcribe `recording` in its own process: seconds with loading, peak resident MiB."""
    command = [sys.executable, str(INFERENCE), "transcribe", "--checkpoint", str(model), "--cpu"]
    command += ["--format", "json", "--output_dir", str(output_dir), str(recording)]
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise UserError(f"{' '.join(command)}: failed with exit code {code}")
    return time.perf_counter() - begin, usage.ru_maxrss / 1024


def main() -> None:
    parser = ArgumentParser("utils.benchmarks.transcription", __doc__)
    (options,) = parse_dataclasses(parser, [TranscriptionBenchmarkOptions])
    folder = prepare_folder("--output_dir", options.output_dir)
    model = folder / f"{options.model}.pt"
    write_model(model, options.model)
    print("minutes  peak MiB  x real time")
    for minutes in options.minutes:
        recording = folder / f"{minutes:g}.flac"
        write_noise(recording, minutes)
        seconds, peak = time_transcription(model, recording, folder)
        print(f"{minutes:7g} {peak:9.0f} {60 * minutes / seconds:12.1f}", flush=True)


if __name__ == "__main__":
    run_command(main)
