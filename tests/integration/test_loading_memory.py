"""Loading a checkpoint takes little more memory than what is loaded.

Peaks are those of a process of its own, by the kernel's high-water mark of its resident memory
(VmHWM).  The one of getrusage would be that of the parent process where this is larger.
"""

import subprocess
import sys

import pytest
import torch

from tasks.recipes import parse_recipe, prepare_trainer
from tests.integration.conftest import ROOT, flags
from wav2vec2.config import LARGE
from wav2vec2.files.torch_file import save_checkpoint, write_torch_file
from wav2vec2.interop import fairseq, huggingface, native
from wav2vec2.interop.state_dict import expected_weights
from wav2vec2.text.vocabulary import Vocabulary

pytestmark = pytest.mark.long

LIMIT = 0.5e9
"""Bytes that a start may take at most above what is loaded."""

PEAK = """
import sys, torch

def peak():
    status = open("/proc/self/status").read().split()
    return 1024 * int(status[status.index("VmHWM:") + 1])

def size(tensors):
    return sum(t.numel() * t.element_size() for t in tensors)
"""

LOAD = f"""{PEAK}
from wav2vec2.interop import checkpoints, native
path = sys.argv[1]
before = peak()
model, _ = native.load_ctc(checkpoints.read_checkpoint(path), path)
total = sum(float(p.sum()) for p in model.parameters())  # reads every page
print(peak() - before, size(model.parameters()))
"""

START = f"""{PEAK}
import train
from tasks.recipes import parse_recipe, prepare_trainer
from wav2vec2.files.torch_file import tensors_of
recipe = parse_recipe(sys.argv[1:])
if recipe.command == "finetune" and recipe.adapt.adapt == "lora":
    import peft
before = peak()
trainer = prepare_trainer(recipe, torch.device("cpu"))
held = [*trainer.task.model.parameters(), *tensors_of(trainer.state.optimizer.state_dict())]
held += trainer.state.ema.state_dict().values() if trainer.state.ema else []
total = sum(float(t.sum()) for t in held)  # reads every page
print(peak() - before, size(held))
"""


def check_peak(program: str, *arguments: object) -> None:
    """Run `program`, which prints its peak and the size of what it loaded, in bytes."""
    result = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    peak, loaded = map(float, result.stdout.splitlines()[-1].split())
    print(f"{(peak - loaded) / 1e9:.2f} GB above {loaded / 1e9:.2f} GB")
    assert loaded > 1.2e9 and peak - loaded <= LIMIT


@pytest.fixture(scope="module")
def vocabulary(corpus):
    return Vocabulary.from_file(corpus / "dict.ltr.txt")


def zeros(kind, units=0, dtype=torch.float32):
    weights = expected_weights(LARGE, kind, units)
    return {name: torch.zeros(w.shape, dtype=dtype) for name, w in weights.items()}


@pytest.fixture(scope="module")
def recogniser(vocabulary):
    """The content of a recogniser of Large's size, 315 million weights of zeros."""
    weights = zeros("ctc", len(vocabulary))
    return {**native.ctc_content(LARGE, vocabulary, "ltr"), "model": weights}


@pytest.fixture(scope="module")
def pretrained():
    return {**native.pretraining_content(LARGE), "model": zeros("pretraining")}


def halved(content):
    return {**content, "model": {name: t.half() for name, t in content["model"].items()}}


def write(content, kind, folder):
    """Write a content in one of the formats that a run starts from; returns its path."""
    path = folder / "start.pt"
    if kind == "native":
        save_checkpoint(path, content)
    elif kind == "with training state":
        weights = content["model"]
        save_checkpoint(
            path, {**content, "ema_model": weights, "optimizer": {"state": moments(weights)}}
        )
    elif kind == "fairseq":
        theirs = fairseq.to_fairseq(content, folder)
        extra = {"last_optimizer_state": {"state": moments(content["model"])}}
        write_torch_file(path, {**theirs, **extra, "model": halved(theirs)["model"]})
    else:
        path = folder / "folder"
        huggingface.write_huggingface(halved(content), path)
        if kind == "bin":
            from safetensors.torch import load_file

            weights = path / "model.safetensors"
            write_torch_file(path / "pytorch_model.bin", load_file(weights))
            weights.unlink()
    return path


def moments(weights):
    """The state of Adam after an update."""
    return {
        number: {
            "step": torch.tensor(1.0),
            "exp_avg": torch.zeros_like(tensor),
            "exp_avg_sq": torch.zeros_like(tensor),
        }
        for number, tensor in enumerate(weights.values())
    }


KINDS = ["native", "with training state", "fairseq", "safetensors", "bin"]


@pytest.mark.parametrize("kind", ["native", "safetensors"])
def test_loading_a_recogniser(recogniser, tmp_path, kind):
    check_peak(LOAD, write(recogniser, kind, tmp_path))


@pytest.mark.parametrize("kind", KINDS)
def test_start_from_a_pretrained_model(pretrained, corpus, tmp_path, kind):
    path = write(pretrained, kind, tmp_path)
    check_peak(START, *flags("finetune", corpus, tmp_path / "run", pretrained_model=path))


def test_start_from_a_recogniser(recogniser, corpus, tmp_path):
    path = write(recogniser, "safetensors", tmp_path)
    check_peak(START, *flags("finetune", corpus, tmp_path / "run", pretrained_model=path))


@pytest.mark.parametrize("adapt", ["none", "lora"])
def test_resuming_a_fine_tuning(adapt, pretrained, corpus, tmp_path):
    """With its optimizer state."""
    start = write(pretrained, "native", tmp_path)
    arguments = flags("finetune", corpus, tmp_path / "run", pretrained_model=start, adapt=adapt)
    make_run(arguments)
    check_peak(START, *arguments)


def test_resuming_a_pre_training(corpus, tmp_path):
    model = {"model": "large", "hourglass_config": ""}
    arguments = flags("pretrain", corpus, tmp_path / "run", **model)
    make_run(arguments)
    check_peak(START, *arguments)


def make_run(arguments):
    """The checkpoint of a run's first update, whose optimizer has its state, without training."""
    trainer = prepare_trainer(parse_recipe(arguments), torch.device("cpu"))
    for parameter in trainer.state.weights.parameters():
        parameter.grad = torch.zeros_like(parameter)
    trainer.state.optimizer.step()
    trainer.state.update = trainer.state.position = 1
    trainer.save()
    trainer.writer.wait()
    trainer.telemetry.close()
