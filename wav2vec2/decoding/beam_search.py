"""CTC beam search with an n-gram language model, by flashlight-text and the KenLM inside it.

The score of a hypothesis is the sum of three parts: the log probability of its best path,
lm_weight * log10 p(words), and word_score * number of words (Collobert et al. 2016, arXiv
1609.03193, section 2.3).  Paths of equal hypotheses are not summed.  Optional:
requirements-decode.txt.
"""

import gzip
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

from wav2vec2.cli.errors import UserError
from wav2vec2.cli.flags import require_at_least
from wav2vec2.cli.stderr import silent_stderr
from wav2vec2.ctc import BLANK
from wav2vec2.decoding.greedy import Decoder, GreedyDecoder, Hypothesis, collapse
from wav2vec2.decoding.lexicon import Lexicon, read_lexicon
from wav2vec2.text.vocabulary import SPECIALS, WORD_END, Spelling, Vocabulary

INSTALL = "pip install -r requirements-decode.txt"
NEVER = -1e9
"""Log probability of the special symbols, which no transcript has; finite, as sums must be."""
NO_WORD = "\ufdd0"
"""A word that no language model has (one of Unicode's noncharacters)."""


@dataclass(frozen=True)
class DecodingOptions:
    """Decoding"""

    decoder: Literal["greedy", "beam"] = "greedy"
    """greedy: the best unit of each frame; beam: beam search with --lm, --lexicon or both, or with
    the language model in a Hugging Face folder."""
    lm: str = ""
    """n-gram model, ARPA or KenLM's binary: of words with --lexicon, of units without."""
    lexicon: str = ""
    """Words to choose from: one word per line, or word<TAB>its units separated by spaces."""
    lm_weight: float = 2.0
    """Weight of the language model's log10 probability, added to the units' natural logarithm."""
    word_score: float = 0.0
    """Added for each word of the lexicon; below 0 favours fewer, longer words."""
    beam: int = 50
    """Hypotheses kept after each frame."""
    beam_size_token: int = 0
    """Best units tried in each frame; 0: all."""
    beam_threshold: float = 25.0
    """Drop hypotheses whose score is more than this below the best one, in nats."""

    def __post_init__(self) -> None:
        if self.decoder == "greedy":
            for flag in ("lm", "lexicon"):
                if getattr(self, flag):
                    raise UserError(f"--{flag}: greedy search does not use it; add --decoder beam")
            return
        require_at_least(self, beam=1, beam_size_token=0)
        if self.beam_threshold <= 0:
            raise UserError(f"--beam_threshold {self.beam_threshold}: must be above 0")


def build_decoder(options: DecodingOptions, vocabulary: Vocabulary) -> tuple[Decoder, list[str]]:
    """The search that the flags ask for, and notes for its user about lexicon and language model.

    UserError if a file or package is missing, does not parse, or does not fit the dictionary.
    """
    if options.decoder == "greedy":
        return GreedyDecoder(vocabulary), []
    if not options.lm and not options.lexicon:
        raise UserError(
            "--decoder beam: needs a language model or a lexicon to differ from greedy search; "
            "give --lm, --lexicon or both, or a checkpoint's folder with a language_model"
        )
    if options.word_score and not options.lexicon:
        raise UserError(f"--word_score {options.word_score}: needs a lexicon; give --lexicon")
    search = import_flashlight()
    if options.lexicon:
        lexicon = read_lexicon(options.lexicon, vocabulary)
        decoder = LexiconDecoder(search, options, vocabulary, lexicon)
        return decoder, [*lexicon.notes(), *decoder.notes]
    decoder = UnitDecoder(search, options, vocabulary)
    return decoder, decoder.notes


def import_flashlight() -> ModuleType:
    """flashlight-text's decoders; UserError if they, or KenLM inside them, are not installed."""
    try:
        import flashlight.lib.text.decoder.kenlm  # noqa: F401
        from flashlight.lib.text import decoder
    except ImportError as error:
        detail = str(error).strip().splitlines()[0]
        raise UserError(
            f"--decoder beam: flashlight-text with KenLM cannot be imported ({detail}); {INSTALL}"
        ) from None
    return decoder


class LanguageModel:
    """An n-gram model; its words are numbered by their place in `entries`."""

    def __init__(self, path: str, entries: Sequence[str]):
        """Read an ARPA file, plain or compressed by gzip, or KenLM's binary; else UserError."""
        from flashlight.lib.text.decoder.kenlm import KenLM
        from flashlight.lib.text.dictionary import Dictionary

        if Path(path).is_dir():
            raise UserError(f"--lm {path}: is a folder; name the ARPA file or KenLM's binary in it")
        if not Path(path).is_file():
            raise UserError(f"--lm {path}: no such file; give an ARPA file or KenLM's binary")
        self.path, self._entries = path, entries
        try:
            with silent_stderr():  # KenLM shows progress bars
                self.model = KenLM(path, Dictionary([*entries, NO_WORD]))
        except (RuntimeError, UnicodeDecodeError) as error:
            # The first of several lines is from KenLM's source code.
            detail = "not text" if isinstance(error, UnicodeDecodeError) else str(error)
            detail = " ".join((detail.split("\n", 1)[-1] or detail).split())
            remedy = "write the ARPA file again"
            if "at least a bigram" in detail:
                remedy = "give a model of order 2 or more"
            raise UserError(f"--lm {path}: KenLM cannot read it: {detail}; {remedy}") from None

    def scores(self) -> list[float]:
        """log10 probability of each entry after the start of a sentence."""
        start = self.model.start(False)
        return [self.model.score(start, index)[1] for index in range(len(self._entries))]

    def knows(self) -> list[bool]:
        """For each entry, whether the model has it.

        KenLM has no function for it.  An ARPA file lists its words.  In a binary, an entry counts
        as known if its probability differs from that of a word that no model has.
        """
        if listed := arpa_words(self.path):
            return [entry in listed for entry in self._entries]
        empty = self.model.start(True)
        scores = [self.model.score(empty, index)[1] for index in range(len(self._entries) + 1)]
        return [score != scores[-1] for score in scores[:-1]]  # the last one is NO_WORD's


def arpa_words(path: str) -> set[str]:
    """The words of an ARPA file, plain or compressed by gzip; none for any other file.

    UserError if they are not UTF-8.
    """
    with open(path, "rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if zipped else open(path, "rb") as file:
        if file.readline(1000).strip() != b"\\data\\":
            return set()
        lines = itertools.dropwhile(lambda line: line.strip() != b"\\1-grams:", file)
        section = itertools.takewhile(lambda line: line.strip(), itertools.islice(lines, 1, None))
        try:
            return {line.split()[1].decode() for line in section}
        except UnicodeDecodeError as error:
            raise UserError(f"--lm {path}: not UTF-8 text ({error.reason}); convert it") from None


def log_probabilities(logits: Tensor) -> Tensor:
    """Logits `[frames, units]` -> log probabilities, fp32, on the CPU, contiguous.

    The special symbols, which no transcript has, get NEVER.
    """
    values = logits.float().log_softmax(dim=-1).cpu()
    values[:, BLANK + 1 : len(SPECIALS)] = NEVER
    return values.contiguous()


def best_result(decoder: Any, logits: Tensor) -> Any:
    """The best result of a flashlight decoder for `logits` `[frames, units]`.

    Its `tokens` and `words` have an entry per frame, between one for the start and one for the end.
    """
    values = log_probabilities(logits)
    return decoder.decode(values.data_ptr(), *values.shape)[0]


def beam_settings(
    search: ModuleType, options: DecodingOptions, vocabulary: Vocabulary
) -> dict[str, Any]:
    """flashlight's settings of every beam search."""
    return {
        "beam_size": options.beam,
        "beam_size_token": options.beam_size_token or len(vocabulary),
        "beam_threshold": options.beam_threshold,
        "lm_weight": options.lm_weight,
        "sil_score": 0.0,
        "log_add": False,
        "criterion_type": search.CriterionType.CTC,
    }


class UnitDecoder:
    """Beam search over units with a language model of units, no lexicon."""

    def __init__(self, search: ModuleType, options: DecodingOptions, vocabulary: Vocabulary):
        self.vocabulary, self._search = vocabulary, search
        if vocabulary.repeats:
            raise UserError(
                f"--lm {options.lm}: two units of the checkpoint's dictionary are written alike, "
                "which a model of units cannot tell apart; give --lexicon and a model of words"
            )
        lm = LanguageModel(options.lm, vocabulary.symbols)
        self.notes: list[str] = []
        self._compare(lm)
        self._model = lm.model
        self.configure(options)

    def _compare(self, lm: LanguageModel) -> None:
        """UserError if `lm` is not a model of the dictionary's units; a note if it lacks some.

        A model of words knows some units too: A is a word, and a large model has most letters.
        But it lacks the separator of letters, and most units of other kinds.
        """
        units = self.vocabulary.symbols[len(SPECIALS) :]
        known = lm.knows()[len(SPECIALS) :]
        missing = [unit for unit, is_known in zip(units, known) if not is_known]
        if not missing:
            return
        share = f"--lm {lm.path}: knows {sum(known)} of the dictionary's {len(units)} units"
        unseparated = self.vocabulary.spelling is Spelling.LETTERS and WORD_END in missing
        if unseparated or 2 * sum(known) < len(units):
            raise UserError(
                f"{share}, not {(WORD_END if unseparated else missing[0])!r}; without --lexicon it "
                "must be a model of units, trained on label lines; for a model of words give "
                "--lexicon"
            )
        self.notes.append(f"{share}; the others, such as {missing[0]!r}, count as its <unk>")

    def configure(self, options: DecodingOptions) -> None:
        """Set beam and weights from `options`; the model does not change."""
        search = self._search
        settings = search.LexiconFreeDecoderOptions(
            **beam_settings(search, options, self.vocabulary)
        )
        # No unit is silence here: the model scores the separator like any other unit.
        self._decoder = search.LexiconFreeDecoder(settings, self._model, BLANK, BLANK, [])

    def __call__(self, logits: Tensor) -> Hypothesis:
        if not len(logits):
            return Hypothesis([], "")
        path = best_result(self._decoder, logits).tokens[1:-1]
        units = self.vocabulary.decode(collapse(torch.tensor(path)))
        return Hypothesis(units, self.vocabulary.words(units), path)


class LexiconDecoder:
    """Beam search over a lexicon's words, with a language model of words or without."""

    def __init__(
        self,
        search: ModuleType,
        options: DecodingOptions,
        vocabulary: Vocabulary,
        lexicon: Lexicon,
    ):
        self.vocabulary, self.lexicon, self._search = vocabulary, lexicon, search
        self._words = lexicon.words
        self.notes: list[str] = []
        self._model, scores = search.ZeroLM(), [0.0] * len(self._words)
        if options.lm:
            lm = LanguageModel(options.lm, self._words)
            self._compare(lm)
            self._model, scores = lm.model, lm.scores()
        # The separator may be repeated between words; without one, only blanks may.
        separated = vocabulary.spelling is Spelling.LETTERS
        self._silence = vocabulary.encode(WORD_END)[0] if separated else BLANK
        self._trie = self._build_trie(scores)
        self.configure(options)

    def configure(self, options: DecodingOptions) -> None:
        """Set beam and weights from `options`; lexicon and model do not change."""
        search = self._search
        settings = search.LexiconDecoderOptions(
            **beam_settings(search, options, self.vocabulary),
            word_score=options.word_score,
            unk_score=float("-inf"),
        )
        unknown = len(self._words)
        self._decoder = search.LexiconDecoder(
            settings, self._trie, self._model, self._silence, BLANK, unknown, [], False
        )

    def _compare(self, lm: LanguageModel) -> None:
        """UserError if lexicon and model share no word; a note if they share only some."""
        known = lm.knows()
        if not any(known):
            raise UserError(
                f"--lm {lm.path} has none of the {len(known)} words of --lexicon "
                f"{self.lexicon.path}, such as {self._words[0]!r}; write both the same way (upper "
                "or lower case?)"
            )
        if missing := known.count(False):
            example = self._words[known.index(False)]
            self.notes.append(
                f"{lm.path}: lacks {missing} of the {len(known)} words of {self.lexicon.path}, "
                f"such as {example!r}; they count as its <unk>"
            )

    def _build_trie(self, scores: Sequence[float]) -> Any:
        """The spellings as a tree; each node has the best score, as a first word, of those below.

        The search leaves a word at the first frame of its last unit; after that only silence may
        repeat.  So a last unit that is not the separator could take one frame only.  A second
        entry with that unit doubled lets it take more.  It also matches the unit spoken twice.
        """
        trie = self._search.Trie(len(self.vocabulary), self._silence)
        for label, word in enumerate(self._words):
            for ids in self.lexicon.spellings[word]:
                trie.insert(list(ids), label, scores[label])
                if ids[-1] != self._silence:
                    trie.insert([*ids, ids[-1]], label, scores[label])
        trie.smear(self._search.SmearingMode.MAX)
        return trie

    def __call__(self, logits: Tensor) -> Hypothesis:
        if not len(logits):
            return Hypothesis([], "")
        found = best_result(self._decoder, logits)
        ends, labels = [], []
        for frame, label in enumerate(found.words[1:-1]):
            if label >= 0:
                ends.append(frame)
                labels.append(label)
        words = [self._words[label] for label in labels]
        spelt = [self.lexicon.spellings[word][0] for word in words]
        units = self.vocabulary.decode(i for ids in spelt for i in ids)
        return Hypothesis(units, " ".join(words), found.tokens[1:-1], ends)
