"""What a fine-tuning cannot start from: one line, exit code 2, nothing written over."""

import json
from dataclasses import replace

import pytest

import inference
import train
from tests.integration.conftest import flags
from tests.integration.test_bad_input import one_line
from tests.integration.test_foreign_checkpoints import (  # noqa: F401 (fixture)
    HOURGLASS,
    NARROW,
    files,
    finetuned,
    nvidia,
)
from tests.integration.test_hub_ids import NAME, hub  # noqa: F401 (fixture)
from utils.finetuning import plan
from wav2vec2.files.torch_file import save_checkpoint, write_torch_file
from wav2vec2.interop import fairseq, huggingface


@pytest.fixture
def refuse(corpus, tmp_path, command):
    """Check that the run, its plan and, if `reads`, a transcription end with one line."""

    def check(start, *parts, reads=False, language=None, **changed):
        output = tmp_path / "refused"
        arguments = {"pretrained_model": start, "language": language, **changed}
        one_line(command(train.main, *flags("finetune", corpus, output, **arguments)), *parts)
        assert not output.exists()
        adapt = [part for name, value in changed.items() for part in (f"--{name}", str(value))]
        planned = ["--pretrained_model", start, "--dataset_dir", corpus, "--cpu", "true", *adapt]
        chosen = ["--language", language] if language else []
        one_line(command(plan.main, *planned, *chosen), *parts)
        if reads:
            recording = next((corpus / "dev").rglob("*.flac"))
            arguments = ["transcribe", "--cpu", "--checkpoint", start, *chosen, recording]
            one_line(command(inference.main, *arguments), *parts)

    return check


def test_hub_ids(hub, refuse, tmp_path):  # noqa: F811
    for name, description in {"bert": {"model_type": "bert"}, "empty": {}, "list": []}.items():
        hub.folders[f"a/{name}"] = tmp_path / name
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(description))
    hub.folders["a/other"] = tmp_path / "other"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "ggml.bin").write_bytes(b"x")
    hub.refused["a/gated"] = "GatedRepo"
    refuse("no/where", "no/where: no such path, and no such repository", "check", reads=True)
    refuse(f"{NAME}@v9", "has no revision 'v9'; check it on its page")
    refuse("a/gated", "a gated repository", "hf auth login")
    refuse("a/bert", "a/bert/config.json: model_type", "use facebook/wav2vec2-base", reads=True)
    refuse("a/empty", "a/empty/config.json: has no model_type", "give another")
    refuse("a/list", "a/list/config.json: not a JSON object", "fetch it again")
    refuse("a/other", "a/other: holds no wav2vec 2.0 model", "give another", reads=True)
    assert "model.safetensors" not in hub.sent


@pytest.fixture
def mms(tmp_path):
    """A recogniser with adapters that are said to be for two languages."""
    folder = tmp_path / "mms"
    huggingface.write_huggingface(finetuned(replace(NARROW, adapter_dim=4)), folder)
    ids = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps({"deu": ids, "eng": ids}))
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "adapter.deu.safetensors").write_bytes(weights)
    return folder


@pytest.mark.parametrize("language", ["xyz", "DEU", "../deu"])
def test_language_without_adapters(mms, refuse, language):
    refuse(mms, f"--language {language}", mms, "codes such as deu", language=language, reads=True)


def test_languages_are_listed(mms, files, refuse):  # noqa: F811
    refuse(
        mms,
        f"{mms}: has adapters for 2 languages; choose one with --language (ADAPTER_LANGUAGE): "
        "deu eng",
    )
    refuse(mms, "has no adapter.eng.safetensors", "choose another", language="eng")
    refuse(files["fairseq"], "--language deu", "remove the flag", language="deu")


def test_adapting_what_has_another_kind(files, corpus, refuse, tmp_path, command):  # noqa: F811
    layers = tmp_path / "layers.pt"
    save_checkpoint(layers, finetuned(replace(NARROW, adapter_dim=4)))
    refuse(layers, f"--adapt lora: {layers} already has adapter layers; choose", adapt="lora")
    refuse(layers, "--adapter_dim 16", "have 4; give that (ADAPTER_DIM)", adapt="adapters")
    short = {"max_update": 1, "warmup_updates": 0, "hold_updates": 0, "adapt": "lora"}
    arguments = flags("finetune", corpus, tmp_path, pretrained_model=files["folder"], **short)
    assert command(train.main, *arguments)[0] == 0
    lora = tmp_path / "wav2vec2_update1.pt"
    refuse(lora, f"--adapt adapters: {lora} already has LoRA", "--merge", adapt="adapters")


def test_a_run_stays_as_it_is(files, corpus, tmp_path, command):  # noqa: F811
    """Fewer updates than done, and a division over one process."""
    start = {"pretrained_model": files["folder"]}
    assert command(train.main, *flags("finetune", corpus, tmp_path / "run", **start))[0] == 0

    def written():
        paths = (tmp_path / "run").iterdir()
        kept = {p: p.stat().st_mtime_ns for p in paths if p.suffix in (".pt", ".json")}
        kept.pop(tmp_path / "run" / "last_exit.json", None)
        return kept

    before = written()
    for changed, *parts in [
        ({"max_update": 3, "extend": True}, "--max_update 3: --extend", "give more than 4"),
        ({"max_update": 1, "hold_updates": 0, "extend": True}, "--max_update 1", "has done 4"),
        ({"shard": True}, "--shard: divides the model over processes, and there is one", "SHARD"),
    ]:
        arguments = flags("finetune", corpus, tmp_path / "run", **start, **changed)
        one_line(command(train.main, *arguments), *parts)
        assert written() == before


def test_dictionaries_that_do_not_fit_the_rows(refuse, tmp_path):
    content = finetuned()
    for name, dictionary in {"more": "|\nA\nB\nC\nD\nE\nN\nO\nT\nX", "fewer": "|\nA\nB"}.items():
        path = tmp_path / f"{name}.pt"
        save_checkpoint(path, {**content, "dictionary": dictionary})
        symbols = 4 + len(dictionary.split())
        refuse(path, f"{path}: its dictionary has {symbols} symbols", "layer 13", reads=True)
    write_torch_file(tmp_path / "fairseq.pt", fairseq.to_fairseq(content, tmp_path))
    (tmp_path / "dict.ltr.txt").write_text("| 1\nA 1\n")
    refuse(tmp_path / "fairseq.pt", "dict.ltr.txt: 6 symbols", "has 13: give the dictionary")
    theirs = {**nvidia(finetuned(HOURGLASS), "finetune"), "output_labels": "A 1\nB 1\n"}
    write_torch_file(tmp_path / "nvidia.pt", theirs)
    refuse(tmp_path / "nvidia.pt", "(output_labels): 6 symbols", "has 13: give the dictionary")
