"""Speed and memory of a recogniser, of other programs, and of the exported graphs, in one run.

    python -m utils.benchmarks.inference --model base --utterances 1 4 --seconds 2 10 30

On noise, the same weights everywhere.  Each model has its own process.  They take turns in every
round; a first round does not count.  Latency is the median time of a batch.  Memory is the rise of
the process's peak resident size, from before the model was loaded; on a GPU, the peak that was
allocated.  Nothing else should run meanwhile.  `OMP_NUM_THREADS` says how many threads each may
take.  A program that is not installed is skipped.
"""

import multiprocessing
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from common.runtime.environment import processor
from common.runtime.signals import interrupts_left_to_parent, obey_signals, stopped_by_signals
from utils.benchmarks.measuring import (
    measure_in_turns,
    memory_mib,
    reset_memory,
    write_figures,
)
from utils.benchmarks.transcription import random_model
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import UserError, run_command
from wav2vec2.cli.flags import ArgumentParser, parse_dataclasses, require_at_least
from wav2vec2.commands.main import share_cores
from wav2vec2.config import PRESETS, Architecture, Hourglass
from wav2vec2.files.torch_file import save_checkpoint
from wav2vec2.inference.batches import sorted_batches
from wav2vec2.inference.device import (
    InferencePrecision,
    check_int8,
    inference_device,
    pick_device,
)
from wav2vec2.inference.recogniser import Recogniser
from wav2vec2.interop import huggingface, onnx, torch_export
from wav2vec2.numerics import TYPES, Precision

Contestant = Callable[[Tensor, Tensor], Any]
"""Waveforms `[batch, samples]` and their lengths `[batch]` -> its output, in any form."""

PAUSE = 0.5
"""Seconds before each turn: threads of the process before may still wait busily for work."""

Case = list[list[int]]
"""What is timed: batches, each as the samples of its utterances."""

PEERS = {
    "transformers": ("transformers",),
    "onnxruntime": ("onnxruntime", "onnx", "onnxscript"),
    "openvino": ("openvino", "onnx", "onnxscript"),
    "ctranslate2": ("ctranslate2", "transformers"),
}
"""Program -> the packages it needs here."""


@dataclass(frozen=True)
class InferenceBenchmarkOptions:
    """Benchmark"""

    model: Literal["base", "large", "mini", "small"] = "base"
    """Architecture, with random weights."""
    hourglass_config: str = "[2,(8,4),2]"
    """Hourglass to compare with the plain encoder; empty: none."""
    utterances: tuple[int, ...] = (4,)
    """Utterances per batch; a table for each."""
    seconds: tuple[float, ...] = (10.0,)
    """Seconds per utterance; a table for each."""
    rounds: int = 5
    """Rounds to measure, after one that is not counted."""
    gpu: bool = False
    """Measure on the GPU, not on the CPU."""
    json: str = ""
    """File for the figures, in the form of docs/results; '': none."""
    peers: tuple[Literal["transformers", "onnxruntime", "openvino", "ctranslate2"], ...] = (
        "transformers",
        "onnxruntime",
        "openvino",
        "ctranslate2",
    )
    """Other programs to compare with; on a GPU, transformers only."""
    exported: bool = False
    """Also the graph as torch.export's archive."""
    compiled: bool = False
    """Also our model through torch.compile, which needs a C++ compiler and takes minutes."""
    mixed: int = 32
    """Utterances of mixed lengths, 1 to 20 s: ours sorted by length, the others in their order; 0:
    without."""

    def __post_init__(self) -> None:
        require_at_least(self, rounds=1, mixed=0)
        if not self.utterances or min(self.utterances) < 1:
            raise UserError("--utterances: give one or more, each at least 1")
        if not self.seconds or min(self.seconds) < 0.1:
            raise UserError("--seconds: give one or more, each at least 0.1")
        if self.gpu and self.exported:
            raise UserError("--gpu: the archive runs on the CPU; remove --exported")
        hourglass = Hourglass.parse(self.hourglass_config)
        if hourglass and hourglass.factors:
            raise UserError(
                f"--hourglass_config {self.hourglass_config}: a benchmark runs one pooling "
                f"factor; write {replace(hourglass, factors=())}"
            )
        replace(PRESETS[self.model], hourglass=hourglass)  # an error unless the layers fit


def ours(path: Path, precision: InferencePrecision, device: torch.device) -> Contestant:
    network = Recogniser.from_checkpoint(str(path), device, precision).model
    return lambda waveforms, lengths: network(waveforms, lengths).logits


def compiled(path: Path, precision: Precision, device: torch.device) -> Contestant:
    """One graph, which has no place for lengths that are looked at: rows of equal length."""
    network = Recogniser.from_checkpoint(str(path), device, precision).model
    graph = torch.compile(lambda waveforms: network(waveforms).logits)
    return lambda waveforms, lengths: graph(waveforms)


def through_transformers(path: Path, precision: Precision, device: torch.device) -> Contestant:
    from transformers import Wav2Vec2ForCTC as Peer
    from transformers.utils import logging

    logging.disable_progress_bar()
    dtype = TYPES[precision]
    peer = Peer.from_pretrained(path, attn_implementation="sdpa", dtype=dtype).eval().to(device)
    # As the library asks for models of the Base kind: zeros, and no mask.
    return lambda waveforms, lengths: peer(waveforms.to(dtype)).logits


def through_onnxruntime(path: Path) -> Contestant:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda waveforms, lengths: session.run(
        None, {"waveforms": waveforms.numpy(), "lengths": lengths.numpy()}
    )[0]


def through_openvino(path: Path, precision: Precision) -> Contestant:
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = openvino.Core().compile_model(str(path), "CPU", settings).create_infer_request()
    return lambda waveforms, lengths: request.infer(
        {"waveforms": waveforms.numpy(), "lengths": lengths.numpy()}
    )["logits"]


def through_ctranslate2(path: Path, form: str) -> Contestant:
    import ctranslate2

    threads = torch.get_num_threads()
    model = ctranslate2.models.Wav2Vec2(str(path), compute_type=form, intra_threads=threads)

    def run(waveforms: Tensor, lengths: Tensor) -> Any:
        audio = ctranslate2.StorageView.from_array(waveforms[:, None].numpy())
        return model.encode(audio, to_cpu=True)

    return run


def through_export(path: Path) -> Contestant:
    module = torch.export.load(path).module()  # our own file: another's may run code
    return lambda waveforms, lengths: module(waveforms, lengths)[0]


Build = Callable[[], Contestant]
"""Loads a model, in the process that is to run it."""


def contestants(
    options: InferenceBenchmarkOptions, plain: Architecture, folder: Path
) -> tuple[dict[str, Build], list[str]]:
    """Name -> how to load the model; and a line for each that is skipped.  Writes their files.

    Those of a name with `hourglass` have other weights than the plain ones.
    """
    device = inference_device(not options.gpu)
    found: dict[str, Build] = {}
    skipped: list[str] = []
    content = write_model(plain, folder / "plain.pt")
    precisions: list[InferencePrecision] = ["fp32", "bf16"]
    try:
        check_int8(device)
        precisions.append("int8")
    except UserError as error:
        skipped.append(str(error))
    for precision in precisions:
        found[f"plain {precision}"] = partial(ours, folder / "plain.pt", precision, device)
    if options.compiled:
        for half in ("fp32", "bf16"):
            build = partial(compiled, folder / "plain.pt", half, device)
            found[f"plain {half}, compiled"] = build
    if options.hourglass_config:
        hourglass = Hourglass.parse(options.hourglass_config)
        write_model(replace(plain, hourglass=hourglass), folder / "hourglass.pt")
        for precision in precisions:
            build = partial(ours, folder / "hourglass.pt", precision, device)
            found[f"hourglass {precision}"] = build
    for peer in options.peers:
        if reason := why_skipped(peer, plain, device):
            skipped.append(f"{peer}: skipped, because {reason}")
        else:
            found |= peers(peer, content, folder, device)
    if options.exported:
        torch_export.write_exported(content, folder / "graph.pt2")
        found["torch.export fp32"] = partial(through_export, folder / "graph.pt2")
    return found, skipped


def write_model(architecture: Architecture, path: Path) -> dict[str, Any]:
    """Write a checkpoint with random weights; returns its content."""
    content, _ = random_model(architecture)
    save_checkpoint(path, content)
    return content


def why_skipped(peer: str, architecture: Architecture, device: torch.device) -> str:
    """Why a program cannot run the model here; empty if it can."""
    if missing := [name for name in PEERS[peer] if find_spec(name) is None]:
        return f"it needs {' and '.join(missing)}: pip install {' '.join(missing)}"
    if device.type != "cpu" and peer != "transformers":
        return "it is measured on CPUs only"
    if peer == "ctranslate2" and architecture.extractor_norm != "layer":
        return "it reads only models with the layer extractor, such as --model large"
    return ""


def peers(
    peer: str, content: dict[str, Any], folder: Path, device: torch.device
) -> dict[str, Build]:
    """The models of another program, whose files are written if they are not there yet."""
    theirs, graph = folder / "transformers", folder / "fp32.onnx"
    if peer in ("transformers", "ctranslate2") and not theirs.exists():
        huggingface.write_huggingface(content, theirs)
    if peer in ("onnxruntime", "openvino") and not graph.exists():
        onnx.write_onnx(content, graph)
    halves: tuple[Precision, ...] = ("fp32", "bf16")
    if peer == "transformers":
        return {f"{peer} {p}": partial(through_transformers, theirs, p, device) for p in halves}
    if peer == "openvino":
        return {f"{peer} {p}": partial(through_openvino, graph, p) for p in halves}
    if peer == "onnxruntime":
        small = folder / "int8.onnx"
        onnx.write_onnx(content, small, int8=True)
        files = {"fp32": graph, "int8": small}
        return {f"{peer} {p}": partial(through_onnxruntime, path) for p, path in files.items()}
    from ctranslate2.converters import TransformersConverter

    own = folder / "ctranslate2"
    TransformersConverter(str(theirs)).convert(str(own))
    forms = {"fp32": "float32", "int8": "int8"}
    return {f"{peer} {p}": partial(through_ctranslate2, own, form) for p, form in forms.items()}


def noise(case: Case, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Padded waveforms and lengths of each batch."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for batch in case:
        rows = [0.1 * torch.randn(samples, generator=generator) for samples in batch]
        waveforms = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        found.append((waveforms.to(device), torch.tensor(batch)))
    return found


def serve(connection: Connection, build: Build, device: torch.device) -> None:
    """In a process of its own: load a model, then answer each case with its seconds and the peak of
    memory in MiB since the model began to load."""
    before = reset_memory(device)
    run = build()
    connection.send(None)
    batches, shown = [], None
    while True:
        case = connection.recv()
        if case != shown:
            batches, shown = noise(case, device), case
            reset_memory(device)
        start = time.perf_counter()
        with torch.inference_mode():
            for waveforms, lengths in batches:
                run(waveforms, lengths)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        connection.send((seconds, memory_mib(device) - before))


class Worker:
    """The process of a model."""

    def __init__(self, name: str, build: Build, device: torch.device):
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._connection, other = context.Pipe()
        self._process = context.Process(target=serve, args=(other, build, device), daemon=True)
        with interrupts_left_to_parent():
            self._process.start()
        other.close()
        self._receive()
        self.memory = 0.0

    def _receive(self) -> Any:
        try:
            while not self._connection.poll(0.1):
                obey_signals()
            return self._connection.recv()
        except (EOFError, ConnectionError):
            raise self._death() from None

    def _death(self) -> UserError:
        self._process.join()
        obey_signals()  # it may have been sent to both
        code = self._process.exitcode
        why = "the lines above say why"
        if code == -signal.SIGKILL:  # as the system does when memory runs out
            why = "perhaps for lack of memory: try fewer --peers, or a smaller batch"
        return UserError(f"{self.name}: its process ended with exit code {code}; {why}")

    def seconds(self, case: Case) -> float:
        """Run a case once; `memory` is then its peak in MiB."""
        obey_signals()
        time.sleep(PAUSE)
        try:
            self._connection.send(case)
        except ConnectionError:
            raise self._death() from None
        seconds, self.memory = self._receive()
        return seconds

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.join()


Rows = dict[str, dict[str, float]]
"""Model -> its figures by name."""


def measure(workers: list[Worker], cases: dict[str, Case], rounds: int) -> Rows:
    """Run each model's case in turns."""
    timed = {w.name: partial(w.seconds, cases[w.name]) for w in workers}
    taken = {
        name: statistics.median(values) for name, values in measure_in_turns(timed, rounds).items()
    }
    rows: Rows = {}
    for worker in workers:
        seconds, case = taken[worker.name], cases[worker.name]
        rows[worker.name] = {
            "latency": round(1000 * seconds / len(case), 1),
            "speed": round(sum(map(sum, case)) / SAMPLE_RATE / seconds, 2),
            "memory": round(worker.memory),
        }
        for precision in ("fp32", "bf16"):
            if theirs := taken.get(f"transformers {precision}"):
                rows[worker.name][f"ratio_{precision}"] = round(theirs / seconds, 2)
    return rows


def print_table(title: str, rows: Rows) -> None:
    print(f"\n{title}")
    print(
        "| | latency, ms | audio, s/s | against transformers fp32 | against transformers bf16 "
        "| memory, MiB |\n|---|---:|---:|---:|---:|---:|"
    )
    for name, row in rows.items():
        ratios = " | ".join(
            f"{row[key]:.2f}" if (key := f"ratio_{p}") in row else "" for p in ("fp32", "bf16")
        )
        numbers = f"{row['latency']:.0f} | {row['speed']:.1f} | {ratios} | {row['memory']}"
        print(f"| {name} | {numbers} |")
    sys.stdout.flush()


def equal_lengths(workers: list[Worker], utterances: int, seconds: float, rounds: int) -> Rows:
    """One batch of equally long utterances."""
    case = [[round(seconds * SAMPLE_RATE)] * utterances]
    return measure(workers, {worker.name: case for worker in workers}, rounds)


def mixed_lengths(workers: list[Worker], count: int, size: int, rounds: int) -> Rows:
    """Utterances of 1 to 20 s: ours in sorted batches with little padding, the others' in file
    order, padded to the longest."""
    generator = torch.Generator().manual_seed(1)
    lengths = (SAMPLE_RATE * (1 + 19 * torch.rand(count, generator=generator))).long().tolist()
    in_order = [lengths[n : n + size] for n in range(0, count, size)]
    ordered = [[lengths[n] for n in batch] for batch in sorted_batches(lengths, size)]
    cases = {w.name: ordered if w.name.startswith(("plain", "hour")) else in_order for w in workers}
    return measure(workers, cases, rounds)


def versions(names: list[str]) -> dict[str, str]:
    """Package -> its version, of those that take part."""
    programs = [peer for peer in PEERS if any(name.startswith(peer) for name in names)]
    return {name: version(name) for name in ("torch", *programs)}


@stopped_by_signals("run it again")
def main() -> None:
    parser = ArgumentParser("utils.benchmarks.inference", __doc__)
    (options,) = parse_dataclasses(parser, [InferenceBenchmarkOptions])
    share_cores()
    device = pick_device(cpu=not options.gpu)
    plain = replace(PRESETS[options.model], hourglass=None, normalize_input=False)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        found, skipped = contestants(options, plain, Path(folder))
        packages = versions(list(found))
        hardware = f"{processor()}, {torch.get_num_threads()} threads"
        if options.gpu:
            hardware = f"1 x {torch.cuda.get_device_name(device)}"
        named = ", ".join(f"{name} {number}" for name, number in packages.items())
        load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
        print(f"{options.model}, {hardware}, medians of {options.rounds} rounds; {named}")
        print(f"load of the machine before (1, 5, 15 minutes): {load}")
        print("".join(f"{line}\n" for line in skipped), end="", flush=True)
        workers = []
        for name, build in found.items():
            workers.append(worker := Worker(name, build, device))
            stack.callback(worker.close)
        figures: Rows = {}

        def report(title: str, rows: Rows, note: str = "") -> None:
            print_table(title + note, rows)
            figures.update({f"{name}, {title}": row for name, row in rows.items()})
            if options.json:  # after each case: a later one may exceed the memory
                write_figures(Path(options.json), "inference", hardware, packages, figures)

        for utterances in options.utterances:
            for seconds in options.seconds:
                rows = equal_lengths(workers, utterances, seconds, options.rounds)
                report(f"{utterances} x {seconds:g} s", rows)
        if options.mixed:
            size = max(options.utterances)
            rows = mixed_lengths(workers, options.mixed, size, max(options.rounds // 2, 1))
            report(f"{options.mixed} of 1 to 20 s", rows, ", ours sorted")


if __name__ == "__main__":
    run_command(main)
