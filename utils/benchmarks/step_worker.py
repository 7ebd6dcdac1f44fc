"""One configuration of utils/benchmarks/step.py, in a process of its own, driven by that command.

Standard input brings JSON lines: first what to be, `{"kind", "precision", "variant", "flags",
"size"}`, then turns, `{"updates", "unmeasured", "count"}`; each is answered by one line of standard
output.  The end of the input ends the process.

An update is the trainer's own, from batches in memory to written weights: transfer, forward, loss,
backward, norm, clipping, optimizer, master weights.  Loading is not in it, which
utils/benchmarks/loader.py measures.

A peer is driven by the same trainer: same optimizer and clipping, the same batches, masks,
distractors and kept layers.  Half precision is its own, torch.autocast around the model.
"""

import ctypes
import itertools
import json
import os
import sys
import time
import zlib
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib.metadata import version
from operator import attrgetter
from typing import IO, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.autograd import DeviceType
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

from common.data.dataset import TrainingBatch
from common.runtime import environment, randomness
from common.training.meter import Totals
from common.training.precision import set_matmul_precision
from common.training.task import MicroBatchResult
from common.training.trainer import Trainer
from tasks.pretraining import DrawSubBatch
from tasks.recipes import PretrainingRecipe, parse_recipe, prepare_trainer
from utils.benchmarks.flops import pretraining_flops
from utils.benchmarks.measuring import memory_mib
from wav2vec2 import kernels
from wav2vec2.cli.errors import REASONS, UserError, one_line
from wav2vec2.config import Architecture, ContrastiveObjective, Regularisation
from wav2vec2.feature_extractor import frame_count
from wav2vec2.files.output import prepare_folder
from wav2vec2.inference.device import check_supported, pick_device
from wav2vec2.interop.huggingface_config import config_of_architecture
from wav2vec2.pretraining import SubBatch
from wav2vec2.quantizer import gumbel_temperature

PRODUCT_SIZES = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the square matrices whose product measures the machine."""

PRODUCTS = 3
"""Products per turn, of which the fastest counts."""

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


# What a variant changes that no flag of train.py does; each stays changed in its own process.


def _plain_kernels() -> None:
    """The model files' own modules, without the variants of wav2vec2/kernels."""
    kernels.install = lambda model, device: None


def _channels_last() -> None:
    """Convolutions over time as two-dimensional ones, whose channels are neighbours in memory."""

    def pair(first: int, value: Any) -> tuple[int, int]:
        return first, value[0] if isinstance(value, tuple | list) else value

    def conv1d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        x, weight = (
            t.unsqueeze(2).contiguous(memory_format=torch.channels_last) for t in (x, weight)
        )
        sizes = pair(1, stride), pair(0, padding), pair(1, dilation)
        return F.conv2d(x, weight, bias, *sizes, groups).squeeze(2)

    F.conv1d = conv1d


def _cudnn_benchmark() -> None:
    """cuDNN tries its algorithms for each new shape."""
    torch.backends.cudnn.benchmark = True


PATCHES = {
    "plain_kernels": _plain_kernels,
    "channels_last": _channels_last,
    "cudnn_benchmark": _cudnn_benchmark,
}


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
    """Name, calls and own milliseconds of each operator, longest first; on a GPU the device's."""
    # On a GPU the list holds its kernels, too, once more.
    totals = [t for t in profiler.key_averages() if t.device_type == DeviceType.CPU]
    on_device = any(total.self_device_time_total for total in totals)
    spent = attrgetter("self_device_time_total" if on_device else "self_cpu_time_total")
    totals.sort(key=spent, reverse=True)
    return [(total.key, total.count, spent(total) / 1000) for total in totals]


def give_memory_back(device: torch.device) -> None:
    """Return free memory to the system, for the process whose turn is next."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return
    with suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def digest(batch: TrainingBatch) -> int:
    """A checksum of waveforms, masks and distractors: equal where configurations saw the same."""
    total = zlib.crc32(batch.waveforms.numpy())
    for draw in batch.draws:
        for array in (draw.masked, draw.distractors):
            total = zlib.crc32(np.ascontiguousarray(array), total)
    return total


class Stepper:
    """Takes a trainer's updates when turns ask for them."""

    def __init__(self, trainer: Trainer):
        self.trainer, self.device = trainer, trainer.device
        epochs = map(trainer.task.plan.requests, itertools.count())
        self.requests = itertools.chain.from_iterable(epochs)
        trainer.task.model.train()

    def turn(self, updates: int, unmeasured: int, count: bool = False, profiled: bool = False):
        """Some updates, of which the answer skips the first `unmeasured`."""
        done = [self.update(count, profiled) for _ in range(unmeasured + updates)]
        answer = {"updates": done[unmeasured:], "memory": memory_mib(self.device)}
        give_memory_back(self.device)
        return answer

    def update(self, count: bool, profiled: bool) -> dict[str, Any]:
        """One update: its time, its loss, and what it had to compute."""
        batches = self._load()
        with ExitStack() as stack:
            counter = stack.enter_context(flop_counter()) if count else None
            profiler = stack.enter_context(profile()) if profiled else None
            self._synchronize()
            start = time.perf_counter()
            report = self.trainer.train_on(batches)
            self._synchronize()
            took = time.perf_counter() - start
        totals = Totals.over_ranks(report.sums, self.device)
        done = {"took": took, "loss": totals.sums["loss"] / totals.targets, **self._work(batches)}
        if counter is not None:
            done["counted_flops"] = counter.get_total_flops()
        if profiler is not None:
            done["operators"] = operators(profiler)
        return done

    def _load(self) -> list[TrainingBatch]:
        task = self.trainer.task
        requests = itertools.islice(self.requests, task.plan.geometry.accumulate)
        batches = [task.dataset.load(request) for request in requests]
        return [b.pin_memory() for b in batches] if self.device.type == "cuda" else batches

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _work(self, batches: list[TrainingBatch]) -> dict[str, Any]:
        """What an update of `batches` has to compute."""
        task = self.trainer.task
        layers = task.architecture.conv_layers
        shapes = [(*b.waveforms.shape, [draw.masked.shape for draw in b.draws]) for b in batches]
        flops = sum(
            pretraining_flops(
                task.architecture,
                samples,
                sub_batches,
                kept_layers=task.kept_layers,
                extractor_learns=task.regularisation.feature_grad_mult > 0,
            )
            for _, samples, sub_batches in shapes
        )
        return {
            "frames": sum(rows * frame_count(samples, layers) for rows, samples, _ in shapes),
            "ntokens": sum(a * b for *_, parts in shapes for a, b in parts),
            "audio_seconds": sum(batch.audio_seconds for batch in batches),
            "flops": flops,
            "batch": "-".join(f"{digest(batch):08x}" for batch in batches),
        }


@dataclass
class PeerSubBatch(SubBatch):
    """Our draws, with the same masks and distractors as transformers wants them."""

    mask: Any
    """bool `[rows, frames]`."""
    negatives: Any
    """`[rows, frames, K]`: numbers of frames, counted through all rows; zeros where nothing is
    masked, which the loss does not look at."""


@dataclass(frozen=True)
class DrawPeerSubBatch:
    ours: DrawSubBatch

    def __call__(self, lengths: list[int], key: tuple[int, ...]) -> PeerSubBatch:
        drawn = self.ours(lengths, key)
        rows, frames = len(drawn.masked), frame_count(max(lengths), self.ours.conv_layers)
        mask = np.zeros((rows, frames), dtype=bool)
        negatives = np.zeros((rows, frames, drawn.distractors.shape[2]), dtype=np.int64)
        for row, masked in enumerate(drawn.masked):
            mask[row, masked] = True
            negatives[row, masked] = row * frames + masked[drawn.distractors[row]]
        return PeerSubBatch(**vars(drawn), mask=mask, negatives=negatives)


class TransformersTask:
    """transformers' Wav2Vec2ForPreTraining in the place of our model."""

    trained = None

    def __init__(self, recipe: PretrainingRecipe, device: torch.device, precision: str):
        from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining

        with torch.device("meta"):  # batches and draws are ours; the model takes no memory
            ours = recipe.build_task(torch.device("meta"))
        self.ours, self.device, self.precision = ours, device, precision
        self.architecture, self.regularisation = ours.architecture, ours.regularisation
        self.plan, self.recipe, self.selection = ours.plan, ours.recipe, ours.selection
        self.file_prefix, self.memory_hint = "transformers", ours.memory_hint
        self.dataset = ours.dataset
        self.dataset.draw = DrawPeerSubBatch(ours.dataset.draw)
        randomness.reseed("weights", recipe.run.seed)
        config = peer_config(ours.architecture, ours.regularisation, ours.objective)
        self.model = Wav2Vec2ForPreTraining(Wav2Vec2Config.from_dict(config)).to(device)
        self.layers = list(self.model.wav2vec2.encoder.layers)

    def begin_update(self, update: int) -> None:
        self.ours.begin_update(update)
        kept = [n for n, keep in zip(self.layers, self.kept_layers) if keep]
        self.model.wav2vec2.encoder.layers = torch.nn.ModuleList(kept)
        temperature = gumbel_temperature(
            update, self.ours.max_update, *self.ours.objective.gumbel_temperature
        )
        self.model.set_gumbel_temperature(temperature)

    @property
    def kept_layers(self) -> list[bool]:
        return self.ours.kept_layers

    def forward(self, batch: TrainingBatch, update: int) -> MicroBatchResult:
        masks, negatives, row = [], [], 0
        for draw in batch.draws:
            masks.append(draw.mask)
            negatives.append(draw.negatives + row * draw.mask.shape[1])
            row += len(draw.mask)
        half = AUTOCAST.get(self.precision)
        with torch.autocast(self.device.type, half, enabled=half is not None):
            output = self.model(
                batch.waveforms,
                mask_time_indices=torch.cat(masks),
                sampled_negative_indices=torch.cat(negatives),
            )
        targets = sum(draw.masked.numel() for draw in batch.draws)
        return MicroBatchResult(
            loss=output.loss,
            targets=targets,
            tokens=targets,
            frames=sum(mask.numel() for mask in masks),
            audio_seconds=batch.audio_seconds,
            sums={"loss": output.loss},
        )

    def collapse_reason(self, totals: Totals) -> None:
        return None

    def problem(self, totals: Totals, warmed_up: bool) -> None:
        return None


def peer_config(
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
    """JSON lines, in and out; all other output goes to standard error."""

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


def prepare(kind: str, recipe: PretrainingRecipe, precision: str, device: torch.device) -> Trainer:
    """train.py's trainer, of our task or of a peer's."""
    if kind == "ours":
        check_supported(recipe.precision.precision, device)
        return prepare_trainer(recipe, device)
    assert kind == "transformers"
    prepare_folder("--output_dir", recipe.run.output_dir)
    task = TransformersTask(recipe, device, precision)
    return Trainer(task, recipe.run, recipe.optimizer, recipe.schedule, device)


def product_turn(
    device: torch.device, precision: str, size: int
) -> Callable[..., dict[str, float]]:
    """A function that measures the operations per second of a large square product."""
    dtype = AUTOCAST.get(precision, torch.float32)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def turn(**_: Any) -> dict[str, float]:
        taken = []
        for _ in range(PRODUCTS + 1):
            start = time.perf_counter()
            a @ b
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            taken.append(time.perf_counter() - start)
        return {"flops/s": 2 * size**3 / min(taken[1:])}

    return turn


def import_before(kind: str) -> None:
    """Import before memory is measured what belongs to the program, not to the training."""
    with suppress(ImportError):  # the steps here write nothing to it
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
    recipe = parse_recipe(["pretrain", *request["flags"]])
    import_before(kind)
    PATCHES.get(request["variant"], lambda: None)()
    device = pick_device(recipe.run.cpu)
    set_matmul_precision(recipe.precision.tf32)
    before = memory_mib(device) if device.type == "cpu" else 0.0
    described = environment.describe(device, 1) | {"threads": torch.get_num_threads()}
    ready = {"environment": described, "memory_before": before}
    if kind == "product":
        size = request.get("size") or PRODUCT_SIZES[device.type]
        turn, ready["size"] = product_turn(device, precision, size), size
    else:
        trainer = prepare(kind, recipe, precision, device)
        if kind == "transformers":
            described["transformers"] = version("transformers")
        ready["parameters"] = sum(p.numel() for p in trainer.task.model.parameters())
        turn = Stepper(trainer).turn
    channel.answer(ready)
    while True:
        channel.answer(turn(**channel.next()))


def main() -> None:
    channel = Channel()
    try:
        serve(channel)
    except REASONS as error:
        channel.answer({"error": one_line(error)})


if __name__ == "__main__":
    main()
