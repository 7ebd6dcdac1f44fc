"""Use a fine-tuned checkpoint: `inference.py evaluate` a subset, `inference.py transcribe` files.

The checkpoint alone is enough: it carries its architecture and dictionary.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from common import distributed
from common.audio import SAMPLE_RATE, normalize, read_recording
from common.batching import GroupRequest
from common.dataset import AudioBatch, UtteranceDataset, load_batches, pad
from common.errors import ExitCode, UserError, run_command
from common.flags import ArgumentParser, add_flags, from_flags, prepare_folder
from common.manifest import Manifest, read_labels, read_manifest, write_lines
from common.vocabulary import Spelling, Vocabulary
from tasks.recognition import Score, recognise
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.interop import checkpoints, native


@dataclass(frozen=True)
class ModelOptions:
    """Model"""

    checkpoint: str
    """Fine-tuned checkpoint: ours, NVIDIA's, a Hugging Face folder, or fairseq's with its
    dict.ltr.txt beside it."""
    batch_size: int = 8
    """Utterances at a time; results do not depend on it."""
    cpu: bool = False
    """Run on the CPU even where there is a GPU."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"--batch_size {self.batch_size}: must be at least 1")


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


@dataclass
class Recogniser:
    """A model ready for use, with what its checkpoint says about it."""

    model: Wav2Vec2ForCTC
    vocabulary: Vocabulary
    normalize_input: bool
    labels: str
    device: torch.device

    @classmethod
    def load(cls, options: ModelOptions) -> "Recogniser":
        device = distributed.pick_device(options.cpu or not torch.cuda.is_available())
        content = checkpoints.read(options.checkpoint)
        model, vocabulary = native.load_ctc(content, options.checkpoint)
        return cls(
            model=model.to(device),
            vocabulary=vocabulary,
            normalize_input=native.architecture_of(content, options.checkpoint).normalize_input,
            labels=content["labels"],
            device=device,
        )

    def transcripts(self, batch: AudioBatch) -> list[list[str]]:
        """The symbols heard in each row."""
        return recognise(self.model, self.vocabulary, batch.to(self.device))[0]

    def references(self, manifest: Manifest) -> dict[str, str]:
        """Label line of each utterance.  A sentencepiece model cuts them from the words: the
        checkpoint's own, whatever model the labels beside the filelist are of."""
        subwords = self.vocabulary.subwords
        if subwords is None:
            return read_labels(manifest, self.labels)
        return {key: subwords.cut(words) for key, words in read_labels(manifest, "wrd").items()}


def evaluate(options: ModelOptions, evaluation: EvaluateOptions) -> None:
    """Word and unit error rate of a subset; hypotheses saved with their ids."""
    output_dir = prepare_folder("--output_dir", evaluation.output_dir)
    recogniser = Recogniser.load(options)
    manifest = read_manifest(evaluation.dataset_dir, evaluation.subset)
    references = recogniser.references(manifest)
    words = recogniser.vocabulary.words
    dataset = UtteranceDataset(
        manifest.utterances, seed=0, crop=False, normalize_input=recogniser.normalize_input
    )
    # Neighbours in length share a batch, so that little of it is padding.
    order = sorted(range(len(manifest)), key=lambda n: -manifest.utterances[n].samples)
    size = options.batch_size
    requests = [
        GroupRequest(0, start, (tuple(order[start : start + size]),))
        for start in range(0, len(order), size)
    ]
    score = Score(recogniser.vocabulary)
    results: dict[str, dict[str, Any]] = {}
    seconds = 0.0
    start_time = time.perf_counter()
    batches = load_batches(dataset, requests, workers=evaluation.num_workers)
    for batch in tqdm(batches, total=len(requests), desc=evaluation.subset, disable=None):
        for row, symbols in enumerate(recogniser.transcripts(batch)):
            key = batch.ids[row]
            reference = references[key].split()
            word_errors, unit_errors = score.add(symbols, reference)
            results[key] = {
                "id": key,
                "reference": words(reference),
                "hypothesis": words(symbols),
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
    print(
        f"{evaluation.subset}: {rates(score, recogniser.labels)}, {len(in_order)} utterances, "
        f"{seconds / took:.1f} s of audio a second; hypotheses in {hypotheses}"
    )


def rates(score: Score, labels: str) -> str:
    """The error rates in words; where each symbol counts as a word they are one."""
    errors, count = score.words.errors, score.words.reference
    if score.vocabulary.spelling is Spelling.TOKENS:
        return f"WER and UER {score.words.rate:.2f} % ({errors} errors in {count} {labels} symbols)"
    return (
        f"WER {score.words.rate:.2f} % ({errors} errors in {count} words), "
        f"UER {score.units.rate:.2f} %"
    )


def transcribe(options: ModelOptions, files: Sequence[str]) -> ExitCode:
    """Print `file<TAB>transcript` for each file; those that cannot be read are listed at the end.

    Any format, sample rate and channel count (see common/audio.py).
    """
    recogniser = Recogniser.load(options)
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
            waveforms.append(normalize(waveform) if recogniser.normalize_input else waveform)
        if names:
            lengths = torch.tensor([len(waveform) for waveform in waveforms])
            batch = AudioBatch(ids=names, waveforms=pad(waveforms), lengths=lengths, key=())
            for name, symbols in zip(names, recogniser.transcripts(batch)):
                print(f"{name}\t{recogniser.vocabulary.words(symbols)}", flush=True)
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return ExitCode.SOME_FAILED if failures else ExitCode.DONE


def main() -> ExitCode | None:
    parser = ArgumentParser(prog="inference.py", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="evaluate|transcribe")
    evaluate_parser = commands.add_parser("evaluate", help="word error rate of a subset")
    transcribe_parser = commands.add_parser("transcribe", help="text of recordings")
    for subparser in (evaluate_parser, transcribe_parser):
        add_flags(subparser, ModelOptions)
        subparser.set_defaults(subparser=subparser)
    add_flags(evaluate_parser, EvaluateOptions)
    transcribe_parser.add_argument("files", nargs="+", metavar="FILE", help="recordings")
    namespace = parser.parse_args()
    options = from_flags(ModelOptions, namespace)
    if namespace.command == "evaluate":
        evaluate(options, from_flags(EvaluateOptions, namespace))
        return None
    return transcribe(options, namespace.files)


if __name__ == "__main__":
    run_command(main)
