"""The path of docs/finetune_your_own.md, walked as a user walks it, from an empty folder.

The start is a random-weight twin of XLS-R 300M with 4 layers, on a local server that speaks the
Hugging Face Hub's API.  The corpus is 20 minutes of the telephone prompts that Debian packages.
"""

import gzip
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import soundfile

from tests.hub_server import serve
from tests.integration.conftest import ROOT, script
from tests.integration.test_real_speech import ENGLISH, MISSING, TRANSCRIPTS
from tests.integration.test_training import log_records
from tests.unit.wav2vec2.interop.test_hub import use_endpoint
from wav2vec2.audio.decode import read_utterance
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.files.filelists import read_manifest
from wav2vec2.files.output import write_lines

pytest.importorskip("transformers")
pytest.importorskip("peft")

from tests.parity import test_other_programs as programs  # noqa: E402
from tests.parity.test_published_models import LARGE, make  # noqa: E402

pytestmark = [
    pytest.mark.long,
    pytest.mark.integration,
    pytest.mark.skipif(bool(MISSING), reason=f"needs Debian's {' '.join(MISSING)}"),
]

START = "facebook/wav2vec2-xls-r-300m"
KINDS = {"lora": {"ADAPT": "lora"}, "full": {}}
HELD_OUT = 33
"""Recordings of test.tsv."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The user's folder: empty.  What the walk leaves there is large."""
    folder = tmp_path_factory.mktemp("user")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def hub(folder, monkeypatch_module):
    """The local Hub has the twin; every command of the walk asks it."""
    twin = folder / "twin"
    make("Wav2Vec2", "ForPreTraining", **LARGE, num_hidden_layers=4).save_pretrained(twin)
    processor = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": True}
    (twin / "preprocessor_config.json").write_text(json.dumps(processor))
    with serve() as server:
        server.folders[START] = twin
        for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE"):
            monkeypatch_module.delenv(name, raising=False)
        monkeypatch_module.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch_module.setenv("HF_HOME", str(folder / "cache"))
        monkeypatch_module.setenv("OMP_NUM_THREADS", "1")
        # The conversions run in this process, where the library has read its variables already.
        use_endpoint(monkeypatch_module, server.endpoint)
        cache = str(folder / "cache" / "hub")
        monkeypatch_module.setattr(huggingface_hub.constants, "HF_HUB_CACHE", cache)
        yield server


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def python(*arguments: object) -> subprocess.CompletedProcess:
    """A command of this repository, as a user starts it."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.fixture(scope="module")
def corpus(folder):
    """The prompts, by the table that a user writes."""
    lines = gzip.decompress(TRANSCRIPTS.read_bytes()).decode().splitlines()
    rows = [match.groups() for line in lines if (match := re.match(r"([^;:]+): (.*)", line))]
    table = folder / "recordings.tsv"
    write_lines(table, ["path\ttext", *(f"{ENGLISH / name}.g722\t{text}" for name, text in rows)])
    mine = folder / "mine"
    done = python("-m", "utils.data.import_corpus", "--table", table, "--output_dir", mine)
    assert done.returncode == 1, done.stderr  # the table names one file that the package lacks
    assert "bash scripts/finetune_own.sh" in done.stdout
    for subset in ("train", "valid", "test"):
        assert f"{mine}/{subset}.tsv" in done.stdout
    return mine


def train(corpus: Path, output: Path, *arguments: str, **variables: str):
    """scripts/finetune_own.sh with batches of seconds: the plan's are minutes."""
    return script(
        *("finetune_own.sh", *arguments),
        PRETRAINED_MODEL=START,
        DATASET_DIR=corpus,
        OUTPUT_DIR=output,
        CPU="true",
        MAX_TOKENS="160000",
        BATCHES_PER_UPDATE="1",
        **variables,
    )


@pytest.fixture(scope="module", params=list(KINDS))
def run(request, folder, hub, corpus):
    """The folder of a run of two updates that was extended to three."""
    output = folder / request.param
    if not output.exists():
        result = train(corpus, output, MAX_UPDATE="2", **KINDS[request.param])
        assert result.returncode == 0, result.stderr
        extended = train(corpus, output, MAX_UPDATE="3", EXTEND="true", **KINDS[request.param])
        assert extended.returncode == 0, extended.stderr
        assert "extended from 2 to 3 updates" in extended.stderr + extended.stdout
    return output


def test_the_plan(folder, hub, corpus):
    planned = train(corpus, folder / "planned", "--dry_run")
    assert planned.returncode == 0, planned.stderr
    assert re.search(r"^train: 0\.3\d h, ", planned.stdout, re.M)
    assert re.search(rf"^{START}: .* 4 layers of width 1024; new rows", planned.stdout, re.M)
    assert re.search(r"^  MAX_UPDATE=13000 +# as for 1 h, the nearest", planned.stdout, re.M)
    assert not (folder / "planned").exists()


def test_an_extended_run_learns(run):
    losses = [r["data"]["val_loss"] for r in log_records(run) if "val_loss" in r.get("data", {})]
    assert losses[-1] < losses[0]  # validated at the end of the run, and of the extended one
    assert (run / "wav2vec2_update3.pt").exists()
    if run.name == "lora":  # the language costs megabytes
        assert (run / "wav2vec2_best.pt").stat().st_size < 2e6


def evaluate(checkpoint: object, corpus: Path, output: Path) -> subprocess.CompletedProcess:
    flags = ("--dataset_dir", corpus, "--subset", "test", "--output_dir", output)
    return python("inference.py", "evaluate", "--checkpoint", checkpoint, *flags)


def test_evaluated_on_held_out_recordings(run, corpus):
    done = evaluate(run / "wav2vec2_best.pt", corpus, run)
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "summary_test.json").read_text())["utterances"] == HELD_OUT


def test_the_start_beside_it_says_what_gives_it_an_output_layer(folder, hub, corpus):
    start = evaluate(START, corpus, folder / "start")
    assert start.returncode == 2 and start.stderr.count("error: ") == 1
    assert "scripts/finetune_own.sh" in start.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def recogniser(run, corpus):
    """A folder with model.pt, recording.wav, which is held out, and our transcript of it."""
    folder = run / "programs"
    if folder.exists():  # pytest may come back to a run
        return folder
    folder.mkdir()
    manifest = read_manifest(corpus, "test")
    longest = max(manifest.utterances, key=lambda utterance: utterance.samples)
    samples = read_utterance(str(Path(manifest.root, longest.path)))
    soundfile.write(folder / "recording.wav", samples, SAMPLE_RATE, "PCM_16")
    (folder / "model.pt").symlink_to(run / "wav2vec2_best.pt")
    done = python(
        *("inference.py", "transcribe", "--checkpoint", run / "wav2vec2_best.pt"),
        folder / "recording.wav",
    )
    assert done.returncode == 0, done.stderr
    (folder / "transcript.txt").write_text(done.stdout.splitlines()[-1].split("\t")[1], "utf-8")
    return folder


@pytest.mark.parametrize(
    ("run", "name"),
    # All formats of a run with LoRA are written from the same merged weights: two are enough.
    [("lora", "transformers"), ("lora", "onnxruntime")]
    + [("full", name) for name in (*programs.NEEDS, "transformers.js")],
    indirect=["run"],
)
def test_another_program_prints_our_transcript(name, recogniser, monkeypatch):
    if name == "transformers.js":
        programs.run_transformers_js(recogniser, monkeypatch)
    else:
        programs.run_python(name, recogniser, monkeypatch)
