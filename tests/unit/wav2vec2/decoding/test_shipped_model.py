"""The language model in a Hugging Face folder."""

import json
import math

import numpy as np
import pytest
import soundfile

import inference
from tests.integration.conftest import command  # noqa: F401 - a fixture
from tests.unit.wav2vec2.decoding.arpa import bigrams, write_arpa
from tests.unit.wav2vec2.interop.test_huggingface import ctc_content
from wav2vec2.cli.errors import UserError
from wav2vec2.decoding.beam_search import DecodingOptions
from wav2vec2.decoding.shipped_model import with_shipped_model
from wav2vec2.interop import huggingface

BEAM = DecodingOptions(decoder="beam")


@pytest.fixture
def folder(tmp_path):
    """A recogniser with a model of words, as ProcessorWithLM saves it."""
    huggingface.write_huggingface(ctc_content(), tmp_path / "m")
    model = tmp_path / "m" / "language_model"
    model.mkdir()
    write_arpa(model / "2gram.arpa", bigrams(["AB", "BEE", "A"], [("AB", "BEE")]))
    (model / "unigrams.txt").write_text("AB\nBEE\nA\n")
    attributes = {"alpha": 0.7, "beta": 1.25, "unk_score_offset": -10.0, "score_boundary": True}
    (model / "attrs.json").write_text(json.dumps(attributes))
    return tmp_path / "m"


def test_beam_search_takes_it(folder):
    options, note = with_shipped_model(BEAM, str(folder))
    assert options.lm == str(folder / "language_model" / "2gram.arpa")
    assert options.lexicon == str(folder / "language_model" / "unigrams.txt")
    assert options.lm_weight == pytest.approx(0.7 * math.log(10))
    assert options.word_score == 1.25
    assert "its language model and words are used" in note


def test_greedy_search_names_the_flag(folder):
    options, note = with_shipped_model(DecodingOptions(), str(folder))
    assert options == DecodingOptions()
    assert note.endswith("which greedy search does not use; add --decoder beam")


def test_flags_that_are_given_stay(folder):
    given = DecodingOptions(decoder="beam", lm="other.arpa", lexicon="words.txt")
    assert with_shipped_model(given, str(folder)) == (given, "")
    given = DecodingOptions(decoder="beam", lm_weight=0.25, word_score=-1.0)
    options, _ = with_shipped_model(given, str(folder))
    assert (options.lm_weight, options.word_score) == (0.25, -1.0)
    (folder / "language_model" / "attrs.json").unlink()
    options, _ = with_shipped_model(BEAM, str(folder))
    assert options.word_score == 1.5  # pyctcdecode's default


@pytest.mark.parametrize("path", ["m.pt", "m", ""])
def test_other_checkpoints_have_none(path, tmp_path):
    assert with_shipped_model(BEAM, str(tmp_path / path)) == (BEAM, "")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("2gram.arpa", None, "should hold one KenLM file"),
        ("unigrams.txt", None, "should hold one KenLM file"),
        ("5gram.bin", "x", "should hold one KenLM file"),
        ("attrs.json", "{", "not JSON"),
        ("attrs.json", "[]", "alpha is None, not a number"),
        ("attrs.json", '{"alpha": "x"}', "alpha is 'x', not a number"),
        ("attrs.json", '{"beta": NaN}', "beta is nan, not a number"),
    ],
)
def test_a_folder_that_lacks_something(name, content, message, folder):
    path = folder / "language_model" / name
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        with_shipped_model(BEAM, str(folder))


def test_through_the_command(folder, tmp_path, command):  # noqa: F811
    reason = "pip install -r requirements-decode.txt"
    pytest.importorskip("flashlight.lib.text.decoder.kenlm", reason=reason, exc_type=ImportError)
    noise = 0.1 * np.random.default_rng(1).standard_normal(8_000)
    soundfile.write(tmp_path / "a.wav", noise, 16_000)
    arguments = ["transcribe", "--checkpoint", str(folder), "--cpu", str(tmp_path / "a.wav")]
    found = []
    for flags in (["--decoder", "beam"], []):
        code, out, err = command(inference.main, *arguments, *flags)
        assert code == 0, err
        assert str(folder / "language_model") in err
        found.append(out.strip().partition("\t")[2])
    assert set(found[0].split()) <= {"AB", "BEE", "A"} and found[0] != found[1]
