"""Filelists -> batches: what both tasks share."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from common import distributed
from common.audio import SAMPLE_RATE
from common.batching import BatchPlan, Geometry, GroupRequest, token_budget_batches
from common.distributed import notice
from common.errors import UserError
from common.manifest import Manifest, Utterance
from common.randomness import torch_generator
from wav2vec2.config import Architecture
from wav2vec2.encoder import draw_kept_layers

LN2 = 0.6931471805599453
"""Reported losses are in bits."""


@dataclass(frozen=True)
class DataOptions:
    """Data and batches"""

    dataset_dir: str = "/datasets/LibriSpeech"
    """Folder of the filelists."""
    train_subset: str = "train-full-960"
    """Filelist to train on, without .tsv."""
    valid_subset: str = "dev-other"
    """Filelist to validate on, without .tsv."""
    max_tokens: int = 1_400_000
    """Audio samples in a sub-batch, padding included."""
    num_concat_batches: int = 1
    """Sub-batches that run through the model as one batch, without changing the recipe."""
    update_freq: int = 1
    """Batches each process accumulates before an update."""

    def __post_init__(self) -> None:
        for name in ("max_tokens", "num_concat_batches", "update_freq"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: must be at least 1")

    def geometry(self) -> Geometry:
        return Geometry(distributed.world_size(), self.num_concat_batches, self.update_freq)


def left_out(manifest: Manifest, keep: Sequence[bool], why: str) -> list[Utterance]:
    """The utterances to keep; says how many were left out and why."""
    kept = [u for u, k in zip(manifest.utterances, keep) if k]
    if len(kept) < len(manifest):
        notice(f"{manifest.path}: {len(manifest) - len(kept)} of {len(manifest)} utterances {why}")
    if not kept:
        raise UserError(f"{manifest.path}: all of its {len(manifest)} utterances {why}")
    return kept


def validation_requests(
    utterances: Sequence[Utterance], max_tokens: int, max_samples: int | None
) -> list[GroupRequest]:
    """This process' share of the validation set: every utterance once, each its own sub-batch.

    With one row a sub-batch, an utterance's draws depend on its number in the filelist alone, not
    on its companions, so results do not depend on batch size or the number of processes.
    """
    lengths = [min(u.samples, max_samples or u.samples) for u in utterances]
    batches = token_budget_batches(lengths, max(max_tokens, max(lengths)), seed=0)
    share = batches[distributed.rank() :: distributed.world_size()]
    return [_SingleRows(0, 0, tuple((n,) for n in batch)) for batch in share]


@dataclass(frozen=True)
class _SingleRows(GroupRequest):
    """A request whose sub-batches are single utterances, keyed by utterance number."""

    def sub_batch_number(self, position: int) -> int:
        return self.sub_batches[position][0]


def plan_batches(
    utterances: Sequence[Utterance],
    lengths: Sequence[int],
    data: DataOptions,
    seed: int,
    *,
    cropping: bool,
) -> BatchPlan:
    """The training batches; says what an epoch holds and what is lost.

    `lengths`: samples of each utterance as batched.
    """
    plan = BatchPlan(
        lengths,
        max_tokens=data.max_tokens,
        seed=seed,
        geometry=data.geometry(),
        flags="NUM_GPUS, NUM_CONCAT_BATCHES, UPDATE_FREQ",
    )
    hours = sum(u.samples for u in utterances) / SAMPLE_RATE / 3600
    text = (
        f"{len(utterances)} utterances, {hours:.2f} h; {plan.updates_per_epoch} updates an epoch "
        f"of {plan.geometry.product} batches ({plan.geometry}), {plan.dropped_batches} of "
        f"{plan.batches} batches dropped at its end"
    )
    if cropping:
        groups = [[n for batch in group for n in batch] for group in plan.groups]
        kept = sum(min(lengths[n] for n in group) * len(group) for group in groups)
        batched = sum(utterances[n].samples for group in groups for n in group)
        lost = 100 * (1 - kept / batched)
        text += f"; cropping loses {lost:.2f} % of the audio, elsewhere in each epoch"
    notice(text)
    return plan


def recipe_of(
    command: str,
    architecture: Architecture,
    data: DataOptions,
    utterances: Sequence[Utterance],
    plan: BatchPlan,
    *choices: Any,
) -> dict[str, Any]:
    """What defines a training, in plain types: a resumed run must agree with all of it.

    `choices`: the other option objects.  How the product of the geometry is spread over processes
    and accumulation is not part of it, nor is where the data lie.
    """
    recipe = {
        "command": command,
        "architecture": architecture.to_dict(),
        "train_subset": data.train_subset,
        "train_utterances": len(utterances),
        "train_samples": sum(u.samples for u in utterances),
        "max_tokens": data.max_tokens,
        "num_concat_batches": data.num_concat_batches,
        "geometry_product": plan.geometry.product,
    }
    for choice in choices:
        recipe.update(asdict(choice))
    return recipe


def draw_layers(layers: int, probability: float, seed: int, update: int) -> list[bool]:
    """LayerDrop's decision for an update: the same in every process and micro-batch."""
    return draw_kept_layers(layers, probability, torch_generator("layerdrop", seed, update))
