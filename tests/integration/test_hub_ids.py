"""Commands on ids of the Hugging Face Hub, against a local server."""

import os
import subprocess
import sys

import pytest

import train
from tests.hub_server import serve
from tests.integration.conftest import ROOT, flags
from tests.integration.test_bad_input import one_line
from tests.integration.test_foreign_checkpoints import files  # noqa: F401 (fixture)
from tests.unit.wav2vec2.interop.test_hub import use_endpoint
from wav2vec2.files.torch_file import load_checkpoint, weights_digest

NAME = "someone/recogniser"


@pytest.fixture
def hub(files, tmp_path, monkeypatch):  # noqa: F811
    from huggingface_hub import constants

    with serve() as server:
        server.folders[NAME] = files["folder_ctc"]
        use_endpoint(monkeypatch, server.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
        yield server


def test_transcribing(hub, corpus, tmp_path):
    """As a user does: the library reads its variables when it is imported."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path / "cache")}
    recording = next((corpus / "dev").rglob("*.flac"))

    def transcribe(name, **variables):
        return subprocess.run(
            [sys.executable, "inference.py", "transcribe", "--cpu", "--checkpoint", name]
            + [str(recording)],
            cwd=ROOT,
            env=environment | variables,
            capture_output=True,
            text=True,
        )

    found = transcribe(NAME, HF_ENDPOINT=hub.endpoint)
    assert found.returncode == 0, found.stderr
    again = transcribe(NAME, HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    local = transcribe(str(hub.folders[NAME]), HF_ENDPOINT="http://127.0.0.1:9")
    assert found.stdout == again.stdout == local.stdout != ""
    missing = transcribe("someone/else", HF_ENDPOINT=hub.endpoint)
    assert missing.returncode == 2 and "Traceback" not in missing.stderr
    assert missing.stderr.splitlines()[-1].startswith("error: someone/else: no such path, and no ")


def test_fine_tuning(hub, corpus, tmp_path, command, monkeypatch):
    """A run that resumes compares the start with the cache, and does without it."""
    output = tmp_path / "run"
    changed = {"pretrained_model": NAME, "max_update": 2}
    code, _, err = command(train.main, *flags("finetune", corpus, output, **changed))
    assert code == 0, err
    saved = load_checkpoint(output / "wav2vec2_update2.pt")
    assert saved["recipe"]["pretrained_model"] == weights_digest(hub.folders[NAME])
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    code, _, err = command(train.main, *flags("finetune", corpus, output, **changed))
    assert code == 0, err
    result = command(
        train.main, *flags("finetune", corpus, tmp_path / "new", pretrained_model="no/thing")
    )
    one_line(result, "no/thing: no such path, and the Hugging Face Hub cannot be read")
