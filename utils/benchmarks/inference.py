"""Speed of a recogniser, of transformers and of the exported graphs, measured in one run.

    python -m utils.benchmarks.inference --model base

On noise, the same weights everywhere.  The models take turns in every round, and
medians are printed.  Nothing else should run meanwhile.  The first round is not counted.
`OMP_NUM_THREADS` says how many threads each may take.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from utils.benchmarks.measuring import measure_in_turns
from utils.benchmarks.transcription import random_model
from wav2vec2 import kernels
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import UserError, run_command
from wav2vec2.cli.flags import ArgumentParser, parse_dataclasses, require_at_least
from wav2vec2.config import PRESETS, Architecture, Hourglass
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.files.output import write_json
from wav2vec2.inference.batches import sorted_batches
from wav2vec2.inference.device import inference_device, pick_device
from wav2vec2.interop import huggingface, onnx, torch_export
from wav2vec2.numerics import TYPES, Precision, cast

Contestant = Callable[[Tensor, Tensor], Any]
"""Waveforms `[batch, samples]` and their lengths `[batch]` -> its output, in any form."""


@dataclass(frozen=True)
class InferenceBenchmarkOptions:
    """Benchmark"""

    model: Literal["base", "large", "mini", "small"] = "base"
    """Architecture, with random weights."""
    hourglass_config: str = "[2,(8,4),2]"
    """Hourglass to compare with the plain encoder; empty: none."""
    utterances: tuple[int, ...] = (4,)
    """Utterances per batch; a table for each."""
    seconds: float = 10.0
    """Seconds per utterance."""
    rounds: int = 5
    """Rounds to measure, after one that is not counted."""
    gpu: bool = False
    """Measure on the GPU, not on the CPU."""
    json: str = ""
    """File for the seconds of audio per second of each model by batch size; '': none."""
    onnx: bool = False
    """Also the graph as ONNX files through onnxruntime, fp32 and 8 bits."""
    exported: bool = False
    """Also the graph as torch.export's archive."""
    compiled: bool = False
    """Also our model through torch.compile, which needs a C++ compiler and takes minutes."""
    mixed: int = 32
    """Utterances of mixed lengths, 1 to 20 s, sorted and batched against a padded loop in their
    order; 0: without."""

    def __post_init__(self) -> None:
        require_at_least(self, rounds=1)
        if not self.utterances or min(self.utterances) < 1:
            raise UserError("--utterances: give one or more, each at least 1")
        if self.gpu and (self.onnx or self.exported):
            raise UserError("--gpu: the graphs run on the CPU; remove --onnx and --exported")
        require_at_least(self, seconds=0.1)


def ours(network: Wav2Vec2ForCTC) -> Contestant:
    return lambda waveforms, lengths: network(waveforms, lengths).logits


def compiled(network: Wav2Vec2ForCTC) -> Contestant:
    """One graph, which has no place for lengths that are looked at: rows of equal length."""
    graph = torch.compile(lambda waveforms: network(waveforms).logits)
    return lambda waveforms, lengths: graph(waveforms)


def theirs(
    content: dict[str, Any], precision: Precision, folder: Path, device: torch.device
) -> Contestant:
    """transformers' model with the same weights."""
    if find_spec("transformers") is None:
        raise UserError(
            "utils.benchmarks.inference: needs transformers; `pip install transformers`"
        )
    from transformers import Wav2Vec2ForCTC as Peer
    from transformers.utils import logging

    logging.disable_progress_bar()
    if not folder.exists():
        huggingface.write_huggingface(content, folder)
    dtype = TYPES[precision]
    peer = Peer.from_pretrained(folder, attn_implementation="sdpa", dtype=dtype).eval().to(device)

    def run(waveforms: Tensor, lengths: Tensor) -> Any:
        # As the library asks for models of the Base kind: zeros, and no mask.
        return peer(waveforms.to(dtype)).logits

    return run


def through_onnx(content: dict[str, Any], path: Path, *, int8: bool) -> Contestant:
    import onnxruntime

    onnx.write_onnx(content, path, int8=int8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda waveforms, lengths: session.run(
        None, {"waveforms": waveforms.numpy(), "lengths": lengths.numpy()}
    )


def through_export(content: dict[str, Any], path: Path) -> Contestant:
    torch_export.write_exported(content, path)
    return torch.export.load(path).module()  # our own file: another's may run code


def contestants(options: InferenceBenchmarkOptions, folder: Path) -> dict[str, Contestant]:
    """Name -> model; those of a name with `hourglass` have other weights than the plain ones."""
    plain = replace(PRESETS[options.model], hourglass=None, normalize_input=False)
    found: dict[str, Contestant] = {}
    device = inference_device(not options.gpu)
    content, networks = build(plain, device)
    for precision, network in networks.items():
        found[f"plain {precision}"] = ours(network)
        found[f"transformers {precision}"] = theirs(content, precision, folder / "theirs", device)
        if options.compiled:
            found[f"plain {precision}, compiled"] = compiled(network)
    if options.hourglass_config:
        hourglass = Hourglass.parse(options.hourglass_config)
        if hourglass and hourglass.factors:
            raise UserError(
                f"--hourglass_config {options.hourglass_config}: a benchmark runs one pooling "
                f"factor; write {replace(hourglass, factors=())}"
            )
        for precision, network in build(replace(plain, hourglass=hourglass), device)[1].items():
            found[f"hourglass {precision}"] = ours(network)
    if options.onnx:
        for name, int8 in (("fp32", False), ("int8", True)):
            found[f"ONNX {name}"] = through_onnx(content, folder / f"{name}.onnx", int8=int8)
    if options.exported:
        found["torch.export fp32"] = through_export(content, folder / "graph.pt2")
    return found


def build(
    architecture: Architecture, device: torch.device
) -> tuple[dict[str, Any], dict[Precision, Wav2Vec2ForCTC]]:
    """Random weights, as a checkpoint's content and as networks of both precisions."""
    networks: dict[Precision, Wav2Vec2ForCTC] = {}
    for precision in ("fp32", "bf16"):
        content, network = random_model(architecture)
        cast(network.eval().to(device), precision)
        kernels.install(network, device)
        networks[precision] = network
    return content, networks


def seconds_of(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def medians(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each call, all of them taking turns."""
    timed = {name: partial(seconds_of, call) for name, call in calls.items()}
    taken = measure_in_turns(timed, rounds)
    return {name: statistics.median(values) for name, values in taken.items()}


def equal_lengths(
    options: InferenceBenchmarkOptions, found: dict[str, Contestant], utterances: int
) -> dict[str, float]:
    """One batch of equally long utterances; returns seconds of audio per second of each model."""
    samples = round(options.seconds * SAMPLE_RATE)
    waveforms = 0.1 * torch.randn(utterances, samples, device=inference_device(not options.gpu))
    lengths = torch.full((utterances,), samples)
    calls = {n: lambda run=run: run(waveforms, lengths) for n, run in found.items()}
    taken = medians(calls, options.rounds)
    audio = utterances * options.seconds
    print(f"\n{utterances} x {options.seconds:g} s")
    print("| | audio, s/s | against transformers fp32 | against transformers bf16 |")
    print("|---|---:|---:|---:|")
    for name, seconds in taken.items():
        ratios = [taken[f"transformers {p}"] / seconds for p in ("fp32", "bf16")]
        print(f"| {name} | {audio / seconds:.1f} | {ratios[0]:.2f} | {ratios[1]:.2f} |")
    return {name: audio / seconds for name, seconds in taken.items()}


def mixed_lengths(options: InferenceBenchmarkOptions, found: dict[str, Contestant]) -> None:
    """Sorted batches with little padding, against batches in file order, padded to the longest."""
    generator = torch.Generator().manual_seed(1)
    lengths = (SAMPLE_RATE * (1 + 19 * torch.rand(options.mixed, generator=generator))).long()
    rows = [0.1 * torch.randn(n, generator=generator) for n in lengths.tolist()]

    def run(contestant: Contestant, batches: list[list[int]]) -> None:
        for batch in batches:
            waveforms = torch.nn.utils.rnn.pad_sequence([rows[n] for n in batch], True)
            contestant(waveforms.to(inference_device(not options.gpu)), lengths[batch])

    size = max(options.utterances)
    in_order = [list(range(n, min(n + size, len(rows)))) for n in range(0, len(rows), size)]
    ordered = sorted_batches(lengths.tolist(), size)
    calls = {
        f"{name}, {how}": lambda name=name, plan=plan: run(found[name], plan)
        for precision in ("fp32", "bf16")
        for name, how, plan in (
            (f"plain {precision}", "sorted", ordered),
            (f"transformers {precision}", "in order", in_order),
        )
    }
    taken = medians(calls, max(options.rounds // 2, 1))
    audio = float(lengths.sum()) / SAMPLE_RATE
    print(f"\n| {options.mixed} utterances of 1 to 20 s | audio, s/s |")
    print("|---|---:|")
    for name, seconds in taken.items():
        print(f"| {name} | {audio / seconds:.1f} |")


def main() -> None:
    parser = ArgumentParser("utils.benchmarks.inference", __doc__)
    (options,) = parse_dataclasses(parser, [InferenceBenchmarkOptions])
    if options.gpu:
        pick_device(cpu=False)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        found = contestants(options, Path(folder))
        versions = [f"{n} {version(n)}" for n in ("torch", "transformers")]
        if options.onnx:
            versions.append(f"onnxruntime {version('onnxruntime')}")
        print(
            f"{options.model}, {inference_device(not options.gpu).type}, "
            f"{torch.get_num_threads()} threads, medians of {options.rounds}; {', '.join(versions)}"
        )
        rates = {size: equal_lengths(options, found, size) for size in options.utterances}
        if options.mixed:
            mixed_lengths(options, found)
    if options.json:
        write_json(options.json, rates)


if __name__ == "__main__":
    run_command(main)
