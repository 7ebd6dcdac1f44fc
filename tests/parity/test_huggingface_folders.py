"""Folders of transformers are read here, and folders written here by transformers."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.parity.conftest import NO_DROPOUT, OBJECTIVE, shake, their_config
from wav2vec2.audio.decode import normalize
from wav2vec2.cli.errors import UserError
from wav2vec2.config import BASE, LARGE, MINI, Architecture
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.decoding.greedy import GreedyDecoder
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


@pytest.mark.parametrize("shards", [False, True], ids=["one file", "shards"])
@pytest.mark.parametrize("architecture", ["base, normalised", "large", "mini"], indirect=True)
def test_pretraining_model_read(architecture, shards, tmp_path):
    torch.manual_seed(7)
    theirs = transformers.Wav2Vec2ForPreTraining(their_config(architecture)).eval()
    shake(theirs)
    save_theirs(theirs, tmp_path, do_normalize=architecture.normalize_input, shards=shards)
    assert (tmp_path / "model.safetensors.index.json").exists() == shards
    content = huggingface.read_huggingface(tmp_path)
    assert native.architecture_of(content, "test") == architecture
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
        assert (ours.proj.bias[1:3] == huggingface.NEVER).all()
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
    assert native.architecture_of(content, "test") == replace(BASE, normalize_input=True)
    ours, vocabulary = native.load_ctc(content, "test")
    assert vocabulary.symbols[4:6] == ("|", "E")
    assert_same_recogniser(ours, theirs, BASE)
