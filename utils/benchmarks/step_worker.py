"""One contestant of utils/benchmarks/step.py, in a process of its own: it steps when it is told to.

Started as `python -m utils.benchmarks.step_worker`.  Standard input brings JSON lines: first
what to be, `{"kind", "flags", "precision"}`, then turns, `{"updates", "unmeasured", "count"}`; each
is answered by one line of standard output.  The end of the input ends the process.

An update is the trainer's own, `train.py`'s, from batches in memory to written weights: transfer,
forward, loss, backward, norm, clipping, optimizer, masters, logging.  Loading is not in it, which
utils/benchmarks/loader.py measures: an update's batches are loaded, and the layers it keeps are
drawn, before its time begins.

The peer is driven by the same trainer: same optimizer, clipping and logging, the same batches,
masks, distractors and kept layers.  Half precision is its own, torch.autocast around the model.
"""

import ctypes
import itertools
import json
import os
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

import train
from common.data.batching import GroupRequest
from common.data.dataset import Draws, DrawTask, UtteranceDataset
from common.runtime import distributed, environment, randomness
from common.training.optimizer import OptimizerOptions
from common.training.precision import PrecisionOptions, set_matmul_precision
from common.training.schedule import ScheduleOptions
from common.training.step import MicroBatchResult
from common.training.trainer import RunOptions, Trainer
from utils.benchmarks.flops import pretraining_flops
from wav2vec2.cli.errors import REASONS, UserError, one_line
from wav2vec2.cli.telemetry import peak_memory_mib
from wav2vec2.config import Architecture, ContrastiveObjective, Regularisation
from wav2vec2.feature_extractor import frame_count
from wav2vec2.files.output import prepare_folder
from wav2vec2.inference.batches import AudioBatch
from wav2vec2.inference.device import check_supported, pick_device
from wav2vec2.interop.huggingface_config import config_of_architecture

PRODUCT_SIZES = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the square matrices whose product says what the machine can do."""

PRODUCTS = 3
"""Products a turn, of which the fastest counts: a peak is sought."""

AUTOCAST = {"bf16": torch.bfloat16}


# What torch's counter does not know, and what it counts otherwise than as the model's mathematics.


def _product_flops(a: Any, b: Any, c: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """`a += b @ c`, in place, with or without a leading axis of `b`."""
    *leading, rows, inner = b
    return 2 * int(np.prod(leading, dtype=np.int64)) * rows * inner * c[-1]


def _convolution_backward_flops(
    gradient: Any, x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any
) -> int:
    """Torch's own takes the weight's gradient of a grouped convolution for an ungrouped one's."""
    product = 2 * int(np.prod(weight)) * gradient[0] * int(np.prod(gradient[2:]))
    asked = [shape is not None for shape in out_shape[:2]]
    return sum(asked) * product


aten = torch.ops.aten
COUNTED = {
    aten.addmm_: _product_flops,
    aten.baddbmm_: _product_flops,
    aten.convolution_backward: _convolution_backward_flops,
}


def flop_counter() -> FlopCounterMode:
    """Torch's counter, aware of products in place and of groups."""
    return FlopCounterMode(display=False, custom_mapping=COUNTED)


def operators(profiler: profile) -> list[tuple[str, int, float]]:
    """Name, calls and milliseconds, without those of what it calls, of each operator; longest
    first.  On a GPU they are the device's."""
    # On a GPU its kernels stand in the list, too, once more.
    totals = [t for t in profiler.key_averages() if t.device_type == DeviceType.CPU]
    on_device = any(total.self_device_time_total for total in totals)
    found = []
    for total in totals:
        spent = total.self_device_time_total if on_device else total.self_cpu_time_total
        found.append((total.key, total.count, spent / 1000))
    return sorted(found, key=lambda entry: -entry[2])


def memory_mib(device: torch.device) -> float:
    """Peak memory so far: allocated on a GPU; resident in this process on a CPU.

    Linux hands a new process its parent's peak in `ru_maxrss`; VmHWM is its own.
    """
    if device.type == "cpu":
        try:
            for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 2**10
        except OSError:
            pass
    return peak_memory_mib(device)


def give_memory_back(device: torch.device) -> None:
    """What is free here, to those whose turn it is now."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return
    with suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


class LoadedAhead:
    """A dataset whose batches were loaded before they are asked for."""

    def __init__(self, dataset: UtteranceDataset, pin_memory: bool):
        self.dataset, self.pin_memory = dataset, pin_memory
        self.ready: dict[GroupRequest, AudioBatch] = {}

    def load(self, request: GroupRequest) -> AudioBatch:
        batch = self.dataset.load(request)
        self.ready[request] = batch.pin_memory() if self.pin_memory else batch
        return batch

    def __getitem__(self, request: GroupRequest) -> AudioBatch:
        return self.ready.pop(request)


def digest(batch: AudioBatch) -> int:
    """A checksum of waveforms, masks and distractors: equal where contestants saw the same."""
    total = zlib.crc32(batch.waveforms.numpy())
    for draws in batch.draws:
        for name in ("masked", "distractors"):
            total = zlib.crc32(np.ascontiguousarray(draws[name]), total)
    return total


class Stepper:
    """Has a trainer take its updates when turns ask for them."""

    def __init__(self, trainer: Trainer, channel: "Channel"):
        task, self.channel = trainer.task, channel
        self.trainer, self.device = trainer, trainer.device
        self.architecture = task.architecture
        self.data = LoadedAhead(task.dataset, pin_memory=self.device.type == "cuda")
        self.begin, self.forward = task.begin_update, task.forward
        task.dataset, task.begin_update, task.forward = self.data, self.begin_update, self.watched
        self.requests = (
            request
            for epoch in itertools.count()
            for request in task.plan.requests(epoch, distributed.rank(), 0)
        )
        self.left = self.unmeasured = 0
        self.updates: list[dict[str, Any]] = []
        self.loss: Tensor | None = None
        self.start = 0.0
        self.counter: FlopCounterMode | None = None
        self.profiler: profile | None = None

    def watched(self, batch: AudioBatch, update: int) -> MicroBatchResult:
        result = self.forward(batch, update)
        self.loss = result.loss.detach() / result.targets
        return result

    def begin_update(self, update: int) -> None:
        """Between two updates: end the one before, wait for a turn, get ready, and start."""
        if self.left:
            self._end()
        while not self.left:
            self._next_turn()
        accumulate = self.trainer.task.plan.geometry.accumulate
        batches = [self.data.load(next(self.requests)) for _ in range(accumulate)]
        self.begin(update)
        self.updates.append(self._work(batches))
        for watcher in (self.counter, self.profiler):
            if watcher is not None:
                watcher.__enter__()
        self._synchronize()
        self.start = time.perf_counter()

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _end(self) -> None:
        self._synchronize()
        done = self.updates[-1]
        done["took"] = time.perf_counter() - self.start
        if self.counter is not None:
            self.counter.__exit__(None, None, None)
            done["counted_flops"] = self.counter.get_total_flops()
            self.counter = None
        if self.profiler is not None:
            self.profiler.__exit__(None, None, None)
            done["operators"] = operators(self.profiler)
            self.profiler = None
        done["loss"] = float(self.loss)
        self.left -= 1

    def _next_turn(self) -> None:
        """Answer the turn that is done, if there was one, and wait for the next."""
        if self.updates:
            measured = self.updates[self.unmeasured :]
            answer = {"updates": measured, "memory": memory_mib(self.device)}
            give_memory_back(self.device)
            self.channel.answer(answer)
        turn = self.channel.next()
        self.unmeasured, self.updates = turn["unmeasured"], []
        self.left = turn["updates"] + self.unmeasured
        self.counter = flop_counter() if turn.get("count") else None
        self.profiler = profile() if turn.get("profile") else None

    def _work(self, batches: list[AudioBatch]) -> dict[str, Any]:
        """What an update of `batches` has to do."""
        task, layers = self.trainer.task, self.architecture.conv_layers
        shapes = [(*b.waveforms.shape, [d["masked"].shape for d in b.draws]) for b in batches]
        flops = sum(
            pretraining_flops(
                self.architecture,
                samples,
                sub_batches,
                kept_layers=task.kept_layers,
                extractor_learns=task.regularisation.feature_grad_mult > 0,
            )
            for _, samples, sub_batches in shapes
        )
        return {
            "frames": sum(rows * int(frame_count(samples, layers)) for rows, samples, _ in shapes),
            "ntokens": sum(a * b for *_, parts in shapes for a, b in parts),
            "audio_seconds": sum(batch.audio_seconds for batch in batches),
            "flops": flops,
            "batch": "-".join(f"{digest(batch):08x}" for batch in batches),
        }


def train_options(flags: list[str]) -> dict[type, Any]:
    return train.parse(["pretrain", *flags])[1]


class TheirDraws:
    """Our draws, with the same masks and distractors as transformers wants them."""

    def __init__(self, ours: DrawTask, conv_layers: Any):
        self.ours, self.conv_layers = ours, conv_layers

    def __call__(self, lengths: list[int], key: tuple[int, ...]) -> Draws:
        """Adds `mask` `[rows, frames]`, and `negatives` `[rows, frames, K]`: numbers of frames, all
        rows' counted through; zeros where nothing is masked, which the loss does not look at."""
        draws = self.ours(lengths, key)
        masked, distractors = draws["masked"], draws["distractors"]
        rows, frames = len(masked), int(frame_count(max(lengths), self.conv_layers))
        mask = np.zeros((rows, frames), dtype=bool)
        negatives = np.zeros((rows, frames, distractors.shape[2]), dtype=np.int64)
        for row in range(rows):
            mask[row, masked[row]] = True
            negatives[row, masked[row]] = row * frames + masked[row][distractors[row]]
        return {**draws, "mask": mask, "negatives": negatives}


class TransformersTask:
    """transformers' Wav2Vec2ForPreTraining in the place of our model."""

    def __init__(self, options: dict[type, Any], device: torch.device, precision: str):
        from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining

        with torch.device("meta"):  # batches and draws are ours; the model takes no memory
            ours = train.build("pretrain", options, torch.device("meta"))
        self.ours, self.device, self.precision = ours, device, precision
        self.architecture, self.regularisation = ours.architecture, ours.regularisation
        self.plan, self.recipe, self.selection = ours.plan, ours.recipe, ours.selection
        self.dataset = ours.dataset
        self.dataset.draw = TheirDraws(ours.dataset.draw, ours.architecture.conv_layers)
        randomness.reseed("weights", ours.run.seed)
        self.model = Wav2Vec2ForPreTraining(
            Wav2Vec2Config.from_dict(
                their_config(ours.architecture, ours.regularisation, ours.objective)
            )
        ).to(device)
        self.layers = list(self.model.wav2vec2.encoder.layers)

    def begin_update(self, update: int) -> None:
        self.ours.begin_update(update)
        kept = [n for n, keep in zip(self.layers, self.kept_layers) if keep]
        self.model.wav2vec2.encoder.layers = torch.nn.ModuleList(kept)
        self.model.set_gumbel_temperature(self.ours.objective.temperature(update))

    @property
    def kept_layers(self) -> list[bool]:
        return self.ours.kept_layers

    def forward(self, batch: AudioBatch, update: int) -> MicroBatchResult:
        masks, negatives, row = [], [], 0
        for draws in batch.draws:
            mask = draws["mask"]
            masks.append(mask)
            negatives.append(draws["negatives"] + row * mask.shape[1])
            row += len(mask)
        half = AUTOCAST.get(self.precision)
        with torch.autocast(self.device.type, half, enabled=half is not None):
            output = self.model(
                batch.waveforms,
                mask_time_indices=torch.cat(masks),
                sampled_negative_indices=torch.cat(negatives),
            )
        targets = sum(draws["masked"].numel() for draws in batch.draws)
        frames = sum(mask.numel() for mask in masks)
        sums = {"loss": output.loss.detach(), "targets": targets, "frames": frames}
        return MicroBatchResult(
            output.loss, targets, {**sums, "audio_seconds": batch.audio_seconds}
        )

    def summarise(self, sums: dict[str, Any]) -> dict[str, float]:
        return {"loss": sums["loss"] / sums["targets"], "ntokens": sums["targets"]}

    def judge(self, sums: dict[str, Any]) -> None:
        return None


def their_config(
    architecture: Architecture, regularisation: Regularisation, objective: ContrastiveObjective
) -> dict[str, Any]:
    """The same model, trained alike.  LayerDrop is 0 as the layers to skip are drawn by our rule;
    neither the features penalty nor the factor on the extractor's gradient exists there."""
    return {
        **config_of_architecture(architecture),
        "num_negatives": objective.distractors,
        "contrastive_logits_temperature": objective.logit_temperature,
        "diversity_loss_weight": objective.loss_weights[0],
        "hidden_dropout": regularisation.dropout,
        "attention_dropout": regularisation.attention_dropout,
        "activation_dropout": regularisation.activation_dropout,
        "feat_proj_dropout": regularisation.dropout_input,
        "feat_quantizer_dropout": objective.dropout_features,
        "layerdrop": 0.0,
        "attn_implementation": "sdpa",
    }


class Channel:
    """JSON lines, in and out; whatever else is printed goes to standard error."""

    def __init__(self) -> None:
        self.output: IO[str] = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def next(self) -> dict[str, Any]:
        """The next line; the end of the input ends the process."""
        line = sys.stdin.readline()
        if not line:
            sys.exit()
        return json.loads(line)

    def answer(self, content: dict[str, Any]) -> None:
        self.output.write(json.dumps(content) + "\n")


def prepare_device(options: dict[type, Any]) -> torch.device:
    """As train.py does."""
    device = pick_device(options[RunOptions].cpu)
    set_matmul_precision(options[PrecisionOptions].tf32)
    return device


def prepare(kind: str, options: dict[type, Any], precision: str, device: torch.device) -> Trainer:
    """train.py's trainer, of our task or of a peer's."""
    if kind == "ours":
        check_supported(options[PrecisionOptions].precision, device)
        return train.prepare("pretrain", options, device)
    assert kind == "transformers"
    prepare_folder("--output_dir", options[RunOptions].output_dir)
    return Trainer(
        TransformersTask(options, device, precision),
        options[RunOptions],
        options[OptimizerOptions],
        options[ScheduleOptions],
        device,
    )


def rates_of_products(device: torch.device, precision: str, size: int) -> Iterator[dict[str, Any]]:
    """Turn by turn the operations a second of a large square product."""
    dtype = AUTOCAST.get(precision, torch.float32)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    while True:
        taken = []
        for _ in range(PRODUCTS + 1):
            start = time.perf_counter()
            a @ b
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            taken.append(time.perf_counter() - start)
        yield {"flops/s": 2 * size**3 / min(taken[1:])}


def import_before(kind: str) -> None:
    """Before memory is looked at: what belongs to the program, not to the training."""
    from torch.utils.tensorboard import SummaryWriter  # noqa: F401

    if kind == "transformers":
        try:
            import transformers.models.wav2vec2.modeling_wav2vec2  # noqa: F401
        except ImportError:
            raise UserError(
                "--peer transformers: transformers is not installed; pip install transformers"
            ) from None


def serve(channel: Channel) -> None:
    request = channel.next()
    kind, precision = request["kind"], request["precision"]
    options = train_options(request["flags"])
    import_before(kind)
    device = prepare_device(options)
    before = memory_mib(device) if device.type == "cpu" else 0.0
    ready = {"environment": environment.describe(device, 1), "threads": torch.get_num_threads()}
    if kind == "product":
        size = request.get("size") or PRODUCT_SIZES[device.type]
        rates = rates_of_products(device, precision, size)
        channel.answer({**ready, "memory_before": before, "size": size})
        while True:
            channel.next()
            channel.answer(next(rates))
    trainer = prepare(kind, options, precision, device)
    if kind == "transformers":
        from importlib.metadata import version

        ready["environment"]["transformers"] = version("transformers")
    parameters = sum(p.numel() for p in trainer.task.model.parameters())
    Stepper(trainer, channel)
    channel.answer({**ready, "memory_before": before, "parameters": parameters})
    trainer.train()


def main() -> None:
    channel = Channel()
    try:
        serve(channel)
    except REASONS as error:
        channel.answer({"error": one_line(error)})


if __name__ == "__main__":
    main()
