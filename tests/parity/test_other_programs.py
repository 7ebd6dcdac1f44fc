"""The programs of docs/other_programs.md print our transcript."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import wav2vec2
from tests.parity.conftest import NO_DROPOUT, shake
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import UserError
from wav2vec2.config import LARGE, MINI, Architecture, Hourglass
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.files.torch_file import save_checkpoint
from wav2vec2.interop import checkpoints, native
from wav2vec2.text.vocabulary import Vocabulary

ROOT = Path(__file__).resolve().parents[2]
VOCABULARY = Vocabulary([*"|ETAOINSHRÜ'"])
ARCHITECTURES = {
    "hourglass": replace(MINI, hourglass=Hourglass(1, 2, 2, 1)),
    "plain": replace(LARGE, dim=48, ffn_dim=96, heads=4, layers=2, conv_layers=MINI.conv_layers),
}


def section(name: str) -> str:
    """A section of the page."""
    page = (ROOT / "docs" / "other_programs.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"^## {re.escape(name)}\n(.*?)(?=^## |\Z)", page, re.M | re.S)
    return found


def block(name: str, language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", section(name), re.M | re.S)
    return found


def write_model(path: Path, architecture: Architecture) -> None:
    """A recogniser with random weights whose transcripts have many letters."""
    torch.manual_seed(3)
    model = Wav2Vec2ForCTC.from_config(architecture, NO_DROPOUT, len(VOCABULARY))
    shake(model)
    with torch.no_grad():
        model.proj.bias[1:4] = -1e4
    content = native.ctc_content(architecture, VOCABULARY, "ltr")
    save_checkpoint(path, {**content, "model": model.state_dict()})


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def folder(request, tmp_path_factory) -> Path:
    """A folder with model.pt, recording.wav and our transcript of it."""
    folder = tmp_path_factory.mktemp(request.param)
    write_model(folder / "model.pt", ARCHITECTURES[request.param])
    time = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    tones = np.sin(2 * np.pi * (300 + 700 * time) * time) * (0.2 + 0.1 * np.sin(9 * time))
    noise = np.random.default_rng(1).standard_normal(len(time)) * 0.05 * (np.sin(5 * time) > 0)
    soundfile.write(folder / "recording.wav", tones + noise, SAMPLE_RATE, "PCM_16")
    text = wav2vec2.load(folder / "model.pt").transcribe(folder / "recording.wav").text
    (folder / "transcript.txt").write_text(text, encoding="utf-8")
    return folder


def convert(name: str, folder: Path, monkeypatch) -> None:
    """Run the section's first command: the conversion."""
    line = block(name, "bash").splitlines()[0]
    words = shlex.split(line)
    assert words[:3] == ["python", "-m", "utils.checkpoints.convert"] and words[5] == "--to"
    monkeypatch.chdir(folder)
    if not Path(words[4]).exists():
        options = checkpoints.ConvertOptions(to=words[6])
        checkpoints.convert_checkpoint(words[3], Path(words[4]), options)


def prints_our_transcript(command: list[str], folder: Path) -> None:
    """A process of its own: some of the packages bring their own onnxruntime."""
    result = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    expected = (folder / "transcript.txt").read_text(encoding="utf-8")
    assert len(set(expected)) >= 4  # not one letter throughout
    assert result.stdout.splitlines()[-1] == expected


NEEDS = {
    "transformers": ("transformers",),
    "onnxruntime": ("onnxscript", "onnxruntime"),
    "sherpa-onnx": ("onnxscript", "onnxruntime", "sherpa_onnx"),
    "CTranslate2": ("transformers", "ctranslate2"),
    "torch.export": (),
}
"""The packages that convert for a program or are it."""

WITHOUT_HOURGLASS = ("transformers", "CTranslate2")


def run_python(name: str, folder: Path, monkeypatch) -> None:
    """Convert model.pt and run the section's program; skip by name what is not installed."""
    for package in NEEDS[name]:
        pytest.importorskip(package)
    convert(name, folder, monkeypatch)
    if name == "CTranslate2":
        words = shlex.split(block(name, "bash").splitlines()[1])
        assert words[0] == "ct2-transformers-converter"
        script = "from ctranslate2.converters.transformers import main; main()"
        subprocess.run([sys.executable, "-c", script, *words[1:]], cwd=folder, check=True)
    prints_our_transcript([sys.executable, "-c", block(name, "python")], folder)


def run_transformers_js(folder: Path, monkeypatch) -> None:
    packages = ROOT / "node_modules"
    if not shutil.which("node") or not (packages / "@huggingface" / "transformers").is_dir():
        pytest.skip("needs node, and node_modules with @huggingface/transformers: scripts/test.sh")
    convert("transformers.js", folder, monkeypatch)
    (folder / "node_modules").symlink_to(packages)
    (folder / "program.mjs").write_text(block("transformers.js", "js"), encoding="utf-8")
    prints_our_transcript(["node", "program.mjs"], folder)


@pytest.mark.parametrize("name", list(NEEDS))
def test_python(name, folder, monkeypatch):
    if "hourglass" in folder.name and name in WITHOUT_HOURGLASS:
        with pytest.raises(UserError, match="has no hourglass encoder"):
            convert(name, folder, monkeypatch)
        return
    run_python(name, folder, monkeypatch)


def test_transformers_js(folder, monkeypatch):
    run_transformers_js(folder, monkeypatch)
