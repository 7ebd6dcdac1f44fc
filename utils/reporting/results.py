"""docs/results/*.json -> the measured tables of the README, beside the published figures.

A file holds one measurement: which of TABLES it belongs to, the figures by row and column, and the
command, hardware, versions and commit that they come from.  Several files may fill one table; each
adds its columns.  A table without a file says that it is not measured.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.reporting.panels import PUBLISHED_ACCURACY
from utils.reporting.tables import (
    NONE,
    NOT_MEASURED,
    PUBLISHED_LATENCY,
    PUBLISHED_POOLING,
    Table,
    escape,
)
from wav2vec2.cli.errors import UserError
from wav2vec2.files.output import write_lines

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
RESULTS = ROOT / "docs" / "results"

BEGIN = re.compile(r"<!-- measured tables: (.*?) -->")
"""Opens a block of the README; names its tables, apart by commas."""
END = "<!-- end of measured tables -->"


@dataclass(frozen=True)
class Shape:
    """A table of the README."""

    title: str
    rows: tuple[str, ...]
    """As the first column has them; none: those of its files."""
    columns: Mapping[str, str]
    """Key of a figure -> heading."""
    published: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Row -> a cell for each column."""
    source: str = ""
    """Of the published figures."""


TABLES = {
    "pooling_factor": Shape(
        "Pooling factor: Base pre-training, against the plain encoder",
        tuple(PUBLISHED_POOLING),
        {"throughput": "throughput", "memory": "memory, %"},
        {row: (f"{a:.2f}", f"{b:.2f}") for row, (a, b) in PUBLISHED_POOLING.items()},
        "one A100, bf16",
    ),
    "throughput": Shape(
        "Throughput: Base, masked frames (pre-training) and target letters (fine-tuning) a second",
        ("1 GPU", "4 GPUs", "8 GPUs"),
        {"pretrain": "pre-training", "finetune": "fine-tuning"},
        {
            "1 GPU": ("37,610", "41,276"),
            "4 GPUs": ("138,956", "132,362"),
            "8 GPUs": ("261,881", "207,201"),
        },
        "A100, bf16",
    ),
    "pretraining_accuracy": Shape(
        "Contrastive accuracy of Base pre-training, over seeds",
        tuple(f"{update:,} updates" for update in PUBLISHED_ACCURACY),
        {"accuracy": "mean", "deviation": "deviation"},
        {f"{u:,} updates": (f"{a:.3f}", f"{d:.3f}") for u, (a, d) in PUBLISHED_ACCURACY.items()},
        "8 seeds, bf16",
    ),
    "finetuning_wer": Shape(
        "Word error rate of Base fine-tuned on 960 h, greedy",
        ("dev-other",),
        {"wer": "WER, %"},
        {"dev-other": ("8.878",)},
        "median",
    ),
    "latency": Shape(
        "Latency of Base on test-other, ms",
        tuple(f"batch {size}" for size in PUBLISHED_LATENCY),
        {"mean": "mean", "p90": "p90", "p95": "p95", "p99": "p99"},
        {
            f"batch {size}": tuple(f"{value:.2f}" for value in values)
            for size, values in PUBLISHED_LATENCY.items()
        },
        "one A100, bf16",
    ),
    "quickstart": Shape(
        "The quickstart: word and unit error rate on voices never heard",
        (),
        {"wer": "WER, %", "uer": "UER, %"},
    ),
}

REQUIRED = {"table": str, "command": str, "hardware": str, "versions": dict, "rows": dict}
OPTIONAL = {"commit": str, "setting": str, "date": str}


@dataclass(frozen=True)
class Measurement:
    """A file of docs/results."""

    table: str
    command: str
    hardware: str
    versions: dict[str, str]
    rows: dict[str, dict[str, float]]
    commit: str = ""
    setting: str = ""
    """What heads its columns, where several files fill a table: `bf16`, say."""
    date: str = ""

    @classmethod
    def read(cls, path: Path) -> "Measurement":
        """UserError, naming the file and the field, unless it fits TABLES."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path}: cannot be read as JSON: {error}") from None
        if not isinstance(content, dict):
            raise UserError(f"{path}: must be a JSON object")
        for name, kind in REQUIRED.items():
            if not isinstance(content.get(name), kind):
                raise UserError(f"{path}: {name!r} is missing, or of another type")
        for name in content:
            if not isinstance(content[name], {**REQUIRED, **OPTIONAL}.get(name, ())):
                raise UserError(f"{path}: {name!r} is no field of it, or of another type")
        shape = TABLES.get(content["table"])
        if shape is None:
            raise UserError(f"{path}: table {content['table']!r}: one of {', '.join(TABLES)}")
        for row, figures in content["rows"].items():
            if shape.rows and row not in shape.rows:
                raise UserError(f"{path}: row {row!r}: one of {', '.join(shape.rows)}")
            if not isinstance(figures, dict) or not set(figures) <= set(shape.columns):
                raise UserError(f"{path}: row {row!r}: figures are {', '.join(shape.columns)}")
            if not all(type(value) in (int, float) for value in figures.values()):
                raise UserError(f"{path}: row {row!r}: a figure is not a number")
        if re.search(r"(?<![\w.:])/(home|root|tmp|work|Users|mnt)\b", json.dumps(content)):
            raise UserError(f"{path}: holds an absolute path of a machine; make it relative")
        return cls(**content)

    def source(self) -> str:
        """Where the figures come from, in a sentence of markdown."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        parts = [f"`{self.command}`", escape(self.hardware), escape(versions)]
        parts += [f"commit {escape(self.commit)}"] if self.commit else []
        setting = f"{escape(self.setting)}: " if self.setting else ""
        return f"{setting}{'; '.join(part for part in parts if part)}."


def figure(value: Any) -> str:
    """As the file has it, thousands apart."""
    if value is None:
        return NONE
    return f"{value:,}" if isinstance(value, int) or abs(value) >= 1000 else str(value)


def table(shape: Shape, measurements: list[Measurement]) -> str:
    """Markdown of one table."""
    columns, sources = [""], []
    for measurement in measurements:
        prefix = f"{measurement.setting}: " if measurement.setting else ""
        columns += [prefix + heading for heading in shape.columns.values()]
        sources.append(measurement.source())
    if not measurements:
        columns += list(shape.columns.values())
    if shape.published:
        columns += [f"published {heading}" for heading in shape.columns.values()]
        sources.append(f"Published: NVIDIA's recipe, {shape.source}.")
    names = shape.rows or tuple(dict.fromkeys(row for m in measurements for row in m.rows))
    rows = []
    for name in names:
        cells = [name]
        for measurement in measurements:
            found = measurement.rows.get(name)
            cells += [figure(found.get(key)) if found else NOT_MEASURED for key in shape.columns]
        if not measurements:
            cells += [NOT_MEASURED] * len(shape.columns)
        rows.append(cells + list(shape.published.get(name, ())))
    if not rows:
        rows = [[NOT_MEASURED] + [NOT_MEASURED] * len(shape.columns)]
    text = Table(shape.title, columns, rows).markdown()
    return f"**{shape.title}**\n\n{text}\n\n{' '.join(sources)}".strip()


def tables(folder: Path = RESULTS) -> dict[str, str]:
    """Each of TABLES in markdown, filled from the files in `folder`."""
    found: dict[str, list[Measurement]] = {name: [] for name in TABLES}
    for path in sorted(folder.glob("*.json")):
        measurement = Measurement.read(path)
        found[measurement.table].append(measurement)
    return {name: table(TABLES[name], measurements) for name, measurements in found.items()}


def with_tables(readme: str, made: Mapping[str, str]) -> str:
    """README's text with the tables of `made` in the blocks that name them.

    UserError unless each table has its place, once, and each block its end.
    """
    before, *rest = BEGIN.split(readme)  # [text, names of a block, what follows, names, ...]
    text, placed = before, []
    for names, following in zip(rest[::2], rest[1::2]):
        wanted = [name.strip() for name in names.split(",")]
        _, end, after = following.partition(END)
        if not end:
            raise UserError(f"README.md: the tables {names} lack their end, the line {END}")
        for name in wanted:
            if name not in made:
                raise UserError(f"README.md: table {name!r}: one of {', '.join(made)}")
        placed += wanted
        content = "\n\n".join(made[name] for name in wanted)
        text += f"<!-- measured tables: {names} -->\n\n{content}\n\n{end}{after}"
    for name in made:
        if placed.count(name) != 1:
            raise UserError(
                f"README.md: table {name} has {placed.count(name)} places; it needs one, a line "
                f"<!-- measured tables: {name} --> and further down {END}"
            )
    return text


def update_readme(readme: Path = README, folder: Path = RESULTS) -> None:
    """Rewrite the measured tables of `readme` from the files in `folder`."""
    old = readme.read_text(encoding="utf-8")
    new = with_tables(old, tables(folder))
    if new != old:
        write_lines(readme, new.removesuffix("\n").split("\n"))
    print(f"report: {readme.name} {'is as it was' if new == old else 'has the new tables'}")
