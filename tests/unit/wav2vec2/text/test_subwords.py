import io

import pytest
import sentencepiece

from wav2vec2.cli.errors import UserError
from wav2vec2.text.subwords import SubwordModel


def learn(lines: list[str], vocab_size: int) -> SubwordModel:
    """A model of `vocab_size` pieces, with the special symbols others' models have."""
    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=content,
        vocab_size=vocab_size + 3,
        hard_vocab_limit=False,
        minloglevel=3,
    )
    return SubwordModel(content.getvalue(), "spm.model")


def test_pieces_are_without_special_symbols():
    assert set(learn(["AN BE AN", "BE"], 6).pieces) >= {"▁", "A", "N", "B", "E"}
    assert not {"<unk>", "<s>", "</s>"} & set(learn(["AN BE AN", "BE"], 6).pieces)


def test_cut_keeps_every_character():
    model = learn(["AN BE AN", "BE"], 6)
    line = model.encode(" AN  BÉ\u00a0EN ")
    assert line.startswith("▁A") and "É" in line.split()
    assert line.replace(" ", "").replace("▁", " ").strip() == "AN BÉ EN"


def test_content_is_the_model():
    model = learn(["AN BE AN", "BE"], 6)
    assert SubwordModel(model.content, "copy").pieces == model.pieces


@pytest.mark.parametrize("content", [b"", b"noise", b"\x00" * 10])
def test_not_a_model(content):
    with pytest.raises(UserError, match=r"spm\.model: not a sentencepiece model; write it with"):
        SubwordModel(content, "spm.model")
