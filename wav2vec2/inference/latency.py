"""Speed of a recogniser: latency by batch size, real-time factor, peak memory."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain, islice
from typing import Any

import numpy as np

from wav2vec2.cli.errors import UserError
from wav2vec2.cli.flags import require_at_least
from wav2vec2.cli.telemetry import Telemetry, peak_memory_mib, reset_peak_memory
from wav2vec2.decoding.beam_search import DecodingOptions
from wav2vec2.decoding.greedy import Decoder, Hypothesis
from wav2vec2.files.filelists import Manifest, read_manifest
from wav2vec2.files.output import prepare_folder, write_json, write_lines
from wav2vec2.inference.batches import AudioBatch
from wav2vec2.inference.recogniser import (
    Recogniser,
    RecogniserOptions,
    complete_decoding,
    prepare_decoder,
)
from wav2vec2.inference.scoring import Score

References = dict[str, tuple[list[str], str]]
"""Utterance id -> units of its label line, and its transcript."""

TimedBatch = tuple[AudioBatch, list[Hypothesis], float, float]
"""A batch, its hypotheses, and the seconds for its audio and from there to the hypotheses."""

PARTS = ("data", "dnn", "data+dnn")
QUANTILES = {"0_5": 50, "0_9": 90, "0_95": 95, "0_99": 99}


@dataclass(frozen=True)
class LatencyOptions:
    """Benchmark"""

    dataset_dir: str = "/datasets/LibriSpeech"
    """Folder of the filelists."""
    subset: str = "test-other"
    """Filelist to measure on, without .tsv."""
    output_dir: str = "results/inference_benchmark"
    """Folder for nvlog.json, latency_<subset>.md and latency_<subset>.json."""
    batch_sizes: tuple[int, ...] = (1, 4, 8)
    """Most utterances per batch; one measurement for each, in ascending order."""
    warmup: int = 5
    """Batches to run before each measurement.  The measurement runs all batches, these included."""
    repeats: int = 1
    """Times that the subset is measured."""
    warmup_repeats: int = 0
    """Times that the subset is run before each measurement, after the --warmup batches."""

    def __post_init__(self) -> None:
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            given = " ".join(map(str, self.batch_sizes))
            raise UserError(f"--batch_sizes {given}: give at least one, each at least 1")
        require_at_least(self, warmup=0, repeats=1, warmup_repeats=0)


def measure_latency(
    options: RecogniserOptions, decoding: DecodingOptions, benchmark: LatencyOptions
) -> None:
    """Measure each batch size on the whole subset; write and print the results."""
    output_dir = prepare_folder("--output_dir", benchmark.output_dir)
    recogniser = Recogniser.load(options)
    decoding = complete_decoding(decoding, recogniser)
    decoder = prepare_decoder(decoding, recogniser.vocabulary)
    manifest = read_manifest(benchmark.dataset_dir, benchmark.subset)
    references = read_references(recogniser, manifest, decoding)
    telemetry = Telemetry(output_dir, tensorboard=False)
    telemetry.parameters(
        {
            "checkpoint": options.checkpoint,
            "precision": options.precision,
            "device": recogniser.device.type,
            "utterances": len(manifest),
            **asdict(decoding),
            **asdict(benchmark),
        }
    )
    results = []
    # Ascending, because the peak memory of a process on a CPU never falls.
    for number, size in enumerate(sorted(benchmark.batch_sizes), start=1):
        reset_peak_memory(recogniser.device)
        warm_up = [islice(timed_batches(recogniser, decoder, manifest, size), benchmark.warmup)]
        for _ in range(benchmark.warmup_repeats):
            warm_up.append(timed_batches(recogniser, decoder, manifest, size))
        for _ in chain.from_iterable(warm_up):
            pass
        measured = (
            timed_batches(recogniser, decoder, manifest, size) for _ in range(benchmark.repeats)
        )
        results.append(measure(recogniser, chain.from_iterable(measured), references, size))
        telemetry.log([number], results[-1])
    telemetry.log([], results[-1], quiet=True)
    telemetry.close()
    table = latency_table(results)
    title = f"{benchmark.subset}, {len(manifest)} utterances, {options.precision}"
    write_lines(output_dir / f"latency_{benchmark.subset}.md", [title, "", *table])
    write_json(output_dir / f"latency_{benchmark.subset}.json", results, indent=1)
    print("\n".join(table))


def read_references(
    recogniser: Recogniser, manifest: Manifest, decoding: DecodingOptions
) -> References:
    """References for error rates; none, with a note, for a subset without labels."""
    try:
        units = recogniser.references(manifest)
        words = recogniser.word_references(manifest, decoding)
    except UserError as error:
        print(f"note: no error rates: {error}")
        return {}
    return {key: (line.split(), words[key]) for key, line in units.items()}


def timed_batches(
    recogniser: Recogniser, decoder: Decoder, manifest: Manifest, size: int
) -> Iterator[TimedBatch]:
    """Batches, longest first, and their hypotheses, with the seconds to decode the audio (in this
    process) and the seconds from there to the hypotheses (transfer, network and search)."""
    batches = recogniser.batches(manifest, size, workers=0)
    while True:
        start = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return
        loaded = time.perf_counter()
        hypotheses = [decoder(logits) for logits in recogniser.logits(batch)]
        yield batch, hypotheses, loaded - start, time.perf_counter() - loaded


def measure(
    recogniser: Recogniser, batches: Iterable[TimedBatch], references: References, size: int
) -> dict[str, Any]:
    """Latencies of `batches` of `size` in milliseconds, throughput, peak memory in MiB, and, if
    there are references, error rates in percent."""
    taken, audio, score = [], 0.0, Score(recogniser.vocabulary)
    for batch, hypotheses, data, network in batches:
        taken.append((data, network, data + network))
        audio += batch.audio_seconds
        for key, hypothesis in zip(batch.ids, hypotheses):
            if references:
                score.add(hypothesis, *references[key])
    result: dict[str, Any] = {"batch_size": size, "batches": len(taken)}
    for part, seconds in zip(PARTS, zip(*taken)):
        result[f"{part}_latency_mean"] = 1000 * float(np.mean(seconds))
        for name, percent in QUANTILES.items():
            result[f"{part}_latency_{name}"] = 1000 * float(np.percentile(seconds, percent))
    total = sum(both for *_, both in taken)
    result["audio_s/s"] = audio / total
    result["real_time_factor"] = total / audio
    result["memory"] = peak_memory_mib(recogniser.device)
    if references:
        result |= {"eval_wer": score.words.rate, "eval_uer": score.units.rate}
    return result


def latency_table(results: list[dict[str, Any]]) -> list[str]:
    """A table with a row per batch size and part; the row of both parts has the totals."""
    lines = [
        "| batch size | batches | part | mean, ms | p50 | p90 | p95 | p99 | audio, s/s "
        "| real-time factor | peak memory, MiB |",
        "|" + "---:|" * 2 + "---|" + "---:|" * 8,
    ]
    for result in results:
        for part in PARTS:
            cells = [str(result["batch_size"]), str(result["batches"]), part]
            cells += [f"{result[f'{part}_latency_{key}']:.1f}" for key in ("mean", *QUANTILES)]
            whole = part == PARTS[-1]
            cells.append(f"{result['audio_s/s']:.1f}" if whole else "")
            cells.append(f"{result['real_time_factor']:.4f}" if whole else "")
            cells.append(f"{result['memory']:.0f}" if whole else "")
            lines.append(f"| {' | '.join(cells)} |")
    return lines
