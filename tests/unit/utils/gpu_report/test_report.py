"""The GPU report's steps: chosen by time, limited, halved, resumed; with commands of no torch."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from utils.benchmarks.inference import InferenceBenchmarkOptions
from utils.benchmarks.largest_batch import SearchOptions
from utils.benchmarks.step import StepOptions, parse_options
from utils.gpu_report import report as gpu_report
from utils.gpu_report.memory import (
    CARDS,
    FIXED,
    PER_UTTERANCE,
    RECIPE,
    USABLE,
    Batch,
    choose_batch,
    predicted,
)
from utils.gpu_report.report import GpuReportOptions, Report, choose_steps, run_steps
from utils.gpu_report.steps import STEPS, Command, Setup, Step, merge_rows
from utils.reporting.results import ROOT, TABLES, Measurement, measured_tables
from wav2vec2.cli.errors import UserError
from wav2vec2.cli.flags import ArgumentParser, parse_dataclasses

MACHINE = {
    "hardware": "NVIDIA A",
    "gpus": 1,
    "free": 80_000.0,
    "versions": {"torch": "2.13"},
    "commit": "unknown",
    "missing": ["apex"],
}
WRITES = "import json, sys; json.dump({}, open(sys.argv[1] + '/done.json', 'w'))"


def step(name, code=WRITES, **changed):
    """A step whose command is a few lines of Python, called with its folder and its batch."""

    def command(setup, batch, folder):
        return Command(["python", "-c", code, str(folder), str(batch.concat)])

    def read(folder):
        (folder / "done.json").read_text()
        return {"gpu_precision": {name: {"audio": 1.5, "speed": 1.0}}}

    return Step(name, "shows", command, read, (1.0, 0.0), **changed)


@pytest.fixture
def run(tmp_path):
    """Run steps on an imagined machine; (report, what failed or was skipped, file of figures)."""

    def run(*steps, **changed):
        report = Report.open(tmp_path, MACHINE, "NVIDIA A")
        setup = Setup(tmp_path, False, 5, 0.0, "data", "train", "valid")
        chosen = [s for s in steps if s.name not in report.done]
        output = tmp_path / "results" / "gpu.json"
        options = GpuReportOptions(**changed)
        end = time.monotonic() + 60 * options.minutes
        failed, skipped = run_steps(report, chosen, setup, options, output, end)
        return report, {**failed, **{n: f"skipped: {why}" for n, why in skipped.items()}}, output

    return run


def test_a_failure_stops_nothing_and_names_its_reason(run):
    broken = step("broken", "raise ValueError('no such thing')")
    unreadable = step("unreadable", "pass")
    report, failed, output = run(broken, step("good"), unreadable, step("last", needs=("apex",)))
    assert list(report.done) == ["good"]
    assert failed["broken"].startswith("exit code 1: ValueError: no such thing; see ")
    assert failed["last"] == "skipped: needs apex"
    assert "figures cannot be read (FileNotFoundError" in failed["unreadable"]
    assert set(failed) == {"broken", "unreadable", "last"}
    (found,) = Measurement.read_all(output)
    assert found.setting == "NVIDIA A, bf16" and found.hardware == "1 x NVIDIA A"
    assert found.rows == {"good": {"audio": 1.5, "speed": 1.0}} and found.commit == "unknown"
    assert "python -c" in found.command


def alive(pid):
    """Whether a process runs; one that has ended may wait for its parent."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


SLEEPS = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as a process that hangs
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1] + "/../child", "w").write(str(child.pid))
time.sleep(600)
"""


def test_the_limit_ends_a_step_and_what_it_started(run, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_report, "GRACE", 0.5)
    report, failed, _ = run(step("slow", SLEEPS), step("good"), limit=3 / 60)
    assert failed["slow"].startswith("exceeded its limit of 0.1 minutes; see ")
    assert list(report.done) == ["good"]
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 20
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(child)


def test_no_step_starts_after_the_end(run):
    _, failed, output = run(step("first"), minutes=1e-9)
    assert failed == {"first": "skipped: no time left"} and not output.exists()


INTERRUPTED = """
import sys
from pathlib import Path
from tests.unit.utils.gpu_report import test_report as t
from wav2vec2.cli.errors import run_command

def main():
    t.gpu_report.GRACE = 0.5
    for number in (t.signal.SIGINT, t.signal.SIGTERM):  # a shell's background job ignores SIGINT
        t.signal.signal(number, t.signal.default_int_handler)
    folder = Path(sys.argv[1])
    report = t.Report.open(folder, t.MACHINE, "NVIDIA A")
    setup = t.Setup(folder, False, 5, 0.0, "data", "train", "valid")
    steps = [t.step("good"), t.step("slow", t.SLEEPS)]
    output = folder / "results" / "gpu.json"
    t.run_steps(report, steps, setup, t.GpuReportOptions(), output, t.time.monotonic() + 600)

run_command(main)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_and_resumed(run, tmp_path, number):
    """What is done stays done, and no process is left."""
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "child").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.2)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err == "error: interrupted\n"
    assert not alive(int((tmp_path / "child").read_text()))
    state = json.loads((tmp_path / "state.json").read_text())
    assert list(state["done"]) == ["good"]
    report, failed, output = run(step("good", "raise ValueError"), step("slow"))
    assert failed == {} and list(report.done) == ["good", "slow"]
    (found,) = Measurement.read_all(output)
    assert list(found.rows) == ["good", "slow"] and "; " in found.command


def test_a_state_of_another_machine_is_refused(run, tmp_path):
    run(step("good"))
    with pytest.raises(UserError, match="was measured on NVIDIA A, this is NVIDIA B; choose"):
        Report.open(tmp_path, MACHINE, "NVIDIA B")


OUT_OF_MEMORY = """
import sys
if int(sys.argv[2]) > 2:
    raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
open(sys.argv[1] + "/done.json", "w").write("{}")
"""


def test_out_of_memory_halves_the_batch(run, capsys):
    report, failed, _ = run(step("large", OUT_OF_MEMORY))
    assert failed == {}
    assert report.done["large"]["note"] == "out of memory with 4 x 1400000 samples; halved"
    assert report.done["large"]["tables"][0]["command"].endswith("large 2")
    assert "out of memory with 8 x 1400000 samples; halved" in capsys.readouterr().out
    tries = "open(sys.argv[1] + '/../tries', 'a').write('x'); raise RuntimeError('out of memory')"
    fixed = step("fixed", f"import sys; {tries}")
    own = replace(fixed, command=lambda setup, batch, folder: fixed.command(setup, RECIPE, folder))
    run(own)  # it has no batch to halve
    assert (report.folder / "tries").read_text() == "x"
    never = OUT_OF_MEMORY.replace("> 2", "> 0")
    _, failed, _ = run(step("never", never))
    assert "CUDA out of memory" in failed["never"]


def test_ten_minutes_give_the_first_four():
    chosen, rounds = choose_steps(STEPS, 10, [])
    names = [s.name for s in chosen]
    assert names[:4] == ["tests", "pooling_factor", "peers", "precision"]
    assert sum(s.expected(rounds) for s in chosen) <= 10
    everything, rounds = choose_steps(STEPS, 600, ["tests"])
    assert len(everything) == len(STEPS) - 1 and rounds == 10
    assert choose_steps(STEPS, 0.5, []) == ([], 10)


@pytest.mark.parametrize("size", CARDS)
@pytest.mark.parametrize("step", STEPS, ids=lambda s: s.name)
def test_the_chosen_batch_fits(size, step):
    memory = size * 1e9 / 2**20
    batch = choose_batch(memory, step.models, step.scale)
    need = predicted(batch, models=step.models, scale=step.scale)
    assert need <= USABLE * memory or batch.halved() is None
    # It is the largest of the halves.
    double = Batch(2 * batch.concat, batch.max_tokens)
    if batch != RECIPE and batch.max_tokens == RECIPE.max_tokens:
        assert predicted(double, models=step.models, scale=step.scale) > USABLE * memory


def test_prediction():
    assert predicted(RECIPE, 4) == pytest.approx(600 + FIXED + 44.8 * PER_UTTERANCE[4])
    halves = [RECIPE]
    while half := halves[-1].halved():
        halves.append(half)
    assert [b.concat for b in halves] == [8, 4, 2, 1, 1, 1]
    assert halves[-1].max_tokens == 350_000


def test_tables_have_their_places():
    """Each table that a step fills is known, and the file's parts become tables."""

    def found(table, command, commit, rows):
        names = {"table": f"gpu_{table}", "setting": "A", "command": command, "commit": commit}
        return {**names, "rows": rows}

    tables = merge_rows(
        [
            found("variants", "one", "c1", {"a": {"x": 1}}),
            found("variants", "two", "c1", {"a": {"y": 2}}),
            found("variants", "two", "c2", {}),
            found("peers", "two", "c2", {}),
        ]
    )
    assert [t["command"] for t in tables] == ["one; two", "two"]
    assert [t["commit"] for t in tables] == ["c1, c2", "c2"]
    assert tables[0]["rows"] == {"a": {"x": 1, "y": 2}}
    assert {t["table"] for t in tables} <= set(TABLES)


def test_a_file_of_several_measurements(run, tmp_path):
    _, _, output = run(step("good"))
    made = measured_tables(output.parent)
    assert "| good | 1.5 | 1.0 | – | – |" in made["gpu_precision"]
    content = json.loads(output.read_text())
    content["measurements"][0]["rows"] = {"good": {"speeed": 1}}
    output.write_text(json.dumps(content))
    with pytest.raises(UserError, match="row 'good': figures are audio, speed"):
        measured_tables(output.parent)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"minutes": 0}, "--minutes 0: must be greater than 0"),
        ({"minutes": -1}, "--minutes -1: must be greater than 0"),
        ({"steps": ("pooling",)}, "--steps pooling: choose from tests, pooling_factor, peers"),
        ({"limit": -1.0}, "--limit -1.0: must be at least 0"),
    ],
)
def test_mistakes(changed, message):
    with pytest.raises(UserError, match=message):
        GpuReportOptions(**changed)


def test_without_a_gpu(monkeypatch, tmp_path, capsys):
    """One line, before anything is written outside the output folder."""
    machine = {**MACHINE, "gpus": 0, "free": 0.0}
    monkeypatch.setattr(gpu_report, "describe_machine", lambda: machine)
    monkeypatch.setattr(sys, "argv", ["report", "--output_dir", str(tmp_path)])
    with pytest.raises(UserError, match="no GPU found; --cpu tests this command"):
        gpu_report.main()
    monkeypatch.setattr(sys, "argv", ["report", "--output_dir", str(tmp_path), "--dry_run"])
    assert gpu_report.main() == 0
    out = capsys.readouterr().out
    assert all(s.name in out for s in STEPS)
    for size in CARDS:
        assert f"{size:3} GB" in out


COMMANDS = {
    "utils.benchmarks.step": lambda: parse_options("step", "Step", StepOptions),
    "utils.benchmarks.largest_batch": lambda: parse_options(
        "largest_batch", "Search", SearchOptions
    ),
    "utils.benchmarks.inference": lambda: parse_dataclasses(
        ArgumentParser("inference"), [InferenceBenchmarkOptions]
    ),
}


HALVED = [s for s in STEPS if s.name in ("concat", "finetuning", "scaling_2")]


@pytest.mark.parametrize(
    "step, batch",
    [*((s, RECIPE) for s in STEPS), *((s, Batch(1, 700_000)) for s in HALVED)],
    ids=lambda value: getattr(value, "name", None),
)
def test_what_a_gpu_would_run_parses(step, batch, tmp_path, monkeypatch):
    """Without a GPU, the flags and variables of full size are checked, and nothing is run."""
    setup = Setup(tmp_path, False, 5, 4.0, str(tmp_path), "train", "valid")
    command = step.command(setup, batch, tmp_path / step.name)
    if command.words[0] == "bash":
        words, variables = gpu_report.python_command(command)
        result = subprocess.run(
            [*words, "--dry_run"], cwd=ROOT, env=variables, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        configuration = json.loads(result.stdout)
        product = [configuration[name] for name in ("ranks", "concat", "accumulate")]
        expected = 8 if step.name == "finetuning" else 64
        assert batch == RECIPE or configuration["max_tokens"] <= 700_000
        assert math.prod(product) == expected and configuration["precision"] == "bf16"
    elif command.words[2] != "pytest":
        monkeypatch.setattr(sys, "argv", command.words[2:])
        options, *_ = COMMANDS[command.words[2]]()
        assert options.model == "base" and "--cpu" not in command.words
