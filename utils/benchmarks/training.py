"""The overhead of training: the loop, a checkpoint, a second process.

    python -m utils.benchmarks.training loop save processes

On the CPU, on noise.  What is compared is measured in turns in one run, and medians are printed:
nothing else should run meanwhile.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.training.checkpoint import CheckpointWriter
from common.training.precision import Weights
from common.training.trainer import Trainer
from tasks.recipes import parse_recipe, prepare_trainer
from utils.benchmarks.measuring import write_noise
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import UserError, run_command
from wav2vec2.cli.flags import ArgumentParser
from wav2vec2.config import BASE, ContrastiveObjective, Regularisation
from wav2vec2.files.torch_file import tensors_of
from wav2vec2.pretraining import Wav2Vec2ForPretraining

ROUNDS = 7
UPDATES = 120
"""Updates of a run; the first quarter is not counted."""


def write_corpus(folder: Path, utterances: int = 240) -> None:
    """Filelists `train`, of so many recordings of noise, and `valid`."""
    generator = np.random.default_rng(0)
    for subset, size in (("train", utterances), ("valid", 4)):
        seconds = 2.5 * generator.uniform(0.7, 1.3, size=size)
        write_noise(folder, subset, (SAMPLE_RATE * seconds).astype(int).tolist())


def flags(data: Path, output: Path, **changed: Any) -> list[str]:
    """train.py's: MINI with the quickstart's batches."""
    values = {
        "dataset_dir": data,
        "train_subset": "train",
        "valid_subset": "valid",
        "output_dir": output,
        "model": "mini",
        "hourglass_config": "[1,(2,2),1]",
        "min_sample_size": 8_000,
        "max_sample_size": 48_000,
        "max_tokens": 80_000,
        "num_concat_batches": 1,
        "update_freq": 2,
        "batches_per_update": 2,
        "max_update": UPDATES,
        "warmup_updates": 1,
        "num_workers": 0,
        "validate_frequency": 1_000,
        "no_save": "true",
        "cpu": "true",
    }
    pairs = ((f"--{name}", str(value)) for name, value in (values | changed).items())
    return ["pretrain", *(part for pair in pairs for part in pair)]


def measure_loop(folder: Path) -> None:
    """How much longer the trainer's update takes than its forward, backward and optimizer."""
    recipe = parse_recipe(flags(folder, folder / "loop"))
    with redirect_stdout(sys.stderr):
        trainer = prepare_trainer(recipe, torch.device("cpu"))
    trainer.task.model.train()
    plan, whole, bare = trainer.task.plan, [], []
    requests = chain.from_iterable(map(plan.requests, count()))
    for _ in range(UPDATES):
        group = islice(requests, plan.geometry.accumulate)
        batches = [trainer.task.dataset.load(request) for request in group]
        start = time.perf_counter()
        trainer.train_on(batches)
        middle = time.perf_counter()
        bare_update(trainer, batches)
        whole.append(middle - start)
        bare.append(time.perf_counter() - middle)
    counted = slice(UPDATES // 4, None)
    more = [100 * (a / b - 1) for a, b in zip(whole[counted], bare[counted])]
    print(
        f"loop: an update of {1000 * statistics.median(whole[counted]):.0f} ms takes "
        f"{statistics.median(more):.2f} % longer than its forward and backward passes and its "
        f"optimizer (median of {len(more)} pairs)"
    )


def bare_update(trainer: Trainer, batches: list[Any]) -> None:
    """Forward, backward and optimizer alone."""
    trainer.task.begin_update(trainer.state.update)
    trainer.state.weights.zero_grad()
    for batch in batches:
        trainer.task.forward(batch.to(trainer.device), trainer.state.update).loss.backward()
    trainer.state.optimizer.step()


def measure_save(folder: Path) -> None:
    """How long saving Base blocks the training, against cloning the same tensors."""
    model = Wav2Vec2ForPretraining.from_config(BASE, Regularisation(), ContrastiveObjective())
    weights = Weights(model, "bf16")
    optimizer = torch.optim.AdamW(weights.parameters())
    for parameter in weights.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    weights.zero_grad()
    content = {
        "model": weights.state_dict(),
        "half": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    tensors = list(tensors_of(content))
    size = sum(t.numel() * t.element_size() for t in tensors) / 2**20
    writer, clones, blocked, written = CheckpointWriter(), [], [], []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        copies = [t.clone() for t in tensors]
        clones.append(time.perf_counter() - start)
        del copies
        start = time.perf_counter()
        writer.save(folder / "checkpoint.pt", content, then=lambda: None)
        blocked.append(time.perf_counter() - start)
        writer.wait()
        written.append(time.perf_counter() - start)
    ratio = statistics.median(b / c for b, c in zip(blocked, clones))
    print(
        f"save: {size:.0f} MiB block training for {statistics.median(blocked):.2f} s, "
        f"{ratio:.2f} x the time of cloning them; on disk after {statistics.median(written):.1f} s "
        f"(medians of {ROUNDS})"
    )


def updates_per_second(folder: Path, processes: int, threads: int, run: int) -> float:
    """Updates per second of a run of its own."""
    output = folder / f"{processes}_{run}"
    arguments = flags(folder, output, update_freq=2 // processes, log_frequency=UPDATES // 4)
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "common.runtime.launcher", "--standalone"]
        command += ["--nproc_per_node", str(processes)]
    result = subprocess.run(
        [*command, "train.py", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
    )
    if result.returncode:
        raise UserError(f"train.py: {result.stderr.strip().splitlines()[-1]}")
    lines = (line for line in result.stdout.splitlines() if "train_updates/s" in line)
    rates = [float(line.partition("train_updates/s ")[2].split()[0]) for line in lines]
    return statistics.median(rates[1:])


def measure_processes(folder: Path) -> None:
    """Two processes of one thread against one of two, on the same global batch."""
    pairs = [
        (updates_per_second(folder, 1, 2, n), updates_per_second(folder, 2, 1, n))
        for n in range(ROUNDS // 2 + 1)
    ]
    one, two = (statistics.median(rates) for rates in zip(*pairs))
    ratio = statistics.median(b / a for a, b in pairs)
    print(
        f"processes: 2 x 1 thread {two:.2f} updates/s, 1 x 2 threads {one:.2f}: ratio {ratio:.2f} "
        f"(medians of {len(pairs)} rounds in turns)"
    )


MEASURES = {"loop": measure_loop, "save": measure_save, "processes": measure_processes}


def main() -> None:
    parser = ArgumentParser("utils.benchmarks.training", __doc__)
    parser.add_argument("what", choices=MEASURES, nargs="+", help="what to measure")
    namespace = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        write_corpus(Path(name))
        for what in namespace.what:
            MEASURES[what](Path(name))


if __name__ == "__main__":
    run_command(main)
