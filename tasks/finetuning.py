"""CTC fine-tuning on transcribed audio."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from common import checkpoint, randomness
from common.dataset import AudioBatch, UtteranceDataset, load_batches
from common.distributed import notice
from common.error_rate import ErrorCounts
from common.errors import UserError
from common.manifest import Manifest, Utterance, read_labels, read_manifest
from common.metrics import Sums
from common.step import MicroBatchResult
from common.training import RunOptions
from common.vocabulary import BLANK, Vocabulary
from tasks.data import (
    LN2,
    DataOptions,
    draw_layers,
    left_out,
    plan_batches,
    recipe_of,
    validation_requests,
)
from tasks.recognition import Score, recognise
from wav2vec2.config import Masking, Regularisation
from wav2vec2.ctc import CTCOutput, Wav2Vec2ForCTC, ctc_loss
from wav2vec2.feature_extractor import frame_count
from wav2vec2.interop import native
from wav2vec2.masking import draw_channel_masks, draw_time_masks


@dataclass(frozen=True)
class FinetuneOptions:
    """Fine-tuning"""

    pretrained_model: str = "results/pretrain_base/wav2vec2_update400000.pt"
    """Checkpoint of the pre-trained model; its architecture, hourglass included, is kept."""
    labels: str = "ltr"
    """Extension of the label files; the dictionary is dict.<labels>.txt."""
    freeze_finetune_updates: int = 0
    """First updates in which only the output layer learns."""
    hourglass: str | None = None
    """If given, the checkpoint's hourglass must be this one ('' for the plain encoder)."""
    random_weights: bool = False
    """Take only the architecture from the checkpoint: the baseline that shows what pre-training
    is worth."""
    unknown_symbols: Literal["error", "unk"] = "error"
    """What to do with label symbols outside the dictionary: refuse, or train them as <unk>."""
    short_utterances: Literal["error", "skip"] = "error"
    """What to do with utterances that have fewer frames than their labels need."""


@dataclass(frozen=True)
class DrawMasks:
    """Draws a sub-batch' time and channel masks, inside a loader worker."""

    conv_layers: tuple[tuple[int, int, int], ...]
    dim: int
    masking: Masking

    def __call__(self, lengths: list[int], key: tuple[int, ...]) -> tuple[list[Tensor], Tensor]:
        frames = [int(frame_count(n, self.conv_layers)) for n in lengths]
        masking = self.masking
        time = draw_time_masks(
            frames,
            probability=masking.mask_prob,
            span=masking.mask_span,
            distribution=masking.mask_distribution,
            other=masking.mask_other,
            generator=randomness.numpy_generator("train mask", *key),
            padded=len(set(frames)) > 1,
        )
        channels = draw_channel_masks(
            len(frames),
            self.dim,
            probability=masking.mask_channel_prob,
            span=masking.mask_channel_span,
            generator=randomness.numpy_generator("train channel mask", *key),
        )
        return [torch.as_tensor(row) for row in time], torch.as_tensor(channels)


class FinetuningTask:
    """CTC training of a pre-trained model on transcribed utterances."""

    selection = "wer"

    def __init__(
        self,
        data: DataOptions,
        options: FinetuneOptions,
        regularisation: Regularisation,
        masking: Masking,
        run: RunOptions,
        max_update: int,
        device: torch.device,
    ):
        self.data, self.options, self.regularisation = data, options, regularisation
        self.masking, self.run, self.device = masking, run, device
        if options.freeze_finetune_updates >= max_update:
            notice(
                f"warning: --freeze_finetune_updates {options.freeze_finetune_updates}: in "
                f"{max_update} updates only the output layer learns; lower it below --max_update"
            )
        pretrained = checkpoint.load(options.pretrained_model)
        self.architecture = native.architecture_of(pretrained, options.pretrained_model)
        self._check_hourglass()
        dictionary = Path(data.dataset_dir) / f"dict.{options.labels}.txt"
        self.vocabulary = Vocabulary.read(dictionary)

        train = read_manifest(data.dataset_dir, data.train_subset)
        labels = self._encode(train, read_labels(train, options.labels))
        utterances = self._trainable(train, labels)
        utterances = left_out(
            Manifest(train.path, train.root, tuple(utterances)),
            [u.samples <= data.max_tokens for u in utterances],
            f"are longer than --max_tokens {data.max_tokens} samples and are left out",
        )
        valid = read_manifest(data.dataset_dir, data.valid_subset)
        self.references = read_labels(valid, options.labels)
        self.valid_utterances = valid.utterances

        lengths = [u.samples for u in utterances]
        self.plan = plan_batches(utterances, lengths, data, run.seed, cropping=False)
        normalize = self.architecture.normalize_input
        self.dataset = UtteranceDataset(
            utterances,
            seed=run.seed,
            crop=False,
            normalize_input=normalize,
            labels=[labels[u.id] for u in utterances],
            draw=DrawMasks(self.architecture.conv_layers, self.architecture.dim, masking),
        )
        self.valid_dataset = UtteranceDataset(
            self.valid_utterances, seed=run.seed, crop=False, normalize_input=normalize
        )

        randomness.reseed("weights", run.seed)
        self.model = Wav2Vec2ForCTC.from_config(
            self.architecture, regularisation, len(self.vocabulary)
        )
        if not options.random_weights:
            native.load_pretrained_trunk(self.model, pretrained, options.pretrained_model)
        self.model.to(device)
        self.recipe = recipe_of(
            "finetune",
            self.architecture,
            data,
            utterances,
            self.plan,
            *(options, regularisation, masking),
        )

    def _check_hourglass(self) -> None:
        """The architecture is the checkpoint's: a flag may confirm, but not contradict it."""
        wanted, found = self.options.hourglass, self.architecture.hourglass
        if wanted is not None and wanted.replace(" ", "") != (str(found) if found else ""):
            raise UserError(
                f"--hourglass {wanted!r}: {self.options.pretrained_model} has "
                f"{found or 'the plain encoder'}; leave HOURGLASS_CONFIG unset, or pre-train anew"
            )

    def _encode(self, manifest: Manifest, lines: dict[str, str]) -> dict[str, list[int]]:
        """Label lines -> ids by utterance; symbols the dictionary lacks are refused or counted."""
        unknown: Counter[str] = Counter()
        path = manifest.path.with_suffix(f".{self.options.labels}")
        for number, utterance in enumerate(manifest.utterances, start=1):
            symbols = self.vocabulary.unknown(lines[utterance.id])
            if symbols and self.options.unknown_symbols == "error":
                raise UserError(
                    f"{path}:{number}: {symbols[0]!r} (utterance {utterance.id}) is not in "
                    f"dict.{self.options.labels}.txt; correct the transcript, write the "
                    "dictionary anew, or pass --unknown_symbols unk"
                )
            unknown.update(symbols)
        if unknown:
            listed = ", ".join(f"{symbol!r} {count}x" for symbol, count in unknown.most_common(10))
            notice(f"{path}: trained as <unk>, because the dictionary lacks them: {listed}")
        return {key: self.vocabulary.encode(line) for key, line in lines.items()}

    def _trainable(self, manifest: Manifest, labels: dict[str, list[int]]) -> list[Utterance]:
        """Utterances with frames enough for their labels: CTC needs one a label and one between
        equal neighbours."""
        keep = []
        for utterance in manifest.utterances:
            ids = labels[utterance.id]
            needed = len(ids) + sum(a == b for a, b in zip(ids, ids[1:]))
            frames = int(frame_count(utterance.samples, self.architecture.conv_layers))
            keep.append(frames >= max(needed, 1))
            if not keep[-1] and self.options.short_utterances == "error":
                raise UserError(
                    f"{manifest.path}:{utterance.line}: {utterance.samples} samples give "
                    f"{frames} frames, too few for its {len(ids)} labels, which need {needed}; "
                    "correct the pair, or pass --short_utterances skip"
                )
        return left_out(manifest, keep, "are too short for their labels and are left out")

    def begin_update(self, update: int) -> None:
        self.kept_layers = draw_layers(
            self.architecture.layers, self.regularisation.layerdrop, self.run.seed, update
        )
        self.frozen = update <= self.options.freeze_finetune_updates
        trunk = self.model.wav2vec2
        trunk.requires_grad_(not self.frozen)
        if self.regularisation.feature_grad_mult == 0:
            trunk.feature_extractor.requires_grad_(False)

    def forward(self, batch: AudioBatch, update: int) -> MicroBatchResult:
        frames = frame_count(batch.lengths, self.architecture.conv_layers)
        time_mask = torch.zeros(len(batch.ids), int(frames.max()), dtype=torch.bool)
        row = 0
        for masked_rows, _ in batch.draws:
            for masked in masked_rows:
                time_mask[row, masked] = True
                row += 1
        channel_mask = torch.cat([channels for _, channels in batch.draws])
        output = self.model(
            batch.waveforms,
            batch.lengths,
            time_mask=time_mask.to(self.device, non_blocking=True),
            channel_mask=channel_mask.to(self.device, non_blocking=True),
            kept_layers=self.kept_layers,
            freeze_encoder=self.frozen,
        )
        labels, label_lengths = concatenate(batch.labels)
        loss = ctc_loss(output.logits, output.frame_lengths, labels, label_lengths)
        return MicroBatchResult(
            loss=loss,
            targets=len(batch.ids),
            sums={
                "loss": loss,
                "utterances": len(batch.ids),
                "labels": int(label_lengths.sum()),
                "frames": int(frames.sum()),
                "audio_seconds": batch.audio_seconds,
            },
        )

    def summarise(self, sums: dict[str, float]) -> dict[str, float]:
        return {"loss": sums["loss"] / sums["utterances"] / LN2, "ntokens": sums["labels"]}

    def validate(self) -> dict[str, float]:
        """Corpus-level WER and UER of greedy transcripts, and the loss, over the whole set."""
        requests = validation_requests(self.valid_utterances, self.data.max_tokens, None)
        score, sums = Score(), Sums()
        # Named from the start: with few batches a process may have none, and sums must match.
        sums.add(dict.fromkeys(("loss", "utterances", "blanks", "frames"), 0.0))
        shown: list[str] = []
        workers = min(self.run.num_workers, 2)
        for batch in load_batches(self.valid_dataset, requests, workers=workers):
            transcripts, audible, output = recognise(
                self.model, self.vocabulary, batch.to(self.device)
            )
            for key, symbols in zip(batch.ids, transcripts):
                reference = self.references[key].split()
                score.add(symbols, reference)
                if len(shown) < 6:
                    shown.append(f"  {key}  reference:  {Vocabulary.words(reference)}")
                    shown.append(f"  {key}  hypothesis: {Vocabulary.words(symbols)}")
            sums.add({"utterances": len(batch.ids)})
            if output is not None:
                labels = [self.vocabulary.encode(self.references[key]) for key in audible.ids]
                loss = ctc_loss(output.logits, output.frame_lengths, *concatenate(labels))
                sums.add({"loss": loss, "blanks": count_blanks(output)})
                sums.add({"frames": int(output.frame_lengths.sum())})
        sums.add({"word_errors": score.words.errors, "words": score.words.reference})
        sums.add({"unit_errors": score.units.errors, "units": score.units.reference})
        notice("\n".join(shown))
        totals = sums.total(self.device)
        return {
            "loss": totals["loss"] / totals["utterances"] / LN2,
            "wer": ErrorCounts(int(totals["word_errors"]), int(totals["words"])).rate,
            "uer": ErrorCounts(int(totals["unit_errors"]), int(totals["units"])).rate,
            "blank_share": 100 * totals["blanks"] / totals["frames"],
        }

    def checkpoint_content(self) -> dict[str, Any]:
        return native.ctc_content(self.architecture, self.vocabulary, self.options.labels)


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
