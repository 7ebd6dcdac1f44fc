import json
import os
import socket
import subprocess
from pathlib import Path

import torch

from common.runtime import environment


def test_what_is_told_is_plain_and_private():
    found = environment.describe(torch.device("cpu"), processes=2)
    assert found["processes"] == 2 and found["cores"] >= 1
    assert found["torch"] == torch.__version__ and "cuda" not in found
    text = json.dumps(found)
    assert socket.gethostname() not in found.values()
    assert str(Path.home()) not in text and os.getcwd() not in text


def test_processor(tmp_path):
    information = tmp_path / "cpuinfo"
    information.write_text("processor\t: 0\nmodel name\t: A: Fast CPU\n")
    assert environment.processor(information) == "A: Fast CPU"
    assert environment.processor(tmp_path / "none")


def test_commit_of_an_image(tmp_path, monkeypatch):
    """It has no git; the Dockerfile's build argument tells."""
    monkeypatch.setenv("SOURCE_REVISION", "unknown")
    assert environment.commit(tmp_path) is None
    monkeypatch.setenv("SOURCE_REVISION", "abc")
    assert environment.commit(tmp_path) == "abc"


def test_commit(tmp_path, monkeypatch):
    monkeypatch.delenv("SOURCE_REVISION", raising=False)

    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert environment.commit(tmp_path) is None
    git("init", "-q")
    assert environment.commit(tmp_path) is None  # no commit yet
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-q", "-m", "one")
    git("tag", "a-tag")
    head = git("rev-parse", "HEAD")
    assert environment.commit(tmp_path) == head
    (tmp_path / "file").write_text("two")
    assert environment.commit(tmp_path) == f"{head}-dirty"
    (tmp_path / "below").mkdir()
    assert environment.commit(tmp_path / "below") is None
