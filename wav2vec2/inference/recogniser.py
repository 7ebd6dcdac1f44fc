"""A fine-tuned checkpoint ready for use: its model, its dictionary, and how it wants its audio."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from wav2vec2 import kernels
from wav2vec2.cli.console import notice
from wav2vec2.cli.errors import UserError
from wav2vec2.config import Architecture
from wav2vec2.ctc import CTCOutput, Wav2Vec2ForCTC
from wav2vec2.decoding.beam_search import build_decoder
from wav2vec2.decoding.greedy import Decoder, DecodingOptions, GreedyDecoder, Hypothesis
from wav2vec2.feature_extractor import sample_count
from wav2vec2.files.filelists import Manifest, read_labels
from wav2vec2.inference.batches import AudioBatch, subset_batches
from wav2vec2.inference.device import check_supported, pick_device
from wav2vec2.inference.recognition import recognise
from wav2vec2.interop import checkpoints, native
from wav2vec2.interop.onnx import OnnxRecogniser, is_onnx
from wav2vec2.numerics import Precision, cast
from wav2vec2.text.vocabulary import Spelling, Vocabulary


@dataclass(frozen=True)
class RecogniserOptions:
    """Model"""

    checkpoint: str
    """Fine-tuned checkpoint: ours, NVIDIA's, a Hugging Face folder, fairseq's with its
    dict.ltr.txt beside it, or an ONNX file or .pt2 archive written by utils.checkpoints.convert."""
    batch_size: int = 8
    """Utterances at a time at most; results do not depend on it."""
    cpu: bool = False
    """Run on the CPU even where there is a GPU."""
    precision: Precision = "fp32"
    """Type of weights and activations; results in bf16 and fp16 differ a little from fp32's."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"--batch_size {self.batch_size}: must be at least 1")


@dataclass
class Recogniser:
    """A model ready for use, with what its checkpoint says about it."""

    model: Wav2Vec2ForCTC | OnnxRecogniser
    architecture: Architecture
    vocabulary: Vocabulary
    labels: str
    device: torch.device
    checkpoint: str
    """Where it was read from."""

    @classmethod
    def load(cls, options: RecogniserOptions) -> "Recogniser":
        device = pick_device(options.cpu or not torch.cuda.is_available())
        return cls.from_checkpoint(options.checkpoint, device, options.precision)

    @classmethod
    def from_checkpoint(
        cls, checkpoint: str, device: torch.device, precision: Precision = "fp32"
    ) -> "Recogniser":
        """A checkpoint of any kind on `device`; UserError if it is none, not fine-tuned, or the
        device does not have the precision."""
        check_supported(precision, device)
        if is_onnx(checkpoint):
            if precision != "fp32":
                raise UserError(
                    f"--precision {precision}: {checkpoint} has the precision it was written in; "
                    "leave the flag out"
                )
            model, device = OnnxRecogniser(checkpoint), torch.device("cpu")
            content, vocabulary = model.content, native.vocabulary_of(model.content, checkpoint)
        else:
            content = checkpoints.read_checkpoint(checkpoint)
            model, vocabulary = native.load_ctc(content, checkpoint)
            cast(model, precision)
            model = model.to(device)
            kernels.install(model, device)
        architecture = native.architecture_of(content, checkpoint)
        return cls(model, architecture, vocabulary, content["labels"], device, checkpoint)

    @property
    def normalize_input(self) -> bool:
        return self.architecture.normalize_input

    @property
    def frame_samples(self) -> int:
        """Samples from one frame to the next."""
        return math.prod(stride for _, _, stride in self.architecture.conv_layers)

    @property
    def shortening(self) -> int:
        """Frames that the encoder joins to one in its middle; 1: none."""
        hourglass = self.architecture.hourglass
        return 1 if hourglass is None else hourglass.factor

    def samples(self, frames: int) -> int:
        """The fewest samples that give `frames` frames."""
        return sample_count(frames, self.architecture.conv_layers)

    def recognise(
        self, batch: AudioBatch, decoder: Decoder
    ) -> tuple[list[Hypothesis], AudioBatch | None, CTCOutput | None]:
        """See wav2vec2/inference/recognition.py; UserError for scores that are not finite."""
        return recognise(self.model, decoder, batch.to(self.device), self.checkpoint)

    def transcripts(self, batch: AudioBatch, decoder: Decoder) -> list[Hypothesis]:
        """What `decoder` hears in each row."""
        return self.recognise(batch, decoder)[0]

    def logits(self, batch: AudioBatch) -> list[Tensor]:
        """Unit scores of each row, `[its frames, units]`, fp32 on the CPU."""
        rows = [torch.empty(0, len(self.vocabulary)) for _ in batch.ids]
        silent = GreedyDecoder(self.vocabulary)
        _, _, output = self.recognise(batch, silent)
        if output is not None:
            audible = (self.model.frames(batch.lengths) > 0).nonzero()[:, 0].tolist()
            logits = output.logits.float().cpu()  # at once, not row by row
            for index, row, length in zip(audible, logits, output.frame_lengths.tolist()):
                rows[index] = row[:length]
        return rows

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
        """A subset's audio, up to `size` utterances at a time, longest first: the share of process
        `rank` of `ranks`, which take turns.  `failures`: see subset_batches."""
        return subset_batches(
            manifest,
            self.frames(manifest),
            size,
            normalize_input=self.normalize_input,
            workers=workers,
            share=(rank, ranks),
            failures=failures,
        )

    def references(self, manifest: Manifest) -> dict[str, str]:
        """Label line of each utterance.  A sentencepiece model cuts them from the words: the
        checkpoint's own, whatever model the labels beside the filelist are of."""
        subwords = self.vocabulary.subwords
        if subwords is None:
            return read_labels(manifest, self.labels)
        return {key: subwords.encode(words) for key, words in read_labels(manifest, "wrd").items()}

    def word_references(self, manifest: Manifest, decoding: DecodingOptions) -> dict[str, str]:
        """Transcript of each utterance: what its label line spells; or, for units that spell no
        words but a lexicon that does, `<subset>.wrd`."""
        if decoding.lexicon and self.vocabulary.spelling is Spelling.TOKENS:
            return read_labels(manifest, "wrd")
        lines = self.references(manifest)
        return {key: self.vocabulary.words(line.split()) for key, line in lines.items()}


def prepare_decoder(options: DecodingOptions, vocabulary: Vocabulary) -> Decoder:
    """The search that the flags ask for; what is left out of lexicon or model is said."""
    decoder, notes = build_decoder(options, vocabulary)
    for note in notes:
        notice(f"note: {note}")
    return decoder
