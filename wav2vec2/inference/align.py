"""Emissions and transcript -> when each unit and word was said, as JSON and TextGrid."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from wav2vec2.audio.decode import read_recording
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.audio.zip_member import stem
from wav2vec2.cli.errors import ExitCode, UserError, list_failures
from wav2vec2.decoding.alignment import Span, align_units, group_words, textgrid
from wav2vec2.files.filelists import read_manifest
from wav2vec2.files.output import prepare_folder, write_lines
from wav2vec2.inference.batches import batch_of
from wav2vec2.inference.recogniser import Recogniser, RecogniserOptions
from wav2vec2.text.vocabulary import WORD_END, Spelling, Vocabulary


@dataclass(frozen=True)
class AlignOptions:
    """Alignment"""

    dataset_dir: str = "/datasets/LibriSpeech"
    """Folder of the filelists."""
    subset: str = ""
    """Filelist to align with its labels, without .tsv."""
    text: str = ""
    """What FILE says."""
    output_dir: str = "results/alignment"
    """Folder for <id>.json and <id>.TextGrid."""
    num_workers: int = 2
    """Processes that decode audio."""

    def __post_init__(self) -> None:
        if self.num_workers < 0:
            raise UserError(f"--num_workers {self.num_workers}: must not be negative")


@dataclass(frozen=True)
class Alignment:
    """One recording's units and words; frames of `frame_samples` samples."""

    file: str
    samples: int
    """Length of the audio at 16 kHz."""
    frame_samples: int
    """Frame k covers the samples from k * frame_samples on, up to the next frame's.  The model
    sees more around it: its receptive field begins there and is longer (400 samples)."""
    units_name: str
    """What the dictionary's units are: characters, or anything else."""
    units: Sequence[Span]
    words: Sequence[Span]

    def seconds(self, frame: int) -> float:
        """When a frame begins."""
        return frame * self.frame_samples / SAMPLE_RATE

    def tiers(self) -> dict[str, Sequence[Span]]:
        return {"words": self.words, self.units_name: self.units}

    def as_json(self) -> dict[str, Any]:
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
        tiers = {
            name: [(self.seconds(s.start), self.seconds(s.end), s.text) for s in spans]
            for name, spans in self.tiers().items()
        }
        return textgrid(tiers, self.samples / SAMPLE_RATE)

    def write(self, folder: Path, name: str) -> None:
        """`<name>.json` and `<name>.TextGrid`, each whole or not at all."""
        content = json.dumps(self.as_json(), ensure_ascii=False, indent=1)
        write_lines(folder / f"{name}.json", [content])
        write_lines(folder / f"{name}.TextGrid", [self.as_textgrid().rstrip("\n")])


def align_transcript(
    file: str,
    samples: int,
    emissions: Tensor,
    labels: str,
    vocabulary: Vocabulary,
    frame_samples: int,
) -> Alignment:
    """When the symbols of the label line `labels` were said in `emissions` `[frames, units]`.

    UserError, naming `file`, for symbols that the dictionary lacks and for too few frames.
    """
    if unknown := vocabulary.count_unknown([labels]):
        raise UserError(
            f"{file}: its transcript has symbols that the dictionary lacks ({unknown}); write it "
            "the way the training transcripts are, such as in upper case"
        )
    try:
        units = align_units(emissions.numpy(), vocabulary.encode(labels), labels.split())
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    letters = vocabulary.spelling is Spelling.LETTERS
    return Alignment(
        file=file,
        samples=samples,
        frame_samples=frame_samples,
        units_name="characters" if letters else "units",
        units=[unit for unit in units if not (letters and unit.text == WORD_END)],
        words=group_words(units, vocabulary.spelling),
    )


def align(options: RecogniserOptions, alignment: AlignOptions, file: str | None) -> ExitCode:
    """Write when each word and unit was said: of one file and its text, or of a subset."""
    if (file is None) == (not alignment.subset) or (file is None) != (not alignment.text):
        raise UserError(
            "inference.py align: give either FILE and --text 'WHAT IS SAID', or --dataset_dir "
            "and --subset"
        )
    if file is not None and not alignment.text.strip():
        raise UserError("--text: is empty; give what is said in FILE")
    output_dir = prepare_folder("--output_dir", alignment.output_dir)
    recogniser = Recogniser.load(options)
    if file is not None:
        return align_file(recogniser, alignment, file, output_dir)
    return align_subset(recogniser, options, alignment, output_dir)


def align_file(
    recogniser: Recogniser, alignment: AlignOptions, file: str, output_dir: Path
) -> ExitCode:
    """Align one recording with `--text` and print its words."""
    waveform = read_recording(file)
    labels = recogniser.vocabulary.spell(alignment.text)
    batch = batch_of([file], [waveform], normalize_input=recogniser.normalize_input)
    (emissions,) = recogniser.emissions(batch)
    found = align_transcript(
        file, len(waveform), emissions, labels, recogniser.vocabulary, recogniser.frame_samples
    )
    found.write(output_dir, stem(file))
    for word in found.words:
        start, end = found.seconds(word.start), found.seconds(word.end)
        print(f"{start:.2f}\t{end:.2f}\t{word.score:.3f}\t{word.text}")
    return ExitCode.DONE


def align_subset(
    recogniser: Recogniser, options: RecogniserOptions, alignment: AlignOptions, output_dir: Path
) -> ExitCode:
    """Align each utterance of a subset with its labels; those that cannot be are listed."""
    manifest = read_manifest(alignment.dataset_dir, alignment.subset)
    references = recogniser.references(manifest)
    path_of = {utterance.id: utterance.path for utterance in manifest.utterances}
    failures: list[str] = []
    batches = recogniser.batches(
        manifest, options.batch_size, alignment.num_workers, failures=failures
    )
    for batch in batches:
        rows = zip(batch.ids, batch.lengths.tolist(), recogniser.emissions(batch))
        for key, samples, emissions in rows:
            try:
                found = align_transcript(
                    path_of[key],
                    samples,
                    emissions,
                    references[key],
                    recogniser.vocabulary,
                    recogniser.frame_samples,
                )
            except UserError as error:
                failures.append(str(error))
                continue
            found.write(output_dir, key)
    done = len(manifest) - len(failures)
    print(f"{alignment.subset}: {done} of {len(manifest)} utterances aligned in {output_dir}")
    return list_failures(failures)
