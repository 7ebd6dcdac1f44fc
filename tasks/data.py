"""From filelists to batches: what both tasks share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from common.data.batching import BatchPlan, Geometry, GroupRequest, token_budget_batches
from common.data.dataset import TrainingBatch, UtteranceDataset
from common.data.speeds import FASTEST, SLOWEST
from common.runtime import distributed
from common.runtime.randomness import numpy_generator, torch_generator
from common.training.checkpoint import ResumePoint
from tasks.mixture import Mixture
from wav2vec2.cli.console import notice
from wav2vec2.cli.errors import UserError
from wav2vec2.cli.flags import require_at_least
from wav2vec2.config import Architecture, Masking
from wav2vec2.encoder import draw_kept_layers
from wav2vec2.files.filelists import Manifest, Utterance
from wav2vec2.files.hub import cached_path
from wav2vec2.files.torch_file import weights_digest
from wav2vec2.inference.batches import load_batches
from wav2vec2.masking import draw_time_masks

FILE_PREFIX = "wav2vec2"
"""Begins the names of checkpoint files."""

MEMORY_HINT = (
    "lower --num_concat_batches and raise --update_freq by as much (the same recipe), add "
    "--activation_checkpointing, or lower --max_tokens"
)
"""What to change when memory runs out."""

LN2 = 0.6931471805599453
"""Reported losses are in bits."""


@dataclass(frozen=True)
class DataOptions:
    """Data and batches"""

    dataset_dir: str = "/datasets/LibriSpeech"
    """Folder of the filelists."""
    train_subset: tuple[str, ...] = ("train-full-960",)
    """Filelists to train on, without .tsv; several are mixed."""
    train_weights: tuple[float, ...] = ()
    """Each training filelist's share of the audio; default: see --train_alpha."""
    train_alpha: float = 1.0
    """Shares in proportion to hours^alpha, without --train_weights; 1: in proportion to hours;
    0: equal shares."""
    speeds: tuple[float, ...] = ()
    """Speeds of each training utterance, such as 0.9 1 1.1, which change tempo and pitch together;
    an epoch has it once at each.  Default: as recorded."""
    valid_subset: tuple[str, ...] = ("dev-other",)
    """Filelists to validate on, without .tsv; with several, each also gets its own metrics."""
    max_tokens: int = 1_400_000
    """Audio samples in a sub-batch, padding included."""
    num_concat_batches: int = 8
    """Sub-batches that run through the model as one batch, without changing the recipe."""
    update_freq: int = 1
    """Batches that each process accumulates before an update."""
    batches_per_update: int = 64
    """Sub-batches per update over all processes, the recipe's effective batch size; 0: any."""
    strict_geometry: bool = False
    """Stop if the effective batch size differs from the recipe's; default: a warning."""
    auto_geometry: bool = False
    """Choose --update_freq so that the effective batch size is the recipe's."""

    def __post_init__(self) -> None:
        require_at_least(self, max_tokens=1, num_concat_batches=1, update_freq=1)
        require_at_least(self, batches_per_update=0)
        if not all(weight > 0 for weight in self.train_weights):
            raise UserError(f"--train_weights {self.train_weights}: must be above 0")
        if not all(SLOWEST <= speed <= FASTEST for speed in self.speeds):
            raise UserError(
                f"--speeds {' '.join(map(str, self.speeds))}: must be from {SLOWEST} to {FASTEST}"
            )
        if len(set(self.speeds)) < len(self.speeds):
            raise UserError(
                f"--speeds {' '.join(map(str, self.speeds))}: names one twice; name it once"
            )
        if not 0 <= self.train_alpha <= 1:
            raise UserError(f"--train_alpha {self.train_alpha}: must be from 0 to 1")
        if self.train_weights and self.train_alpha != 1:
            raise UserError("--train_weights and --train_alpha: give only one of them")
        if self.auto_geometry and not self.batches_per_update:
            raise UserError("--auto_geometry: needs --batches_per_update, the size to reach")

    def geometry(self) -> Geometry:
        """How this run's processes share an update."""
        processes, concat = distributed.world_size(), self.num_concat_batches
        wanted, accumulate = self.batches_per_update, self.update_freq
        if self.auto_geometry:
            accumulate, rest = divmod(wanted, processes * concat)
            if rest or not accumulate:
                raise UserError(
                    f"--auto_geometry: {processes} processes x {concat} concatenated batches "
                    f"(NUM_GPUS, NUM_CONCAT_BATCHES) do not divide the recipe's {wanted} batches "
                    "per update; change one of them"
                )
        geometry = Geometry(processes, concat, accumulate)
        if self.strict_geometry and wanted not in (0, geometry.product):
            raise UserError(f"--strict_geometry: {self.off_recipe(geometry)}")
        return geometry

    def off_recipe(self, geometry: Geometry) -> str:
        """The message about an effective batch size that is not the recipe's."""
        wanted = self.batches_per_update
        accumulate, rest = divmod(wanted, geometry.ranks * geometry.concat)
        fix = f"UPDATE_FREQ={accumulate} restores it"
        if rest or not accumulate:
            fix = "change NUM_GPUS, NUM_CONCAT_BATCHES or UPDATE_FREQ"
        return (
            f"{geometry.product} batches per update ({geometry}), the recipe has {wanted}: {fix}, "
            "or set BATCHES_PER_UPDATE to the size that you want"
        )


MUCH_AUDIO = 0.05
"""Share of the audio above which skipping it is worth a warning."""


def filter_utterances(manifest: Manifest, keep: Sequence[bool], why: str) -> list[Utterance]:
    """The utterances to keep; prints how many are skipped and why, with a warning if it is much."""
    kept = [u for u, k in zip(manifest.utterances, keep) if k]
    if len(kept) < len(manifest):
        total = sum(u.samples for u in manifest.utterances)
        lost = 1 - sum(u.samples for u in kept) / max(1, total)
        note = f"{manifest.path}: {len(manifest) - len(kept)} of {len(manifest)} utterances {why}"
        much = f", {100 * lost:.0f} % of the audio" if lost > MUCH_AUDIO else ""
        notice(f"warning: {note}{much}" if much else note)
    if not kept:
        raise UserError(f"{manifest.path}: all of its {len(manifest)} utterances {why}")
    return kept


def filter_corpora(
    manifests: Mapping[str, Manifest], keep: Callable[[Utterance], bool], why: str
) -> dict[str, list[Utterance]]:
    """The utterances to `keep` of each filelist; `why`: others are skipped."""
    return {
        name: filter_utterances(manifest, [keep(u) for u in manifest.utterances], why)
        for name, manifest in manifests.items()
    }


def validation_batches(
    dataset: UtteranceDataset, max_tokens: int, workers: int, device: torch.device
) -> Iterator[TrainingBatch]:
    """This process' share of the validation set: every utterance once, each its own sub-batch.

    With one row per sub-batch, an utterance's draws depend on its number in the filelist only, so
    results do not depend on the batch size or the number of processes.
    """
    lengths = [min(u.samples, dataset.max_samples or u.samples) for u in dataset.utterances]
    batches = token_budget_batches(lengths, max_tokens, seed=0)
    share = batches[distributed.rank() :: distributed.world_size()]
    requests = [_SingleRows(0, 0, tuple((n,) for n in batch)) for batch in share]
    with closing(load_batches(dataset, requests, workers=min(workers, 2))) as loaded:
        for batch in loaded:
            yield batch.to(device)


@dataclass(frozen=True)
class _SingleRows(GroupRequest):
    """A request whose sub-batches are single utterances, keyed by utterance number."""

    def sub_batch_number(self, position: int) -> int:
        return self.sub_batches[position][0]


def plan_batches(
    corpora: dict[str, list[Utterance]],
    data: DataOptions,
    seed: int,
    max_samples: int | None = None,
) -> tuple[list[Utterance], Mixture, BatchPlan]:
    """All utterances and the training batches; prints what an epoch holds and what is lost.

    `max_samples`: the longest that a row can be where rows are cropped, None where they are padded.
    """
    utterances = [u for corpus in corpora.values() for u in corpus]
    lengths = [min(u.samples, max_samples or u.samples) for u in utterances]
    mixture = Mixture.of(corpora, data.train_weights, data.train_alpha)
    plan = BatchPlan(
        lengths,
        max_tokens=data.max_tokens,
        seed=seed,
        geometry=data.geometry(),
        flags="NUM_GPUS, NUM_CONCAT_BATCHES, UPDATE_FREQ",
        corpora=list(zip(map(len, corpora.values()), mixture.passes)),
    )
    for number in plan.empty_corpora:
        raise UserError(
            f"--train_subset {mixture.names[number]}: its audio does not fill "
            f"{data.num_concat_batches} batches of --max_tokens {data.max_tokens}, which run as "
            "one; lower --num_concat_batches or --max_tokens, or remove it"
        )
    hours = sum(mixture.hours)
    if len(corpora) > 1:
        notice(mixture.describe())
    wanted, product = data.batches_per_update, plan.geometry.product
    if wanted not in (0, product):
        batch = hours / plan.batches
        notice(
            "warning: effective batch size differs from the recipe: "
            f"{data.off_recipe(plan.geometry)} ({product * batch:.3f} h of audio per update, "
            f"the recipe {wanted * batch:.3f} h)"
        )
    text = (
        f"{len(utterances)} utterances, {hours:.2f} h; {plan.updates_per_epoch} updates per epoch "
        f"of {plan.geometry.product} batches ({plan.geometry}), {plan.dropped_batches} of "
        f"{plan.batches} batches dropped at its end"
    )
    if plan.unused:
        never = len(plan.unused)
        text += f" (of them the {never} shortest utterances in every epoch: no full group)"
    if max_samples:
        groups = [[n for batch in group for n in batch] for group in plan.groups]
        kept = sum(min(lengths[n] for n in group) * len(group) for group in groups)
        batched = sum(utterances[n].samples for group in groups for n in group)
        lost = 100 * (1 - kept / batched)
        text += f"; cropping loses {lost:.2f} % of the audio, at other places in each epoch"
    notice(text)
    return utterances, mixture, plan


def recipe_of(
    command: str,
    architecture: Architecture,
    data: DataOptions,
    utterances: Sequence[Utterance],
    mixture: Mixture,
    plan: BatchPlan,
    *choices: Any,
) -> dict[str, Any]:
    """What defines a training, in plain types: a resumed run must agree with all of it.

    `choices`: the other groups of options.  How the effective batch size is spread over processes
    and accumulation is not part of it, nor is the folder of the data.
    """
    recipe = {
        "command": command,
        "architecture": architecture.to_dict(),
        "train_subset": " ".join(data.train_subset),
        "train_utterances": len(utterances),
        "train_samples": sum(u.samples for u in utterances),
        "max_tokens": data.max_tokens,
        "num_concat_batches": data.num_concat_batches,
        "geometry_product": plan.geometry.product,
    }
    if data.speeds:
        recipe["speeds"] = list(data.speeds)
    if len(mixture.names) > 1:
        recipe["shares"] = list(mixture.shares)
    for choice in choices:
        recipe.update(asdict(choice))
    return recipe


def digest_of_start(path: str, resume_from: ResumePoint | None, name: str) -> str | None:
    """The digest of the weights that a training starts from: their content, not their place.

    A resumed run does not need them; where they are gone, its checkpoint's own entry is taken.
    """
    place = cached_path(path)
    if resume_from is None or place.exists():
        return weights_digest(place)
    return resume_from.content.get("recipe", {}).get(name)


def draw_masks(
    masking: Masking, frames: Sequence[int], purpose: str, key: tuple[int, ...]
) -> list[np.ndarray]:
    """The indices of the masked frames of each row; `frames`: frames of each row."""
    return draw_time_masks(
        frames,
        probability=masking.mask_prob,
        span=masking.mask_span,
        distribution=masking.mask_distribution,
        other=masking.mask_other,
        generator=numpy_generator(f"{purpose} mask", *key),
        padded=len(set(frames)) > 1,
    )


def draw_layers(layers: int, probability: float, seed: int, update: int) -> list[bool]:
    """LayerDrop's decision for an update: the same in every process and micro-batch."""
    return draw_kept_layers(layers, probability, torch_generator("layerdrop", seed, update))


def draw_factor(factors: Sequence[int], seed: int, update: int) -> int | None:
    """The pooling factor of an update, each of `factors` as likely: the same in every process and
    micro-batch.  None if there are none to draw from."""
    if not factors:
        return None
    generator = torch_generator("pooling factor", seed, update)
    return factors[int(torch.randint(len(factors), (), generator=generator))]
