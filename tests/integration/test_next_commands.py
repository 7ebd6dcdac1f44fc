"""The commands that the quickstart prints at its end work as printed."""

import os
import shutil
import subprocess

import pytest

from tests.integration.conftest import ROOT
from utils.reporting.summarise_quickstart import SUBSET, next_commands, python_command


@pytest.fixture
def quickstart(corpus, random_recogniser, tmp_path):
    """(output folder, corpus) as the quickstart leaves them, with blanks in their names."""
    output, dataset = tmp_path / "my results", tmp_path / "my data" / "mini"
    (output / "finetune").mkdir(parents=True)
    dataset.mkdir(parents=True)
    shutil.copy(random_recogniser, output / "finetune" / "wav2vec2_best.pt")
    for suffix in ("tsv", "wrd", "ltr"):
        shutil.copy(corpus / f"dev.{suffix}", dataset / f"{SUBSET}.{suffix}")
    return output, dataset


def test_the_printed_commands_run(quickstart, monkeypatch):
    output, dataset = quickstart
    monkeypatch.chdir(ROOT)
    enter, _ = python_command()
    commands = next_commands(output, dataset)
    assert len(commands) == 3
    for purpose, command in commands:
        result = subprocess.run(
            ["bash", "-c", f"{enter}\n{command}"],
            env={"PATH": os.environ["PATH"], "HOME": str(output), "OMP_NUM_THREADS": "1"},
            cwd="/",
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, (purpose, result.stderr)
    assert len(list((output / "alignment").glob("*.TextGrid"))) == 1
    assert (dataset.parent / "mine" / "train.tsv").exists()
    assert " DATASET_DIR=" in result.stdout and "finetune_own.sh" in result.stdout
