"""Hugging Face folders that cannot be read, and models that cannot be written.

Those that can are compared with transformers itself in tests/parity.
"""

import json
import os
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from wav2vec2.cli.errors import UserError
from wav2vec2.config import BASE, LARGE, ContrastiveObjective, Hourglass, Regularisation
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.interop import huggingface, native
from wav2vec2.pretraining import Wav2Vec2ForPretraining
from wav2vec2.text.vocabulary import Spelling, Vocabulary

TINY = replace(
    BASE,
    conv_layers=((8, 10, 5), (8, 3, 2)),
    dim=16,
    ffn_dim=32,
    heads=2,
    layers=2,
    position_kernel=4,
    position_groups=2,
    final_dim=8,
    codebook_entries=4,
)
VOCABULARY = Vocabulary([*"|EAB"])


def pretraining_content(architecture=TINY) -> dict:
    torch.manual_seed(1)
    model = Wav2Vec2ForPretraining.from_config(
        architecture, Regularisation(), ContrastiveObjective()
    )
    return {**native.pretraining_content(architecture), "model": model.state_dict()}


def ctc_content(architecture=TINY, vocabulary=VOCABULARY) -> dict:
    torch.manual_seed(1)
    model = Wav2Vec2ForCTC.from_config(architecture, Regularisation(), len(vocabulary))
    return {**native.ctc_content(architecture, vocabulary, "ltr"), "model": model.state_dict()}


@pytest.fixture
def pretrained(tmp_path):
    """A valid folder of a pre-training model; tests damage it."""
    huggingface.write_huggingface(pretraining_content(), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def recogniser(tmp_path):
    """A valid folder of a recogniser; tests damage it."""
    huggingface.write_huggingface(ctc_content(), tmp_path / "model")
    return tmp_path / "model"


def change(path, **values) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def change_weights(folder, edit) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


def refused(folder, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        huggingface.read_huggingface(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_is_huggingface(pretrained, tmp_path):
    assert huggingface.is_huggingface(pretrained)
    assert not huggingface.is_huggingface(tmp_path)
    assert not huggingface.is_huggingface(pretrained / "model.safetensors")
    assert not huggingface.is_huggingface(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "key, value",
    [
        ("model_type", "wav2vec2-conformer"),
        ("model_type", "data2vec-audio"),
        ("hidden_act", "relu"),
        ("feat_extract_activation", "relu"),
        ("layer_norm_eps", 1e-6),
        ("add_adapter", True),
        ("adapter_attn_dim", 16),  # and post-LN layers
        ("feat_extract_norm", "batch"),
        ("conv_bias", "yes"),
        ("do_stable_layer_norm", 1),
        ("hidden_size", "16"),
        ("num_hidden_layers", 0),
        ("num_attention_heads", 2.0),
        ("conv_dim", 8),
        ("conv_kernel", [10, -3]),
        ("conv_stride", [5]),
        ("proj_codevector_dim", 16),
    ],
)
def test_config_that_cannot_be_expressed(pretrained, key, value):
    change(pretrained / "config.json", **{key: value})
    refused(pretrained, rf"config\.json: .*{key}")


def test_config_that_cannot_be_built(pretrained):
    change(pretrained / "config.json", num_attention_heads=3)
    refused(pretrained, r"config\.json: .*16 is not divisible by 3 heads")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model_type": 1,}', "[" * 100_000, b"\xff"])
def test_malformed_config(pretrained, text):
    (pretrained / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(pretrained, r"config\.json: (not (JSON|a JSON object)|cannot be read \(not UTF-8 text)")


def test_no_config_of_a_model(pretrained):
    (pretrained / "config.json").write_text("{}")
    refused(pretrained, r"config\.json: has no model_type")


@pytest.mark.parametrize(
    "key, value",
    [
        ("do_normalize", "true"),
        ("sampling_rate", 8_000),
        ("feature_size", 80),
        ("feature_extractor_type", "SeamlessM4TFeatureExtractor"),
    ],
)
def test_preprocessor_that_cannot_be_used(pretrained, key, value):
    change(pretrained / "preprocessor_config.json", **{key: value})
    refused(pretrained, rf"preprocessor_config\.json: {key}")


def test_no_preprocessor(pretrained):
    (pretrained / "preprocessor_config.json").unlink()
    refused(pretrained, r"preprocessor_config\.json: missing")


@pytest.mark.parametrize("normalize", [True, False])
def test_normalisation_is_carried(tmp_path, normalize):
    architecture = replace(TINY, normalize_input=normalize)
    huggingface.write_huggingface(pretraining_content(architecture), tmp_path / "model")
    assert (
        huggingface.read_huggingface(tmp_path / "model")["architecture"]["normalize_input"]
        == normalize
    )
    (tmp_path / "model" / "processor_config.json").write_text(
        json.dumps({"feature_extractor": {"do_normalize": not normalize}})
    )
    assert (
        huggingface.read_huggingface(tmp_path / "model")["architecture"]["normalize_input"]
        != normalize
    )


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_truncated_weights(pretrained, share):
    path = pretrained / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    refused(pretrained, r"model\.safetensors: truncated")


def test_git_lfs_pointer(pretrained):
    (pretrained / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    refused(pretrained, "git lfs pull")


def test_no_weights(pretrained):
    (pretrained / "model.safetensors").rename(pretrained / "tf_model.h5")
    refused(pretrained, "holds none of model.safetensors")


class Malicious:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_code_in_a_pickle_never_runs(pretrained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (pretrained / "model.safetensors").unlink()
    torch.save({"quantizer.codevectors": Malicious()}, pretrained / "pytorch_model.bin")
    refused(pretrained, r"pytorch_model\.bin: not a checkpoint .* asks for posix\.system")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "content, message",
    [([torch.zeros(1)], "not a table"), ({"x": 3}, "'x' is of type int")],
)
def test_pickle_of_something_else(pretrained, content, message):
    (pretrained / "model.safetensors").unlink()
    torch.save(content, pretrained / "pytorch_model.bin")
    refused(pretrained, rf"pytorch_model\.bin: {message}")


def test_quantised_weights(pretrained):
    change_weights(pretrained, lambda t: t.update({"project_q.bias": t["project_q.bias"].char()}))
    refused(pretrained, r"'project_q\.bias' is of type torch\.int8")


@pytest.mark.parametrize(
    "place",
    [
        "../secret.safetensors",
        "/etc/passwd",
        "a\\b.safetensors",
        "x.bin",
        "",
        3,
        "a/../b.safetensors",
    ],
)
def test_index_does_not_lead_out_of_the_folder(pretrained, tmp_path, place):
    weights = pretrained / "model.safetensors"
    names = list(load_file(weights))
    weights.rename(tmp_path / "secret.safetensors")
    index = {"weight_map": dict.fromkeys(names, place)}
    (pretrained / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(pretrained, r"index\.json: .* is not a \.safetensors file beside it")


@pytest.mark.parametrize("index", [{}, {"weight_map": []}])
def test_index_without_a_map(pretrained, index):
    (pretrained / "model.safetensors").unlink()
    (pretrained / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(pretrained, "has no weight_map")


def test_shard_without_its_tensor_or_missing(pretrained):
    (pretrained / "model.safetensors").rename(pretrained / "part.safetensors")
    path = pretrained / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"other": "part.safetensors"}}))
    refused(pretrained, r"part\.safetensors does not hold 'other'")
    path.write_text(json.dumps({"weight_map": {"other": "gone.safetensors"}}))
    refused(pretrained, r"gone\.safetensors: cannot be read")


def test_pickled_shards(pretrained):
    """Shards in the older format, as the larger published models have them."""
    expected = huggingface.read_huggingface(pretrained)
    tensors = list(load_file(pretrained / "model.safetensors").items())
    (pretrained / "model.safetensors").unlink()
    torch.save(dict(tensors[::2]), pretrained / "a.bin")
    torch.save(dict(tensors[1::2]), pretrained / "b.bin")
    places = {name: "ab"[i % 2] + ".bin" for i, (name, _) in enumerate(tensors)}
    index = pretrained / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    found = huggingface.read_huggingface(pretrained)
    for name, tensor in expected["model"].items():
        assert torch.equal(tensor, found["model"][name])


def test_both_spellings_of_weight_norm(pretrained):
    name = "wav2vec2.encoder.pos_conv_embed.conv."
    change_weights(
        pretrained,
        lambda t: t.update({f"{name}parametrizations.weight.original0": t[f"{name}weight_g"] + 1}),
    )
    refused(pretrained, "holds .* twice, in two spellings")


def test_every_missing_and_unexpected_tensor_is_listed(pretrained):
    def edit(tensors):
        del tensors["project_q.weight"], tensors["wav2vec2.masked_spec_embed"]
        tensors["classifier.weight"] = torch.zeros(2)

    change_weights(pretrained, edit)
    refused(
        pretrained,
        r"wav2vec2\.masked_spec_embed is missing; project_q\.weight is missing; "
        r"classifier\.weight is unknown",
    )


@pytest.mark.parametrize("key, value", [("hidden_size", 32), ("num_hidden_layers", 3)])
def test_sizes_are_verified(pretrained, key, value):
    change(pretrained / "config.json", **{key: value})
    refused(pretrained, r"\[\d+.* instead of|wav2vec2\.encoder\.layers\.2\.\S+ is missing")


def test_projection_between_equal_widths(tmp_path):
    folder = tmp_path / "model"
    huggingface.write_huggingface(pretraining_content(replace(TINY, dim=8)), folder)
    huggingface.read_huggingface(folder)
    name = "wav2vec2.feature_projection.projection.weight"
    change_weights(folder, lambda t: t.update({name: t[name] + 0.1}))
    refused(folder, "hidden_size 8 is also the last of conv_dim")


def test_recogniser_without_a_mask_vector(recogniser, capsys):
    change_weights(recogniser, lambda t: t.pop("wav2vec2.masked_spec_embed"))
    model, _ = native.load_ctc(huggingface.read_huggingface(recogniser), "test")
    assert not model.wav2vec2.mask_emb.any()
    assert "masked_spec_embed" in capsys.readouterr().err


def read_dictionary(folder) -> Vocabulary:
    return native.load_ctc(huggingface.read_huggingface(folder), "test")[1]


IDS = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "E": 5, "A": 6, "B": 7}


def rename(*pairs) -> dict:
    """IDS with some tokens renamed, or with other ids."""
    ids = dict(IDS)
    for old, new in pairs:
        if isinstance(new, str):
            ids[new] = ids.pop(old)
        else:
            ids[old] = new
    return ids


@pytest.mark.parametrize(
    "ids, options, message",
    [
        (rename(("B", 6)), {}, "'A' and 'B' have the same id 6"),
        (rename(("B", 8)), {}, "no token for 7 of the 8 rows"),
        (rename(("<pad>", 8)), {}, r"lists the blank '<pad>' as 8, but the output layer has 8"),
        ({t: i for t, i in IDS.items() if t != "B"}, {}, "no token for 7 of the 8 rows"),
        (rename(("B", -1)), {}, "'B' has the id -1"),
        (rename(("B", "C"), ("C", 7.0)), {}, r"'C' has the id 7\.0"),
        (rename(("B", "")), {}, "'' is empty or has white space"),
        (rename(("B", "\u2003x")), {}, "is empty or has white space"),
        ({"eng": IDS, "deu": IDS}, {}, r"adapters for 2 languages; choose one .*: deu eng"),
        (IDS, {"pad_token": "[PAD]"}, r"does not list the pad_token '\[PAD\]'"),
        (IDS, {"word_delimiter_token": "E"}, r"'\|' is a token but not the word_delimiter_token"),
        (IDS, {"tokenizer_class": "WhisperTokenizer"}, "tokenizer_class is 'WhisperTokenizer'"),
        (IDS, {"replace_word_delimiter_char": ""}, "replace_word_delimiter_char is ''"),
        (IDS, {"added_tokens_decoder": {"x": {"content": "Y"}}}, "added tokens"),
        (IDS, {"added_tokens_decoder": [1]}, "added tokens"),
    ],
)
def test_vocabularies_that_cannot_be_used(recogniser, ids, options, message):
    (recogniser / "vocab.json").write_text(json.dumps(ids))
    change(recogniser / "tokenizer_config.json", **options)
    refused(recogniser, message)


def test_token_listed_twice(recogniser):
    text = (recogniser / "vocab.json").read_text()
    (recogniser / "vocab.json").write_text(text.replace('"B"', '"A"'))
    refused(recogniser, r"vocab\.json: not JSON \(it lists 'A' twice\)")


def test_no_vocabulary(recogniser):
    (recogniser / "vocab.json").unlink()
    refused(recogniser, r"vocab\.json: cannot be read")


def test_another_blank_was_trained(recogniser):
    change(recogniser / "config.json", pad_token_id=5)
    refused(recogniser, r"pad_token_id is 5, but the tokenizer's pad_token '<pad>' is 0")


def test_ordinary_token_under_a_special_name(recogniser):
    """The pad token is [PAD], and <pad> an ordinary token."""
    (recogniser / "vocab.json").write_text(json.dumps(rename(("<pad>", "[PAD]"), ("B", "<pad>"))))
    change(recogniser / "tokenizer_config.json", pad_token="[PAD]")
    content = huggingface.read_huggingface(recogniser)
    assert native.vocabulary_of(content, "test").symbols[4:] == ("|", "E", "A", "<pad>")


def test_rows_follow_their_tokens(recogniser):
    """Blank last, no <s> and </s>, another delimiter: each row keeps its token."""
    before = load_file(recogniser / "model.safetensors")["lm_head.weight"]
    ids = {"a": 0, "b": 1, " ": 2, "[UNK]": 3, "c": 4, "d": 5, "e": 6, "[PAD]": 7}
    (recogniser / "vocab.json").write_text(json.dumps(ids))
    change(
        recogniser / "tokenizer_config.json",
        **{"pad_token": {"content": "[PAD]"}, "unk_token": "[UNK]", "bos_token": None},
        word_delimiter_token=" ",
    )
    change(recogniser / "config.json", pad_token_id=7)
    content = huggingface.read_huggingface(recogniser)
    model, vocabulary = native.load_ctc(content, "test")
    assert vocabulary.symbols == ("<s>", "<pad>", "</s>", "<unk>", *"ab|cde")
    assert torch.equal(
        content["model"]["proj.weight"][[0, 3, 4, 5, 6, 7, 8, 9]], before[[7, 3, 0, 1, 2, 4, 5, 6]]
    )
    with torch.no_grad():
        logits = model(torch.randn(2, 4_000)).logits
    assert logits[..., 1:3].max() == native.NEVER
    assert torch.isfinite(logits.half()).all()


def test_tokens_in_lower_case(recogniser):
    change(recogniser / "tokenizer_config.json", do_lower_case=True)
    assert read_dictionary(recogniser).symbols[4:] == ("|", "e", "a", "b")


def test_tokens_added_beside_the_vocabulary(recogniser):
    """Older folders have added_tokens.json and special_tokens_map.json.

    One id is outside the output layer, as if the tokenizer was extended after training.
    """
    ids = {"[PAD]": 0, "[UNK]": 1, "|": 2, "E": 3, "A": 4, "B": 5, "O": 6}
    (recogniser / "vocab.json").write_text(json.dumps(ids))
    (recogniser / "added_tokens.json").write_text(json.dumps({"<s>": 7, "</s>": 8}))
    (recogniser / "tokenizer_config.json").unlink()
    change(recogniser / "special_tokens_map.json", pad_token="[PAD]", unk_token="[UNK]")
    content = huggingface.read_huggingface(recogniser)
    assert read_dictionary(recogniser).symbols[4:] == (*"|EABO",)
    assert content["model"]["proj.bias"][2] == native.NEVER  # </s>
    assert content["model"]["proj.bias"][1] != native.NEVER  # <s>, our <pad>


def test_hourglass_is_not_written(tmp_path):
    architecture = replace(TINY, layers=3, hourglass=Hourglass(1, 1, 2, 1))
    with pytest.raises(UserError, match=re.escape("no hourglass encoder like this model's [1,(1")):
        huggingface.write_huggingface(ctc_content(architecture), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_sentencepiece_is_not_written(tmp_path):
    vocabulary = Vocabulary(["▁HI", "▁YO", "U"], Spelling.PIECES)
    with pytest.raises(UserError, match="no CTC tokenizer for sentencepiece"):
        huggingface.write_huggingface(ctc_content(TINY, vocabulary), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_weights_of_another_model_are_not_written(tmp_path):
    content = {**pretraining_content(), **native.pretraining_content(LARGE)}
    with pytest.raises(UserError, match="claims more than it holds"):
        huggingface.write_huggingface(content, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_over(recogniser, tmp_path):
    before = sorted(path.stat().st_mtime_ns for path in recogniser.iterdir())
    for target in (recogniser, recogniser / "config.json"):
        with pytest.raises(UserError, match="exists already"):
            huggingface.write_huggingface(ctc_content(), target)
    assert sorted(path.stat().st_mtime_ns for path in recogniser.iterdir()) == before
    (tmp_path / "empty").mkdir()
    huggingface.write_huggingface(ctc_content(), tmp_path / "empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "model"]


def test_a_full_disk_leaves_no_folder(tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(UserError, match="model: cannot be written .No space left on device"):
        huggingface.write_huggingface(ctc_content(), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_file_in_place_of_the_parent_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written .Not a directory"):
        huggingface.write_huggingface(ctc_content(), tmp_path / "file" / "model")


@pytest.mark.parametrize(
    "values, what",
    [
        ({"model_type": "data2vec-audio"}, "data2vec"),
        ({"model_type": "wavlm"}, "WavLM"),
        ({"model_type": "speech-encoder-decoder"}, "a sequence-to-sequence model"),
        ({"model_type": "whisper"}, "Whisper"),
        ({"model_type": "wav2vec2-bert"}, "w2v-BERT"),
        ({"model_type": "bert"}, "BERT, a model of text"),
        ({"architectures": ["Wav2Vec2ForSequenceClassification"]}, "a classifier"),
        ({"architectures": ["Wav2Vec2ForAudioFrameClassification"]}, "a classifier"),
        ({"architectures": ["Wav2Vec2ForXVector"]}, "a classifier of speakers"),
    ],
)
def test_other_models_are_named(recogniser, values, what):
    change(recogniser / "config.json", **values)
    refused(recogniser, rf"config\.json: .*{what}.*: use (facebook/|the model it was made)")
