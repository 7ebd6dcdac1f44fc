"""Checkpoints in each of fairseq's layouts: which are read and which are refused."""

import math
import sys
import types
from dataclasses import replace

import pytest
import torch

from tests.unit.wav2vec2.interop import names
from tests.unit.wav2vec2.interop.conftest import (
    DICTIONARY,
    SYMBOLS,
    UNITS,
    fairseq_finetuned,
    fairseq_pretrained,
)
from wav2vec2.cli.errors import UserError
from wav2vec2.config import BASE, LARGE, ContrastiveObjective, Regularisation
from wav2vec2.interop import checkpoints, fairseq, native
from wav2vec2.interop.fairseq import parse_conv_layers
from wav2vec2.pretraining import Wav2Vec2ForPretraining

BASE_LIKE = names.Sizes()
LARGE_LIKE = names.Sizes(layer_norm=True, conv_bias=True, final=8)
NO_PROJECTION = names.Sizes(conv=((8, 10, 5), (16, 3, 2)), codebooks=3, entries=4, layers=1)


def load(content):
    """The model of a content, with its weights."""
    if content["kind"] == "ctc":
        return native.load_ctc(content, "c")[0]
    architecture = native.architecture_of(content, "c")
    model = Wav2Vec2ForPretraining.from_config(
        architecture, Regularisation(), ContrastiveObjective()
    )
    native.load_pretraining(model, content, "c", architecture)
    return model


@pytest.fixture
def save(tmp_path):
    def save(content, name="c.pt", dictionary=None, **options):
        torch.save(content, tmp_path / name, **options)
        if dictionary is not None:
            (tmp_path / "dict.ltr.txt").write_text(dictionary)
        return tmp_path / name

    return save


@pytest.mark.parametrize("layout", ["cfg", "args"])
@pytest.mark.parametrize("sizes", [BASE_LIKE, LARGE_LIKE, NO_PROJECTION])
def test_pretrained(save, sizes, layout):
    content = checkpoints.read_checkpoint(save(fairseq_pretrained(sizes, layout, normalize=True)))
    found = native.architecture_of(content, "c")
    assert found.conv_layers == sizes.conv and found.normalize_input
    assert (found.extractor_norm == "layer") == found.norm_first == sizes.layer_norm
    assert (found.dim, found.ffn_dim, found.heads, found.layers) == (16, 24, 4, sizes.layers)
    assert (found.position_kernel, found.position_groups) == (8, 4)
    assert (found.final_dim, found.codebook_groups) == (sizes.final, sizes.codebooks)
    assert found.codebook_entries == sizes.entries and found.hourglass is None
    model = load(content)
    assert sum(p.numel() for p in model.parameters()) == count(names.pretraining(sizes))


def count(shapes):
    return sum(math.prod(shape) for shape in shapes.values())


def test_every_weight_is_where_it_belongs(save):
    """Compares by name: two weights of the same shape must not be swapped."""
    given = fairseq_pretrained(LARGE_LIKE)
    read = checkpoints.read_checkpoint(save(given))["model"]
    theirs = given["model"]
    for ours, name in [
        ("wav2vec2.mask_emb", "mask_emb"),
        ("wav2vec2.layer_norm.weight", "layer_norm.weight"),
        ("wav2vec2.encoder.layer_norm.weight", "encoder.layer_norm.weight"),
        ("wav2vec2.post_extract_proj.bias", "post_extract_proj.bias"),
        (
            "wav2vec2.feature_extractor.conv_layers.1.conv.bias",
            "feature_extractor.conv_layers.1.0.bias",
        ),
        (
            "wav2vec2.feature_extractor.conv_layers.1.norm.bias",
            "feature_extractor.conv_layers.1.2.1.bias",
        ),
        (
            "wav2vec2.encoder.pos_conv.conv.parametrizations.weight.original0",
            "encoder.pos_conv.0.weight_g",
        ),
        (
            "wav2vec2.encoder.pos_conv.conv.parametrizations.weight.original1",
            "encoder.pos_conv.0.weight_v",
        ),
        ("wav2vec2.encoder.pos_conv.conv.bias", "encoder.pos_conv.0.bias"),
        ("quantizer.vars", "quantizer.vars"),
        ("quantizer.weight_proj.weight", "quantizer.weight_proj.weight"),
        ("project_q.weight", "project_q.weight"),
        ("final_proj.weight", "final_proj.weight"),
    ]:
        assert torch.equal(read[ours], theirs[name]), name
    for number in range(LARGE_LIKE.layers):
        for part in (
            *(f"self_attn.{p}_proj.weight" for p in ("q", "k", "v", "out")),
            *("self_attn_layer_norm.weight", "final_layer_norm.weight", "fc1.bias", "fc2.bias"),
        ):
            ours = read[f"wav2vec2.encoder.stack.layers.{number}.{part}"]
            assert torch.equal(ours, theirs[f"encoder.layers.{number}.{part}"]), part


def test_sizes_of_published_models():
    """names.py lists the parameters of the published models: 95.0 M and 317.4 M."""
    conv = BASE.conv_layers
    base = names.Sizes(conv=conv, dim=768, ffn=3072, layers=12, kernel=128, groups=16)
    base = replace(base, final=256, entries=320)
    assert round(count(names.pretraining(base)) / 1e6, 1) == 95.0
    large = replace(base, layer_norm=True, conv_bias=True, dim=1024, ffn=4096, layers=24, final=768)
    assert round(count(names.pretraining(large)) / 1e6, 1) == 317.4
    for sizes, architecture in ((base, BASE), (large, LARGE)):
        with torch.device("meta"):
            model = Wav2Vec2ForPretraining.from_config(
                architecture, Regularisation(), ContrastiveObjective()
            )
        expected = names.pretraining(sizes)
        theirs = fairseq.to_theirs(model.state_dict(), architecture, "pretraining")
        assert {name: tuple(tensor.shape) for name, tensor in theirs.items()} == expected


@pytest.mark.parametrize("layout", ["cfg", "args"])
@pytest.mark.parametrize("sizes", [BASE_LIKE, LARGE_LIKE])
def test_finetuned(save, sizes, layout):
    path = save(fairseq_finetuned(sizes, layout, normalize=True), dictionary=DICTIONARY)
    content = checkpoints.read_checkpoint(path)
    model, vocabulary = native.load_ctc(content, "c")
    assert vocabulary.symbols == ("<s>", "<pad>", "</s>", "<unk>", *SYMBOLS)
    assert content["labels"] == "ltr" and content["architecture"]["normalize_input"]
    theirs = fairseq_finetuned(sizes)["model"]
    assert torch.equal(model.proj.weight, theirs["w2v_encoder.proj.weight"])
    assert model(torch.randn(1, 400)).logits.shape[-1] == UNITS


def test_a_flat_configuration_nested_in_a_new_one(save):
    """Files of late 2020: a `cfg` that contains the older Namespace."""
    content = fairseq_finetuned(BASE_LIKE)
    content["cfg"]["model"]["w2v_args"] = fairseq_pretrained(BASE_LIKE, "args")["args"]
    assert load(checkpoints.read_checkpoint(save(content, dictionary=DICTIONARY)))


def test_other_spellings_and_half_precision(save):
    new = fairseq_pretrained(BASE_LIKE, dtype=torch.float16)
    renamed = {
        "encoder.pos_conv.0.weight_g": "encoder.pos_conv.0.parametrizations.weight.original0",
        "encoder.pos_conv.0.weight_v": "encoder.pos_conv.0.parametrizations.weight.original1",
    }
    new["model"] = {renamed.get(name, name): tensor for name, tensor in new["model"].items()}
    usual = fairseq_pretrained(BASE_LIKE, dtype=torch.float16)
    read = [checkpoints.read_checkpoint(save(content))["model"] for content in (new, usual)]
    assert read[0].keys() == read[1].keys()
    for name, tensor in read[0].items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, read[1][name])
    new["model"] |= usual["model"]
    with pytest.raises(UserError, match=r"holds encoder\.pos_conv\.0\.weight_g twice"):
        checkpoints.read_checkpoint(save(new))


def test_files_of_older_torch(save):
    path = save(fairseq_pretrained(BASE_LIKE, "args"), _use_new_zipfile_serialization=False)
    assert load(checkpoints.read_checkpoint(path))


@pytest.mark.parametrize("kind", ["pretraining", "ctc"])
def test_unmatched_keys_abort_with_their_list(save, kind):
    make = fairseq_pretrained if kind == "pretraining" else fairseq_finetuned
    prefix = "" if kind == "pretraining" else "w2v_encoder.w2v_model."
    for name in list(make(BASE_LIKE)["model"]):  # every missing weight is named
        content = make(BASE_LIKE)
        del content["model"][name]
        with pytest.raises(UserError) as raised:
            checkpoints.read_checkpoint(save(content, dictionary=DICTIONARY))
        assert name.removeprefix(prefix) in str(raised.value), name

    content = make(BASE_LIKE)
    content["model"] |= {"decoder.one": torch.ones(1), "decoder.two": torch.ones(1)}
    del content["model"][f"{prefix}mask_emb"], content["model"][f"{prefix}layer_norm.bias"]
    content["model"][f"{prefix}mask_emb"] = torch.ones(16)
    with pytest.raises(UserError) as raised:
        checkpoints.read_checkpoint(save(content, dictionary=DICTIONARY))
    for part in (f"{prefix}layer_norm.bias is missing", "decoder.one is unknown", "decoder.two"):
        assert part in str(raised.value)


def test_wrong_shapes_and_no_tensors(save):
    content = fairseq_pretrained(BASE_LIKE)
    content["model"]["layer_norm.bias"] = torch.ones(5)
    content["model"]["layer_norm.weight"] = "text"
    with pytest.raises(UserError) as raised:
        checkpoints.read_checkpoint(save(content))
    assert "layer_norm.bias is [5] instead of [12]" in str(raised.value)
    assert "layer_norm.weight is no floating-point tensor" in str(raised.value)


@pytest.mark.parametrize(
    ("section", "name", "value", "message"),
    [
        ("model", "layer_norm_first", None, "layer_norm_first must be known"),
        ("model", "encoder_attention_heads", "${model.heads}", "encoder_attention_heads must be"),
        ("model", "encoder_attention_heads", 5, "not divisible by 5 heads"),
        ("model", "encoder_attention_heads", 0, "describes no model"),
        ("model", "conv_feature_layers", "__import__('os')", "is no list of convolutions"),
        ("model", "conv_feature_layers", "[(8, 10, 5)]", "is unknown"),
        ("model", "activation_fn", "relu", "only gelu"),
        ("task", "normalize", "${x}", "normalize must be known"),
    ],
)
def test_a_configuration_that_does_not_say_enough(save, section, name, value, message):
    content = fairseq_pretrained(BASE_LIKE)
    content["cfg"][section][name] = value
    with pytest.raises(UserError, match=message):
        checkpoints.read_checkpoint(save(content))
    if value is None:
        del content["cfg"][section][name]
        with pytest.raises(UserError, match="its configuration lacks it"):
            checkpoints.read_checkpoint(save(content))


def test_conv_layers():
    text = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]"
    assert parse_conv_layers(text) == BASE.conv_layers
    assert parse_conv_layers(str(list(BASE.conv_layers))) == BASE.conv_layers
    for wrong in ("", "5", "[(1, 2)]", "[(1,2,3)] * 9 ** 9", "[[1,2,3]] * 99 * 99", "open('x')"):
        with pytest.raises(ValueError, match="no list of convolutions"):
            parse_conv_layers(wrong)


def test_dictionaries(save, tmp_path):
    content = fairseq_finetuned(BASE_LIKE)
    path = save(content)
    with pytest.raises(UserError, match=r"8 units\) without its dictionary.* as dict\.ltr\.txt"):
        checkpoints.read_checkpoint(path)
    given = tmp_path / "symbols.txt"
    given.write_text(DICTIONARY)
    assert checkpoints.read_checkpoint(path, given)["dictionary"].split() == SYMBOLS
    given.write_text(DICTIONARY + "X 1\n")
    with pytest.raises(UserError, match=r"symbols\.txt: 9 symbols.* has 8"):
        checkpoints.read_checkpoint(path, given)
    with pytest.raises(UserError, match="gone.txt: cannot be read"):
        checkpoints.read_checkpoint(path, tmp_path / "gone.txt")
    (tmp_path / "dict.ltr.txt").write_text("| 1\n")
    with pytest.raises(UserError, match=r"dict\.ltr\.txt: 5 symbols"):
        checkpoints.read_checkpoint(path)


class Dictionary:
    """Pickles under the name of fairseq's class."""

    __module__ = "fairseq.data.dictionary"

    def __init__(self, symbols):
        self.symbols, self.count, self.indices = symbols, [1] * len(symbols), {}


def test_a_dictionary_in_the_file(save, tmp_path, monkeypatch):
    """Newer files carry their dictionary; one beside the file is then ignored."""
    for name in ("fairseq", "fairseq.data", "fairseq.data.dictionary"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["fairseq.data.dictionary"].Dictionary = Dictionary
    content = fairseq_finetuned(BASE_LIKE)
    content["task_state"] = {
        "target_dictionary": Dictionary(["<s>", "<pad>", "</s>", "<unk>", *SYMBOLS])
    }
    (tmp_path / "dict.ltr.txt").write_text("| 1\n")
    assert checkpoints.read_checkpoint(save(content))["dictionary"].split() == SYMBOLS
    content["task_state"] = {"target_dictionary": Dictionary(["<pad>", *SYMBOLS])}
    with pytest.raises(UserError, match="does not begin with <s> <pad>"):
        checkpoints.read_checkpoint(save(content))
    content["task_state"] = {
        "target_dictionary": Dictionary(["<s>", "<pad>", "</s>", "<unk>", 5, "a b c", "", "D"])
    }
    with pytest.raises(UserError, match=r"\(dictionary\):2: expected 'symbol count'"):
        checkpoints.read_checkpoint(save(content))


def test_labels_name_no_other_place(save, tmp_path):
    for labels, name in (("phn", "dict.phn.txt"), ("../x", "dict.ltr.txt"), (5, "dict.ltr.txt")):
        content = fairseq_finetuned(BASE_LIKE)
        content["cfg"]["task"]["labels"] = labels
        with pytest.raises(UserError, match=rf"beside it as {name}"):
            checkpoints.read_checkpoint(save(content))


@pytest.mark.parametrize("sizes", [BASE_LIKE, LARGE_LIKE, NO_PROJECTION])
@pytest.mark.parametrize("make", [fairseq_pretrained, fairseq_finetuned])
def test_what_is_written_is_what_was_read(save, tmp_path, sizes, make):
    given = make(sizes, normalize=True)
    content = checkpoints.read_checkpoint(save(given, dictionary=DICTIONARY))
    written = fairseq.to_fairseq(content, tmp_path)
    assert written["model"].keys() == given["model"].keys()
    assert all(torch.equal(t, given["model"][name]) for name, t in written["model"].items())
    again = checkpoints.read_checkpoint(save(written))
    assert again.keys() == content.keys() and again["architecture"] == content["architecture"]
    assert all(torch.equal(t, content["model"][name]) for name, t in again["model"].items())


def test_an_hourglass_cannot_be_written(tmp_path):
    architecture = {**BASE.to_dict(), "hourglass": {"pre": 2, "middle": 8, "factor": 4, "post": 2}}
    with pytest.raises(UserError, match="fairseq has none"):
        fairseq.to_fairseq({"kind": "pretraining", "architecture": architecture}, tmp_path)


def test_other_files_are_refused(save, tmp_path):
    for content in (
        {"model": {"w": torch.ones(1)}},
        {"w": torch.ones(1)},
        [1, 2],
        {"model": torch.ones(1), "args": 1},
    ):
        with pytest.raises(UserError, match="not a checkpoint of this repository, of fairseq"):
            checkpoints.read_checkpoint(save(content))
    with pytest.raises(UserError, match=r"a folder without config\.json"):
        checkpoints.read_checkpoint(tmp_path)
    with pytest.raises(UserError, match="no such checkpoint"):
        checkpoints.read_checkpoint(tmp_path / "gone.pt")
    with pytest.raises(UserError, match="has no sections model and task"):
        checkpoints.read_checkpoint(save({"model": {}, "cfg": {"model": 1}}))
    with pytest.raises(UserError, match="lacks mask_emb; not a wav2vec 2.0 model"):
        other = fairseq_pretrained(BASE_LIKE)
        checkpoints.read_checkpoint(save({**other, "model": {"encoder.embed": torch.ones(1)}}))
    nested = fairseq_finetuned(BASE_LIKE)
    nested["cfg"]["model"]["w2v_args"] = None
    with pytest.raises(UserError, match=r"what model was fine-tuned \(w2v_args\)"):
        checkpoints.read_checkpoint(save(nested))


@pytest.mark.parametrize(
    "name, what",
    [
        ("hubert", "HuBERT"),
        ("hubert_ctc", "HuBERT"),
        ("data2vec_audio", "data2vec"),
        ("wav2vec_seq2seq", "a sequence-to-sequence model"),
        ("wav2vec2_classification", "a classifier"),
    ],
)
@pytest.mark.parametrize("layout", ["cfg", "args"])
def test_other_models_are_named(name, what, layout, save):
    content = fairseq_finetuned(BASE_LIKE, layout)
    if layout == "cfg":
        content["cfg"]["model"]["_name"] = name
    else:
        content["args"].arch = name
    with pytest.raises(UserError, match=f"{what}.*: use "):
        checkpoints.read_checkpoint(save(content))


def test_adapters_of_mms_are_named(save):
    content = fairseq_finetuned(BASE_LIKE)
    content["model"]["w2v_encoder.w2v_model.encoder.layers.0.adapter_layer.W_a"] = torch.ones(1)
    with pytest.raises(UserError, match="MMS, or another model with adapters"):
        checkpoints.read_checkpoint(save(content))
