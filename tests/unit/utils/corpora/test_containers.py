"""Recordings inside tar archives, Parquet and Arrow tables: what is read, and what is refused."""

import io
import tarfile

import numpy as np
import pytest
import soundfile

from utils.corpora.containers.members import read_member
from utils.corpora.rows import Row
from utils.corpora.sources import SourceOptions, _utterances
from wav2vec2.cli.errors import UserError


def audio(seconds=1.0, seed=0, format="FLAC", rate=16_000):
    """(bytes of an audio file, its samples)."""
    samples = (np.random.default_rng(seed).normal(0, 2000, int(rate * seconds))).astype(np.int16)
    content = io.BytesIO()
    soundfile.write(content, samples, rate, format=format)
    return content.getvalue(), samples.astype(np.float32) / 32768


def write_tar(path, files, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_range_of_an_archive(tmp_path, mode):
    files = {f"{n}.flac": audio(seed=n)[0] for n in range(3)}
    path = write_tar(tmp_path / "a.tar", files, mode)
    with tarfile.open(path) as archive:
        places = [f"tar:{info.offset_data}:{info.size}" for info in archive]
    for n in (0, 2, 1):  # also backwards
        found = read_member(path, places[n], "a")
        assert np.array_equal(found, audio(seed=n)[1])
    for place in ("tar:512:99999999", f"tar:512:{1 << 50}", "tar:1:7"):
        with pytest.raises(UserError):
            read_member(path, place, "a")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError):
        read_member(path, places[2], "a")


def utterances(root, *rows):
    return _utterances(rows, root, SourceOptions(output_dir="out", audio_dir=str(root)))


def test_ids_of_members(tmp_path):
    for name in ("a.tar", "b.tar"):
        write_tar(tmp_path / name, {})

    def row(archive, place, name, **fields):
        return Row(tmp_path / archive, "", member=f"tar:{place}", name=name, **fields)

    rows = [
        row("a.tar", 1, "one.of.three"),
        row("a.tar", 2, "two"),
        row("b.tar", 1, "two"),
        row("a.tar", 3, "../d/same"),
        row("a.tar", 4, "../d/same"),
        row("a.tar", 5, "long", start=1.5, end=2.0),
        row("a.tar", 5, "long", start=2.5, end=3.0),
        row("a.tar", 1, "one.of.three"),
    ]
    found, bad = utterances(tmp_path, *rows)
    assert [u.id for u in found] == [
        "one.of.three",
        "a_two",
        "b_two",
        "a_d_same_1",
        "a_d_same_2",
        "long_0001500",
        "long_0002500",
    ]
    assert [u.key for u in found] == [u.id for u in found]
    assert [b.reason for b in bad] == ["named twice"]
