"""Contrastive pre-training on audio alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from common.data.dataset import Draws, UtteranceDataset
from common.runtime import randomness
from common.training.checkpoint import ResumePoint
from common.training.metrics import Sums
from common.training.step import MicroBatchResult
from common.training.trainer import RunOptions
from tasks.data import (
    LN2,
    DataOptions,
    draw_layers,
    filter_utterances,
    plan_batches,
    recipe_of,
    starting_digest,
    validation_batches,
)
from tasks.mixture import add_apart, read_manifests, report_apart
from wav2vec2 import kernels
from wav2vec2.cli.errors import UserError
from wav2vec2.config import Architecture, ContrastiveObjective, Masking, Regularisation
from wav2vec2.contrastive import draw_distractors
from wav2vec2.feature_extractor import frame_count
from wav2vec2.files.filelists import Utterance
from wav2vec2.inference.batches import AudioBatch
from wav2vec2.interop import native
from wav2vec2.masking import draw_time_masks
from wav2vec2.pretraining import PretrainingBatch, SubBatch, Wav2Vec2ForPretraining
from wav2vec2.quantizer import perplexity

MIN_FRAMES = 3
"""Fewer frames cannot hold two masked ones and an unmasked one."""

COLLAPSED_CODES = 1.5
"""Perplexity of a codebook, 1 at least, below which next to nothing is left to tell apart."""


@dataclass(frozen=True)
class CropOptions:
    """Cropping"""

    min_sample_size: int = 32_000
    """Shorter utterances are left out of training, in samples."""
    max_sample_size: int = 250_000
    """Longer utterances are cropped at a random offset, in samples."""

    def __post_init__(self) -> None:
        if not 0 < self.min_sample_size <= self.max_sample_size:
            raise UserError(
                f"--min_sample_size {self.min_sample_size} --max_sample_size "
                f"{self.max_sample_size}: need 0 < min <= max"
            )


@dataclass(frozen=True)
class DrawContrastiveTask:
    """Draws a sub-batch' masks and distractors, inside a loader worker."""

    conv_layers: tuple[tuple[int, int, int], ...]
    masking: Masking
    distractors: int
    purpose: str

    def __call__(self, lengths: list[int], key: tuple[int, ...]) -> Draws:
        """The fields of a SubBatch."""
        frames = [int(frame_count(n, self.conv_layers)) for n in lengths]
        masked = draw_time_masks(
            frames,
            probability=self.masking.mask_prob,
            span=self.masking.mask_span,
            distribution=self.masking.mask_distribution,
            other=self.masking.mask_other,
            generator=randomness.numpy_generator(f"{self.purpose} mask", *key),
            padded=len(set(frames)) > 1,
        )
        distractors = draw_distractors(
            len(frames),
            len(masked[0]),
            self.distractors,
            randomness.numpy_generator(f"{self.purpose} distractors", *key),
        )
        return {
            "masked": np.stack(masked),
            "distractors": distractors,
            "noise_seed": randomness.key(f"{self.purpose} gumbel", *key),
        }


class PretrainingTask:
    """Contrastive pre-training on the crops of a filelist."""

    selection = "loss"

    def __init__(
        self,
        data: DataOptions,
        crop: CropOptions,
        architecture: Architecture,
        regularisation: Regularisation,
        masking: Masking,
        objective: ContrastiveObjective,
        run: RunOptions,
        device: torch.device,
        init_from: str = "",
        weights: dict[str, Any] | None = None,
        saved: ResumePoint | None = None,
    ):
        """`init_from`: checkpoint to start from, `weights`: its content; `saved`: the checkpoint of
        this task that is to be continued, which then has the weights."""
        self.architecture, self.regularisation = architecture, regularisation
        self.objective, self.run, self.device = objective, run, device
        if masking.mask_prob == 0:
            raise UserError(
                "--mask_prob 0: pre-training learns from masked frames alone; give a probability "
                "above 0 (the recipes: 0.65)"
            )
        if crop.max_sample_size > data.max_tokens:
            raise UserError(
                f"--max_sample_size {crop.max_sample_size} exceeds --max_tokens {data.max_tokens}; "
                "lower it, or raise --max_tokens"
            )
        if frame_count(crop.min_sample_size, architecture.conv_layers) < MIN_FRAMES:
            raise UserError(
                f"--min_sample_size {crop.min_sample_size}: gives fewer than "
                f"{MIN_FRAMES} frames, too few to mask; raise it"
            )
        self.max_samples, self.max_tokens = crop.max_sample_size, data.max_tokens

        corpora = {
            name: filter_utterances(
                manifest,
                [u.samples >= crop.min_sample_size for u in manifest.utterances],
                f"are shorter than --min_sample_size {crop.min_sample_size} and are left out",
            )
            for name, manifest in read_manifests(
                "--train_subset", data.dataset_dir, data.train_subset
            ).items()
        }
        valid_corpora = {
            name: filter_utterances(
                manifest,
                [
                    frame_count(u.samples, architecture.conv_layers) >= MIN_FRAMES
                    for u in manifest.utterances
                ],
                "are too short to mask and are left out",
            )
            for name, manifest in read_manifests(
                "--valid_subset", data.dataset_dir, data.valid_subset
            ).items()
        }
        utterances = [u for corpus in corpora.values() for u in corpus]
        lengths = [min(u.samples, crop.max_sample_size) for u in utterances]
        self.mixture, self.plan = plan_batches(corpora, lengths, data, run.seed, cropping=True)

        def dataset(utterances: Sequence[Utterance], purpose: str) -> UtteranceDataset:
            training = purpose == "train"
            return UtteranceDataset(
                utterances,
                seed=run.seed if training else 0,  # validation is the same for every seed
                crop=training,
                max_samples=self.max_samples,
                normalize_input=architecture.normalize_input,
                draw=DrawContrastiveTask(
                    architecture.conv_layers, masking, objective.distractors, purpose
                ),
            )

        self.dataset = dataset(utterances, "train")
        self.valid_datasets = {name: dataset(u, "valid") for name, u in valid_corpora.items()}

        randomness.reseed("weights", run.seed)
        self.model = Wav2Vec2ForPretraining.from_config(architecture, regularisation, objective)
        if weights is not None:
            native.load_pretraining(self.model, weights, init_from, architecture)
        self.model.to(device)
        kernels.install(self.model, device)
        self.model.wav2vec2.feature_extractor.requires_grad_(regularisation.feature_grad_mult > 0)
        self.recipe = recipe_of(
            "pretrain",
            architecture,
            data,
            utterances,
            self.mixture,
            self.plan,
            *(crop, regularisation, masking, objective),
        )
        self.recipe["init_from"] = (
            starting_digest(init_from, saved, "init_from") if init_from else None
        )

    def begin_update(self, update: int) -> None:
        self.kept_layers = draw_layers(
            self.architecture.layers, self.regularisation.layerdrop, self.run.seed, update
        )

    def _batch(self, batch: AudioBatch, padded: bool) -> PretrainingBatch:
        lengths = batch.lengths if padded else None
        return PretrainingBatch(batch.waveforms, [SubBatch(**d) for d in batch.draws], lengths)

    def forward(self, batch: AudioBatch, update: int) -> MicroBatchResult:
        output = self.model(
            self._batch(batch, padded=False),
            temperature=self.objective.temperature(update),
            kept_layers=self.kept_layers,
        )
        sub_batches = len(batch.draws)
        frames = len(batch.ids) * int(
            frame_count(batch.waveforms.shape[1], self.architecture.conv_layers)
        )
        return MicroBatchResult(
            loss=output.loss,
            targets=output.targets,
            sums={
                "loss": output.loss,
                "contrastive_loss": output.contrastive_loss,
                "chance_loss": output.chance_loss,
                "correct": output.correct,
                "targets": output.targets,
                "prob_perplexity": output.prob_perplexity * sub_batches,
                "code_perplexity": output.code_perplexity * sub_batches,
                "sub_batches": sub_batches,
                "frames": frames,
                "audio_seconds": batch.audio_seconds,
                **self.mixture.seconds(batch),
            },
        )

    def summarise(self, sums: dict[str, Any]) -> dict[str, float]:
        targets, sub_batches = sums["targets"], sums["sub_batches"]
        return {
            "loss": sums["loss"] / targets / LN2,
            "contrastive_loss": sums["contrastive_loss"] / targets / LN2,
            "accuracy": sums["correct"] / targets,
            "prob_perplexity": sums["prob_perplexity"] / sub_batches,
            "code_perplexity": sums["code_perplexity"] / sub_batches,
            "ntokens": targets,
            **self.mixture.measured(sums),
        }

    def judge(self, sums: dict[str, Any]) -> str | None:
        """A collapsed codebook: few codes, with which the task becomes trivial or hopeless."""
        metrics = self.summarise(sums)
        codes, accuracy = metrics["code_perplexity"], metrics["accuracy"]
        groups, entries = self.architecture.codebook_groups, self.architecture.codebook_entries
        loss, chance = sums["contrastive_loss"], sums["chance_loss"]
        way_out = "lower --learning_rate, raise the diversity weight in --loss_weights"
        if codes < COLLAPSED_CODES * groups or (
            accuracy > 0.99 and codes < 0.05 * groups * entries
        ):
            return (
                f"codebook collapsed: {codes:.1f} of {groups * entries} codes in use, accuracy "
                f"{accuracy:.3f}; {way_out}"
            )
        if abs(loss - chance) < 1e-4 * chance:
            return (
                f"representations collapsed: the contrastive loss stands at "
                f"{metrics['contrastive_loss']:.3f}, as if all candidates were alike; {way_out}"
            )
        return None

    def validate(self, sums: Sums) -> None:
        shape = (self.architecture.codebook_groups, self.architecture.codebook_entries)
        none = torch.zeros(shape, dtype=torch.float64, device=self.device)
        # Named from the start: with few batches a process may have none, and names must match.
        zeros = {"loss": 0.0, "correct": 0.0, "targets": 0.0, "codes": none, "probs": none}
        for name, dataset in self.valid_datasets.items():
            add_apart(sums, name, zeros)
            for batch in validation_batches(
                dataset, self.max_tokens, self.run.num_workers, self.device
            ):
                output = self.model(
                    self._batch(batch, padded=True), temperature=1.0, kept_layers=None
                )
                values = {
                    "loss": output.contrastive_loss,
                    "correct": output.correct,
                    "targets": output.targets,
                    "codes": output.code_counts,
                    "probs": output.prob_sums,
                }
                add_apart(sums, name, values)

    def summarise_validation(self, sums: dict[str, Any]) -> dict[str, float]:
        return report_apart(self.valid_datasets, sums, self._summarise_validation)

    def _summarise_validation(self, sums: dict[str, Any]) -> dict[str, float]:
        """Contrastive loss (bits) and accuracy over masked frames; perplexities of the whole set.

        The perplexities are those of the set's mean assignment, so that, like everything here,
        they do not depend on the batch size.
        """
        targets = sums["targets"]
        return {
            "loss": sums["loss"] / targets / LN2,
            "accuracy": sums["correct"] / targets,
            "prob_perplexity": float(perplexity(sums["probs"] / targets)),
            "code_perplexity": float(perplexity(sums["codes"] / targets)),
            "ntokens": targets,
        }

    def checkpoint_content(self) -> dict[str, Any]:
        return native.pretraining_content(self.architecture)
