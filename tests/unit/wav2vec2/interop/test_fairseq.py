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
    INNER,
    LANGUAGES,
    SYMBOLS,
    UNITS,
    fairseq_finetuned,
    fairseq_hubert,
    fairseq_hubert_ctc,
    fairseq_mms,
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
        ("model", "activation_fn", "relu", "activation_fn is 'relu'; only"),
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
        ("data2vec_audio", "data2vec, which finds positions by"),
        ("data2vec_multi", "data2vec"),
        ("av_hubert", "AV-HuBERT"),
        ("hubert_seq2seq", "a sequence-to-sequence model"),
        ("wav2vec_seq2seq", "a sequence-to-sequence model"),
        ("wav2vec2_classification", "a classifier"),
    ],
)
@pytest.mark.parametrize("layout", ["cfg", "args"])
def test_other_models_are_named(name, what, layout, save):
    """Those in a recogniser's own settings and in those of its pre-training."""
    for nested in (False, True):
        content = fairseq_finetuned(BASE_LIKE, layout)
        if layout == "cfg":
            model = content["cfg"]["model"]
            (model["w2v_args"]["model"] if nested else model)["_name"] = name
        else:
            (content["args"].w2v_args if nested else content["args"]).arch = name
        key = {"cfg": "_name", "args": "arch"}[layout]
        with pytest.raises(UserError, match=rf"{key} is '{name}': {what}.*: use \w"):
            checkpoints.read_checkpoint(save(content))


@pytest.mark.parametrize(
    "key, value",
    [("layer_type", "conformer"), ("pos_conv_depth", 5), ("conv_pos_batch_norm", True)],
)
@pytest.mark.parametrize("make", [fairseq_pretrained, fairseq_finetuned, fairseq_hubert])
def test_settings_of_other_models_are_named(key, value, make, save):
    content = make(BASE_LIKE)
    model = content["cfg"]["model"]
    model.get("w2v_args", {"model": model})["model"][key] = value
    with pytest.raises(UserError, match=f"{key} is {value!r}; only .* is known here: use another"):
        checkpoints.read_checkpoint(save(content))


@pytest.mark.parametrize("sizes", [BASE_LIKE, LARGE_LIKE, NO_PROJECTION])
def test_hubert(save, tmp_path, sizes):
    """The trunk, as from its Hugging Face folder: a start for fine-tuning, not for pre-training."""
    given = fairseq_hubert(sizes, normalize=True)
    content = checkpoints.read_checkpoint(save(given))
    assert content["kind"] == "pretraining"
    assert native.architecture_of(content, "c").normalize_input
    trunk, quantizer = native.load_trunk(content, "c")
    assert quantizer is None
    assert len(trunk.state_dict()) == len(given["model"]) - 3  # final_proj, label_embs_concat
    assert torch.equal(trunk.mask_emb, given["model"]["mask_emb"])
    with pytest.raises(UserError, match="without its quantizer, which fine-tuning can use"):
        native.load_pretraining(None, content, "c", native.architecture_of(content, "c"))
    with pytest.raises(UserError, match="without quantizer, as HuBERT's.*--to huggingface"):
        fairseq.to_fairseq(content, tmp_path)


@pytest.mark.parametrize("sizes", [BASE_LIKE, LARGE_LIKE])
def test_fine_tuned_hubert(save, sizes):
    given = fairseq_hubert_ctc(sizes)
    content = checkpoints.read_checkpoint(save(given, dictionary=DICTIONARY))
    assert (content["kind"], content["labels"]) == ("ctc", "ltr")
    model = load(content)
    assert torch.equal(model.proj.weight, given["model"]["w2v_encoder.proj.weight"])
    assert len(model.state_dict()) == len(given["model"]) - 1


def test_hubert_is_known_by_its_weights(save):
    """Files whose settings have lost the name."""
    content = fairseq_hubert(BASE_LIKE)
    del content["cfg"]["model"]["_name"]
    assert checkpoints.read_checkpoint(save(content))["kind"] == "pretraining"


def test_wav2vec_without_quantizer_is_damaged(save):
    content = fairseq_pretrained(BASE_LIKE)
    content["model"] = {n: w for n, w in content["model"].items() if "quantizer" not in n}
    with pytest.raises(UserError, match="lacks quantizer.vars"):
        checkpoints.read_checkpoint(save(content))


@pytest.mark.parametrize("language", LANGUAGES)
def test_adapters_of_mms(save, language):
    """Adapters, output layer and dictionary are those of the language; the rest is the model's."""
    given = fairseq_mms(LARGE_LIKE)
    content = checkpoints.read_checkpoint(save(given), language=language)
    assert content["dictionary"].split() == LANGUAGES[language]
    assert native.architecture_of(content, "c").adapter_dim == INNER
    own, trunk = given["adapter"][language]["model"], "w2v_encoder.w2v_model."
    for theirs, ours in [
        ("W_a", "linear_1.weight"),
        ("b_a", "linear_1.bias"),
        ("W_b", "linear_2.weight"),
        ("b_b", "linear_2.bias"),
        ("ln_W", "norm.weight"),
        ("ln_b", "norm.bias"),
    ]:
        expected = own[f"{trunk}encoder.layers.2.adapter_layer.{theirs}"][0]
        found = content["model"][f"wav2vec2.encoder.stack.layers.2.adapter.{ours}"]
        assert torch.equal(found, expected)
    assert torch.equal(content["model"]["proj.weight"], own["w2v_encoder.proj.weight"])
    mask = given["model"][f"{trunk}mask_emb"]
    assert torch.equal(content["model"]["wav2vec2.mask_emb"], mask)
    load(content)


def test_adapters_of_one_language_alone(save):
    """A recogniser of one's own with adapters has no table of languages."""
    content = fairseq_mms(LARGE_LIKE, languages={})
    path = save(content, dictionary=DICTIONARY)
    load(checkpoints.read_checkpoint(path))
    with pytest.raises(UserError, match="--language deu: .* has no adapters for languages"):
        checkpoints.read_checkpoint(path, language="deu")


def test_adapters_that_are_refused(save):
    def refused(content, *parts, language="deu"):
        with pytest.raises(UserError) as caught:
            checkpoints.read_checkpoint(save(content), language=language)
        assert all(part in str(caught.value) for part in parts), caught.value
        assert "\n" not in str(caught.value)

    refused(
        fairseq_mms(LARGE_LIKE),
        "3 languages",
        "--language (ADAPTER_LANGUAGE): deu eng fra",
        language=None,
    )
    refused(fairseq_mms(LARGE_LIKE), "--language dee", "codes such as deu", language="dee")
    refused(fairseq_mms(LARGE_LIKE, corpora=2), "adp_num is 2", "facebook/mms-1b-all")
    refused(fairseq_mms(BASE_LIKE), "pre-LN")
    for key, value in (("adp_act_fn", "gelu"), ("adp_trf_idx", "0:2")):
        content = fairseq_mms(LARGE_LIKE)
        content["cfg"]["model"][key] = value
        refused(content, f"{key} is '{value}'; only")
    for entry in (5, {}, {"model": 5}):
        refused({**fairseq_mms(LARGE_LIKE), "adapter": {"deu": entry}}, "damaged")
    content = fairseq_mms(LARGE_LIKE)
    del content["adapter"]["deu"]["model"][
        "w2v_encoder.w2v_model.encoder.layers.0.adapter_layer.W_a"
    ]
    refused(content, "the adapter of deu lacks")
