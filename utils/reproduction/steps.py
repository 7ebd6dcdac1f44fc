"""Steps of a reproduced table: recipes that run once each, and how their figures are collected."""

import os
import shlex
import statistics
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.reporting import results
from wav2vec2.cli.errors import UserError
from wav2vec2.files.output import prepare_folder, write_lines
from wav2vec2.files.text import read_json

FINISHED = "finished"
"""File in a step's output folder with the command that finished."""

SLOW_TEMPERATURE = {"GUMBEL_TEMPERATURE": "2.0 0.5 0.999995"}
"""The decay of the Base recipe, with which the published figures were measured.  That of the small
recipe depends on the number of updates."""

Fields = dict[str, Any]
"""Fields of a Measurement, at least its rows."""


@dataclass(frozen=True)
class ReproductionOptions:
    """Reproduction"""

    runs_dir: str = "results/tables"
    """Folder of the runs, with a folder per table."""
    output: str = ""
    """File to write; docs/results/TABLE.json if empty."""
    seeds: tuple[int, ...] = ()
    """Seeds, each with its own run, of tables over several seeds.  Default: 1 to 8; of `elastic`
    and `label_efficiency`, 1 to 3."""
    gpus: tuple[int, ...] = (1, 4, 8)
    """Numbers of GPUs in the throughput table."""
    dry_run: bool = False
    """Print the commands, one per line, and run nothing."""


@dataclass(frozen=True)
class Step:
    """A recipe with its variables and flags."""

    script: str
    folder: Path
    """Its OUTPUT_DIR."""
    variables: dict[str, Any] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()

    @property
    def environment(self) -> dict[str, str]:
        values = {**self.variables, "OUTPUT_DIR": self.folder}
        return {name: str(value) for name, value in values.items()}

    @property
    def words(self) -> list[str]:
        return ["bash", f"scripts/{self.script}", *self.arguments]

    def command(self) -> str:
        """The command as a user would type it."""
        pairs = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return " ".join([*pairs, shlex.join(self.words)])

    @property
    def finished(self) -> bool:
        """Whether this command has finished in its folder."""
        marker = self.folder / FINISHED
        return marker.is_file() and marker.read_text(encoding="utf-8").strip() == self.command()

    def run(self) -> None:
        """Run it unless it has finished; UserError if it fails."""
        if self.finished:
            print(f"== finished: {self.command()}", flush=True)
            return
        print(f"== {self.command()}", flush=True)
        environment = {**os.environ, **self.environment}
        code = subprocess.run(self.words, env=environment, cwd=results.ROOT).returncode
        if code:
            raise UserError(
                f"{self.script} ended with exit code {code}, see above; fix that, then run this "
                "command again to resume"
            )
        write_lines(prepare_folder("--runs_dir", self.folder) / FINISHED, [self.command()])


@dataclass(frozen=True)
class Reproduction:
    """How a table is reproduced."""

    needs: str
    steps: Callable[[ReproductionOptions, Path], list[Step]]
    collect: Callable[[list[Step]], Fields]
    """The figures that the finished steps left."""
    setting: str = "bf16"
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    partial: bool = False
    """Whether `collect` takes steps of which some have not run: the table is then written after
    each."""


def read_result(path: Path) -> Any:
    return read_json(path, "remove its folder and run again")


def folder_of(name: str) -> str:
    """The folder of a model or start with this name."""
    return name.replace(" ", "_")


def error_rates(summaries: Sequence[dict[str, Any]], metric: str) -> dict[str, float]:
    """Median and range of `wer` or `uer` over evaluations, in percent."""
    rates = [summary[metric] for summary in summaries]
    return {
        metric: round(statistics.median(rates), 2),
        f"{metric}_lowest": round(min(rates), 2),
        f"{metric}_highest": round(max(rates), 2),
    }
