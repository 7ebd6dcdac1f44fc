"""Which curves are drawn in which panel, the same on the page and in the figures."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from utils.reporting.log import Curve
from utils.reporting.runs import Run

PUBLISHED_ACCURACY = {
    50_000: (0.491, 0.011),
    100_000: (0.537, 0.009),
    200_000: (0.580, 0.009),
    300_000: (0.610, 0.010),
    400_000: (0.629, 0.007),
}
"""Update -> contrastive accuracy of NVIDIA's Base, mean and deviation over 8 seeds, bf16."""

HEALTHY_CODES = 0.2
"""Share of the codebooks' entries that a healthy run has in use at least."""


@dataclass(frozen=True)
class Panel:
    """A diagram: metrics of one unit over updates."""

    ending: str
    """Of the metrics' names: `loss` draws train_loss, val_loss, val_ema_loss, ..."""
    title: str
    unit: str
    section: str


PANELS = (
    Panel("loss", "Loss", "bits", "Learning"),
    Panel("contrastive_loss", "Contrastive loss", "bits", "Learning"),
    Panel("accuracy", "Contrastive accuracy", "share", "Learning"),
    Panel("wer", "Word error rate", "%", "Learning"),
    Panel("raw_wer", "Word error rate, raw", "%", "Learning"),
    Panel("uer", "Unit error rate", "%", "Learning"),
    Panel("code_perplexity", "Code perplexity", "codes", "Learning"),
    Panel("prob_perplexity", "Prob perplexity", "codes", "Learning"),
    Panel("blank_share", "Frames that are blank", "%", "Learning"),
    Panel("lr", "Learning rate", "", "Optimisation"),
    Panel("grad_norm", "Gradient norm", "", "Optimisation"),
    Panel("loss_scale", "Loss scale", "", "Optimisation"),
    Panel("audio_s/s", "Audio a second", "s/s", "Speed"),
    Panel("frames/s", "Encoder frames a second", "1/s", "Speed"),
    Panel("ntokens/s", "Targets a second", "1/s", "Speed"),
    Panel("updates/s", "Updates a second", "1/s", "Speed"),
    Panel("memory", "Peak memory", "MiB", "Speed"),
    Panel("data_wait", "Waiting for data", "%", "Speed"),
)
_PANELS = {panel.ending: panel for panel in PANELS}
SHARES = Panel("share", "Share of the audio", "%", "Learning")


@dataclass(frozen=True)
class Line:
    """A curve in a panel."""

    run: int
    """Index of its run."""
    label: str
    """`train`, `validation`, `average of weights`, with the filelist if it is one of several."""
    style: str
    """`solid`, `dashed` or `dotted`."""
    curve: Curve


@dataclass(frozen=True)
class Diagram:
    """A panel with what is drawn in it."""

    panel: Panel
    lines: list[Line]
    band: tuple[float, float] | None = None
    """The range in which a healthy run is."""
    level: tuple[str, float] | None = None
    """A value to compare with, and its name."""
    published: dict[int, tuple[float, float]] | None = None
    """Update -> mean and deviation of published runs."""


SOURCES = (
    ("train_avg_", "train, by epoch", "solid"),
    ("train_", "train", "solid"),
    ("val_ema_", "average of weights", "dotted"),
    ("val_", "validation", "dashed"),
    ("eval_", "evaluation", "dashed"),
)
"""Prefix of a metric, what it is of, and how it is drawn; the first that fits."""


def place(metric: str) -> tuple[Panel, str, str] | None:
    """The panel of a metric, its label and style; None if it has none."""
    bare = ("", "", "solid")
    prefix, label, style = next((s for s in SOURCES if metric.startswith(s[0])), bare)
    name = metric.removeprefix(prefix)
    if name.startswith("share_"):
        return SHARES, name.removeprefix("share_"), style
    fitting = [e for e in _PANELS if name == e or name.endswith(f"_{e}")]
    if not fitting:
        return None
    ending = max(fitting, key=len)
    subset = name.removesuffix(ending).rstrip("_")
    return _PANELS[ending], " ".join(part for part in (label, subset) if part), style


def order(line: Line) -> tuple[int, int]:
    """Runs as they were named, training before validation."""
    return line.run, ("solid", "dashed", "dotted").index(line.style)


def diagrams(runs: list[Run], chosen: Iterable[int]) -> list[Diagram]:
    """The panels of the runs with the indices `chosen`, overlaid, as far as there are curves."""
    chosen = list(chosen)
    lines: dict[Panel, list[Line]] = {}
    for number in chosen:
        curves = runs[number].log.curves
        for metric, curve in curves.items():
            found = place(metric)
            # Means of epochs say nothing that the lines between them do not.
            finer = metric.replace("train_avg_", "train_")
            if found and (metric == finer or finer not in curves):
                panel, label, style = found
                lines.setdefault(panel, []).append(Line(number, label, style, curve))
    shown = [runs[number] for number in chosen]
    return [
        decorate(panel, sorted(lines[panel], key=order), shown)
        for panel in [*PANELS, SHARES]
        if panel in lines
    ]


def decorate(panel: Panel, lines: list[Line], runs: list[Run]) -> Diagram:
    """What to compare a panel's curves with, where it holds for all of `runs`."""
    band = level = published = None
    if panel.ending.endswith("perplexity"):
        codes = {codebook_entries(run.log.parameters) for run in runs}
        if len(codes) == 1 and (total := codes.pop()):
            band = (HEALTHY_CODES * total, float(total))
    elif panel.ending == "contrastive_loss":
        chances = {chance_bits(run.log.parameters) for run in runs}
        if len(chances) == 1 and (chance := chances.pop()):
            level = ("chance", chance)
    elif panel.ending == "accuracy":
        last = max(line.curve.update[-1] for line in lines)
        shown = {u: value for u, value in PUBLISHED_ACCURACY.items() if u <= last}
        published = shown or None
    return Diagram(panel, lines, band, level, published)


def codebook_entries(parameters: dict[str, Any]) -> int | None:
    """All entries of all codebooks; other recipes name them as fairseq does."""
    sizes = parameters.get("architecture")
    sizes = {**parameters, **sizes} if isinstance(sizes, dict) else parameters
    for groups, entries in (
        ("codebook_groups", "codebook_entries"),
        ("latent_groups", "latent_vars"),
    ):
        if type(sizes.get(groups)) is int and type(sizes.get(entries)) is int:
            return sizes[groups] * sizes[entries]
    return None


def chance_bits(parameters: dict[str, Any]) -> float | None:
    """The loss of a guess among the distractors."""
    count = parameters.get("distractors", parameters.get("num_negatives"))
    return math.log2(1 + count) if type(count) is int and count > 0 else None
