"""Measure what each layer of a model knows before fine-tuning: `python -m utils.probe CHECKPOINT`

    python -m utils.probe results/quickstart/pretrain/wav2vec2_best.pt --cpu \\
        --dataset_dir datasets/mini --train_subset train-mini --valid_subset dev-mini

A linear layer learns the units of a few minutes of transcripts from each layer's features, from
those of the same model with random weights, and from log-mel features.  Prints unit error rates,
and writes probe.json and, with matplotlib, probe.svg.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.probe import LOG_MEL, Probe, ProbeData
from wav2vec2.cli.console import notice
from wav2vec2.cli.errors import UserError, run_command
from wav2vec2.cli.flags import ArgumentParser, add_flags, from_flags, require_at_least
from wav2vec2.files.output import prepare_folder, write_json
from wav2vec2.inference.device import inference_device
from wav2vec2.interop import checkpoints, native


@dataclass(frozen=True)
class ProbeCommandOptions:
    """Probe"""

    dataset_dir: str = "/datasets/LibriSpeech"
    """Folder of the filelists."""
    language: str | None = None
    """Of a recogniser with adapters for several languages, as MMS has: the code of the language to
    read, such as deu."""
    train_subset: str = "train-clean-100"
    """Filelist to learn from, without .tsv."""
    valid_subset: str = "dev-other"
    """Filelist to measure on, of other speakers."""
    labels: str = "ltr"
    """Extension of the label files."""
    minutes: float = 3.0
    """Most audio to learn from, and half as much to measure on; taken evenly from the filelists."""
    factor: int | None = None
    """Of a model with an hourglass: pooling factor to run at; default: as in inference.py
    features."""
    output_dir: str = "results/probe"
    """Folder for probe.json and probe.svg."""
    cpu: bool = False
    """Run on the CPU even if there is a GPU."""

    def __post_init__(self) -> None:
        if self.factor is not None:
            require_at_least(self, factor=1)
        if not self.minutes > 0:
            raise UserError(f"--minutes {self.minutes:g}: must be above 0")


def measure(checkpoint: str, options: ProbeCommandOptions) -> dict[str, Any]:
    """Probe a checkpoint; the content of probe.json."""
    device = inference_device(options.cpu)
    content = checkpoints.read_at_factor(checkpoint, options.factor, options.language)
    trunk, _ = native.load_trunk(content, checkpoint)
    architecture = native.architecture_of(content, checkpoint)
    subsets = options.train_subset, options.valid_subset
    data = ProbeData.read(
        options.dataset_dir, subsets, options.labels, options.minutes, architecture
    )
    probe, start = Probe(data, architecture, device), time.perf_counter()
    log_mel = probe.log_mel()
    notice(f"probe: log-mel features done after {time.perf_counter() - start:.0f} s")
    own = probe.error_rates(trunk)
    notice(f"probe: {checkpoint} done after {time.perf_counter() - start:.0f} s")
    random = probe.random_weights()
    best = min(own, key=lambda name: own[name])
    return {
        "checkpoint": checkpoint,
        "train_subset": options.train_subset,
        "valid_subset": options.valid_subset,
        "labels": options.labels,
        "unit_rate": "CER" if options.labels == "ltr" else "UER",
        "train_minutes": round(data.learn.minutes + data.tune.minutes, 2),
        "valid_minutes": round(data.held_out.minutes, 2),
        "units": data.classes - 1,
        "log_mel": log_mel,
        "layers": [
            {"layer": name, "checkpoint": rate, "random_weights": random[name]}
            for name, rate in own.items()
        ],
        "best_layer": best,
        "seconds": round(time.perf_counter() - start, 1),
    }


def table(found: dict[str, Any]) -> str:
    """The error rates as text."""
    lines = [
        f"{found['unit_rate']} of a linear layer, % ({found['train_minutes']:g} min of "
        f"{found['train_subset']} to learn from, {found['valid_minutes']:g} min of "
        f"{found['valid_subset']} to measure on)",
        f"{'':<12}{'checkpoint':>12}{'random weights':>16}",
        f"{LOG_MEL:<12}{found['log_mel']:>12.1f}",
    ]
    for row in found["layers"]:
        lines.append(f"{row['layer']:<12}{row['checkpoint']:>12.1f}{row['random_weights']:>16.1f}")
    rates = {row["layer"]: row["checkpoint"] for row in found["layers"]}
    lowest = rates[found["best_layer"]]
    random = min(row["random_weights"] for row in found["layers"])
    lines.append(
        f"best: {found['best_layer']} with {lowest:.1f} %; best of random weights {random:.1f} %, "
        f"{LOG_MEL} {found['log_mel']:.1f} %"
    )
    if lowest >= min(random, found["log_mel"]):
        lines.append("no layer is better than both: pre-training has learnt nothing useful here")
    return "\n".join(lines)


def draw(found: dict[str, Any], path: Path) -> None:
    """Write the error rates by layer as a figure."""
    try:
        import matplotlib
    except ImportError:
        notice(f"{path}: not drawn, matplotlib is not installed; pip install matplotlib")
        return
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "wav2vec2"  # the same figure gives the same file
    matplotlib.rcParams["svg.fonttype"] = "none"  # text as text, not as outlines
    from matplotlib import pyplot

    names = [row["layer"] for row in found["layers"]]
    figure, axis = pyplot.subplots(figsize=(6, 3.4))
    for key, color in (("checkpoint", "#0072b2"), ("random_weights", "#d55e00")):
        rates = [row[key] for row in found["layers"]]
        axis.plot(names, rates, marker="o", ms=3, lw=1.2, color=color, label=key.replace("_", " "))
    axis.axhline(found["log_mel"], color="#5b6470", lw=0.8, ls=(0, (4, 4)), label=LOG_MEL)
    axis.set_title(f"{found['unit_rate']} of a linear layer (%)", fontsize=10, loc="left")
    axis.set_ylim(bottom=0)
    axis.tick_params(labelsize=8)
    axis.tick_params(axis="x", rotation=90 if len(names) > 8 else 0)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=7, frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    parser = ArgumentParser("utils.probe", __doc__)
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="any checkpoint, pre-trained or fine-tuned, ours, fairseq's, or a Hugging Face folder",
    )
    add_flags(parser, ProbeCommandOptions)
    namespace = parser.parse_args()
    options = from_flags(ProbeCommandOptions, namespace)
    output = prepare_folder("--output_dir", options.output_dir)
    found = measure(namespace.checkpoint, options)
    write_json(output / "probe.json", found)
    draw(found, output / "probe.svg")
    print(f"{table(found)}\nprobe: {output / 'probe.json'}")


if __name__ == "__main__":
    run_command(main)
