"""What benchmarks measure with: recordings of noise or of something like speech, turns, memory; and
how they write their figures.

Torch is imported where it is needed: a process that has it hands its memory to those it starts.
"""

import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from utils.reporting.results import Measurement
from wav2vec2.audio.packed import INT16, Header, address
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.files.filelists import OWN_FOLDER, write_manifest
from wav2vec2.files.output import prepare_folder, write_chunks, write_json

if TYPE_CHECKING:
    import torch

Name = TypeVar("Name")


def measure_in_turns(
    measures: Mapping[Name, Callable[[], float]], rounds: int
) -> dict[Name, list[float]]:
    """What each measure returned in each round; a first round does not count.

    Measured in turns, so that what changes meanwhile changes all of them.
    """
    found: dict[Name, list[float]] = {name: [] for name in measures}
    for number in range(rounds + 1):
        for name, measure in measures.items():
            value = measure()
            if number:
                found[name].append(value)
    return found


def memory_mib(device: "torch.device") -> float:
    """Peak memory so far: allocated on a GPU; resident in this process on a CPU.

    Linux hands a new process its parent's peak in `ru_maxrss`; VmHWM is its own.
    """
    from wav2vec2.cli import telemetry

    if device.type == "cpu":
        with suppress(OSError):
            status = Path("/proc/self/status").read_text("utf-8")
            if found := re.search(r"^VmHWM:\s*(\d+)", status, re.M):
                return int(found[1]) / 2**10
    return telemetry.peak_memory_mib(device)


def reset_memory(device: "torch.device") -> float:
    """Make `memory_mib` count from what is in use now, on a GPU and on Linux; returns that, MiB."""
    from wav2vec2.cli import telemetry

    telemetry.reset_peak_memory(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", "utf-8")
    return memory_mib(device)


def command_line(module: str) -> str:
    """The command of this process, without a machine's own folders."""

    def relative(text: str) -> str:
        path = Path(text)
        if not path.is_absolute():
            return text
        return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else path.name

    threads = os.environ.get("OMP_NUM_THREADS")
    start = f"OMP_NUM_THREADS={threads} " if threads else ""
    return f"{start}python -m {module} {shlex.join(map(relative, sys.argv[1:]))}"


def write_figures(
    path: Path,
    table: str,
    hardware: str,
    packages: Mapping[str, str],
    rows: Mapping[str, Mapping[str, float]],
) -> None:
    """Write the rows of the benchmark `table`, of its module's name, in the form of docs/results.

    `packages`: name -> version of those that take part.  UserError if the file cannot be written.
    """
    from common.runtime.environment import commit

    content = {
        "table": table,
        "command": command_line(f"utils.benchmarks.{table}"),
        "hardware": hardware,
        "versions": {"python": sys.version.split()[0], **packages},
        "commit": commit() or "",
        "date": time.strftime("%Y-%m-%d"),
        "rows": rows,
    }
    prepare_folder("--json", path.parent)
    write_json(path, content, indent=1)
    Measurement.read(path)


def write_noise(folder: Path, subset: str, lengths: Sequence[int]) -> None:
    """A filelist `subset` in `folder` and its recordings, of so many samples each, packed.

    What they hold matters for no time and no memory of training.
    """
    generator = np.random.default_rng(0)
    shard = f"{subset}-00000.pack"
    files, first = [], 0
    for number, samples in enumerate(lengths):
        files.append((address(shard, first, samples, f"{subset}{number}.wav"), samples))
        first += samples
    noise = ((3_000 * generator.standard_normal(n, np.float32)).astype(INT16) for n in lengths)
    header = Header(INT16, first, bytes(32)).pack()
    write_chunks(folder / shard, (header, *(block.tobytes() for block in noise)))
    write_manifest(folder, subset, OWN_FOLDER, files)


def voice(samples: int, generator: np.random.Generator) -> np.ndarray:
    """Something as hard to decode as speech: syllables of harmonics of a pitch that moves, pauses,
    and noise."""
    times = np.arange(samples) / SAMPLE_RATE
    pitch = generator.uniform(90, 220) * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * times))
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    loud = np.maximum(np.sin(2 * np.pi * generator.uniform(1.5, 2.5) * times), 0)
    tones = sum(np.sin(k * phase + k) / k for k in range(1, 20))
    wave = 0.05 * loud * tones + 0.002 * generator.standard_normal(samples)
    return wave.astype(np.float32)
