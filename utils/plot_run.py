"""Draw the curves of one or several runs: `python -m utils.plot_run results/... --output run.svg`

Reads each run's nvlog.json; a resumed run's lines merge by update, the later one winning.  Needs
matplotlib.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.distributed import notice
from common.errors import UserError, run_command
from common.flags import ArgumentParser, add_flags, from_flags

PANELS = {
    "loss (bits)": ("train_loss", "val_loss"),
    "contrastive accuracy": ("train_accuracy", "val_accuracy"),
    "code perplexity": ("train_code_perplexity", "val_code_perplexity"),
    "gradient norm": ("train_grad_norm",),
    "learning rate": ("train_lr",),
    "error rate (%)": ("val_wer", "val_uer"),
}
"""Title -> the metrics drawn in it; a panel without any is left out."""


@dataclass(frozen=True)
class Options:
    """Drawing"""

    output: str
    """File to write; its suffix says the format: .svg, .png or .pdf."""


def read_records(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """(step, data) of each log line; says how many lines are none."""
    skipped = 0
    try:
        lines = open(path, encoding="utf-8", errors="replace")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; name a run's folder") from None
    with lines:
        for line in lines:
            try:
                record = json.loads(line.removeprefix("DLLL"))
                if record["type"] == "LOG":
                    yield record["step"], record["data"]
            except (ValueError, KeyError, TypeError):
                skipped += 1
    if skipped:
        notice(f"{path}: {skipped} lines are no log lines, or cut off; left out")


def read_curves(run: Path) -> dict[str, dict[int, float]]:
    """Metric -> update -> value.  UserError if there is none."""
    path = run / "nvlog.json" if run.is_dir() else run
    curves: dict[str, dict[int, float]] = {}
    per_epoch = 0
    for step, data in read_records(path):
        if not isinstance(step, list) or not step:
            continue
        if len(step) == 3:
            per_epoch = step[2]
            update = (step[0] - 1) * per_epoch + step[1]
        else:  # an epoch's; of the last, cut short, only the lines before tell where it ended
            drawn = curves.get("train_loss", {})
            update = min(step[0] * per_epoch, max(drawn)) if drawn else 0
        for metric, value in data.items():
            if isinstance(value, int | float):
                curves.setdefault(metric, {})[update] = value
    if not curves:
        raise UserError(f"{path}: holds no log lines; name a run's folder")
    return curves


def draw(runs: dict[str, dict[str, dict[int, float]]], output: Path) -> None:
    """Write a figure of PANELS, the runs overlaid, validations dashed."""
    try:
        import matplotlib
    except ImportError:
        raise UserError("matplotlib is not installed; pip install matplotlib") from None
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "wav2vec2"  # the same figure, the same file
    from matplotlib import pyplot

    metrics = set().union(*runs.values())
    panels = {title: names for title, names in PANELS.items() if metrics & set(names)}
    rows = (len(panels) + 1) // 2
    figure, axes = pyplot.subplots(rows, 2, figsize=(10, 3 * rows), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (title, names) in zip(axes.flat, panels.items()):
        for number, (run, curves) in enumerate(runs.items()):
            for name in names:
                points = sorted(curves.get(name, {}).items())
                if points:
                    style = "--o" if name.startswith("val_") else "-"
                    label = f"{run} {name}" if len(runs) > 1 else name
                    axis.plot(*zip(*points), style, ms=3, lw=1.2, color=f"C{number}", label=label)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("update", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.tight_layout()
    try:
        figure.savefig(
            output, dpi=120, metadata={"Date": None} if output.suffix == ".svg" else None
        )
    except (OSError, ValueError) as error:
        raise UserError(f"--output {output}: cannot be written ({error})") from None
    finally:
        pyplot.close(figure)


def main() -> None:
    parser = ArgumentParser(prog="utils.plot_run", description=__doc__.splitlines()[0])
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folder of a run, or its nvlog.json")
    add_flags(parser, Options)
    namespace = parser.parse_args()
    runs = {name: read_curves(Path(name)) for name in namespace.runs}
    draw(runs, Path(from_flags(Options, namespace).output))


if __name__ == "__main__":
    run_command(main)
