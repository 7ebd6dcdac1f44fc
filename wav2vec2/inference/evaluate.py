"""Subsets -> error rates, the hypothesis of each utterance, and a report.

Each process decodes its share of the batches and writes each utterance's result at once.
Process 0 then sorts the results into the order of the filelist and counts errors.  Memory holds
the filelist and its labels, not the results.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from torch import Tensor

from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.console import notice
from wav2vec2.cli.errors import UserError
from wav2vec2.cli.flags import require_at_least
from wav2vec2.cli.telemetry import Telemetry
from wav2vec2.decoding.beam_search import DecodingOptions
from wav2vec2.decoding.greedy import Decoder
from wav2vec2.files.filelists import Manifest, read_manifest
from wav2vec2.files.output import (
    atomic_path,
    prepare_folder,
    write_chunks,
    write_json,
    write_lines,
    write_npz,
)
from wav2vec2.inference.batches import AudioBatch, padding_share, sorted_batches
from wav2vec2.inference.processes import Processes
from wav2vec2.inference.recogniser import (
    Recogniser,
    RecogniserOptions,
    complete_decoding,
    prepare_decoder,
)
from wav2vec2.inference.report import Report, count_differing, examples
from wav2vec2.inference.scoring import Score, confidence
from wav2vec2.text.vocabulary import Spelling


@dataclass(frozen=True)
class EvaluateOptions:
    """Evaluation"""

    dataset_dir: str = "/datasets/LibriSpeech"
    """Folder of the filelists."""
    subset: tuple[str, ...] = ("dev-other",)
    """Filelists to evaluate, without .tsv."""
    output_dir: str = "results/inference"
    """Folder for hypotheses_<subset>.jsonl, report_<subset>.md, summary_<subset>.json, nvlog.json
    and config.json."""
    save_log_probs: bool = False
    """Also write log probabilities, to <output_dir>/log_probs/<subset>/<id>.npz."""
    compare: str = ""
    """Another evaluation (its --output_dir): print how many transcripts differ from it."""
    num_workers: int = 2
    """Data loading workers per process."""
    show: int = 5
    """Hypothesis/reference pairs to print."""

    def __post_init__(self) -> None:
        require_at_least(self, num_workers=0, show=0)
        if not self.subset:
            raise UserError("--subset: give at least one")
        if self.compare and Path(self.compare).resolve() == Path(self.output_dir).resolve():
            raise UserError("--compare: is the same folder as --output_dir; choose another one")

    def file(self, pattern: str, subset: str) -> Path:
        """`pattern` of a subset in the output folder."""
        return Path(self.output_dir) / pattern.format(subset)


HYPOTHESES = "hypotheses_{}.jsonl"
CONFIG_FILE = "config.json"
COMMAND = "evaluate"


@dataclass(frozen=True)
class TestSet:
    """A subset and its references."""

    name: str
    manifest: Manifest
    units: dict[str, str]
    """Label line of each utterance."""
    words: dict[str, str]
    """Transcript of each utterance."""


def evaluate(
    options: RecogniserOptions,
    decoding: DecodingOptions,
    evaluation: EvaluateOptions,
    processes: Processes | None = None,
) -> None:
    """Write and print the error rates of subsets.

    `processes` share the utterances; default: this process evaluates all.
    """
    processes = processes or Processes()
    prepare_folder("--output_dir", evaluation.output_dir)
    recogniser = Recogniser.load(options)
    decoding = complete_decoding(decoding, recogniser)
    decoder = prepare_decoder(decoding, recogniser.vocabulary)
    # All before the first is decoded, so that a mistake in any ends the command at once.
    sets = [
        read_test_set(recogniser, decoding, evaluation, subset, processes)
        for subset in evaluation.subset
    ]
    summaries = []
    with processes.process_group(recogniser.device):
        settings = {**asdict(options), **asdict(decoding), **asdict(evaluation)}
        log = open_log(Path(evaluation.output_dir), settings, main=processes.rank() == 0)
        with closing(log):
            for test in sets:
                summaries.append(
                    evaluate_set(
                        recogniser, decoder, test, options, decoding, evaluation, processes
                    )
                )
                log.log([], logged(summaries[-1]), quiet=True)
    if len(summaries) > 1 and processes.rank() == 0:
        print_table(summaries)


def open_log(folder: Path, settings: dict[str, Any], *, main: bool) -> Telemetry:
    """The log of an evaluation; also writes its settings, as `--config` takes them.

    Neither is written if the folder has another program's config.json, such as a training run's.
    """
    path = folder / CONFIG_FILE
    if main and path.exists() and not is_evaluation(path):
        notice(
            f"note: {folder} has another command's {CONFIG_FILE}: summary, hypotheses and report "
            f"go there, this evaluation's own {CONFIG_FILE} and nvlog.json are not written"
        )
        main = False
    settings = {"command": COMMAND, **settings}
    if main:
        write_json(path, settings, indent=2)
    log = Telemetry(folder, enabled=main, tensorboard=False)
    log.parameters(settings)
    return log


def is_evaluation(path: Path) -> bool:
    """Whether a config.json was written by an evaluation."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("command") == COMMAND


def logged(summary: dict[str, Any]) -> dict[str, Any]:
    """What the log holds of a subset's summary; nothing in other processes than the first."""
    rates = {f"eval_{name}": summary[name] for name in ("wer", "uer") if name in summary}
    kept = ("subset", "utterances", "audio_seconds", "real_time_factor")
    return rates | {name: summary[name] for name in kept if name in summary}


def read_test_set(
    recogniser: Recogniser,
    decoding: DecodingOptions,
    evaluation: EvaluateOptions,
    subset: str,
    processes: Processes,
) -> TestSet:
    """A subset's filelist and labels; UserError for what is missing, also of --compare."""
    manifest = read_manifest(evaluation.dataset_dir, subset)
    other = Path(evaluation.compare) / HYPOTHESES.format(subset)
    if evaluation.compare and not other.is_file():
        raise UserError(f"--compare: {other}: no such file; evaluate the other model first")
    units = recogniser.references(manifest)
    unknown = recogniser.vocabulary.list_unknown(units.values())
    if unknown and processes.rank() == 0:
        print(f"{subset}: symbols that the dictionary lacks count as errors: {unknown}")
    return TestSet(subset, manifest, units, recogniser.word_references(manifest, decoding))


def evaluate_set(
    recogniser: Recogniser,
    decoder: Decoder,
    test: TestSet,
    options: RecogniserOptions,
    decoding: DecodingOptions,
    evaluation: EvaluateOptions,
    processes: Processes,
) -> dict[str, Any]:
    """Write and print one subset's results; returns its summary, in process 0 alone."""
    rank, ranks = processes.rank(), processes.world_size()
    parts = [evaluation.file(f".{HYPOTHESES}.part{n}", test.name) for n in range(ranks)]
    batches = recogniser.batches(
        test.manifest, options.batch_size, evaluation.num_workers, rank, ranks
    )
    log_probs = evaluation.file("log_probs/{}", test.name) if evaluation.save_log_probs else None
    start_time = time.perf_counter()
    results = decode_utterances(recogniser, decoder, test, batches, log_probs)
    try:
        processes.run_on_all_ranks(lambda: write_part(parts[rank], results))
    except BaseException:  # of this process or another
        parts[rank].unlink(missing_ok=True)
        raise
    took = max(processes.gather(time.perf_counter() - start_time))

    def conclude() -> dict[str, Any]:
        if rank:
            return {}
        hypotheses = evaluation.file(HYPOTHESES, test.name)
        merge_parts(parts, test.manifest, hypotheses)
        report = Report.from_file(hypotheses)
        for result in examples(hypotheses, evaluation.show, report.utterances):
            print(f"{result['id']}  reference:  {result['reference']}")
            print(f"{result['id']}  hypothesis: {result['hypothesis']}")
        frames = recogniser.frames(test.manifest)
        summary: dict[str, Any] = {
            "subset": test.name,
            "checkpoint": options.checkpoint,
            "decoding": asdict(decoding),
            "processes": ranks,
            "dataset_dir": evaluation.dataset_dir,
            "unit_rate": recogniser.vocabulary.spelling.unit_rate,
            **report.summary(),
            "padding": padding_share(frames, sorted_batches(frames, options.batch_size)),
            "real_time_factor": took / report.seconds,
        }
        if evaluation.compare:
            other = Path(evaluation.compare) / hypotheses.name
            summary["differing"] = count_differing(hypotheses, other)
        write_json(evaluation.file("summary_{}.json", test.name), summary)
        title = f"{test.name}: {options.checkpoint}"
        write_lines(evaluation.file("report_{}.md", test.name), report.markdown(title))
        print(
            f"{test.name}: {rates(report, recogniser, decoding)}, {report.utterances} utterances, "
            f"{report.seconds / took:.1f} s of audio per second; hypotheses in {hypotheses}"
        )
        if evaluation.compare:
            print(
                f"{test.name}: {summary['differing']} of {report.utterances} transcripts differ "
                f"from those in {evaluation.compare}"
            )
        return summary

    return processes.run_on_all_ranks(conclude)


def decode_utterances(
    recogniser: Recogniser,
    decoder: Decoder,
    test: TestSet,
    batches: Iterator[AudioBatch],
    log_probs: Path | None,
) -> Iterator[dict[str, Any]]:
    """The hypothesis and the errors of each utterance of `batches`."""
    score = Score(recogniser.vocabulary)
    for batch in batches:
        rows = zip(batch.ids, batch.lengths.tolist(), recogniser.logits(batch))
        for key, samples, logits in rows:
            hypothesis, emissions = decoder(logits), logits.log_softmax(dim=-1)
            units, words = test.units[key].split(), test.words[key]
            word_errors, unit_errors = score.add(hypothesis, units, words)
            sure = confidence(hypothesis, emissions, recogniser.vocabulary)
            if log_probs is not None:
                save_log_probs(log_probs / f"{key}.npz", emissions, recogniser)
            yield {
                "id": key,
                "reference": words,
                "hypothesis": hypothesis.words,
                "words": len(words.split()),
                "word_errors": word_errors,
                "units": len(units),
                "unit_errors": unit_errors,
                "seconds": samples / SAMPLE_RATE,
                "confidence": None if sure is None else round(sure, 4),
            }


def save_log_probs(path: Path, emissions: Tensor, recogniser: Recogniser) -> None:
    """Write an .npz file of `log_probs` `[frames, units]`, `times` `[frames]` (seconds at which
    each frame begins) and `symbols` `[units]`, the blank first."""
    write_npz(
        path,
        log_probs=emissions.numpy(),
        times=np.arange(len(emissions)) * recogniser.frame_samples / SAMPLE_RATE,
        symbols=np.array(recogniser.vocabulary.symbols),
    )


def write_part(path: Path, results: Iterator[dict[str, Any]]) -> None:
    """Write one process' results, one JSON object per line, each at once: a long evaluation can
    be watched in the temporary file."""
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8", buffering=1) as file,
    ):
        for result in results:
            file.write(json.dumps(result, ensure_ascii=False) + "\n")


def merge_parts(parts: Sequence[Path], manifest: Manifest, target: Path) -> None:
    """Write the lines of `parts` to `target` in the order of the filelist; remove the parts."""
    places: dict[str, tuple[BinaryIO, int]] = {}  # file and offset of each utterance's line
    with ExitStack() as stack:
        for part in parts:
            file = stack.enter_context(open(part, "rb"))
            offset = 0
            for line in file:
                key = json.loads(line)["id"]
                assert key not in places, "an utterance was decoded twice"
                places[key] = file, offset
                offset += len(line)

        def ordered() -> Iterator[bytes]:
            for utterance in manifest.utterances:
                file, offset = places[utterance.id]
                file.seek(offset)
                yield file.readline()

        write_chunks(target, ordered())
    for part in parts:
        part.unlink()


def rates(report: Report, recogniser: Recogniser, decoding: DecodingOptions) -> str:
    """The error rates in words; a single one where each symbol counts as a word."""
    words, units = report.words, report.units
    if recogniser.vocabulary.spelling is Spelling.TOKENS and not decoding.lexicon:
        return (
            f"WER and UER {words.rate:.2f} % ({words.errors} errors in {words.reference} "
            f"{recogniser.labels} symbols)"
        )
    return (
        f"WER {words.rate:.2f} % ({words.errors} errors in {words.reference} words), "
        f"{recogniser.vocabulary.spelling.unit_rate} {units.rate:.2f} %"
    )


def print_table(summaries: Sequence[dict[str, Any]]) -> None:
    """Print one line per subset."""
    width = max(len("subset"), *(len(summary["subset"]) for summary in summaries))
    units = summaries[0]["unit_rate"]
    print(
        f"{'subset':{width}}  utterances    hours   WER %     sub     del     ins   {units} %  "
        "padding %  x real time"
    )
    for summary in summaries:
        print(
            f"{summary['subset']:{width}}  {summary['utterances']:10d} "
            f"{summary['audio_seconds'] / 3600:8.2f} {summary['wer']:7.2f} "
            f"{summary['substitutions']:7d} {summary['deletions']:7d} "
            f"{summary['insertions']:7d} {summary['uer']:7.2f} {100 * summary['padding']:10.1f} "
            f"{1 / summary['real_time_factor']:12.1f}"
        )
