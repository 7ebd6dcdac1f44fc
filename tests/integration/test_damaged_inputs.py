"""Damaged audio, filelists and labels: a reader returns or raises UserError, in bounded memory."""

import io
import os
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.unit.wav2vec2.audio.test_decode import encode
from utils.corpora import conversion
from utils.corpora.sources import SourceOptions, read_source
from utils.corpora.tables import TableOptions
from utils.data.make_filelists import read_length, read_transcripts
from wav2vec2.audio.decode import count_channels, read_recording, read_utterance
from wav2vec2.audio.recordings import unique_ids
from wav2vec2.cli.errors import UserError
from wav2vec2.decoding.lexicon import read_lexicon
from wav2vec2.files.filelists import read_labels, read_manifest
from wav2vec2.inference.transcribe import decode_recording, listed_recordings
from wav2vec2.text.vocabulary import Vocabulary

AUDIO = (
    ("wav", "WAV", "PCM_16", 1),
    ("wav", "WAV", "FLOAT", 2),
    ("wav", "WAVEX", "PCM_24", 3),
    ("wav", "WAV", "IMA_ADPCM", 1),
    ("wav", "RF64", "ULAW", 1),
    ("aiff", "AIFF", "PCM_16", 2),
    ("flac", "FLAC", "PCM_16", 1),
    ("flac", "FLAC", "PCM_24", 2),
    ("ogg", "OGG", "VORBIS", 1),
    ("opus", "OGG", "OPUS", 1),
    ("mp3", "MP3", "MPEG_LAYER_III", 1),
    ("au", "AU", "PCM_16", 1),
    ("w64", "W64", "DOUBLE", 1),
    ("caf", "CAF", "PCM_16", 1),
    ("sph", "NIST", "PCM_16", 1),
)
"""Suffix, format, encoding, channels."""

TEXTS = {
    "s.tsv": "/data\na/x.flac\t16000\nb/y.flac\t32000\np.zip:10:20\t400\n",
    "s.ltr": "H I |\nY O | U |\nA |\n",
    "dict.ltr.txt": "| 10\nH 5\nI 4\nY 3\nO 2\nU 1\nA 1\n",
    "words.txt": "HI\tH I |\nYOU\tY O U |\nA\n",
    "list.txt": "a.wav\nb/c.flac\n\n/d/e.mp3\n",
    "rows.tsv": "path\ttext\na.wav\tHello\nb.wav\tYou, too!\n",
    "rows.csv": 'path,text\na.wav,"Hello, you"\nb.wav,No\n',
    "rows.jsonl": '{"path": "a.wav", "text": "Hi"}\n{"path": "b.wav", "text": null}\n',
    "1-2.trans.txt": "1-2-0000 HI YOU\n1-2-0001 YO\n",
}

PIECES = [
    b"\\ud800",
    b"\\u0000",
    b"\0",
    b"\t",
    b"\n",
    b"\r",
    b"|",
    b'"',
    b"\xff\xfe",
    b"\xe2\x80\xa8",
    b"9" * 400,
    b"\x0c",
]


def damage(data: bytes, generator: np.random.Generator) -> bytes:
    """One to four random changes; most in the first bytes, where headers are."""
    content = bytearray(data)
    for _ in range(generator.integers(1, 5)):
        size = max(len(content), 1)
        reach = min(size, 64) if generator.random() < 0.6 else size
        at = int(generator.integers(reach))
        kind = generator.integers(7)
        if kind == 0:
            del content[at:]
        elif kind == 1:
            content[at : at + 1] = generator.bytes(1)
        elif kind == 2:
            content[at : at + 4] = generator.bytes(4)
        elif kind == 3:
            content[at : at + 4] = (b"\xff\xff\xff\xff", b"\0\0\0\0")[generator.integers(2)]
        elif kind == 4:
            content[at:at] = PIECES[generator.integers(len(PIECES))]
        elif kind == 5:
            del content[at : at + int(generator.integers(1, 200))]
        else:
            content[at:at] = content[: int(generator.integers(size))]
    return bytes(content)


def audio_of(folder: Path) -> dict[str, bytes]:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (6000, 3))
    found = {}
    for number, (suffix, format, subtype, channels) in enumerate(AUDIO):
        file = io.BytesIO()
        soundfile.write(file, noise[:, :channels], 16_000, format=format, subtype=subtype)
        found[f"{number}.{suffix}"] = file.getvalue()
    for name, codec in (("a.m4a", "aac"), ("a.mka", "pcm_f32le"), ("a.g722", "g722")):
        encode(folder / name, codec)  # skips the test without av
        found[name] = (folder / name).read_bytes()
    return found


def transcribe_all(filelist: Path) -> None:
    """What `transcribe --filelist` does before it decodes, and the decoding: no file exists."""
    for recording in unique_ids(listed_recordings(filelist)):
        with pytest.raises(UserError):
            decode_recording(recording, "average")
        recording.where.encode()
        recording.id.encode()


def convert_all(options: SourceOptions, folder: Path) -> None:
    """What the import does with a table's rows: no file exists."""
    (folder / "o/audio").mkdir(parents=True, exist_ok=True)
    recordings = unique_ids(read_source(options, TableOptions())[0])
    results = conversion.convert_all(recordings, folder / "o", 1)
    assert all(not result.samples for result in results.values())
    assert results.keys() == {recording.id for recording in recordings}


def imported(path: Path) -> None:
    """What the import does with a recording.  UserError if it cannot be used."""
    piece = conversion.Piece(path.with_suffix(".imported.flac"), 0.0, None)
    (result,) = conversion.convert(conversion.Task(path, None, None, (piece,)))
    if not result.samples:
        raise UserError(str(result.notes))


def readers(path: Path) -> list[Callable[[], object]]:
    """What reads a file of this name."""
    name = path.name
    if name == "s.tsv":
        return [lambda: read_manifest(path.parent, "s"), lambda: transcribe_all(path)]
    if name == "s.ltr":
        return [lambda: read_labels(read_manifest(path.parent, "s"), "ltr")]
    if name == "dict.ltr.txt":
        return [lambda: Vocabulary.from_file(path)]
    if name == "words.txt":
        return [lambda: read_lexicon(path, Vocabulary(["|", *"HIYOUA"]))]
    if name == "list.txt":
        return [lambda: listed_recordings(path), lambda: transcribe_all(path)]
    if name.startswith("rows."):
        options = SourceOptions(output_dir="o", table=str(path))
        return [lambda: convert_all(options, path.parent)]
    if name.endswith(".trans.txt"):
        return [lambda: read_transcripts([path])]
    return [
        lambda: read_recording(path),
        lambda: read_utterance(str(path)),
        lambda: read_utterance(str(path), 6000),
        lambda: read_length(path),
        lambda: count_channels(path),
        lambda: imported(path),
    ]


def read_damaged(folder: Path, number: int, files: dict[str, bytes]) -> int:
    """Read damaged copy `number`; the number of readers that refused it."""
    generator = np.random.default_rng([18, number])
    name = sorted(files)[number % len(files)]
    for other, content in TEXTS.items():
        (folder / other).write_text(content)
    path = folder / name
    path.write_bytes(damage(files[name], generator))
    refused = 0
    for read in readers(path):
        try:
            read()
        except UserError as error:
            assert "\n" not in str(error).strip() or name in str(error)
            refused += 1
    path.unlink()
    return refused


def run(folder: Path, count: int) -> None:
    files = {**audio_of(folder), **{name: text.encode() for name, text in TEXTS.items()}}
    assert not any(read_damaged_whole(folder, name, data) for name, data in files.items())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = sum(read_damaged(folder, number, files) > 0 for number in range(count))
    assert refused > count // 4  # the damage is real
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 500 * 1024  # KiB


def read_damaged_whole(folder: Path, name: str, data: bytes) -> bool:
    """Whether undamaged content is refused by its first reader."""
    for other, content in TEXTS.items():
        (folder / other).write_text(content)
    (folder / name).write_bytes(data)
    readers(folder / name)[0]()
    return False


def test_some_damaged_files(tmp_path):
    run(tmp_path, 54)


@pytest.mark.long
def test_five_hundred_damaged_files(tmp_path):
    run(tmp_path, 540)  # 20 of each file


def test_the_folder_of_a_damaged_list_is_no_crash(tmp_path):
    os.mkdir(tmp_path / "s.tsv")
    with pytest.raises(UserError, match=r"s\.tsv: no such file"):
        read_manifest(tmp_path, "s")
