"""Level, silence and bandwidth of made-up audio, and of real speech resampled from 8 kHz."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from utils.corpus_report.facts import FRAME, LOWEST_LEVEL, UNKNOWN, Measurement, origin_of
from wav2vec2.audio.decode import read_recording


def measure(samples):
    """The facts of one block."""
    measurement = Measurement()
    measurement.add(samples)
    return measurement.facts()


PROMPTS = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
RATE = 16_000


def speech_like(seconds=1.0, seed=0, top=8000.0):
    """Noise with the spectral tilt of speech, in syllables, up to `top` Hz."""
    count = round(seconds * 20) * RATE // 20  # whose Fourier transform is fast
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(count))
    frequency = np.fft.rfftfreq(count, 1 / RATE)
    spectrum *= (1 + frequency / 500) ** -1.5 * (frequency <= top)
    wave = np.fft.irfft(spectrum, count) * (0.1 + np.sin(np.arange(count) / 1300) ** 2)
    return (0.5 * wave / abs(wave).max()).astype(np.float32)


def in_16_bits(wave):
    return (np.rint(wave.clip(-1, 1) * 32767) / 32768).astype(np.float32)


def upsampled(wave, rate, quality="HQ"):
    """Audio that was stored in 16 bits at `rate`, and later resampled to 16 kHz."""
    stored = in_16_bits(soxr.resample(wave, RATE, rate))
    return in_16_bits(soxr.resample(stored, rate, RATE, quality=quality))


def test_level_and_peak_of_a_sine():
    wave = (0.5 * np.sin(np.arange(RATE) / 7)).astype(np.float32)
    facts = measure(wave)
    assert facts.level == pytest.approx(-9.0, abs=0.1)  # 6.02 below full scale, 3.01 for a sine
    assert facts.peak == pytest.approx(-6.0, abs=0.1)
    assert facts.silence == 0


def test_an_offset_is_no_sound():
    wave = speech_like()
    assert measure(wave + np.float32(0.3)).level == measure(wave).level
    assert measure(np.full(RATE, 0.25, np.float32))[:3] == (LOWEST_LEVEL, -12.0, 1.0)


def test_digital_silence_and_audio_shorter_than_a_frame():
    assert measure(np.zeros(RATE, np.float32)) == (LOWEST_LEVEL, LOWEST_LEVEL, 1.0, None)
    assert measure(np.array([0.1, -0.1], np.float32)) == (-20.0, -20.0, 0.0, None)


@pytest.mark.parametrize("gain", [1.0, 0.05])
def test_silence_is_relative_to_the_loud_frames(gain):
    noise = 0.001 * np.random.default_rng(0).standard_normal(3 * RATE).astype(np.float32)
    wave = np.concatenate([speech_like(), np.zeros(3 * RATE, np.float32)])
    wave[RATE:] += noise
    assert measure(gain * wave).silence == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("gain", [1.0, 0.05, 0.01])
@pytest.mark.parametrize("seed", range(3))
def test_bandwidth_of_made_up_speech(seed, gain):
    wave = speech_like(seed=seed)
    assert measure(in_16_bits(gain * wave)).bandwidth == 8000
    for quality in ("LQ", "MQ", "VHQ"):
        found = measure(in_16_bits(gain * upsampled(wave, 8000, quality))).bandwidth
        assert 3500 <= found <= 4250, quality
    assert 5000 <= measure(upsampled(wave, 11_025)).bandwidth <= 5750


def test_a_low_pass_is_no_8_khz():
    assert 6000 <= measure(in_16_bits(speech_like(top=6500))).bandwidth <= 6750


def test_noise_of_the_room_hides_no_telephone():
    wave = speech_like() + 0.003 * np.random.default_rng(1).standard_normal(RATE)
    assert measure(in_16_bits(wave)).bandwidth == 8000
    assert 3500 <= measure(upsampled(wave, 8000)).bandwidth <= 4250


@pytest.mark.parametrize("top", [3400, 5000, 8000])
def test_blocks_give_what_the_whole_gives(top):
    wave = np.concatenate([speech_like(3, top=top), np.zeros(RATE, np.float32)])
    whole, blocks = measure(in_16_bits(wave)), Measurement()
    for start in range(0, len(wave), 16 * FRAME):
        blocks.add(in_16_bits(wave)[start : start + 16 * FRAME])
    assert blocks.facts() == whole
    assert whole.bandwidth == pytest.approx(top, abs=250)
    assert whole.silence == pytest.approx(0.25, abs=0.02)


@pytest.mark.skipif(not PROMPTS.is_dir(), reason="no asterisk-core-sounds-en-g722")
def test_bandwidth_of_real_speech():
    """Of 100 prompts, none that has speech above 4 kHz is called narrow, and every copy is."""
    pytest.importorskip("av")
    found = []
    for path in sorted(PROMPTS.glob("*.g722"))[:100]:
        wave = read_recording(path, notes={})
        if measure(wave).bandwidth is not None:
            found.append([measure(x).bandwidth for x in (wave, upsampled(wave, 8000))])
    assert len(found) > 80
    whole, narrow = zip(*found)
    assert sum(band <= 4250 for band in whole) <= 1
    assert all(band <= 4250 for band in narrow)


@pytest.mark.parametrize(
    ("name", "format", "subtype"),
    [
        ("a.wav", "WAV", "PCM_16"),
        ("b.flac", "FLAC", "PCM_24"),
        ("c.au", "AU", "ULAW"),
        ("d.wav", "WAV", "FLOAT"),
        ("e.ogg", "OGG", "VORBIS"),
    ],
)
def test_origin_is_that_of_the_header(tmp_path, name, format, subtype):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (4000, 2))
    soundfile.write(tmp_path / name, noise, 8000, format=format, subtype=subtype)
    assert origin_of(tmp_path / name) == (format, subtype, 8000, 2)
    assert origin_of((tmp_path / name).read_bytes()) == (format, subtype, 8000, 2)


def test_origin_of_what_is_no_audio(tmp_path):
    (tmp_path / "x.wav").write_text("no audio")
    (tmp_path / "y.raw").write_bytes(bytes(1000))
    for name in ("x.wav", "y.raw", "gone.wav"):
        assert origin_of(tmp_path / name) == UNKNOWN
    assert origin_of(b"no audio") == UNKNOWN


@pytest.mark.skipif(not PROMPTS.is_dir(), reason="no asterisk-core-sounds-en-g722")
def test_origin_by_av():
    pytest.importorskip("av")
    assert origin_of(PROMPTS / "activated.g722") == ("g722", "g722", 16_000, 1)
