"""Memory and speed of `inference.py transcribe` and `align` by the length of a recording.

    python -m utils.benchmarks.transcription --model base --minutes 0.5 1.5 5 10 60
    python -m utils.benchmarks.transcription --checkpoint model.pt --dataset_dir datasets/mini \\
        --subset train-mini --minutes 10 60

Without --checkpoint the model has random weights and the recordings are noise: neither matters for
transcription.  For alignment it does: recordings are utterances of a subset, drawn and joined.
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
from wav2vec2.audio.decode import read_utterance
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import UserError, run_command
from wav2vec2.cli.flags import ArgumentParser, parse_dataclasses
from wav2vec2.config import PRESETS, Architecture, Regularisation
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.files.filelists import read_labels, read_manifest
from wav2vec2.files.output import prepare_folder, write_lines
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
    model: Literal["base", "large", "mini", "small"] = "base"
    """Architecture of the model."""
    minutes: tuple[float, ...] = (10.0, 30.0, 60.0)
    """Lengths of the recordings."""
    checkpoint: str = ""
    """Fine-tuned model, in place of --model, to measure transcription and alignment in turns."""
    dataset_dir: str = "/datasets/LibriSpeech"
    """Folder of the filelists."""
    subset: str = ""
    """Filelist whose utterances are joined to recordings for --checkpoint."""

    def __post_init__(self) -> None:
        if bool(self.checkpoint) != bool(self.subset):
            raise UserError("--checkpoint, --subset: give both, or none of them")
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


def write_speech(path: Path, options: TranscriptionBenchmarkOptions, minutes: float) -> None:
    """Write utterances of a subset, drawn and joined, as FLAC, and their words as `<path>.txt`."""
    import soundfile

    manifest = read_manifest(options.dataset_dir, options.subset)
    words_of = read_labels(manifest, "wrd")
    generator = numpy_generator("joined utterances")
    words, samples = [], 0
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, "PCM_16", format="FLAC") as file:
        while samples < minutes * 60 * SAMPLE_RATE:
            utterance = manifest.utterances[generator.integers(len(manifest))]
            waveform = read_utterance(utterance.path)
            file.write(waveform)
            samples += len(waveform)
            words.append(words_of[utterance.id])
    write_lines(f"{path}.txt", words)


def time_command(*arguments: str | Path) -> tuple[float, float, float]:
    """Run inference.py in its own process: seconds with loading, those of the processor, and peak
    resident MiB."""
    command = [sys.executable, str(INFERENCE), *map(str, arguments)]
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise UserError(f"{' '.join(command)}: failed with exit code {code}")
    seconds = time.perf_counter() - begin
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    parser = ArgumentParser("utils.benchmarks.transcription", __doc__)
    (options,) = parse_dataclasses(parser, [TranscriptionBenchmarkOptions])
    folder = prepare_folder("--output_dir", options.output_dir)
    model = Path(options.checkpoint or folder / f"{options.model}.pt")
    if not options.checkpoint:
        write_model(model, options.model)
    print("command     minutes  peak MiB  x real time  processor seconds")
    for minutes in options.minutes:
        recording = folder / f"{minutes:g}.flac"
        flags = ["--checkpoint", model, "--cpu", "--output_dir", folder, recording]
        commands = {"transcribe": ["--format", "json", *flags]}
        if options.checkpoint:
            write_speech(recording, options, minutes)
            text = ["--text_file", f"{recording}.txt"]
            commands["align"] = [*text, *flags]
            commands["open ends"] = [*text, "--open_ends", *flags]
        else:
            write_noise(recording, minutes)
        for name, arguments in commands.items():
            command = "transcribe" if name == "transcribe" else "align"
            seconds, processor, peak = time_command(command, *arguments)
            speed = 60 * minutes / seconds
            row = f"{name:10} {minutes:8g} {peak:9.0f} {speed:12.1f} {processor:18.1f}"
            print(row, flush=True)


if __name__ == "__main__":
    run_command(main)
