"""Checkpoints of NVIDIA's recipe, made from the names and shapes in names.py."""

import pytest
import torch

from tests.unit.wav2vec2.interop import names
from tests.unit.wav2vec2.interop.conftest import DICTIONARY, SYMBOLS, nvidia
from wav2vec2.cli.errors import UserError
from wav2vec2.config import Hourglass, Regularisation
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.hourglass import HourglassStack
from wav2vec2.interop import checkpoints, native

PLAIN = names.Sizes()
LARGE_LIKE = names.Sizes(layer_norm=True, conv_bias=True)
NAIVE = names.Sizes(layers=6, hourglass=(1, 3, 2, 4))
LINEAR = names.Sizes(layers=6, hourglass=(2, 2, 2, 3), linear_resampling=True)
EMPTY_ENDS = names.Sizes(layers=2, hourglass=(0, 2, 0, 2))
ALL = [PLAIN, LARGE_LIKE, NAIVE, LINEAR, EMPTY_ENDS]


@pytest.fixture
def read(tmp_path):
    def read(content, dictionary=None):
        torch.save(content, tmp_path / "n.pt")
        return checkpoints.read_checkpoint(tmp_path / "n.pt", dictionary)

    return read


@pytest.mark.parametrize("sizes", ALL)
@pytest.mark.parametrize("mode", ["pretrain", "finetune"])
def test_every_weight_is_read(read, sizes, mode):
    given = nvidia(sizes, mode)
    content = read(given)
    architecture = native.architecture_of(content, "n")
    assert architecture.layers == sizes.layers and len(content["model"]) == len(given["model"])
    if sizes.hourglass:
        before, shortened, after, factor = sizes.hourglass
        resampling = "linear" if sizes.linear_resampling else "naive"
        assert architecture.hourglass == Hourglass(before, shortened, factor, after, resampling)
    total = sum(tensor.numel() for tensor in given["model"].values())
    assert sum(tensor.numel() for tensor in content["model"].values()) == total
    if mode == "finetune":
        assert content["dictionary"].split() == SYMBOLS and native.load_ctc(content, "n")
    else:
        assert content["kind"] == "pretraining"


def test_an_hourglass_is_numbered_through(read):
    given = nvidia(LINEAR, "pretrain")
    ours, theirs = read(given)["model"], given["model"]
    for number, name in enumerate(
        f"encoder.{part}.{i}.fc1.weight"
        for part in ("layers", "hourglass_layers", "post_layers")
        for i in range(2)
    ):
        found = ours[f"wav2vec2.encoder.stack.layers.{number}.fc1.weight"]
        assert torch.equal(found, theirs[name]), name
    for mine, name in (("shorten", "downsample"), ("upsample", "upsample")):
        found = ours[f"wav2vec2.encoder.stack.{mine}_linear.weight"]
        assert torch.equal(found, theirs[f"encoder.{name}_layer.linear.weight"])


def test_the_extractor_with_padding_masks(read):
    """`conv_layers.{i}.conv` and `.norm._group_norm` are the same weights."""
    masked = nvidia(names.Sizes(masked_extractor=True), "finetune", masked_feature_extractor=True)
    usual = nvidia(PLAIN, "finetune")
    assert masked["model"].keys() != usual["model"].keys()
    ours = read(masked)["model"]
    expected = read(usual)["model"]
    assert all(torch.equal(ours[name], tensor) for name, tensor in expected.items())
    shorter = {name.replace("._group_norm", ""): t for name, t in masked["model"].items()}
    again = read({**masked, "model": shorter})["model"]
    assert all(torch.equal(again[name], tensor) for name, tensor in expected.items())


def test_missing_and_unknown_weights_are_listed_by_their_own_names(read):
    given = nvidia(LINEAR, "pretrain")
    del given["model"]["encoder.hourglass_layers.1.fc1.bias"]
    del given["model"]["encoder.upsample_layer.linear.bias"]
    given["model"]["encoder.post_layers.2.fc1.bias"] = torch.ones(24)
    with pytest.raises(UserError) as raised:
        read(given)
    for name in (
        "encoder.hourglass_layers.1.fc1.bias is missing",
        "encoder.upsample_layer.linear.bias is missing",
        "encoder.post_layers.2.fc1.bias is unknown",
    ):
        assert name in str(raised.value)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            {"hourglass_transformer": "[2,8]"},
            "hourglass_transformer '\\[2,8\\]' is not of the form",
        ),
        ({"hourglass_transformer": 5}, "hourglass_transformer 5 is not of the form"),
        ({"hourglass_transformer": "[1,(1,2),1]", "hourglass_resample": None}, "must be known"),
        ({"hourglass_transformer": "[1,(3,2),1]"}, r"encoder\.hourglass_layers\.0\.\S+ is missing"),
        ({"rotary_embeddings": True}, "rotary_embeddings"),
        ({"use_spectrogram_features": True}, "use_spectrogram_features"),
        ({"normalize": None}, "normalize must be known"),
    ],
)
def test_unsupported_settings_are_refused(read, args, message):
    content = nvidia(PLAIN, "pretrain")
    content["args"] |= args
    with pytest.raises(UserError, match=message):
        read(content)


def test_dictionaries(read, tmp_path):
    content = nvidia(PLAIN, "finetune")
    other = tmp_path / "other.txt"
    other.write_text(DICTIONARY.replace("T", "Q"))
    assert read(content, other)["dictionary"].split() == ["|", "E", "Q", "A"]
    content["output_labels"] += "X 1\n"
    with pytest.raises(UserError, match=r"\(output_labels\): 9 symbols"):
        read(content)
    del content["output_labels"]
    with pytest.raises(UserError, match="without its dictionary"):
        read(content)


def their_hourglass(stack, x, padding, sizes):
    """NVIDIA's forward of an hourglass (`extract_features` in its model.py), on `[T, B, C]`."""
    before, shortened, _, factor = sizes.hourglass
    layers = list(stack.layers)

    def run(part, x, padding):
        valid = ~padding
        x = x.transpose(0, 1)
        for layer in part:
            x = layer(x, valid)
        return x.transpose(0, 1)

    x = run(layers[:before], x, padding)
    residual = x
    missing = (factor - len(x) % factor) % factor
    x = torch.cat([x, x.new_zeros(missing, *x.shape[1:])])
    pad = torch.cat([padding, padding.new_ones(len(padding), missing)], dim=1)
    pad = torch.nn.functional.avg_pool1d(pad[None].float(), factor, factor).int()[0] > 0
    steps, rows, channels = x.shape
    if sizes.linear_resampling:
        x = x.transpose(0, 1).reshape(rows, steps // factor, channels * factor)
        x = stack.shorten_linear(x).transpose(0, 1)
    else:
        x = torch.nn.functional.avg_pool1d(x.permute(1, 2, 0), factor, factor).permute(2, 0, 1)
    x = run(layers[before : before + shortened], x, pad)
    if sizes.linear_resampling:
        x = stack.upsample_linear(x.transpose(0, 1)).reshape(rows, -1, channels).transpose(0, 1)
    else:
        x = x.repeat_interleave(factor, dim=0)
    x = x[: len(residual)] + residual
    return run(layers[before + shortened :], x, padding)


@pytest.mark.parametrize("sizes", [NAIVE, LINEAR])
def test_the_hourglass_computes_what_theirs_does(read, sizes):
    """Without padding; padded rows differ by design (docs/checkpoints.md)."""
    content = read(nvidia(sizes, "finetune"))
    model = Wav2Vec2ForCTC.from_config(
        native.architecture_of(content, "n"), Regularisation(), len(SYMBOLS) + 4
    ).eval()
    stack = model.wav2vec2.encoder.stack
    assert isinstance(stack, HourglassStack)
    torch.manual_seed(0)
    for frames in (12, 13, 17):
        x = torch.randn(2, frames, 16)
        with torch.no_grad():
            ours = stack(x, None)
            padding = torch.zeros(2, frames, dtype=torch.bool)
            theirs = their_hourglass(stack, x.transpose(0, 1), padding, sizes).transpose(0, 1)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
