"""Runs -> the tables of a report as text, the same on the page and in markdown."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from utils.reporting.runs import Run
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.config import Hourglass

NONE = "–"

PUBLISHED_POOLING = {
    "baseline": (1.00, 100.00),
    "factor 2": (1.25, 70.98),
    "factor 3": (1.33, 64.31),
    "factor 4": (1.37, 62.35),
    "factor 5": (1.39, 60.00),
    "factor 6": (1.40, 59.61),
}
"""Relative throughput, and memory in percent, of NVIDIA's Base pre-training: one A100, bf16."""

PUBLISHED_LATENCY = {
    1: (10.45, 11.02, 11.41, 12.42),
    4: (17.69, 21.74, 24.12, 35.80),
    8: (28.70, 40.06, 48.07, 74.59),
    16: (58.82, 88.78, 117.40, 151.37),
}
"""Batch size -> mean, p90, p95, p99 in ms of NVIDIA's recipe on one A100, test-other, bf16."""

RATES = (
    ("audio_s/s", "audio, s/s"),
    ("frames/s", "frames/s"),
    ("ntokens/s", "targets/s"),
    ("updates/s", "updates/s"),
)
"""(metric, heading) of measures of throughput, the most comparable one first."""

QUANTILES = (("0_5", "median"), ("mean", "mean"), ("0_9", "p90"), ("0_95", "p95"), ("0_99", "p99"))


@dataclass(frozen=True)
class Table:
    """A table of text; its first column names the rows."""

    title: str
    columns: Sequence[str]
    rows: list[list[str]]
    note: str = ""

    def markdown(self) -> str:
        def line(cells: Sequence[str]) -> str:
            return "| " + " | ".join(escape(cell) for cell in cells) + " |"

        lines = [line(self.columns), "|" + "---|" * len(self.columns), *map(line, self.rows)]
        return "\n".join([*lines, "", escape(self.note)] if self.note else lines)


def table_by_run(title: str, runs: list[Run], rows: list[list[str]]) -> Table | None:
    """A table with a column per run and the rows that hold a value; None if no row does."""
    rows = [row for row in rows if any(cell != NONE for cell in row[1:])]
    return Table(title, ["", *(run.name for run in runs)], rows) if rows else None


def escape(text: str) -> str:
    """Text that markdown shows as it is."""
    text = text.encode("utf-8", "replace").decode("utf-8")  # JSON may hold lone surrogates
    text = re.sub(r"([\\|`*_<>\[\]#])", r"\\\1", text)
    return " ".join(text.split())


def number(value: Any) -> str:
    """A number with four significant digits: `1,234`, `0.0123`, `5e-07`."""
    if type(value) not in (int, float):
        return NONE
    if value and not 1e-4 <= abs(value) < 1e9:
        return f"{value:.3g}"
    text = f"{value:.4g}"
    if "e" in text or abs(value) >= 1000:
        return f"{value:,.0f}"
    return text


def percents(value: Any) -> str:
    """An error rate in percent with two decimals, as the console prints it."""
    return f"{value:.2f}" if type(value) in (int, float) else NONE


def unit_rate(names: Iterable[str]) -> str:
    """A heading for error rates of units that have these names."""
    return " or ".join(sorted(set(names))) or "UER"


def duration(seconds: float) -> str:
    """A duration in seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested configuration as dotted names -> JSON text."""
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            found[prefix + name] = text if len(text) <= 200 else text[:199] + "…"
    return found


def nested(parameters: dict[str, Any], name: str) -> dict[str, Any]:
    """A dict among the parameters; empty if there is none."""
    found = parameters.get(name)
    return found if isinstance(found, dict) else {}


def precision(parameters: dict[str, Any]) -> str:
    """`fp32`, `TF32`, `bf16` or `fp16`, from our flag or another recipe's switches."""
    for name in ("bf16", "fp16"):
        if parameters.get(name) is True or parameters.get("precision") == name:
            return name
    if not {"precision", "bf16", "fp16"} & set(parameters):
        return NONE
    on_gpu = "cuda" in nested(parameters, "environment")
    return "TF32" if on_gpu and parameters.get("tf32") is True else "fp32"


def hourglass(parameters: dict[str, Any]) -> str:
    """`[2,(8,4),2]`, `none`, or NONE if the log does not say."""
    architecture = nested(parameters, "architecture")
    if "hourglass" in architecture:
        found = architecture["hourglass"]
        if not isinstance(found, dict):
            return "none"
        try:
            return str(Hourglass(**{**found, "factors": tuple(found.get("factors", ()))}))
        except (TypeError, ValueError):  # another program's log
            return NONE
    for name in ("hourglass", "hourglass_transformer"):
        if name in parameters:
            return str(parameters[name] or "none").replace(" ", "")
    return NONE


def factor(parameters: dict[str, Any]) -> str | None:
    """A row of PUBLISHED_POOLING."""
    layers = hourglass(parameters)
    found = re.fullmatch(r"\[\d+,\(\d+,(\d+)\),\d+\]", layers)
    if layers == "none":
        return "baseline"
    return f"factor {found[1]}" if found else None


def geometry(parameters: dict[str, Any]) -> str:
    """`8 × 8 × 1`: processes, concatenated sub-batches, accumulated batches."""
    counts = (
        parameters.get("ranks", nested(parameters, "environment").get("processes")),
        parameters.get("concat", parameters.get("num_concat_batches")),
        parameters.get("accumulate", parameters.get("update_freq")),
    )
    return NONE if None in counts else " × ".join(map(str, counts))


def facts(runs: list[Run]) -> Table | None:
    """What was run, a column per run."""

    def column(run: Run) -> dict[str, str]:
        p, log = run.log.parameters, run.log
        environment = nested(p, "environment")
        audio, most = p.get("train_samples"), p.get("max_update")
        versions = [
            f"{n} {environment[n]}" for n in ("torch", "cuda", "python") if n in environment
        ]
        subsets = p.get("train_subset")
        subsets = " ".join(map(str, subsets)) if isinstance(subsets, list) else subsets
        hardware = str(environment.get("hardware", NONE))
        if "cores" in environment:
            hardware += f", {environment['cores']} CPU cores"
        return {
            "model": str(p.get("model", p.get("pretrained_model", NONE))),
            "hourglass": hourglass(p),
            "precision": precision(p),
            "data": f"{subsets or NONE}"
            + (f", {duration(audio / SAMPLE_RATE)}" if type(audio) is int else ""),
            "processes × concatenated × accumulated": geometry(p),
            "optimizer, peak rate": f"{p.get('optimizer', NONE)}, {number(p.get('learning_rate'))}",
            "updates": f"{log.updates:,}" + (f" of {most:,}" if type(most) is int else ""),
            "seed": str(p.get("seed", NONE)),
            "hardware": hardware,
            "versions": ", ".join(versions) or NONE,
            "commit": re.sub(
                r"^([0-9a-f]{12})[0-9a-f]+", r"\1", str(environment.get("commit", NONE))
            ),
            "started": log.started.split(".")[0] or NONE,
            "time": duration(log.seconds) + (f" in {log.jobs} jobs" if log.jobs > 1 else ""),
        }

    columns = [column(run) for run in runs]
    rows = [[name, *(c[name] for c in columns)] for name in (columns or [{}])[0]]
    return table_by_run("What was run", runs, rows)


def results(runs: list[Run]) -> Table | None:
    """The last values of metrics, the best validations, and evaluations."""
    units = unit_rate(run.unit_rate for run in runs if run.final("val_uer") is not None)
    measures = (
        ("val_loss", "validation loss, bits", min),
        ("val_accuracy", "validation accuracy", max),
        ("val_code_perplexity", "validation code perplexity", None),
        ("val_wer", "validation WER, %", min),
        ("val_uer", f"validation {units}, %", min),
        ("val_ema_loss", "loss of the average, bits", min),
        ("val_ema_wer", "WER of the average, %", min),
        ("train_loss", "training loss, bits", None),
        ("train_accuracy", "training accuracy", None),
    )
    known = {name for run in runs for name in run.log.curves}
    factors = {int(m[1]) for name in known if (m := re.fullmatch(r"val_factor_(\d+)_loss", name))}
    for factor in sorted(factors):
        measures += (
            (f"val_factor_{factor}_accuracy", f"validation accuracy, pooling factor {factor}", max),
            (f"val_factor_{factor}_wer", f"validation WER, %, pooling factor {factor}", min),
        )
    rows = []
    for metric, title, better in measures:
        cells = []
        for run in runs:
            shown = percents if metric.endswith(("wer", "uer")) else number
            text = shown(run.final(metric))
            curve = run.log.curves.get(metric)
            if better and curve is not None and len(curve.update) > 1:
                best = curve.low.min() if better is min else curve.high.max()
                text += f" (best {shown(float(best))})"
            cells.append(text)
        rows.append([title, *cells])
    for subset in sorted({e.subset for run in runs for e in run.evaluations}):
        found = [{e.subset: e for e in run.evaluations}.get(subset) for run in runs]
        units = unit_rate(e.unit_rate for e in found if e)
        for rate, name in (("wer", "WER"), ("uer", units)):
            cells = [percents(e.summary.get(rate)) if e else NONE for e in found]
            rows.append([f"{subset}: {name}, %", *cells])
    return table_by_run("Results", runs, rows)


def rate(run: Run, name: str) -> float | None:
    """A run's throughput: that of its summary (of a benchmark, of the measured epochs), else the
    median of its log lines."""
    if (value := run.log.summary.get(f"train_avg_{name}")) is not None:
        return float(value)
    for metric in (f"train_{name}", f"train_avg_{name}"):
        if metric in run.log.curves:
            return run.log.curves[metric].median
    return None


def memory(run: Run) -> float | None:
    """Peak memory in MiB."""
    curves = run.log.curves
    peaks = [curves[m].high.max() for m in ("train_memory", "train_avg_memory") if m in curves]
    return float(max(peaks)) if peaks else None


def ratio(value: float | None, base: float | None) -> str:
    return f"{value / base:.2f}" if value is not None and base else NONE


def percent(value: float | None, base: float | None) -> str:
    return f"{100 * value / base:.2f} %" if value is not None and base else NONE


def throughput(runs: list[Run]) -> Table | None:
    """Throughput and memory by configuration, against the first run."""
    measured = [(key, title) for key, title in RATES if any(rate(run, key) for run in runs)]
    if not measured:
        return None
    compared = next((key for key, _ in measured if rate(runs[0], key)), measured[0][0])
    columns = ["configuration", "precision", "hourglass", "geometry"]
    columns += [title for _, title in measured]
    columns += ["memory, MiB"]
    if several := len(runs) > 1:
        columns += ["throughput, ratio", "memory, ratio"]
    rows = []
    for run in runs:
        p = run.log.parameters
        rows.append(
            [run.name, precision(p), hourglass(p), geometry(p)]
            + [number(rate(run, key)) for key, _ in measured]
            + [number(memory(run))]
            + [
                ratio(rate(run, compared), rate(runs[0], compared)),
                percent(memory(run), memory(runs[0])),
            ][: 2 * several]
        )
    note = "Geometry: processes × concatenated sub-batches × accumulated batches. "
    if several:
        note += (
            f"Ratios are of {dict(RATES)[compared]} and of peak memory, against {runs[0].name}. "
        )
    note += (
        "Throughput is that of a run's summary (its last epoch; of a benchmark its measured "
        "epochs), or the median of its log lines."
    )
    return Table("Throughput and memory", columns, rows, note)


def pooling(runs: list[Run]) -> Table | None:
    """The runs' own pooling factors beside the published ones.

    None without the plain encoder, against which the ratios are, or without another run.
    """
    measured: dict[str, Run] = {}
    for run in runs:
        if (row := factor(run.log.parameters)) in PUBLISHED_POOLING:
            measured.setdefault(row, run)
    base = measured.get("baseline")
    if base is None or len(measured) < 2:
        return None
    key = next((key for key, _ in RATES if rate(base, key)), "")
    rows = []
    for name, (speed, share) in PUBLISHED_POOLING.items():
        if run := measured.get(name):
            cells = [ratio(rate(run, key), rate(base, key)), percent(memory(run), memory(base))]
            rows.append([name, *cells, f"{speed:.2f}", f"{share:.2f} %"])
    note = (
        "Published: NVIDIA's Base, one A100, bf16. Compare only runs that differ in nothing but "
        "HOURGLASS_CONFIG."
    )
    columns = ["", "throughput", "memory", "published throughput", "published memory"]
    return Table("Pooling factor", columns, rows, note)


def latency(runs: list[Run]) -> Table | None:
    """Percentiles of inference latency beside the published ones."""
    rows = []
    for run in runs:
        logged = {**{k: c.last for k, c in run.log.curves.items()}, **run.log.summary}
        for title, values in [
            *((run.name, values) for values in run.log.latencies or [logged]),
            *((f"{run.name} {e.subset}", e.summary) for e in run.evaluations),
        ]:
            batch = number(values.get("batch_size", run.log.parameters.get("batch_size")))
            for part in ("data", "dnn", "data+dnn"):
                cells = [number(values.get(f"{part}_latency_{key}")) for key, _ in QUANTILES]
                if any(cell != NONE for cell in cells):
                    rows.append([title, part, batch, *cells])
    if not rows:
        return None
    for batch, times in PUBLISHED_LATENCY.items():
        cells = [str(batch), NONE, *map(number, times)]
        rows.append(["published, one A100, bf16", "data+dnn", *cells])
    columns = ["", "part", "batch size", *(f"{title}, ms" for _, title in QUANTILES)]
    return Table("Latency", columns, rows)


def differences(runs: list[Run]) -> Table | None:
    """The settings in which runs of a kind differ."""
    flats = [flat(run.log.parameters) for run in runs]
    rows = [[n, *(f.get(n, NONE) for f in flats)] for n in sorted(set().union(*flats))]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    return table_by_run("Where the configurations differ", runs, rows)
