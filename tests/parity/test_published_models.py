"""The models that people have, as random weights in their published configurations.

transformers makes each, cut to few layers and where said narrower, and saves it.  Read here, its
logits agree within 1e-4, and its transcripts are equal.
"""

import json

import pytest
import torch
from safetensors.torch import save_file

from tests.parity.conftest import shake
from wav2vec2.cli.errors import UserError
from wav2vec2.decoding.greedy import GreedyDecoder
from wav2vec2.interop import checkpoints, huggingface, native

transformers = pytest.importorskip("transformers")

LARGE = {
    "conv_bias": True,
    "do_stable_layer_norm": True,
    "feat_extract_norm": "layer",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "codevector_dim": 768,
    "proj_codevector_dim": 768,
}
XLSR_1B = {**LARGE, "hidden_size": 1280, "intermediate_size": 5120}
XLSR_2B = {**LARGE, "hidden_size": 1920, "intermediate_size": 7680}
WIDE = {"codevector_dim": 1024, "proj_codevector_dim": 1024}
HUBERT = {key: value for key, value in LARGE.items() if "code" not in key}
PUBLISHED = {
    "facebook/wav2vec2-large-lv60, -xlsr-53, wav2vec2-xls-r-300m, mms-300m": ("Wav2Vec2", LARGE),
    "facebook/wav2vec2-xls-r-1b, mms-1b": ("Wav2Vec2", XLSR_1B | WIDE),
    "facebook/wav2vec2-xls-r-2b": ("Wav2Vec2", XLSR_2B | WIDE),
    "facebook/hubert-base-ls960": ("Hubert", {}),
    "facebook/hubert-large-ll60k": ("Hubert", HUBERT),
    "facebook/hubert-xlarge-ll60k": (
        "Hubert",
        {**HUBERT, "hidden_size": 1280, "intermediate_size": 5120},
    ),
}
LAYERS = {"num_hidden_layers": 1}
NO_DROPOUT = {
    **dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout"), 0.0),
    **dict.fromkeys(("feat_proj_dropout", "final_dropout", "layerdrop"), 0.0),
}
TOKENS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAOIN"]
IDS = {token: row for row, token in enumerate(TOKENS)}


def save(model, folder, vocabulary) -> None:
    """The folder of a model with its processor's files."""
    model.save_pretrained(folder)
    files = {
        "preprocessor_config.json": {
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "do_normalize": True,
            "return_attention_mask": True,
        },
        "tokenizer_config.json": {"tokenizer_class": "Wav2Vec2CTCTokenizer"},
        "vocab.json": vocabulary,
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))


def make(kind: str, head: str, **config):
    """A model of transformers with random weights, that never writes a special token."""
    torch.manual_seed(0)
    options = {**NO_DROPOUT, **LAYERS, "vocab_size": len(TOKENS), "pad_token_id": 0, **config}
    model = getattr(transformers, f"{kind}{head}")(
        getattr(transformers, f"{kind}Config")(**options)
    )
    shake(model)
    if head == "ForCTC":
        model.lm_head.bias.data[1:4] = -10  # their decoder writes special tokens, ours does not
    return model.eval()


def assert_same(folder, theirs, language=None, tokens=TOKENS) -> None:
    """Compare logits and greedy transcripts of noise."""
    content = checkpoints.read_checkpoint(folder, language=language)
    ours, vocabulary = native.load_ctc(content, str(folder))
    torch.manual_seed(1)
    waveform = torch.randn(1, 8_000)
    with torch.no_grad():
        logits, expected = ours(waveform).logits[0], theirs(waveform).logits[0]
    # Our rows are blank, bos, eos and unk, then theirs in their order.
    rows = [tokens.index(name) for name in ("<pad>", "<s>", "</s>", "<unk>")]
    rows += [row for row in range(len(tokens)) if row not in rows]
    assert (logits - expected[:, rows]).abs().max() <= 1e-4
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), target_lang=language)
    words = GreedyDecoder(vocabulary)(logits).words
    assert words and words == " ".join(tokenizer.decode(expected.argmax(-1)).split())


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recogniser_of_this_shape(tmp_path, name):
    kind, config = PUBLISHED[name]
    model = make(kind, "ForCTC", **config)
    save(model, tmp_path, IDS)
    assert_same(tmp_path, model)


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_encoder_of_this_shape(tmp_path, name):
    """The pre-trained model as it is published, narrower; the start of a fine-tuning."""
    kind, config = PUBLISHED[name]
    narrow = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    head = "ForPreTraining" if kind == "Wav2Vec2" else "Model"
    model = make(kind, head, **{**config, **narrow})
    save(model, tmp_path, IDS)
    trunk, quantizer = native.load_trunk(checkpoints.read_checkpoint(tmp_path), "test")
    assert (quantizer is not None) == (kind == "Wav2Vec2")
    torch.manual_seed(1)
    waveform = torch.randn(1, 8_000)
    theirs = getattr(model, "wav2vec2", model)
    with torch.no_grad():
        found = trunk.encode(trunk.extract(waveform, None))
        assert (found - theirs(waveform).last_hidden_state).abs().max() <= 1e-4


LANGUAGES = {
    "deu": [*TOKENS, "ä", "ß"],
    "eng": TOKENS,
    "fra": ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcé"],
}


@pytest.fixture
def mms(tmp_path):
    """A recogniser in the layout of facebook/mms-1b-all, narrower: the model is English."""
    narrow = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    model = make("Wav2Vec2", "ForCTC", **{**LARGE, **narrow}, adapter_attn_dim=16)
    vocabulary = {code: {t: row for row, t in enumerate(ts)} for code, ts in LANGUAGES.items()}
    save(model, tmp_path, vocabulary)
    for code, tokens in LANGUAGES.items():
        other = make(
            *("Wav2Vec2", "ForCTC"),
            **{**LARGE, **narrow},
            adapter_attn_dim=16,
            vocab_size=len(tokens),
        )
        weights = {
            name: tensor + 0.1
            for name, tensor in other.state_dict().items()
            if ".adapter_layer." in name or name.startswith("lm_head.")
        }
        save_file(weights, tmp_path / f"adapter.{code}.safetensors", metadata={"format": "pt"})
    return tmp_path


@pytest.mark.parametrize("language", LANGUAGES)
def test_adapters_of_a_language(mms, language):
    theirs = transformers.Wav2Vec2ForCTC.from_pretrained(
        mms, target_lang=language, ignore_mismatched_sizes=True
    )
    assert_same(mms, theirs.eval(), language, LANGUAGES[language])


def test_adapters_written_again(mms, tmp_path):
    """One language as a folder of its own, which transformers reads without a choice."""
    content = checkpoints.read_checkpoint(mms, language="deu")
    huggingface.write_huggingface(content, tmp_path / "deu")
    again = checkpoints.read_checkpoint(tmp_path / "deu")
    assert all(torch.equal(again["model"][n], w) for n, w in content["model"].items())
    theirs = transformers.Wav2Vec2ForCTC.from_pretrained(tmp_path / "deu").eval()
    ours, _ = native.load_ctc(content, "test")
    waveform = torch.randn(1, 8_000)
    with torch.no_grad():
        assert (ours(waveform).logits - theirs(waveform).logits).abs().max() <= 1e-4


def refused(folder, language, *parts):
    with pytest.raises(UserError) as caught:
        checkpoints.read_checkpoint(folder, language=language)
    text = str(caught.value)
    assert "\n" not in text and all(part in text for part in parts), text


def test_languages_that_cannot_be_chosen(mms):
    refused(mms, None, "3 languages", "--language (ADAPTER_LANGUAGE): deu eng fra")
    refused(mms, "dee", "--language dee", "codes such as deu")
    refused(mms, "../deu", "no adapter for it")
    (mms / "adapter.fra.safetensors").unlink()
    refused(mms, "fra", "has no adapter.fra.safetensors")
    save_file({"wav2vec2.masked_spec_embed": torch.zeros(64)}, mms / "adapter.eng.safetensors")
    refused(mms, "eng", "no weight of an adapter")
    (mms / "vocab.json").write_text(json.dumps(IDS))
    refused(mms, "deu", "--language deu", "remove the flag")


def test_models_whose_weights_do_not_map(tmp_path):
    """Refused by name, with what to use instead."""
    narrow = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    for kind, changed, parts in [
        ("Data2VecAudio", {}, ("model_type is 'data2vec-audio'", "use facebook/wav2vec2-base")),
        ("Hubert", {"conv_pos_batch_norm": True}, ("conv_pos_batch_norm is True",)),
        ("Hubert", {"feat_proj_layer_norm": False}, ("feat_proj_layer_norm is False",)),
        ("Wav2Vec2", {"add_adapter": True}, ("add_adapter", "use one without")),
        ("Wav2Vec2", {"adapter_attn_dim": 16}, ("adapter_attn_dim is 16", "pre-LN")),
    ]:
        folder = tmp_path / f"{kind}{len(list(tmp_path.iterdir()))}"
        config = getattr(transformers, f"{kind}Config")(**narrow, **LAYERS, **changed)
        folder.mkdir()
        (folder / "config.json").write_text(config.to_json_string(use_diff=False))
        refused(folder, None, str(folder / "config.json"), *parts)
