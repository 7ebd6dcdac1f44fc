import multiprocessing
import os
import pickle
import struct
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import soundfile

from common.data.batching import GroupRequest
from common.data.dataset import UtteranceDataset
from wav2vec2.audio import packed
from wav2vec2.audio.packed import FLOAT32, INT16, Header, address, read_audio
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import UserError
from wav2vec2.files.filelists import Utterance
from wav2vec2.inference.batches import load_batches

ORIGIN = bytes(range(32))
SAMPLES = np.array([0, 1, -1, 32767, -32768, 1234, -4321, 7], dtype=INT16)


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "s-00000.pack"
    path.write_bytes(Header(INT16, len(SAMPLES), ORIGIN).pack() + SAMPLES.tobytes())
    return path


def test_a_shard_is_what_its_description_says(shard):
    """Read the way another program would: 64 bytes of header, then samples."""
    content = shard.read_bytes()
    assert content[:8] == b"PCMSHARD" and content[24:56] == ORIGIN
    assert struct.unpack("<I4sQ", content[8:24]) == (1, b"<i2\0", len(SAMPLES))
    mapped = np.memmap(shard, "<i2", "r", offset=64)
    assert np.array_equal(mapped, SAMPLES)


def test_reads_what_libsndfile_makes_of_the_same_samples(tmp_path):
    every = np.arange(-32768, 32768, dtype=INT16)
    path = tmp_path / "e-00000.pack"
    path.write_bytes(Header(INT16, len(every), ORIGIN).pack() + every.tobytes())
    found = read_audio(address(str(path), 0, len(every), "e.wav"), len(every))
    for form in ("wav", "flac"):
        soundfile.write(tmp_path / f"e.{form}", every, SAMPLE_RATE, subtype="PCM_16")
        expected, _ = soundfile.read(tmp_path / f"e.{form}", dtype="float32")
        assert found.dtype == np.float32 and found.tobytes() == expected.tobytes()


def test_parts(shard):
    whole = SAMPLES / np.float32(32768)
    path = address(str(shard), 2, 5, "a.flac")
    assert read_audio(path, 5).tolist() == whole[2:7].tolist()
    assert read_audio(path, 5, 1).tolist() == whole[3:7].tolist()
    assert read_audio(path, 5, 1, 2).tolist() == whole[3:5].tolist()


def test_parts_of_files(tmp_path):
    soundfile.write(tmp_path / "a.wav", SAMPLES, SAMPLE_RATE, subtype="PCM_16")
    part = read_audio(str(tmp_path / "a.wav"), len(SAMPLES), 3, 2)
    assert (part * 32768).tolist() == [32767, -32768]


def test_floats_stay_as_they_are(tmp_path):
    samples = np.array([0.1, -0.0, 3.5, -1e-9], dtype=FLOAT32)
    path = tmp_path / "f-00000.pack"
    path.write_bytes(Header(FLOAT32, 4, ORIGIN).pack() + samples.tobytes())
    assert read_audio(address(str(path), 0, 4, "f.wav"), 4).tobytes() == samples.tobytes()


def test_a_request_that_is_answered_in_parts(shard, monkeypatch):
    whole = os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda file, buffers, offset: whole(file, [buffers[0][:3]], offset)
    )
    found = read_audio(address(str(shard), 0, len(SAMPLES), "a.flac"), len(SAMPLES))
    assert (found * 32768).tolist() == SAMPLES.tolist()


def test_a_shard_is_opened_once(shard, monkeypatch):
    path = address(str(shard), 0, 3, "a.flac")
    read_audio(path, 3)
    monkeypatch.setattr(os, "open", None)
    assert len(read_audio(path, 3)) == 3


def test_no_more_shards_stay_open_than_allowed(tmp_path, monkeypatch):
    paths = [tmp_path / f"m-{n:05d}.pack" for n in range(packed._OPEN_SHARDS + 20)]
    for number, path in enumerate(paths):
        sample = np.array([number], dtype=INT16)
        path.write_bytes(Header(INT16, 1, ORIGIN).pack() + sample.tobytes())
        assert read_audio(address(str(path), 0, 1, "a.wav"), 1) * 32768 == number
    held = [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if _is_link(n)]
    assert sum(name.startswith(str(tmp_path)) for name in held) <= packed._OPEN_SHARDS
    packed._opened.cache_clear()


def _is_link(number):
    return os.path.islink(f"/proc/self/fd/{number}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c[:-1], r"79 bytes where its header says 80; it is truncated"),
        (lambda c: c + b"\0", r"81 bytes where its header says 80"),
        (lambda c: c[:40], r"40 bytes where its header says|not a shard"),
        (lambda c: b"", r"not a shard of packed audio"),
        (lambda c: b"fLaC" + c[4:], r"not a shard of packed audio"),
        (lambda c: c[:8] + b"\2" + c[9:], r"a shard of version 2, this program reads version 1"),
        (lambda c: c[:12] + b"|O\0\0" + c[16:], r"not a shard of packed audio"),
    ],
)
def test_shards_that_cannot_be_used(shard, change, message):
    shard.write_bytes(change(shard.read_bytes()))
    with pytest.raises(UserError, match=rf"s-00000\.pack: {message}"):
        read_audio(address(str(shard), 0, 3, "a.flac"), 3)


def test_a_shard_that_is_missing(shard):
    shard.unlink()
    with pytest.raises(UserError, match=r"s-00000\.pack:0:3/a.flac: cannot be read \(No such file"):
        read_audio(address(str(shard), 0, 3, "a.flac"), 3)


def test_a_shard_that_shrinks_while_it_is_read(shard):
    path = address(str(shard), 0, 8, "a.flac")
    read_audio(path, 8)
    os.truncate(shard, 70)
    with pytest.raises(UserError, match=r"s-00000\.pack: became shorter since it was opened"):
        read_audio(path, 8)


@pytest.mark.parametrize(
    ("addressed", "listed"), [((6, 3), 3), ((0, 3), 4), ((0, 4), 3), ((0, 0), 0)]
)
def test_a_filelist_of_other_shards(shard, addressed, listed):
    with pytest.raises(UserError, match="do not belong together"):
        read_audio(address(str(shard), *addressed, "a.flac"), listed)


def test_started_and_forked_processes_read_the_same(shard):
    path = address(str(shard), 1, 6, "a.flac")
    expected = read_audio(path, 6).tolist()  # the forked process finds it open
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        with ProcessPoolExecutor(1, context) as pool:
            assert pool.submit(read_audio, path, 6).result().tolist() == expected


def test_nothing_of_a_shard_travels_with_a_dataset(tmp_path):
    samples = np.zeros(500_000, dtype=INT16)
    path = tmp_path / "big-00000.pack"
    path.write_bytes(Header(INT16, len(samples), ORIGIN).pack() + samples.tobytes())
    utterances = [
        Utterance(f"u{n}", address(str(path), 1000 * n, 1000, f"u{n}.wav"), 1000, n + 2)
        for n in range(4)
    ]
    dataset = UtteranceDataset(utterances, seed=0, crop=True)
    requests = [GroupRequest(0, n, ((n,),)) for n in range(4)]
    before = [batch.ids for batch in load_batches(dataset, requests, workers=0)]
    assert len(pickle.dumps(dataset)) < 2000
    assert [batch.ids for batch in load_batches(dataset, requests, workers=2)] == before
