"""Older checkpoints load, give the same results, and hold what a resume needs.

`data/` holds the checkpoints of two runs of 2 updates of a tiny model (2,848 parameters), written
by the code of commit cfc578d, and the results of that code.
"""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common.training.checkpoint import CheckpointFolder
from wav2vec2.config import ContrastiveObjective, Regularisation
from wav2vec2.interop import checkpoints, native
from wav2vec2.pretraining import Wav2Vec2ForPretraining

DATA = Path(__file__).with_name("data")
PRETRAINED = DATA / "pretraining" / "wav2vec2_update2.pt"
FINETUNED = DATA / "finetuning" / "wav2vec2_update2.pt"
LENGTHS = torch.tensor([4_000, 2_500])


@pytest.fixture
def waveforms() -> torch.Tensor:
    """A rising tone, and a shorter steady one with padding: `[2, samples]`."""
    times = torch.arange(4_000, dtype=torch.float64) / 16_000
    rising = 0.3 * torch.sin(2 * math.pi * (200 + 3_000 * times) * times)
    steady = 0.1 * torch.sin(2 * math.pi * 700 * times)
    steady[LENGTHS[1] :] = 0
    return torch.stack([rising, steady]).float()


def assert_as_before(name: str, found: torch.Tensor) -> None:
    """Compare `found` `[batch, frames, ...]`, without padding, with the result of the old code."""
    expected = json.loads((DATA / "expected.json").read_text())[name]
    for row, frames in zip(found, map(torch.tensor, expected)):
        torch.testing.assert_close(row[: len(frames)], frames, rtol=0, atol=1e-5)


def test_features_of_a_pretrained_model(waveforms):
    trunk, quantizer = native.load_trunk(checkpoints.read_checkpoint(PRETRAINED), "old")
    with torch.no_grad():
        frames = trunk.extract(waveforms, LENGTHS)
        assert_as_before("context", trunk.encode(frames))
        assert_as_before("quantized", quantizer(frames.features, 1.0).vectors)


def test_logits_of_a_recogniser(waveforms):
    model, vocabulary = native.load_ctc(checkpoints.read_checkpoint(FINETUNED), "old")
    assert vocabulary.symbols[4:] == tuple("|EADOBCNT")
    with torch.no_grad():
        output = model(waveforms, LENGTHS)
    assert output.frame_lengths.tolist() == [12, 7]
    assert_as_before("logits", output.logits)


def test_a_run_can_resume():
    """The newest checkpoint of the folder is found and holds all that a resume needs."""
    saved = CheckpointFolder(PRETRAINED.parent, "wav2vec2").newest()
    assert saved is not None and saved.path == PRETRAINED
    content = saved.content
    assert [content[name] for name in ("update", "position", "validated")] == [2, 2, 2]
    assert content["best"] == pytest.approx(7.92657)
    assert {"recipe", "circumstances", "loss_scale"} <= content.keys()
    architecture = native.architecture_of(content, "old")
    model = Wav2Vec2ForPretraining.from_config(
        architecture, Regularisation(), ContrastiveObjective()
    )
    for weights in ("model", "ema_model"):
        saved_weights = content | {"model": content[weights]}
        native.load_pretraining(model, saved_weights, "old", architecture)
    moments = content["optimizer"]["state"].values()
    sizes = sorted(moment["exp_avg"].numel() for moment in moments)
    assert sizes == sorted(parameter.numel() for parameter in model.parameters())


def test_loading_imports_no_training_code():
    code = (
        "import sys; from wav2vec2.interop import checkpoints, native; "
        f"native.load_ctc(checkpoints.read_checkpoint({str(FINETUNED)!r}), 'old'); "
        "assert not {'common', 'tasks', 'utils'} & set(sys.modules)"
    )
    root = Path(__file__).parents[4]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
