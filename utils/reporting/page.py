"""Runs -> one self-contained HTML file: the templates in assets/, with the data as JSON.

Text from logs never becomes HTML.  It is JSON in which `<`, `>` and `&` are escaped, and the page's
script turns it into text, not into elements.
"""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from utils.reporting import tables
from utils.reporting.headline import headline
from utils.reporting.panels import Diagram, diagrams
from utils.reporting.runs import Evaluation, Run
from utils.reporting.tables import Table

ASSETS = Path(__file__).parent / "assets"

KINDS = {"pretrain": "Pre-training", "finetune": "Fine-tuning", "other": "Other logs"}

EMBEDDED = {
    "library_style": "uPlot.min.css",
    "style": "page.css",
    "library": "uPlot.min.js",
    "script": "page.js",
}
"""Placeholder in page.html -> the file that replaces it."""


def sections(runs: list[Run]) -> list[tuple[str, list[int], list[Table]]]:
    """(title, indices of the runs, tables) of each kind of run that occurs."""
    found = []
    for kind, title in KINDS.items():
        chosen = [number for number, run in enumerate(runs) if run.kind == kind]
        shown = [runs[n] for n in chosen]
        logged = [run for run in shown if run.log.curves or run.log.parameters]
        made = [
            tables.facts(logged),
            tables.results(shown),
            tables.throughput(logged),
            tables.pooling(logged) if kind == "pretrain" else None,
            tables.differences(logged),
            tables.latency(shown),
        ]
        if chosen:
            found.append((title, chosen, [table for table in made if table]))
    return found


def render_markdown(runs: list[Run]) -> str:
    """The tables of the page in markdown."""
    parts = []
    for title, _, made in sections(runs):
        parts.append(f"## {title}")
        parts += [f"### {table.title}\n\n{table.markdown()}" for table in made]
    return "\n\n".join(parts) + "\n"


def rounded(values: Any) -> list[float]:
    """Values with six digits, more than a diagram shows."""
    return [float(f"{value:.6g}") for value in values]


def as_data(
    diagram: Diagram, runs: list[Run], spans: dict[tuple[float, ...], int]
) -> dict[str, Any]:
    """A diagram in plain types.  `spans` numbers the lists of updates and of times, which metrics
    share."""

    def number_of(values: tuple[float, ...]) -> int:
        return spans.setdefault(values, len(spans))

    lines = []
    for line in diagram.lines:
        curve = line.curve
        entry = {
            "run": line.run,
            "label": line.label,
            "style": line.style,
            "lines": curve.lines,
            "updates": number_of(tuple(curve.update.tolist())),
            "y": rounded(curve.mean),
        }
        seconds = runs[line.run].log.seconds_at(curve.update)
        if seconds is not None:
            entry["hours"] = number_of(tuple(rounded(seconds / 3600)))
        if curve.thinned:
            entry |= {"low": rounded(curve.low), "high": rounded(curve.high)}
        lines.append(entry)
    return {
        **vars(diagram.panel),
        "lines": lines,
        "band": diagram.band,
        "level": diagram.level,
        "published": [[u, *v] for u, v in (diagram.published or {}).items()],
    }


def evaluation_data(evaluation: Evaluation, run: str) -> dict[str, Any]:
    """An evaluation in plain types."""
    return {
        **{
            name: getattr(evaluation, name)
            for name in ("subset", "utterances", "wrong", "shown", "clips", "unit_rate")
        },
        **{rate: tables.percents(evaluation.summary.get(rate)) for rate in ("wer", "uer")},
        "run": run,
    }


def as_json(data: Any) -> str:
    """JSON that cannot end the HTML element around it."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def render_page(runs: list[Run], notes: list[str]) -> str:
    """The HTML file; `notes`: what was skipped or could not be read."""
    parts = []
    spans: dict[tuple[float, ...], int] = {}
    for title, chosen, made in sections(runs):
        parts.append(
            {
                "title": title,
                "runs": chosen,
                "tables": [vars(table) for table in made],
                "diagrams": [as_data(diagram, runs, spans) for diagram in diagrams(runs, chosen)],
                "evaluations": [
                    evaluation_data(e, runs[n].name) for n in chosen for e in runs[n].evaluations
                ],
            }
        )
    data = {
        "written": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "runs": [run.name for run in runs],
        "headline": headline(runs),
        "notes": notes,
        "spans": list(spans),
        "sections": parts,
    }
    contents = {
        name: (ASSETS / file).read_text(encoding="utf-8") for name, file in EMBEDDED.items()
    }
    contents["data"] = as_json(data)
    template = (ASSETS / "page.html").read_text(encoding="utf-8")
    return fill(template, contents)


def fill(template: str, contents: Mapping[str, str]) -> str:
    """A template with its placeholders `{{name}}` replaced."""
    # In one pass: placeholders in what is filled in stay as they are.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: contents[found[1]], template)
