"""How fast audio is loaded from FLAC, WAV and packed files, and how many workers that takes.

    python -m utils.benchmarks.loader --audio_seconds_per_second 5000

The same recordings in the three forms, through the datasets that pre-training uses, on one core.
Forms take turns, medians over the rounds are printed, and a first round is not counted, so that
files come from memory: what is measured is the computer, not its disks.
"""

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch

from common.data.batching import BatchPlan, Geometry
from common.data.dataset import UtteranceDataset
from common.data.packed import PackOptions, pack_filelists
from tasks.pretraining import CropOptions, DrawSubBatch
from utils.benchmarks.measuring import measure_in_turns, voice
from wav2vec2.audio.packed import read_audio
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import UserError, run_command
from wav2vec2.cli.flags import ArgumentParser, parse_dataclasses, require_at_least
from wav2vec2.config import BASE, ContrastiveObjective, Masking
from wav2vec2.files.filelists import Utterance, read_manifest, write_manifest
from wav2vec2.inference.batches import load_batches

MAX_TOKENS = 1_400_000
"""Samples of a batch: a sub-batch of the Base recipe."""


@dataclass(frozen=True)
class LoaderBenchmarkOptions:
    """Benchmark"""

    dataset_dir: str = ""
    """Folder of the filelist to take recordings from; default: generated recordings."""
    subset: str = ""
    """Filelist, without .tsv."""
    seconds: int = 3_600
    """Seconds of audio to measure with, from the start of the filelist or generated."""
    rounds: int = 5
    """Measurements of each format."""
    audio_seconds_per_second: float = 0.0
    """Audio that training consumes (audio_s/s in its log); prints how many workers that needs."""

    def __post_init__(self) -> None:
        if bool(self.dataset_dir) != bool(self.subset):
            raise UserError("give --dataset_dir and --subset, or neither of them")
        require_at_least(self, seconds=1, rounds=1)
        require_at_least(self, audio_seconds_per_second=0)


def recordings(options: LoaderBenchmarkOptions) -> Iterator[np.ndarray]:
    """Waveforms `[samples]` of `--seconds` in all, at least one."""
    left = options.seconds * SAMPLE_RATE
    if options.subset:
        for utterance in read_manifest(options.dataset_dir, options.subset).utterances:
            if left <= 0:
                return
            yield read_audio(utterance.path, utterance.samples)
            left -= utterance.samples
        return
    generator = np.random.default_rng(0)
    while left > 0:
        yield voice(int(SAMPLE_RATE * generator.uniform(10, 17)), generator)
        left -= 13 * SAMPLE_RATE


def write_forms(folder: Path, waveforms: Iterator[np.ndarray]) -> dict[str, list[Utterance]]:
    """The recordings as 16-bit FLAC, WAV and packed files: form -> its utterances."""
    files: dict[str, list[tuple[str, int]]] = {"flac": [], "wav": []}
    for number, waveform in enumerate(waveforms):
        for form, listed in files.items():
            name = f"{number}.{form}"
            soundfile.write(folder / name, waveform, SAMPLE_RATE, subtype="PCM_16")
            listed.append((name, len(waveform)))
    for form, listed in files.items():
        write_manifest(folder, form, folder, listed)
    pack_filelists(PackOptions(str(folder / "packed"), ("wav",), str(folder), num_workers=1))
    lists = {"flac": (folder, "flac"), "wav": (folder, "wav"), "packed": (folder / "packed", "wav")}
    return {form: list(read_manifest(*where).utterances) for form, where in lists.items()}


def measures(utterances: Sequence[Utterance]) -> dict[str, Callable[[], float]]:
    """What is measured, on an epoch of the Base recipe's batches, each alone -> a function that
    does it once and returns seconds of audio per second."""
    longest = CropOptions().max_sample_size
    lengths = [min(u.samples, longest) for u in utterances]
    plan = BatchPlan(lengths, max_tokens=MAX_TOKENS, seed=0, geometry=Geometry(), flags="--seconds")
    requests = list(plan.requests(0))
    draw = DrawSubBatch(BASE.conv_layers, Masking(), ContrastiveObjective().distractors, "train")

    def dataset(normalised: bool) -> UtteranceDataset:
        return UtteranceDataset(
            utterances,
            seed=0,
            crop=True,
            max_samples=longest,
            normalize_input=normalised,
            draw=draw,
        )

    def read() -> float:
        return rate(len(read_audio(u.path, u.samples)) / SAMPLE_RATE for u in utterances)

    def batches(normalised: bool) -> Callable[[], float]:
        source = dataset(normalised)
        return lambda: rate(source.load(request).audio_seconds for request in requests)

    def worker() -> float:
        first = requests[0]  # not counted: the worker starts meanwhile
        with closing(load_batches(dataset(False), [first, *requests], workers=1)) as loaded:
            next(loaded)
            return rate(batch.audio_seconds for batch in loaded)

    return {
        "read": read,
        "batch": batches(False),
        "normalised": batches(True),
        "1 worker": worker,
    }


def rate(loaded: Iterable[float]) -> float:
    """Seconds of audio per second, of an iterable that says how many it has loaded."""
    start = time.perf_counter()
    seconds = sum(loaded)
    return seconds / (time.perf_counter() - start)


def measure(
    forms: dict[str, list[Utterance]], rounds: int
) -> dict[str, dict[str, tuple[float, float]]]:
    """Measure -> form -> (median, spread) of seconds of audio per second."""
    functions = {form: measures(utterances) for form, utterances in forms.items()}
    calls = {(n, form): functions[form][n] for n in functions["flac"] for form in forms}
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for (name, form), rates in measure_in_turns(calls, rounds).items():
        found.setdefault(name, {})[form] = statistics.median(rates), spread(rates)
    return found


def spread(values: Sequence[float]) -> float:
    """Half the distance between the quartiles, in percent of the median."""
    low, middle, high = np.percentile(values, (25, 50, 75))
    return 50 * (high - low) / middle


def main() -> None:
    parser = ArgumentParser("utils.benchmarks.loader", __doc__)
    (options,) = parse_dataclasses(parser, [LoaderBenchmarkOptions])
    torch.set_num_threads(1)  # as in a loader worker
    with tempfile.TemporaryDirectory() as name:
        forms = write_forms(Path(name), recordings(options))
        results = measure(forms, options.rounds)
    seconds = sum(u.samples for u in forms["wav"]) / SAMPLE_RATE
    print(
        f"{len(forms['wav'])} recordings, {seconds:.0f} s; seconds of audio per second on one "
        f"core, medians of {options.rounds} rounds in turns"
    )
    print(f"| form | {' | '.join(results)} |")
    print("|---|" + "---|" * len(results))
    for form in forms:
        rates = (own[form] for own in results.values())
        cells = (f"{median:,.0f} ± {spread:.0f} %" for median, spread in rates)
        print(f"| {form} | {' | '.join(cells)} |")
    wanted = options.audio_seconds_per_second
    if wanted:
        for form, (rate_of_one, _) in results["1 worker"].items():
            workers = math.ceil(wanted / rate_of_one)
            print(f"{form}: {wanted:,.0f} s of audio per second take --num_workers {workers}")


if __name__ == "__main__":
    run_command(main)
