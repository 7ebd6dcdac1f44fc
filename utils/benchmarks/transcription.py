"""Memory and speed of `inference.py transcribe` and `align` by the length of a recording.

    python -m utils.benchmarks.transcription --model base --minutes 0.5 1.5 5 10 60
    python -m utils.benchmarks.transcription --checkpoint model.pt --dataset_dir datasets/mini \\
        --subset train-mini --minutes 10 60
    python -m utils.benchmarks.transcription --start            # the time to the first word
    python -m utils.benchmarks.transcription --files 100        # files of 1 to 20 s

Without --checkpoint the model has random weights and the recordings are noise: neither matters for
transcription.  For alignment it does: recordings are utterances of a subset, drawn and joined.

--start and --files run each command in turns and print medians.  What a command does is told by
what a shorter one lacks: `--help` imports, a recording without a frame also loads the model.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from common.runtime.environment import processor
from common.runtime.randomness import numpy_generator
from utils.benchmarks.measuring import measure_in_turns
from wav2vec2.audio.decode import read_utterance
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import UserError, run_command
from wav2vec2.cli.flags import ArgumentParser, parse_dataclasses, require_at_least
from wav2vec2.config import PRESETS, Architecture, Regularisation
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.files.filelists import read_labels, read_manifest
from wav2vec2.files.output import prepare_folder, write_lines
from wav2vec2.files.torch_file import save_checkpoint
from wav2vec2.inference.device import InferencePrecision
from wav2vec2.interop import native
from wav2vec2.text.vocabulary import Vocabulary

INFERENCE = Path(__file__).parents[2] / "inference.py"
UNITS = [*"|ABCDEFGHIJKLMNOPQRSTUVWXYZ'"]
"""LibriSpeech's units; with the special symbols 32."""

START_SECONDS = 3.0
"""Length of the recording of --start."""


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
    start: bool = False
    """Measure the time to the first word of 3 s, in place of --minutes."""
    files: int = 0
    """Measure the speed on so many files of 1 to 20 s, in place of --minutes."""
    precision: InferencePrecision = "fp32"
    """Precision of --start and --files."""
    rounds: int = 3
    """Rounds of --start and --files, after one that is not counted."""

    def __post_init__(self) -> None:
        require_at_least(self, files=0, rounds=1)
        if self.start and self.files:
            raise UserError("--start, --files: give one of them")
        if (self.start or self.files) and self.subset:
            raise UserError("--subset: --start and --files transcribe noise; remove it")
        if bool(self.checkpoint) != bool(self.subset) and not (self.start or self.files):
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
    left = max(round(minutes * len(noise)), 1)
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
    return time_process([sys.executable, str(INFERENCE), *map(str, arguments)])


def time_process(command: list[str]) -> tuple[float, float, float]:
    """As `time_command`, of any command."""
    with tempfile.TemporaryFile("w+") as errors:
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        if code := os.waitstatus_to_exitcode(status):
            errors.seek(0)
            print(errors.read(), end="", file=sys.stderr)
            raise UserError(f"{' '.join(command)}: failed with exit code {code}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def forget(path: Path) -> bool:
    """Have the system drop a file from its memory, so that the next read is from disk.

    False where that cannot be asked for.
    """
    if not hasattr(os, "posix_fadvise"):
        return False
    with open(path, "rb+") as file:
        os.fsync(file.fileno())  # only what is on disk can be dropped
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def medians(
    commands: Mapping[str, Callable[[], tuple[float, float, float]]], rounds: int
) -> dict[str, tuple[float, float]]:
    """Median seconds and processor seconds of each command, all taking turns."""
    processors: dict[str, list[float]] = {name: [] for name in commands}

    def measure(name: str) -> float:
        seconds, processor_seconds, _ = commands[name]()
        processors[name].append(processor_seconds)
        return seconds

    taken = measure_in_turns({name: partial(measure, name) for name in commands}, rounds)
    return {
        name: (statistics.median(values), statistics.median(processors[name][1:]))
        for name, values in taken.items()
    }


def measure_start(folder: Path, model: Path, options: TranscriptionBenchmarkOptions) -> None:
    """Print the time of a 3 s file in a fresh process, and what it consists of."""
    write_noise(folder / "short.flac", START_SECONDS / 60)
    write_noise(folder / "empty.flac", 0)
    flags = ["transcribe", "--checkpoint", model, "--cpu", "--precision", options.precision]

    def cold() -> tuple[float, float, float]:
        forget(model)
        return time_command(*flags, folder / "short.flac")

    commands = {
        "torch": partial(time_process, [sys.executable, "-c", "import torch"]),
        "help": partial(time_command, "transcribe", "--help"),
        "empty": partial(time_command, *flags, folder / "empty.flac"),
        "warm": partial(time_command, *flags, folder / "short.flac"),
    }
    if forget(model):
        commands["cold"] = cold
    found = medians(commands, options.rounds)

    def row(name: str, whole: str, without: str | None = None) -> None:
        numbers = found[whole]
        if without:
            numbers = tuple(a - b for a, b in zip(numbers, found[without]))
        print(f"{name:34}{numbers[0]:8.2f}{numbers[1]:20.2f}")

    print(f"{'':34} seconds   processor seconds")
    row("import of torch", "torch")
    row("other imports", "help", "torch")
    row("loading the model", "empty", "help")
    row(f"computing {START_SECONDS:g} s of audio", "warm", "empty")
    row("all, checkpoint in memory", "warm")
    if "cold" in found:
        row("all, checkpoint read from disk", "cold")


def measure_files(folder: Path, model: Path, options: TranscriptionBenchmarkOptions) -> None:
    """Print the speed on files of 1 to 20 s, and on as many of equal length, without the start."""
    lengths = numpy_generator("lengths").uniform(1, 20, options.files)
    sets = {"1 to 20 s": lengths, "equal lengths": [lengths.mean()] * options.files}
    flags = ["transcribe", "--checkpoint", model, "--cpu", "--precision", options.precision]
    write_noise(folder / "empty.flac", 0)
    commands = {"start": partial(time_command, *flags, folder / "empty.flac")}
    for name, seconds in sets.items():
        recordings = prepare_folder("--output_dir", folder / name.replace(" ", "_"))
        for number, length in enumerate(seconds):
            write_noise(recordings / f"{number}.flac", length / 60)
        commands[name] = partial(time_command, *flags, recordings)
    found = medians(commands, options.rounds)
    print(f"{options.files} files        audio per second, s   per processor second, s")
    for name in sets:
        wall, used = (a - b for a, b in zip(found[name], found["start"]))
        print(f"{name:16}{lengths.sum() / wall:20.1f}{lengths.sum() / used:26.1f}")


def main() -> None:
    parser = ArgumentParser("utils.benchmarks.transcription", __doc__)
    (options,) = parse_dataclasses(parser, [TranscriptionBenchmarkOptions])
    folder = prepare_folder("--output_dir", options.output_dir)
    model = Path(options.checkpoint or folder / f"{options.model}.pt")
    if not options.checkpoint:
        write_model(model, options.model)
    if options.start or options.files:
        load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
        print(
            f"{options.checkpoint or options.model}, {options.precision}; medians of "
            f"{options.rounds}; {processor()}, {torch.get_num_threads()} threads, load {load}; "
            f"torch {torch.__version__}"
        )
        (measure_start if options.start else measure_files)(folder, model, options)
        return
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
            seconds, used, peak = time_command(command, *arguments)
            speed = 60 * minutes / seconds
            row = f"{name:10} {minutes:8g} {peak:9.0f} {speed:12.1f} {used:18.1f}"
            print(row, flush=True)


if __name__ == "__main__":
    run_command(main)
