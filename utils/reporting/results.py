"""docs/results/*.json -> the measured tables of README and docs, beside the published figures.

A file holds one measurement: the name of its table, figures by row and column, and the command,
hardware, versions and commit they come from.  Several files may fill one table; each adds columns.
A table without a file appears nowhere, and a row that was not measured is skipped.
What the documents quote of a quickstart comes from docs/results/quickstart, the text files of one.
`--update-docs RUN` replaces them by those of RUN.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.reporting.panels import PUBLISHED_ACCURACY
from utils.reporting.summarise_quickstart import QUOTED, QUOTED_FILES
from utils.reporting.tables import (
    NONE,
    PUBLISHED_LATENCY,
    PUBLISHED_POOLING,
    Table,
    escape,
)
from wav2vec2.cli.errors import UserError
from wav2vec2.files.output import prepare_folder, write_lines
from wav2vec2.files.text import read_json, read_text

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
RESULTS = ROOT / "docs" / "results"

END = "<!-- end of measured tables -->"
BLOCK = re.compile(
    rf"^(?P<begin><!-- measured tables: (?P<names>.*?) -->).*?^(?P<end>{END})",
    re.DOTALL | re.MULTILINE,
)
"""A block of a document; names its tables, separated by commas."""

OUTPUT = re.compile(
    r"^(?P<begin><!-- output: (?P<name>\S+) -->\n).*?(?P<end><!-- end of output -->)",
    re.DOTALL | re.MULTILINE,
)
"""A block of a document that quotes what a quickstart printed or wrote."""

KEPT = "quickstart"
"""Folder in docs/results with the text files of the quickstart that the documents quote."""

MACHINE_PATH = re.compile(r"(?<![\w.:])/(home|root|tmp|work|Users|mnt)\b")


@dataclass(frozen=True)
class Shape:
    """A table of measured figures."""

    title: str
    rows: tuple[str, ...]
    """Cells of the first column; empty: the rows of its files."""
    columns: Mapping[str, str]
    """Key of a figure -> heading."""
    published: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Row -> a cell for each column."""
    source: str = ""
    """Source of the published figures."""
    spread: str = ""
    """Key of the only figure shown; rows named `A, B` become a row A with a column for each B."""


STEP_COLUMNS = {
    "audio": "audio, s/s",
    "speed": "times the first row",
    "memory": "memory, MiB",
    "share": "of a matrix product's rate, %",
}
"""Columns of the tables of training steps."""

TABLES = {
    "pooling_factor": Shape(
        "Pooling factor: Base pre-training, against the plain encoder",
        tuple(PUBLISHED_POOLING),
        {"throughput": "throughput", "memory": "memory, %"},
        {row: (f"{a:.2f}", f"{b:.2f}") for row, (a, b) in PUBLISHED_POOLING.items()},
        "one A100, bf16",
    ),
    "throughput": Shape(
        "Throughput of Base: masked frames (pre-training), target letters (fine-tuning) per second",
        ("1 GPU", "2 GPUs", "4 GPUs", "8 GPUs"),
        {"pretrain": "pre-training", "finetune": "fine-tuning"},
        {
            "1 GPU": ("37,610", "41,276"),
            "2 GPUs": (NONE, NONE),
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
        "The quickstart: error rates on voices not in training",
        (),
        {
            "transcribed_minutes": "transcripts, min",
            "wer": "WER, %",
            "uer": "CER, %",
            "pretrain_accuracy_first": "pre-training accuracy before",
            "pretrain_accuracy_last": "after",
            "pretrain_code_perplexity_share": "code perplexity / (G V)",
        },
    ),
    "elastic": Shape(
        "Word error rate by pooling factor: MINI trained at one factor, and at 2 to 6 in turn",
        (),
        {
            "wer": "WER, %, median",
            "wer_lowest": "lowest",
            "wer_highest": "highest",
            "speed": "audio per second, s",
        },
    ),
    "codebook": Shape(
        "Pre-training MINI on recordings of people: distractors with the target's codes counted, "
        "and diversity weight 0.5 (the small recipe); not counted, and 0.1 (the paper's code)",
        (),
        {
            f"{name}_{metric}": f"{text}: {heading}"
            for name, text in (("counted", "counted"), ("not_counted", "not counted"))
            for metric, heading in (
                ("contrastive_loss", "loss, bits"),
                ("accuracy", "accuracy"),
                ("code_perplexity", "codes of 64"),
            )
        },
    ),
    "label_efficiency": Shape(
        "Error rates by minutes of transcripts, MINI from random weights and pre-trained",
        (),
        {
            "wer": "WER, %, median",
            "wer_lowest": "lowest",
            "wer_highest": "highest",
            "uer": "CER, %, median",
            "uer_lowest": "lowest",
            "uer_highest": "highest",
            "seeds": "seeds",
        },
    ),
    "import_corpus": Shape(
        "Import of a corpus, one worker",
        (),
        {
            "seconds": "time, s",
            "cpu": "CPU time, s",
            "speed": "audio per CPU second, s",
            "memory": "peak memory, MiB",
        },
    ),
    "inference": Shape(
        "Inference by batch, seconds of audio per second",
        (),
        {
            "latency": "latency, ms",
            "speed": "audio, s/s",
            "ratio_fp32": "times transformers fp32",
            "ratio_bf16": "times transformers bf16",
            "memory": "memory, MiB",
        },
        spread="speed",
    ),
    "gpu_peers": Shape("Plain Base, an update, against transformers", (), STEP_COLUMNS),
    "gpu_precision": Shape("Plain Base, an update, by precision", (), STEP_COLUMNS),
    "gpu_concat": Shape("Plain Base, an update, by sub-batches at once", (), STEP_COLUMNS),
    "gpu_variants": Shape("Plain Base, an update, with one change each", (), STEP_COLUMNS),
    "gpu_largest_batch": Shape(
        "The largest batch of utterances of 15.6 s",
        (),
        {"utterances": "utterances", "audio": "audio, s", "memory": "memory, MiB"},
    ),
    "gpu_training": Shape(
        "Training with data loading",
        (),
        {"audio": "audio, s/s", "wait": "waiting for data, %", "memory": "memory, MiB"},
    ),
    "gpu_inference": Shape(
        "Inference of Base, seconds of audio per second",
        (),
        {
            "ours": "plain",
            "transformers": "transformers",
            "ratio": "ratio",
            "hourglass": "Hourglass",
        },
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
    """Heading of its columns where several files fill a table, such as `bf16`."""
    date: str = ""

    @classmethod
    def read(cls, path: Path) -> "Measurement":
        """Read a file; UserError, naming the file and the field, unless it fits TABLES."""
        content = read_json(path, "write it again with scripts/reproduce_tables.sh")
        for problem in _problems(content):
            raise UserError(f"{path}: {problem}")
        return cls(**content)

    @classmethod
    def read_all(cls, path: Path) -> list["Measurement"]:
        """Those of a file that holds one, or several `measurements` with what they share."""
        content = read_json(path, "write it again with scripts/gpu_report.sh")
        if not isinstance(content, dict) or "measurements" not in content:
            return [cls.read(path)]
        shared = {name: value for name, value in content.items() if name != "measurements"}
        parts = [{**shared, **part} for part in content["measurements"]]
        for part in parts:
            for problem in _problems(part):
                raise UserError(f"{path}: {problem}")
        return [cls(**part) for part in parts]

    def source(self) -> str:
        """Where the figures come from, in a sentence of markdown."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        parts = [f"`{self.command}`", escape(self.hardware), escape(versions)]
        parts += [f"commit {escape(self.commit)}"] if self.commit else []
        parts += [escape(self.date)] if self.date else []
        setting = f"{escape(self.setting)}: " if self.setting else ""
        return f"{setting}{'; '.join(part for part in parts if part)}."


def _problems(content: Any) -> Iterator[str]:
    """What makes the content of a file no Measurement."""
    if not isinstance(content, dict):
        yield "must be a JSON object"
    for name, kind in REQUIRED.items():
        if not isinstance(content.get(name), kind):
            yield f"{name!r} is missing, or of another type"
    for name, value in content.items():
        if not isinstance(value, {**REQUIRED, **OPTIONAL}.get(name, ())):
            yield f"{name!r} is no field of it, or of another type"
    if content["table"] not in TABLES:
        yield f"table {content['table']!r}: choose from {', '.join(TABLES)}"
    shape = TABLES[content["table"]]
    for row, figures in content["rows"].items():
        if shape.rows and row not in shape.rows:
            yield f"row {row!r}: choose from {', '.join(shape.rows)}"
        if not isinstance(figures, dict) or not set(figures) <= set(shape.columns):
            yield f"row {row!r}: figures are {', '.join(shape.columns)}"
        if not all(type(value) in (int, float) for value in figures.values()):
            yield f"row {row!r}: a figure is not a number"
    if MACHINE_PATH.search(json.dumps(content)):
        yield "holds an absolute path of a machine; make it relative"


def figure(value: Any) -> str:
    """A figure with the digits of its file, and with thousands separators."""
    if value is None:
        return NONE
    return f"{value:,}" if isinstance(value, int) or abs(value) >= 1000 else str(value)


def measured_table(shape: Shape, measurements: list[Measurement]) -> str:
    """One table in markdown, with the rows that were measured."""
    if shape.spread:
        return _spread_table(shape, measurements)
    headings = list(shape.columns.values())
    columns, sources = [""], [measurement.source() for measurement in measurements]
    for measurement in measurements:
        prefix = f"{measurement.setting}: " if measurement.setting else ""
        columns += [prefix + heading for heading in headings]
    if shape.published:
        columns += [f"published {heading}" for heading in headings]
        sources.append(f"Published: NVIDIA's recipe, {shape.source}.")
    measured = dict.fromkeys(row for m in measurements for row in m.rows)
    rows = []
    for name in [row for row in shape.rows if row in measured] or measured:
        figures = [measurement.rows.get(name, {}) for measurement in measurements]
        cells = [figure(found.get(key)) for found in figures for key in shape.columns]
        rows.append([name, *cells, *shape.published.get(name, ())])
    text = Table(shape.title, columns, rows).markdown()
    return f"**{shape.title}**\n\n{text}\n\n{' '.join(sources)}".strip()


def _spread_table(shape: Shape, measurements: list[Measurement]) -> str:
    """One figure of each measurement's rows `A, B`: a row for each A, a column for each B."""
    parts = [f"**{shape.title}**"]
    for measurement in measurements:
        cells: dict[str, dict[str, str]] = {}
        for row, figures in measurement.rows.items():
            name, _, column = row.partition(", ")
            cells.setdefault(name, {})[column] = figure(figures.get(shape.spread))
        columns = list(dict.fromkeys(column for found in cells.values() for column in found))
        rows = [[name, *(found.get(c, NONE) for c in columns)] for name, found in cells.items()]
        table = Table(shape.title, ["", *columns], rows).markdown()
        parts += [table, measurement.source()]
    return "\n\n".join(parts)


def measured_tables(folder: Path = RESULTS) -> dict[str, str]:
    """Each measured table of TABLES in markdown, from the files in `folder`."""
    paths = sorted(folder.glob("*.json"))
    found = [measurement for path in paths for measurement in Measurement.read_all(path)]
    return {
        name: measured_table(shape, measurements)
        for name, shape in TABLES.items()
        if (measurements := [m for m in found if m.table == name])
    }


def measured_rows(folder: Path = RESULTS) -> dict[str, dict[str, dict[str, float]]]:
    """Table -> its rows, those of several files together."""
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for path in sorted(folder.glob("*.json")):
        for measurement in Measurement.read_all(path):
            rows.setdefault(measurement.table, {}).update(measurement.rows)
    return rows


def with_tables(documents: Mapping[str, str], made: Mapping[str, str]) -> dict[str, str]:
    """The text of each document, by name, with the tables of `made` in the blocks that name them.

    UserError unless each table of `made` has exactly one block in all documents.
    """
    placed: list[str] = []

    def filled(name: str, text: str) -> str:
        def fill(block: re.Match[str]) -> str:
            wanted = [table.strip() for table in block["names"].split(",")]
            for table in wanted:
                if table not in TABLES:
                    raise UserError(f"{name}: table {table!r}: choose from {', '.join(TABLES)}")
            placed.extend(wanted)
            tables = [made[table] for table in wanted if table in made]
            return "\n\n".join([block["begin"], *tables, block["end"]])

        return BLOCK.sub(fill, text)

    texts = {name: filled(name, text) for name, text in documents.items()}
    for table in made:
        if placed.count(table) != 1:
            raise UserError(
                f"README and docs: table {table} has {placed.count(table)} blocks; it needs one, "
                f"such as <!-- measured tables: {table} --> ... {END}"
            )
    return texts


def read_documents(documents: Sequence[Path] = DOCUMENTS) -> dict[str, str]:
    """Path, as seen from the repository's root, -> text."""
    return {os.path.relpath(path, ROOT): path.read_text(encoding="utf-8") for path in documents}


def with_output(documents: Mapping[str, str], run: Path) -> dict[str, str]:
    """The text of each document, by name, with its output blocks from the quickstart in `run`."""

    def filled(name: str, text: str) -> str:
        def fill(block: re.Match[str]) -> str:
            if block["name"] not in QUOTED:
                raise UserError(
                    f"{name}: output {block['name']!r}: choose from {', '.join(QUOTED)}"
                )
            return block["begin"] + QUOTED[block["name"]](run) + block["end"]

        return OUTPUT.sub(fill, text)

    return {name: filled(name, text) for name, text in documents.items()}


def read_run(run: Path) -> dict[str, str]:
    """The text files of a quickstart that documents quote, by name; UserError if one is missing or
    names a folder of the machine."""
    texts = {
        name: read_text(run / name, fix="name the folder of a finished quickstart")
        for name in QUOTED_FILES
    }
    for name, text in texts.items():
        if found := MACHINE_PATH.search(text):
            raise UserError(
                f"{run / name}: holds an absolute path of a machine ({found[0]}...); run the "
                "quickstart with relative folders"
            )
    return texts


def write_text(path: Path, text: str) -> None:
    """Write text that ends in a line break."""
    write_lines(path, text.removesuffix("\n").split("\n"))


def update_docs(
    run: Path | None = None, documents: Sequence[Path] = DOCUMENTS, folder: Path = RESULTS
) -> None:
    """Rewrite the measured tables of `documents` from the files in `folder`, and what they quote
    of a quickstart: that in `run`, whose text files are then kept in `folder`, or the kept one."""
    kept = folder / KEPT
    texts = {} if run is None else read_run(run)
    old = read_documents(documents)
    new = with_output(with_tables(old, measured_tables(folder)), run or kept)
    for name, text in texts.items():
        prepare_folder("--update-docs", (kept / name).parent)
        write_text(kept / name, text)
    for path, (name, text) in zip(documents, new.items()):
        if text != old[name]:
            write_text(path, text)
            print(f"report: {name} has the new figures")
    print(f"report: {len(documents)} documents are up to date")
