"""Recordings -> their transcripts, as text, JSON or subtitles."""

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from tqdm import tqdm

from wav2vec2.audio.decode import stream_recording
from wav2vec2.audio.packed import is_packed, stream_packed
from wav2vec2.audio.recordings import (
    Recording,
    named_recording,
    recording_key,
    recordings_at,
    unique_ids,
)
from wav2vec2.audio.waveform import Waveform
from wav2vec2.cli.errors import ExitCode, UserError, list_failures
from wav2vec2.decoding.greedy import DecodingOptions
from wav2vec2.decoding.timed_words import Transcript, srt, vtt
from wav2vec2.files.filelists import read_manifest
from wav2vec2.files.output import prepare_folder, write_lines
from wav2vec2.files.text import read_lines
from wav2vec2.inference.recogniser import Recogniser, RecogniserOptions, prepare_decoder
from wav2vec2.inference.transcriber import Transcriber, WindowOptions

STANDARD_INPUT = "-"
SUBTITLES = {"srt": srt, "vtt": vtt}


@dataclass(frozen=True)
class TranscribeOptions:
    """Input and output"""

    filelist: str = ""
    """More recordings: a filelist (.tsv), or text with one path a line, relative to its folder."""
    format: Literal["text", "json", "srt", "vtt"] = "text"
    """file<TAB>transcript, JSON (words with start, end, confidence), SubRip or WebVTT."""
    output_dir: str = ""
    """Folder for one file a recording, instead of standard output."""


def transcribe(
    model: RecogniserOptions,
    decoding: DecodingOptions,
    windows: WindowOptions,
    options: TranscribeOptions,
    files: Sequence[str],
) -> ExitCode:
    """Transcribe files, folders (recursively), a filelist and standard input (`-`).

    What cannot be read is listed at the end.
    """
    recordings = find_recordings(files, options.filelist)
    if options.output_dir:
        recordings = unique_ids(recordings)
        prepare_folder("--output_dir", options.output_dir)
    elif options.format in SUBTITLES and len(recordings) > 1:
        raise UserError(
            f"--format {options.format}: {len(recordings)} recordings make as many files; name a "
            "folder for them with --output_dir"
        )
    recogniser = Recogniser.load(model)
    decoder = prepare_decoder(decoding, recogniser.vocabulary)
    transcriber = Transcriber(recogniser, decoder, windows, model.batch_size)
    failures: list[str] = []
    # Seconds of audio; the total is known once the last recording is decoded.
    with tqdm(total=0, unit="s", unit_scale=True, disable=None) as progress:

        def decoded() -> Iterator[tuple[Recording, Waveform]]:
            for number, recording in enumerate(recordings, start=1):
                progress.set_description(f"{number}/{len(recordings)} {recording.where}")
                try:
                    waveform = read(recording)
                except UserError as error:
                    failures.append(str(error))
                    continue
                progress.total += waveform.seconds
                progress.refresh()
                yield recording, waveform

        for recording, transcript in transcriber.transcribe_all(decoded(), progress.update):
            write(recording, transcript, options)
    if options.output_dir:
        done = len(recordings) - len(failures)
        print(f"{done} of {len(recordings)} recordings transcribed in {options.output_dir}")
    return list_failures(failures)


def find_recordings(files: Sequence[str], filelist: str) -> list[Recording]:
    """What the command line names, in its order; each recording's `where` is what to call it.

    UserError if that is nothing, for a folder without audio, or for a filelist that does not parse.
    """
    found: list[Recording] = []
    for name in files:
        if name == STANDARD_INPUT:
            found.append(named_recording("stdin", Path(name)))
        else:
            found += recordings_at(name)
    if filelist:
        found += listed(Path(filelist))
    if not found:
        raise UserError("give recordings, folders of them, - for standard input, or --filelist")
    piped = list(files).count(STANDARD_INPUT)
    if piped > 1:
        raise UserError("-: standard input can be read once only")
    if piped and sys.stdin.isatty():
        raise UserError("-: standard input is a terminal; pipe a recording into it")
    return found


def listed(path: Path) -> list[Recording]:
    """The recordings of a filelist (.tsv), or of lines that each hold a path."""
    if path.suffix.lower() == ".tsv":
        manifest = read_manifest(path.parent, path.stem)
        return [
            named_recording(utterance.id, Path(utterance.path)) for utterance in manifest.utterances
        ]
    lines = read_lines(path, name=f"--filelist {path}")
    files = [path.parent / line.strip() for line in lines if line.strip()]
    if not files:
        raise UserError(f"--filelist {path}: names no recording; it holds a path a line")
    return [named_recording(recording_key(file, file.parent), file) for file in files]


def read(recording: Recording) -> Waveform:
    """A recording, decoded; UserError names it."""
    source = recording.source
    if source == Path(STANDARD_INPUT):
        return read_stream(sys.stdin.buffer)
    if is_packed(str(source)):
        return Waveform(stream_packed(str(source)))
    return Waveform(stream_recording(source, recording.where))


def read_stream(stream: BinaryIO) -> Waveform:
    """A recording that is piped in.  Decoders want to move in it, so it goes to disk first."""
    with tempfile.NamedTemporaryFile() as file:
        try:
            shutil.copyfileobj(stream, file)
            file.flush()
        except OSError as error:
            raise UserError(f"standard input: cannot be stored ({error})") from None
        return Waveform(stream_recording(file.name, "standard input"))


def write(recording: Recording, transcript: Transcript, options: TranscribeOptions) -> None:
    """One transcript to its file, or to standard output."""
    if options.output_dir:
        suffix = "txt" if options.format == "text" else options.format
        path = Path(options.output_dir, f"{recording.id}.{suffix}")
        write_lines(path, [render(recording, transcript, options.format)])
        return
    text = render(recording, transcript, options.format)
    if options.format == "text":
        text = f"{recording.where}\t{text}"
    tqdm.write(text, file=sys.stdout)  # moves a progress bar out of the way
    sys.stdout.flush()


def render(recording: Recording, transcript: Transcript, format: str) -> str:
    """A transcript as text, JSON in one line, or subtitles."""
    if format == "json":
        return json.dumps(transcript.as_json(recording.where), ensure_ascii=False)
    return SUBTITLES[format](transcript) if format in SUBTITLES else transcript.text
