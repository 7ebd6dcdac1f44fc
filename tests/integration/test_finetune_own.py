"""scripts/finetune_own.sh: its dry run, a run of a few updates, the same run extended."""

import json
import re
from dataclasses import replace

import pytest

from tests.integration.conftest import ROOT, script
from utils.finetuning import plan
from wav2vec2.config import MINI, Hourglass, Regularisation
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.files.torch_file import save_checkpoint
from wav2vec2.interop import native
from wav2vec2.interop.clients.support import hourglass_note
from wav2vec2.text.vocabulary import Vocabulary


@pytest.fixture
def own(corpus, random_recogniser, tmp_path):
    """Run the recipe on the tiny corpus from a tiny recogniser."""

    def run(*arguments, **changed):
        variables = {
            "PRETRAINED_MODEL": random_recogniser,
            "DATASET_DIR": corpus,
            "VALID_SUBSET": "dev",
            "OUTPUT_DIR": tmp_path / "run",
            "CPU": "true",
            "NUM_WORKERS": "0",
        }
        return script("finetune_own.sh", *arguments, **variables | changed)

    return run


def printed(output):
    """Name -> value of a plan's lines."""
    return dict(re.findall(r"^  ([A-Z0-9_]+)=(\S+) +# .", output, flags=re.MULTILINE))


def test_the_plan_counts_what_learns_the_optimizer_and_shards(own):
    whole = own("--dry_run", GPU_MEMORY_GB="2")
    few = {"ADAPT": "lora", "LORA_TARGETS": "q_proj fc1", "OPTIMIZER": "adam8bit"}
    result = own("--dry_run", GPU_MEMORY_GB="2", SHARD="true", NUM_GPUS="2", **few)
    assert result.returncode == whole.returncode == 0, result.stderr
    words = "with ADAPT=lora OPTIMIZER=adam8bit SHARD=true"
    reasons = [line for line in result.stdout.splitlines() if words in line]
    assert [line.split("=")[0].strip() for line in reasons] == [
        "ACTIVATION_CHECKPOINTING",
        "MAX_TOKENS",
    ]
    assert (
        "ADAPT" not in whole.stdout
        and printed(whole.stdout).keys() == printed(result.stdout).keys()
    )


def test_from_the_plan_to_an_extended_run(own, tmp_path):
    dry = own("--dry_run", MAX_UPDATE="4")
    assert dry.returncode == 0, dry.stderr
    planned = printed(dry.stdout)
    text = (ROOT / "scripts" / "finetune_own.sh").read_text("utf-8")
    chosen = set(re.findall(r'^: "\$\{([A-Z0-9_]+):=auto', text, flags=re.MULTILINE))
    assert planned.keys() == chosen - {"HOURS", "GPU_MEMORY_GB"}
    assert planned["FREEZE_FINETUNE_UPDATES"] == "0" and "output layer is kept" in dry.stdout
    assert not (tmp_path / "run").exists()

    result = own(MAX_UPDATE="4")
    assert result.returncode == 0, result.stderr
    assert printed(result.stdout) == planned
    assert "different from train.py" in result.stdout
    configuration = json.loads((tmp_path / "run" / "config.json").read_text())
    names = {"ENCODER_LAYERDROP": "layerdrop"}
    for name, value in planned.items():
        if name != "BF16":
            found = configuration[names.get(name, name.lower())]
            assert json.dumps(found) == value or found == float(value), name

    # On another machine, the plan would be another; the run keeps its own.
    extended = own(MAX_UPDATE="6", EXTEND="true", GPU_MEMORY_GB="2")
    assert extended.returncode == 0, extended.stderr
    assert printed(extended.stdout) == planned | {"MAX_UPDATE": "6"}
    assert (tmp_path / "run" / "wav2vec2_update6.pt").exists()


def test_a_new_output_layer_learns_alone_first(own):
    dry = own("--dry_run", RESET_HEAD="true").stdout
    planned = printed(dry)
    assert (planned["MAX_UPDATE"], planned["FREEZE_FINETUNE_UPDATES"]) == ("13000", "10000")
    (hours,) = re.findall(r"^in all updates: up to ([\d.,]+) h of audio, ", dry, re.MULTILINE)
    samples = 13_000 * int(planned["BATCHES_PER_UPDATE"]) * int(planned["MAX_TOKENS"])
    assert float(hours.replace(",", "")) == pytest.approx(samples / 16_000 / 3600, abs=0.05)
    assert ("note: a CPU takes days" in dry) == (samples / 16_000 / 3600 > plan.CPU_HOURS)


@pytest.mark.parametrize("hourglass", [None, Hourglass(1, 2, 2, 1)])
def test_the_dry_run_says_which_programs_take_the_model(own, corpus, tmp_path, hourglass):
    """As the first lines of the run itself, once."""
    architecture = replace(MINI, hourglass=hourglass)
    vocabulary = Vocabulary.from_file(corpus / "dict.ltr.txt")
    model = Wav2Vec2ForCTC.from_config(architecture, Regularisation(), len(vocabulary))
    content = native.ctc_content(architecture, vocabulary, "ltr")
    save_checkpoint(tmp_path / "start.pt", {**content, "model": model.state_dict()})
    note = hourglass_note(architecture)
    assert bool(note) == bool(hourglass)
    dry = own("--dry_run", PRETRAINED_MODEL=tmp_path / "start.pt", MAX_UPDATE="1")
    assert dry.returncode == 0, dry.stderr
    notes = [line for line in dry.stdout.splitlines() if line.startswith("note: hourglass")]
    assert notes == ([note] if note else [])


def test_a_mistake_leaves_no_folder(own, tmp_path):
    result = own(MAX_UPDATE="4", GPU_MEMORY_GB="0.1")
    assert result.returncode == 2
    assert "so no sub-batch fits" in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pretrained_model": ""}, "PRETRAINED_MODEL: name a checkpoint to start from"),
        ({"pretrained_model": "gone.pt"}, "gone.pt: no such checkpoint"),
        ({"dataset_dir": ""}, "DATASET_DIR: name the folder of your corpus"),
        ({"train_subset": "trian"}, "trian.tsv: no such file"),
        ({"choices": "LEARNING_RATE=high"}, "LEARNING_RATE=high: must be a number, or auto"),
        ({"labels": "phn"}, "dict.phn.txt"),
    ],
)
def test_a_mistake_is_one_line(command, corpus, random_recogniser, tmp_path, changed, message):
    values = {
        "pretrained_model": random_recogniser,
        "dataset_dir": corpus,
        "output_dir": tmp_path / "run",
        "cpu": "true",
    }
    pairs = [(f"--{name}", value) for name, value in (values | changed).items()]
    code, _, err = command(plan.main, *(part for pair in pairs for part in pair))
    assert code == 2 and message in err and err.count("\n") == 1, err


@pytest.mark.parametrize("content", ["{}", '{"command": "pretrain", "precision": "fp32"}', "[1]"])
def test_the_folder_of_another_run_is_refused(command, corpus, tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "wav2vec2_update5.pt").touch()
    flags = ("--dataset_dir", corpus, "--output_dir", tmp_path, "--pretrained_model", "any")
    code, _, err = command(plan.main, *flags)
    assert code == 2 and f"OUTPUT_DIR={tmp_path}: holds another run" in err, err
    assert err.count("\n") == 1


def test_without_a_gpu_the_machine_must_be_named(command, corpus, random_recogniser, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    flags = ("--dataset_dir", corpus, "--pretrained_model", random_recogniser)
    code, _, err = command(plan.main, *flags)
    assert code == 2 and "set CPU=true to train on the CPU, or GPU_MEMORY_GB=24" in err
    code, out, err = command(plan.main, *flags, "--choices", "GPU_MEMORY_GB=24")
    assert code == 0 and printed(out)["BF16"] == "true", err
