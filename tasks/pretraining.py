"""Contrastive pre-training on audio alone."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from common.data.dataset import TrainingBatch, UtteranceDataset
from common.data.speeds import at_speeds
from common.runtime import distributed, randomness
from common.training.checkpoint import ResumePoint
from common.training.meter import Sums, Totals
from common.training.optimizer import OptimizerOptions
from common.training.precision import PrecisionOptions
from common.training.schedule import ScheduleOptions
from common.training.task import MicroBatchResult
from common.training.trainer import RunOptions
from tasks.codebook import codebook_advice, codebook_problem
from tasks.data import (
    FILE_PREFIX,
    LN2,
    MEMORY_HINT,
    DataOptions,
    digest_of_start,
    draw_factor,
    draw_layers,
    draw_masks,
    filter_corpora,
    plan_batches,
    recipe_of,
    validation_batches,
)
from tasks.mixture import add_apart, read_manifests, report_apart
from tasks.probe import LOG_MEL, Probe, ProbeData, ProbeOptions
from wav2vec2 import kernels
from wav2vec2.cli.errors import UserError
from wav2vec2.config import (
    PRESETS,
    Architecture,
    ContrastiveObjective,
    Hourglass,
    Masking,
    Regularisation,
)
from wav2vec2.contrastive import draw_distractors
from wav2vec2.feature_extractor import frame_count
from wav2vec2.files.filelists import Utterance
from wav2vec2.interop import checkpoints, native
from wav2vec2.interop.state_dict import shapes_only
from wav2vec2.pretraining import PretrainingBatch, SubBatch, Wav2Vec2ForPretraining
from wav2vec2.quantizer import gumbel_temperature, perplexity

MIN_FRAMES = 3
"""The fewest frames that can hold two masked ones and an unmasked one."""

COLLAPSED_CODES = 1.5
"""Perplexity of a codebook, 1 at least, below which hardly any code is used."""


@dataclass(frozen=True)
class CropOptions:
    """Cropping"""

    min_sample_size: int = 32_000
    """Shorter utterances are skipped in training, in samples."""
    max_sample_size: int = 250_000
    """Longer utterances are cropped at a random offset, in samples."""

    def __post_init__(self) -> None:
        if not 0 < self.min_sample_size <= self.max_sample_size:
            raise UserError(
                f"--min_sample_size {self.min_sample_size} --max_sample_size "
                f"{self.max_sample_size}: need 0 < min <= max"
            )


@dataclass(frozen=True)
class ModelOptions:
    """Model"""

    model: Literal["base", "large", "mini", "small", "auto"] = "base"
    """Architecture; `auto`: that of --init_from, which --hourglass_config must confirm."""
    hourglass_config: str = "[2,(8,4),2]"
    """Layers before, (shortened, shortening factor), and after; '' for the plain encoder.  Of
    several factors, such as [2,(8,2:6),2] or [2,(8,[2,4,6]),2], each update draws one."""
    hourglass_resampling: Literal["naive", "linear"] = "naive"
    """Shorten by mean and repetition, or by learned linear maps."""
    init_from: str = ""
    """Pre-trained checkpoint to start from, ours, fairseq's, NVIDIA's, or a Hugging Face folder,
    with a fresh optimizer and schedule; '': none."""

    def __post_init__(self) -> None:
        if self.model == "auto" and not self.init_from:
            raise UserError("--model auto: takes the architecture of --init_from; give both")

    def architecture(self, start: dict[str, Any] | None = None, source: str = "") -> Architecture:
        """The architecture the flags describe; `auto` takes that of the checkpoint content `start`,
        read from `source`."""
        if self.hourglass_resampling != "naive" and not self.hourglass_config.strip():
            raise UserError(
                f"--hourglass_resampling {self.hourglass_resampling}: the plain encoder has none; "
                "also give --hourglass_config"
            )
        try:
            hourglass = Hourglass.parse(self.hourglass_config, self.hourglass_resampling)
            if self.model != "auto":
                return replace(PRESETS[self.model], hourglass=hourglass)
        except ValueError as error:
            raise UserError(str(error)) from None
        assert start is not None
        found = native.architecture_of(start, source)
        if found.hourglass != hourglass:
            raise UserError(
                f"--hourglass_config {self.hourglass_config!r}: {source} has "
                f"{found.hourglass or 'the plain encoder'}; give {native.flags_of(found)}"
            )
        return found


@dataclass(frozen=True)
class PretrainingRecipe:
    """Contrastive pre-training on audio alone."""

    command: ClassVar[str] = "pretrain"

    data: DataOptions = DataOptions()
    crop: CropOptions = CropOptions()
    model: ModelOptions = ModelOptions()
    regularisation: Regularisation = Regularisation()
    masking: Masking = Masking()
    objective: ContrastiveObjective = ContrastiveObjective()
    optimizer: OptimizerOptions = OptimizerOptions()
    schedule: ScheduleOptions = ScheduleOptions()
    precision: PrecisionOptions = PrecisionOptions()
    run: RunOptions = RunOptions()
    probe: ProbeOptions = ProbeOptions()

    def build_task(
        self, device: torch.device, resume_from: ResumePoint | None = None
    ) -> "PretrainingTask":
        """The task on `device`; a resumed one takes its architecture from the checkpoint."""
        return PretrainingTask(self, device, resume_from)


@dataclass(frozen=True)
class DrawSubBatch:
    """Draws a sub-batch's masks and distractors, inside a loader worker."""

    conv_layers: tuple[tuple[int, int, int], ...]
    masking: Masking
    distractors: int
    purpose: str

    def __call__(self, lengths: list[int], key: tuple[int, ...]) -> SubBatch:
        frames = [frame_count(n, self.conv_layers) for n in lengths]
        masked = draw_masks(self.masking, frames, self.purpose, key)
        distractors = draw_distractors(
            len(frames),
            len(masked[0]),
            self.distractors,
            randomness.numpy_generator(f"{self.purpose} distractors", *key),
        )
        seed = randomness.key(f"{self.purpose} gumbel", *key)
        return SubBatch(np.stack(masked), distractors, seed)


class PretrainingTask:
    """Contrastive pre-training on the crops of a filelist."""

    selection, file_prefix, memory_hint = "loss", FILE_PREFIX, MEMORY_HINT
    trained = None
    console = {"loss": "loss", "accuracy": "accuracy"}

    def __init__(
        self,
        recipe: PretrainingRecipe,
        device: torch.device,
        resume_from: ResumePoint | None = None,
    ):
        """`resume_from`: the checkpoint of this task to resume, which then has the weights."""
        data, crop, run, masking = recipe.data, recipe.crop, recipe.run, recipe.masking
        regularisation, objective = recipe.regularisation, recipe.objective
        init_from, weights = recipe.model.init_from, None
        if resume_from is not None:
            architecture = recipe.model.architecture(resume_from.content, str(resume_from.path))
        else:
            weights = checkpoints.read_checkpoint(init_from) if init_from else None
            architecture = recipe.model.architecture(weights, init_from)
        check_settings(data, crop, architecture, masking)
        self.data, self.crop, self.architecture = data, crop, architecture
        self.regularisation, self.masking, self.objective = regularisation, masking, objective
        self.run, self.device, self.max_update = run, device, recipe.schedule.max_update
        named = read_manifests("--train_subset", data.dataset_dir, data.train_subset)
        corpora = filter_corpora(
            {name: at_speeds(manifest, data.speeds) for name, manifest in named.items()},
            lambda u: u.samples >= crop.min_sample_size,
            f"are shorter than --min_sample_size {crop.min_sample_size} and are skipped",
        )
        valid_corpora = filter_corpora(
            read_manifests("--valid_subset", data.dataset_dir, data.valid_subset),
            lambda u: frame_count(u.samples, architecture.conv_layers) >= MIN_FRAMES,
            "are too short to mask and are skipped",
        )
        utterances, self.mixture, self.plan = plan_batches(
            corpora, data, run.seed, crop.max_sample_size
        )
        self.dataset = self._dataset(utterances, "train")
        self.valid_datasets = {name: self._dataset(u, "valid") for name, u in valid_corpora.items()}

        randomness.reseed("weights", run.seed)
        source = init_from
        # What does not fit is refused when the state is restored, which names the differences.
        if resume_from is not None and native.is_pretraining(resume_from.content, architecture):
            weights, source = resume_from.content, str(resume_from.path)
        with nullcontext() if weights is None else shapes_only():
            self.model = Wav2Vec2ForPretraining.from_config(architecture, regularisation, objective)
        if weights is not None:
            native.load_pretraining(self.model, weights, source, architecture)
        self.model.to(device)
        kernels.install(self.model, device)
        self.model.wav2vec2.feature_extractor.requires_grad_(regularisation.feature_grad_mult > 0)
        self.recipe = recipe_of(
            recipe.command,
            architecture,
            data,
            utterances,
            self.mixture,
            self.plan,
            *(crop, regularisation, masking, objective),
        )
        self.recipe["init_from"] = (
            digest_of_start(init_from, resume_from, "init_from") if init_from else None
        )

        self.probe_frequency = recipe.probe.probe
        self._probe = self._prepare_probe(recipe.probe)
        self._probe_references: dict[str, float] = {}

    def _prepare_probe(self, options: ProbeOptions) -> Probe | None:
        """Read what probes need, in the process that makes them."""
        if not (options.probe and distributed.is_main()):
            return None
        default = self.data.train_subset[0], self.data.valid_subset[0]
        first, second = options.probe_subset or default
        try:
            data = ProbeData.read(
                self.data.dataset_dir,
                (first, second),
                options.probe_labels,
                options.probe_minutes,
                self.architecture,
            )
        except UserError as error:
            raise UserError(f"--probe {options.probe}: {error}") from None
        return Probe(data, self.architecture, self.device)

    def probe(self) -> dict[str, float]:
        if self._probe is None:
            return {}
        if not self._probe_references:
            random = min(self._probe.random_weights().values())
            self._probe_references = {"random weights": random, LOG_MEL: self._probe.log_mel()}
        return self._probe.of_weights(self.model.wav2vec2.state_dict()) | self._probe_references

    def _dataset(self, utterances: Sequence[Utterance], purpose: str) -> UtteranceDataset:
        training = purpose == "train"
        return UtteranceDataset(
            utterances,
            seed=self.run.seed if training else 0,  # validation is the same for every seed
            crop=training,
            max_samples=self.crop.max_sample_size,
            normalize_input=self.architecture.normalize_input,
            normalize_eps=self.architecture.normalize_eps,
            draw=DrawSubBatch(
                self.architecture.conv_layers, self.masking, self.objective.distractors, purpose
            ),
        )

    def begin_update(self, update: int) -> None:
        self.kept_layers = draw_layers(
            self.architecture.layers, self.regularisation.layerdrop, self.run.seed, update
        )
        factor = draw_factor(self.architecture.factors, self.run.seed, update)
        self.model.wav2vec2.set_factor(factor)

    def forward(self, batch: TrainingBatch, update: int) -> MicroBatchResult:
        temperature = gumbel_temperature(
            update, self.max_update, *self.objective.gumbel_temperature
        )
        output = self.model(
            PretrainingBatch(batch.waveforms, batch.draws),
            temperature=temperature,
            kept_layers=self.kept_layers,
        )
        frames = frame_count(batch.waveforms.shape[1], self.architecture.conv_layers)
        return MicroBatchResult(
            loss=output.loss,
            targets=output.targets,
            tokens=output.targets,
            frames=len(batch.ids) * frames,
            audio_seconds=batch.audio_seconds,
            sums={
                "loss": output.loss,
                "contrastive_loss": output.contrastive_loss,
                "diversity_loss": output.diversity_loss,
                "features_penalty": output.features_penalty,
                "chance_loss": output.chance_loss,
                "correct": output.correct,
                "prob_perplexity": output.prob_perplexity,
                "code_perplexity": output.code_perplexity,
                "temperature": temperature * len(batch.draws),
                "sub_batches": len(batch.draws),
                **self.mixture.seconds(batch),
            },
        )

    def summarise(self, totals: Totals) -> dict[str, float]:
        sums, targets = totals.sums, totals.targets
        return {
            "loss": sums["loss"] / targets / LN2,
            "contrastive_loss": sums["contrastive_loss"] / targets / LN2,
            "diversity_loss": sums["diversity_loss"] / targets / LN2,
            "features_penalty": sums["features_penalty"] / targets / LN2,
            "accuracy": sums["correct"] / targets,
            "prob_perplexity": sums["prob_perplexity"] / sums["sub_batches"],
            "code_perplexity": sums["code_perplexity"] / sums["sub_batches"],
            "temperature": sums["temperature"] / sums["sub_batches"],
            **self.mixture.measured(totals),
        }

    def collapse_reason(self, totals: Totals) -> str | None:
        """A collapsed codebook, or representations that are all alike."""
        metrics = self.summarise(totals)
        codes, accuracy = metrics["code_perplexity"], metrics["accuracy"]
        groups, entries = self.architecture.codebook_groups, self.architecture.codebook_entries
        loss, chance = totals.sums["contrastive_loss"], totals.sums["chance_loss"]
        fix = "lower --learning_rate, raise the diversity weight in --loss_weights"
        if codes < COLLAPSED_CODES * groups or (
            accuracy > 0.99 and codes < 0.05 * groups * entries
        ):
            return (
                f"codebook collapsed: {codes:.1f} of {groups * entries} codes in use, accuracy "
                f"{accuracy:.3f}; {fix}"
            )
        if abs(loss - chance) < 1e-4 * chance:
            return (
                f"representations collapsed: the contrastive loss stands at "
                f"{metrics['contrastive_loss']:.3f}, as if all candidates were alike; {fix}"
            )
        return None

    def problem(self, totals: Totals, warmed_up: bool) -> str | None:
        """Few codes in use, of those that the masked frames of a sub-batch can use at all."""
        metrics = self.summarise(totals)
        groups, entries = self.architecture.codebook_groups, self.architecture.codebook_entries
        usable = groups * min(entries, totals.targets / totals.sums["sub_batches"])
        problem = codebook_problem(
            metrics["code_perplexity"], metrics["accuracy"], usable, warmed_up
        )
        objective = self.objective
        advice = codebook_advice(objective.loss_weights[0], objective.keep_equal_distractors)
        return problem and f"{problem}; {advice}"

    def validate(self, sums: Sums) -> None:
        shape = (self.architecture.codebook_groups, self.architecture.codebook_entries)
        none = torch.zeros(shape, dtype=torch.float64, device=self.device)
        # Named from the start: with few batches a process may have none, and names must match.
        zeros = {"loss": 0.0, "correct": 0.0, "targets": 0.0, "codes": none, "probs": none}
        factors = self.architecture.factors or (None,)
        for name, dataset in self.valid_datasets.items():
            for factor in factors:
                add_apart(sums, name, zeros, factor)
            for batch in validation_batches(
                dataset, self.data.max_tokens, self.run.num_workers or 0, self.device
            ):
                padded = PretrainingBatch(batch.waveforms, batch.draws, batch.lengths)
                for factor in factors:
                    self.model.wav2vec2.set_factor(factor)
                    output = self.model(padded, temperature=1.0)
                    values = {
                        "loss": output.contrastive_loss,
                        "correct": output.correct,
                        "targets": output.targets,
                        "codes": output.code_counts,
                        "probs": output.prob_sums,
                    }
                    add_apart(sums, name, values, factor)

    def summarise_validation(self, sums: dict[str, Any]) -> dict[str, float]:
        """Contrastive loss (bits) and accuracy over masked frames; perplexities of the whole set.

        The perplexities are those of the set's mean assignment, so that, like everything here,
        they do not depend on the batch size.
        """

        def summarise(sums: dict[str, Any]) -> dict[str, float]:
            targets = sums["targets"]
            return {
                "loss": sums["loss"] / targets / LN2,
                "accuracy": sums["correct"] / targets,
                "prob_perplexity": float(perplexity(sums["probs"] / targets)),
                "code_perplexity": float(perplexity(sums["codes"] / targets)),
                "ntokens": targets,
            }

        return report_apart(self.valid_datasets, sums, summarise)

    def rank(self, validation: Mapping[str, float]) -> tuple[float, ...]:
        """The best checkpoint is that with the lowest loss."""
        return (validation["loss"],)

    def checkpoint_content(self) -> dict[str, Any]:
        return native.pretraining_content(self.architecture)


def check_settings(
    data: DataOptions, crop: CropOptions, architecture: Architecture, masking: Masking
) -> None:
    """UserError for settings that do not go together."""
    if masking.mask_prob == 0:
        raise UserError(
            "--mask_prob 0: pre-training learns from masked frames only; give a probability "
            "above 0 (the recipes: 0.65)"
        )
    if crop.max_sample_size > data.max_tokens:
        raise UserError(
            f"--max_sample_size {crop.max_sample_size} exceeds --max_tokens {data.max_tokens}; "
            "lower it, or raise --max_tokens"
        )
    if frame_count(crop.min_sample_size, architecture.conv_layers) < MIN_FRAMES:
        raise UserError(
            f"--min_sample_size {crop.min_sample_size}: gives fewer than {MIN_FRAMES} frames, too "
            "few to mask; raise it"
        )
