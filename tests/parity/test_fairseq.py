"""fairseq itself: each side reads the other's files and computes the same numbers.

fairseq runs in a separate virtual environment, kept between runs, or in that of FAIRSEQ_PYTHON.
"""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from wav2vec2.config import BASE, LARGE, ContrastiveObjective, Regularisation
from wav2vec2.contrastive import contrastive_logits
from wav2vec2.files.torch_file import read_torch_file
from wav2vec2.interop import checkpoints, fairseq, native
from wav2vec2.interop.unpickling_stubs import STUBS
from wav2vec2.pretraining import Wav2Vec2ForPretraining, take_frames

pytestmark = pytest.mark.long

SIDE = Path(__file__).with_name("fairseq_side.py")
# fairseq's last release no longer installs; this is its code with the necessary fixes.
PACKAGES = ["torch==2.13.0", "fairseq-fixed==0.12.3.1"]
BOUND = 1e-4


def cache() -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return root / "wav2vec2-tests" / "_".join(PACKAGES)


@pytest.fixture(scope="session")
def python() -> str:
    """A Python with fairseq; skips with the reason if it cannot be made."""
    if "FAIRSEQ_PYTHON" in os.environ:
        return os.environ["FAIRSEQ_PYTHON"]
    starter, folder = shutil.which("python3.11"), cache()
    if starter is None:
        pytest.skip("fairseq is built for python3.11, which is not here")
    folder.mkdir(parents=True, exist_ok=True)
    executable, complete = folder / "venv" / "bin" / "python", folder / "complete"
    with open(folder / "lock", "w") as lock:  # only one test process builds it
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            steps = [[starter, "-m", "venv", "--clear", folder / "venv"]]
            # torch first: fairseq compiles against the one it finds.
            steps += [[executable, "-m", "pip", "install", "-q", name] for name in PACKAGES]
            for step in steps:
                result = subprocess.run(step, capture_output=True, text=True)
                if result.returncode:
                    last = (result.stderr.strip().splitlines() or ["no message"])[-1]
                    pytest.skip(f"fairseq's environment cannot be built ({step[-1]}): {last}")
            complete.touch()
    return str(executable)


def side(python: str, *arguments: str | Path) -> None:
    result = subprocess.run(
        [python, SIDE, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.fixture(scope="session")
def made(python, tmp_path_factory) -> Path:
    """A folder of fairseq's checkpoints and its results with them."""
    folder = tmp_path_factory.mktemp("fairseq")
    side(python, "make", folder)
    return folder


def computed(content: dict, theirs: dict) -> dict[str, torch.Tensor]:
    """The results of our model for those of fairseq."""
    with torch.no_grad():
        if content["kind"] == "ctc":
            model, _ = native.load_ctc(content, "content")
            return {"logits": model(theirs["source"]).logits}
        architecture = native.architecture_of(content, "content")
        model = Wav2Vec2ForPretraining.from_config(
            architecture, Regularisation(), ContrastiveObjective()
        ).eval()
        native.load_pretraining(model, content, "content", architecture)
        frames = model.wav2vec2.extract(theirs["source"], None)
        mask = torch.zeros(frames.features.shape[:2], dtype=torch.bool)
        mask.scatter_(1, theirs["masked"], True)
        context = model.wav2vec2.encode(frames, time_mask=mask)
        quantized = model.quantizer(take_frames(frames.features, theirs["masked"]), 1.0)
        return {
            "context": model.wav2vec2.encode(frames),
            "logits": contrastive_logits(
                model.final_proj(take_frames(context, theirs["masked"])),
                model.project_q(quantized.vectors),
                quantized.codes,
                theirs["distractors"],
                0.1,
            ),
            "code_perplexity": quantized.code_perplexity,
            "prob_perplexity": quantized.prob_perplexity,
        }


def assert_same(ours: dict, theirs: dict, name: str) -> None:
    for key, mine in ours.items():
        difference = (mine - theirs[key]).nan_to_num(0.0, 0.0, 0.0).abs().max()  # inf - inf
        assert (mine.isinf() == theirs[key].isinf()).all(), (name, key)
        assert difference <= BOUND, (name, key, difference)


def test_its_files_are_read_with_the_same_outputs(made):
    """Layouts of Base, Large and others, in new and old files."""
    for path in sorted(made.glob("*.pt")):
        content = checkpoints.read_checkpoint(path)
        size, kind, layout = path.stem.split("_")
        assert content["kind"] == {"pretrained": "pretraining", "finetuned": "ctc"}[kind]
        theirs = torch.load(made / f"{size}_{kind}.outputs")
        assert_same(computed(content, theirs), theirs, path.name)
        raw = read_torch_file(path, STUBS)
        assert len(content["model"]) == len(raw["model"]), layout


def assert_same_output(ours: torch.Tensor, theirs: dict, name: str) -> None:
    assert (ours - theirs["output"]).abs().max() <= BOUND, name


@pytest.mark.parametrize("size", ["base", "large"])
def test_hubert(made, size):
    folder = made / "others"
    name = f"hubert-{size}_pretrained"
    trunk, quantizer = native.load_trunk(checkpoints.read_checkpoint(folder / f"{name}.pt"), name)
    theirs = torch.load(folder / f"{name}.outputs")
    with torch.no_grad():
        assert_same_output(trunk.encode(trunk.extract(theirs["source"], None)), theirs, name)
    assert quantizer is None
    name = f"hubert-{size}_finetuned"
    model, vocabulary = native.load_ctc(checkpoints.read_checkpoint(folder / f"{name}.pt"), name)
    theirs = torch.load(folder / f"{name}.outputs")
    with torch.no_grad():
        assert_same_output(model(theirs["source"]).logits, theirs, name)
    assert [*vocabulary.symbols[4:]] == ["|", *"ETAON"]


@pytest.mark.parametrize("language", ["deu", "eng"])
def test_adapters_of_a_language(made, language):
    content = checkpoints.read_checkpoint(made / "others" / "mms.pt", language=language)
    model, vocabulary = native.load_ctc(content, "mms.pt")
    theirs = torch.load(made / "others" / f"mms_{language}.outputs")
    with torch.no_grad():
        assert_same_output(model(theirs["source"]).logits, theirs, language)
    assert ("\u00e4" in vocabulary.symbols) == (language == "deu")


def test_architectures(made):
    for size, like in (("base", BASE), ("large", LARGE)):
        content = checkpoints.read_checkpoint(made / f"{size}_pretrained_cfg.pt")
        found = native.architecture_of(content, size).to_dict()
        assert {**found, "layers": like.layers} == like.to_dict()


def test_our_files_are_loaded_with_the_same_outputs(made, python, tmp_path):
    for size in ("base", "large", "narrow"):
        for kind in ("pretrained", "finetuned"):
            content = checkpoints.read_checkpoint(made / f"{size}_{kind}_cfg.pt")
            path = tmp_path / f"{size}_{kind}.pt"
            fairseq.write_fairseq(content, path)
            outputs = tmp_path / "outputs"
            side(python, "run", path, made / f"{size}_{kind}.outputs", outputs)
            assert_same(
                {k: v for k, v in torch.load(outputs).items() if "perplexity" not in k},
                torch.load(made / f"{size}_{kind}.outputs"),
                path.name,
            )
