"""utils/benchmarks/inference.py prints its tables, and compares models that compute the same."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from tests.integration.conftest import ROOT
from utils.benchmarks import inference
from utils.benchmarks.inference import PEERS, InferenceBenchmarkOptions
from utils.reporting.results import Measurement
from wav2vec2.cli.errors import UserError
from wav2vec2.config import LARGE, MINI

GROUP = replace(MINI, hourglass=None, normalize_input=False)
SMALL_LARGE = {"dim": 48, "ffn_dim": 96, "heads": 4, "layers": 2, "normalize_input": False}
LAYER = replace(LARGE, conv_layers=MINI.conv_layers, **SMALL_LARGE)
CPU = torch.device("cpu")


def loaded(options, architecture, folder):
    builds, skipped = inference.contestants(options, architecture, folder)
    return {name: build() for name, build in builds.items()}, skipped


INSTALLED = [peer for peer, needed in PEERS.items() if all(map(find_spec, needed))]


@pytest.mark.parametrize(
    "peers, exported, architecture",
    [
        ([peer for peer in INSTALLED if peer != "ctranslate2"], True, GROUP),
        ([peer for peer in INSTALLED if peer == "ctranslate2"], False, LAYER),
    ],
    ids=["group", "layer"],
)
def test_all_compute_the_same(tmp_path, peers, exported, architecture):
    options = InferenceBenchmarkOptions(
        model="mini", hourglass_config="", peers=tuple(peers), exported=exported
    )
    waveforms, lengths = 0.1 * torch.randn(2, 8000), torch.full((2,), 8000)
    runs, _ = loaded(options, architecture, tmp_path)
    with torch.inference_mode():
        found = {name: run(waveforms, lengths) for name, run in runs.items()}
    names = {f"{peer} fp32" for peer in (*peers, *(["torch.export"] if exported else []))}
    assert {"plain fp32", "plain bf16"} | names <= set(found)
    expected = found["plain fp32"]
    for name, logits in found.items():
        if not isinstance(logits, torch.Tensor):
            logits = torch.from_numpy(np.array(logits))
        tolerance = 2e-3 if name.endswith("fp32") else 0.1
        assert (logits.float() - expected).norm() < tolerance * expected.norm(), name


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_the_compiled_model_computes_the_same(tmp_path):
    inference.write_model(GROUP, tmp_path / "plain.pt")
    waveforms, lengths = 0.1 * torch.randn(2, 8000), torch.full((2,), 8000)
    with torch.inference_mode():
        expected, found = (
            build(tmp_path / "plain.pt", "fp32", CPU)(waveforms, lengths)
            for build in (inference.ours, inference.compiled)
        )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_what_cannot_take_part_is_skipped_with_a_line(tmp_path, monkeypatch):
    monkeypatch.setitem(PEERS, "openvino", ("no_such_package",))
    options = InferenceBenchmarkOptions(
        model="mini", hourglass_config="", peers=("openvino", "ctranslate2")
    )
    builds, skipped = inference.contestants(options, GROUP, tmp_path)
    assert all(name.startswith("plain") for name in builds)
    assert "openvino: skipped, because it needs no_such_package: pip install" in skipped[-2]
    assert skipped[-1].startswith("ctranslate2: skipped")
    assert "CPUs only" in inference.why_skipped("onnxruntime", GROUP, torch.device("cuda"))


def test_tables(command, tmp_path):
    pytest.importorskip("transformers")
    code, out, err = command(
        inference.main,
        *("--model", "mini", "--hourglass_config", "", "--peers", "transformers"),
        *("--utterances", "1", "2", "--seconds", "0.3", "--rounds", "1", "--mixed", "3"),
        *("--json", tmp_path / "inference.json"),
    )
    assert code == 0, err
    assert "load of the machine" in out and "transformers 5" in out
    names = {line.split("|")[1].strip() for line in out.splitlines() if line.startswith("| p")}
    names |= {line.split("|")[1].strip() for line in out.splitlines() if line.startswith("| tr")}
    assert names >= {"plain fp32", "plain bf16", "transformers fp32", "transformers bf16"}
    rows = json.loads((tmp_path / "inference.json").read_text())["rows"]
    titles = ("1 x 0.3 s", "2 x 0.3 s", "3 of 1 to 20 s")
    assert set(rows) == {f"{name}, {title}" for name in names for title in titles}
    for row in rows.values():
        assert min(row.values()) > 0
        assert row["ratio_fp32"] and row["memory"] > 1
    assert Measurement.read(tmp_path / "inference.json").table == "inference"


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--rounds", "0"], "--rounds 0"),
        (["--seconds", "0"], "--seconds"),
        (["--utterances", "0"], "--utterances"),
        (["--hourglass_config", "[1,(2,2:4),1]", "--model", "mini"], "one pooling factor"),
        (["--hourglass_config", "x"], "--hourglass_config 'x': write it like"),
        (["--hourglass_config", "[2,(8,0),2]"], "the factor must be at least 1"),
        (["--model", "mini"], "--hourglass_config [2,(8,4),2] has 12 layers, the model has 4"),
    ],
)
def test_mistakes(command, flags, words):
    code, _, err = command(inference.main, *flags)
    assert code == 2 and words in err


def nothing():
    """Loads a model that does nothing."""
    return lambda waveforms, lengths: None


def dies():
    """Loads a model that ends its process as the system does when memory runs out."""
    return lambda waveforms, lengths: os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("build", [nothing, dies])
def test_a_process_that_was_killed_is_named(build):
    worker = inference.Worker("plain fp32", build, CPU)
    if build is nothing:
        assert worker.seconds([[100]]) > 0
        worker.close()
    with pytest.raises(UserError, match="plain fp32: its process ended with exit code -"):
        worker.seconds([[100]])


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGTERM, 4, "error: stopped by SIGTERM; run it again\n"),
        (signal.SIGINT, 130, "error: interrupted\n"),
    ],
)
def test_a_signal_ends_it_and_its_processes(number, code, said):
    command = [sys.executable, "-m", "utils.benchmarks.inference", "--model", "mini"]
    command += ["--utterances", "1", "--seconds", "0.5", "--rounds", "100000", "--mixed", "0"]
    process = subprocess.Popen(
        [*command, "--peers", "--hourglass_config", ""],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline().startswith("mini, ")
    os.killpg(process.pid, number)  # as Ctrl-C in a terminal, while its processes start
    _, errors = process.communicate(timeout=120)  # the pipes are closed: all have ended
    assert (process.returncode, errors) == (code, said)
