"""utils/corpora/conversion.py: memory, and what is left when something fails."""

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import soundfile

from utils.corpora import conversion
from utils.corpora.conversion import Piece, Task, convert
from wav2vec2.audio import decode

REPOSITORY = Path(__file__).resolve().parents[4]


def speak(path, seconds, rate=16_000, channels=1):
    """A recording that FLAC compresses well, of any length."""
    samples = np.sin(np.arange(int(seconds * rate)) / 9).astype(np.float32) / 2
    soundfile.write(path, np.stack([samples] * channels, axis=1), rate)
    return path


def test_a_piece_is_written_in_blocks_and_is_the_whole(tmp_path, monkeypatch):
    source = speak(tmp_path / "a.wav", 3.0, 22_050, channels=2)
    task = Task(source, None, None, (Piece(tmp_path / "once.flac", 0.5, 2.5),))
    once = convert(task)
    monkeypatch.setattr(conversion, "BLOCK", 1000)
    task = Task(source, None, None, (Piece(tmp_path / "blocks.flac", 0.5, 2.5),))
    assert convert(task) == once and once[0].samples == 32_000
    assert (tmp_path / "blocks.flac").read_bytes() == (tmp_path / "once.flac").read_bytes()


def test_memory_does_not_grow_with_the_recording(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "KEPT_SAMPLES", 2**20)
    peaks = []
    for minutes in (3, 6):
        source = speak(tmp_path / f"{minutes}.wav", 60 * minutes, channels=2)
        piece = Piece(tmp_path / f"{minutes}.flac", 0.0, None)
        tracemalloc.start()
        assert convert(Task(source, None, None, (piece,)))[0].samples == 960_000 * minutes
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < 20 * 2**20 and peaks[1] < 1.1 * peaks[0]


def test_a_full_disk_is_one_line_and_leaves_no_part_of_a_file(tmp_path):
    speak(tmp_path / "a.wav", 5.0)
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from utils.corpora.conversion import Piece, Task, convert\n"
        "from wav2vec2.cli.errors import run_command\n"
        "folder = Path(sys.argv[1])\n"
        "task = Task(folder / 'a.wav', None, None, (Piece(folder / 'a.flac', 0.0, None),))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "run_command(lambda: convert(task) and 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr == f"error: {tmp_path / 'a.flac'}: cannot be written: File too large\n"
    assert os.listdir(tmp_path) == ["a.wav"]
