"""The commands on checkpoints of other programs: only the path differs."""

import shutil
from dataclasses import replace

import pytest
import torch

import inference
import train
from tests.integration.conftest import flags
from utils.checkpoints import convert
from wav2vec2.config import MINI, ContrastiveObjective, Hourglass, Regularisation
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.files.torch_file import load_checkpoint, weights_digest
from wav2vec2.interop import fairseq, huggingface, native
from wav2vec2.interop.fairseq import to_theirs
from wav2vec2.pretraining import Wav2Vec2ForPretraining

# Not one of the presets: most published models are none.
NARROW = replace(MINI, dim=96, ffn_dim=128, layers=2, final_dim=32)
HOURGLASS = replace(NARROW, layers=3, hourglass=Hourglass(1, 1, 2, 1, "linear"), norm_first=False)
SYMBOLS = ["|", *"ABCDENOT"]


def pretrained(architecture=NARROW):
    torch.manual_seed(0)
    model = Wav2Vec2ForPretraining.from_config(
        architecture, Regularisation(), ContrastiveObjective()
    )
    return {**native.pretraining_content(architecture), "model": model.state_dict()}


def finetuned(architecture=NARROW):
    torch.manual_seed(0)
    model = Wav2Vec2ForCTC.from_config(architecture, Regularisation(), 4 + len(SYMBOLS))
    return {
        "kind": "ctc",
        "architecture": architecture.to_dict(),
        "dictionary": "\n".join(SYMBOLS),
        "labels": "ltr",
        "model": model.state_dict(),
    }


def nvidia(content, mode):
    architecture = native.architecture_of(content, "c")
    hourglass = architecture.hourglass
    return {
        "args": {
            "mode": mode,
            "normalize": architecture.normalize_input,
            "encoder_attention_heads": architecture.heads,
            "layer_norm_first": architecture.norm_first,
            "conv_feature_layers": str(list(architecture.conv_layers)),
            "hourglass_transformer": str(hourglass),
            "hourglass_resample": hourglass.resampling,
            "labels": "ltr",
        },
        "model": to_theirs(content["model"], architecture, content["kind"]),
        "train_state": {"step": 1},
        **({"output_labels": "".join(f"{s} 1\n" for s in SYMBOLS)} if mode == "finetune" else {}),
    }


@pytest.fixture
def files(tmp_path):
    """The same models as files of fairseq and of NVIDIA's recipe, and as Hugging Face folders."""
    paths = {}
    for name, content in {
        "fairseq": fairseq.to_fairseq(pretrained(), tmp_path),
        "fairseq_ctc": fairseq.to_fairseq(finetuned(), tmp_path),
        "nvidia": nvidia(pretrained(HOURGLASS), "pretrain"),
        "nvidia_ctc": nvidia(finetuned(HOURGLASS), "finetune"),
    }.items():
        paths[name] = tmp_path / f"{name}.pt"
        torch.save(content, paths[name])
    (tmp_path / "dict.ltr.txt").write_text("".join(f"{symbol} 1\n" for symbol in SYMBOLS))
    for name, content in {"folder": pretrained(), "folder_ctc": finetuned()}.items():
        paths[name] = tmp_path / name
        huggingface.write_huggingface(content, paths[name])
    return paths


@pytest.mark.parametrize("whose", ["fairseq", "nvidia", "folder"])
def test_finetuning_from_it(corpus, files, tmp_path, command, whose):
    output = tmp_path / "o"
    arguments = flags("finetune", corpus, output, pretrained_model=files[whose])
    code, _, err = command(train.main, *arguments)
    assert code == 0, err
    saved = load_checkpoint(output / "wav2vec2_update4.pt")
    expected = HOURGLASS if whose == "nvidia" else NARROW
    assert saved["architecture"] == expected.to_dict()
    start = pretrained(expected)["model"]
    name = "wav2vec2.feature_extractor.conv_layers.1.conv.weight"  # fine-tuning does not change it
    assert torch.equal(saved["model"][name], start[name])
    assert saved["recipe"]["pretrained_model"] == weights_digest(files[whose])


def test_pretraining_from_a_folder(corpus, files, tmp_path, command):
    start = {"init_from": files["folder"], "model": "auto", "hourglass_config": ""}
    code, _, err = command(train.main, *flags("pretrain", corpus, tmp_path / "o", **start))
    assert code == 0, err


def test_pretraining_from_it(corpus, files, tmp_path, command):
    """The architecture comes from the weights; a resume does not need them; the error for a wrong
    flag gives the right one."""
    start = {"init_from": files["fairseq"], "model": "auto", "hourglass_config": ""}
    arguments = flags("pretrain", corpus, tmp_path / "o", **start, max_update=2)
    code, _, err = command(train.main, *arguments)
    assert code == 0, err
    assert (
        load_checkpoint(tmp_path / "o" / "wav2vec2_update2.pt")["architecture"] == NARROW.to_dict()
    )
    shutil.move(files["fairseq"], tmp_path / "moved.pt")
    code, out, err = command(train.main, *arguments)
    assert code == 0 and "no such checkpoint" not in err

    for changed, message in [
        ({"model": "mini"}, "--model auto --hourglass_config ''"),
        (
            {"hourglass_config": "[2,(8,4),2]"},
            "has the plain encoder; give --model auto --hourglass_config ''",
        ),
        (
            {"init_from": files["nvidia"]},
            "--hourglass_config '[1,(1,2),1]' --hourglass_resampling linear",
        ),
        (
            {"init_from": files["fairseq_ctc"]},
            "not a pre-training checkpoint but 'ctc'; give a pre-trained one, or fine-tune this",
        ),
        ({"init_from": ""}, "--model auto: takes the architecture of --init_from"),
    ]:
        start = {
            "init_from": tmp_path / "moved.pt",
            "model": "auto",
            "hourglass_config": "",
        } | changed
        arguments = flags("pretrain", corpus, tmp_path / "x", **start)
        code, _, err = command(train.main, *arguments)
        assert code == 2 and message in err.splitlines()[-1], err


def test_a_pretrained_model_where_a_recogniser_is_wanted(files, command):
    for name in ("fairseq", "nvidia"):
        arguments = ["transcribe", "--checkpoint", files[name], "--cpu", "true", "a.wav"]
        code, _, err = command(inference.main, *arguments)
        assert code == 2 and "fine-tune it first with scripts/finetune_own.sh" in err


@pytest.mark.parametrize("whose", ["fairseq_ctc", "nvidia_ctc", "folder_ctc"])
def test_evaluation_with_it_and_with_its_conversion(corpus, files, tmp_path, command, whose):
    converted = tmp_path / "native.pt"
    arguments = [files[whose], converted, "--to", "native"]
    code, out, err = command(convert.main, *arguments)
    assert code == 0 and "native.pt: ctc" in out, err
    if whose != "fairseq_ctc":
        files[whose].with_name("dict.ltr.txt").unlink()
    hypotheses = []
    for path in (files[whose], converted):
        output = tmp_path / path.stem
        arguments = ["evaluate", "--checkpoint", path, "--dataset_dir", corpus, "--subset", "dev"]
        arguments += ["--output_dir", output, "--num_workers", 0, "--cpu", "true"]
        code, out, err = command(inference.main, *arguments)
        assert code == 0 and "WER" in out, err
        hypotheses.append((output / "hypotheses_dev.jsonl").read_text())
    assert hypotheses[0] == hypotheses[1]
