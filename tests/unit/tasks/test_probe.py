"""The linear probe: what it learns from, what it measures, and that it changes nothing."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

import tasks.probe
from tasks.probe import (
    MELS,
    Labelled,
    Probe,
    ProbeData,
    ProbeOptions,
    linear_ctc,
    mel_filters,
    receptive_field,
    unit_error_rate,
)
from tests.integration.conftest import say
from wav2vec2.cli.errors import UserError
from wav2vec2.config import BASE, LARGE, MINI, Hourglass, Regularisation
from wav2vec2.feature_extractor import frame_count
from wav2vec2.trunk import Wav2Vec2

NARROW = replace(MINI, dim=48, ffn_dim=64, layers=3, position_groups=4)
SHORTENED = replace(NARROW, hourglass=Hourglass(1, 1, 3, 1, "linear"), norm_first=False)
CPU = torch.device("cpu")


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(tasks.probe, "STEPS", 20)
    monkeypatch.setattr(tasks.probe, "LEARNING_RATES", (0.03,))


def write_subset(folder, name, texts, seconds=None):
    """Utterances of tones for letters, with their letters."""
    lines, labels = [str(folder)], []
    for number, text in enumerate(texts):
        audio = np.concatenate([say(letter) for letter in text])
        if seconds:
            audio = np.resize(audio, int(seconds * 16_000))
        path = f"{name}-{number}.wav"
        soundfile.write(folder / path, audio, 16_000)
        lines.append(f"{path}\t{len(audio)}")
        labels.append(" ".join(text))
    (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    (folder / f"{name}.ltr").write_text("\n".join(labels) + "\n")


@pytest.fixture
def folder(tmp_path):
    texts = ["ABAB", "BACA", "CABC", "ACBA", "BBCA", "CCAB", "ABCC", "BCAB"]
    write_subset(tmp_path, "train", texts)
    write_subset(tmp_path, "dev", ["ABCA", "CABD"])
    return tmp_path


def read(folder, minutes=1.0, architecture=NARROW, subsets=("train", "dev")):
    return ProbeData.read(str(folder), subsets, "ltr", minutes, architecture)


def test_a_linear_layer_learns_what_is_linear():
    """Frames that show their unit, against frames that say nothing."""
    draw = np.random.default_rng(0)
    units = [draw.permutation(4)[:3] + 1 for _ in range(20)]
    clear = [3 * torch.eye(5)[np.append(np.repeat(u, 3), 0)] for u in units]
    noise = [torch.from_numpy(draw.standard_normal(f.shape)).float() for f in clear]
    lengths, labels = [len(f) for f in clear], [u.tolist() for u in units]
    rates = []
    for features in (clear, noise):
        *_, linear = linear_ctc(torch.cat(features), lengths, labels, 5, 0.03)
        rates.append(unit_error_rate(linear, torch.cat(features), lengths, labels))
    assert rates[0] == 0 and rates[1] > 50
    start = next(linear_ctc(torch.cat(noise), lengths, labels, 5, 0.03))
    assert unit_error_rate(start, torch.cat(noise), lengths, labels) == 100


def test_a_unit_that_was_not_learnt_counts_as_an_error():
    weight, bias = torch.eye(3), torch.zeros(3)
    features = torch.eye(3)[[1, 1, 0, 2]]
    assert unit_error_rate((weight, bias), features, [4], [[1, 2]]) == 0
    assert unit_error_rate((weight, bias), features, [4], [[1, -1]]) == 50


def test_mel_filters_and_frames():
    filters = mel_filters(MELS, 512)
    assert filters.shape == (257, MELS) and filters.min() == 0 and 0 < filters.max() <= 1
    peaks = filters.argmax(dim=0)
    assert (peaks.diff() >= 0).all() and peaks[0] < 5 and peaks[-1] > 240
    for architecture in (BASE, LARGE, MINI):
        assert receptive_field(architecture) == (400, 320)
    probe = Probe(ProbeData(*[Labelled([], [])] * 3, classes=2), NARROW, CPU)
    for samples in (400, 719, 720, 8_000):
        waveform = np.sin(np.arange(samples) * 0.3).astype(np.float32)
        found = probe._log_mel(waveform)
        assert found.shape == (frame_count(samples, NARROW.conv_layers), MELS)
        assert found.isfinite().all()
    assert probe._log_mel(np.zeros(800, np.float32)).isfinite().all()


@pytest.mark.parametrize("architecture", [NARROW, SHORTENED])
def test_every_layer_has_the_extractors_frames(architecture):
    torch.manual_seed(0)
    trunk = Wav2Vec2.from_config(architecture, Regularisation()).eval()
    probe = Probe(ProbeData(*[Labelled([], [])] * 3, classes=2), architecture, CPU)
    waveform = np.random.default_rng(0).standard_normal(8_400).astype(np.float32)
    features = probe._features(trunk, waveform)
    count = frame_count(8_400, architecture.conv_layers)
    assert [len(values) for values in features] == [count] * 4
    assert features[0].shape[1] == 128 and features[1].shape[1] == architecture.dim
    if architecture.hourglass:  # frames of the second layer are repeated
        assert torch.equal(features[2][0], features[2][2])
        assert not torch.equal(features[2][2], features[2][3])


@pytest.mark.parametrize("architecture", [NARROW, SHORTENED])
def test_rows_repeat_and_nothing_changes(folder, quick, architecture):
    """The same figures twice; weights, mode and torch's generator as before."""
    torch.manual_seed(0)
    trunk = Wav2Vec2.from_config(architecture, Regularisation()).train()
    weights = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
    probe = Probe(read(folder, architecture=architecture), architecture, CPU)
    state = torch.get_rng_state()
    rows = [probe.of_weights(trunk.state_dict()) for _ in range(2)]
    random = [probe.random_weights() for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state) and trunk.training
    assert all(torch.equal(weights[n], tensor) for n, tensor in trunk.state_dict().items())
    assert list(rows[0]) == ["extractor", "layer 1", "layer 2", "layer 3"]
    assert rows[0] == rows[1] and random[0] == random[1] and rows[0].keys() == random[0].keys()
    assert 0 <= probe.log_mel() == probe.log_mel() <= 200


def test_tones_are_known_to_log_mel_features(folder):
    """They show the units here: a better row is possible than that of random weights' extractor."""
    probe = Probe(read(folder), NARROW, CPU)
    assert probe.log_mel() <= 50


def test_damaged_weights_are_an_error(folder, quick):
    trunk = Wav2Vec2.from_config(NARROW, Regularisation())
    trunk.encoder.layer_norm.weight.data[0] = float("nan")
    with pytest.raises(UserError, match="features of layer 3 are not finite"):
        Probe(read(folder), NARROW, CPU).error_rates(trunk)


def test_what_is_learnt_from_and_measured_on(folder):
    data = read(folder)
    parts = [len(part.waveforms) for part in (data.learn, data.tune, data.held_out)]
    assert parts == [6, 2, 2] and data.classes == 4
    assert data.held_out.units == [[1, 2, 3, 1], [3, 1, 2, -1]]  # no D in the first filelist
    assert data.learn.minutes == pytest.approx(6 / 60)


def test_a_long_filelist_is_taken_evenly(tmp_path):
    write_subset(tmp_path, "train", ["A"] * 30 + ["B"] * 30 + ["C"] * 30, seconds=1)
    write_subset(tmp_path, "dev", ["A"] * 10, seconds=1)
    data = read(tmp_path, minutes=0.3)
    assert len(data.learn.units) + len(data.tune.units) == 18
    for part in (data.learn, data.tune):
        assert {unit for (unit,) in part.units} == {1, 2, 3}
    assert 0.1 < data.held_out.minutes <= 0.15


def test_utterances_too_short_for_their_labels_are_not_taken(tmp_path):
    write_subset(tmp_path, "train", ["ABCABCABC"] * 4, seconds=0.1)
    write_subset(tmp_path, "dev", ["A"])
    with pytest.raises(UserError, match=r"train\.tsv: holds no utterance of at most 1 minutes"):
        read(tmp_path)


def test_mistakes(folder):
    with pytest.raises(UserError, match=r"gone\.tsv: no such file"):
        read(folder, subsets=("train", "gone"))
    with pytest.raises(UserError, match=r"dev\.tsv: a probe needs 4 utterances in 1 minutes"):
        read(folder, subsets=("dev", "train"))
    (folder / "dev.ltr").unlink()
    with pytest.raises(UserError, match=r"dev\.ltr: no such file"):
        read(folder)
    with pytest.raises(UserError, match="--probe_subset a: give two filelists"):
        ProbeOptions(probe_subset=("a",))
    with pytest.raises(UserError, match="--probe_minutes 0: must be above 0"):
        ProbeOptions(probe_minutes=0)
