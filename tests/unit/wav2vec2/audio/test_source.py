"""Recordings in pipes, devices, and files of any name."""

import os
import random
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wav2vec2.audio.decode import read_recording, read_utterance
from wav2vec2.audio.recordings import named_recording, recordings_at, unique_ids
from wav2vec2.audio.source import printable, recording_key
from wav2vec2.audio.zip_member import stem
from wav2vec2.cli.errors import UserError


def write(path, subtype=None, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, 70_000)
    soundfile.write(path, noise, 16_000, subtype=subtype)
    return path


def feed(pipe, content):
    thread = threading.Thread(target=lambda: pipe.write_bytes(content), daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_a_named_pipe_is_a_recording(tmp_path, suffix):
    whole = write(tmp_path / f"a.{suffix}")
    pipe = tmp_path / f"p.{suffix}"
    os.mkfifo(pipe)
    writer = feed(pipe, whole.read_bytes())
    assert np.array_equal(read_recording(pipe), read_recording(whole))
    writer.join()
    feed(pipe, b"").join(0.1)
    with pytest.raises(UserError, match=rf"p\.{suffix}: the file is empty"):
        read_recording(pipe)


def test_the_pipe_of_another_program(tmp_path):
    whole = write(tmp_path / "a.flac")
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as file:
        thread = threading.Thread(target=lambda: (file.write(whole.read_bytes()), file.close()))
        thread.start()
        found = read_recording(f"/dev/fd/{reading}")
        thread.join()
    os.close(reading)
    assert np.array_equal(found, read_recording(whole))


def test_devices_and_listed_pipes(tmp_path):
    for device in ("/dev/zero", "/dev/null"):
        with pytest.raises(UserError, match=f"{device}: is a device, not a recording"):
            read_recording(device)
    os.mkfifo(tmp_path / "p.wav")
    for path in (tmp_path / "p.wav", "/dev/zero"):
        with pytest.raises(UserError, match=f"{path}: not a file"):
            read_utterance(str(path), 100)
    write(tmp_path / "a.wav")
    (found,) = recordings_at(str(tmp_path))  # without the pipe
    assert found.source.name == "a.wav"


@pytest.mark.parametrize("name", [b"m\xfcde", b"\xff", b"\xe4\xb8x"])
@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "m4a"])
def test_names_that_are_not_utf8(tmp_path, name, suffix):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name + b"." + suffix.encode()))
    if suffix == "m4a":
        pytest.importorskip("av")
        path.write_bytes(b"not audio")
        with pytest.raises(UserError, match="not decodable audio"):
            read_recording(path)
    else:
        plain = write(tmp_path / f"plain.{suffix}")
        path.write_bytes(plain.read_bytes())
        assert np.array_equal(read_recording(path), read_recording(plain))
        assert np.array_equal(read_utterance(str(path)), read_utterance(str(plain)))
    (found,) = (r for r in recordings_at(str(tmp_path)) if "plain" not in r.id)
    found.where.encode()
    assert "\\x" in found.where and found.id.isascii() and "\\" not in found.id


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["a/x.wav", "b/x.wav"], ["a_x", "b_x"]),
        (["a/x.wav", "a/b/x.wav", "y.wav"], ["x", "b_x", "y"]),
        (["1/a/x.wav", "2/a/x.wav", "2/b/x.wav"], ["1_a_x", "2_a_x", "2_b_x"]),
        (["a/x.wav", "a/x.mp3", "b/x.mp3"], ["a_x_wav", "a_x_mp3", "b_x"]),
        (["x.wav", "x.flac"], ["x_wav", "x_flac"]),
    ],
)
def test_equal_names_keep_their_folders(tmp_path, names, ids):
    paths = [tmp_path / name for name in names]
    found = unique_ids([named_recording(recording_key(p, p.parent), p) for p in paths])
    assert [recording.id for recording in found] == ids


def slow_key(path, root):
    """The key, by pathlib alone."""
    if path.is_relative_to(root):
        path = path.relative_to(root)
    return re.sub(r"[\s/\\\0]", "_", printable(path.parent / stem(path)).lstrip("/"))


@pytest.mark.parametrize("root", ["/data", "/data/in", "/", ".", "in", "..", "/data.d/x y"])
def test_keys_are_those_of_pathlib(root):
    generator = random.Random(root)
    names = ["data", "in", "data.d", "x y", "a.wav", ".b", "c.tar.gz", "..", "d.", "é\udcff"]
    names += ["e\tf", "g.zip:1:20", ".zip:3:4", "h.zip"]
    for _ in range(3000):
        start = generator.choice(["", "/", f"{root}/", "../"])
        path = Path(start + "/".join(generator.choices(names, k=generator.randint(0, 4))))
        assert recording_key(path, Path(root)) == slow_key(path, Path(root)), path


def test_ids_that_nothing_else_tells_apart_are_numbered(tmp_path):
    paths = [tmp_path / name for name in ("a/b.wav", "a_b.wav", "a_b_2.wav")]
    found = unique_ids([named_recording(recording_key(p, tmp_path), p) for p in paths])
    assert [r.id for r in found] == ["a_b_wav", "a_b_wav_2", "a_b_2"]
    assert [r.key for r in found] == ["a_b", "a_b", "a_b_2"]
