"""Choose --lm_weight and --word_score on a subset: the model runs once, the search for each pair.

    python -m utils.checkpoints.tune_decoder --checkpoint model.pt --lm 4-gram.arpa \\
        --lexicon words.txt --dataset_dir datasets/mine --subset valid

Prints a table of error rates and speeds, then the flags that gave the lowest word error rate.
"""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import UserError, run_command
from wav2vec2.cli.flags import ArgumentParser, add_flags, from_flags, require_at_least
from wav2vec2.decoding.beam_search import DecodingOptions, build_decoder
from wav2vec2.decoding.greedy import Decoder
from wav2vec2.files.filelists import read_manifest
from wav2vec2.inference.recogniser import Recogniser, RecogniserOptions
from wav2vec2.inference.scoring import Score


@dataclass(frozen=True)
class TuneOptions:
    """Tuning"""

    dataset_dir: str = "/datasets/LibriSpeech"
    """Folder of the filelists."""
    subset: str = "dev-other"
    """Filelist to tune on, without .tsv; not the one whose error rates you report."""
    lm_weights: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
    """Values of --lm_weight to try."""
    word_scores: tuple[float, ...] = (-1.0, 0.0, 1.0)
    """Values of --word_score to try; ignored without --lexicon."""
    num_workers: int = 2
    """Data loading workers."""

    def __post_init__(self) -> None:
        for name in ("lm_weights", "word_scores"):
            if not getattr(self, name):
                raise UserError(f"--{name}: give at least one value")
        require_at_least(self, num_workers=0)


@dataclass(frozen=True)
class Utterance:
    """The model's output for an utterance, and its reference."""

    emissions: Tensor
    """Log probabilities `[frames, units]`."""
    units: list[str]
    """Reference in units."""
    words: str
    """Reference in words."""
    seconds: float
    """Duration of the audio."""


def compute_emissions(
    recogniser: Recogniser,
    options: RecogniserOptions,
    tuning: TuneOptions,
    decoding: DecodingOptions,
) -> list[Utterance]:
    """The model's output for each utterance of the subset; UserError if none has a frame."""
    manifest = read_manifest(tuning.dataset_dir, tuning.subset)
    references = recogniser.references(manifest)
    words = recogniser.word_references(manifest, decoding)
    utterances = [
        Utterance(emissions, references[key].split(), words[key], float(samples) / SAMPLE_RATE)
        for batch in recogniser.batches(manifest, options.batch_size, tuning.num_workers)
        for key, samples, emissions in zip(batch.ids, batch.lengths, recogniser.emissions(batch))
    ]
    if not any(len(utterance.emissions) for utterance in utterances):
        raise UserError(f"--subset {tuning.subset}: no utterance is as long as a frame")
    return utterances


def score_decoder(
    decoder: Decoder, utterances: Sequence[Utterance], recogniser: Recogniser
) -> tuple[Score, float]:
    """Error counts of `decoder`, and the seconds of audio that it searches per second."""
    score = Score(recogniser.vocabulary)
    took = 0.0
    for utterance in utterances:
        start = time.perf_counter()
        hypothesis = decoder(utterance.emissions)
        took += time.perf_counter() - start
        score.add(hypothesis, utterance.units, utterance.words)
    return score, sum(utterance.seconds for utterance in utterances) / took


def tune(options: RecogniserOptions, tuning: TuneOptions, decoding: DecodingOptions) -> None:
    """Search with each pair of weights; print the table and the flags of the best pair."""
    recogniser = Recogniser.load(options)
    decoder, notes = build_decoder(decoding, recogniser.vocabulary)
    for note in notes:
        print(f"note: {note}")
    utterances = compute_emissions(recogniser, options, tuning, decoding)
    units = recogniser.vocabulary.spelling.unit_rate
    print(f"lm_weight word_score   WER %   {units} %  x real time")
    tried: list[tuple[float, float, float, DecodingOptions]] = []
    weights = tuning.lm_weights if decoding.lm else (0.0,)
    bonuses = tuning.word_scores if decoding.lexicon else (0.0,)
    for weight, bonus in itertools.product(weights, bonuses):
        chosen = replace(decoding, lm_weight=weight, word_score=bonus)
        decoder.configure(chosen)
        score, speed = score_decoder(decoder, utterances, recogniser)
        wer, uer = score.words.rate, score.units.rate
        print(f"{weight:9.2f} {bonus:10.2f} {wer:7.2f} {uer:7.2f} {speed:12.1f}", flush=True)
        distance = abs(weight - DecodingOptions.lm_weight) + abs(bonus)  # from the defaults
        tried.append((wer, uer, distance, chosen))
    # Among equals the nearest to the defaults: a small subset does not tell them apart.
    best = min(tried, key=lambda entry: entry[:3])[-1]
    flags = ["decoder", "lm", "lexicon", "lm_weight", "word_score", "beam", "beam_size_token"]
    values = [(flag, getattr(best, flag)) for flag in [*flags, "beam_threshold"]]
    print("best: " + " ".join(f"--{flag} {value}" for flag, value in values if value != ""))


def main() -> None:
    parser = ArgumentParser("utils.checkpoints.tune_decoder", __doc__)
    add_flags(parser, RecogniserOptions)
    add_flags(parser, TuneOptions)
    chosen_here = ("decoder", "lm_weight", "word_score")
    add_flags(parser, DecodingOptions, without=chosen_here)
    parser.set_defaults(decoder="beam")
    namespace = parser.parse_args()
    tune(*(from_flags(cls, namespace) for cls in (RecogniserOptions, TuneOptions, DecodingOptions)))


if __name__ == "__main__":
    run_command(main)
