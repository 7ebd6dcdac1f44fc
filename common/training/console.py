"""What a training run shows on standard output: a progress line in a terminal, lines elsewhere."""

import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from wav2vec2.cli.progress import format_duration, format_progress
from wav2vec2.cli.telemetry import format_value

LONGEST_LINE = 120
"""Characters of a line."""


class Console:
    """Shows how far a run is; use it in a `with` block.  Everything else is in the log."""

    def __init__(
        self,
        labels: Mapping[str, str],
        total: int,
        done: int = 0,
        *,
        enabled: bool = True,
        file: TextIO | None = None,
    ):
        """`labels`: the metrics to show and their names; `done`: updates of earlier jobs, which do
        not count for the time left."""
        self.labels, self.total, self.enabled = labels, total, enabled
        self.done = self.initial = done
        self.file = file or sys.stdout
        self.start = time.monotonic()
        self._latest = ""  # figures of the last interval
        self._validated: dict[str, float] = {}
        self._bar: Any = None  # tqdm's
        if enabled and self.file.isatty():
            from tqdm import tqdm  # only a terminal needs it

            self._bar = tqdm(
                total=total,
                initial=done,
                file=self.file,
                bar_format="{bar:10} {desc}",
                dynamic_ncols=True,
            )

    def __enter__(self) -> "Console":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, update: int) -> None:
        """`update` updates are done, those of earlier jobs included."""
        count, self.done = update - self.done, update
        if self._bar is not None:
            self._bar.set_description_str(self._progress(), refresh=False)
            self._bar.update(count)

    def interval(self, metrics: Mapping[str, float]) -> None:
        """Show the metrics of the updates since the last interval."""
        missing = [name for name in self.labels if name in self._validated and name not in metrics]
        figures = self._figures(metrics)
        if missing:
            figures.append("validation " + ", ".join(self._figures(self._validated, missing)))
        self._latest = ", ".join(figures + throughput(metrics))
        if self._bar is None:
            self._print(self._progress())
        else:
            self._bar.set_description_str(self._progress())

    def validation(
        self, epoch: int, metrics: Mapping[str, float], average: Mapping[str, float] | None = None
    ) -> None:
        """Show a validation, and that of the average of the weights where there is one."""
        self._validated = dict(metrics)
        text = f"validation after update {self.done}, epoch {epoch}: "
        text += ", ".join(self._figures(metrics))
        if average:
            text += "; average of weights: " + ", ".join(self._figures(average))
        self._print(text)

    def probe(self, rates: Mapping[str, float]) -> None:
        """Show the lowest error rate of a probe's layers, and what it compares with."""
        layers = [name for name in rates if name.split()[0] in ("extractor", "layer")]
        if layers:
            best = min(layers, key=lambda name: rates[name])
            shown = [best, *(name for name in rates if name not in layers)]
            text = ", ".join(f"{name} {format_value('uer', rates[name])}" for name in shown)
            self._print(f"probe after update {self.done}: {text}")

    def finish(self, metrics: Mapping[str, float]) -> None:
        """Show the end of the job with the means of its last epoch."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self.done == self.initial:
            self._print(f"nothing to do: all {self.total} updates are done")
            return
        what = "finished" if self.done >= self.total else "this job is finished"
        text = f"{what}: update {self.done}/{self.total} after "
        text += format_duration(time.monotonic() - self.start)
        self._print(f"{text}; {', '.join(self._figures(metrics) + throughput(metrics))}")

    def _progress(self) -> str:
        seconds = time.monotonic() - self.start
        text = f"update {format_progress(self.done, self.total, seconds, self.initial)}"
        return f"{text}: {self._latest}" if self._latest else text

    def _figures(
        self, metrics: Mapping[str, float], names: Iterable[str] | None = None
    ) -> list[str]:
        return [
            f"{self.labels[name]} {format_value(name, metrics[name])}"
            for name in names or self.labels
            if name in metrics
        ]

    def _print(self, text: str) -> None:
        """Print a line that stays; above the progress line, where there is one."""
        if self.enabled:
            show = print if self._bar is None else self._bar.write
            show(text[:LONGEST_LINE], file=self.file)
            self.file.flush()


def throughput(metrics: Mapping[str, float]) -> list[str]:
    """Speed and memory of an interval as people read them."""
    return [
        f"audio {format_value('audio_s/s', metrics['audio_s/s'])} s/s",
        f"memory {metrics['memory'] / 1024:.1f} GiB",
    ]
