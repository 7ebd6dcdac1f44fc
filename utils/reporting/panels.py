"""Which curves are drawn in which panel, on the page and in the figures alike."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tasks.codebook import FEW_CODES
from utils.reporting.log import PROBE, Curve
from utils.reporting.runs import Run
from utils.reporting.tables import RATES

PUBLISHED_ACCURACY = {
    50_000: (0.491, 0.011),
    100_000: (0.537, 0.009),
    200_000: (0.580, 0.009),
    300_000: (0.610, 0.010),
    400_000: (0.629, 0.007),
}
"""Update -> contrastive accuracy of NVIDIA's Base, mean and deviation over 8 seeds, bf16."""


@dataclass(frozen=True)
class Panel:
    """A diagram: metrics of one unit over updates."""

    ending: str
    """End of the metrics' names: `loss` draws train_loss, val_loss, val_ema_loss, ..."""
    title: str
    unit: str
    section: str


PANELS = (
    Panel("loss", "Loss", "bits", "Learning"),
    Panel("contrastive_loss", "Contrastive loss", "bits", "Learning"),
    Panel("diversity_loss", "Diversity loss, weighted", "bits", "Learning"),
    Panel("features_penalty", "Features penalty, weighted", "bits", "Learning"),
    Panel("accuracy", "Contrastive accuracy", "share", "Learning"),
    Panel("wer", "Word error rate", "%", "Learning"),
    Panel("raw_wer", "Word error rate, raw", "%", "Learning"),
    Panel("uer", "Unit error rate", "%", "Learning"),
    Panel(PROBE, "Probe: unit error rate of a linear layer", "%", "Learning"),
    Panel("code_perplexity", "Code perplexity", "codes", "Learning"),
    Panel("prob_perplexity", "Prob perplexity", "codes", "Learning"),
    Panel("blank_share", "Frames that are blank", "%", "Learning"),
    Panel("temperature", "Gumbel temperature", "", "Optimisation"),
    Panel("lr", "Learning rate", "", "Optimisation"),
    Panel("grad_norm", "Gradient norm", "", "Optimisation"),
    Panel("loss_scale", "Loss scale", "", "Optimisation"),
    Panel("audio_s/s", "Audio per second", "s/s", "Speed and memory"),
    Panel("frames/s", "Encoder frames per second", "1/s", "Speed and memory"),
    Panel("ntokens/s", "Targets per second", "1/s", "Speed and memory"),
    Panel("updates/s", "Updates per second", "1/s", "Speed and memory"),
    Panel("data_wait", "Waiting for data", "%", "Speed and memory"),
    Panel("memory", "Peak memory", "MiB", "Speed and memory"),
)
_PANELS = {panel.ending: panel for panel in PANELS}
SHARES = Panel("share", "Share of the audio", "%", "Learning")


@dataclass(frozen=True)
class Line:
    """A curve in a panel."""

    run: int
    """Index of its run."""
    label: str
    """`train`, `validation` or `average of weights`, and the filelist if it is one of several."""
    style: str
    """`solid`, `dashed` or `dotted`."""
    curve: Curve


@dataclass(frozen=True)
class Diagram:
    """A panel and what is drawn in it."""

    panel: Panel
    lines: list[Line]
    band: tuple[float, float] | None = None
    """The range of a healthy run."""
    level: tuple[str, float] | None = None
    """Name and value of a level to compare with."""
    published: dict[int, tuple[float, float]] | None = None
    """Update -> mean and deviation of published runs."""


SOURCES = (
    ("train_avg_", "train, by epoch", "solid"),
    ("train_", "train", "solid"),
    ("val_ema_", "average of weights", "dotted"),
    ("val_", "validation", "dashed"),
    ("eval_", "evaluation", "dashed"),
)
"""(prefix of a metric, label, line style); the first prefix that fits counts."""


def panel_of(metric: str) -> tuple[Panel, str, str] | None:
    """(panel, label, line style) of a metric; None if it is not drawn."""
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
    if ending == PROBE:
        compared = subset in ("random_weights", "log_mel")
        return _PANELS[PROBE], subset.replace("_", " "), "dashed" if compared else "solid"
    subset = re.sub(r"^factor_(\d+)$", r"factor \1", subset)
    return _PANELS[ending], " ".join(part for part in (label, subset) if part), style


def diagrams(runs: list[Run], chosen: Sequence[int]) -> list[Diagram]:
    """The panels with curves of the runs with the indices `chosen`, overlaid."""
    lines: dict[Panel, list[Line]] = {}
    for number in chosen:
        curves = runs[number].log.curves
        for metric, curve in curves.items():
            found = panel_of(metric)
            # Means of epochs add nothing to the log lines that they summarise.
            finer = metric.replace("train_avg_", "train_")
            if found and (metric == finer or finer not in curves):
                panel, label, style = found
                lines.setdefault(panel, []).append(Line(number, label, style, curve))
    # All rates measure the same speed: the one that most of the runs have is drawn.
    rates = [_PANELS[ending] for ending, _ in RATES if _PANELS[ending] in lines]
    drawn_rate = max(
        rates, key=lambda panel: len({line.run for line in lines[panel]}), default=None
    )
    for panel in rates:
        if panel != drawn_rate:
            del lines[panel]
    styles = ("solid", "dashed", "dotted")  # training before validation
    for drawn in lines.values():
        drawn.sort(key=lambda line: (line.run, styles.index(line.style)))
    shown = [runs[number] for number in chosen]
    return [decorate(p, lines[p], shown) for p in [*PANELS, SHARES] if p in lines]


def decorate(panel: Panel, lines: list[Line], runs: list[Run]) -> Diagram:
    """A diagram with what its curves can be compared with, where that holds for all of `runs`."""
    band = level = published = None
    if panel.ending.endswith("perplexity"):
        codes = {codebook_entries(run.log.parameters) for run in runs}
        if len(codes) == 1 and (total := codes.pop()):
            band = (FEW_CODES * total, float(total))
    elif panel.ending == "contrastive_loss":
        chances = {chance_bits(run.log.parameters) for run in runs}
        if len(chances) == 1 and (chance := chances.pop()):
            level = ("chance", chance)
    elif panel.ending == "accuracy":
        last = max(line.curve.update[-1] for line in lines)
        shown = {u: value for u, value in PUBLISHED_ACCURACY.items() if u <= last}
        published = shown or None
    elif panel.ending == "uer" and {run.unit_rate for run in runs if run.log.curves} == {"CER"}:
        panel = replace(panel, title="Character error rate")
    return Diagram(panel, lines, band, level, published)


def codebook_entries(parameters: dict[str, Any]) -> int | None:
    """Number of entries of all codebooks, by our names or by fairseq's."""
    sizes = parameters.get("architecture")
    sizes = {**parameters, **sizes} if isinstance(sizes, dict) else parameters
    groups = sizes.get("codebook_groups", sizes.get("latent_groups"))
    entries = sizes.get("codebook_entries", sizes.get("latent_vars"))
    return groups * entries if type(groups) is int and type(entries) is int else None


def chance_bits(parameters: dict[str, Any]) -> float | None:
    """The contrastive loss of guessing."""
    count = parameters.get("distractors", parameters.get("num_negatives"))
    return math.log2(1 + count) if type(count) is int and count > 0 else None
