"""Folders of transformers are read here, and folders written here by transformers."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.parity.conftest import NO_DROPOUT, OBJECTIVE, shake, their_config
from wav2vec2.audio.decode import normalize
from wav2vec2.audio.waveform import Waveform
from wav2vec2.cli.errors import UserError
from wav2vec2.config import BASE, LARGE, MINI, Architecture
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.decoding.greedy import GreedyDecoder
from wav2vec2.inference.batches import batch_of
from wav2vec2.inference.recogniser import Recogniser
from wav2vec2.interop import huggingface, native
from wav2vec2.interop.huggingface_config import architecture_of_config
from wav2vec2.pretraining import Wav2Vec2ForPretraining
from wav2vec2.text.vocabulary import Spelling, Vocabulary

transformers = pytest.importorskip("transformers")

SMALL = {
    "dim": 48,
    "ffn_dim": 96,
    "heads": 4,
    "layers": 2,
    "position_kernel": 16,
    "position_groups": 4,
    "conv_layers": ((32, 10, 5), *((32, 3, 2),) * 4, *((32, 2, 2),) * 2),
    "final_dim": 24,
    "codebook_entries": 12,
}
ARCHITECTURES = {
    "base": replace(BASE, **SMALL),
    "base, normalised": replace(BASE, **SMALL, normalize_input=True),
    "large": replace(LARGE, **SMALL),
    "mini": MINI,  # group norm and pre-LN
    "without projection": replace(LARGE, **{**SMALL, "dim": 32}),
    "odd kernel": replace(BASE, **{**SMALL, "position_kernel": 9}),
}

LETTERS = Vocabulary([*"|ETAOIN'", "CH", "Ü"])
PHONES = Vocabulary(["tʃ", "a", "|", "ɪ"], Spelling.TOKENS)


@pytest.fixture(params=list(ARCHITECTURES))
def architecture(request) -> Architecture:
    return ARCHITECTURES[request.param]


def pretraining_content(architecture: Architecture) -> dict:
    torch.manual_seed(1)
    model = Wav2Vec2ForPretraining.from_config(architecture, NO_DROPOUT, OBJECTIVE)
    shake(model)
    return {**native.pretraining_content(architecture), "model": model.state_dict()}


def ctc_content(architecture: Architecture, vocabulary: Vocabulary = LETTERS) -> dict:
    torch.manual_seed(2)
    model = Wav2Vec2ForCTC.from_config(architecture, NO_DROPOUT, len(vocabulary))
    shake(model)
    labels = "ltr" if vocabulary.spelling is Spelling.LETTERS else "phn"
    return {
        **native.ctc_content(architecture, vocabulary, labels),
        "model": model.state_dict(),
    }


def load_pretraining(content: dict) -> Wav2Vec2ForPretraining:
    architecture = native.architecture_of(content, "test")
    model = Wav2Vec2ForPretraining.from_config(architecture, NO_DROPOUT, OBJECTIVE)
    native.load_pretraining(model, content, "test", architecture)
    return model.eval()


def load_trunk(content: dict):
    architecture = native.architecture_of(content, "test")
    model = Wav2Vec2ForCTC.from_config(architecture, NO_DROPOUT, 32)
    native.load_pretrained_trunk(model, content, "test")
    return model.wav2vec2.eval()


def from_pretrained(cls, folder):
    """Their model; the folder must hold all of its weights and no others."""
    model, report = cls.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert (ours - theirs).abs().max() <= 1e-4


def assert_same_content(a: dict, b: dict) -> None:
    assert {**a, "model": None} == {**b, "model": None}
    assert a["model"].keys() == b["model"].keys()
    for name, tensor in a["model"].items():
        assert torch.equal(tensor, b["model"][name]), name


def test_their_default_is_base():
    config = {"model_type": "wav2vec2"}
    assert architecture_of_config(config, "config.json") == BASE
    whole = transformers.Wav2Vec2Config().to_dict()
    whole = json.loads(json.dumps(whole))
    assert architecture_of_config(whole, "config.json") == BASE


def assert_same_pretraining(ours: Wav2Vec2ForPretraining, theirs) -> None:
    """Compare context vectors, and the projections of contexts and targets, with a mask."""
    torch.manual_seed(3)
    waveforms = torch.randn(2, 8_000)
    with torch.no_grad():
        frames = ours.wav2vec2.extract(waveforms, None)
        time_mask = torch.rand(frames.features.shape[:2]) < 0.4
        context = ours.wav2vec2.encode(frames, time_mask=time_mask)
        quantized = ours.quantizer(frames.features, 1.0)
        expected = theirs(waveforms, mask_time_indices=time_mask, output_hidden_states=True)
        assert_same(ours.final_proj(context), expected.projected_states)
        assert_same(ours.project_q(quantized.vectors), expected.projected_quantized_states)
        unmasked = ours.wav2vec2.encode(frames)
        assert_same(unmasked, theirs.wav2vec2(waveforms).last_hidden_state)


def assert_same_recogniser(
    ours: Wav2Vec2ForCTC, theirs, architecture: Architecture, rows: list[int] | None = None
) -> None:
    """Compare logits, also of padded batches if transformers supports them.

    `rows`: their rows in our order.
    """
    rows = rows or list(range(ours.proj.out_features))
    torch.manual_seed(4)
    waveforms = torch.randn(2, 8_000)
    with torch.no_grad():
        assert_same(ours(waveforms).logits, theirs(waveforms).logits[..., rows])
        if architecture.extractor_norm == "group":
            return
        lengths = torch.tensor([8_000, 5_000])
        waveforms[1, 5_000:] = 0
        mask = (torch.arange(8_000) < lengths[:, None]).long()
        output = ours(waveforms, lengths)
        expected = theirs(waveforms, attention_mask=mask).logits[..., rows]
        for row, count in enumerate(output.frame_lengths):
            assert_same(output.logits[row, :count], expected[row, :count])


def test_pretraining_model_written(architecture, tmp_path):
    content = pretraining_content(architecture)
    folder = tmp_path / "model"
    huggingface.write_huggingface(content, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    theirs = from_pretrained(transformers.Wav2Vec2ForPreTraining, folder)
    assert_same_pretraining(load_pretraining(content), theirs)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    assert extractor.do_normalize == architecture.normalize_input
    assert extractor.return_attention_mask == (architecture.extractor_norm == "layer")

    assert huggingface.is_huggingface(folder)
    assert_same_content(huggingface.read_huggingface(folder), content)


@pytest.mark.parametrize("vocabulary", [LETTERS, PHONES], ids=["letters", "phones"])
def test_recogniser_written(architecture, vocabulary, tmp_path):
    content = ctc_content(architecture, vocabulary)
    folder = tmp_path / "model"
    huggingface.write_huggingface(content, folder)
    theirs = from_pretrained(transformers.Wav2Vec2ForCTC, folder)
    assert_same_recogniser(native.load_ctc(content, "test")[0], theirs, architecture)
    assert_same_content(huggingface.read_huggingface(folder), content)


def their_transcript(processor, logits: torch.Tensor) -> list[str]:
    # For two delimiters with a blank between them transformers writes two spaces, we one.
    return [" ".join(text.split()) for text in processor.batch_decode(logits.argmax(-1))]


def our_transcript(vocabulary: Vocabulary, logits: torch.Tensor) -> list[str]:
    greedy = GreedyDecoder(vocabulary)
    return [greedy(row).words for row in logits]


@pytest.mark.parametrize("architecture", ["base", "large"], indirect=True)
def test_transcript_through_their_processor(architecture, tmp_path):
    """From a recording to text, with their processor, model and decoder, and with ours."""
    content = ctc_content(architecture)
    with torch.no_grad():  # transformers prints special tokens, we skip them: let none occur
        content["model"]["proj.bias"][1:4] = -100
    huggingface.write_huggingface(content, tmp_path / "model")
    processor = transformers.Wav2Vec2Processor.from_pretrained(tmp_path / "model")
    theirs = transformers.Wav2Vec2ForCTC.from_pretrained(tmp_path / "model").eval()
    ours, vocabulary = native.load_ctc(content, "test")
    recording = 0.1 * np.random.default_rng(5).standard_normal(48_000).astype(np.float32) + 0.05

    inputs = processor(recording, sampling_rate=16_000, return_tensors="pt")
    assert ("attention_mask" in inputs) == (architecture.extractor_norm == "layer")
    waveform = normalize(recording) if architecture.normalize_input else recording
    with torch.no_grad():
        expected = theirs(**inputs).logits
        logits = ours(torch.tensor(waveform)[None]).logits
    # Their normalisation adds 1e-7 to the variance, ours 1e-5.
    assert (logits - expected).abs().max() <= (1e-2 if architecture.normalize_input else 1e-4)
    found = our_transcript(vocabulary, expected)
    assert found == their_transcript(processor, expected)
    assert len(found[0]) > 10


@pytest.mark.parametrize("vocabulary", [LETTERS, PHONES], ids=["letters", "phones"])
def test_decoders_agree(vocabulary, tmp_path):
    """Random units with repetitions and blanks."""
    huggingface.write_huggingface(
        ctc_content(ARCHITECTURES["base"], vocabulary), tmp_path / "model"
    )
    processor = transformers.Wav2Vec2Processor.from_pretrained(tmp_path / "model")
    random = np.random.default_rng(6)
    ids = random.choice([0, *range(4, len(vocabulary))], size=(20, 60))
    logits = torch.nn.functional.one_hot(torch.tensor(ids), len(vocabulary)).float()
    assert our_transcript(vocabulary, logits) == their_transcript(processor, logits)
    text, labels = ("TOE TIN", "T O E | T I N") if vocabulary is LETTERS else ("tʃ a", "tʃ a")
    assert processor.tokenizer(text).input_ids == vocabulary.encode(labels)


def save_theirs(model, folder, *, do_normalize: bool = False, shards: bool = False) -> None:
    model.save_pretrained(folder, **({"max_shard_size": "20KB"} if shards else {}))
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=do_normalize)
    extractor.save_pretrained(folder)


def as_read(architecture: Architecture) -> Architecture:
    """An architecture as a folder of transformers says it: it adds 1e-7 to the variance."""
    eps = 1e-7 if architecture.normalize_input else 1e-5
    return replace(architecture, normalize_eps=eps)


@pytest.mark.parametrize("decibels", [-20, -55, -75])
@pytest.mark.parametrize("architecture", ["base, normalised", "large"], indirect=True)
def test_quiet_recordings_are_normalised_as_there(architecture, decibels, tmp_path):
    """From samples to logits: a model from transformers keeps what it adds to the variance."""
    torch.manual_seed(15)
    config = their_config(architecture, vocab_size=8, pad_token_id=0)
    theirs = transformers.Wav2Vec2ForCTC(config).eval()
    shake(theirs)
    save_theirs(theirs, tmp_path, do_normalize=True)
    (tmp_path / "vocab.json").write_text(json.dumps(PLAIN))
    noise = np.random.default_rng(16).standard_normal(16_000).astype(np.float32)
    recording = 10 ** (decibels / 20) * noise
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    inputs = extractor(recording, sampling_rate=16_000, return_tensors="pt").input_values
    with torch.no_grad():
        expected = theirs(inputs).logits[0, :, [0, 4, 5, 6, 7]]

    recogniser = Recogniser.from_checkpoint(str(tmp_path), torch.device("cpu"))
    eps = recogniser.architecture.normalize_eps
    batch = batch_of(["a"], [recording], normalize_input=True, normalize_eps=eps)
    with torch.no_grad():
        (logits,) = recogniser.logits(batch)
    assert_same(logits[:, [0, 4, 5, 6, 7]], expected)
    waveform = Waveform([recording])
    whole, part = (waveform.read(0, end, normalized=True, eps=eps) for end in (16_000, 8_000))
    np.testing.assert_allclose(whole, inputs[0], atol=1e-4)
    np.testing.assert_allclose(part, inputs[0, :8_000], atol=1e-4)


@pytest.mark.parametrize("shards", [False, True], ids=["one file", "shards"])
@pytest.mark.parametrize("architecture", ["base, normalised", "large", "mini"], indirect=True)
def test_pretraining_model_read(architecture, shards, tmp_path):
    torch.manual_seed(7)
    theirs = transformers.Wav2Vec2ForPreTraining(their_config(architecture)).eval()
    shake(theirs)
    save_theirs(theirs, tmp_path, do_normalize=architecture.normalize_input, shards=shards)
    assert (tmp_path / "model.safetensors.index.json").exists() == shards
    content = huggingface.read_huggingface(tmp_path)
    assert native.architecture_of(content, "test") == as_read(architecture)
    assert_same_pretraining(load_pretraining(content), theirs)
    assert_same(
        load_trunk(content).layer_norm.weight, theirs.wav2vec2.feature_projection.layer_norm.weight
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype, tmp_path):
    theirs = transformers.Wav2Vec2ForPreTraining(their_config(ARCHITECTURES["large"]))
    save_theirs(theirs.to(dtype), tmp_path, do_normalize=True)
    content = huggingface.read_huggingface(tmp_path)
    assert {tensor.dtype for tensor in content["model"].values()} == {torch.float32}
    assert_same_pretraining(load_pretraining(content), theirs.float().eval())


@pytest.mark.parametrize("spelling", ["weight_g", "original0"])
def test_older_file_and_spelling_of_weight_norm(spelling, tmp_path):
    theirs = transformers.Wav2Vec2ForPreTraining(their_config(ARCHITECTURES["base"])).eval()
    save_theirs(theirs, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    weights = theirs.state_dict()
    if spelling == "weight_g":
        weights = {
            name.replace("parametrizations.weight.original0", "weight_g").replace(
                "parametrizations.weight.original1", "weight_v"
            ): tensor
            for name, tensor in weights.items()
        }
    assert any(name.endswith(spelling) for name in weights)
    torch.save(weights, tmp_path / "pytorch_model.bin")
    assert_same_pretraining(load_pretraining(huggingface.read_huggingface(tmp_path)), theirs)


def test_bare_model_is_a_trunk(tmp_path):
    architecture = ARCHITECTURES["large"]
    theirs = transformers.Wav2Vec2Model(their_config(architecture)).eval()
    save_theirs(theirs, tmp_path / "theirs", do_normalize=True)
    content = huggingface.read_huggingface(tmp_path / "theirs")
    waveforms = torch.randn(2, 8_000)
    trunk = load_trunk(content)
    with torch.no_grad():
        context = trunk.encode(trunk.extract(waveforms, None))
        assert_same(context, theirs(waveforms).last_hidden_state)
    with pytest.raises(UserError, match="trunk without its quantizer"):
        load_pretraining(content)

    huggingface.write_huggingface(content, tmp_path / "ours")
    again = from_pretrained(transformers.Wav2Vec2Model, tmp_path / "ours")
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


COMMUNITY = {"a": 0, "b": 1, "'": 2, "|": 3, "ü": 4, "[UNK]": 5, "[PAD]": 6, "c": 7}
"""As fine-tuning tutorials make them: the blank near the end, no <s>."""


@pytest.mark.parametrize("added", [False, True], ids=["plain", "head with <s> and </s>"])
@pytest.mark.parametrize("architecture", ["base", "large"], indirect=True)
def test_recogniser_read(architecture, added, tmp_path):
    (tmp_path / "letters.json").write_text(json.dumps(COMMUNITY), encoding="utf-8")
    tokenizer = transformers.Wav2Vec2CTCTokenizer(
        tmp_path / "letters.json", unk_token="[UNK]", pad_token="[PAD]"
    )
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    processor = transformers.Wav2Vec2Processor(extractor, tokenizer)
    size = len(tokenizer) if added else len(COMMUNITY)
    torch.manual_seed(8)
    config = their_config(architecture, vocab_size=size, pad_token_id=6)
    theirs = transformers.Wav2Vec2ForCTC(config).eval()
    shake(theirs)
    folder = tmp_path / "model"
    theirs.save_pretrained(folder)
    processor.save_pretrained(folder)

    content = huggingface.read_huggingface(folder)
    ours, vocabulary = native.load_ctc(content, "test")
    assert native.architecture_of(content, "test").normalize_input
    assert vocabulary.symbols == ("<s>", "<pad>", "</s>", "<unk>", "a", "b", "'", "|", "ü", "c")
    # For the comparison, special rows that they lack are copies of another row.
    rows = [6, *((8, 9) if added else (0, 0)), 5, 0, 1, 2, 3, 4, 7]
    if not added:
        assert (ours.proj.bias[1:3] == native.NEVER).all()
        assert not ours.proj.weight[1:3].any()
        with torch.no_grad():
            ours.proj.weight[1:3] = theirs.lm_head.weight[0]
            ours.proj.bias[1:3] = theirs.lm_head.bias[0]
    assert_same_recogniser(ours, theirs, architecture, rows)

    ids = torch.tensor(np.random.default_rng(9).choice([0, 1, 2, 3, 4, 6, 7], size=(8, 60)))
    their_logits = torch.nn.functional.one_hot(ids, size).float()
    our_logits = their_logits[..., rows]
    our_logits[..., 1:3] = 0
    assert our_transcript(vocabulary, our_logits) == their_transcript(processor, their_logits)


def test_full_size_base(tmp_path):
    """A Base recogniser as published: `pytorch_model.bin` with old names, no mask vector."""
    torch.manual_seed(10)
    config = transformers.Wav2Vec2Config(layerdrop=0.0)
    theirs = transformers.Wav2Vec2ForCTC(config).eval()
    weights = theirs.state_dict()
    del weights["wav2vec2.masked_spec_embed"]
    save_theirs(theirs, tmp_path, do_normalize=True)
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    tokens = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]
    (tmp_path / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    content = huggingface.read_huggingface(tmp_path)
    assert native.architecture_of(content, "test") == as_read(replace(BASE, normalize_input=True))
    ours, vocabulary = native.load_ctc(content, "test")
    assert vocabulary.symbols[4:6] == ("|", "E")
    assert_same_recogniser(ours, theirs, BASE)


def their_recogniser(folder, tokens: dict[str, int], size: int, blank: int, **options):
    """A folder as transformers writes it, with `tokens` as its vocab.json: model and processor."""
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(tokens), encoding="utf-8")
    tokenizer = transformers.Wav2Vec2CTCTokenizer(folder / "vocab.json", **options)
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    processor = transformers.Wav2Vec2Processor(extractor, tokenizer)
    torch.manual_seed(12)
    config = their_config(ARCHITECTURES["large"], vocab_size=size, pad_token_id=blank)
    model = transformers.Wav2Vec2ForCTC(config).eval()
    shake(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor


PLAIN = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "A": 5, "B": 6, "C": 7}
SHORT = {"[PAD]": 0, "[UNK]": 1, "|": 2, "A": 3, "B": 4, "C": 5}
NAMED = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
UNUSUAL = {
    # tokens, rows of the output layer, id of the blank, options, our symbols after the special ones
    "white space": ({**PLAIN, " ": 8, "\u3000": 9}, 10, 0, {}, "| A B C | |"),
    "white space alone": (
        {"[PAD]": 0, "[UNK]": 1, " ": 2, "A": 3, "B": 4, "C": 5, "\t": 6},
        *(7, 0, NAMED, "| A B C |"),
    ),
    "rows for <s> and </s>": (SHORT, 8, 0, NAMED, "| A B C"),
    "a row for <s>": (SHORT, 7, 0, NAMED, "| A B C"),
    "<s> is the blank": (
        {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "|": 4, "A": 5, "B": 6},
        *(7, 0, {"pad_token": "<s>", "bos_token": "<s>"}, "| A B"),
    ),
    "both cases": ({**PLAIN, "a": 8, "b": 9}, 10, 0, {"do_lower_case": True}, "| a b c a b"),
    "beyond the head": ({**PLAIN, "X": 8, "YZ": 9}, 8, 0, {}, "| A B C"),
    "a hole": ({**PLAIN, "D": 9, "E": 10}, 11, 0, {}, "| A B C <unk> D E"),
}


@pytest.mark.parametrize("case", list(UNUSUAL))
def test_unusual_vocabularies(case, tmp_path):
    """Logits of each row, and transcripts of random ones, are transformers'."""
    tokens, size, blank, options, symbols = UNUSUAL[case]
    folder = tmp_path / "m"
    theirs, processor = their_recogniser(folder, tokens, size, blank, **options)
    if case.startswith(("rows for", "a row")):  # what older versions do not write
        (folder / "added_tokens.json").unlink(missing_ok=True)
        path = folder / "tokenizer_config.json"
        content = json.loads(path.read_text())
        content.pop("added_tokens_decoder", None)
        path.write_text(json.dumps(content))
    content = huggingface.read_huggingface(folder)
    ours, vocabulary = native.load_ctc(content, "test")
    assert vocabulary.symbols[4:] == tuple(symbols.split())
    assert native.vocabulary_of(content, "test").symbols == vocabulary.symbols

    torch.manual_seed(13)
    waveforms = torch.randn(2, 8_000)
    with torch.no_grad():
        logits, expected = ours(waveforms).logits, theirs(waveforms).logits
    # Rows are found by their values: special ones come first here, the others keep their order.
    ordinary = [row for row in range(size) if row not in special_rows(processor, size, vocabulary)]
    assert_same(logits[..., 4:], expected[..., ordinary])
    assert_same(logits[..., 0], expected[..., blank])

    ids = np.random.default_rng(14).choice([blank, *ordinary], size=(20, 60))
    their_logits = torch.nn.functional.one_hot(torch.tensor(ids), size).float()
    our_logits = torch.zeros(*ids.shape, len(vocabulary))
    our_logits[..., 0] = their_logits[..., blank]
    our_logits[..., 4:] = their_logits[..., ordinary]
    found = our_transcript(vocabulary, our_logits)
    wanted = [text.replace("[UNK]", "<unk>") for text in their_transcript(processor, their_logits)]
    assert found == wanted
    assert min(map(len, found)) > 10


def special_rows(processor, size: int, vocabulary: Vocabulary) -> set[int]:
    """Rows of their special tokens, and of <pad> beside another blank."""
    tokenizer = processor.tokenizer
    names = {tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token}
    ids = tokenizer.get_vocab()
    rows = {ids[name] for name in {*names, "<pad>"} & ids.keys()}
    return {row for row in rows if row < size}


@pytest.mark.parametrize("name", ["Wav2Vec2CTCTokenizerFast", "Wav2Vec2TokenizerFast"])
def test_fast_tokenizers(name, tmp_path):
    their_recogniser(tmp_path / "m", PLAIN, 8, 0)
    path = tmp_path / "m" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": name}))
    content = huggingface.read_huggingface(tmp_path / "m")
    assert native.vocabulary_of(content, "test").symbols[4:] == ("|", "A", "B", "C")


@pytest.mark.parametrize("prefix", ["wav2vec2.", ""])
def test_first_name_of_the_mask_vector(prefix, tmp_path):
    """As facebook/wav2vec2-base-100h has it."""
    if prefix:
        theirs = transformers.Wav2Vec2ForPreTraining(their_config(ARCHITECTURES["base"])).eval()
    else:
        theirs = transformers.Wav2Vec2Model(their_config(ARCHITECTURES["base"])).eval()
    shake(theirs)
    save_theirs(theirs, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    weights = theirs.state_dict()
    vector = weights.pop(f"{prefix}masked_spec_embed")
    torch.save({**weights, f"{prefix}mask_time_emb_vector": vector}, tmp_path / "pytorch_model.bin")
    content = huggingface.read_huggingface(tmp_path)
    assert torch.equal(content["model"]["wav2vec2.mask_emb"], vector)


def test_a_contradicting_blank_is_refused(tmp_path):
    their_recogniser(tmp_path / "m", PLAIN, 8, 3)
    with pytest.raises(UserError, match="pad_token_id is 3, but the tokenizer's pad_token"):
        huggingface.read_huggingface(tmp_path / "m")
