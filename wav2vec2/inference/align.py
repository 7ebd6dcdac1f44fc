"""Audio and its transcript -> the times of each word and unit, as JSON, TextGrid, SRT or CTM."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from wav2vec2.audio.recordings import named_recording
from wav2vec2.audio.source import printable, recording_key
from wav2vec2.audio.waveform import Waveform
from wav2vec2.cli.errors import ExitCode, Failures, UserError, list_failures
from wav2vec2.cli.flags import require_at_least
from wav2vec2.decoding.greedy import GreedyDecoder
from wav2vec2.decoding.timed_alignment import Alignment, TranscriptAligner
from wav2vec2.files.filelists import Manifest, read_manifest
from wav2vec2.files.output import prepare_folder, write_json, write_lines
from wav2vec2.files.text import read_text
from wav2vec2.inference.recogniser import Recogniser, RecogniserOptions
from wav2vec2.inference.transcribe import decode_recording
from wav2vec2.inference.transcriber import Transcriber, WindowOptions

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AlignOptions:
    """Alignment"""

    dataset_dir: str = "/datasets/LibriSpeech"
    """Folder of the filelists."""
    subset: str = ""
    """Filelist to align with its labels, without .tsv."""
    text: str = ""
    """Transcript of FILE.  The word * stands for speech that the transcript lacks."""
    text_file: str = ""
    """Text file of it, instead of --text."""
    open_ends: bool = False
    """There may be more speech before and after the transcript."""
    min_score: float = 0.05
    """Words of a lower score are marked, with a warning: perhaps they are not what is spoken."""
    formats: tuple[Literal["json", "TextGrid", "srt", "ctm"], ...] = ("json", "TextGrid")
    """Files to write for each recording."""
    output_dir: str = "results/alignment"
    """Folder for <id>.json, <id>.TextGrid and others."""
    num_workers: int = 2
    """Data loading workers."""

    def __post_init__(self) -> None:
        require_at_least(self, num_workers=0)
        if not 0 <= self.min_score <= 1:
            raise UserError(f"--min_score {self.min_score}: must be from 0 to 1")
        if self.text and self.text_file:
            raise UserError("--text_file: stands in place of --text; give one of them")


def align(
    options: RecogniserOptions, windows: WindowOptions, alignment: AlignOptions, file: str | None
) -> ExitCode:
    """Align one file with its transcript, or each utterance of a subset with its labels."""
    given = bool(alignment.text or alignment.text_file)
    if (file is None) == (not alignment.subset) or (file is not None) != given:
        raise UserError(
            "align: give either FILE and --text 'ITS TRANSCRIPT' (or --text_file), or "
            "--dataset_dir and --subset"
        )
    if alignment.text_file:
        text = read_text(alignment.text_file, name=f"--text_file {alignment.text_file}")
        alignment = replace(alignment, text=text or " ", text_file="")
    if file is not None and not alignment.text.strip():
        raise UserError("--text: is empty; give the transcript of FILE")
    output_dir = prepare_folder("--output_dir", alignment.output_dir)
    recogniser = Recogniser.load(options)
    decoder = GreedyDecoder(recogniser.vocabulary)
    transcriber = Transcriber(recogniser, decoder, windows, options.batch_size)
    if file is not None:
        return align_file(transcriber, alignment, file, output_dir)
    return align_subset(transcriber, options, alignment, output_dir)


def align_file(
    transcriber: Transcriber, options: AlignOptions, file: str, output_dir: Path
) -> ExitCode:
    """Align one recording with `--text` and print its words."""
    name = printable(file)
    waveform = decoded(file, name)
    labels = transcriber.label_line(name, options.text)
    found = transcriber.align_waveform(
        name, waveform, labels, open_ends=options.open_ends, min_score=options.min_score
    )
    write_alignment(found, output_dir, recording_key(Path(file), Path(file).parent), options)
    for word in found.words:
        start, end = found.seconds(word.start), found.seconds(word.end)
        low = "\tlow" if word.score < options.min_score else ""
        print(f"{start:.2f}\t{end:.2f}\t{word.score:.3f}\t{word.text}{low}")
    warn([found], options.min_score)
    return ExitCode.DONE


def decoded(path: str, name: str) -> Waveform:
    """The samples of a recording, or of an entry of a packed data set."""
    (waveform,) = decode_recording(named_recording("", Path(path), name), "average").values()
    return waveform


def align_subset(
    transcriber: Transcriber, options: RecogniserOptions, alignment: AlignOptions, output_dir: Path
) -> ExitCode:
    """Align each utterance of a subset with its labels; list those that cannot be aligned."""
    recogniser = transcriber.recogniser
    manifest = read_manifest(alignment.dataset_dir, alignment.subset)
    references = recogniser.references(manifest)
    path_of = {utterance.id: utterance.path for utterance in manifest.utterances}
    failures = Failures()
    doubtful: list[Alignment] = []

    def write(found: Alignment | None, key: str) -> None:
        if found:
            write_alignment(found, output_dir, key, alignment)
            if found.low or found.untranscribed:
                doubtful.append(replace(found, units=()))

    frames = recogniser.frames(manifest)
    pairs = list(zip(manifest.utterances, frames))
    short = tuple(u for u, n in pairs if n <= transcriber.length)
    batches = recogniser.batches(
        Manifest(manifest.path, manifest.root, short),
        options.batch_size,
        alignment.num_workers,
        failures=failures,
    )

    def align_row(key: str, samples: int, emissions: np.ndarray) -> Alignment:
        aligner = TranscriptAligner(
            recogniser.vocabulary, path_of[key], references[key], open_ends=alignment.open_ends
        )
        aligner.add(emissions)
        return aligner.alignment(samples, recogniser.frame_samples, alignment.min_score)

    for batch in batches if short else ():
        rows = zip(batch.ids, batch.lengths.tolist(), recogniser.emissions(batch))
        for key, samples, emissions in rows:
            write(failures.attempt(align_row, key, samples, emissions.numpy()), key)

    def align_long(key: str) -> Alignment:
        return transcriber.align_waveform(
            path_of[key],
            decoded(path_of[key], path_of[key]),
            references[key],
            open_ends=alignment.open_ends,
            min_score=alignment.min_score,
        )

    for utterance, count in pairs:
        if count > transcriber.length:
            write(failures.attempt(align_long, utterance.id), utterance.id)
    done = len(manifest) - len(failures)
    print(f"{alignment.subset}: {done} of {len(manifest)} utterances aligned in {output_dir}")
    warn(doubtful, alignment.min_score)
    return list_failures(failures)


def write_alignment(found: Alignment, folder: Path, name: str, options: AlignOptions) -> None:
    """Write `<name>.json` and the other formats, each file whole or not at all."""
    for kind in options.formats:
        path = folder / f"{name}.{kind}"
        if kind == "json":
            write_json(path, found.as_json(), indent=1, ascii=False)
            continue
        texts = {"TextGrid": found.as_textgrid, "srt": found.as_srt}
        text = found.as_ctm(name) if kind == "ctm" else texts[kind]()
        write_lines(path, [text.rstrip("\n")])


def warn(alignments: Sequence[Alignment], min_score: float) -> None:
    """Print warnings of words that score low, and of speech that transcripts lack."""
    low = [(word.score, word, found) for found in alignments for word in found.low]
    if low:
        score, word, found = min(low, key=lambda entry: entry[0])
        words = "word scores" if len(low) == 1 else "words score"
        _log.warning(
            "warning: %d %s below %g (--min_score), such as %s at %.2f s of %s (%.3f): perhaps not "
            "what is spoken; * in the text stands for words that it lacks",
            *(len(low), words, min_score, word.text, found.seconds(word.start), found.file, score),
        )
    if gaps := [(edges, found) for found in alignments for edges in found.untranscribed]:
        (start, end), found = max(gaps, key=lambda gap: gap[0][1] - gap[0][0])
        _log.warning(
            "warning: speech beside the words of the text in %d %s, the longest from %.2f to "
            "%.2f s of %s; write * where the text lacks speech, or give --open_ends",
            *(
                len(gaps),
                "place" if len(gaps) == 1 else "places",
                found.seconds(start),
                found.seconds(end),
                found.file,
            ),
        )
