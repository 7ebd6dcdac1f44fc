"""A corpus of seconds in LibriSpeech's layout, and ways to run the commands on it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import run_command
from wav2vec2.config import MINI, Regularisation
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.files.torch_file import save_checkpoint
from wav2vec2.interop import native
from wav2vec2.text.vocabulary import Vocabulary

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["AN", "BE", "CAT", "DOE"]


def say(word: str) -> np.ndarray:
    """A quarter of a second with a pitch for each letter: enough to tell words apart."""
    seconds = 0.25 / len(word)
    times = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    tones = [np.sin(2 * np.pi * (200 + 90 * (ord(letter) - 65)) * times) for letter in word]
    return 0.3 * np.concatenate(tones)


def write_corpus(folder: Path, subsets: dict[str, int], words: int = 5) -> None:
    """Subsets of that many utterances, `<subset>/<speaker>/<chapter>/...`."""
    generator = np.random.default_rng(0)
    for speaker, (subset, count) in enumerate(subsets.items(), start=1):
        chapter = folder / subset / str(speaker) / "7"
        chapter.mkdir(parents=True)
        lines = []
        for number in range(count):
            said = [WORDS[i] for i in generator.integers(len(WORDS), size=words + number % 3)]
            audio = np.concatenate([say(word) for word in said])
            audio += 0.01 * generator.standard_normal(len(audio))
            key = f"{speaker}-7-{number:04d}"
            soundfile.write(chapter / f"{key}.flac", audio, SAMPLE_RATE, subtype="PCM_16")
            lines.append(f"{key} {' '.join(said)}\n")
        (chapter / f"{speaker}-7.trans.txt").write_text("".join(lines))


def script(name: str, *arguments: str, **variables: str | Path) -> subprocess.CompletedProcess:
    """Run a recipe with `variables` in its environment."""
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    environment.update({key: str(value) for key, value in variables.items()})
    return subprocess.run(
        ["bash", str(ROOT / "scripts" / name), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
    )


def launch(processes: int, arguments: list[str]) -> subprocess.CompletedProcess:
    """train.py under the launcher, as the recipes start it for several processes."""
    return subprocess.run(
        [sys.executable, "-m", "common.runtime.launcher", "--standalone", "--nproc_per_node"]
        + [str(processes), "train.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """A data set folder with train, dev and filelists, made by the script users call."""
    folder = tmp_path_factory.mktemp("corpus") / "LibriSpeech"
    write_corpus(folder, {"train": 24, "dev": 5})
    result = script(
        "generate_filelists.sh",
        DATASET_DIR=folder,
        SUBSETS="train dev",
        COMBINE="both=train,dev",
        DICTIONARY_FROM="train",
    )
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def command(monkeypatch, capsys):
    """Run a command's main in this process; returns (exit code, standard output, errors)."""

    def run(main, *argv: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, argv)])
        with pytest.raises(SystemExit) as stop:
            run_command(main)
        output = capsys.readouterr()
        return int(stop.value.code or 0), output.out, output.err

    return run


TINY = {
    "--num_workers": "0",
    "--max_update": "4",
    "--warmup_updates": "1",
    "--log_frequency": "1",
    "--max_tokens": "120000",
    "--num_concat_batches": "1",
    "--batches_per_update": "0",
    "--train_subset": "train",
    "--valid_subset": "dev",
}


def flags(kind: str, dataset_dir: Path, output_dir: Path, **changed: object) -> list[str]:
    """Command line of a few updates of a MINI model; `changed` overrides, None removes."""
    values = {
        **TINY,
        "--dataset_dir": dataset_dir,
        "--output_dir": output_dir,
        "--cpu": "true",
        "--learning_rate": "1e-3",
    }
    if kind == "pretrain":
        values |= {
            "--model": "mini",
            "--hourglass_config": "[1,(2,2),1]",
            "--min_sample_size": "8000",
            "--max_sample_size": "30000",
        }
    else:
        values |= {"--hold_updates": "1"}
    values |= {f"--{name}": value for name, value in changed.items()}
    pairs = [(name, str(value)) for name, value in values.items() if value is not None]
    return [kind, *(part for pair in pairs for part in pair)]


@pytest.fixture(scope="session")
def random_recogniser(corpus, tmp_path_factory) -> Path:
    """A fine-tuned MINI checkpoint of random weights."""
    vocabulary = Vocabulary.from_file(corpus / "dict.ltr.txt")
    torch.manual_seed(0)
    network = Wav2Vec2ForCTC.from_config(MINI, Regularisation(), len(vocabulary))
    path = tmp_path_factory.mktemp("model") / "random.pt"
    content = native.ctc_content(MINI, vocabulary, "ltr")
    save_checkpoint(path, {**content, "model": network.state_dict()})
    return path
