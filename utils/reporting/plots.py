"""The diagrams of a report, and of measured tables, as figures.  Needs matplotlib."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.reporting.page import sections
from utils.reporting.panels import Diagram, diagrams
from utils.reporting.runs import Run
from wav2vec2.cli.errors import UserError

STYLES = {"solid": "-", "dashed": "--", "dotted": ":"}
COLORS = ("#0072b2", "#d55e00", "#008a63", "#b4508f", "#8a6d00", "#2f9fd0", "#7b4fc9", "#5f6b73")


def _pyplot() -> Any:
    """matplotlib.pyplot, set to draw files; UserError if it is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise UserError("--plots: matplotlib is not installed; pip install matplotlib") from None
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "wav2vec2"  # the same figure gives the same file
    matplotlib.rcParams["svg.fonttype"] = "none"  # text as text, not as outlines
    from matplotlib import pyplot

    return pyplot


def _grid(panels: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    """A figure with `panels` axes of `size` inches, in at most `columns` columns."""
    columns = min(columns, panels)
    rows = -(-panels // columns)
    figure, axes = _pyplot().subplots(
        rows, columns, figsize=(size[0] * columns, size[1] * rows), squeeze=False
    )
    for axis in axes.flat[panels:]:
        axis.set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> Path:
    figure.tight_layout()
    try:
        figure.savefig(path, dpi=130, metadata={"Date": None} if path.suffix == ".svg" else None)
    except OSError as error:
        raise UserError(f"--plots {path}: cannot be written: {error.strerror}") from None
    finally:
        _pyplot().close(figure)
    return path


def write_figures(runs: list[Run], folder: Path, suffix: str) -> list[Path]:
    """Write pre-training.png, fine-tuning.png, ... to `folder`, for the kinds of run that occur."""
    written = []
    for title, chosen, _ in sections(runs):
        shown = diagrams(runs, chosen)
        if not shown:
            continue
        figure, axes = _grid(len(shown), columns=3, size=(4.6, 2.9))
        for axis, diagram in zip(axes.flat, shown):
            draw_diagram(axis, diagram, [run.name for run in runs], len(chosen) > 1)
        written.append(_save(figure, folder / f"{title.lower().replace(' ', '-')}.{suffix}"))
    return written


def draw_diagram(axis, diagram: Diagram, names: list[str], several: bool) -> None:
    """Draw a diagram on matplotlib's `axis`; `names`: of all runs; `several`: it shows several."""
    for line in diagram.lines:
        curve, color = line.curve, COLORS[line.run % len(COLORS)]
        parts = [names[line.run]] if several or not line.label else []
        # A leading underscore would hide a name from the legend, and $ start a formula.
        label = " · ".join([*parts, line.label] if line.label else parts).replace("$", r"\$")
        axis.plot(curve.update, curve.mean, STYLES[line.style], color=color, lw=1.2,
                  marker="o" if len(curve.update) == 1 or line.style != "solid" else None, ms=2.5,
                  label=label.lstrip("_"))  # fmt: skip
        if curve.thinned:
            axis.fill_between(
                curve.update, curve.low, curve.high, color=color, alpha=0.2, linewidth=0
            )
    if diagram.band:
        limits = axis.get_ylim()
        axis.axhspan(*diagram.band, color="#008c5a", alpha=0.08, linewidth=0)
        axis.set_ylim(min(0, limits[0]), limits[1])
    if diagram.level:
        axis.axhline(diagram.level[1], color="#5b6470", lw=0.8, ls=(0, (4, 4)))
    if diagram.published:
        means, deviations = zip(*diagram.published.values())
        axis.errorbar(list(diagram.published), means, deviations, fmt="o", ms=3, lw=0.8,
                      color="#5b6470", label="published, 8 seeds")  # fmt: skip
    unit = f" ({diagram.panel.unit})" if diagram.panel.unit else ""
    _finish(axis, diagram.panel.title + unit, "update")


def _finish(axis: Any, title: str, below: str) -> None:
    axis.set_title(title, fontsize=10, loc="left")
    axis.set_xlabel(below, fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.legend(fontsize=7, frameon=False)


Lines = dict[str, list[tuple[float, float, float, float]]]
"""Label of a line -> its points: x, median, lowest and highest."""

Rows = Mapping[str, Mapping[str, float]]
"""Rows of a measured table."""

CORPORA = {
    "mini": ("Spoken commands", "wer"),
    "digits": ("Spoken digits, unseen speaker", "wer"),
    "mboshi": ("Mboshi, unseen speaker", "uer"),
    "prompts": ("Telephone prompts", "uer"),
}
"""Corpus of `label_efficiency` -> title, and the error rate that tells more there."""


def few_transcripts(rows: Rows) -> dict[str, Lines]:
    """Title of a panel -> error rates by minutes of transcripts, a line for each start."""
    panels: dict[str, Lines] = {}
    for row, figures in rows.items():
        corpus, minutes, start = row.split(", ")
        name, metric = CORPORA[corpus]
        lines = panels.setdefault(f"{name}: {'WER' if metric == 'wer' else 'CER'}, %", {})
        rates = (figures[metric], figures[f"{metric}_lowest"], figures[f"{metric}_highest"])
        label = start if start == "random weights" else f"pre-trained: {start}"
        lines.setdefault(label, []).append((float(minutes.removesuffix("min")), *rates))
    return panels


def pooling_factors(rows: Rows) -> dict[str, Lines]:
    """Word error rates by the pooling factor of inference."""
    lines: Lines = {"trained at this factor": [], "trained at 4": [], "trained at 2 to 6": []}
    for row, figures in rows.items():
        trained, factor = re.fullmatch(r"(?:fixed )?(\w+), run at (\d)", row).groups()
        point = (float(factor), figures["wer"], figures["wer_lowest"], figures["wer_highest"])
        if trained == "elastic":
            lines["trained at 2 to 6"].append(point)
        elif trained == "4":
            lines["trained at 4"].append(point)
        if trained == factor:
            lines["trained at this factor"].append(point)
    return {"WER, %": {label: points for label, points in lines.items() if points}}


TABLE_FIGURES = {
    "label_efficiency": (few_transcripts, "minutes of transcripts", "log"),
    "elastic": (pooling_factors, "pooling factor in inference", "linear"),
}
"""Measured table -> its lines, what is below their axis, and its scale."""


def write_table_figures(tables: Mapping[str, Rows], folder: Path, suffix: str) -> list[Path]:
    """Write label_efficiency.png, ... to `folder`, for the tables with a figure: medians and ranges
    over seeds."""
    written = []
    for table, (lines_of, below, scale) in TABLE_FIGURES.items():
        if table not in tables:
            continue
        panels = lines_of(tables[table])
        figure, axes = _grid(len(panels), columns=2, size=(4.6, 3.1))
        for axis, (title, lines) in zip(axes.flat, panels.items()):
            for color, (label, points) in zip(COLORS, lines.items()):
                x, middle, low, high = zip(*sorted(points))
                axis.plot(x, middle, "o-", color=color, lw=1.4, ms=4, label=label)
                axis.vlines(x, low, high, color=color, lw=3, alpha=0.35)
            ticks = sorted({point[0] for points in lines.values() for point in points})
            axis.set_xscale(scale)
            axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
            axis.set_xticks([], minor=True)
            axis.set_ylim(bottom=0)
            _finish(axis, title, below)
        written.append(_save(figure, folder / f"{table}.{suffix}"))
    return written
