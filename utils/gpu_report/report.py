"""Fill the GPU tables in the time that there is: checks, then measurements in order of worth.

    python -m utils.gpu_report.report --minutes 10
    python -m utils.gpu_report.report --dry_run
    python -m utils.gpu_report.report --cpu

Each step is a command of this repository in a process group of its own, with a time limit.  A step
that fails is reported, and the next one runs.  What is done is written at once; the same command
resumes after the last finished step.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from utils.gpu_report.memory import USABLE, Batch, choose_batch, memory_table, predicted
from utils.gpu_report.steps import STEPS, Command, Setup, Step, merge_rows
from utils.reporting import results
from wav2vec2.cli.errors import OUT_OF_MEMORY_TEXTS, ExitCode, UserError, run_command
from wav2vec2.cli.flags import ArgumentParser, parse_dataclasses, require_at_least
from wav2vec2.files.output import prepare_folder, write_json, write_lines
from wav2vec2.files.text import read_json, split_lines

ROUNDS = (5, 10)
"""Fewest and most rounds of a measurement."""

TOY_BATCH = Batch(2, 24_000)
"""What --cpu trains on."""

TOY_MINUTES = 15.0
"""Time limit of a step with --cpu."""

GRACE = 10.0
"""Seconds from SIGTERM to SIGKILL of a step that exceeded its limit."""

LIBRISPEECH = "train-full-960", "dev-other"
"""Filelists that DATASET_DIR must hold to be used in place of noise."""


@dataclass(frozen=True)
class GpuReportOptions:
    """Report"""

    minutes: float = 60.0
    """Minutes to use: chooses the steps and the number of rounds.  10: the first ones only."""
    steps: tuple[str, ...] = ()
    """Names of the steps to run; default: all that fit into --minutes."""
    dry_run: bool = False
    """List steps, minutes and memory, and run nothing.  Needs no GPU."""
    cpu: bool = False
    """Run every step at toy size on the CPU: a test of this command, not a measurement."""
    limit: float = 0.0
    """Time limit of each step in minutes; 0: twice the expected time, and one more."""
    dataset_dir: str = os.environ.get("DATASET_DIR", "/datasets/LibriSpeech")
    """Folder of LibriSpeech's filelists (DATASET_DIR); noise of the same lengths without them."""
    output_dir: str = ""
    """Folder of logs and of what is done; default: results/gpu_<name>."""
    results_dir: str = ""
    """Folder for gpu_<name>.json; default: docs/results, with --cpu the output folder."""
    update_docs: bool = True
    """Also write the tables of README and docs, unless the figures are elsewhere."""

    def __post_init__(self) -> None:
        require_at_least(self, limit=0)
        if self.minutes <= 0:
            raise UserError(f"--minutes {self.minutes:g}: must be greater than 0")
        names = [step.name for step in STEPS]
        for name in self.steps:
            if name not in names:
                raise UserError(f"--steps {name}: choose from {', '.join(names)}")


def python_command(command: Command) -> tuple[list[str], dict[str, str]]:
    """What to execute, and its environment: `python` is this one."""
    words = [sys.executable if word == "python" else word for word in command.words]
    return words, {**os.environ, "PYTHON": sys.executable, **command.variables}


def as_typed(command: Command) -> str:
    """The command as a user would type it, without a machine's own folders."""

    def relative(text: str) -> str:
        path = Path(text)
        if not path.is_absolute():
            return text
        inside = path.is_relative_to(results.ROOT)
        return str(path.relative_to(results.ROOT)) if inside else path.name

    pairs = [f"{name}={shlex.quote(relative(v))}" for name, v in command.variables.items()]
    return " ".join([*pairs, shlex.join(map(relative, command.words))])


def run_limited(command: Command, log: Path, seconds: float) -> int | None:
    """The exit code of a command, which writes to `log`; None if it exceeded its time limit.

    However this ends, no process of the command's group is left: it gets SIGTERM, which a launcher
    passes to the processes of its own, and SIGKILL after GRACE seconds.
    """
    words, variables = python_command(command)
    with open(log, "a", encoding="utf-8") as output:
        print(as_typed(command), file=output, flush=True)
        process = subprocess.Popen(
            words,
            cwd=results.ROOT,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(max(seconds, 0.0))
        except subprocess.TimeoutExpired:
            return None
        finally:
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(GRACE)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def reason_in(log: Path) -> str:
    """The last line of a log that says what was wrong."""
    lines = [line.strip() for line in split_lines(log.read_text("utf-8", "replace"))]
    told = [line for line in lines if re.match(r"(error: |\w*(\.\w+)*(Error|Exception)\b)", line)]
    return next(reversed(told or lines), "")[:300]


def ran_out_of_memory(log: Path) -> bool:
    text = log.read_text("utf-8", "replace")
    return any(words in text for words in (*OUT_OF_MEMORY_TEXTS, "its process was killed"))


@dataclass
class Report:
    """The steps that are done on a machine, as kept in `state.json`."""

    folder: Path
    machine: dict[str, Any]
    label: str
    """Name of the device in the tables' headings."""
    done: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, machine: dict[str, Any], label: str) -> "Report":
        """A new one, or the one in `folder`; UserError if that is of another machine."""
        report = cls(folder, machine, label)
        if report.state.exists():
            found = read_json(report.state, "remove it to start again")
            if found.get("label") != label:
                raise UserError(
                    f"{report.state}: was measured on {found.get('label')}, this is {label}; "
                    "choose another --output_dir"
                )
            report.done = found["done"]
        return report

    @property
    def state(self) -> Path:
        return self.folder / "state.json"

    def add(self, name: str, record: dict[str, Any], output: Path) -> None:
        """Keep a step's record, and write the figures of all steps to `output`."""
        self.done[name] = record
        write_json(self.state, {"label": self.label, "done": self.done}, indent=1)
        tables = [table for record in self.done.values() for table in record["tables"]]
        if tables:
            hardware = self.machine["hardware"]
            content = {
                "hardware": f"1 x {hardware}" if self.machine["gpus"] else hardware,
                "versions": self.machine["versions"],
                "measurements": merge_rows(tables),
            }
            write_json(output, content, indent=1)

    def run(self, step: Step, setup: Setup, batch: Batch, minutes: float) -> dict[str, Any]:
        """Run a step with half the batch as long as memory runs out; UserError if it fails."""
        start = time.monotonic()
        folder, log = self.folder / step.name, self.folder / f"{step.name}.log"
        log.unlink(missing_ok=True)
        note = ""
        while True:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            left = 60 * minutes - (time.monotonic() - start)
            timed = replace(setup, minutes=0.6 * left / 60)
            command = step.command(timed, batch, folder)
            code = run_limited(command, log, left)
            if code == 0:
                break
            if code is None:
                raise UserError(f"exceeded its limit of {minutes:.1f} minutes; see {log}")
            half = batch.halved() if ran_out_of_memory(log) else None
            if half is None or step.command(timed, half, folder) == command:
                raise UserError(f"exit code {code}: {reason_in(log)}; see {log}")
            note = f"out of memory with {batch.concat} x {batch.max_tokens} samples; halved"
            print(f"   {note}", flush=True)
            log.write_text("", "utf-8")
            batch = half
        setting = ", ".join(filter(None, (self.label, step.precision)))
        shared = {"setting": setting, "command": as_typed(command)}
        shared["commit"] = self.machine["commit"]
        tables = [
            {"table": table, **shared, "rows": rows} for table, rows in step.read(folder).items()
        ]
        took = (time.monotonic() - start) / 60
        return {"minutes": round(took, 2), "note": note, "tables": tables}


def choose_steps(
    steps: Sequence[Step], minutes: float, done: Sequence[str]
) -> tuple[list[Step], int]:
    """The steps that fit into so many minutes, the most worthy first, and the number of rounds."""
    chosen, left = [], minutes
    for step in steps:
        cost = step.expected(ROUNDS[0])
        if step.name not in done and cost <= left:
            chosen.append(step)
            left -= cost
    rounds = ROUNDS[1]
    while rounds > ROUNDS[0] and sum(step.expected(rounds) for step in chosen) > minutes:
        rounds -= 1
    return chosen, rounds


def describe_machine() -> dict[str, Any]:
    """What utils/gpu_report/machine.py prints."""
    words, variables = python_command(Command(["python", "-m", "utils.gpu_report.machine"]))
    result = subprocess.run(
        words, cwd=results.ROOT, env=variables, capture_output=True, text=True, timeout=600
    )
    if result.returncode:
        raise UserError(result.stderr.strip().splitlines()[-1].removeprefix("error: "))
    return json.loads(result.stdout.splitlines()[-1])


def batch_for(step: Step, machine: dict[str, Any], cpu: bool) -> Batch:
    return TOY_BATCH if cpu else choose_batch(machine["free"], step.models, step.scale)


def print_plan(
    steps: Sequence[Step],
    chosen: Sequence[Step],
    done: Sequence[str],
    rounds: int,
    options: GpuReportOptions,
    machine: dict[str, Any],
) -> None:
    """The steps with their expected minutes and memory; on a machine without a GPU, of 80 GB."""
    memory = machine["free"] or 80e9 / 2**20
    total = sum(step.expected(rounds) for step in chosen)
    print(f"{len(chosen)} steps in {total:.0f} of {options.minutes:g} minutes, {rounds} rounds.")
    where = f"with {memory / 1024:.0f} GiB free" if machine["free"] else "on a GPU of 80 GB"
    print(f"Minutes and memory are expected {where}, not measured yet:\n")
    print(f"{'step':16} minutes  memory, MiB  batch          shows")
    for step in steps:
        batch = choose_batch(memory, step.models, step.scale)
        need = predicted(batch, models=step.models, scale=step.scale)
        size = f"{batch.concat} x {batch.max_tokens:,}"
        state = "" if step in chosen else " (done)" if step.name in done else " (no time)"
        print(
            f"{step.name:16} {step.expected(rounds):7.1f}  {need:11,.0f}  {size:14} "
            f"{step.shows}{state}"
        )
    print(f"\nMemory of one process, of which {USABLE:.0%} are planned for:\n")
    print("\n".join(memory_table()))


def describe_corpus(
    folder: Path, options: GpuReportOptions, missing: Sequence[str], rounds: int
) -> Setup:
    """The corpus: LibriSpeech where its filelists and a decoder are there, else noise."""
    real = Path(options.dataset_dir)
    have = all((real / f"{name}.tsv").is_file() for name in LIBRISPEECH)
    if have and not options.cpu and "soundfile" not in missing:
        return Setup(folder, False, rounds, 0.0, str(real), *LIBRISPEECH)
    return Setup(folder, options.cpu, rounds, 0.0, str(folder / "data"), "train", "valid")


def write_corpus(setup: Setup) -> None:
    """Write noise, and the weights to fine-tune from, unless they are there."""
    data = setup.folder / "data"
    if (data / "start.pt").exists():
        return
    words = ["python", "-m", "utils.gpu_report.corpus", "--output_dir", str(data)]
    if setup.cpu:
        words += ["--model", "mini", "--utterances", "24", "--shorter", "20"]
    elif setup.dataset_dir != str(data):
        words += ["--utterances", "8"]  # only the weights are needed
    log = setup.folder / "data.log"
    if run_limited(Command(words), log, 600):
        raise UserError(f"the corpus cannot be written: {reason_in(log)}; see {log}")


def run_steps(
    report: Report,
    steps: Sequence[Step],
    setup: Setup,
    options: GpuReportOptions,
    output: Path,
    end: float,
) -> tuple[dict[str, str], dict[str, str]]:
    """Run the steps that time is left for until `end` (time.monotonic); name -> why, of those that
    failed and of those that were skipped."""
    failed: dict[str, str] = {}
    skipped: dict[str, str] = {}
    for step in steps:
        left = (end - time.monotonic()) / 60
        expected = step.expected(setup.rounds)
        limit = options.limit or (TOY_MINUTES if setup.cpu else 2 * expected + 1)
        if absent := [name for name in step.needs if name in report.machine["missing"]]:
            skipped[step.name] = f"needs {', '.join(absent)}"
        elif left < (0 if setup.cpu else 0.5 * expected):
            skipped[step.name] = "no time left"
        else:
            print(f"== {step.name}: {step.shows}", flush=True)
            batch = batch_for(step, report.machine, setup.cpu)
            try:
                record = report.run(step, setup, batch, min(limit, left))
                report.add(step.name, record, output)
                print(f"   done in {record['minutes']:.1f} minutes", flush=True)
            except UserError as error:
                failed[step.name] = str(error)
            except (KeyError, ValueError, OSError) as error:  # figures that the step did not write
                failed[step.name] = f"its figures cannot be read ({error!r})"
            if step.name in failed:
                print(f"   failed: {failed[step.name]}", flush=True)
    return failed, skipped


def print_result(report: Report, output: Path) -> None:
    """The tables of all finished steps."""
    if output.exists():
        measurements = results.Measurement.read_all(output)
        tables = [results.measured_table(results.TABLES[m.table], [m]) for m in measurements]
        write_lines(report.folder / "tables.md", split_lines("\n\n".join(tables)))
        print("\n" + "\n\n".join(tables) + f"\n\n{output}")


def main() -> ExitCode:
    parser = ArgumentParser("utils.gpu_report.report", __doc__)
    (options,) = parse_dataclasses(parser, [GpuReportOptions])
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, signal.default_int_handler)
    end = time.monotonic() + 60 * options.minutes
    if options.cpu:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    machine = describe_machine()
    if not (machine["gpus"] or options.cpu or options.dry_run):
        raise UserError("no GPU found; --cpu tests this command at toy sizes, --dry_run lists it")
    name = "CPU, toy sizes" if options.cpu else machine["hardware"] if machine["gpus"] else "no GPU"
    slug = "cpu" if options.cpu else re.sub(r"\W+", "_", name.lower()).strip("_")
    folder = Path(options.output_dir or f"results/gpu_{slug}").absolute()
    report = Report.open(folder, machine, name)
    gpus = 2 if options.cpu else machine["gpus"] or max(step.gpus for step in STEPS)
    steps = [s for s in STEPS if s.gpus <= gpus and s.name in (options.steps or [s.name])]
    chosen, rounds = choose_steps(steps, 1e9 if options.cpu else options.minutes, list(report.done))
    if options.dry_run:
        print_plan(steps, chosen, list(report.done), rounds, options, machine)
        return ExitCode.DONE
    prepare_folder("--output_dir", folder)
    figures = Path(options.results_dir or (folder if options.cpu else results.RESULTS))
    output = prepare_folder("--results_dir", figures) / f"gpu_{slug}.json"
    print(f"{name}: {machine['versions']}, {machine['free']:,.0f} MiB free, bf16 {machine['bf16']}")
    if machine["missing"]:
        print(f"not installed: {', '.join(machine['missing'])}")
    if report.done:
        print(f"finished before: {', '.join(report.done)}")
    setup = describe_corpus(folder, options, machine["missing"], 1 if options.cpu else rounds)
    write_corpus(setup)
    try:
        failed, skipped = run_steps(report, chosen, setup, options, output, end)
    finally:
        print_result(report, output)
        if options.update_docs and figures.resolve() == results.RESULTS and output.exists():
            results.update_docs()
    missing = [step for step in steps if step.name not in report.done]
    if missing:
        print(f"\nMissing, about {sum(s.expected(rounds) for s in missing):.0f} minutes on a GPU:")
        for step in missing:
            why = {**skipped, **failed}.get(step.name, "did not fit into --minutes")
            print(f"  {step.name}, {step.expected(rounds):.1f} minutes: {why}")
    return ExitCode.SOME_FAILED if failed else ExitCode.DONE


if __name__ == "__main__":
    run_command(main)
