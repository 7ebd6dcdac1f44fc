"""CTC fine-tuning on transcribed audio."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.data.dataset import TrainingBatch, UtteranceDataset
from common.data.speeds import PlayedUtterance, at_speeds
from common.runtime import randomness
from common.training.checkpoint import ResumePoint
from common.training.meter import Sums, Totals
from common.training.optimizer import OptimizerOptions
from common.training.precision import PrecisionOptions
from common.training.schedule import ScheduleOptions
from common.training.task import MicroBatchResult
from common.training.trainer import RunOptions
from tasks.adaptation import AdaptOptions, freeze_start, new_adapters
from tasks.data import (
    FILE_PREFIX,
    LN2,
    MEMORY_HINT,
    DataOptions,
    digest_of_start,
    draw_factor,
    draw_layers,
    draw_masks,
    filter_utterances,
    plan_batches,
    recipe_of,
    validation_batches,
)
from tasks.mixture import add_apart, read_manifests, report_apart
from wav2vec2 import kernels
from wav2vec2.cli.console import notice
from wav2vec2.cli.errors import UserError
from wav2vec2.config import Architecture, ChannelMasking, Hourglass, Masking, Regularisation
from wav2vec2.ctc import BLANK, CTCOutput, Wav2Vec2ForCTC, ctc_loss
from wav2vec2.decoding.alignment import frames_needed
from wav2vec2.decoding.greedy import GreedyDecoder
from wav2vec2.feature_extractor import frame_count
from wav2vec2.files.filelists import Manifest, Utterance, read_labels
from wav2vec2.files.torch_file import digest
from wav2vec2.inference.scoring import Score, recognise
from wav2vec2.interop import checkpoints, native
from wav2vec2.masking import draw_channel_masks
from wav2vec2.text.error_rate import ErrorCounts
from wav2vec2.text.vocabulary import WORD_END, Spelling, Vocabulary
from wav2vec2.trunk import Wav2Vec2

WORDLESS_WER = 90.0
"""Word error rate, percent, above which hardly any word is right: which model is closer to its
first words then shows in the units."""

EXAMPLES = 3
"""Hypothesis and reference pairs that a validation prints."""

MOST_LISTED = 100
"""New rows of the output layer that a line lists."""


@dataclass(frozen=True)
class FinetuneOptions:
    """Fine-tuning"""

    pretrained_model: str = "results/pretrain_base/wav2vec2_update400000.pt"
    """Checkpoint to start from, pre-trained or a recogniser: ours, fairseq's, NVIDIA's, a Hugging
    Face folder or a Hub id.  Its architecture, hourglass included, is kept.  Of a recogniser, the
    output rows of symbols that the dictionary has are kept, too."""
    language: str | None = None
    """Of a recogniser with adapters for several languages, as MMS has: the code of the language to
    start from, such as deu."""
    reset_head: bool = False
    """Start with a new output layer, even if the checkpoint has one."""
    labels: str = "ltr"
    """Extension of the label files; the dictionary is dict.<labels>.txt."""
    final_dropout: float = 0.0
    """Dropout probability before the output layer."""
    freeze_finetune_updates: int = 0
    """First updates in which only the output layer learns."""
    hourglass_config: str | None = None
    """If given, the checkpoint's hourglass must be this one ('' for the plain encoder)."""
    random_weights: bool = False
    """Take only the architecture from the checkpoint: the baseline that shows what pre-training
    is worth."""
    unknown_symbols: Literal["error", "unk"] = "error"
    """Label symbols outside the dictionary: refuse them, or train them as <unk>."""
    short_utterances: Literal["error", "skip"] = "error"
    """Utterances with fewer frames than their labels need: refuse them, or skip them."""

    def __post_init__(self) -> None:
        if not 0 <= self.final_dropout < 1:
            raise UserError(f"--final_dropout {self.final_dropout}: must be within [0, 1)")


@dataclass(frozen=True)
class FinetuningRecipe:
    """CTC training on transcribed audio, by default of Base on 100 hours."""

    command: ClassVar[str] = "finetune"

    data: DataOptions = DataOptions(
        train_subset=("train-clean-100",),
        max_tokens=3_200_000,
        num_concat_batches=1,
        batches_per_update=8,
    )
    finetune: FinetuneOptions = FinetuneOptions()
    adapt: AdaptOptions = AdaptOptions()
    regularisation: Regularisation = Regularisation(
        dropout=0.0,
        dropout_input=0.0,
        attention_dropout=0.0,
        activation_dropout=0.1,
        layerdrop=0.1,
        feature_grad_mult=0.0,
    )
    masking: Masking = Masking()
    channel_masking: ChannelMasking = ChannelMasking()
    optimizer: OptimizerOptions = OptimizerOptions(adam_eps=1e-8, weight_decay=0.0, clip_norm=0.0)
    schedule: ScheduleOptions = ScheduleOptions(
        learning_rate=3e-5,
        schedule="three_stage",
        max_update=80_000,
        warmup_updates=8_000,
        hold_updates=32_000,
    )
    precision: PrecisionOptions = PrecisionOptions()
    run: RunOptions = RunOptions(output_dir="results/finetune_base_100h", save_frequency=10)

    def build_task(
        self, device: torch.device, resume_from: ResumePoint | None = None
    ) -> "FinetuningTask":
        """The task on `device`; a resumed one does not need the pre-trained model any more."""
        return FinetuningTask(self, device, resume_from)


@dataclass
class MaskDraws:
    """The masks of a sub-batch."""

    time_mask: Any
    """bool `[rows, frames of the longest]`."""
    channel_mask: Any
    """bool `[rows, D]`."""


@dataclass(frozen=True)
class DrawMasks:
    """Draws a sub-batch's time and channel masks, inside a loader worker."""

    architecture: Architecture
    masking: Masking
    channel_masking: ChannelMasking

    def __call__(self, lengths: list[int], key: tuple[int, ...]) -> MaskDraws:
        frames = [frame_count(n, self.architecture.conv_layers) for n in lengths]
        time_mask = np.zeros((len(frames), max(frames)), dtype=bool)
        for row, positions in zip(time_mask, draw_masks(self.masking, frames, "train", key)):
            row[positions] = True
        channel_mask = draw_channel_masks(
            len(frames),
            self.architecture.dim,
            probability=self.channel_masking.mask_channel_prob,
            span=self.channel_masking.mask_channel_span,
            generator=randomness.numpy_generator("train channel mask", *key),
        )
        return MaskDraws(time_mask, channel_mask)


class FinetuningTask:
    """CTC training of a pre-trained model on transcribed utterances."""

    selection, file_prefix, memory_hint = "wer", FILE_PREFIX, MEMORY_HINT
    probe_frequency = 0

    def __init__(
        self,
        recipe: FinetuningRecipe,
        device: torch.device,
        resume_from: ResumePoint | None = None,
    ):
        """`resume_from`: the checkpoint of this task to resume; the pre-trained one is then not
        needed any more."""
        options, run, max_update = recipe.finetune, recipe.run, recipe.schedule.max_update
        self.data, self.options, self.regularisation = recipe.data, options, recipe.regularisation
        self.run, self.device, self.adapt = run, device, recipe.adapt
        if options.freeze_finetune_updates >= max_update:
            notice(
                f"warning: --freeze_finetune_updates {options.freeze_finetune_updates}: in "
                f"{max_update} updates only the output layer learns; lower it below --max_update"
            )
        if options.random_weights and recipe.adapt.adapt != "none":
            raise UserError(
                f"--adapt {recipe.adapt.adapt}: trains little beside a start, which "
                "--random_weights does not take; remove one of the two"
            )
        if resume_from is None:
            source = options.pretrained_model
            pretrained = checkpoints.read_checkpoint(source, language=options.language)
        else:
            source, pretrained = str(resume_from.path), resume_from.content
            if native.ADAPTED in pretrained:
                pretrained = checkpoints.read_base(pretrained, source)
        self.architecture = recipe.adapt.architecture(
            native.architecture_of(pretrained, source), pretrained, source
        )
        self._check_hourglass(source)
        self.factor_wer: dict[str, float] = {}
        if resume_from is not None:
            self.factor_wer = resume_from.content.get(native.FACTOR_WER, {})
        self.vocabulary = self._read_vocabulary()
        self.console = {"loss": "loss", "wer": "WER", "uer": self.vocabulary.spelling.unit_rate}

        utterances, labels = self._read_training_set()
        self._read_validation_sets()
        self.dataset = UtteranceDataset(
            utterances,
            seed=run.seed,
            crop=False,
            normalize_input=self.architecture.normalize_input,
            normalize_eps=self.architecture.normalize_eps,
            labels=labels,
            draw=DrawMasks(self.architecture, recipe.masking, recipe.channel_masking),
        )

        randomness.reseed("weights", run.seed)
        fresh = resume_from is None and options.random_weights
        with nullcontext() if fresh else native.without_memory():
            trunk = Wav2Vec2.from_config(self.architecture, self.regularisation)
        self.model = Wav2Vec2ForCTC(
            trunk,
            dim=self.architecture.dim,
            vocabulary=len(self.vocabulary),
            final_dropout=options.final_dropout,
        )
        if resume_from is not None:
            native.load_pretrained_trunk(self.model, self._with_adapters(pretrained), source)
        elif not fresh:
            self._load_start(pretrained, source)
        self.trained = freeze_start(self.model, recipe.adapt)
        self._refer_to_start(pretrained, resume_from)
        self.model.to(device)
        kernels.install(self.model, device)
        self.recipe = recipe_of(
            recipe.command,
            self.architecture,
            self.data,
            utterances,
            self.mixture,
            self.plan,
            *(options, self.regularisation, recipe.masking, recipe.channel_masking),
        )
        del self.recipe["hourglass_config"]  # only confirms the architecture
        # The content of the files counts, not their place.
        self.recipe["pretrained_model"] = digest_of_start(
            options.pretrained_model, resume_from, "pretrained_model"
        )
        self.recipe["language"] = options.language or None
        self.recipe["reset_head"] = options.reset_head or None  # older runs do not have it
        self.recipe |= recipe.adapt.settings()
        subwords = self.vocabulary.subwords
        dictionary = self.vocabulary.to_text().encode() + (subwords.content if subwords else b"")
        self.recipe["dictionary"] = digest(dictionary)

    def _load_start(self, content: dict[str, Any], source: str) -> None:
        """Load the weights of a checkpoint, and print what becomes of a recogniser's output
        layer."""
        native.load_pretrained_trunk(self.model, self._with_adapters(content), source)
        if content["kind"] != "ctc":
            return
        if self.options.reset_head:
            notice(f"output layer: new (--reset_head); that of {source} is not used")
            return
        trained = self.options.unknown_symbols == "unk"
        new = native.load_output_rows(
            self.model, self.vocabulary, content, source, train_unknown=trained
        )
        notice(f"output layer: {describe_rows(new, len(self.vocabulary), source)}")
        theirs = native.output_vocabulary(content, source).symbols
        if note := other_case_note(new, theirs, source):
            notice(note)

    def _with_adapters(self, content: dict[str, Any]) -> dict[str, Any]:
        """The content of a start, with new adapter layers if it lacks those to train."""
        if self.adapt.adapt != "adapters" or content["architecture"].get("adapter_dim"):
            return content
        return {**content, "model": {**content["model"], **new_adapters(self.model)}}

    def _refer_to_start(self, content: dict[str, Any], resume_from: ResumePoint | None) -> None:
        """Prepare what checkpoints say of a start whose weights they do not hold."""
        self.reference: dict[str, Any] = {}
        if self.trained is None:
            return
        if resume_from is not None and native.ADAPTED in resume_from.content:
            found = resume_from.content[native.ADAPTED]
        else:
            options = self.options
            found = checkpoints.reference(options.pretrained_model, options.language, content)
            weights = dict(self.model.named_parameters())
            few = sum(weights[name].numel() for name in self.trained)
            notice(f"--adapt {self.adapt.adapt}: {few:,} parameters learn, output layer included")
        self.reference = {native.ADAPTED: {**found, **self.adapt.described()}}

    def _check_hourglass(self, source: str) -> None:
        """The architecture is the checkpoint's: a flag may confirm, but not contradict it."""
        wanted, found = self.options.hourglass_config, self.architecture.hourglass
        if wanted is None:
            return
        try:
            given = Hourglass.parse(wanted, found.resampling if found else "naive")
        except ValueError as error:
            raise UserError(str(error)) from None
        if given != found:
            raise UserError(
                f"--hourglass_config {wanted!r}: {source} has "
                f"{found or 'the plain encoder'}; leave HOURGLASS_CONFIG unset, or pre-train again"
            )

    def _read_vocabulary(self) -> Vocabulary:
        path = Path(self.data.dataset_dir) / f"dict.{self.options.labels}.txt"
        vocabulary = Vocabulary.from_file(path)
        if vocabulary.spelling is Spelling.TOKENS:
            notice(
                f"{path}: has no word separator '{WORD_END}', so each symbol counts as a word: wer "
                "is the same as uer"
            )
        return vocabulary

    def _read_training_set(self) -> tuple[list[Utterance], list[list[int]]]:
        """The utterances to train on, with the ids of their labels; also plans the batches."""
        corpora: dict[str, list[Utterance]] = {}
        labels: list[list[int]] = []
        data = self.data
        named = read_manifests("--train_subset", data.dataset_dir, data.train_subset)
        for name, manifest in named.items():
            encoded = self._encode(manifest, read_labels(manifest, self.options.labels))
            corpora[name] = self._trainable(at_speeds(manifest, data.speeds), encoded)
            labels += [encoded[u.id] for u in corpora[name]]
        utterances, self.mixture, self.plan = plan_batches(corpora, data, self.run.seed)
        return utterances, labels

    def _read_validation_sets(self) -> None:
        self.valid_datasets: dict[str, UtteranceDataset] = {}
        self.references: dict[str, dict[str, str]] = {}
        data, conv_layers = self.data, self.architecture.conv_layers
        named = read_manifests("--valid_subset", data.dataset_dir, data.valid_subset)
        for name, manifest in named.items():
            references = read_labels(manifest, self.options.labels)
            self._report_unknown(manifest, references.values(), "count as errors in validation")
            utterances = self._within_budget(manifest, manifest.utterances)
            if not any(frame_count(u.samples, conv_layers) for u in utterances):
                raise UserError(
                    f"{manifest.path}: none of its utterances is long enough for a frame"
                )
            self.references[name] = references
            self.valid_datasets[name] = UtteranceDataset(
                utterances,
                seed=self.run.seed,
                crop=False,
                normalize_input=self.architecture.normalize_input,
                normalize_eps=self.architecture.normalize_eps,
            )

    def _encode(self, manifest: Manifest, lines: dict[str, str]) -> dict[str, list[int]]:
        """Label lines -> ids by utterance; symbols the dictionary lacks are refused or counted."""
        path = manifest.path.with_suffix(f".{self.options.labels}")
        for number, utterance in enumerate(manifest.utterances, start=1):
            symbols = self.vocabulary.unknown(lines[utterance.id])
            if symbols and self.options.unknown_symbols == "error":
                raise UserError(
                    f"{path}:{number}: {symbols[0]!r} (utterance {utterance.id}) is not in "
                    f"dict.{self.options.labels}.txt; correct the transcript, write the "
                    "dictionary again, or pass --unknown_symbols unk"
                )
        self._report_unknown(manifest, lines.values(), "are trained as <unk>")
        return {key: self.vocabulary.encode(line) for key, line in lines.items()}

    def _report_unknown(self, manifest: Manifest, lines: Iterable[str], what: str) -> None:
        unknown = self.vocabulary.list_unknown(lines)
        if unknown:
            path = manifest.path.with_suffix(f".{self.options.labels}")
            notice(f"{path}: symbols that the dictionary lacks {what}: {unknown}")

    def _trainable(self, manifest: Manifest, labels: dict[str, list[int]]) -> list[Utterance]:
        """Utterances that fit a batch and have enough frames for their labels: CTC needs one per
        label and one between equal neighbours."""
        keep = []
        for utterance in manifest.utterances:
            ids = labels[utterance.id]
            needed = frames_needed(ids)
            frames = frame_count(utterance.samples, self.architecture.conv_layers)
            keep.append(frames >= max(needed, 1))
            recorded = not isinstance(utterance, PlayedUtterance)
            if not keep[-1] and recorded and self.options.short_utterances == "error":
                raise UserError(
                    f"{manifest.path}:{utterance.line}: {utterance.samples} samples give "
                    f"{frames} frames, too few for its {len(ids)} labels, which need {needed}; "
                    "correct the pair, or pass --short_utterances skip"
                )
        kept = filter_utterances(manifest, keep, "are too short for their labels and are skipped")
        return self._within_budget(manifest, kept)

    def _within_budget(
        self, manifest: Manifest, utterances: Sequence[Utterance]
    ) -> list[Utterance]:
        """The utterances that fit a batch; the memory for longer ones was never planned."""
        limit = self.data.max_tokens
        return filter_utterances(
            Manifest(manifest.path, manifest.root, tuple(utterances)),
            [u.samples <= limit for u in utterances],
            f"are longer than --max_tokens {limit} samples and are skipped",
        )

    def begin_update(self, update: int) -> None:
        self.kept_layers = draw_layers(
            self.architecture.layers, self.regularisation.layerdrop, self.run.seed, update
        )
        factor = draw_factor(self.architecture.factors, self.run.seed, update)
        self.model.wav2vec2.set_factor(factor)
        self.frozen = update <= self.options.freeze_finetune_updates
        trunk = self.model.wav2vec2
        for name, parameter in trunk.named_parameters(prefix="wav2vec2"):
            learns = self.trained is None or name in self.trained
            parameter.requires_grad_(learns and not self.frozen)
        if self.regularisation.feature_grad_mult == 0:
            trunk.feature_extractor.requires_grad_(False)

    def forward(self, batch: TrainingBatch, update: int) -> MicroBatchResult:
        frames = int(frame_count(batch.lengths, self.architecture.conv_layers).max())
        time_masks = [F.pad(d.time_mask, (0, frames - d.time_mask.shape[1])) for d in batch.draws]
        output = self.model(
            batch.waveforms,
            batch.lengths,
            time_mask=torch.cat(time_masks),
            channel_mask=torch.cat([d.channel_mask for d in batch.draws]),
            kept_layers=self.kept_layers,
            freeze_encoder=self.frozen,
        )
        labels, label_lengths = concatenate(batch.labels)
        loss = ctc_loss(output.logits, output.frame_lengths, labels, label_lengths)
        return MicroBatchResult(
            loss=loss,
            targets=len(batch.ids),
            tokens=int(label_lengths.sum()),
            frames=int(output.frame_lengths.sum()),
            audio_seconds=batch.audio_seconds,
            sums={"loss": loss, **self.mixture.seconds(batch)},
        )

    def summarise(self, totals: Totals) -> dict[str, float]:
        loss = totals.sums["loss"] / totals.targets / LN2
        return {"loss": loss, **self.mixture.measured(totals)}

    def collapse_reason(self, totals: Totals) -> str | None:
        return None  # a recogniser that does not learn shows in its validations

    def problem(self, totals: Totals, warmed_up: bool) -> str | None:
        return None

    def probe(self) -> dict[str, float]:
        return {}

    def validate(self, sums: Sums) -> None:
        for name in self.valid_datasets:
            self._validate(name, sums)

    def _validate(self, name: str, sums: Sums) -> None:
        factors = self.architecture.factors or (None,)
        scores = {factor: Score(self.vocabulary) for factor in factors}
        references, greedy = self.references[name], GreedyDecoder(self.vocabulary)
        # Named from the start: with few batches a process may have none, and names must match.
        zeros = dict.fromkeys(("loss", "utterances", "blanks", "frames"), 0.0)
        for factor in factors:
            add_apart(sums, name, zeros, factor)
        examples: list[str] = []
        for batch in validation_batches(
            self.valid_datasets[name], self.data.max_tokens, self.run.num_workers or 0, self.device
        ):
            for factor in factors:
                self.model.wav2vec2.set_factor(factor)
                transcripts, audible, output = recognise(self.model, greedy, batch)
                for key, hypothesis in zip(batch.ids, transcripts):
                    reference = references[key].split()
                    scores[factor].add(hypothesis, reference)
                    if factor == factors[0] and len(examples) < 2 * EXAMPLES:
                        examples.append(f"  {key}  reference:  {self.vocabulary.words(reference)}")
                        examples.append(f"  {key}  hypothesis: {hypothesis.words}")
                values: dict[str, Any] = {"utterances": len(batch.ids)}
                if output is not None:
                    labels = [self.vocabulary.encode(references[key]) for key in audible.ids]
                    loss = ctc_loss(output.logits, output.frame_lengths, *concatenate(labels))
                    frames = int(output.frame_lengths.sum())
                    values |= {"loss": loss, "blanks": count_blanks(output), "frames": frames}
                add_apart(sums, name, values, factor)
        for factor, score in scores.items():
            words, units = score.words, score.units
            errors = {"word_errors": words.errors, "unit_errors": units.errors}
            counts = {"words": words.reference, "units": units.reference}
            add_apart(sums, name, {**errors, **counts}, factor)
        notice("\n".join(examples))

    def summarise_validation(self, sums: dict[str, Any]) -> dict[str, float]:
        """Corpus-level WER and UER of greedy transcripts, and the loss, over the whole set.

        Of an elastic hourglass, the WER of each factor is kept for the checkpoints.
        """

        def summarise(sums: dict[str, Any]) -> dict[str, float]:
            return {
                "loss": sums["loss"] / sums["utterances"] / LN2,
                "wer": ErrorCounts(int(sums["word_errors"]), int(sums["words"])).rate,
                "uer": ErrorCounts(int(sums["unit_errors"]), int(sums["units"])).rate,
                "blank_share": 100 * sums["blanks"] / sums["frames"],
            }

        metrics = report_apart(self.valid_datasets, sums, summarise)
        rates = {str(n): metrics[f"factor_{n}_wer"] for n in self.architecture.factors}
        # Infinite where no reference has a word.
        self.factor_wer = {n: rate for n, rate in rates.items() if math.isfinite(rate)}
        if self.factor_wer:
            notice(native.describe_factors(self.factor_wer))
        return metrics

    def rank(self, validation: Mapping[str, float]) -> tuple[float, ...]:
        """The best checkpoint is that with the lowest WER; while every WER is above WORDLESS_WER,
        that with the lowest UER, of equal ones that with the lowest loss."""
        if validation["wer"] <= WORDLESS_WER:
            return (0.0, validation["wer"])
        return (1.0, validation.get("uer", math.inf), validation.get("loss", math.inf))

    def checkpoint_content(self) -> dict[str, Any]:
        content = native.ctc_content(self.architecture, self.vocabulary, self.options.labels)
        rates = {native.FACTOR_WER: self.factor_wer} if self.factor_wer else {}
        return content | self.reference | rates


def other_case_note(new: Sequence[str], theirs: Collection[str], source: str) -> str:
    """The line for a start whose symbols are those of the new rows in the other case; or empty."""
    found = [symbol for symbol in new if symbol.swapcase() in theirs and symbol.isalpha()]
    if 2 * len(found) <= len(new):
        return ""
    case = "lower" if found[0].isupper() else "upper"
    return (
        f"note: {source} has {len(found)} of the new rows' symbols in {case} case; import the "
        f"transcripts with --case {case} to keep its rows"
    )


def describe_rows(new: Sequence[str], units: int, source: str) -> str:
    """Which of an output layer's `units` rows are from `source`; `new`: symbols of the others."""
    if not new:
        return f"all {units} rows from {source}"
    listed = " ".join(new[:MOST_LISTED])
    more = f" and {len(new) - MOST_LISTED} more" if len(new) > MOST_LISTED else ""
    return f"{units - len(new)} of {units} rows from {source}; new rows: {listed}{more}"


def concatenate(labels: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Label ids of each row -> all of them in one `[sum]` tensor, and each row's count."""
    return (
        torch.tensor([i for row in labels for i in row], dtype=torch.long),
        torch.tensor([len(row) for row in labels]),
    )


def count_blanks(output: CTCOutput) -> Tensor:
    """Valid frames whose largest logit is the blank's."""
    frames = torch.arange(output.logits.shape[1])
    valid = frames < output.frame_lengths[:, None]
    return ((output.logits.argmax(-1) == BLANK) & valid.to(output.logits.device)).sum()
