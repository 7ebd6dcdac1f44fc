"""Fine-tuning of few weights: what learns, what a checkpoint holds, and what reads it."""

import shutil
import sys

import pytest
import torch

import inference
import train
from tasks.recipes import parse_recipe, prepare_trainer
from tests.integration.conftest import flags
from tests.integration.test_bad_input import one_line
from tests.integration.test_training import finetuned, pretrained  # noqa: F401 (fixtures)
from utils.checkpoints import convert, export_average
from wav2vec2.config import BASE, MINI, Regularisation
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.files.torch_file import load_checkpoint, save_checkpoint, tensors_of
from wav2vec2.inference.recogniser import Recogniser
from wav2vec2.interop import checkpoints, native

CPU = torch.device("cpu")
KINDS = {
    "lora": {"adapt": "lora", "lora_rank": 2, "lora_alpha": 6},
    "adapters": {"adapt": "adapters", "adapter_dim": 4},
}
SIZES = {
    "lora": MINI.layers * 2 * 2 * (MINI.dim + MINI.dim),  # two targets, two matrices of rank 2
    "adapters": MINI.layers * (2 * 4 * MINI.dim + 4 + MINI.dim + 2 * MINI.dim),
}


def trainer_of(corpus, output, start, **changed):
    arguments = {"pretrained_model": start, "learning_rate": 0.01, **changed}
    return prepare_trainer(parse_recipe(flags("finetune", corpus, output, **arguments)), CPU)


@pytest.fixture(scope="module", params=KINDS)
def adapted(request, corpus, pretrained, tmp_path_factory):  # noqa: F811
    """(kind, trainer after four updates, its checkpoint of the last)."""
    output = tmp_path_factory.mktemp(request.param)
    options = {**KINDS[request.param], "save_every_updates": 2, "ema": 0.5}
    trainer = trainer_of(corpus, output, pretrained, **options)
    trainer.train()
    return request.param, trainer, output / "wav2vec2_update4.pt"


def logits(model):
    with torch.no_grad():
        waveforms = torch.sin(torch.arange(2 * 9000.0) ** 1.2).view(2, 9000)
        return model.eval()(waveforms).logits


def test_only_few_weights_learn_and_are_stored(adapted, pretrained):  # noqa: F811
    kind, trainer, path = adapted
    model, start = trainer.task.model, load_checkpoint(pretrained)["model"]
    mark = {"lora": ".lora_", "adapters": ".adapter."}[kind]
    learning = {n for n, p in model.named_parameters() if p.grad is not None}
    assert learning == {n for n in dict(model.named_parameters()) if mark in n or n[:5] == "proj."}
    outputs = model.proj.weight.numel() + model.proj.bias.numel()
    count = sum(p.numel() for n, p in model.named_parameters() if n in learning)
    assert count == SIZES[kind] + outputs
    for name, parameter in model.named_parameters():
        own = name.replace(".base_layer", "")
        if name not in learning:
            assert torch.equal(parameter, start[own]), name
    content = load_checkpoint(path)
    assert content["model"].keys() == content["ema_model"].keys() == learning
    # Adam's two moments of each trained weight, and a count of steps for each tensor.
    state = sum(t.numel() * t.element_size() for t in tensors_of(content["optimizer"]))
    assert state == 4 * (2 * count + len(learning))
    assert path.stat().st_size < 16 * count + 200_000 < pretrained.stat().st_size


def test_merged_and_unmerged_logits_agree(adapted, tmp_path, command):
    """The model in training, which computes both parts; the checkpoint; the merged file."""
    kind, trainer, path = adapted
    expected = logits(trainer.task.model)
    assert (logits(Recogniser.from_checkpoint(path, CPU).model) - expected).abs().max() < 1e-5
    merged, alone = tmp_path / "merged.pt", tmp_path / "alone" / "merged.pt"
    code, out, err = command(convert.main, path, merged, "--to", "native", "--merge")
    assert code == 0 and "ctc, " in out, err
    alone.parent.mkdir()
    merged.rename(alone)  # far from its base
    assert native.ADAPTED not in load_checkpoint(alone)
    model = Recogniser.from_checkpoint(alone, CPU).model
    assert (logits(model) - expected).abs().max() < 1e-5
    if kind == "lora":  # the difference is not nothing, and peft merges to the same
        from peft.tuners.lora import Linear

        plain = dict(model.named_modules())
        for name, module in trainer.task.model.named_modules():
            if isinstance(module, Linear):
                delta = module.get_delta_weight("default")
                assert delta.abs().max() > 1e-3
                found = module.base_layer.weight + delta
                assert torch.allclose(plain[name].weight, found, atol=1e-6)


def test_every_command_takes_either(adapted, corpus, tmp_path, command):
    kind, _, path = adapted
    small = tmp_path / "small.pt"
    assert command(convert.main, path, small, "--to", "native")[0] == 0
    assert small.stat().st_size < path.stat().st_size / 2  # the difference, without the optimizer
    average = tmp_path / "average.pt"
    assert command(export_average.main, "--checkpoint", path, "--output", average)[0] == 0
    recording = next(corpus.rglob("*.flac"))
    texts = set()
    for checkpoint in (path, small):
        arguments = ("--checkpoint", checkpoint, "--cpu", recording)
        code, out, err = command(inference.main, "transcribe", *arguments)
        assert code == 0, err
        texts.add(out)
    assert len(texts) == 1
    assert load_checkpoint(average)["model"].keys() == load_checkpoint(path)["model"].keys()
    checkpoints.read_checkpoint(average)
    one_line(command(convert.main, tmp_path / "average.pt", small, "--to", "native"), "exists")
    command(convert.main, path, tmp_path / "m.pt", "--to", "native", "--merge")
    again = command(convert.main, tmp_path / "m.pt", tmp_path / "n.pt", "--to", "native", "--merge")
    one_line(again, "--merge", "whole weights")


def test_resume_is_exact(adapted, corpus, pretrained, tmp_path):  # noqa: F811
    """From update 2, without the flag's file: the reference in the checkpoint is enough."""
    kind, _, path = adapted
    output = tmp_path / "run"
    output.mkdir()
    shutil.copy(path.with_name("wav2vec2_update2.pt"), output)
    options = {**KINDS[kind], "save_every_updates": 2, "ema": 0.5}
    trainer_of(corpus, output, "no/such.pt", **options).train()
    expected, found = load_checkpoint(path), load_checkpoint(output / path.name)
    for part in ("model", "ema_model", "optimizer"):
        for a, b in zip(tensors_of(expected[part]), tensors_of(found[part]), strict=True):
            assert torch.equal(a, b)
    assert found[native.ADAPTED] == expected[native.ADAPTED]


def test_resume_of_another_kind(adapted, corpus, pretrained, tmp_path, command):  # noqa: F811
    kind, _, path = adapted
    shutil.copy(path, tmp_path)
    for other in {*KINDS, "none"} - {kind}:
        arguments = {"pretrained_model": pretrained, "adapt": other}
        result = command(train.main, *flags("finetune", corpus, tmp_path, **arguments))
        one_line(result, f"adapt was {kind}, is now {'not set' if other == 'none' else other}")


@pytest.mark.parametrize("change", ["missing", "changed", "beside"])
def test_base_that_is_no_longer_there(
    change,
    adapted,
    corpus,
    pretrained,  # noqa: F811
    tmp_path,
    command,
):
    _, _, path = adapted
    content, place = load_checkpoint(path), tmp_path / "elsewhere" / "base.pt"
    content[native.ADAPTED]["base"] = str(place)
    save_checkpoint(tmp_path / "wav2vec2_update4.pt", content)
    start = load_checkpoint(pretrained)
    if change == "changed":
        place.parent.mkdir()
        start["model"]["wav2vec2.mask_emb"] = start["model"]["wav2vec2.mask_emb"] + 1e-3
        save_checkpoint(place, start)
    elif change == "beside":
        save_checkpoint(tmp_path / "base.pt", start)
    recording = next(corpus.rglob("*.flac"))
    arguments = ("--checkpoint", tmp_path / "wav2vec2_update4.pt", "--cpu", recording)
    result = command(inference.main, "transcribe", *arguments)
    if change == "beside":
        assert result[0] == 0, result[2]
        return
    words = {"missing": "no such checkpoint", "changed": "have changed"}[change]
    one_line(result, "wav2vec2_update4.pt", place, words)
    one_line(command(train.main, *flags("finetune", corpus, tmp_path)), place, words)


def test_start_that_has_another_kind(adapted, corpus, tmp_path, command):
    """Of the same kind, the new difference adds to the old one."""
    kind, _, path = adapted
    other = {"lora": "adapters", "adapters": "lora"}[kind]

    def run(**options):
        arguments = {"pretrained_model": path, "max_update": 1, "hold_updates": 0, **options}
        return command(train.main, *flags("finetune", corpus, tmp_path / "o", **arguments))

    one_line(run(**KINDS[other]), f"--adapt {other}", path, "already has")
    assert not (tmp_path / "o").exists()
    if kind == "adapters":
        one_line(run(adapt="adapters", adapter_dim=5), "--adapter_dim 5", path, "4")
    code, _, err = run(**KINDS[kind], learning_rate=0)
    assert code == 0 and "output layer: all 13 rows" in err, err
    models = [
        Recogniser.from_checkpoint(p, CPU).model for p in (path, tmp_path / "o/wav2vec2_update1.pt")
    ]
    assert torch.allclose(*map(logits, models), atol=1e-6)


def test_half_precision_keeps_no_fp32_copy_of_the_start(corpus, finetuned, tmp_path):  # noqa: F811
    trainer = trainer_of(corpus, tmp_path, finetuned, precision="bf16", **KINDS["lora"])
    trainer.train()
    weights = trainer.state.weights
    assert {p.dtype for p in weights.parameters()} == {torch.float32}
    assert weights.named().keys() == trainer.task.trained
    parameters = trainer.task.model.named_parameters()
    own = {p.dtype for n, p in parameters if n.endswith("q_proj.base_layer.weight")}
    assert own == {torch.bfloat16}
    expected = logits(Recogniser.from_checkpoint(tmp_path / "wav2vec2_update4.pt", CPU).model)
    assert (logits(trainer.task.model) - expected).abs().max() < 0.3


def test_frozen_updates_change_the_output_layer_alone(corpus, pretrained, tmp_path):  # noqa: F811
    options = {**KINDS["adapters"], "freeze_finetune_updates": 2, "save_every_updates": 2}
    trainer_of(corpus, tmp_path, pretrained, **options).train()
    early = load_checkpoint(tmp_path / "wav2vec2_update2.pt")["model"]
    late = load_checkpoint(tmp_path / "wav2vec2_update4.pt")["model"]
    of_second = [n for n in early if n.endswith("adapter.linear_2.weight")]
    assert len(of_second) == MINI.layers
    assert not any(early[name].any() for name in of_second)
    assert all(late[name].any() for name in of_second)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"adapt": "lora", "lora_targets": "linear"}, ["--lora_targets", "fc1"]),
        ({"adapt": "lora", "lora_rank": 0}, ["--lora_rank"]),
        ({"adapt": "lora", "lora_alpha": -1}, ["--lora_alpha"]),
        ({"adapt": "adapters", "adapter_dim": 0}, ["--adapter_dim"]),
        ({"adapt": "lora", "random_weights": True}, ["--adapt lora", "--random_weights"]),
    ],
)
def test_flags_that_cannot_be(options, parts, corpus, pretrained, tmp_path, command):  # noqa: F811
    arguments = {"pretrained_model": pretrained, **options}
    one_line(command(train.main, *flags("finetune", corpus, tmp_path / "o", **arguments)), *parts)


def test_without_peft(corpus, pretrained, adapted, tmp_path, command, monkeypatch):  # noqa: F811
    """LoRA needs it to train; checkpoints are read without it."""
    monkeypatch.setitem(sys.modules, "peft", None)
    arguments = {"pretrained_model": pretrained, "adapt": "lora"}
    result = command(train.main, *flags("finetune", corpus, tmp_path / "o", **arguments))
    one_line(result, "--adapt lora", "pip install peft")
    checkpoints.read_checkpoint(adapted[2])


def test_adapters_need_pre_ln(corpus, tmp_path, command):
    model = Wav2Vec2ForCTC.from_config(BASE, Regularisation(), 13)
    vocabulary = "\n".join("ABCDENOT|")
    content = {"kind": "ctc", "architecture": BASE.to_dict(), "dictionary": vocabulary}
    content |= {"labels": "ltr", "spelling": "letters", "model": model.state_dict()}
    save_checkpoint(tmp_path / "base.pt", content)
    arguments = {"pretrained_model": tmp_path / "base.pt", "adapt": "adapters"}
    result = command(train.main, *flags("finetune", corpus, tmp_path / "o", **arguments))
    one_line(result, "--adapt adapters", "base.pt", "post-LN", "--adapt lora")


def test_damaged_difference(adapted, tmp_path):
    _, _, path = adapted
    for name, value in [("kind", "magic"), ("base", 3), ("digest", None), ("rank", "2")]:
        content = load_checkpoint(path)
        if name == "rank" and content[native.ADAPTED]["kind"] != "lora":
            continue
        content[native.ADAPTED] |= {name: value}
        save_checkpoint(tmp_path / "odd.pt", content)
        with pytest.raises(checkpoints.UserError, match="odd.pt: damaged"):
            checkpoints.read_checkpoint(tmp_path / "odd.pt")
