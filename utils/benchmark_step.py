"""How fast a pre-training update is, and what it takes: hourglass factors, precisions, peers.

`python -m utils.benchmark_step --cpu --factors 1 4 --precision fp32 bf16 --peer transformers`

Every configuration is train.py's own trainer in a process of its own; the processes take turns,
A B C A B C ..., one at a time, and medians with their spread are printed: nothing else should run
meanwhile.  The warm-up does not count.  Batches are of a data set (--dataset_dir and a recipe's
flags, which are train.py's) or, without one, of noise.  All configurations see the same batches,
masks, distractors and skipped layers, as checksums in the result show.

What is counted:

- time: whole updates as utils/step_worker.py says, loading left out;
- throughput: `frames/s` encoder frames before shortening, `ntokens/s` masked ones (the published
  tables' unit), `audio_s/s` seconds of audio, `updates/s`;
- memory: on a GPU the most that was allocated; on a CPU how far the peak of the resident size rises
  in the configuration's own process from after its imports to the end of the run, with weights,
  gradients, optimizer and activations, without activation checkpointing;
- operations: of the model's products and convolutions by the formula of wav2vec2/flops.py, the
  peers' by that of the same model; torch's counter checks it in the first update.  More than the
  formula's is what kernels compute twice;
- the machine's rate: of a large square product in each precision, which takes its turn as well.

Written to --output_dir: nvlog.json (DLLogger lines), benchmark_step.json (everything),
benchmark_step.md (the tables), benchmark_step.png and, with --profile, where the time of an update
goes by operators; to --json the table of hourglass factors as
docs/results keeps it.
"""

import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile

import train
from common.audio import SAMPLE_RATE
from common.errors import UserError, run_command
from common.flags import ArgumentParser, add_flags, from_flags, prepare_folder
from common.manifest import write_lines, write_manifest
from common.optimizer import OptimizerOptions
from common.precision import PrecisionOptions
from common.schedule import ScheduleOptions
from common.telemetry import Telemetry
from common.training import RunOptions
from tasks.data import DataOptions
from tasks.pretraining import CropOptions
from utils.reporting.plots import COLORS
from utils.reporting.results import Measurement
from utils.reporting.tables import PUBLISHED_POOLING, Table
from wav2vec2.config import PRESETS, ContrastiveObjective, Hourglass, Masking, Regularisation

ROOT = Path(__file__).resolve().parent.parent

BATCHES_OF_NOISE = 4
"""Different batches, of which training takes one after the other."""

RECIPE = {
    DataOptions: {"dataset_dir", "train_subset", "max_tokens", "update_freq"},
    CropOptions: {"min_sample_size", "max_sample_size"},
    Regularisation: None,
    Masking: None,
    ContrastiveObjective: None,
    OptimizerOptions: None,
    ScheduleOptions: None,
    PrecisionOptions: {"tf32"},
    RunOptions: {"seed", "cpu"},
}
"""train.py's flags that are flags here, too; None: all that pre-training has."""


@dataclass(frozen=True)
class BenchmarkOptions:
    """Benchmark"""

    model: Literal["base", "large", "mini"] = "base"
    """Architecture."""
    factors: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    """Hourglass factors; 1: the plain encoder, the baseline.  A sixth of the layers, at least one,
    stays at full rate before and after the shortened ones: Base [2,(8,factor),2]."""
    precision: tuple[Literal["fp32", "bf16"], ...] = ("fp32",)
    """Precisions of each configuration; a peer's bf16 is its own torch.autocast."""
    concat: tuple[int, ...] = (1,)
    """Sub-batches that run as one batch (NUM_CONCAT_BATCHES), each a configuration of its own."""
    peer: tuple[Literal["transformers"], ...] = ()
    """Other implementations beside ours: the plain encoder, trained alike, on the same batches."""
    rounds: int = 5
    """Rounds that count; every configuration has a turn in each."""
    updates: int = 1
    """Updates of a turn; on a GPU one more comes before them, which does not count."""
    warmup: int = 2
    """Updates of each configuration before the first round."""
    utterances: int = 4
    """Of a sub-batch of noise."""
    seconds: float = 10.0
    """Length of each utterance of noise."""
    profile: bool = False
    """After the rounds, one more update of each under torch's profiler: profile_<name>.md."""
    product_size: int = 0
    """Rows and columns of the square product that measures the machine; 0: 2048 on a CPU, 8192 on
    a GPU."""
    output_dir: str = "results/benchmark_step"
    """Folder for nvlog.json and benchmark_step.json, .md and .png."""
    json: str = ""
    """File for the table of factors, in the form of docs/results; '': none."""

    def __post_init__(self) -> None:
        for name in ("rounds", "updates", "warmup", "utterances"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: must be at least 1")
        for name in ("factors", "concat"):
            given = getattr(self, name)
            if not given and name == "factors" and self.peer:
                continue
            if not given or min(given) < 1:
                raise UserError(
                    f"--{name} {' '.join(map(str, given))}: give one or more, each at least 1"
                )
        if not self.precision:
            raise UserError("--precision: give one or more")
        if self.utterances > 8 and self.utterances % 8:
            raise UserError(
                f"--utterances {self.utterances}: batches above 8 hold a multiple of 8; choose "
                f"{self.utterances // 8 * 8}"
            )
        if self.seconds < 0.1:
            raise UserError(f"--seconds {self.seconds}: must be at least 0.1")
        if self.json and (len(self.precision) > 1 or len(self.concat) > 1 or 1 not in self.factors):
            raise UserError(
                f"--json {self.json}: such a table holds one --precision and one --concat, and "
                "factor 1 among --factors, which it stands against"
            )


@dataclass(frozen=True)
class Configuration:
    """What takes turns."""

    kind: Literal["ours", "transformers", "product"]
    precision: str
    factor: int = 1
    concat: int = 1

    @property
    def row(self) -> str:
        """Its row in the tables: `baseline`, `factor 4`, `transformers`."""
        if self.kind == "ours":
            return "baseline" if self.factor == 1 else f"factor {self.factor}"
        return self.kind

    @property
    def setting(self) -> tuple[str, int]:
        return self.precision, self.concat

    def __str__(self) -> str:
        concatenated = f" x {self.concat}" if self.concat > 1 else ""
        return f"{self.row} {self.precision}{concatenated}"


def configurations(options: BenchmarkOptions) -> list[Configuration]:
    """In the order of their turns."""
    found = [
        Configuration(kind, precision, factor, concat)
        for concat in dict.fromkeys(options.concat)
        for precision in dict.fromkeys(options.precision)
        for kind, factor in [
            *(("ours", factor) for factor in dict.fromkeys(options.factors)),
            *((peer, 1) for peer in dict.fromkeys(options.peer)),
        ]
    ]
    return found + [Configuration("product", p) for p in dict.fromkeys(options.precision)]


def hourglass(model: str, factor: int) -> str:
    """`--hourglass` of a factor: `[2,(8,4),2]`; '' for 1."""
    layers = PRESETS[model].layers
    outer = max(layers // 6, 1)
    return str(Hourglass(outer, layers - 2 * outer, factor, outer)) if factor > 1 else ""


def write_noise(folder: Path, utterances: int, seconds: float) -> None:
    """Filelist `train` of that many recordings of noise, all of the same length."""
    generator = np.random.default_rng(0)
    samples = round(seconds * SAMPLE_RATE)
    for number in range(utterances):
        noise = 0.1 * generator.standard_normal(samples).astype(np.float32)
        soundfile.write(folder / f"{number}.wav", noise, SAMPLE_RATE, subtype="PCM_16")
    files = [(f"{number}.wav", samples) for number in range(utterances)]
    write_manifest(folder, "train", folder, files)


def recipe_flags(recipe: dict[str, Any]) -> list[str]:
    """Values by flag -> train.py's command line."""

    def texts(value: Any) -> list[str]:
        values = value if isinstance(value, (tuple, list)) else [value]
        return [str(v).lower() if isinstance(v, bool) else str(v) for v in values]

    return [part for name, value in recipe.items() for part in (f"--{name}", *texts(value))]


def with_data(recipe: dict[str, Any], options: BenchmarkOptions, noise: Path) -> dict[str, Any]:
    """The recipe on its data set or, without one, on noise that is written to `noise`."""
    if recipe["dataset_dir"]:
        return recipe
    count = options.utterances * max(options.concat) * recipe["update_freq"]
    write_noise(noise, BATCHES_OF_NOISE * count, options.seconds)
    samples = round(options.seconds * SAMPLE_RATE)
    return {
        **recipe,
        "dataset_dir": noise,
        "train_subset": ("train",),
        "max_tokens": options.utterances * samples,
        "min_sample_size": samples,
        "max_sample_size": samples,
    }


class Worker:
    """A configuration's process."""

    def __init__(self, configuration: Configuration, flags: list[str], folder: Path, size: int):
        """Starts it; `answer` then says that it is ready."""
        self.configuration = configuration
        self.errors = open(folder / f"{configuration}.txt", "w+", encoding="utf-8")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "utils.step_worker"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        kind, precision = configuration.kind, configuration.precision
        self._send(kind=kind, precision=precision, flags=flags, size=size)

    def _send(self, **question: Any) -> None:
        with suppress(BrokenPipeError):  # the answer, or its absence, says why
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """The next line; UserError for what the process cannot do."""
        line = self.process.stdout.readline()
        if not line:
            raise self._death()
        answer = json.loads(line)
        if "error" in answer:
            raise UserError(f"{self.configuration}: {answer['error']}")
        return answer

    def _death(self) -> Exception:
        code = self.process.wait()
        if code == -9:
            return UserError(
                f"{self.configuration}: its process was killed, as when memory runs out; measure "
                "fewer configurations at a time, or smaller batches"
            )
        self.errors.seek(0)
        return RuntimeError(f"{self.configuration}: ended with {code}:\n{self.errors.read()}")

    def turn(self, updates: int, unmeasured: int = 0, count: bool = False) -> dict[str, Any]:
        self._send(updates=updates, unmeasured=unmeasured, count=count)
        return self.answer()

    def profile(self) -> list[tuple[str, int, float]]:
        """Of one update: name, calls and milliseconds of its operators."""
        self._send(updates=1, unmeasured=0, profile=True)
        return self.answer()["updates"][0]["operators"]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            with suppress(BrokenPipeError):
                stream.close()


@dataclass
class Result:
    """What was measured of a configuration."""

    configuration: Configuration
    ready: dict[str, Any]
    warmup: dict[str, Any] = field(default_factory=dict)
    turns: list[dict[str, Any]] = field(default_factory=list)

    @property
    def memory(self) -> float:
        """MiB."""
        return self.turns[-1]["memory"] - self.ready["memory_before"]

    @property
    def counted_share(self) -> float:
        """What torch's counter found, against the formula."""
        first = self.warmup["updates"][0]
        return first["counted_flops"] / first["flops"]

    def rates(self, measure: str) -> list[float]:
        """`frames`, `ntokens`, `audio_seconds` or `flops` a second in each round."""
        return [total(turn, measure) / total(turn, "took") for turn in self.turns]

    def updates_per_second(self) -> list[float]:
        return [len(turn["updates"]) / total(turn, "took") for turn in self.turns]


def total(turn: dict[str, Any], measure: str) -> float:
    return sum(update[measure] for update in turn["updates"])


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and extremes."""
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else ()
    low, high = (quartiles[0], quartiles[2]) if quartiles else (values[0], values[0])
    return {
        "median": statistics.median(values),
        "lower_quartile": low,
        "upper_quartile": high,
        "min": min(values),
        "max": max(values),
    }


def ratio(ours: Result, other: Result) -> float:
    """How many times as fast: the median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(ours.rates("frames"), other.rates("frames")))


@contextmanager
def workers(
    options: BenchmarkOptions, recipe: dict[str, Any], folder: Path
) -> Iterator[list[Worker]]:
    """The processes of all configurations, started; ended afterwards."""
    started: list[Worker] = []
    try:
        for number, configuration in enumerate(configurations(options)):
            flags = {
                **recipe,
                "valid_subset": recipe["train_subset"],
                "validate_frequency": 10**9,
                "model": options.model,
                "hourglass": hourglass(options.model, configuration.factor),
                "num_concat_batches": configuration.concat,
                "batches_per_update": 0,
                "precision": configuration.precision if configuration.kind == "ours" else "fp32",
                "output_dir": folder / str(number),
                "num_workers": 0,
                "no_save": True,
            }
            size = options.product_size
            started.append(Worker(configuration, recipe_flags(flags), folder, size))
        yield started
    finally:
        for worker in started:
            worker.close()


def measure(
    options: BenchmarkOptions, recipe: dict[str, Any], folder: Path, telemetry: Telemetry
) -> list[Result]:
    """Warm-up, then the rounds; UserError if the configurations were not given the same batches."""
    with workers(options, recipe, folder) as started:
        results = [Result(worker.configuration, worker.answer()) for worker in started]
        for worker, result in zip(started, results):
            if worker.configuration.kind != "product":
                result.warmup = worker.turn(options.warmup, count=True)
            else:
                worker.turn(1)
        unmeasured = 0 if recipe["cpu"] else 1
        for number in range(1, options.rounds + 1):
            for position, (worker, result) in enumerate(zip(started, results), start=1):
                result.turns.append(worker.turn(options.updates, unmeasured))
                telemetry.log([number, position, len(started)], line(result, -1))
        if options.profile:
            for worker in started:
                if worker.configuration.kind != "product":
                    write_profile(worker, Path(options.output_dir))
    check_batches(results)
    return results


def write_profile(worker: Worker, folder: Path, longest: int = 16) -> None:
    """Where an update's time goes, by torch's operators."""
    operators = worker.profile()
    whole = sum(spent for *_, spent in operators)
    rest = operators[longest:]
    others = (f"{len(rest)} others", sum(calls for _, calls, _ in rest), sum(t for *_, t in rest))
    rows = [
        [name, str(calls), f"{spent:.0f}", f"{100 * spent / whole:.1f}"]
        for name, calls, spent in [*operators[:longest], others]
    ]
    table = Table(str(worker.configuration), ["operator", "calls", "ms", "%"], rows)
    text = [f"{table.title}, {whole / 1000:.2f} s", "", *table.markdown().splitlines()]
    write_lines(folder / f"profile_{worker.configuration}.md".replace(" ", "_"), text)


def check_batches(results: list[Result]) -> None:
    """All configurations of a batch size must have had the same work, in the same order."""
    seen: dict[int, list[Any]] = {}
    for result in results:
        if result.configuration.kind == "product":
            continue
        turns = [result.warmup, *result.turns]
        work = [[(u["batch"], u["frames"], u["ntokens"]) for u in t["updates"]] for t in turns]
        first = seen.setdefault(result.configuration.concat, work)
        assert work == first, f"{result.configuration} saw other batches than the first"


def line(result: Result, turn: int) -> dict[str, Any]:
    """A turn for the log."""
    metrics: dict[str, Any] = {"configuration": str(result.configuration)}
    if result.configuration.kind == "product":
        return {**metrics, "flops/s": result.turns[turn]["flops/s"]}
    return {
        **metrics,
        "took": total(result.turns[turn], "took"),
        "ntokens/s": result.rates("ntokens")[turn],
        "frames/s": result.rates("frames")[turn],
        "audio_s/s": result.rates("audio_seconds")[turn],
        "updates/s": result.updates_per_second()[turn],
        "flops/s": result.rates("flops")[turn],
        "memory": result.memory,
    }


def summary(result: Result, peaks: dict[str, list[float]]) -> dict[str, Any]:
    """A configuration's figures over all rounds, with their spread."""
    configuration = result.configuration
    named = {**asdict(configuration), "name": str(configuration)}
    if configuration.kind == "product":
        return {**named, "flops/s": spread([turn["flops/s"] for turn in result.turns])}
    shares = [a / b for a, b in zip(result.rates("flops"), peaks[configuration.precision])]
    took = [total(turn, "took") / len(turn["updates"]) for turn in result.turns]
    return {
        **named,
        "parameters": result.ready["parameters"],
        "seconds_per_update": spread(took),
        "ntokens/s": spread(result.rates("ntokens")),
        "frames/s": spread(result.rates("frames")),
        "audio_s/s": spread(result.rates("audio_seconds")),
        "updates/s": spread(result.updates_per_second()),
        "memory": result.memory,
        "flops": statistics.median(total(t, "flops") / len(t["updates"]) for t in result.turns),
        "flops/s": spread(result.rates("flops")),
        "share_of_product_rate": spread(shares),
        "counted_by_torch": result.counted_share,
        "loss": result.turns[-1]["updates"][-1]["loss"],
    }


def baseline_of(results: list[Result], result: Result) -> Result | None:
    """Our plain encoder of the same precision and batch."""
    return next(
        (
            other
            for other in results
            if other.configuration == replace(result.configuration, kind="ours", factor=1)
        ),
        None,
    )


def factor_rows(results: list[Result], setting: tuple[str, int]) -> dict[str, dict[str, float]]:
    """Rows of the table `pooling_factor`; none without a baseline."""
    rows = {}
    for result in results:
        found = result.configuration
        baseline = baseline_of(results, result)
        if found.kind != "ours" or found.setting != setting or baseline is None:
            continue
        rows[found.row] = {
            "throughput": round(ratio(result, baseline), 2),
            "memory": round(100 * result.memory / baseline.memory, 2),
        }
    return rows


def tables(results: list[Result]) -> list[Table]:
    """Everything, then factors and peers."""
    measured = [result for result in results if result.configuration.kind != "product"]
    peaks = product_rates(results)
    columns = ["", "masked frames/s", "frames/s", "audio, s/s", "updates/s", "update, s"]
    columns += ["quartiles", "min to max", "memory, MiB", "GFLOP an update", "GFLOP/s"]
    columns += ["of the product's, %", "counted by torch"]
    rows = []
    for result in measured:
        figures = summary(result, peaks)
        took = figures["seconds_per_update"]
        rows.append(
            [
                str(result.configuration),
                *(f"{figures[name]['median']:,.0f}" for name in ("ntokens/s", "frames/s")),
                f"{figures['audio_s/s']['median']:.2f}",
                f"{figures['updates/s']['median']:.3f}",
                f"{took['median']:.3f}",
                f"{took['lower_quartile']:.3f}–{took['upper_quartile']:.3f}",
                f"{took['min']:.3f}–{took['max']:.3f}",
                f"{figures['memory']:,.0f}",
                f"{figures['flops'] / 1e9:,.0f}",
                f"{figures['flops/s']['median'] / 1e9:,.1f}",
                f"{100 * figures['share_of_product_rate']['median']:.1f}",
                f"{figures['counted_by_torch']:.3f}",
            ]
        )
    rates = ", ".join(
        f"{precision} {statistics.median(values) / 1e9:,.1f} GFLOP/s"
        for precision, values in peaks.items()
    )
    found = [Table("Updates", columns, rows, f"Square products: {rates}.")]
    settings = dict.fromkeys(result.configuration.setting for result in measured)
    for precision, concat in settings:
        factors = factor_rows(results, (precision, concat))
        if len(factors) > 1:
            found.append(factor_table(factors, precision, concat))
    return found + peer_tables(measured)


def factor_table(rows: dict[str, dict[str, float]], precision: str, concat: int) -> Table:
    concatenated = f", {concat} sub-batches as one" if concat > 1 else ""
    return Table(
        f"Pooling factor, {precision}{concatenated}",
        ["", "throughput", "memory, %", "published throughput", "published memory, %"],
        [
            [
                row,
                f"{figures['throughput']:.2f}",
                f"{figures['memory']:.2f}",
                *(f"{figure:.2f}" for figure in PUBLISHED_POOLING.get(row, ())),
            ]
            for row, figures in rows.items()
        ],
        "Published: NVIDIA's recipe, one A100, bf16.",
    )


def peer_tables(measured: list[Result]) -> list[Table]:
    """Ours against each peer: how many times as fast, and how much of its memory."""
    found = []
    for concat in dict.fromkeys(result.configuration.concat for result in measured):
        here = [result for result in measured if result.configuration.concat == concat]
        peers = [result for result in here if result.configuration.kind != "ours"]
        if not peers:
            continue
        columns = [""]
        for peer in peers:
            name = f"{peer.configuration.row} {peer.configuration.precision}"
            columns += [f"throughput against {name}", f"memory, % of {name}"]
        rows = []
        for result in here:
            cells = [str(result.configuration)]
            for peer in peers:
                share = 100 * result.memory / peer.memory
                cells += [f"{ratio(result, peer):.2f}", f"{share:.1f}"]
            rows.append(cells)
        found.append(Table("Against others", columns, rows))
    return found


def product_rates(results: list[Result]) -> dict[str, list[float]]:
    """Precision -> operations a second of the square product in each round."""
    return {
        result.configuration.precision: [turn["flops/s"] for turn in result.turns]
        for result in results
        if result.configuration.kind == "product"
    }


def command_line() -> str:
    """As it was given, without a machine's own folders."""

    def relative(text: str) -> str:
        path = Path(text)
        if not path.is_absolute():
            return text
        return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else path.name

    threads = os.environ.get("OMP_NUM_THREADS")
    start = f"OMP_NUM_THREADS={threads} " if threads else ""
    return f"{start}python -m utils.benchmark_step {shlex.join(map(relative, sys.argv[1:]))}"


def described(options: BenchmarkOptions, recipe: dict[str, Any], results: list[Result]) -> str:
    """What was measured, on what, in a line."""
    surroundings = results[0].ready["environment"]
    batch = (
        f"{' '.join(recipe['train_subset'])} in sub-batches of {recipe['max_tokens']} samples"
        if recipe["dataset_dir"]
        else f"sub-batches of {options.utterances} x {options.seconds:g} s"
    )
    versions = versions_of(results)
    threads = "" if "cuda" in versions else f", {results[0].ready['threads']} threads"
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{options.model}, {batch}; medians of {options.rounds} rounds; "
        f"{surroundings['hardware']}{threads}; {named}"
    )


def versions_of(results: list[Result]) -> dict[str, str]:
    found: dict[str, str] = {}
    for result in results:
        surroundings = result.ready["environment"]
        names = ("python", "torch", "cuda", "transformers")
        found |= {name: surroundings[name] for name in names if name in surroundings}
    return found


def write_results(
    options: BenchmarkOptions, recipe: dict[str, Any], results: list[Result], folder: Path
) -> None:
    """The raw figures, the tables, and what docs/results keeps."""
    peaks = product_rates(results)
    surroundings = {**results[0].ready["environment"], "threads": results[0].ready["threads"]}
    content = {
        "command": command_line(),
        "environment": surroundings | versions_of(results),
        "options": {**asdict(options), "output_dir": Path(options.output_dir).name, "json": None},
        "recipe": {**recipe, "dataset_dir": Path(recipe["dataset_dir"]).name},
        "results": [summary(result, peaks) for result in results],
        "rounds": [
            {"name": str(result.configuration), "warmup": result.warmup, "turns": result.turns}
            for result in results
        ],
    }
    write_lines(folder / "benchmark_step.json", json.dumps(content, indent=1).splitlines())
    text = [described(options, recipe, results)]
    for table in tables(results):
        text += ["", f"**{table.title}**", "", *table.markdown().splitlines()]
    write_lines(folder / "benchmark_step.md", text)
    print("\n".join(text))
    if options.json:
        write_table(options, results, Path(options.json), surroundings)


def write_table(
    options: BenchmarkOptions, results: list[Result], path: Path, surroundings: dict[str, Any]
) -> None:
    """The table of factors, in the form of docs/results."""
    (precision,), (concat,) = options.precision, options.concat
    content = {
        "table": "pooling_factor",
        "setting": precision if "cuda" in surroundings else f"CPU, {precision}",
        "command": command_line(),
        "hardware": f"{surroundings['hardware']}, {surroundings['threads']} threads"
        if "cuda" not in surroundings
        else f"1 x {surroundings['hardware']}",
        "versions": {k: v for k, v in versions_of(results).items() if k != "transformers"},
        "commit": surroundings.get("commit", ""),
        "rows": factor_rows(results, (precision, concat)),
    }
    prepare_folder("--json", path.parent)
    write_lines(path, json.dumps(content, indent=1).splitlines())
    Measurement.read(path)


def plot(results: list[Result], path: Path) -> None:
    """Throughput of every configuration, and the factors beside the published ones."""
    try:
        import matplotlib
    except ImportError:
        print("note: no figure, matplotlib is not installed; pip install matplotlib",
              file=sys.stderr)  # fmt: skip
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    measured = [result for result in results if result.configuration.kind != "product"]
    figure, axes = pyplot.subplots(1, 3, figsize=(13.8, 2.2 + 0.25 * len(measured)))
    names = [str(result.configuration) for result in measured]
    for position, result in enumerate(measured):
        rates = spread(result.rates("audio_seconds"))
        low, high = rates["median"] - rates["min"], rates["max"] - rates["median"]
        color = COLORS[0 if result.configuration.kind == "ours" else 1]
        axes[0].barh(position, rates["median"], xerr=[[low], [high]], color=color, height=0.7,
                     error_kw={"lw": 0.8, "capsize": 2})  # fmt: skip
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    axes[0].set_title("audio (s/s), min to max", fontsize=10, loc="left")
    settings = dict.fromkeys(result.configuration.setting for result in measured)
    shown = {f"{p} x {c}" if c > 1 else p: factor_rows(results, (p, c)) for p, c in settings}
    published = {
        row: {"throughput": throughput, "memory": memory}
        for row, (throughput, memory) in PUBLISHED_POOLING.items()
    }
    titles = {"throughput": "throughput against the baseline", "memory": "memory (% of it)"}
    for axis, (measure, title) in zip(axes[1:], titles.items()):
        for color, (label, rows) in zip(COLORS, shown.items()):
            points = [(factor_of(row), figures[measure]) for row, figures in sorted(rows.items())]
            axis.plot(*zip(*sorted(points)) if points else ([], []), "-o", ms=2.5, lw=1.2,
                      color=color, label=label)  # fmt: skip
        points = [(factor_of(row), figures[measure]) for row, figures in published.items()]
        axis.plot(*zip(*points), "o", ms=3, color="#5b6470", label="published, bf16")
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_xlabel("factor", fontsize=8)
        axis.legend(fontsize=7, frameon=False)
    for axis in axes:
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def factor_of(row: str) -> int:
    return 1 if row == "baseline" else int(row.split()[1])


def parse() -> tuple[BenchmarkOptions, dict[str, Any]]:
    """The benchmark's options, and train.py's values by flag."""
    parser = ArgumentParser(
        prog="python -m utils.benchmark_step", description=__doc__.splitlines()[0]
    )
    add_flags(parser, BenchmarkOptions)
    names = []
    for cls, chosen in RECIPE.items():
        fields = cls.__dataclass_fields__
        without = set(fields) - chosen if chosen else train.UNUSED["pretrain"]
        names += [name for name in fields if name not in without]
        add_flags(parser, cls, {"dataset_dir": ""}, without)
    namespace = parser.parse_args()
    options = from_flags(BenchmarkOptions, namespace)
    for cls in RECIPE:
        from_flags(cls, namespace)  # a mistake is told before anything starts
    return options, {name: getattr(namespace, name) for name in names}


def main() -> None:
    options, recipe = parse()
    folder = prepare_folder("--output_dir", options.output_dir)
    telemetry = Telemetry(folder, tensorboard=False)
    telemetry.parameters({**recipe, **asdict(options)})
    with tempfile.TemporaryDirectory() as name:
        noise, runs = Path(name) / "noise", Path(name) / "runs"
        noise.mkdir(), runs.mkdir()
        trained = with_data(recipe, options, noise)
        results = measure(options, trained, runs, telemetry)
    peaks = product_rates(results)
    for number, result in enumerate(results, start=1):
        figures = summary(result, peaks)
        telemetry.log([number], {"configuration": figures["name"], **medians(figures)}, quiet=True)
    telemetry.close()
    recipe = {**trained, "dataset_dir": recipe["dataset_dir"]}
    write_results(options, recipe, results, folder)
    plot(results, folder / "benchmark_step.png")


def medians(figures: dict[str, Any]) -> dict[str, float]:
    """Of a summary, under the log's names."""
    names = ("ntokens/s", "frames/s", "audio_s/s", "updates/s", "flops/s")
    found = {name: figures[name]["median"] for name in names if name in figures}
    return found | ({"memory": figures["memory"]} if "memory" in figures else {})


if __name__ == "__main__":
    run_command(main)
