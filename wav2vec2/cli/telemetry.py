"""Metrics of a run, written as DLLogger lines, to standard output and to TensorBoard.

The log has lines `DLLL {json}` as NVIDIA's DLLogger writes them.  If that package cannot be
imported, the writer below writes the identical format.
"""

import json
import math
import os
import resource
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from wav2vec2.cli.errors import UserError

Step = str | Sequence[int]

_METADATA = {
    "loss": {"format": ":.4f"},
    "features_penalty": {"format": ":.4f"},
    "temperature": {"format": ":.4f"},
    "accuracy": {"format": ":.4f"},
    "prob_perplexity": {"format": ":.2f"},
    "code_perplexity": {"format": ":.2f"},
    "took": {"unit": "s", "format": ":.2f"},
    "ntokens": {"format": ":.0f"},
    "ntokens/s": {"format": ":.0f"},
    "frames/s": {"format": ":.0f"},
    "audio_s/s": {"format": ":.1f"},
    "lr": {"format": ":.3e"},
    "grad_norm": {"format": ":.3f"},
    "memory": {"unit": "MiB", "format": ":.0f"},
    "data_wait": {"unit": "%", "format": ":.1f"},
    "wer": {"unit": "%", "format": ":.2f"},
    "uer": {"unit": "%", "format": ":.2f"},
    "blank_share": {"unit": "%", "format": ":.1f"},
    "updates/s": {"format": ":.2f"},
    "flops/s": {"format": ":.3e"},
}


def _ending(metric: str) -> str:
    """`train_avg_ntokens/s` -> `ntokens/s`."""
    endings = (name for name in _METADATA if metric == name or metric.endswith("_" + name))
    return max(endings, key=len, default=metric)


def format_value(metric: str, value: Any) -> str:
    """A value with its unit, for standard output: `0.4912`, `12.3 %`."""
    metadata = _METADATA.get(_ending(metric), {})
    if not isinstance(value, int | float) or "format" not in metadata:
        return str(value)
    unit = f" {metadata['unit']}" if "unit" in metadata else ""
    return ("{" + metadata["format"] + "}").format(value) + unit


def _as_json(data: dict[str, Any]) -> dict[str, Any]:
    """`data` with null for numbers that are not finite, which JSON lacks."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in data.items()
    }


class _JsonStream:
    """Writes DLLogger's line format."""

    def __init__(self, path: Path):
        self.file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 (kept open)

    def _write(self, timestamp: datetime, elapsed: float, record: dict[str, Any]) -> None:
        stamp = {
            "timestamp": str(timestamp.timestamp()),
            "datetime": str(timestamp),
            "elapsedtime": str(elapsed),
        }
        self.file.write(f"DLLL {json.dumps({**stamp, **record})}\n")

    def log(self, timestamp: datetime, elapsedtime: float, step: Step, data: dict) -> None:
        self._write(timestamp, elapsedtime, {"type": "LOG", "step": step, "data": data})

    def metadata(self, timestamp: datetime, elapsedtime: float, metric: str, metadata: dict):
        record = {"type": "METADATA", "metric": metric, "metadata": metadata}
        self._write(timestamp, elapsedtime, record)

    def flush(self) -> None:
        self.file.flush()


def _json_stream(path: Path) -> Any:
    if path.exists() and path.stat().st_size:
        with open(path, "rb+") as file:  # a killed run may have left half a line
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
    try:
        from dllogger import JSONStreamBackend, Verbosity
    except ImportError:
        return _JsonStream(path)
    return JSONStreamBackend(Verbosity.VERBOSE, str(path), append=True)


class Telemetry:
    """The log of one run.  All processes but the first pass `enabled=False` and write nothing."""

    def __init__(self, output_dir: Path, *, enabled: bool = True, tensorboard: bool = True):
        """Appends to `<output_dir>/nvlog.json`, and writes a numbered log of this run only."""
        self.enabled, self._folder = enabled, output_dir
        self._start = datetime.now().astimezone()
        self._described: set[str] = set()
        self._streams: list[Any] = []
        self._boards: dict[str, Any] = {}
        self._board_dir = output_dir / "tensorboard" if tensorboard else None
        if not enabled:
            return
        number = 1
        while (own := output_dir / f"nvlog.{number}.json").exists():
            number += 1
        try:
            self._streams = [_json_stream(output_dir / "nvlog.json"), _json_stream(own)]
        except OSError as error:
            raise UserError(f"{error.filename}: log cannot be written: {error.strerror}") from None

    def log(self, step: Step, data: dict[str, Any], *, quiet: bool = False) -> None:
        """Write one record: `step` as described in docs/logs.md, `data` metric -> value."""
        if not self.enabled or not data:
            return
        now = datetime.now().astimezone()
        elapsed = (now - self._start).total_seconds()
        for metric in data:
            metadata = _METADATA.get(_ending(metric))
            if step != "PARAMETER" and metadata and metric not in self._described:
                self._described.add(metric)
                for stream in self._streams:
                    stream.metadata(now, elapsed, metric, metadata)
        try:
            for stream in self._streams:
                stream.log(now, elapsed, step, _as_json(data))
                stream.flush()
        except OSError as error:
            raise self._unwritable(error) from None
        if not quiet:
            place = " ".join(map(str, step)) if not isinstance(step, str) else step
            values = " | ".join(f"{name} {format_value(name, v)}" for name, v in data.items())
            print(f"{now:%H:%M:%S} [{place or 'summary'}] {values}", flush=True)

    def parameters(self, values: dict[str, Any]) -> None:
        """Write the resolved configuration, one record per key."""
        for name, value in values.items():
            self.log("PARAMETER", {name: value}, quiet=True)

    def scalars(self, writer: str, update: int, values: dict[str, float]) -> None:
        """Write `values` to TensorBoard's `train_inner`, `train`, `valid` or `valid_ema`."""
        if not self.enabled or self._board_dir is None:
            return
        if writer not in self._boards:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self._boards[writer] = SummaryWriter(str(self._board_dir / writer))
        try:
            for name, value in values.items():
                self._boards[writer].add_scalar(name, value, update)
        except OSError as error:  # of an earlier write, too
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"{self._folder}: log cannot be written: {error.strerror or error}")

    def close(self) -> None:
        """Write what is buffered."""
        for stream in self._streams:
            stream.flush()
        for board in self._boards.values():
            board.close()


def reset_peak_memory(device: torch.device) -> None:
    """Reset `peak_memory_mib` on a GPU; the peak of a process on a CPU cannot be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mib(device: torch.device) -> float:
    """Peak memory in MiB: allocated on a GPU since the last reset; on a CPU resident in this
    process since its start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
