"""Beam search with the real libraries, against every path written out."""

import gzip
import itertools
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.unit.wav2vec2.decoding.arpa import bigrams, log10_probability, write_arpa
from wav2vec2.cli.errors import UserError
from wav2vec2.ctc import BLANK
from wav2vec2.decoding import beam_search
from wav2vec2.decoding.alignment import Span, align_units, group_words, path_units, path_words
from wav2vec2.decoding.beam_search import DecodingOptions, arpa_words, build_decoder
from wav2vec2.decoding.greedy import GreedyDecoder, Hypothesis
from wav2vec2.decoding.lexicon import read_lexicon
from wav2vec2.text.vocabulary import Spelling, Vocabulary

LETTERS = Vocabulary(["|", "A", "B"])
PHONES = Vocabulary(["HH", "AY", "UW"], Spelling.TOKENS)


@pytest.fixture
def flashlight():
    reason = "pip install -r requirements-decode.txt"
    pytest.importorskip("flashlight.lib.text.decoder.kenlm", reason=reason, exc_type=ImportError)


def random_logits(seed: int, frames: int, units: int) -> torch.Tensor:
    """`[1, frames, units]`, the special symbols unlikely."""
    logits = 2.0 * torch.randn(1, frames, units, generator=torch.Generator().manual_seed(seed))
    logits[..., 1:4] = -30.0
    return logits


def paths(logits: torch.Tensor):
    """Every path over blank and units: (collapsed symbols, its log probability)."""
    values = logits[0].log_softmax(dim=-1)
    ids = [BLANK, *range(4, values.shape[-1])]
    for path in itertools.product(ids, repeat=len(values)):
        symbols = [LETTERS.symbols[i] for i, _ in itertools.groupby(path) if i != BLANK]
        yield symbols, sum(values[t, i].item() for t, i in enumerate(path))


def wide(**flags) -> DecodingOptions:
    return DecodingOptions(decoder="beam", beam=5000, beam_threshold=1000.0, **flags)


def as_letters(symbols: list[str]) -> str:
    return "".join(symbols)


@pytest.mark.parametrize("seed", range(6))
def test_lexicon_free_search_is_the_best_of_all_paths(flashlight, tmp_path, seed):
    model = bigrams(["A", "B", "|"], [("<s>", "B"), ("B", "A"), ("A", "A"), ("A", "|")])
    lm = write_arpa(tmp_path / "letters.arpa", model)
    logits = random_logits(seed, 5, len(LETTERS))
    expected = max(paths(logits), key=lambda p: p[1] + 1.7 * log10_probability(model, p[0]))[0]
    decoder, notes = build_decoder(wide(lm=str(lm), lm_weight=1.7), LETTERS)
    assert decoder(logits[0]).units == expected
    assert notes == []


SPELT = {"A|": "A", "AB|": "AB", "BA|": "BA", "BB|": "BB"}


def words_of(symbols: list[str]) -> list[str] | None:
    """The lexicon's words in a unit sequence, separators repeated at will; None if others."""
    pieces = as_letters(symbols).replace("|", "| ").split()
    words = [SPELT.get(piece) for piece in pieces if piece != "|"]
    return None if None in words else words


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("with_model", [True, False])
def test_lexicon_search_is_the_best_of_all_paths(flashlight, tmp_path, seed, with_model):
    model = bigrams(["A", "AB", "BA", "BB"], [("<s>", "BA"), ("BA", "A"), ("A", "</s>")])
    lm = write_arpa(tmp_path / "words.arpa", model) if with_model else ""
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("A\nAB\tA B |\nBA\nBB\n")
    logits = random_logits(seed, 6, len(LETTERS))
    logits[..., 4] += 2.0

    def score(words, log_probability):
        prior = 1.3 * log10_probability(model, words) if with_model else 0.0
        return log_probability + prior + 0.9 * len(words)

    candidates = ((words_of(symbols), value) for symbols, value in paths(logits))
    allowed = [(score(words, value), words) for words, value in candidates if words is not None]
    expected = max(allowed)[1]
    options = wide(lm=str(lm), lexicon=str(lexicon), lm_weight=1.3, word_score=0.9)
    decoder, _ = build_decoder(options, LETTERS)
    found = decoder(logits[0])
    assert found.words == " ".join(expected)
    assert found.units == [c for word in expected for c in (*word, "|")]


def frames(text: str, doubtful: dict[int, tuple[str, str]] | None = None) -> torch.Tensor:
    """Logits that say `text`, a frame a symbol, `_` the blank; at some frames the first symbol
    of the pair only slightly more than the second."""
    ids = {"_": BLANK, **{s: i for i, s in enumerate(LETTERS.symbols)}}
    logits = torch.full((1, len(text), len(LETTERS)), -9.0)
    for frame, symbol in enumerate(text):
        logits[0, frame, ids[symbol]] = 0.0
    for frame, (greedy, other) in (doubtful or {}).items():
        logits[0, frame, ids[greedy]], logits[0, frame, ids[other]] = 0.0, -0.5
    return logits


def test_beam_search_corrects_greedy_search(flashlight, tmp_path):
    """A language model corrects the greedy transcript BB to BA, without and with a lexicon."""
    logits = frames("BB_B_|", {3: ("B", "A")})
    assert GreedyDecoder(LETTERS)(logits[0]).words == "BB"
    units = write_arpa(
        tmp_path / "units.arpa", bigrams(["A", "B", "|"], [("<s>", "B"), ("B", "A"), ("A", "|")])
    )
    decoder, _ = build_decoder(DecodingOptions(decoder="beam", lm=str(units)), LETTERS)
    assert decoder(logits[0]) == Hypothesis(["B", "A", "|"], "BA")
    lm = write_arpa(tmp_path / "words.arpa", bigrams(["BA", "BB"], [("<s>", "BA")]))
    lexicon = tmp_path / "words.txt"
    lexicon.write_text("BA\nBB\nBU\n")
    options = DecodingOptions(decoder="beam", lm=str(lm), lexicon=str(lexicon))
    decoder, notes = build_decoder(options, LETTERS)
    assert decoder(logits[0]) == Hypothesis(["B", "A", "|"], "BA")
    assert len(notes) == 1 and "skipped 1 of its lines" in notes[0] and "'U'" in notes[0]


def test_special_symbols_are_never_in_a_transcript(flashlight, tmp_path):
    (tmp_path / "words.txt").write_text("A\nB\n")
    options = DecodingOptions(decoder="beam", lexicon=str(tmp_path / "words.txt"))
    decoder, _ = build_decoder(options, LETTERS)
    logits = frames("A|_B|")[0]
    logits[:, 2] = 5.0
    assert decoder(logits).words == "A B" and decoder(logits[:3]).words == "A"
    assert decoder(logits[:0]) == Hypothesis([], "")


def test_words_of_phonemes(flashlight, tmp_path):
    """Without a separator: words are told apart, homophones by the model, last units last."""
    (tmp_path / "words.txt").write_text("HI\tHH AY\nHIGH\tHH AY\nWHO\tHH UW\n")
    lm = write_arpa(tmp_path / "w.arpa", bigrams(["HI", "HIGH", "WHO"], [("WHO", "HIGH")]))
    options = DecodingOptions(
        decoder="beam", lm=str(lm), lexicon=str(tmp_path / "words.txt"), lm_weight=1.0
    )
    decoder, _ = build_decoder(options, PHONES)
    ids = [4, 6, 6, 6, 0, 4, 4, 5, 5, 0]
    logits = torch.nn.functional.one_hot(torch.tensor([ids]), len(PHONES)) * 9.0
    assert decoder(logits[0]) == Hypothesis(["HH", "UW", "HH", "AY"], "WHO HIGH")


def test_words_of_pieces(flashlight, tmp_path):
    pieces = Vocabulary(["▁HI", "▁YO", "U"], Spelling.PIECES)
    (tmp_path / "words.txt").write_text("HI\t▁HI\nYOU\t▁YO U\n")
    # HI twice and HI with its last unit spoken twice are equally probable: word_score decides.
    options = DecodingOptions(decoder="beam", lexicon=str(tmp_path / "words.txt"), word_score=0.1)
    decoder, _ = build_decoder(options, pieces)
    ids = [0, 4, 4, 0, 5, 6, 6, 6, 4, 4, 0, 4]
    logits = torch.nn.functional.one_hot(torch.tensor([ids]), len(pieces)) * 9.0
    expected = Hypothesis(["▁HI", "▁YO", "U", "▁HI", "▁HI"], "HI YOU HI HI")
    assert decoder(logits[0]) == expected


def test_a_bare_word_is_spelt_by_the_dictionary(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("AB\nBA\tB A |\nBA\tB A A |\nAX\nAY\n\nAB\n")
    lexicon = read_lexicon(path, LETTERS)
    assert lexicon.spellings == {"AB": [(5, 6, 4)], "BA": [(6, 5, 4), (6, 5, 5, 4)]}
    assert lexicon.notes() == [
        f"{path}: skipped 2 of its lines: units that the dictionary lacks, such as line 4, AX ('X')"
    ]
    path.write_text("".join(f"W{n}\tA B |\n" for n in range(8)))
    lexicon = read_lexicon(path, LETTERS)
    assert len(lexicon.words) == 6 and lexicon.skipped.total() == 2


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"a\nb\n", "holds no word that the checkpoint's dictionary can spell"),
        (b"A\nA B\n", "words.txt:2: expected a word"),
        (b"A\t\n", "words.txt:1: expected a word"),
        (b"", "holds no word"),
        (b"\xff\xfe", "not UTF-8"),
        (None, "cannot be read (No such file or directory)"),
    ],
)
def test_lexicons_that_do_not_work(tmp_path, content, complaint):
    path = tmp_path / "words.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_lexicon(path, LETTERS)
    assert complaint in str(error.value) and str(path) in str(error.value)


def broken(text: str) -> dict[str, bytes]:
    """Ways in which an ARPA file is none."""
    return {
        "empty": b"",
        "another kind of file": b"hello\n",
        "cut off": text[: len(text) // 2].encode(),
        "counts": text.replace("ngram 1=5", "ngram 1=9").encode(),
        "positive": text.replace("-1.0\tA", "1.0\tA").encode(),
        "not a number": text.replace("-1.0\tA", "x\tA").encode(),
        "unlisted word": text.replace("<s> B", "<s> C").encode(),
        "bytes": bytes(range(255, 0, -1)) * 8,
    }


@pytest.mark.parametrize("way", list(broken("")))
def test_language_models_that_do_not_parse(flashlight, tmp_path, way, capfd):
    """One line that names the file, and not a word of KenLM's own; the process lives."""
    lm = write_arpa(tmp_path / "lm.arpa", bigrams(["A", "B"], [("<s>", "B")]))
    lm.write_bytes(broken(lm.read_text())[way])
    with pytest.raises(UserError, match="KenLM cannot read it") as error:
        build_decoder(DecodingOptions(decoder="beam", lm=str(lm)), LETTERS)
    assert str(lm) in str(error.value) and "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_model_and_lexicon_without_a_common_word(flashlight, tmp_path):
    lm = write_arpa(tmp_path / "lower.arpa", bigrams(["a", "b"], [("a", "b")]))
    (tmp_path / "words.txt").write_text("A\nB\n")
    options = DecodingOptions(decoder="beam", lm=str(lm), lexicon=str(tmp_path / "words.txt"))
    with pytest.raises(UserError, match="lower.arpa has none of the 2 words of .*words.txt"):
        build_decoder(options, LETTERS)
    with pytest.raises(UserError, match="missing.arpa: no such file"):
        build_decoder(DecodingOptions(decoder="beam", lm="missing.arpa"), LETTERS)
    lm = write_arpa(tmp_path / "some.arpa", bigrams(["A", "C"], [("A", "C")]))
    lm = tmp_path / "some.arpa.gz"
    lm.write_bytes(gzip.compress((tmp_path / "some.arpa").read_bytes()))
    options = DecodingOptions(decoder="beam", lm=str(lm), lexicon=str(tmp_path / "words.txt"))
    assert "lacks 1 of the 2 words" in build_decoder(options, LETTERS)[1][0]


ALPHABET = Vocabulary([*"|ETAOINSHRDLU"])


@pytest.mark.parametrize(
    ("vocabulary", "known", "complaint"),
    [
        (ALPHABET, ["e", "t", "a"], "knows 0 of the dictionary's 13 units, not '[|]'"),
        (ALPHABET, ["A", "THE"], "knows 1 of the dictionary's 13 units, not '[|]'"),
        # Every letter is a word of a large model; the separator is none.
        (ALPHABET, [*"ETAOINSHRDLU", "THE"], "knows 12 of the dictionary's 13 units, not '[|]'"),
        (ALPHABET, ["|", "e", "t", "a"], "knows 1 of the dictionary's 13 units, not 'E'"),
        (PHONES, ["UW", "HI"], "knows 1 of the dictionary's 3 units, not 'HH'"),
    ],
)
def test_a_model_of_words_is_none_of_units(flashlight, tmp_path, vocabulary, known, complaint):
    lm = write_arpa(tmp_path / "lm.arpa", bigrams(known, [(known[0], known[1])]))
    with pytest.raises(UserError, match=f"lm.arpa: {complaint}; .* give --lexicon$"):
        build_decoder(DecodingOptions(decoder="beam", lm=str(lm)), vocabulary)


@pytest.mark.parametrize(
    ("vocabulary", "known", "example"),
    [(ALPHABET, [*"|ETAOIN"], "'S'"), (PHONES, ["UW", "AY"], "'HH'")],
)
def test_units_that_a_model_lacks_are_told(flashlight, tmp_path, vocabulary, known, example):
    lm = write_arpa(tmp_path / "lm.arpa", bigrams(known, [(known[0], known[1])]))
    _, notes = build_decoder(DecodingOptions(decoder="beam", lm=str(lm)), vocabulary)
    share = f"knows {len(known)} of the dictionary's {len(vocabulary) - 4} units"
    assert notes == [f"--lm {lm}: {share}; the others, such as {example}, count as its <unk>"]


def test_models_that_kenlm_does_not_take(flashlight, tmp_path):
    single = write_arpa(tmp_path / "unigrams.arpa", bigrams(["A", "B", "|"], []))
    for lm, way_out in [
        (single, "unigrams.arpa: KenLM cannot read it: .*; give a model of order 2 or more$"),
        (tmp_path, "is a folder; name the ARPA file or KenLM's binary in it$"),
    ]:
        with pytest.raises(UserError, match=way_out):
            build_decoder(DecodingOptions(decoder="beam", lm=str(lm)), LETTERS)


def test_without_the_package_the_way_out_is_named(tmp_path):
    (tmp_path / "words.txt").write_text("A\n")
    code = (
        "import sys; sys.modules['flashlight'] = None\n"
        "from wav2vec2.cli.errors import run_command\n"
        "from wav2vec2.decoding.beam_search import build_decoder, DecodingOptions, Vocabulary\n"
        "options = DecodingOptions(decoder='beam', lexicon=sys.argv[1])\n"
        "run_command(lambda: build_decoder(options, Vocabulary(['|', 'A'])) and None)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "words.txt")], capture_output=True, text=True
    )
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert beam_search.INSTALL in result.stderr


@pytest.mark.parametrize(
    "flags, complaint",
    [
        ({"lm": "x.arpa"}, "--lm: greedy search does not use it; add --decoder beam"),
        ({"decoder": "beam", "lm": "x", "beam": 0}, "--beam 0"),
        ({"decoder": "beam", "lm": "x", "beam_size_token": -1}, "--beam_size_token -1"),
        ({"decoder": "beam", "lm": "x", "beam_threshold": 0.0}, "--beam_threshold 0.0"),
    ],
)
def test_flags_that_contradict_each_other(flags, complaint):
    with pytest.raises(UserError, match=complaint):
        DecodingOptions(**flags)


@pytest.mark.parametrize(
    "flags, complaint",
    [
        ({}, "give --lm, --lexicon or both"),
        ({"lm": "x", "word_score": 1.0}, "give --lexicon"),
    ],
)
def test_what_beam_search_needs(flags, complaint):
    """Known only with the checkpoint, whose folder may bring a model."""
    with pytest.raises(UserError, match=complaint):
        build_decoder(DecodingOptions(decoder="beam", **flags), LETTERS)


def test_a_model_in_another_encoding(tmp_path):
    path = tmp_path / "latin.arpa"
    text = "\\data\\\nngram 1=1\n\n\\1-grams:\n-1.0\tCAFÉ\n\n\\end\\\n"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="latin.arpa: not UTF-8 text"):
        arpa_words(str(path))


def test_the_best_path_is_the_alignment_of_the_hypothesis(flashlight, tmp_path):
    """Times come from the search itself; exact Viterbi gives the same frames."""
    (tmp_path / "words.txt").write_text("AB\nBA\nA\n")
    lm = write_arpa(tmp_path / "letters.arpa", bigrams(["A", "B", "|"], [("A", "B")]))
    separator = LETTERS.encode("|")[0]
    for seed, flags in itertools.product(
        range(5), [{"lexicon": str(tmp_path / "words.txt")}, {"lm": str(lm), "lm_weight": 0.5}]
    ):
        logits = random_logits(seed, 12, len(LETTERS))
        if "lexicon" in flags:  # whose search may say the separator more often than the words have
            units = "_ A A B | _ B A A _ | _".replace("_", LETTERS.symbols[BLANK]).split()
            logits[0, range(12), LETTERS.encode(" ".join(units))] += 6
        values = logits[0].log_softmax(dim=-1).numpy()
        found = build_decoder(wide(**flags), LETTERS)[0](logits[0])
        expected = align_units(values, LETTERS.encode(" ".join(found.units)), found.units)
        path = np.array(found.path)
        assert len(path) == 12
        own = values[np.arange(12), path]
        if found.ends is None:
            assert list(path_units(path, own, LETTERS)) == [approximately(s) for s in expected]
        else:
            timed = path_words(path, own, found.words.split(), found.ends, [BLANK, separator])
            words = group_words(expected, Spelling.LETTERS)
            assert list(timed) == [approximately(word) for word in words]


def approximately(span: Span) -> Span:
    return replace(span, score=pytest.approx(span.score, rel=1e-5))
