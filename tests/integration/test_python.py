"""The packages as a user of Python has them: documented examples, and an installation."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from tests.integration.conftest import ROOT, say
from tests.unit.wav2vec2.decoding.arpa import bigrams, write_arpa
from utils.benchmarks.transcription import write_model
from wav2vec2.audio.resample import SAMPLE_RATE


def run_python(script: str, folder: Path, packages: Path) -> subprocess.CompletedProcess:
    """A script in `folder`, which sees the packages in `packages`."""
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(packages), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def folder(tmp_path):
    """A folder with what the examples name."""
    write_model(tmp_path / "model.pt", "mini")
    for suffix in ("wav", "mp3"):
        soundfile.write(tmp_path / f"recording.{suffix}", say("CAT"), SAMPLE_RATE)
    return tmp_path


def test_documented_examples(folder):
    document = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", document, flags=re.DOTALL)
    assert len(examples) >= 4
    result = run_python("\n".join(examples), folder, ROOT)
    assert result.returncode == 0, result.stderr
    assert "\nWEBVTT\n" in result.stdout
    assert "missing.wav: cannot be opened" in result.stdout.splitlines()[-1]


def test_what_load_refuses(folder):
    script = """
import wav2vec2
for arguments in [
    dict(path="gone.pt"),
    dict(path="model.pt", device="nonsense"),
    dict(path="model.pt", beams=3),
    dict(path="model.pt", batch_size=0),
    dict(path="model.pt", lm="x.arpa"),
    dict(path="model.pt", device="meta"),
    dict(path="model.pt", device=[]),
    dict(path="model.pt", precision="fp8"),
    dict(path="model.pt", batch_size="8"),
    dict(path="model.pt", window_seconds="30"),
    dict(path="model.pt", decoder="foo"),
    dict(path="model.pt", decoder="beam", lm="x.arpa", beam="x"),
]:
    try:
        wav2vec2.load(**arguments)
    except ValueError as error:
        print(str(error).splitlines())
    else:
        print("taken:", arguments)
"""
    result = run_python(script, folder, ROOT)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    parts = ["gone.pt", "nonsense", "no argument beams", "batch_size 0", "--decoder beam"]
    parts += ["device 'meta'", "device []", "precision 'fp8'", "batch_size '8'"]
    parts += ["window_seconds '30'", "decoder 'foo'", "beam 'x'"]
    assert len(lines) == len(parts)
    for line, part in zip(lines, parts):
        assert part in line


def test_paths_name_the_files_of_a_search(folder):
    reason = "pip install -r requirements-decode.txt"
    pytest.importorskip("flashlight.lib.text.decoder.kenlm", reason=reason, exc_type=ImportError)
    write_arpa(folder / "words.arpa", bigrams(["CAT", "DOE"], [("CAT", "DOE")]))
    (folder / "words.txt").write_text("CAT\nDOE\n")
    script = """
from pathlib import Path
import wav2vec2
files = dict(lm=Path("words.arpa"), lexicon=Path("words.txt"))
model = wav2vec2.load(Path("model.pt"), decoder="beam", **files)
print(set(model.transcribe(Path("recording.wav")).text.split()) <= {"CAT", "DOE"})
"""
    result = run_python(script, folder, ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "True\n"


def setuptools_is_new_enough() -> bool:
    try:
        return int(importlib.metadata.version("setuptools").split(".")[0]) >= 77
    except importlib.metadata.PackageNotFoundError:
        return False


@pytest.mark.skipif(not setuptools_is_new_enough(), reason="needs setuptools >= 77")
def test_installed_packages_work_outside_the_repository(folder, tmp_path_factory):
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    names = tracked.stdout.split()
    if not names:
        pytest.skip("needs git and a clone: a build writes into its folder, so it gets a copy")
    for name in names:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--target", str(target), str(source)]
    installed = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert installed.returncode == 0, installed.stderr
    packages = {path.name for path in target.iterdir() if not path.name.endswith(".dist-info")}
    assert packages == {"common", "tasks", "wav2vec2"}
    script = """
import numpy
import wav2vec2
model = wav2vec2.load("model.pt")
transcript = model.transcribe(numpy.zeros((44100, 2), dtype="int16"), 44100)
print(wav2vec2.__file__, transcript.duration)
"""
    result = run_python(script, folder, target)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [str(target / "wav2vec2" / "__init__.py"), "1.0"]
