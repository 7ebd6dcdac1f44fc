"""Channels, scales and levels of recordings."""

import numpy as np
import pytest
import soundfile

from wav2vec2.audio import decode
from wav2vec2.audio.decode import (
    count_channels,
    read_recording,
    read_utterance,
    stream_array,
    stream_recording,
)
from wav2vec2.audio.levels import FULL_SCALE, Levels, average_channels
from wav2vec2.cli.errors import UserError

RATE = 16_000


def noise(seed=0, samples=80_000):
    """Longer than a block."""
    return 0.1 * np.random.default_rng(seed).standard_normal(samples)


X, Y = noise(), noise(1)


def write(path, channels, **options):
    soundfile.write(path, np.stack(channels, axis=1), RATE, **options)
    return path


def read(path, channel=None):
    notes = {}
    return read_recording(path, channel, notes), notes


@pytest.mark.parametrize(
    ("channels", "loudest"),
    [
        ([X, -X], 0),
        ([0.8 * X, -X], 1),
        ([X, -X, X, -X], 0),
        ([0.1 * Y, X, -X], 1),
        ([X + 0.01 * Y, 0.01 * Y - X], 0),
        ([*[0 * X] * 11, X], 11),  # the average is 22 dB below it
    ],
)
@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_channels_that_cancel_give_the_loudest(tmp_path, channels, loudest, suffix):
    if len(channels) > 8:  # more than FLAC has
        suffix = "wav"
    found, notes = read(write(tmp_path / f"a.{suffix}", channels))
    np.testing.assert_allclose(found, channels[loudest], atol=1e-4)
    assert list(notes) == ["channels cancel"]
    assert f"channel {loudest + 1} is used" in notes["channels cancel"]


@pytest.mark.parametrize(
    "channels",
    [
        [X, X],
        [X, Y],
        [X, 0 * X],
        [X, -0.3 * X],
        [X, np.roll(X, 5)],
        [noise(n) for n in range(6)],
        [X, *[0 * X] * 7],
    ],
)
def test_other_channels_are_averaged(tmp_path, channels):
    path = write(tmp_path / "a.wav", channels)
    found, notes = read(path)
    assert notes == {}
    blocks, _ = soundfile.read(path, dtype="float32", always_2d=True)
    assert np.array_equal(found, blocks.mean(axis=1))


def test_a_channel_by_its_number(tmp_path):
    path = write(tmp_path / "a.wav", [X, -X, Y])
    assert count_channels(path) == 3
    for number, channel in enumerate((X, -X, Y), start=1):
        found, notes = read(path, number)
        np.testing.assert_allclose(found, channel, atol=1e-4)
        assert notes == {}
    with pytest.raises(UserError, match=r"a\.wav: has no channel 4, its last is 3"):
        read(path, 4)


@pytest.mark.parametrize(
    ("factor", "options", "kind", "expected"),
    [
        (32_767, {}, "16-bit", 32_767 / 2**15),
        (20_000, {"format": "AIFF"}, "16-bit", 20_000 / 2**15),
        (2**23 * 0.9, {"subtype": "DOUBLE"}, "24-bit", 0.9),
        (2**31 * 0.9, {"subtype": "DOUBLE", "format": "CAF"}, "32-bit", 0.9),
    ],
)
def test_integers_in_floating_point_are_read_as_such(tmp_path, factor, options, kind, expected):
    x = X / abs(X).max()
    path = write(tmp_path / "a.x", [factor * x], **{"subtype": "FLOAT", "format": "WAV"} | options)
    found, notes = read(path)
    np.testing.assert_allclose(found, expected * x, atol=1e-4)
    assert kind in notes.pop("integers in floating point") and not notes
    with pytest.raises(UserError, match="in floating point, where 1 is full scale.*import_corpus"):
        read_utterance(str(path))


def test_few_integers_in_floating_point(tmp_path):
    """A quiet recording of whole numbers up to 12."""
    x = np.rint(30 * X)
    found, notes = read(write(tmp_path / "a.wav", [x], subtype="FLOAT"))
    assert np.array_equal(found, x / 2**15) and "integers in floating point" in notes


@pytest.mark.parametrize("peak", [1.01, 4.0, 31.0])
def test_beyond_full_scale_is_scaled_down(tmp_path, peak):
    path = write(tmp_path / "a.wav", [peak * X / abs(X).max()], subtype="FLOAT")
    found, notes = read(path)
    np.testing.assert_allclose(found, X / abs(X).max(), atol=1e-6)
    assert list(notes) == ["above full scale"]
    assert len(read_utterance(str(path))) == len(X)  # nothing is clipped in training either


def test_full_scale_itself_and_no_scale_at_all(tmp_path):
    found, notes = read(write(tmp_path / "a.wav", [X / abs(X).max()], subtype="FLOAT"))
    assert abs(found).max() == 1 and notes == {}
    with pytest.raises(UserError, match=r"a\.wav: samples up to .*e\+1\d in floating point"):
        read(write(tmp_path / "a.wav", [1e12 * X], subtype="FLOAT"))


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_arrays_beyond_full_scale(shape, caplog):
    for factor in (30_000.0, 3.0):
        (*_, last) = stream_array((factor * X).reshape(shape), RATE)
        assert 0.2 < abs(last).max() <= 1
    assert "read as 16-bit integers" in caplog.text and "scaled down by" in caplog.text
    opposite = np.concatenate([*stream_array(np.stack([X, -X], axis=1), RATE)])
    np.testing.assert_allclose(opposite, X, atol=1e-6)


@pytest.mark.parametrize(
    ("samples", "kind"),
    [
        (0 * X, "silent"),
        (0 * X - 0.5, "constant"),
        (X / 2000, "nearly silent"),
        (X / 2000 + 0.25, "nearly silent"),  # beside a constant
        ((20 * X).clip(-1, 1), "clipped"),
        ((5 * X).clip(-1, 1), "clipped"),
    ],
)
def test_what_can_hardly_be_transcribed_is_noted(tmp_path, samples, kind, caplog):
    path = write(tmp_path / "a.wav", [samples])
    assert list(read(path)[1]) == [kind]
    list(stream_recording(path, "the call"))
    assert caplog.text.count("the call: ") == 1


def test_a_usual_recording_is_not_noted(tmp_path, caplog):
    for samples in (X, X / 100, X / abs(X).max()):
        assert read(write(tmp_path / "a.wav", [samples]))[1] == {}
    list(stream_recording(tmp_path / "a.wav"))
    assert not caplog.text


@pytest.mark.parametrize("channels", [1, 2, 3, 8])
def test_averages_are_numpys_bit_for_bit(channels):
    block = np.random.default_rng(channels).uniform(-1, 1, (9_999, channels)).astype(np.float32)
    block[:50] = np.finfo(np.float32).tiny * block[:50]
    assert average_channels(block).tobytes() == block.mean(axis=1).tobytes()


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_levels_are_those_of_the_whole(channels):
    generator = np.random.default_rng(channels)
    whole = generator.uniform(-1, 1, (10_000, channels)).astype(np.float32)
    levels = Levels()
    for block in np.split(whole, [1, 4_000, 4_000]):
        levels.add(block)
    wide = whole.astype(np.float64)
    if channels > 1:
        wide = np.column_stack([wide, whole.mean(axis=1)])
    assert levels.samples == 10_000 and levels.channels == channels
    assert levels.clipped == (abs(whole) >= np.float32(FULL_SCALE)).any(axis=1).sum() > 0
    np.testing.assert_array_equal(levels.low, wide.min(axis=0))
    np.testing.assert_array_equal(levels.high, wide.max(axis=0))
    np.testing.assert_allclose(levels.power(), wide.var(axis=0), rtol=1e-12)


@pytest.mark.parametrize("channels", [[X, 0.5 * Y], [X, -X], [3 * X, Y]])
def test_a_long_recording_is_decoded_twice_and_gives_the_same(tmp_path, monkeypatch, channels):
    path = write(tmp_path / "a.wav", channels, subtype="FLOAT")
    (once, notes), calls = read(path), []
    real = decode._decode
    monkeypatch.setattr(decode, "_decode", lambda *given: (calls.append(1), real(*given))[1])
    assert read(path)[0].tobytes() == once.tobytes() and len(calls) == 1
    monkeypatch.setattr(decode, "KEPT_SAMPLES", 70_000)
    again, noted = read(path)
    assert again.tobytes() == once.tobytes() and noted == notes and len(calls) == 3
