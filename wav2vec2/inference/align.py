"""Audio and its transcript -> the times of each word and unit, as JSON and TextGrid."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from wav2vec2.audio.decode import read_recording
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.audio.source import printable, recording_key
from wav2vec2.cli.errors import ExitCode, Failures, UserError, list_failures
from wav2vec2.cli.flags import require_at_least
from wav2vec2.decoding.alignment import Span, align_units, group_words, textgrid
from wav2vec2.files.filelists import read_manifest
from wav2vec2.files.output import prepare_folder, write_json, write_lines
from wav2vec2.inference.batches import batch_of
from wav2vec2.inference.recogniser import Recogniser, RecogniserOptions
from wav2vec2.text.subwords import WORD_START
from wav2vec2.text.vocabulary import WORD_END, Spelling

SEPARATORS = {Spelling.LETTERS: WORD_END, Spelling.PIECES: WORD_START}
"""What separates words in label lines, and no written word contains."""


@dataclass(frozen=True)
class AlignOptions:
    """Alignment"""

    dataset_dir: str = "/datasets/LibriSpeech"
    """Folder of the filelists."""
    subset: str = ""
    """Filelist to align with its labels, without .tsv."""
    text: str = ""
    """Transcript of FILE."""
    output_dir: str = "results/alignment"
    """Folder for <id>.json and <id>.TextGrid."""
    num_workers: int = 2
    """Data loading workers."""

    def __post_init__(self) -> None:
        require_at_least(self, num_workers=0)


@dataclass(frozen=True)
class Alignment:
    """The units and words of one recording, with the frames they take."""

    file: str
    samples: int
    """Length of the audio at 16 kHz."""
    frame_samples: int
    """Samples per frame: frame k covers the samples from k * frame_samples up to the next frame's.
    The model's receptive field begins there too and is longer (400 samples)."""
    units_name: str
    """Name of the tier of units: characters, or units for any other kind."""
    units: Sequence[Span]
    words: Sequence[Span]

    def seconds(self, frame: int) -> float:
        """The time at which a frame begins."""
        return frame * self.frame_samples / SAMPLE_RATE

    def tiers(self) -> dict[str, Sequence[Span]]:
        """Name -> spans, of words and of units."""
        return {"words": self.words, self.units_name: self.units}

    def as_json(self) -> dict[str, Any]:
        """Plain types; times in seconds."""

        def entry(span: Span) -> dict[str, Any]:
            return {
                "text": span.text,
                "start": round(self.seconds(span.start), 6),
                "end": round(self.seconds(span.end), 6),
                "score": round(span.score, 6),
            }

        tiers = {name: [entry(span) for span in spans] for name, spans in self.tiers().items()}
        return {"file": self.file, "duration": self.samples / SAMPLE_RATE, **tiers}

    def as_textgrid(self) -> str:
        """Praat's TextGrid, long text format."""
        tiers = {
            name: [(self.seconds(s.start), self.seconds(s.end), s.text) for s in spans]
            for name, spans in self.tiers().items()
        }
        return textgrid(tiers, self.samples / SAMPLE_RATE)

    def write(self, folder: Path, name: str) -> None:
        """Write `<name>.json` and `<name>.TextGrid`, each whole or not at all."""
        write_json(folder / f"{name}.json", self.as_json(), indent=1, ascii=False)
        write_lines(folder / f"{name}.TextGrid", [self.as_textgrid().rstrip("\n")])


def align_transcript(
    recogniser: Recogniser, file: str, samples: int, emissions: Tensor, labels: str
) -> Alignment:
    """Align the label line `labels` with `emissions` `[frames, units]` (log probabilities).

    UserError, naming `file`, for units that the dictionary lacks and for too few frames.
    """
    vocabulary = recogniser.vocabulary
    if unknown := vocabulary.list_unknown([labels]):
        raise UserError(
            f"{file}: its transcript has symbols that the dictionary lacks ({unknown}); write it "
            "as in the training transcripts, such as in upper case"
        )
    try:
        units = align_units(emissions.numpy(), vocabulary.encode(labels), labels.split())
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    letters = vocabulary.spelling is Spelling.LETTERS
    return Alignment(
        file=file,
        samples=samples,
        frame_samples=recogniser.frame_samples,
        units_name="characters" if letters else "units",
        units=[unit for unit in units if not (letters and unit.text == WORD_END)],
        words=group_words(units, vocabulary.spelling),
    )


def align_waveform(recogniser: Recogniser, file: str, waveform: np.ndarray, text: str) -> Alignment:
    """Align the words of `text` with one recording, `[samples]` at 16 kHz, as a whole.

    UserError, naming `file`, for text with a mark that separates words, besides `align_transcript`.
    """
    mark = SEPARATORS.get(recogniser.vocabulary.spelling)
    if mark and mark in text:
        raise UserError(
            f"{file}: its transcript (--text) has {mark!r}, which separates words in label lines "
            "and would shift these; write words with spaces between them"
        )
    batch = batch_of(
        [file],
        [waveform],
        normalize_input=recogniser.normalize_input,
        normalize_eps=recogniser.normalize_eps,
    )
    (emissions,) = recogniser.emissions(batch)
    labels = recogniser.vocabulary.spell(text)
    return align_transcript(recogniser, file, len(waveform), emissions, labels)


def align(options: RecogniserOptions, alignment: AlignOptions, file: str | None) -> ExitCode:
    """Align one file with --text, or each utterance of a subset with its labels."""
    if (file is None) == (not alignment.subset) or (file is None) != (not alignment.text):
        raise UserError(
            "align: give either FILE and --text 'ITS TRANSCRIPT', or --dataset_dir and --subset"
        )
    if file is not None and not alignment.text.strip():
        raise UserError("--text: is empty; give the transcript of FILE")
    output_dir = prepare_folder("--output_dir", alignment.output_dir)
    recogniser = Recogniser.load(options)
    if file is not None:
        return align_file(recogniser, alignment, file, output_dir)
    return align_subset(recogniser, options, alignment, output_dir)


def align_file(
    recogniser: Recogniser, alignment: AlignOptions, file: str, output_dir: Path
) -> ExitCode:
    """Align one recording with `--text` and print its words."""
    name = printable(file)
    found = align_waveform(recogniser, name, read_recording(file), alignment.text)
    found.write(output_dir, recording_key(Path(file), Path(file).parent))
    for word in found.words:
        start, end = found.seconds(word.start), found.seconds(word.end)
        print(f"{start:.2f}\t{end:.2f}\t{word.score:.3f}\t{word.text}")
    return ExitCode.DONE


def align_subset(
    recogniser: Recogniser, options: RecogniserOptions, alignment: AlignOptions, output_dir: Path
) -> ExitCode:
    """Align each utterance of a subset with its labels; list those that cannot be aligned."""
    manifest = read_manifest(alignment.dataset_dir, alignment.subset)
    references = recogniser.references(manifest)
    path_of = {utterance.id: utterance.path for utterance in manifest.utterances}
    failures = Failures()
    batches = recogniser.batches(
        manifest, options.batch_size, alignment.num_workers, failures=failures
    )
    for batch in batches:
        rows = zip(batch.ids, batch.lengths.tolist(), recogniser.emissions(batch))
        for key, samples, emissions in rows:
            labels = references[key]
            found = failures.attempt(
                align_transcript, recogniser, path_of[key], samples, emissions, labels
            )
            if found:
                found.write(output_dir, key)
    done = len(manifest) - len(failures)
    print(f"{alignment.subset}: {done} of {len(manifest)} utterances aligned in {output_dir}")
    return list_failures(failures)
