"""Speed perturbation: lengths, pitch, labels, and what a run says and remembers of it."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from common.data.batching import GroupRequest
from common.data.dataset import UtteranceDataset
from common.data.speeds import at_speeds, read_at_speed
from tasks.data import DataOptions
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import UserError
from wav2vec2.files.filelists import Manifest, Utterance

LENGTHS = [16_001, 8_000, 23_457]
TONES = [440.0, 1000.0, 261.6]


def tone(frequency, samples):
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(samples) / SAMPLE_RATE)


@pytest.fixture
def manifest(tmp_path):
    """Pure tones."""
    found = []
    for number, (length, frequency) in enumerate(zip(LENGTHS, TONES)):
        path = tmp_path / f"u{number}.wav"
        soundfile.write(path, tone(frequency, length), SAMPLE_RATE, subtype="FLOAT")
        found.append(Utterance(path.stem, str(path), length, number + 2))
    return Manifest(Path("train.tsv"), tmp_path, tuple(found))


@pytest.mark.parametrize("speed", [0.5, 0.88, 0.9, 1.0, 1.1, 1.37, 2.0])
def test_a_tone_rises_with_the_speed(manifest, speed):
    played = at_speeds(manifest, [speed]).utterances
    assert len(played) == len(manifest)
    for utterance, length, frequency in zip(played, LENGTHS, TONES):
        assert utterance.samples == round(length / speed)
        audio = read_at_speed(utterance)
        assert audio.shape == (utterance.samples,) and audio.dtype == np.float32
        # The filter rings at both ends, where the tone begins and stops.
        middle = slice(300, -300)
        expected = tone(frequency * speed, utterance.samples)
        assert np.abs(audio - expected)[middle].max() < 2e-3


def test_without_speeds_nothing_changes(manifest):
    assert at_speeds(manifest, ()) is manifest
    assert at_speeds(manifest, (1.0,)) == manifest


def test_parts_are_parts_of_the_whole(manifest):
    utterance = at_speeds(manifest, [0.9]).utterances[2]
    whole = read_at_speed(utterance)
    assert np.array_equal(read_at_speed(utterance, 500, 1200), whole[500:1700])
    assert np.array_equal(read_at_speed(utterance, 500), whole[500:])


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("crop", [False, True])
def test_in_a_batch(manifest, crop, normalize):
    """Each copy is an utterance with its own length and its recording's labels."""
    played = at_speeds(manifest, [0.9, 1.0, 1.1]).utterances
    labels = [[number // 3] for number in range(9)]
    dataset = UtteranceDataset(played, seed=1, crop=crop, labels=labels, normalize_input=normalize)
    batch = dataset[GroupRequest(0, 0, ((6, 7, 8),))]
    assert batch.ids == ["u2"] * 3 and batch.labels == [[2]] * 3
    lengths = [round(LENGTHS[2] / speed) for speed in (0.9, 1.0, 1.1)]
    assert batch.lengths.tolist() == ([min(lengths)] * 3 if crop else lengths)
    for row, length, speed in zip(batch.waveforms.numpy(), batch.lengths, (0.9, 1.0, 1.1)):
        spectrum = np.abs(np.fft.rfft(row[:length] * np.hanning(length)))
        found = spectrum.argmax() * SAMPLE_RATE / length
        assert found == pytest.approx(TONES[2] * speed, abs=1.5)


@pytest.mark.parametrize(
    ("speeds", "said"),
    [((0.9, 0.4), "must be from 0.5 to 2.0"), ((1.0, 90.0), "must be"), ((1.1, 1.1), "twice")],
)
def test_mistakes(speeds, said):
    with pytest.raises(UserError, match=f"--speeds .*{said}"):
        DataOptions(speeds=speeds)
