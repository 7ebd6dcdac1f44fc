"""A model divided over two processes trains as one that each process holds whole."""

import json
import shutil

import pytest
import torch

import train
from tasks.recipes import parse_recipe, prepare_trainer
from tests.integration.conftest import flags, launch
from tests.integration.test_bad_input import one_line
from tests.integration.test_training import losses, pretrained  # noqa: F401 (fixture)
from tests.unit.common.runtime.test_distributed import run
from wav2vec2.files.torch_file import load_checkpoint, tensors_of

LAST = "wav2vec2_update4.pt"


def run_two(arguments):
    result = launch(2, arguments)
    assert result.returncode == 0, result.stderr
    return result.stderr


def same(a, b):
    """Whether two checkpoints hold the same state."""
    for part in ("model", "ema_model", "optimizer"):
        first, second = list(tensors_of(a[part])), list(tensors_of(b[part]))
        assert len(first) == len(second) > 10
        for x, y in zip(first, second):
            torch.testing.assert_close(x, y, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["pretrain", "finetune", "lora"])
def test_two_sharded_processes_equal_two_whole_ones(kind, corpus, pretrained, tmp_path):  # noqa: F811
    """With accumulation, clipping, LayerDrop, frozen updates, an average, and validation on five
    utterances, which the processes share unequally."""
    options = {"ema": 0.5, "update_freq": 2, "save_every_updates": 2, "clip_norm": 1}
    options |= {"max_tokens": 60000, "keep_checkpoints": 3}
    # The order of sums differs: with more, the rounding of a tiny gradient shows in its step.
    options |= {"adam_eps": 1e-6, "learning_rate": 1e-4}
    if kind != "pretrain":
        options |= {"pretrained_model": pretrained, "freeze_finetune_updates": 1}
    if kind == "lora":
        options |= {"adapt": "lora"}
    command = "pretrain" if kind == "pretrain" else "finetune"
    contents = []
    for shard in (False, True):
        output = tmp_path / str(shard)
        run_two(flags(command, corpus, output, shard=shard, **options))
        contents.append(load_checkpoint(output / LAST))
    same(*contents)
    found, expected = ([loss for _, loss in losses(tmp_path / s)] for s in ("True", "False"))
    assert len(found) == 4 and found == pytest.approx(expected, rel=1e-6)
    if kind == "pretrain":
        return
    # A run resumes divided or not, whatever it was before.
    resumed = tmp_path / "resumed"
    resumed.mkdir()
    shutil.copy(tmp_path / str(kind == "finetune") / "wav2vec2_update2.pt", resumed)
    if kind == "finetune":
        alone = {**options, "update_freq": 4}
        recipe = parse_recipe(flags(command, corpus, resumed, **alone))
        prepare_trainer(recipe, torch.device("cpu")).train()
    else:
        assert "shard" in run_two(flags(command, corpus, resumed, shard=True, **options))
    same(load_checkpoint(resumed / LAST), contents[0])


@pytest.mark.parametrize(
    "options", [{"activation_checkpointing": True}, {"precision": "bf16"}, {"precision": "fp16"}]
)
def test_other_ways_to_save_memory_with_it(options, corpus, tmp_path):
    """Recomputation changes nothing; half precision little."""
    options |= {"max_tokens": 60000, "max_update": 2}
    found = []
    for shard in (False, True):
        output = tmp_path / str(shard)
        run_two(flags("pretrain", corpus, output, shard=shard, **options))
        found.append([loss for _, loss in losses(output)])
    close = 1e-6 if "precision" not in options else 1e-2
    assert found[1] == pytest.approx(found[0], rel=close)


def test_bytes_per_process(tmp_path):
    """Weights, gradients and moments of two processes together are those of one."""
    result = run(
        tmp_path,
        """
from common.runtime import sharding
from common.training.precision import Weights
from wav2vec2.config import MINI, Regularisation
from wav2vec2.ctc import Wav2Vec2ForCTC
torch.manual_seed(0)
model = Wav2Vec2ForCTC.from_config(MINI, Regularisation(), 12)
whole = sum(p.numel() for p in model.parameters())
sharding.shard(model, "fp32")
weights = Weights(model)
optimizer = torch.optim.AdamW(weights.parameters(), fused=True)
model(torch.randn(1, 9000)).logits.sum().backward()
gradients = [p.grad for p in weights.trainable()]
optimizer.step()
def count(tensors):
    return sum(sharding.share(t).numel() for t in tensors if t.dim())
moments = [m for state in optimizer.state.values() for m in state.values()]
counts = [count(weights.parameters()), count(gradients), count(moments) / 2]
(out / f"{rank}.json").write_text(json.dumps([counts, whole]))
""",
    )
    assert result.returncode == 0, result.stderr
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    (counts, whole), (others, _) = found
    for mine, other in zip(counts, others):
        assert mine + other == whole and mine < 0.52 * whole


def test_bad_audio_in_one_process_ends_both(corpus, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(corpus, folder)
    for filelist in folder.glob("*.tsv"):
        filelist.write_text(filelist.read_text().replace(str(corpus), str(folder)))
    bad = sorted((folder / "train").rglob("*.flac"))[3]
    bad.write_bytes(bad.read_bytes()[:2000])
    result = launch(2, flags("pretrain", folder, tmp_path / "o", shard=True))
    assert result.returncode == 2, result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert errors and all(bad.name in line for line in errors) and "Traceback" not in result.stderr


def test_one_process(corpus, tmp_path, command):
    result = command(train.main, *flags("pretrain", corpus, tmp_path / "o", shard=True))
    one_line(result, "--shard", "NUM_GPUS=2")


@pytest.mark.parametrize("options", [{"optimizer": "lamb"}, {"compile": True}])
def test_what_it_does_not_work_with(options, corpus, tmp_path):
    result = launch(2, flags("pretrain", corpus, tmp_path / "o", shard=True, **options))
    assert result.returncode == 2
    name, _ = next(iter(options.items()))
    assert "error: --shard" in result.stderr and f"--{name}" in result.stderr
    assert "Traceback" not in result.stderr
