"""A fine-tuned checkpoint ready for use: its model, its dictionary, and the audio it expects."""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from wav2vec2 import kernels
from wav2vec2.cli.errors import UserError
from wav2vec2.cli.flags import require_at_least
from wav2vec2.config import Architecture
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.decoding.beam_search import DecodingOptions, build_decoder
from wav2vec2.decoding.greedy import Decoder
from wav2vec2.decoding.shipped_model import FOLDER, with_shipped_model
from wav2vec2.feature_extractor import sample_count
from wav2vec2.files.filelists import Manifest, read_labels
from wav2vec2.files.hub import cached_path, fetch_folder, is_hub_id
from wav2vec2.inference.batches import AudioBatch, subset_batches
from wav2vec2.inference.device import (
    InferencePrecision,
    check_int8,
    check_supported,
    inference_device,
)
from wav2vec2.inference.scoring import logits_by_id, run_model
from wav2vec2.interop import checkpoints, native
from wav2vec2.interop.onnx import OnnxRecogniser, is_onnx
from wav2vec2.interop.state_dict import pick_language
from wav2vec2.kernels import int8
from wav2vec2.numerics import cast
from wav2vec2.text.vocabulary import Spelling, Vocabulary

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecogniserOptions:
    """Model"""

    checkpoint: str
    """Fine-tuned model: a checkpoint of this repository, of NVIDIA's recipe or of fairseq (with its
    dict.ltr.txt beside it), the folder of a released or Hugging Face model, the id of a model on
    the Hugging Face Hub (`name` or `name@revision`), or an ONNX file or .pt2 archive that `convert`
    wrote."""
    language: str | None = None
    """Of a recogniser with adapters for several languages, as MMS has: the code of the language to
    transcribe, such as deu."""
    factor: int | None = None
    """Of a model with an hourglass: pooling factor to run at.  Default: that of the checkpoint; of
    several, the largest that costs at most 1 point of WER on validation."""
    batch_size: int = 8
    """Most utterances per batch; results do not depend on it."""
    cpu: bool = False
    """Run on the CPU even if there is a GPU."""
    precision: InferencePrecision = "fp32"
    """Type of weights and activations; results differ slightly from those of fp32.  int8, on CPUs:
    8 bits in matrix products, else bf16 or fp32, whichever is fast on this machine."""

    def __post_init__(self) -> None:
        require_at_least(self, batch_size=1)
        if self.factor is not None:
            require_at_least(self, factor=1)


@dataclass
class Recogniser:
    """A model ready for use, with what its checkpoint says about it."""

    model: Wav2Vec2ForCTC | OnnxRecogniser
    architecture: Architecture
    vocabulary: Vocabulary
    labels: str
    device: torch.device
    checkpoint: str
    """Path it was read from."""

    @classmethod
    def load(cls, options: RecogniserOptions) -> "Recogniser":
        """The checkpoint that the flags name, on a GPU if there is one and --cpu is not given."""
        device = inference_device(options.cpu)
        return cls.from_checkpoint(
            options.checkpoint, device, options.precision, options.language, options.factor
        )

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: str,
        device: torch.device,
        precision: InferencePrecision = "fp32",
        language: str | None = None,
        factor: int | None = None,
    ) -> "Recogniser":
        """A checkpoint of any kind, on `device`; `language`: which of its adapters; `factor`: its
        pooling factor, None for the default.

        UserError if it is no checkpoint, not fine-tuned, or the device lacks the precision.
        """
        if precision == "int8" and not is_onnx(checkpoint):
            check_int8(device)
        elif precision != "int8":
            check_supported(precision, device)
        if is_onnx(checkpoint):
            if precision != "fp32":
                raise UserError(
                    f"--precision {precision}: {checkpoint} has the precision it was written in; "
                    "remove the flag"
                )
            if factor is not None:
                raise UserError(
                    f"--factor {factor}: {checkpoint} has the pooling factor it was written with; "
                    "remove the flag"
                )
            pick_language((), language, checkpoint)
            model, device = OnnxRecogniser(checkpoint), torch.device("cpu")
            content, vocabulary = model.content, native.vocabulary_of(model.content, checkpoint)
        else:
            content = checkpoints.read_at_factor(checkpoint, factor, language)
            model, vocabulary = native.load_ctc(content, checkpoint)
            if precision == "int8":
                precision = int8.activation_precision()
                int8.quantise(model, precision)
            cast(model, precision)
            model = model.to(device)
            kernels.install(model, device)
        architecture = native.architecture_of(content, checkpoint)
        return cls(model, architecture, vocabulary, content["labels"], device, checkpoint)

    @property
    def normalize_input(self) -> bool:
        """Whether the model takes audio of zero mean and unit variance."""
        return self.architecture.normalize_input

    @property
    def normalize_eps(self) -> float:
        """What is added to the variance for it."""
        return self.architecture.normalize_eps

    @property
    def frame_samples(self) -> int:
        """Samples from one frame to the next."""
        return math.prod(stride for _, _, stride in self.architecture.conv_layers)

    @property
    def shortening(self) -> int:
        """Shortening factor: frames per step in the middle of an hourglass; 1 without hourglass."""
        hourglass = self.architecture.hourglass
        return 1 if hourglass is None else hourglass.factor

    def samples(self, frames: int) -> int:
        """The fewest samples that give `frames` frames."""
        return sample_count(frames, self.architecture.conv_layers)

    def logits(self, batch: AudioBatch) -> list[Tensor]:
        """Logits of each row, `[its frames, units]`, fp32 on the CPU; see Decoder.

        A row shorter than the model's receptive field has no frame.  UserError for logits that are
        not finite.
        """
        found = run_model(self.model, batch.to(self.device), self.checkpoint)
        logits = logits_by_id(*found) if found else {}
        no_frames = torch.empty(0, len(self.vocabulary))
        return [logits.get(key, no_frames) for key in batch.ids]

    def emissions(self, batch: AudioBatch) -> list[Tensor]:
        """Log probabilities of each row, `[its frames, units]`, fp32 on the CPU."""
        return [row.log_softmax(dim=-1) for row in self.logits(batch)]

    def frames(self, manifest: Manifest) -> list[int]:
        """Frames of each utterance."""
        samples = torch.tensor([utterance.samples for utterance in manifest.utterances])
        return self.model.frames(samples).tolist()

    def batches(
        self,
        manifest: Manifest,
        size: int,
        workers: int,
        rank: int = 0,
        ranks: int = 1,
        failures: list[str] | None = None,
    ) -> Iterator[AudioBatch]:
        """The share of process `rank` of `ranks` of a subset's audio, in batches of at most `size`
        utterances, longest first.  See subset_batches."""
        return subset_batches(
            manifest,
            self.frames(manifest),
            size,
            normalize_input=self.normalize_input,
            normalize_eps=self.normalize_eps,
            workers=workers,
            share=(rank, ranks),
            failures=failures,
        )

    def references(self, manifest: Manifest) -> dict[str, str]:
        """Utterance id -> label line.  Sub-words are made from `<subset>.wrd` with the checkpoint's
        own sentencepiece model, because labels in files may be of another model."""
        subwords = self.vocabulary.subwords
        if subwords is None:
            return read_labels(manifest, self.labels)
        return {key: subwords.encode(words) for key, words in read_labels(manifest, "wrd").items()}

    def word_references(self, manifest: Manifest, decoding: DecodingOptions) -> dict[str, str]:
        """Utterance id -> transcript: what its label line spells, or `<subset>.wrd` if the units
        spell no words but a lexicon's entries are words."""
        if decoding.lexicon and self.vocabulary.spelling is Spelling.TOKENS:
            return read_labels(manifest, "wrd")
        lines = self.references(manifest)
        return {key: self.vocabulary.words(line.split()) for key, line in lines.items()}


def complete_decoding(options: DecodingOptions, recogniser: Recogniser) -> DecodingOptions:
    """The options with the language model in the checkpoint's folder, if it has one and the flags
    name no other.  Logs what is used."""
    checkpoint = recogniser.checkpoint
    if options.decoder == "beam" and not (options.lm or options.lexicon) and is_hub_id(checkpoint):
        fetch_folder(checkpoint, FOLDER)
    options, note = with_shipped_model(options, str(cached_path(checkpoint)))
    if note:
        _log.warning("note: %s", note)
    return options


def prepare_decoder(options: DecodingOptions, vocabulary: Vocabulary) -> Decoder:
    """The search that the flags ask for.  Logs what it had to skip of lexicon or model."""
    decoder, notes = build_decoder(options, vocabulary)
    for note in notes:
        _log.warning("note: %s", note)
    return decoder
