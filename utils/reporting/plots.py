"""The diagrams of a report as figures, one per kind of run.  Needs matplotlib."""

from pathlib import Path

from utils.reporting.page import sections
from utils.reporting.panels import Diagram, diagrams
from utils.reporting.runs import Run
from wav2vec2.cli.errors import UserError

STYLES = {"solid": "-", "dashed": "--", "dotted": ":"}
COLORS = ("#0072b2", "#d55e00", "#008a63", "#b4508f", "#8a6d00", "#2f9fd0", "#7b4fc9", "#5f6b73")


def write_figures(runs: list[Run], folder: Path, suffix: str) -> list[Path]:
    """Write pre-training.png, fine-tuning.png, ... to `folder`, for the kinds of run that occur."""
    try:
        import matplotlib
    except ImportError:
        raise UserError("--plots: matplotlib is not installed; pip install matplotlib") from None
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "wav2vec2"  # the same figure gives the same file
    matplotlib.rcParams["svg.fonttype"] = "none"  # text as text, not as outlines
    from matplotlib import pyplot

    written = []
    for title, chosen, _ in sections(runs):
        shown = diagrams(runs, chosen)
        if not shown:
            continue
        columns = min(3, len(shown))
        rows = -(-len(shown) // columns)
        figure, axes = pyplot.subplots(
            rows, columns, figsize=(4.6 * columns, 2.9 * rows), squeeze=False
        )
        for axis in axes.flat[len(shown) :]:
            axis.set_visible(False)
        for axis, diagram in zip(axes.flat, shown):
            draw_diagram(axis, diagram, [run.name for run in runs], len(chosen) > 1)
        figure.tight_layout()
        path = folder / f"{title.lower().replace(' ', '-')}.{suffix}"
        metadata = {"Date": None} if suffix == "svg" else None
        try:
            figure.savefig(path, dpi=130, metadata=metadata)
        except OSError as error:
            raise UserError(f"--plots {path}: cannot be written: {error.strerror}") from None
        finally:
            pyplot.close(figure)
        written.append(path)
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
    axis.set_title(diagram.panel.title + unit, fontsize=10, loc="left")
    axis.set_xlabel("update", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.legend(fontsize=7, frameon=False)
