"""Speed and memory of `utils.data.import_corpus` on corpora of its own making.

    python -m utils.benchmarks.import_corpus --json docs/results/import_corpus.json

Measured with one worker, each import in a process of its own:

- start: the import of one recording of a second, mostly the loading of libraries.  The figures
  below contain it, except the speed;
- conversion: WAV files at several rates, as many hours as --hours says, and a quarter of them;
- a recording of --long_minutes, as one file;
- a table of --rows rows, and of a quarter of them, whose audio has been converted before.  What is
  left is reading, looking at each file, cleaning each transcript, splitting, and writing.

Speed is seconds of audio per second of CPU time, which other work on the machine hardly changes.
Files are in TMPDIR: 700 MB per hour of --hours and per hour of --long_minutes.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import soundfile

from common.runtime.signals import obey_signals, stopped_by_signals
from utils.benchmarks.measuring import voice, write_figures
from utils.corpora.conversion import JOURNAL, Converted, flac_path, journal_line, stamp_of
from utils.corpora.sources import Utterance
from utils.corpus_report.facts import Facts, Origin
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.audio.source import recording_key
from wav2vec2.cli.errors import UserError, run_command
from wav2vec2.cli.flags import ArgumentParser, parse_dataclasses, require_at_least
from wav2vec2.files.output import write_lines

ROOT = Path(__file__).resolve().parents[2]

FORMS = {"16 kHz mono": (16_000, 1), "44.1 kHz stereo": (44_100, 2), "48 kHz stereo": (48_000, 2)}
"""Sample rates and channels of the WAV files."""

LEAST = 0.5
"""Seconds of CPU time, apart from the start, below which no speed is given."""

LINKS = 1_000
"""Rows whose files are links to one file; file systems limit their number."""


@dataclass(frozen=True)
class ImportBenchmarkOptions:
    """Benchmark"""

    rows: int = 100_000
    """Rows of the table."""
    hours: float = 0.25
    """Audio to convert, of each form."""
    long_minutes: float = 20.0
    """Length of the long recording, 48 kHz stereo."""
    rounds: int = 1
    """Imports of each kind; medians are printed."""
    json: str = ""
    """File for the figures, in the form of docs/results; '': none."""

    def __post_init__(self) -> None:
        require_at_least(self, rounds=1, rows=4)
        if min(self.hours, self.long_minutes) <= 0:
            raise UserError("--hours, --long_minutes: must be above 0")


@dataclass(frozen=True)
class Cost:
    """What a command took."""

    seconds: float
    cpu: float
    """Seconds of user and system time, with its child processes."""
    memory: float
    """MiB, peak resident size of its largest process."""


def import_cost(*flags: object) -> Cost:
    """Run an import in its own process; UserError if it does not end with exit code 0."""
    command = [sys.executable, "-m", "utils.data.import_corpus", "--workers", "1"]
    command += map(str, flags)
    begin = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            obey_signals()
            time.sleep(0.02)
    except BaseException:
        process.terminate()
        raise
    _, status, usage = ended
    if code := os.waitstatus_to_exitcode(status):
        raise UserError(f"{' '.join(command)}: failed with exit code {code}")
    seconds = time.perf_counter() - begin
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def median_cost(costs: Sequence[Cost]) -> Cost:
    """The median of each figure."""
    values = zip(*(asdict(cost).values() for cost in costs))
    return Cost(*map(statistics.median, values))


def write_recordings(folder: Path, seconds: float, rate: int, channels: int) -> float:
    """WAV files of 4 to 16 s of something like speech, no two alike; returns their seconds."""
    import soxr

    folder.mkdir()
    generator = np.random.default_rng(0)
    voices = [voice(int(SAMPLE_RATE * n), generator) for n in generator.uniform(4, 16, 24)]
    written = number = 0
    while written < seconds * SAMPLE_RATE:
        wave = voices[number % len(voices)] * np.float32(generator.uniform(0.5, 2))
        write_wav(
            folder / f"{number}.wav", [soxr.resample(wave, SAMPLE_RATE, rate)], rate, channels
        )
        written += len(wave)
        number += 1
    return written / SAMPLE_RATE


def write_wav(path: Path, blocks: Sequence[np.ndarray], rate: int, channels: int) -> None:
    """A 16-bit WAV file of blocks `[samples]`; further channels are weaker."""
    with soundfile.SoundFile(path, "w", rate, channels, "PCM_16") as file:
        for block in blocks:
            file.write(np.stack([block / (n + 1) for n in range(channels)], axis=1))


def sentences(count: int) -> Iterator[str]:
    """Transcripts of twelve words; some have punctuation or numbers."""
    generator = np.random.default_rng(0)
    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    words = ["".join(generator.choice(letters, n)) for n in generator.integers(5, 10, 5000)]
    for number in range(count):
        text = " ".join(words[index] for index in generator.integers(len(words), size=12))
        text = text.capitalize() if number % 2 else text
        text = text.replace(" ", ", ", 1) + "." if number % 10 == 0 else text
        yield f"{text} 25 times" if number % 50 == 0 else text


def write_rows(folder: Path, rows: int) -> Path:
    """A table of so many rows, of 100 per speaker, and the files that it names: links."""
    first = Path()
    lines = ["path\ttext\tspeaker"]
    for number, text in enumerate(sentences(rows)):
        speaker = f"speaker{number // 100}"
        path = folder / speaker / f"{number:07d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number % LINKS:
            os.link(first, path)
        else:
            first = path
            soundfile.write(path, np.zeros(SAMPLE_RATE), SAMPLE_RATE)
        lines.append(f"{speaker}/{path.name}\t{text}\t{speaker}")
    write_lines(folder / "rows.tsv", lines)
    return folder / "rows.tsv"


def pretend_converted(table: Path, output_dir: Path) -> None:
    """Make an import of `table` that has not begun look as if all audio were converted."""
    audio_dir = output_dir / "audio"
    facts, origin = Facts(-20.0, -3.0, 0.2, 8000.0), Origin("WAV", "PCM_16", SAMPLE_RATE, 1)

    def lines() -> Iterator[str]:
        for path in sorted(table.parent.glob("*/*.wav")):
            key = recording_key(path, table.parent)
            Path(flac_path(audio_dir, key)).touch()
            stamp = stamp_of(Utterance(key, key, path, ""))
            found = Converted(10 * SAMPLE_RATE, {}, key[-16:], facts, origin)
            yield journal_line(key, stamp, found)

    write_lines(audio_dir / JOURNAL, lines())


def measure_table(folder: Path, rows: int, rounds: int) -> Cost:
    """Reading, checking, cleaning, splitting and listing a table of so many rows."""
    table, output_dir = write_rows(folder / f"rows{rows}", rows), folder / f"table{rows}"
    flags = ("--table", table, "--output_dir", output_dir)
    content = table.read_bytes()
    # A first import, of one row, leaves the settings of the real one.
    write_lines(table, ["path\ttext\tspeaker", "speaker0/0000000.wav\tone\tspeaker0"])
    import_cost(*flags)
    table.write_bytes(content)
    pretend_converted(table, output_dir)
    return median_cost([import_cost(*flags) for _ in range(rounds)])


def measure_conversion(folder: Path, name: str, seconds: float, rounds: int, start: Cost) -> dict:
    """Conversion of WAV files of one of FORMS."""
    source = folder / f"{name} {seconds:g}"
    seconds = write_recordings(source, seconds, *FORMS[name])
    flags = ("--audio_dir", source, "--output_dir")
    costs = [import_cost(*flags, folder / f"{source.name}.{n}") for n in range(rounds)]
    return figures(median_cost(costs), seconds, start)


def measure_long(folder: Path, minutes: float, rounds: int, start: Cost) -> dict:
    """Conversion of one long recording."""
    rate, channels = FORMS["48 kHz stereo"]
    block = np.repeat(voice(60 * SAMPLE_RATE, np.random.default_rng(0)), rate // SAMPLE_RATE)
    whole, rest = divmod(round(60 * minutes * rate), len(block))
    (folder / "long").mkdir()
    write_wav(folder / "long" / "a.wav", [block] * whole + [block[:rest]], rate, channels)
    flags = ("--audio_dir", folder / "long", "--max_seconds", 60 * minutes + 1, "--output_dir")
    costs = [import_cost(*flags, folder / f"long.{n}") for n in range(rounds)]
    return figures(median_cost(costs), 60 * minutes, start)


def figures(cost: Cost, audio: float = 0.0, start: Cost | None = None) -> dict[str, float]:
    """A row of the table; the speed of so many seconds of audio is without the start."""
    found = {"seconds": round(cost.seconds, 1), "cpu": round(cost.cpu, 1)}
    if start and cost.cpu - start.cpu >= LEAST:
        found["speed"] = round(audio / (cost.cpu - start.cpu))
    return {**found, "memory": round(cost.memory)}


def measure(options: ImportBenchmarkOptions, folder: Path) -> dict[str, dict[str, float]]:
    """Row of the table -> its figures, printed as they are found."""
    rows: dict[str, dict[str, float]] = {}

    def add(name: str, found: dict[str, float]) -> None:
        rows[name] = found
        print(
            f"{name}: " + ", ".join(f"{key} {value:g}" for key, value in found.items()), flush=True
        )

    write_recordings(folder / "one", 1, 16_000, 1)
    costs = [
        import_cost("--audio_dir", folder / "one", "--output_dir", folder / f"one.{n}")
        for n in range(options.rounds)
    ]
    start = median_cost(costs)
    add("start", figures(start))
    for name in FORMS:
        for share in (0.25, 1):
            hours = share * options.hours
            found = measure_conversion(folder, name, 3600 * hours, options.rounds, start)
            add(f"{name} WAV, {hours:g} h", found)
    found = measure_long(folder, options.long_minutes, options.rounds, start)
    add(f"one file of {options.long_minutes:g} min, 48 kHz stereo", found)
    for count in (options.rows // 4, options.rows):
        add(f"table of {count:,} rows", figures(measure_table(folder, count, options.rounds)))
    return rows


@stopped_by_signals("run it again")
def main() -> None:
    parser = ArgumentParser("utils.benchmarks.import_corpus", __doc__)
    (options,) = parse_dataclasses(parser, [ImportBenchmarkOptions])
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options, Path(folder))
    if options.json:
        from common.runtime.environment import processor  # which imports torch

        packages = {name: version(name) for name in ("torch", "numpy", "soundfile", "soxr")}
        hardware = f"{processor()}, one core"
        write_figures(Path(options.json), "import_corpus", hardware, packages, rows)


if __name__ == "__main__":
    run_command(main)
