"""The largest batch of pre-training that fits into memory, by hourglass factor.

    python -m utils.benchmarks.largest_batch --precision bf16
    python -m utils.benchmarks.largest_batch --finetune

Two updates of train.py's own trainer on a batch of noise, in a process of its own for each size,
doubled until memory runs out and then narrowed down.  What fits is one sub-batch; a recipe fills
the same memory with several: NUM_CONCAT_BATCHES x MAX_TOKENS samples.  On a CPU,
--memory_mib sets a limit: how far the peak of the resident size may rise after the imports.

With --finetune: the memory of fine-tuning XLS-R instead, all weights, by LoRA and by adapters.
It is computed, not measured, and needs no GPU.

Written to --output_dir: largest_batch.json and largest_batch.md.
"""

import tempfile
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from utils.benchmarks.measuring import command_line
from utils.benchmarks.step import (
    Worker,
    configuration_flags,
    noise_flags,
    parse_options,
)
from utils.benchmarks.step_tables import Configuration, Result
from utils.finetuning.memory_table import memory_table
from utils.reporting.tables import Table
from wav2vec2.cli.errors import OUT_OF_MEMORY_TEXTS, UserError, run_command
from wav2vec2.cli.flags import require_at_least
from wav2vec2.files.output import prepare_folder, write_json, write_lines
from wav2vec2.files.text import split_lines


@dataclass(frozen=True)
class SearchOptions:
    """Search"""

    model: Literal["base", "large", "mini", "small"] = "base"
    """Architecture."""
    factors: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    """Hourglass factors; 1: the plain encoder."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Type of weights and activations."""
    seconds: float = 15.625
    """Length of each utterance; the recipes' longest."""
    memory_mib: float = 0.0
    """Memory limit of an update; 0: the whole GPU."""
    finetune: bool = False
    """Print the computed memory of fine-tuning XLS-R (needs peft); only --precision counts."""
    output_dir: str = "results/largest_batch"
    """Folder for largest_batch.json and largest_batch.md."""

    def __post_init__(self) -> None:
        if not self.factors or min(self.factors) < 1:
            raise UserError("--factors: give one or more, each at least 1")
        require_at_least(self, seconds=0.1)
        require_at_least(self, memory_mib=0)


def size(index: int) -> int:
    """The sizes that a batch can have, by their number from 1: 1 to 8, then multiples of 8."""
    return index if index <= 8 else 8 * (index - 7)


def largest(fits: Callable[[int], bool]) -> int:
    """The largest size of a batch that `fits`, 0 if none does: doubled, then halved."""
    low, high = 0, 1
    while fits(size(high)):
        low, high = high, 2 * high
    low += bisect_left(range(low + 1, high), True, key=lambda index: not fits(size(index)))
    return size(low) if low else 0


def memory_of(
    configuration: Configuration, options: SearchOptions, flags: Sequence[str], utterances: int
) -> float | None:
    """MiB that two updates of so many utterances take at most; None: more than there is."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = noise_flags(folder, utterances, options.seconds, utterances)
        own = configuration_flags(configuration, options.model, [*flags, *data], folder / "run")
        try:
            with closing(Worker(configuration, own, folder, 0)) as worker:
                result = Result(configuration, worker.answer())
                result.turns.append(worker.turn(2))  # the second with the optimizer's moments
        except (UserError, RuntimeError) as error:
            if any(text in str(error) for text in (*OUT_OF_MEMORY_TEXTS, "its process was killed")):
                return None
            raise
    fits = not options.memory_mib or result.memory <= options.memory_mib
    return result.memory if fits else None


def search(options: SearchOptions, flags: Sequence[str]) -> list[dict[str, Any]]:
    """Of each factor: the largest batch, and what it takes."""
    found = []
    for factor in dict.fromkeys(options.factors):
        configuration = Configuration("ours", options.precision, factor)
        taken: dict[int, float | None] = {0: 0.0}

        def fits(utterances: int, configuration=configuration, taken=taken) -> bool:
            taken[utterances] = memory_of(configuration, options, flags, utterances)
            memory = taken[utterances]
            result = "too much" if memory is None else f"{memory:,.0f} MiB"
            print(f"{configuration}, {utterances} x {options.seconds:g} s: {result}", flush=True)
            return memory is not None

        utterances = largest(fits)
        found.append(
            {
                "configuration": configuration.row,
                "utterances": utterances,
                "audio_seconds": utterances * options.seconds,
                "memory": taken[utterances],
            }
        )
    return found


def main() -> None:
    options, flags, recipe = parse_options("largest_batch", __doc__, SearchOptions)
    if options.finetune:
        table = memory_table(half=options.precision != "fp32")
        write_table(table, {"rows": table.rows}, options)
        return
    if recipe.data.dataset_dir:
        raise UserError("--dataset_dir: the batches are of noise; remove this flag")
    if recipe.run.cpu and not options.memory_mib:
        raise UserError("--cpu: its memory has no limit; say with --memory_mib how much there is")
    if not recipe.run.cpu and not torch.cuda.is_available():
        raise UserError("no GPU found; --cpu with --memory_mib searches on a CPU")
    prepare_folder("--output_dir", options.output_dir)
    found = search(options, flags)
    rows = [
        [name, *(f"{figure:,.0f}" for figure in figures)]
        for name, *figures in map(dict.values, found)
    ]
    edge = f"{options.memory_mib:,.0f} MiB" if options.memory_mib else "the GPU's memory"
    table = Table(
        f"Largest batch within {edge}: {options.model}, {options.precision}, utterances of "
        f"{options.seconds:g} s",
        ["", "utterances", "audio, s", "memory, MiB"],
        rows,
    )
    write_table(table, {"results": found}, options)


def write_table(table: Table, content: dict[str, Any], options: SearchOptions) -> None:
    """Print `table`, and write it and `content` to the output folder."""
    folder = prepare_folder("--output_dir", options.output_dir)
    text = [f"**{table.title}**", "", *split_lines(table.markdown())]
    write_lines(folder / "largest_batch.md", text)
    content = {"command": command_line("utils.benchmarks.largest_batch"), **content}
    write_json(folder / "largest_batch.json", content, indent=1)
    print("\n".join(text))


if __name__ == "__main__":
    run_command(main)
