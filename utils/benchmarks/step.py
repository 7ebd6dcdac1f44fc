"""Time and memory of a pre-training update: hourglass factors, precisions, peers.

    python -m utils.benchmarks.step --cpu --factors 1 4 --precision fp32 bf16 \\
        --peer transformers

Every configuration is train.py's own trainer in a process of its own; the processes take turns,
A B C A B C ..., one at a time, and medians with their spread are printed: nothing else should run
meanwhile.  The warm-up does not count.  Batches are of a data set (--dataset_dir and a recipe's
flags, which are train.py's) or, without one, of noise.  All configurations see the same batches,
masks, distractors and skipped layers, as checksums in the result show.

What is counted:

- time: whole updates as utils/benchmarks/step_worker.py says, without loading;
- throughput: `frames/s` encoder frames before shortening, `ntokens/s` masked ones (the published
  tables' unit), `audio_s/s` seconds of audio, `updates/s`;
- memory: on a GPU the most that was allocated; on a CPU how far the peak of the resident size rises
  in the configuration's own process from after its imports to the end of the run, with weights,
  gradients, optimizer and activations, without activation checkpointing;
- operations: of products and convolutions by the formula of utils/benchmarks/flops.py, the
  peers' by that of the same model; torch's counter checks it in the first update.  More than the
  formula's is what kernels compute twice;
- the machine's rate: of a large square product in each precision, which takes its turn as well.

Written to --output_dir: nvlog.json (DLLogger lines), benchmark_step.json (everything),
benchmark_step.md (the tables) and, with --profile, the time of each operator in an
update; to --json the table of hourglass factors as docs/results keeps it.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from tasks.recipes import PretrainingRecipe, configuration_of, parse_recipe
from utils.benchmarks.measuring import command_line, write_noise
from utils.benchmarks.step_tables import (
    Configuration,
    Result,
    factor_rows,
    medians,
    result_tables,
    summaries,
    turn_record,
    versions_of,
)
from utils.benchmarks.step_worker import PATCHES
from utils.reporting.results import Measurement
from utils.reporting.tables import Table
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import UserError, run_command
from wav2vec2.cli.flags import ArgumentParser, add_flags, from_flags, require_at_least
from wav2vec2.cli.telemetry import Telemetry
from wav2vec2.config import PRESETS, Hourglass
from wav2vec2.files.output import prepare_folder, write_json, write_lines
from wav2vec2.files.text import split_lines

Options = TypeVar("Options")

ROOT = Path(__file__).resolve().parents[2]

VARIANTS = {
    "compile": ("--compile", "true"),
    "activation_checkpointing": ("--activation_checkpointing", "true"),
    "fused_adam": ("--optimizer", "fused_adam"),
    "fused_lamb": ("--optimizer", "fused_lamb"),
    **dict.fromkeys(PATCHES, ()),
}
"""What a variant of the recipe is called -> its flags; utils/benchmarks/step_worker.py has the ones
without."""

BATCHES_OF_NOISE = 4
"""Different batches, of which training takes one after the other."""


@dataclass(frozen=True)
class StepOptions:
    """Benchmark"""

    model: Literal["base", "large", "mini", "small"] = "base"
    """Architecture."""
    factors: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    """Hourglass factors; 1: the plain encoder, the baseline.  A sixth of the layers, at least one,
    stays at full rate before and after the shortened ones: Base [2,(8,factor),2]."""
    precision: tuple[Literal["fp32", "tf32", "bf16", "fp16"], ...] = ("fp32",)
    """Precisions of each configuration; fp32 is without TF32.  A peer's bf16 and fp16 are its own
    torch.autocast."""
    concat: tuple[int, ...] = (1,)
    """Sub-batches that run as one batch (NUM_CONCAT_BATCHES), each a configuration of its own."""
    variants: tuple[str, ...] = ()
    """The baseline once more with something changed: compile, activation_checkpointing, fused_adam,
    fused_lamb, plain_kernels, channels_last, cudnn_benchmark."""
    peer: tuple[Literal["transformers"], ...] = ()
    """Other implementations to compare with: the plain encoder, trained alike, on equal batches."""
    rounds: int = 5
    """Rounds to measure; every configuration has one turn per round."""
    minutes: float = 0.0
    """Start no further round after so many minutes; 0: measure all rounds."""
    updates: int = 1
    """Updates per turn; on a GPU, after one more that is not counted."""
    warmup: int = 2
    """Updates of each configuration before the first round."""
    utterances: int = 4
    """Utterances per sub-batch of noise."""
    seconds: float = 10.0
    """Length of each utterance of noise."""
    profile: bool = False
    """After the rounds, one more update of each under torch's profiler: profile_<name>.md."""
    product_size: int = 0
    """Rows and columns of the square product that measures the machine; 0: 2048 on a CPU, 8192 on
    a GPU."""
    output_dir: str = "results/benchmark_step"
    """Folder for nvlog.json, benchmark_step.json and benchmark_step.md."""
    json: str = ""
    """File for the table of factors, in the form of docs/results; '': none."""

    def __post_init__(self) -> None:
        require_at_least(self, rounds=1, updates=1, warmup=1, utterances=1)
        require_at_least(self, minutes=0)
        for name in ("factors", "concat"):
            given = getattr(self, name)
            if not given and name == "factors" and self.peer:
                continue
            if not given or min(given) < 1:
                raise UserError(
                    f"--{name} {' '.join(map(str, given))}: give one or more, each at least 1"
                )
        for name in self.variants:
            if name not in VARIANTS:
                raise UserError(f"--variants {name}: choose from {', '.join(VARIANTS)}")
        if not self.precision:
            raise UserError("--precision: give one or more")
        if self.utterances > 8 and self.utterances % 8:
            raise UserError(
                f"--utterances {self.utterances}: batches above 8 hold a multiple of 8; choose "
                f"{self.utterances // 8 * 8}"
            )
        require_at_least(self, seconds=0.1)
        if self.json and (len(self.precision) > 1 or len(self.concat) > 1 or 1 not in self.factors):
            raise UserError(
                f"--json {self.json}: such a table holds one --precision and one --concat, and "
                "factor 1 among --factors, which it stands against"
            )


def configurations(options: StepOptions) -> list[Configuration]:
    """In the order of their turns."""
    found = [
        Configuration(kind, precision, factor, concat, variant)
        for concat in dict.fromkeys(options.concat)
        for precision in dict.fromkeys(options.precision)
        for kind, factor, variant in [
            *(("ours", factor, "") for factor in dict.fromkeys(options.factors)),
            *(("ours", 1, variant) for variant in dict.fromkeys(options.variants)),
            *((peer, 1, "") for peer in dict.fromkeys(options.peer)),
        ]
    ]
    return found + [Configuration("product", p) for p in dict.fromkeys(options.precision)]


def hourglass(model: str, factor: int) -> str:
    """`--hourglass_config` of a factor: `[2,(8,4),2]`; '' for 1."""
    layers = PRESETS[model].layers
    outer = max(layers // 6, 1)
    return str(Hourglass(outer, layers - 2 * outer, factor, outer)) if factor > 1 else ""


def noise_flags(folder: Path, utterances: int, seconds: float, batch: int) -> list[str]:
    """Write utterances of noise of one length; returns the flags to train on `batch` at a time."""
    samples = round(seconds * SAMPLE_RATE)
    write_noise(folder, "train", [samples] * utterances)
    return [
        *("--dataset_dir", str(folder), "--train_subset", "train"),
        *("--min_sample_size", str(samples), "--max_sample_size", str(samples)),
        *("--max_tokens", str(batch * samples)),
    ]


def data_flags(recipe: PretrainingRecipe, options: StepOptions, noise: Path) -> list[str]:
    """Flags for the recipe's data set or, without one, for noise that is written to `noise`."""
    if recipe.data.dataset_dir:
        return []
    count = options.utterances * max(options.concat) * recipe.data.update_freq
    return noise_flags(noise, BATCHES_OF_NOISE * count, options.seconds, options.utterances)


class Worker:
    """A configuration's process."""

    def __init__(self, configuration: Configuration, flags: list[str], folder: Path, size: int):
        """Starts it; `answer` then says that it is ready."""
        self.configuration = configuration
        self.errors = open(folder / f"{configuration}.txt", "w+", encoding="utf-8")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "utils.benchmarks.step_worker"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        kind, precision = configuration.kind, configuration.precision
        self._send(
            kind=kind, precision=precision, variant=configuration.variant, flags=flags, size=size
        )

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
        self._send(updates=1, unmeasured=0, profiled=True)
        return self.answer()["updates"][0]["operators"]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            with suppress(BrokenPipeError):
                stream.close()


def configuration_flags(
    configuration: Configuration, model: str, flags: Sequence[str], output_dir: Path
) -> list[str]:
    """train.py's command line for a configuration of `model`; `flags`: data and recipe."""
    asked = configuration.precision
    precision = asked if configuration.kind == "ours" and asked != "tf32" else "fp32"
    subsets = parse_recipe(["pretrain", *flags]).data.train_subset
    return [
        *flags,
        *("--valid_subset", *subsets, "--model", model),
        *("--hourglass_config", hourglass(model, configuration.factor)),
        *("--num_concat_batches", str(configuration.concat), "--batches_per_update", "0"),
        *("--precision", precision, "--tf32", str(asked != "fp32").lower()),
        *VARIANTS.get(configuration.variant, ()),
        *("--output_dir", str(output_dir)),
        *("--num_workers", "0", "--no_save", "true"),
    ]


def measure_steps(
    options: StepOptions, flags: Sequence[str], cpu: bool, folder: Path, telemetry: Telemetry
) -> list[Result]:
    """Warm-up, then the rounds, in which the configurations take turns."""
    begin = time.monotonic()
    with ExitStack() as stack:
        started = []
        for number, configuration in enumerate(configurations(options)):
            own = configuration_flags(configuration, options.model, flags, folder / str(number))
            worker = Worker(configuration, own, folder, options.product_size)
            started.append(stack.enter_context(closing(worker)))
        results = [Result(worker.configuration, worker.answer()) for worker in started]
        for worker, result in zip(started, results):
            result.warmup = worker.turn(options.warmup, count=True)
        unmeasured = 0 if cpu else 1
        for number in range(1, options.rounds + 1):
            for position, (worker, result) in enumerate(zip(started, results), start=1):
                result.turns.append(worker.turn(options.updates, unmeasured))
                telemetry.log([number, position, len(started)], turn_record(result))
            if options.minutes and time.monotonic() - begin > 60 * options.minutes:
                break
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
    text = [f"{table.title}, {whole / 1000:.2f} s", "", *split_lines(table.markdown())]
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


def described(options: StepOptions, recipe: PretrainingRecipe, results: list[Result]) -> str:
    """What was measured, on what, in a line."""
    surroundings = results[0].ready["environment"]
    batch = (
        f"{' '.join(recipe.data.train_subset)} in sub-batches of {recipe.data.max_tokens} samples"
        if recipe.data.dataset_dir
        else f"sub-batches of {options.utterances} x {options.seconds:g} s"
    )
    versions = versions_of(results)
    threads = "" if "cuda" in versions else f", {surroundings['threads']} threads"
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{options.model}, {batch}; medians of {len(results[0].turns)} rounds; "
        f"{surroundings['hardware']}{threads}; {named}"
    )


def write_results(
    options: StepOptions, recipe: PretrainingRecipe, results: list[Result], folder: Path
) -> None:
    """The raw figures, the tables, and what docs/results keeps."""
    content = {
        "command": command_line("utils.benchmarks.step"),
        "environment": results[0].ready["environment"] | versions_of(results),
        "options": {**asdict(options), "output_dir": Path(options.output_dir).name, "json": None},
        "recipe": {
            **configuration_of(recipe),
            "dataset_dir": Path(recipe.data.dataset_dir).name,
            "output_dir": None,
        },
        "results": summaries(results),
        "rounds": [
            {"name": str(result.configuration), "warmup": result.warmup, "turns": result.turns}
            for result in results
        ],
    }
    write_json(folder / "benchmark_step.json", content, indent=1)
    text = [described(options, recipe, results)]
    for table in result_tables(results):
        text += ["", f"**{table.title}**", "", *split_lines(table.markdown())]
    write_lines(folder / "benchmark_step.md", text)
    print("\n".join(text))
    if options.json:
        write_table(options, results, Path(options.json))


def write_table(options: StepOptions, results: list[Result], path: Path) -> None:
    """The table of factors, in the form of docs/results."""
    (precision,), (concat,) = options.precision, options.concat
    surroundings = results[0].ready["environment"]
    content = {
        "table": "pooling_factor",
        "setting": precision if "cuda" in surroundings else f"CPU, {precision}",
        "command": command_line("utils.benchmarks.step"),
        "hardware": f"{surroundings['hardware']}, {surroundings['threads']} threads"
        if "cuda" not in surroundings
        else f"1 x {surroundings['hardware']}",
        "versions": {k: v for k, v in versions_of(results).items() if k != "transformers"},
        "commit": surroundings.get("commit", ""),
        "date": time.strftime("%Y-%m-%d"),
        "rows": factor_rows(results, (precision, concat)),
    }
    prepare_folder("--json", path.parent)
    write_json(path, content, indent=1)
    Measurement.read(path)


def parse_options(
    name: str, documentation: str, own: type[Options]
) -> tuple[Options, list[str], PretrainingRecipe]:
    """The `own` options of the benchmark `name`, the other flags, which are train.py's, and their
    recipe."""
    parser = ArgumentParser(
        f"utils.benchmarks.{name}",
        documentation,
        epilog="All other flags are those of train.py pretrain.",
    )
    add_flags(parser, own)
    namespace, flags = parser.parse_known_args()
    flags = ["--dataset_dir", "", *flags]
    recipe = parse_recipe(["pretrain", *flags])
    assert isinstance(recipe, PretrainingRecipe)
    return from_flags(own, namespace), flags, recipe


def main() -> None:
    options, flags, recipe = parse_options("step", __doc__, StepOptions)
    folder = prepare_folder("--output_dir", options.output_dir)
    telemetry = Telemetry(folder, tensorboard=False)
    telemetry.parameters({**configuration_of(recipe), **asdict(options)})
    with tempfile.TemporaryDirectory() as name:
        noise, runs = Path(name) / "noise", Path(name) / "runs"
        noise.mkdir(), runs.mkdir()
        flags += data_flags(recipe, options, noise)
        results = measure_steps(options, flags, recipe.run.cpu, runs, telemetry)
    for number, figures in enumerate(summaries(results), start=1):
        telemetry.log([number], {"configuration": figures["name"], **medians(figures)}, quiet=True)
    telemetry.close()
    write_results(options, recipe, results, folder)


if __name__ == "__main__":
    run_command(main)
