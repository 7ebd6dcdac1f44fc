"""Runs -> one HTML file that needs nothing else: templates under assets/, data as JSON in it.

What comes from logs is never HTML here: it is JSON in which `<`, `>` and `&` are escaped, and the
script makes text of it, not elements.
"""

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

from utils.reporting import tables
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
"""Place in page.html -> the file that belongs there."""


def sections(runs: list[Run]) -> list[tuple[str, list[int], list[Table]]]:
    """Title, indices of the runs, and tables of each kind of run there is."""
    found = []
    for kind, title in KINDS.items():
        chosen = [number for number, run in enumerate(runs) if run.kind == kind]
        logged = [runs[n] for n in chosen if runs[n].log.curves or runs[n].log.parameters]
        if not chosen:
            continue
        made: list[Table | None] = []
        if logged:
            made = [tables.facts(logged)]
        made.append(tables.results([runs[n] for n in chosen]))
        if logged:
            made += [tables.throughput(logged)]
            made += [tables.pooling(logged)] if kind == "pretrain" else []
            made += [tables.differences(logged)]
        made.append(tables.latency([runs[n] for n in chosen]))
        found.append((title, chosen, [table for table in made if table]))
    return found


def markdown(runs: list[Run]) -> str:
    """The tables of the page."""
    parts = []
    for title, _, made in sections(runs):
        parts.append(f"## {title}")
        parts += [f"### {table.title}\n\n{table.markdown()}" for table in made]
    return "\n\n".join(parts) + "\n"


def rounded(values: Any) -> list[float]:
    """Six digits are more than a diagram shows."""
    return [float(f"{value:.6g}") for value in values]


def as_data(diagram: Diagram, spans: dict[tuple[int, ...], int]) -> dict[str, Any]:
    """A diagram in plain types.  `spans` numbers the updates of curves: metrics that are logged
    together share theirs."""
    panel = diagram.panel
    lines = []
    for line in diagram.lines:
        curve = line.curve
        entry = {
            "run": line.run,
            "label": line.label,
            "style": line.style,
            "lines": curve.lines,
            "x": spans.setdefault(tuple(curve.update.tolist()), len(spans)),
            "y": rounded(curve.mean),
        }
        if curve.thinned:
            entry |= {"low": rounded(curve.low), "high": rounded(curve.high)}
        lines.append(entry)
    return {
        "title": panel.title,
        "unit": panel.unit,
        "section": panel.section,
        "lines": lines,
        "band": diagram.band,
        "level": diagram.level,
        "published": [[u, *v] for u, v in (diagram.published or {}).items()],
    }


def evaluation_data(evaluation: Evaluation, run: str) -> dict[str, Any]:
    return {
        "run": run,
        "subset": evaluation.subset,
        "utterances": evaluation.utterances,
        "wrong": evaluation.wrong,
        "shown": evaluation.shown,
        "wer": tables.number(evaluation.summary.get("wer")),
        "uer": tables.number(evaluation.summary.get("uer")),
    }


def as_json(data: Any) -> str:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def page(runs: list[Run], notes: list[str]) -> str:
    """The whole file; `notes`: what could not be read."""
    parts = []
    spans: dict[tuple[int, ...], int] = {}
    for title, chosen, made in sections(runs):
        parts.append(
            {
                "title": title,
                "runs": chosen,
                "tables": [vars(table) for table in made],
                "diagrams": [as_data(diagram, spans) for diagram in diagrams(runs, chosen)],
                "evaluations": [
                    evaluation_data(e, runs[n].name) for n in chosen for e in runs[n].evaluations
                ],
            }
        )
    data = {
        "written": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "runs": [run.name for run in runs],
        "notes": notes,
        "spans": list(spans),
        "sections": parts,
    }
    contents = {
        name: (ASSETS / file).read_text(encoding="utf-8") for name, file in EMBEDDED.items()
    }
    contents["data"] = as_json(data)
    template = (ASSETS / "page.html").read_text(encoding="utf-8")
    # In one pass: what is filled in is not looked through again.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: contents[found[1]], template)
