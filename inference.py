"""Use a fine-tuned checkpoint: `evaluate` a subset, `transcribe` files, `align` transcripts.

The checkpoint alone is enough: it carries its architecture and dictionary.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.audio import SAMPLE_RATE, read_recording
from common.beam_search import build_decoder
from common.decoding import Decoder, DecodingOptions
from common.errors import ExitCode, UserError, run_command
from common.flags import ArgumentParser, add_flags, from_flags, prepare_folder
from common.manifest import read_manifest, write_lines
from common.vocabulary import Spelling, Vocabulary
from tasks.alignment import align_transcript
from tasks.recogniser import ModelOptions, Recogniser
from tasks.recognition import Score


@dataclass(frozen=True)
class AlignOptions:
    """Alignment"""

    dataset_dir: str = "/datasets/LibriSpeech"
    """Folder of the filelists."""
    subset: str = ""
    """Filelist to align with its labels, without .tsv."""
    text: str = ""
    """What FILE says."""
    output_dir: str = "results/alignment"
    """Folder for <id>.json and <id>.TextGrid."""
    num_workers: int = 2
    """Processes that decode audio."""

    def __post_init__(self) -> None:
        if self.num_workers < 0:
            raise UserError(f"--num_workers {self.num_workers}: must not be negative")


@dataclass(frozen=True)
class EvaluateOptions:
    """Evaluation"""

    dataset_dir: str = "/datasets/LibriSpeech"
    """Folder of the filelists."""
    subset: str = "dev-other"
    """Filelist to evaluate, without .tsv."""
    output_dir: str = "results/inference"
    """Folder for hypotheses_<subset>.jsonl and summary_<subset>.json."""
    num_workers: int = 2
    """Processes that decode audio."""
    show: int = 5
    """Hypothesis/reference pairs to print."""

    def __post_init__(self) -> None:
        for name in ("num_workers", "show"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name} {getattr(self, name)}: must not be negative")


def prepare_decoder(options: DecodingOptions, vocabulary: Vocabulary) -> Decoder:
    """The search that the flags ask for; what is left out of lexicon or model is said."""
    decoder, notes = build_decoder(options, vocabulary)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return decoder


def evaluate(options: ModelOptions, evaluation: EvaluateOptions, decoding: DecodingOptions) -> None:
    """Word and unit error rate of a subset; hypotheses saved with their ids."""
    output_dir = prepare_folder("--output_dir", evaluation.output_dir)
    recogniser = Recogniser.load(options)
    decoder = prepare_decoder(decoding, recogniser.vocabulary)
    manifest = read_manifest(evaluation.dataset_dir, evaluation.subset)
    references = recogniser.references(manifest)
    word_references = recogniser.word_references(manifest, decoding)
    score = Score(recogniser.vocabulary)
    results: dict[str, dict[str, Any]] = {}
    seconds = 0.0
    start_time = time.perf_counter()
    for batch in recogniser.batches(manifest, options.batch_size, evaluation.num_workers):
        for row, hypothesis in enumerate(recogniser.transcripts(batch, decoder)):
            key = batch.ids[row]
            words = word_references[key]
            word_errors, unit_errors = score.add(hypothesis, references[key].split(), words)
            results[key] = {
                "id": key,
                "reference": words,
                "hypothesis": hypothesis.words,
                "word_errors": word_errors,
                "unit_errors": unit_errors,
                "seconds": float(batch.lengths[row]) / SAMPLE_RATE,
            }
        seconds += batch.audio_seconds
    took = time.perf_counter() - start_time

    in_order = [results[utterance.id] for utterance in manifest.utterances]
    step = max(len(in_order) // max(evaluation.show, 1), 1)
    for result in in_order[::step][: evaluation.show]:
        print(f"{result['id']}  reference:  {result['reference']}")
        print(f"{result['id']}  hypothesis: {result['hypothesis']}")
    hypotheses = output_dir / f"hypotheses_{evaluation.subset}.jsonl"
    summary = {
        "subset": evaluation.subset,
        "checkpoint": options.checkpoint,
        "decoding": asdict(decoding),
        "wer": score.words.rate,
        "uer": score.units.rate,
        "utterances": len(in_order),
        "words": score.words.reference,
        "audio_seconds": seconds,
        "real_time_factor": took / seconds,
    }
    write_lines(hypotheses, (json.dumps(r, ensure_ascii=False) for r in in_order))
    write_lines(
        output_dir / f"summary_{evaluation.subset}.json", json.dumps(summary, indent=2).splitlines()
    )
    unknown = recogniser.vocabulary.count_unknown(references.values())
    if unknown:
        print(f"{evaluation.subset}: symbols that the dictionary lacks count as errors: {unknown}")
    in_words = rates(score, recogniser.labels, decoding)
    print(
        f"{evaluation.subset}: {in_words}, {len(in_order)} utterances, "
        f"{seconds / took:.1f} s of audio a second; hypotheses in {hypotheses}"
    )


def rates(score: Score, labels: str, decoding: DecodingOptions) -> str:
    """The error rates in words; where each symbol counts as a word they are one."""
    errors, count = score.words.errors, score.words.reference
    if score.vocabulary.spelling is Spelling.TOKENS and not decoding.lexicon:
        return f"WER and UER {score.words.rate:.2f} % ({errors} errors in {count} {labels} symbols)"
    return (
        f"WER {score.words.rate:.2f} % ({errors} errors in {count} words), "
        f"UER {score.units.rate:.2f} %"
    )


def transcribe(options: ModelOptions, files: Sequence[str], decoding: DecodingOptions) -> ExitCode:
    """Print `file<TAB>transcript` for each file; those that cannot be read are listed at the end.

    Any format, sample rate and channel count (see common/audio.py).
    """
    recogniser = Recogniser.load(options)
    decoder = prepare_decoder(decoding, recogniser.vocabulary)
    failures: list[str] = []
    size = options.batch_size
    for start in range(0, len(files), size):
        names, waveforms = [], []
        for file in files[start : start + size]:
            try:
                waveform = read_recording(file)
            except UserError as error:
                failures.append(str(error))
                continue
            names.append(file)
            waveforms.append(waveform)
        if names:
            batch = recogniser.hear(names, waveforms)
            for name, hypothesis in zip(names, recogniser.transcripts(batch, decoder)):
                print(f"{name}\t{hypothesis.words}", flush=True)
    return list_failures(failures)


def list_failures(failures: Sequence[str]) -> ExitCode:
    """Print what failed, a line each; the exit code that says so."""
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return ExitCode.SOME_FAILED if failures else ExitCode.DONE


def align(options: ModelOptions, alignment: AlignOptions, file: str | None) -> ExitCode:
    """Write when each word and unit was said: of one file and its text, or of a subset."""
    if (file is None) == (not alignment.subset) or (file is None) != (not alignment.text):
        raise UserError(
            "inference.py align: give either FILE and --text 'WHAT IS SAID', or --dataset_dir "
            "and --subset"
        )
    output_dir = prepare_folder("--output_dir", alignment.output_dir)
    recogniser = Recogniser.load(options)
    if file is not None:
        return align_file(recogniser, alignment, file, output_dir)
    return align_subset(recogniser, options, alignment, output_dir)


def align_file(
    recogniser: Recogniser, alignment: AlignOptions, file: str, output_dir: Path
) -> ExitCode:
    """Align one recording with `--text` and print its words."""
    waveform = read_recording(file)
    labels = recogniser.vocabulary.spell(alignment.text)
    (emissions,) = recogniser.emissions(recogniser.hear([file], [waveform]))
    found = align_transcript(
        file, len(waveform), emissions, labels, recogniser.vocabulary, recogniser.frame_samples
    )
    found.write(output_dir, Path(file).stem)
    for word in found.words:
        start, end = found.seconds(word.start), found.seconds(word.end)
        print(f"{start:.2f}\t{end:.2f}\t{word.score:.3f}\t{word.text}")
    return ExitCode.DONE


def align_subset(
    recogniser: Recogniser, options: ModelOptions, alignment: AlignOptions, output_dir: Path
) -> ExitCode:
    """Align each utterance of a subset with its labels; those that cannot be are listed."""
    manifest = read_manifest(alignment.dataset_dir, alignment.subset)
    references = recogniser.references(manifest)
    path_of = {utterance.id: utterance.path for utterance in manifest.utterances}
    failures: list[str] = []
    for batch in recogniser.batches(manifest, options.batch_size, alignment.num_workers):
        rows = zip(batch.ids, batch.lengths.tolist(), recogniser.emissions(batch))
        for key, samples, emissions in rows:
            try:
                found = align_transcript(
                    path_of[key],
                    samples,
                    emissions,
                    references[key],
                    recogniser.vocabulary,
                    recogniser.frame_samples,
                )
            except UserError as error:
                failures.append(str(error))
                continue
            found.write(output_dir, key)
    done = len(manifest) - len(failures)
    print(f"{alignment.subset}: {done} of {len(manifest)} utterances aligned in {output_dir}")
    return list_failures(failures)


def main() -> ExitCode | None:
    parser = ArgumentParser(prog="inference.py", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="evaluate|transcribe|align"
    )
    evaluate_parser = commands.add_parser("evaluate", help="word error rate of a subset")
    transcribe_parser = commands.add_parser("transcribe", help="text of recordings")
    align_parser = commands.add_parser("align", help="when each word and character was said")
    for subparser in (evaluate_parser, transcribe_parser, align_parser):
        add_flags(subparser, ModelOptions)
        subparser.set_defaults(subparser=subparser)
    for subparser in (evaluate_parser, transcribe_parser):
        add_flags(subparser, DecodingOptions)
    add_flags(evaluate_parser, EvaluateOptions)
    transcribe_parser.add_argument("files", nargs="+", metavar="FILE", help="recordings")
    add_flags(align_parser, AlignOptions)
    align_parser.add_argument("file", nargs="?", metavar="FILE", help="a recording, with --text")
    namespace = parser.parse_args()
    options = from_flags(ModelOptions, namespace)
    if namespace.command == "align":
        return align(options, from_flags(AlignOptions, namespace), namespace.file)
    decoding = from_flags(DecodingOptions, namespace)
    if namespace.command == "evaluate":
        evaluate(options, from_flags(EvaluateOptions, namespace), decoding)
        return None
    return transcribe(options, namespace.files, decoding)


if __name__ == "__main__":
    run_command(main)
