import sys
import zipfile

import numpy as np
import pytest
import soundfile
import torch

from wav2vec2.audio import decode
from wav2vec2.audio.decode import (
    normalize,
    read_recording,
    read_utterance,
    stream_array,
    stream_recording,
)
from wav2vec2.audio.resample import SAMPLE_RATE, resample, resample_blocks
from wav2vec2.cli.errors import UserError


def tone(seconds=0.5, rate=SAMPLE_RATE, frequency=440.0):
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)


@pytest.fixture
def flac(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, tone(), SAMPLE_RATE, subtype="PCM_16")
    return path


def test_reads_what_was_written(flac):
    waveform = read_utterance(str(flac), 8000)
    assert waveform.dtype == np.float32 and waveform.shape == (8000,)
    np.testing.assert_allclose(waveform, tone(), atol=1 / 32768)


def test_zip_member(flac, tmp_path):
    archive = tmp_path / "pack.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as pack:
        pack.writestr("other", b"123")
        pack.write(flac, "a.flac")
        info = pack.getinfo("a.flac")
    data = archive.read_bytes()
    offset = data.index(flac.read_bytes())
    member = f"{archive}:{offset}:{info.file_size}"
    for read in (read_utterance, read_recording):
        assert np.array_equal(read(member), read(str(flac)))
        for beyond in (f"{offset}:{10**7}", f"{10**30}:5", f"5:{10**30}"):
            with pytest.raises(UserError, match=rf"pack\.zip:{beyond}: the archive ends before"):
                read(f"{archive}:{beyond}")
        with pytest.raises(UserError, match=r"gone\.zip:0:5: cannot be opened"):
            read(f"{tmp_path}/gone.zip:0:5")


@pytest.mark.parametrize("suffix", ["wav", "mp3", "ogg"])
def test_zip_members_of_other_formats(tmp_path, suffix):
    path, archive = tmp_path / f"a.{suffix}", tmp_path / "p.zip"
    soundfile.write(path, np.tile(tone(), (2, 6)).T, SAMPLE_RATE)
    data = path.read_bytes()
    archive.write_bytes(b"before" + data + b"behind")
    assert np.array_equal(read_recording(f"{archive}:6:{len(data)}"), read_recording(path))
    if suffix != "ogg":
        with pytest.raises(UserError, match=r"p\.zip:6:\d+: damaged or truncated"):
            read_recording(f"{archive}:6:{len(data) // 2}")


def test_zip_members_only_ffmpeg_decodes(tmp_path):
    encode(tmp_path / "r.m4a", "aac")
    data = (tmp_path / "r.m4a").read_bytes()
    (tmp_path / "p.zip").write_bytes(b"before" + data)
    found = read_recording(f"{tmp_path / 'p.zip'}:6:{len(data)}")
    assert np.array_equal(found, read_recording(tmp_path / "r.m4a"))


def test_missing_and_empty(tmp_path):
    with pytest.raises(UserError, match=r"b\.flac: cannot be opened"):
        read_utterance(str(tmp_path / "b.flac"))
    (tmp_path / "e.flac").touch()
    with pytest.raises(UserError, match=r"e\.flac: the file is empty"):
        read_utterance(str(tmp_path / "e.flac"))


@pytest.mark.parametrize("suffix", ["flac", "wav"])
@pytest.mark.parametrize("share", [0.1, 0.6, 0.98])
def test_truncated(tmp_path, suffix, share):
    whole, cut = tmp_path / f"w.{suffix}", tmp_path / f"cut.{suffix}"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000)
    soundfile.write(whole, noise, SAMPLE_RATE, subtype="PCM_16")
    data = whole.read_bytes()
    cut.write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match=rf"cut\.{suffix}: .*truncated"):
        read_utterance(str(cut), 16_000)


def test_other_length_than_listed(flac):
    with pytest.raises(UserError, match="holds 8000 samples where 9000 are listed"):
        read_utterance(str(flac), 9000)


def test_sample_rate_and_channels(tmp_path):
    soundfile.write(tmp_path / "r.wav", tone(rate=8000), 8000)
    with pytest.raises(UserError, match=r"r\.wav: sample rate 8000 Hz.*import_corpus"):
        read_utterance(str(tmp_path / "r.wav"))
    soundfile.write(tmp_path / "s.wav", np.stack([tone(), tone()], axis=1), SAMPLE_RATE)
    with pytest.raises(UserError, match=r"s\.wav: 2 channels.*import_corpus"):
        read_utterance(str(tmp_path / "s.wav"))


def test_not_audio_and_nan(tmp_path):
    (tmp_path / "x.flac").write_text("not audio at all")
    with pytest.raises(UserError, match=r"x\.flac: not decodable audio"):
        read_utterance(str(tmp_path / "x.flac"))
    wave = tone()
    wave[100] = np.nan
    soundfile.write(tmp_path / "n.wav", wave, SAMPLE_RATE, subtype="FLOAT")
    for read in (read_utterance, read_recording):
        with pytest.raises(UserError, match=r"n\.wav: holds NaN"):
            read(str(tmp_path / "n.wav"))


def test_normalize():
    x = np.random.default_rng(0).normal(3.0, 2.0, 5000).astype(np.float32)
    y = normalize(x)
    np.testing.assert_allclose(y, (x - x.mean()) / np.sqrt(x.var() + 1e-5), rtol=1e-4, atol=1e-5)
    assert not normalize(np.ones(10, dtype=np.float32)).any()
    wide = x.astype(np.float64)  # and to the bit, as the formula is written
    assert np.array_equal(y, ((wide - wide.mean()) / np.sqrt(wide.var() + 1e-5)).astype(np.float32))


def test_resample_keeps_pitch_and_duration():
    y = resample(tone(1.0, 44_100).astype(np.float32), 44_100)
    assert len(y) == SAMPLE_RATE and y.dtype == np.float32
    np.testing.assert_allclose(y[2000:14_000], tone(1.0)[2000:14_000], atol=5e-3)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_recordings_of_any_rate_and_channels(tmp_path, suffix):
    path = tmp_path / f"r.{suffix}"
    left = tone(1.0, 44_100)
    soundfile.write(path, np.stack([left, 0 * left], axis=1), 44_100)
    waveform = read_recording(path)
    assert waveform.dtype == np.float32
    assert abs(len(waveform) - SAMPLE_RATE) < 0.1 * SAMPLE_RATE  # mp3 pads
    middle = waveform[4000:12_000]
    spectrum = np.abs(np.fft.rfft(middle))
    assert abs(np.argmax(spectrum) * SAMPLE_RATE / len(middle) - 440) < 4
    assert abs(middle).max() == pytest.approx(0.25, rel=0.1)  # the mean of both channels


def encode(path, codec, rate=16_000, **options):
    av = pytest.importorskip("av")
    with av.open(str(path), "w", **options) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        samples = (tone(1.0, rate) * 32767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(
            format=stream.format, layout="mono", rate=rate, frame_size=stream.frame_size or None
        )
        for block in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(block))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(("name", "codec"), [("r.m4a", "aac"), ("r.g722", "g722")])
def test_recordings_only_ffmpeg_decodes(tmp_path, name, codec):
    encode(tmp_path / name, codec)
    waveform = read_recording(tmp_path / name)
    assert abs(len(waveform) - SAMPLE_RATE) < 0.15 * SAMPLE_RATE
    spectrum = np.abs(np.fft.rfft(waveform[4000:12_000]))
    assert abs(np.argmax(spectrum) * SAMPLE_RATE / 8000 - 440) < 4


def write_mute_video(path):
    """A picture without an audio stream; skips the test without `av`."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def test_video_without_sound(tmp_path):
    write_mute_video(tmp_path / "v.mp4")
    with pytest.raises(UserError, match=r"v\.mp4: holds no audio stream"):
        read_recording(tmp_path / "v.mp4")


def test_recordings_that_are_none(tmp_path):
    (tmp_path / "x.wav").write_bytes(b"RIFF but nothing else")
    (tmp_path / "e.wav").touch()
    soundfile.write(tmp_path / "z.wav", np.zeros(0), SAMPLE_RATE)
    for name, message in [
        ("x.wav", "not decodable"),
        ("e.wav", "the file is empty"),
        ("z.wav", "holds no samples"),
        ("gone.wav", "cannot be opened"),
        (".", "is a folder"),
    ]:
        with pytest.raises(UserError, match=message):
            read_recording(tmp_path / name)


def test_a_stream_without_its_length(flac):
    content = bytearray(flac.read_bytes())
    content[21] &= 0xF0  # the header's count of samples: half of byte 21, and the next four
    content[22:26] = bytes(4)
    flac.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.flac: its header does not give the length"):
        read_utterance(str(flac))
    pytest.importorskip("av")
    np.testing.assert_allclose(read_recording(flac), tone(), atol=1 / 32768)


def test_bare_samples(tmp_path):
    (tmp_path / "b.raw").write_bytes(bytes(3200))
    with pytest.raises(UserError, match=r"b\.raw: not decodable audio"):
        read_utterance(str(tmp_path / "b.raw"))
    with pytest.raises(UserError, match=r"b\.raw: bare samples of an unknown rate"):
        read_recording(tmp_path / "b.raw")


def test_utterance_without_samples(tmp_path):
    soundfile.write(tmp_path / "z.wav", np.zeros(0), SAMPLE_RATE)
    with pytest.raises(UserError, match=r"z\.wav: holds no samples"):
        read_utterance(str(tmp_path / "z.wav"), 0)


def test_zip_member_that_is_no_audio(tmp_path):
    (tmp_path / "p.zip").write_bytes(b"not audio at all")
    for member, message in (("p.zip:0:9", "not decodable audio"), ("p.zip:4:0", "is empty")):
        with pytest.raises(UserError, match=rf"{member}: not decodable audio"):
            read_utterance(str(tmp_path / member))
        with pytest.raises(UserError, match=rf"{member}: .*{message}"):
            read_recording(tmp_path / member)


def test_without_av_its_formats_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "x.m4a").write_bytes(b"not what libsndfile reads")
    with pytest.raises(UserError, match=r"x\.m4a: .*pip install av"):
        read_recording(tmp_path / "x.m4a")


@pytest.mark.parametrize("rate", [8000, 44_100, 48_000])
def test_streaming_is_resampling_at_once(rate, monkeypatch):
    import soxr

    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 3 * rate + 7).astype(np.float32)
    whole = soxr.resample(noise, rate, SAMPLE_RATE, quality="HQ")
    blocks = np.split(noise, [1, 1, 5000, 70_000])
    streamed = np.concatenate([*resample_blocks(blocks, rate)])
    assert len(streamed) == len(whole)
    np.testing.assert_allclose(streamed, whole, atol=1e-6)
    monkeypatch.setattr(decode, "BLOCK", 1000)
    np.testing.assert_allclose(np.concatenate([*stream_array(noise, rate)]), whole, atol=1e-6)


def test_a_recording_comes_in_blocks(tmp_path):
    left = np.random.default_rng(0).uniform(-0.5, 0.5, 200_000)
    soundfile.write(tmp_path / "r.wav", np.stack([left, 0 * left], axis=1), SAMPLE_RATE)
    blocks = [*stream_recording(tmp_path / "r.wav")]
    assert len(blocks) > 2 and max(map(len, blocks)) <= decode.BLOCK
    np.testing.assert_allclose(np.concatenate(blocks), left / 2, atol=1 / 32768)


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x,
        lambda x: x.astype(np.float64),
        lambda x: np.stack([x, x], axis=1),
        lambda x: (x * 32768).astype(np.int16),
        lambda x: (x * 2**31).astype(np.int32),
        lambda x: (x * 32768 + 32768).astype(np.uint16),
        torch.from_numpy,
        lambda x: torch.from_numpy(x).double().requires_grad_(),
        lambda x: (torch.from_numpy(x) * 32768).short(),
    ],
)
def test_arrays_of_any_type(convert):
    x = tone().astype(np.float32)
    found = np.concatenate([*stream_array(convert(x), SAMPLE_RATE)])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, x, atol=1 / 32768)


def test_half_precision_arrays():
    x = tone().astype(np.float32)
    for given in (x.astype(np.float16), torch.from_numpy(x).bfloat16()):
        found = np.concatenate([*stream_array(given, SAMPLE_RATE)])
        np.testing.assert_allclose(found, x, atol=2e-3)


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.zeros((2, 16_000)), 16_000, r"\[2, 16000\] has 16000 channels"),
        (np.zeros((5, 2, 2)), 16_000, r"give numbers as \[samples\]"),
        (np.array(["a"]), 16_000, "give numbers"),
        (np.zeros(0), 16_000, "holds no samples"),
        (np.zeros(10), 0, "rate 0: must be a number"),
        (np.full(10, np.nan), 16_000, "holds NaN"),
    ],
)
def test_arrays_that_are_no_audio(samples, rate, message):
    with pytest.raises(UserError, match=message):
        list(stream_array(samples, rate))


def test_damage_on_the_way(tmp_path):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 20 * SAMPLE_RATE)
    soundfile.write(tmp_path / "w.flac", noise, SAMPLE_RATE)
    data = (tmp_path / "w.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"the call: damaged or truncated, .* after [89]\.\d s"):
        list(stream_recording(tmp_path / "cut.flac", "the call"))


@pytest.mark.parametrize("size", [2**32 - 1, 2**31, 2**31 - 4096, 0])
def test_headers_of_pipes_are_read_to_the_end(tmp_path, size):
    """What writes wav into a pipe cannot go back and say how long it became."""
    soundfile.write(tmp_path / "p.wav", tone(), SAMPLE_RATE)
    data = bytearray((tmp_path / "p.wav").read_bytes())
    place = data.index(b"data") + 4
    data[4:8] = data[place : place + 4] = size.to_bytes(4, "little")
    (tmp_path / "p.wav").write_bytes(data)
    if size == 0:
        with pytest.raises(UserError, match=r"p\.wav: its header does not give the length"):
            read_utterance(str(tmp_path / "p.wav"))
        pytest.importorskip("av")
    np.testing.assert_allclose(read_recording(tmp_path / "p.wav"), tone(), atol=1 / 32768)


@pytest.mark.parametrize("share", [0.1, 0.6, 0.98])
@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("wav", {}),
        ("wav", {"format": "WAVEX"}),
        ("wav", {"format": "RF64"}),
        ("wav", {"endian": "BIG"}),
        ("aiff", {}),
        ("au", {"subtype": "PCM_24"}),
        ("w64", {}),
        ("sph", {"format": "NIST"}),
        ("sph", {"format": "NIST", "subtype": "ULAW"}),
        ("mp3", {}),
        ("mp3", {"bitrate_mode": "CONSTANT", "compression_level": 0.5}),
    ],
)
def test_a_file_that_was_cut_short_is_not_taken_for_a_whole_one(tmp_path, suffix, options, share):
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 4 * SAMPLE_RATE)
    soundfile.write(path, noise, SAMPLE_RATE, **options)
    data = path.read_bytes()
    assert len(read_recording(path)) == len(read_utterance(str(path))) == len(noise)
    path.write_bytes(data[: int(share * len(data))])
    for read in (read_utterance, read_recording):
        with pytest.raises(
            UserError, match=rf"a\.{suffix}: damaged or truncated, holds \d+ of the"
        ):
            read(str(path))


def test_chunks_around_the_audio_and_the_padding_of_an_odd_one_may_be_cut(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone()[:-1], SAMPLE_RATE, subtype="PCM_U8")
    data = path.read_bytes()
    place = data.index(b"data")
    notes = b"note" + (3).to_bytes(4, "little") + b"odd\0"
    decode = data[place : place + 8 + 7999]
    for content in (decode, decode + b"\0", decode + b"\0" + notes, decode + b"\0" + notes[:6]):
        path.write_bytes(data[:place] + notes + content)
        assert len(read_recording(path)) == len(read_utterance(str(path))) == 7999


def write_mp3(path, mode="CONSTANT"):
    """An MP3 of 5 s of noise; its bytes."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 5 * SAMPLE_RATE)
    soundfile.write(path, noise, SAMPLE_RATE, bitrate_mode=mode, compression_level=0.5)
    return path.read_bytes()


def test_an_mp3_is_whole_between_tags(tmp_path):
    data = write_mp3(tmp_path / "a.mp3")
    tag = b"ID3\4\0\0" + bytes([0, 0, 2, 5]) + bytes(2 * 128 + 5)
    for whole in (tag + data, data + b"TAG" + bytes(125)):
        (tmp_path / "a.mp3").write_bytes(whole)
        assert len(read_recording(tmp_path / "a.mp3")) == 5 * SAMPLE_RATE
    (tmp_path / "a.mp3").write_bytes(tag + data[: len(data) // 2])
    with pytest.raises(UserError, match=r"a\.mp3: damaged or truncated"):
        read_recording(tmp_path / "a.mp3")


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_an_mp3_without_its_length_is_decoded_to_the_end(tmp_path, mode, monkeypatch, caplog):
    """As programs write mp3 to a pipe.  With a variable bit rate, libsndfile decodes half of this
    one; without another decoder, a warning says so."""
    data = write_mp3(tmp_path / "a.mp3", mode)
    (tmp_path / "a.mp3").write_bytes(data[data.index(data[:2], 2) :])  # from the second frame on
    with pytest.raises(UserError, match=r"a\.mp3: its header does not give the length"):
        read_utterance(str(tmp_path / "a.mp3"))
    pytest.importorskip("av")
    assert 5 * SAMPLE_RATE <= len(read_recording(tmp_path / "a.mp3")) < 5.2 * SAMPLE_RATE
    assert not caplog.text
    monkeypatch.setattr("wav2vec2.audio.decode.find_spec", lambda name: None)
    seconds = len(read_recording(tmp_path / "a.mp3")) / SAMPLE_RATE
    assert 5 <= seconds < 5.2 if mode == "CONSTANT" else 2 < seconds < 4
    assert "a.mp3: an MP3 without its length" in caplog.text


def test_a_header_counted_as_audio_is_no_damage(tmp_path):
    """Careless writers do; nothing is missing."""
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(1600), SAMPLE_RATE)
    data = bytearray(path.read_bytes())
    place = data.index(b"data") + 4
    data[place : place + 4] = (3200 + 44).to_bytes(4, "little")
    path.write_bytes(data)
    assert len(read_recording(path)) == len(read_utterance(str(path))) == 1600


@pytest.mark.parametrize("read", [read_utterance, read_recording])
@pytest.mark.parametrize(("start", "end"), [(0, None), (5000, 8000)])
def test_a_bad_mp3_is_our_line_alone(tmp_path, capfd, read, start, end):
    """libmpg123 has notes about it, which it writes to standard error itself."""
    data = bytearray(write_mp3(tmp_path / "a.mp3"))
    data[start:end] = b"\xff\xfb" + np.random.default_rng(1).bytes(len(data[start:end]) - 2)
    (tmp_path / "a.mp3").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.mp3: .*not decodable"):
        read(str(tmp_path / "a.mp3"))
    assert capfd.readouterr().err == ""


def declare_more(path, milliseconds, channels, bits, rate=SAMPLE_RATE):
    """Cut the end of a file, as if its header declared more."""
    data = path.read_bytes()
    path.write_bytes(data[: -round(milliseconds / 1000 * rate) * channels * bits // 8])


@pytest.mark.parametrize("milliseconds", [4, 9, 14])
@pytest.mark.parametrize(
    ("suffix", "channels", "subtype", "bits"),
    [
        ("wav", 1, "PCM_16", 16),
        ("wav", 2, "PCM_24", 24),
        ("aiff", 1, "PCM_16", 16),
        ("wav", 3, "FLOAT", 32),
        ("wav", 1, "ULAW", 8),
        ("au", 1, "PCM_16", 16),
        ("w64", 2, "PCM_16", 16),
        ("sph", 1, "PCM_16", 16),
    ],
)
def test_a_header_that_declares_milliseconds_more(
    tmp_path, milliseconds, suffix, channels, subtype, bits
):
    """As some recorders write it: accepted and noted.  More than that is missing audio."""
    path = tmp_path / f"a.{suffix}"
    format = "NIST" if suffix == "sph" else suffix.upper()
    samples = np.tile(tone(2.0), (channels, 1)).T
    soundfile.write(path, samples, SAMPLE_RATE, subtype=subtype, format=format)
    declare_more(path, milliseconds, channels, bits)
    notes = {}
    left = round((2 - milliseconds / 1000) * SAMPLE_RATE)
    assert len(read_recording(path, notes=notes)) == left
    if milliseconds * 16 * channels * bits / 8 > 64:
        assert notes == {
            "shorter than declared": f"holds {milliseconds} ms less than its header declares"
        }
    if channels == 1:
        assert len(read_utterance(str(path), left)) == left
    declare_more(path, 30, channels, bits)
    for read in (read_utterance, read_recording):
        with pytest.raises(UserError, match="damaged or truncated"):
            read(str(path))


@pytest.mark.parametrize("av", [True, False])
@pytest.mark.parametrize("seconds", [0.3, 1.7, 5.0])
@pytest.mark.parametrize("share", [0.0002, 0.02, 0.4, 0.9, 0.999])
def test_a_flac_of_any_length_that_was_cut_is_called_truncated(
    tmp_path, monkeypatch, share, seconds, av
):
    if not av:
        monkeypatch.setitem(sys.modules, "av", None)
    path = tmp_path / "a.flac"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, int(seconds * SAMPLE_RATE))
    soundfile.write(path, noise, SAMPLE_RATE)
    data = path.read_bytes()
    path.write_bytes(data[: max(int(share * len(data)), 5)])
    with pytest.raises(UserError, match=r"a\.flac: damaged or truncated"):
        read_recording(path)


# --- SPHERE


class Bits:
    """Writes shorten's codes: a number's high bits in unary, `width` low bits as they are."""

    def __init__(self):
        self.text = ""

    def unsigned(self, value, width):
        self.text += (
            "0" * (value >> width) + "1" + (f"{value:b}".zfill(width)[-width:] * (width > 0))
        )

    def signed(self, value, width):
        self.unsigned(2 * value if value >= 0 else -2 * value - 1, width + 1)

    def long(self, value):
        self.unsigned(value.bit_length(), 2)
        self.unsigned(value, value.bit_length())

    def content(self):
        text = self.text + "0" * (-len(self.text) % 32)
        return int(text, 2).to_bytes(len(text) // 8, "big")


def shorten(samples, block=256):
    """A shorten stream of 16-bit samples, each as it is."""
    bits = Bits()
    for field in (
        5,
        1,
        block,
        0,
        0,
        0,
    ):  # 16 bits, channels, block, predictors, means, skipped bytes
        bits.long(field)
    for start in range(0, len(samples), block):
        part = samples[start : start + block]
        if len(part) < block:
            bits.unsigned(5, 2)  # another length of a block
            bits.long(len(part))
        bits.unsigned(0, 2)  # a block without prediction
        bits.unsigned(10, 3)
        for sample in part:
            bits.signed(int(sample), 10)
    bits.unsigned(4, 2)  # the end
    return b"ajkg\2" + bits.content()


def sphere(path, coding, content, samples, width):
    fields = {
        "sample_count": f"-i {samples}",
        "sample_rate": "-i 16000",
        "channel_count": "-i 1",
        "sample_n_bytes": f"-i {width}",
        "sample_byte_format": "-s2 01" if width == 2 else "-s1 1",
        "sample_coding": f"-s{len(coding)} {coding}",
    }
    lines = [
        "NIST_1A",
        "   1024",
        *(f"{name} {value}" for name, value in fields.items()),
        "end_head\n",
    ]
    path.write_bytes("\n".join(lines).encode().ljust(1024) + content)
    return path


def test_sphere_compressed_by_shorten(tmp_path):
    pytest.importorskip("av")
    samples = np.random.default_rng(0).integers(-9000, 9000, 5000)
    content = shorten(samples)
    path = sphere(tmp_path / "a.sph", "pcm,embedded-shorten-v2.00", content, 5000, 2)
    assert np.array_equal(read_recording(path), samples.astype(np.float32) / 32768)
    path.write_bytes(path.read_bytes()[: len(content) // 2])
    with pytest.raises(UserError, match="truncated, holds .* s of the 0.31 s"):
        read_recording(path)
    path = sphere(tmp_path / "b.sph", "ulaw,embedded-shorten-v2.00", content, 5000, 1)
    with pytest.raises(UserError, match="unknown codec.*sph2pipe -f wav"):
        read_recording(path)


@pytest.mark.parametrize(
    ("coding", "subtype"), [("ulaw", "ULAW"), ("mu-law", "ULAW"), ("alaw", "ALAW")]
)
def test_sphere_of_telephone_codes(tmp_path, coding, subtype):
    if coding == "mu-law":
        pytest.importorskip("av")
    soundfile.write(tmp_path / "a.au", tone(), SAMPLE_RATE, subtype=subtype)
    content = (tmp_path / "a.au").read_bytes()[-8000:]
    path = sphere(tmp_path / "a.sph", coding, content, 8000, 1)
    assert np.array_equal(read_recording(path), read_recording(tmp_path / "a.au"))
