"""Commands on a recogniser with adapters for several languages: `--language` chooses one."""

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

import inference
import train
import wav2vec2
from tests.integration.conftest import flags, script
from tests.integration.test_bad_input import one_line
from utils import probe
from utils.checkpoints import release
from wav2vec2.config import MINI, Regularisation
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.files.torch_file import load_checkpoint
from wav2vec2.interop import huggingface, native
from wav2vec2.text.vocabulary import Vocabulary

NARROW = replace(MINI, dim=48, ffn_dim=64, layers=2, adapter_dim=4)
LISTED = "has adapters for 2 languages; choose one with --language (ADAPTER_LANGUAGE): deu eng"


@pytest.fixture(scope="module")
def mms(corpus, tmp_path_factory):
    """A folder in the layout of facebook/mms-1b-all: random weights, one vocabulary twice."""
    vocabulary = Vocabulary.from_file(corpus / "dict.ltr.txt")
    torch.manual_seed(0)
    network = Wav2Vec2ForCTC.from_config(NARROW, Regularisation(), len(vocabulary))
    folder = tmp_path_factory.mktemp("mms") / "mms"
    content = native.ctc_content(NARROW, vocabulary, "ltr")
    huggingface.write_huggingface({**content, "model": network.state_dict()}, folder)
    ids = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps({"deu": ids, "eng": ids}))
    weights = load_file(folder / "model.safetensors")
    for code in ("deu", "eng"):
        own = {
            name: torch.randn_like(weight)
            for name, weight in weights.items()
            if ".adapter_layer." in name or name.startswith("lm_head.")
        }
        own["lm_head.bias"][1:4] = -100
        save_file(own, folder / f"adapter.{code}.safetensors")
    return folder


@pytest.fixture(scope="module")
def recording(corpus):
    return sorted((corpus / "dev").rglob("*.flac"))[0]


def run(command, name, *arguments, main=inference.main):
    code, out, err = command(main, *([name] if name else []), *arguments)
    assert code == 0, err
    return out


def test_transcribing_and_what_is_converted(mms, recording, tmp_path, command):
    """Converted, a language is a model of its own, with the same transcript."""
    texts = {}
    for code in ("deu", "eng"):
        chosen, path = ("--language", code), tmp_path / f"{code}.pt"
        texts[code] = run(command, "transcribe", "--checkpoint", mms, "--cpu", *chosen, recording)
        run(command, "convert", mms, path, "--to", "native", *chosen)
        alone = run(command, "transcribe", "--checkpoint", path, "--cpu", recording)
        assert alone == texts[code] != ""
        one_line(
            command(
                inference.main,
                *("transcribe", "--checkpoint", path, "--cpu", "--language", "eng", recording),
            ),
            *("--language eng", "has no adapters for languages; remove the flag"),
        )
    assert texts["deu"] != texts["eng"]


def test_evaluating(mms, corpus, tmp_path, command):
    """Through the script, whose variable is that of fine-tuning."""
    recipe = {"FINETUNED_MODEL": mms, "DATASET_DIR": corpus, "SUBSETS": "dev", "CPU": "true"}
    recipe |= {"OUTPUT_DIR": tmp_path / "o", "NUM_WORKERS": "0"}
    found = script("inference.sh", **recipe, ADAPTER_LANGUAGE="deu")
    assert found.returncode == 0, found.stderr
    own = ["--checkpoint", mms, "--dataset_dir", corpus, "--subset", "dev", "--num_workers", "0"]
    own += ["--cpu", "--output_dir", tmp_path / "e", "--language", "deu"]
    run(command, "evaluate", *own)
    name = "hypotheses_dev.jsonl"
    assert (tmp_path / "o" / name).read_text() == (tmp_path / "e" / name).read_text()
    refused = script("inference.sh", **recipe)
    assert refused.returncode == 2 and LISTED in refused.stderr.splitlines()[-1]


def test_features(mms, recording, tmp_path, command):
    chosen = ["--checkpoint", mms, "--cpu", "--num_workers", 0, "--output_dir"]
    found = {}
    for code in ("deu", "eng"):
        run(command, "features", *chosen, tmp_path / code, "--language", code, recording)
        (path,) = (tmp_path / code).glob("*.npz")
        found[code] = np.load(path)["features"]
        samples, rate = soundfile.read(recording, dtype="float32")
        encoder = wav2vec2.load_features(mms, "cpu", language=code)
        assert abs(encoder.features(samples, rate) - found[code]).max() <= 1e-4
    assert abs(found["deu"] - found["eng"]).max() > 0.01


def test_releasing(mms, tmp_path, command):
    run(command, None, mms, tmp_path / "r", "--language", "deu", main=release.main)
    result = command(release.main, tmp_path / "r", tmp_path / "again", "--language", "deu")
    one_line(result, "--language deu", "has no adapters for languages; remove the flag")
    assert not (tmp_path / "again").exists()


def test_fine_tuning(mms, corpus, tmp_path, command):
    """The adapters of the language are the start's."""
    start = {"pretrained_model": mms, "language": "eng", "learning_rate": 0, "max_update": 1}
    arguments = flags("finetune", corpus, tmp_path / "run", **start, hold_updates=0)
    code, _, err = command(train.main, *arguments)
    assert code == 0, err
    saved = load_checkpoint(tmp_path / "run" / "wav2vec2_update1.pt")["model"]
    own = load_file(mms / "adapter.eng.safetensors")
    name = "encoder.layers.1.adapter_layer.linear_1.weight"
    found = saved["wav2vec2.encoder.stack.layers.1.adapter.linear_1.weight"]
    assert torch.equal(found, own[f"wav2vec2.{name}"])


def test_without_a_choice_the_languages_are_listed(mms, corpus, recording, tmp_path, command):
    model, out = ("--checkpoint", mms, "--cpu"), tmp_path / "out"
    filelist = ("--dataset_dir", corpus, "--subset", "dev")
    for main, *arguments in [
        (inference.main, "transcribe", *model, recording),
        (inference.main, "evaluate", *model, *filelist, "--output_dir", out),
        (inference.main, "features", *model, "--output_dir", out, recording),
        (inference.main, "align", *model, "--text", "CAT", recording),
        (inference.main, "convert", mms, tmp_path / "c.pt", "--to", "native"),
        (release.main, mms, tmp_path / "r"),
        (probe.main, mms, "--cpu", "--dataset_dir", corpus, "--output_dir", out),
        (train.main, *flags("finetune", corpus, out, pretrained_model=mms)),
    ]:
        one_line(command(main, *arguments), str(mms), LISTED)
    assert list(tmp_path.glob("*")) in ([], [out]) and not list(out.glob("*.pt"))
