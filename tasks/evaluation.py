"""A subset -> its error rates, and what was heard in each utterance."""

import json
import time
from dataclasses import asdict, dataclass
from typing import Any

from common.audio import SAMPLE_RATE
from common.decoding import DecodingOptions
from common.errors import UserError
from common.flags import prepare_folder
from common.manifest import read_manifest, write_lines
from common.vocabulary import Spelling
from tasks.recogniser import ModelOptions, Recogniser, prepare_decoder
from tasks.recognition import Score


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


def evaluate(options: ModelOptions, decoding: DecodingOptions, evaluation: EvaluateOptions) -> None:
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
