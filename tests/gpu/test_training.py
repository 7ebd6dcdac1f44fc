"""train.py and inference.py on GPUs, from filelists to transcripts, against the CPU."""

import pytest
import torch

import inference
import train
from tests.integration.conftest import command, corpus, flags, launch  # noqa: F401 (fixtures)
from tests.integration.test_training import losses as logged
from wav2vec2.cli.errors import UserError
from wav2vec2.inference.device import check_supported

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

# Gumbel noise and dropout are other draws on a GPU; without them the losses are the CPU's.
NO_DRAWS = {"dropout": 0, "attention_dropout": 0, "dropout_input": 0, "dropout_features": 0}
RELATIVE = {"fp32": 2e-2, "bf16": 5e-2, "fp16": 5e-2}  # the noise chooses other codes


CPU, GPU = {"cpu": "true"}, {"cpu": "false", "tf32": "false"}


def losses(folder):
    return [loss for _, loss in logged(folder)]


@pytest.fixture
def trained(corpus, tmp_path, command):  # noqa: F811
    """Train a few updates; returns the output folder."""

    def run(kind, name, **changed):
        code, _, err = command(train.main, *flags(kind, corpus, tmp_path / name, **changed))
        assert code == 0, err
        return tmp_path / name

    return run


def skip_without(precision):
    try:
        check_supported(precision, torch.device("cuda", 0))
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("hourglass", ["[1,(2,2),1]", ""])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_both_tasks(corpus, tmp_path, command, trained, precision, hourglass):  # noqa: F811
    skip_without(precision)
    changed = {"hourglass": hourglass, **NO_DRAWS}
    cpu = trained("pretrain", "cpu", **changed, **CPU)
    gpu = trained("pretrain", "gpu", precision=precision, **changed, **GPU)
    assert losses(gpu) == pytest.approx(losses(cpu), rel=RELATIVE[precision])
    pretrained = {"pretrained_model": gpu / "wav2vec2_update4.pt", "precision": precision}
    tuned = trained("finetune", "tuned", **pretrained, **GPU)
    code, _, err = command(
        inference.main,
        *("evaluate", "--checkpoint", tuned / "wav2vec2_update4.pt"),
        *("--dataset_dir", corpus, "--subset", "dev", "--precision", precision),
        *("--output_dir", tmp_path / "heard"),
    )
    assert code == 0, err


@pytest.mark.parametrize("option", ["compile", "activation_checkpointing"])
def test_what_saves_time_or_memory(trained, option):
    skip_without("bf16")
    changed = {"precision": "bf16", **NO_DRAWS, **GPU}
    plain, other = trained("pretrain", "plain", **changed), {option: "true"}
    assert losses(trained("pretrain", "other", **changed, **other)) == pytest.approx(
        losses(plain), rel=5e-2
    )


def test_two_processes_over_nccl(corpus, tmp_path, trained):  # noqa: F811
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    one = trained("pretrain", "one", update_freq=2, **GPU)
    result = launch(2, flags("pretrain", corpus, tmp_path / "two", **GPU))
    assert result.returncode == 0, result.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(one), rel=1e-4)
