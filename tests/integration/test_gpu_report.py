"""scripts/gpu_report.sh on the CPU: every step at toy size, its file and its tables."""

import json
import os
import subprocess
import sys

import pytest

from tests.integration.conftest import ROOT
from utils.gpu_report.steps import RECIPES_NEED, STEPS
from utils.reporting.results import END, Measurement, measured_tables, update_docs

WITHOUT = """
import importlib.machinery as machinery

find = machinery.PathFinder.find_spec
absent = {"soundfile", "soxr", "editdistance", "tqdm"}
machinery.PathFinder.find_spec = lambda name, path=None, target=None: (
    None if name.partition(".")[0] in absent else find(name, path, target)
)
"""
"""A sitecustomize.py that makes packages look as if they were not installed."""


def report(*arguments, **variables):
    """The result of the script."""
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        ["bash", str(ROOT / "scripts" / "gpu_report.sh"), *map(str, arguments)],
        env={"DATASET_DIR": "none", **environment},
        capture_output=True,
        text=True,
        timeout=1_800,
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("report")
    return folder, report("--cpu", "--output_dir", folder)


def test_every_step(measured):
    folder, result = measured
    assert result.returncode == 0, result.stdout + result.stderr
    done = json.loads((folder / "state.json").read_text())["done"]
    absent = {"apex"} if "needs apex" in result.stdout else set()
    on_cpu = {step.name for step in STEPS if step.gpus <= 2}
    assert set(done) == on_cpu - absent, result.stdout
    found = {m.table: m for m in Measurement.read_all(folder / "gpu_cpu.json")}
    assert set(found) == {
        *("pooling_factor", "throughput", "gpu_peers", "gpu_precision", "gpu_concat"),
        *("gpu_variants", "gpu_largest_batch", "gpu_training", "gpu_inference"),
    }
    assert all(m.setting.startswith("CPU, toy sizes") and m.commit for m in found.values())
    assert set(found["pooling_factor"].rows) == {"baseline", "factor 2"}
    assert set(found["gpu_peers"].rows) == {"baseline bf16 x 2", "transformers bf16 x 2"}
    assert set(found["gpu_precision"].rows) == {"baseline tf32 x 2", "baseline fp16 x 2"}
    assert set(found["gpu_concat"].rows) == {"baseline bf16", "baseline bf16 x 2"}
    assert set(found["gpu_inference"].rows) == {"batch 1", "batch 4", "batch 8"}
    assert set(found["throughput"].rows["1 GPU"]) == {"pretrain", "finetune"}
    assert "2 GPUs" in found["throughput"].rows
    assert all(rate > 0 for row in found["throughput"].rows.values() for rate in row.values())
    commands = " ".join(m.command for m in found.values())
    assert "utils.benchmarks.step" in commands and "scripts/finetune_base_benchmark.sh" in commands


def test_tables(measured, tmp_path):
    """Marked as of a CPU, created where the documents have their places."""
    folder, result = measured
    figures = tmp_path / "results"
    figures.mkdir()
    (figures / "gpu_cpu.json").write_bytes((folder / "gpu_cpu.json").read_bytes())
    page = tmp_path / "page.md"
    names = ", ".join(measured_tables(figures))
    page.write_text(f"before\n<!-- measured tables: {names} -->\n\n{END}\nafter\n")
    update_docs(None, [page], figures)
    text = page.read_text()
    for title in ("Pooling factor: Base", "Plain Base, an update, by precision", "Throughput of"):
        assert f"**{title}" in text and f"**{title}" in result.stdout
    assert "| CPU, toy sizes, bf16: throughput |" in text
    assert "| baseline, plain\\_kernels bf16 x 2 |" in text


def test_resumed(measured):
    """Nothing is left to do, other than what cannot be done here."""
    folder, _ = measured
    state = json.loads((folder / "state.json").read_text())
    removed = state["done"].pop("largest_batch")
    (folder / "state.json").write_text(json.dumps(state))
    result = report("--cpu", "--output_dir", folder)
    assert result.returncode == 0, result.stdout + result.stderr
    started = [line.split(":")[0] for line in result.stdout.splitlines() if line[:3] == "== "]
    assert started == ["== largest_batch"]
    done = json.loads((folder / "state.json").read_text())["done"]
    tables = [record["tables"][0] for record in (done["largest_batch"], removed)]
    assert tables[0]["rows"] == tables[1]["rows"]


def test_without_packages_that_the_gpu_steps_do_not_need(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(WITHOUT)
    chosen = ("concat", "largest_batch", "pretraining")
    result = report(
        *("--cpu", "--output_dir", tmp_path / "out", "--steps", *chosen), PYTHONPATH=str(tmp_path)
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "not installed: " in result.stdout
    done = json.loads((tmp_path / "out" / "state.json").read_text())["done"]
    assert set(done) == {"concat", "largest_batch"}, result.stdout
    absent = [name for name in RECIPES_NEED if name in WITHOUT]
    assert f"needs {', '.join(absent)}" in result.stdout


@pytest.mark.skipif(os.path.exists("/dev/nvidia0"), reason="there is a GPU")
def test_no_gpu(tmp_path):
    result = report("--output_dir", tmp_path / "out")
    assert result.returncode == 2 and not (tmp_path / "out").exists()
    assert result.stderr.startswith("error: no GPU found; --cpu tests")
    assert result.stderr.count("\n") == 1 and result.stdout == ""
