"""Measurements of the training step's benchmark -> its tables and records."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from utils.reporting.tables import PUBLISHED_POOLING, Table

RATES = {
    "ntokens/s": "ntokens",
    "frames/s": "frames",
    "audio_s/s": "audio_seconds",
    "flops/s": "flops",
}
"""Name of a rate in the log -> the measure of an update that it is of."""


@dataclass(frozen=True)
class Configuration:
    """One of the configurations that take turns."""

    kind: Literal["ours", "transformers", "product"]
    precision: str
    factor: int = 1
    concat: int = 1
    variant: str = ""
    """Name of what differs from the recipe; see VARIANTS in utils/benchmarks/step.py."""

    @property
    def row(self) -> str:
        """Its row in the tables: `baseline`, `baseline, compile`, `factor 4` or `transformers`."""
        if self.kind == "ours":
            row = "baseline" if self.factor == 1 else f"factor {self.factor}"
            return f"{row}, {self.variant}" if self.variant else row
        return self.kind

    @property
    def setting(self) -> tuple[str, int]:
        return self.precision, self.concat

    def __str__(self) -> str:
        concatenated = f" x {self.concat}" if self.concat > 1 else ""
        return f"{self.row} {self.precision}{concatenated}"


@dataclass
class Result:
    """The measurements of a configuration."""

    configuration: Configuration
    ready: dict[str, Any]
    warmup: dict[str, Any] = field(default_factory=dict)
    turns: list[dict[str, Any]] = field(default_factory=list)

    @property
    def memory(self) -> float:
        """Peak memory in MiB."""
        return self.turns[-1]["memory"] - self.ready["memory_before"]

    def rates(self, measure: str) -> list[float]:
        """`frames`, `ntokens`, `audio_seconds` or `flops` per second in each round."""
        return [total(turn, measure) / total(turn, "took") for turn in self.turns]

    def all_rates(self) -> dict[str, list[float]]:
        """The rates of each round under the log's names."""
        updates = [len(turn["updates"]) / total(turn, "took") for turn in self.turns]
        return {name: self.rates(m) for name, m in RATES.items()} | {"updates/s": updates}


def total(turn: dict[str, Any], measure: str) -> float:
    """The sum of a measure over a turn's updates."""
    return sum(update[measure] for update in turn["updates"])


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and extremes."""
    names = ("median", "lower_quartile", "upper_quartile", "min", "max")
    return dict(zip(names, np.quantile(values, (0.5, 0.25, 0.75, 0, 1)).tolist()))


def ratio(ours: Result, other: Result) -> float:
    """How many times as fast `ours` is: the median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(ours.rates("frames"), other.rates("frames")))


def turn_record(result: Result) -> dict[str, Any]:
    """The log record of the last turn."""
    metrics: dict[str, Any] = {"configuration": str(result.configuration)}
    if result.configuration.kind == "product":
        return {**metrics, "flops/s": result.turns[-1]["flops/s"]}
    return {
        **metrics,
        "took": total(result.turns[-1], "took"),
        **{name: values[-1] for name, values in result.all_rates().items()},
        "memory": result.memory,
    }


def summarise_result(result: Result, peaks: dict[str, list[float]]) -> dict[str, Any]:
    """A configuration's figures over all rounds, with their spread."""
    configuration = result.configuration
    named = {**asdict(configuration), "name": str(configuration)}
    if configuration.kind == "product":
        return {**named, "flops/s": spread([turn["flops/s"] for turn in result.turns])}
    first = result.warmup["updates"][0]
    shares = [a / b for a, b in zip(result.rates("flops"), peaks[configuration.precision])]
    took = [total(turn, "took") / len(turn["updates"]) for turn in result.turns]
    return {
        **named,
        "parameters": result.ready["parameters"],
        "seconds_per_update": spread(took),
        **{name: spread(values) for name, values in result.all_rates().items()},
        "memory": result.memory,
        "flops": statistics.median(total(t, "flops") / len(t["updates"]) for t in result.turns),
        "share_of_product_rate": spread(shares),
        "counted_by_torch": first["counted_flops"] / first["flops"],
        "loss": result.turns[-1]["updates"][-1]["loss"],
    }


def summaries(results: list[Result]) -> list[dict[str, Any]]:
    """The figures of all configurations."""
    peaks = product_rates(results)
    return [summarise_result(result, peaks) for result in results]


def baseline_of(results: list[Result], result: Result) -> Result | None:
    """Our plain encoder of the same precision and batch."""
    wanted = replace(result.configuration, kind="ours", factor=1, variant="")
    return next((other for other in results if other.configuration == wanted), None)


def factor_rows(results: list[Result], setting: tuple[str, int]) -> dict[str, dict[str, float]]:
    """Rows of the table `pooling_factor`; none without a baseline."""
    rows = {}
    for result in results:
        found = result.configuration
        baseline = baseline_of(results, result)
        if found.kind != "ours" or found.variant or found.setting != setting or baseline is None:
            continue
        rows[found.row] = {
            "throughput": round(ratio(result, baseline), 2),
            "memory": round(100 * result.memory / baseline.memory, 2),
        }
    return rows


def result_tables(results: list[Result]) -> list[Table]:
    """A table of all configurations, then tables of factors and peers."""
    measured = [result for result in results if result.configuration.kind != "product"]
    peaks = product_rates(results)
    columns = ["", "masked frames/s", "frames/s", "audio, s/s", "updates/s", "update, s"]
    columns += ["quartiles", "min to max", "memory, MiB", "GFLOP per update", "GFLOP/s"]
    columns += ["of the product's, %", "counted by torch"]
    rows = []
    for result in measured:
        figures = summarise_result(result, peaks)
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
    """Relative throughput and memory against each peer."""
    found = []
    for concat in dict.fromkeys(result.configuration.concat for result in measured):
        here = [result for result in measured if result.configuration.concat == concat]
        peers = [result for result in here if result.configuration.kind != "ours"]
        if not peers:
            continue
        columns, rows = [""], [[str(result.configuration)] for result in here]
        for peer in peers:
            name = f"{peer.configuration.row} {peer.configuration.precision}"
            columns += [f"throughput against {name}", f"memory, % of {name}"]
            for result, cells in zip(here, rows):
                cells.append(f"{ratio(result, peer):.2f}")
                cells.append(f"{100 * result.memory / peer.memory:.1f}")
        found.append(Table("Against others", columns, rows))
    return found


def product_rates(results: list[Result]) -> dict[str, list[float]]:
    """Precision -> operations per second of the square product in each round."""
    return {
        result.configuration.precision: [turn["flops/s"] for turn in result.turns]
        for result in results
        if result.configuration.kind == "product"
    }


def versions_of(results: list[Result]) -> dict[str, str]:
    """Versions of the software that was measured."""
    names = ("python", "torch", "cuda", "transformers")
    environments = [result.ready["environment"] for result in results]
    return {name: found[name] for found in environments for name in names if name in found}


def medians(figures: dict[str, Any]) -> dict[str, float]:
    """The medians of a summary, under the log's names."""
    found = {n: figures[n]["median"] for n in (*RATES, "updates/s") if n in figures}
    return found | ({"memory": figures["memory"]} if "memory" in figures else {})
