"""Speed of beam search with a large generated lexicon and language model.

    python -m utils.benchmarks.decoder --checkpoint model.pt --dataset_dir datasets/mini \\
        --subset test-mini

The words are those of the subset and random ones; the 4-gram model is made of its transcripts and
of random sentences.  Sizes are realistic, probabilities are not: error rates mean nothing.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from common.runtime.randomness import numpy_generator
from utils.checkpoints.tune_decoder import TuneOptions, compute_emissions, score_decoder
from wav2vec2.cli.errors import UserError, run_command
from wav2vec2.cli.flags import ArgumentParser, add_flags, from_flags, require_at_least
from wav2vec2.decoding.beam_search import DecodingOptions, build_decoder
from wav2vec2.files.filelists import read_labels, read_manifest
from wav2vec2.files.output import prepare_folder, write_lines
from wav2vec2.inference.recogniser import Recogniser, RecogniserOptions
from wav2vec2.text.vocabulary import SPECIALS, WORD_END, Spelling, Vocabulary

ORDER = 4
BACKOFF = -0.4
"""log10 back-off weight of every n-gram."""


@dataclass(frozen=True)
class DecoderBenchmarkOptions:
    """Benchmark"""

    output_dir: str = "results/benchmark_decoder"
    """Folder for lexicon.txt and 4gram.arpa."""
    words: int = 20_000
    """Number of words in the lexicon."""
    sentences: int = 15_000
    """Number of random eight-word sentences for the language model."""

    def __post_init__(self) -> None:
        require_at_least(self, words=1, sentences=1)


def make_words(known: Sequence[str], vocabulary: Vocabulary, count: int) -> list[str]:
    """`known` words and random ones of two to ten letters, `count` in total."""
    generator = numpy_generator("benchmark words")
    letters = [s for s in vocabulary.symbols[len(SPECIALS) :] if s != WORD_END]
    words = dict.fromkeys(known)
    while len(words) < count:
        spelt = generator.choice(letters, size=generator.integers(2, 11))
        words.setdefault("".join(spelt))
    return list(words)[:count]


def make_sentences(words: Sequence[str], count: int) -> list[list[str]]:
    """Sentences of eight words; the n-th word occurs in proportion to 1 / n."""
    generator = numpy_generator("benchmark sentences")
    shares = 1 / np.arange(1, len(words) + 1)
    drawn = generator.choice(len(words), size=(count, 8), p=shares / shares.sum())
    return [[words[index] for index in row] for row in drawn]


def arpa_lines(words: Sequence[str], sentences: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of an ARPA file with all `words` and the n-grams of `sentences`."""
    counts: list[Counter[tuple[str, ...]]] = [Counter() for _ in range(ORDER)]
    counts[0].update((word,) for word in ("<unk>", *words))
    for sentence in sentences:
        whole = ("<s>", *sentence, "</s>")
        for n, grams in enumerate(counts, start=1):
            grams.update(whole[i : i + n] for i in range(len(whole) - n + 1))
    yield "\\data\\"
    yield from (f"ngram {n}={len(grams)}" for n, grams in enumerate(counts, start=1))
    for n, grams in enumerate(counts, start=1):
        yield from ("", f"\\{n}-grams:")
        total = counts[0].total()
        for gram, count in grams.items():
            of = counts[n - 2][gram[:-1]] if n > 1 else total
            backoff = f"\t{BACKOFF}" if n < ORDER else ""
            yield f"{math.log10(0.6 * count / of):.5f}\t{' '.join(gram)}{backoff}"
    yield from ("", "\\end\\")


def benchmark_decoder(
    options: RecogniserOptions,
    tuning: TuneOptions,
    made: DecoderBenchmarkOptions,
    decoding: DecodingOptions,
) -> None:
    """Decode the subset with a made-up lexicon and language model, and print the speed."""
    recogniser = Recogniser.load(options)
    if recogniser.vocabulary.spelling is not Spelling.LETTERS:
        raise UserError(f"{options.checkpoint}: not a letter model; give one")
    folder = prepare_folder("--output_dir", made.output_dir)
    manifest = read_manifest(tuning.dataset_dir, tuning.subset)
    transcripts = [line.split() for line in read_labels(manifest, "wrd").values()]
    known = list(dict.fromkeys(word for line in transcripts for word in line))
    words = make_words(known, recogniser.vocabulary, made.words)
    sentences = [*transcripts, *make_sentences(words, made.sentences)]
    lexicon, arpa = folder / "lexicon.txt", folder / "4gram.arpa"
    write_lines(lexicon, words)
    lines = list(arpa_lines(words, sentences))
    write_lines(arpa, lines)
    grams = sum(int(line.split("=")[1]) for line in lines[1 : 1 + ORDER])
    decoding = replace(decoding, lm=str(arpa), lexicon=str(lexicon))
    decoder, _ = build_decoder(decoding, recogniser.vocabulary)
    utterances = compute_emissions(recogniser, options, tuning, decoding)
    score, speed = score_decoder(decoder, utterances, recogniser)
    seconds = sum(utterance.seconds for utterance in utterances)
    print(
        f"{len(words)} words, {grams} n-grams of order 1 to {ORDER}, beam {decoding.beam}: "
        f"{speed:.1f} x real time on one core over {seconds:.0f} s of audio "
        f"(WER {score.words.rate:.2f} %)"
    )


def main() -> None:
    parser = ArgumentParser("utils.benchmarks.decoder", __doc__)
    add_flags(parser, RecogniserOptions)
    add_flags(parser, TuneOptions, without=("lm_weights", "word_scores"))
    add_flags(parser, DecoderBenchmarkOptions)
    add_flags(parser, DecodingOptions, without=("decoder", "lm", "lexicon"))
    # The lexicon is written later; its flag must be set for --decoder beam to be valid.
    parser.set_defaults(decoder="beam", lexicon="lexicon.txt")
    namespace = parser.parse_args()
    classes = (RecogniserOptions, TuneOptions, DecoderBenchmarkOptions, DecodingOptions)
    benchmark_decoder(*(from_flags(cls, namespace) for cls in classes))


if __name__ == "__main__":
    run_command(main)
