"""Recordings -> their transcripts, as text, JSON or subtitles."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from wav2vec2.audio.decode import count_channels, stream_recording
from wav2vec2.audio.packed import is_packed, stream_packed
from wav2vec2.audio.recordings import (
    EACH,
    Recording,
    named_recording,
    parse_channel,
    recordings_at,
    unique_ids,
)
from wav2vec2.audio.source import recording_key, seekable, stored
from wav2vec2.audio.waveform import Waveform
from wav2vec2.cli.errors import ExitCode, Failures, UserError, list_failures
from wav2vec2.decoding.beam_search import DecodingOptions
from wav2vec2.decoding.timed_words import Transcript, srt, vtt
from wav2vec2.files.filelists import read_manifest
from wav2vec2.files.output import prepare_folder, write_lines
from wav2vec2.files.text import read_lines
from wav2vec2.inference.recogniser import (
    Recogniser,
    RecogniserOptions,
    complete_decoding,
    prepare_decoder,
)
from wav2vec2.inference.transcriber import Transcriber, WindowOptions

STANDARD_INPUT = "-"
TEXT_FORMATS = {"text": attrgetter("text"), "srt": srt, "vtt": vtt}


@dataclass(frozen=True)
class TranscribeOptions:
    """Input and output"""

    filelist: str = ""
    """More recordings: a filelist (.tsv), or a text file with one path per line, relative to the
    file's folder."""
    format: Literal["text", "json", "srt", "vtt"] = "text"
    """text: file<TAB>transcript; json: words with start, end, confidence; srt, vtt: subtitles."""
    output_dir: str = ""
    """Folder for one file per recording, instead of standard output."""
    channel: str = "average"
    """average of all channels; or the number of one, from 1; or each: a transcript per channel."""

    def __post_init__(self) -> None:
        parse_channel(self.channel)


def transcribe(
    model: RecogniserOptions,
    decoding: DecodingOptions,
    windows: WindowOptions,
    options: TranscribeOptions,
    files: Sequence[str],
) -> ExitCode:
    """Transcribe files, folders (recursively), a filelist and standard input (`-`).

    Recordings that cannot be read are skipped and listed at the end.
    """
    recordings = find_recordings(files, options.filelist)
    if options.output_dir:
        recordings = unique_ids(recordings)
        prepare_folder("--output_dir", options.output_dir)
    elif options.format in ("srt", "vtt") and (len(recordings) > 1 or options.channel == EACH):
        many = "channels" if options.channel == EACH else f"{len(recordings)} recordings"
        raise UserError(
            f"--format {options.format}: {many} need a file each; give a folder for them with "
            "--output_dir"
        )
    recogniser = Recogniser.load(model)
    decoding = complete_decoding(decoding, recogniser)
    decoder = prepare_decoder(decoding, recogniser.vocabulary)
    transcriber = Transcriber(recogniser, decoder, windows, model.batch_size)
    failures = Failures()
    # In seconds of audio; the total is known when the last recording is decoded.
    with tqdm(total=0, unit="s", unit_scale=True, disable=None) as progress:

        def decoded() -> Iterator[tuple[Recording, Waveform]]:
            for number, recording in enumerate(recordings, start=1):
                progress.set_description(f"{number}/{len(recordings)} {recording.where}")
                waveforms = failures.attempt(decode_recording, recording, options.channel) or {}
                progress.total += sum(waveform.seconds for waveform in waveforms.values())
                progress.refresh()
                for channel, waveform in waveforms.items():
                    yield replace(recording, channel=channel), waveform

        for recording, transcript in transcriber.transcribe_all(decoded(), progress.update):
            write_transcript(recording, transcript, options)
    if options.output_dir:
        done = len(recordings) - len(failures)
        print(f"{done} of {len(recordings)} recordings transcribed in {options.output_dir}")
    return list_failures(failures)


def find_recordings(files: Sequence[str], filelist: str) -> list[Recording]:
    """The recordings that the command line names, in its order; `where` is each one's name.

    UserError if there are none, for a folder without audio, or for a filelist that does not parse.
    """
    found: list[Recording] = []
    for name in files:
        if name == STANDARD_INPUT:
            found.append(named_recording("stdin", Path(name)))
        else:
            found += recordings_at(name)
    if filelist:
        found += listed_recordings(Path(filelist))
    if not found:
        raise UserError("give recordings, folders of them, - for standard input, or --filelist")
    piped = list(files).count(STANDARD_INPUT)
    if piped > 1:
        raise UserError("-: standard input can be read once only")
    if piped and sys.stdin.isatty():
        raise UserError("-: standard input is a terminal; pipe a recording into it")
    return found


def listed_recordings(path: Path) -> list[Recording]:
    """The recordings of a filelist (.tsv), or of a text file with one path per line."""
    if path.suffix.lower() == ".tsv":
        manifest = read_manifest(path.parent, path.stem)
        return [
            named_recording(utterance.id, Path(utterance.path)) for utterance in manifest.utterances
        ]
    lines = read_lines(path, name=f"--filelist {path}", errors="surrogateescape")
    files = [path.parent / line.strip() for line in lines if line.strip()]
    if not files:
        raise UserError(f"--filelist {path}: names no recording; write one path per line")
    return [named_recording(recording_key(file, file.parent), file) for file in files]


def decode_recording(recording: Recording, channels: str) -> dict[int | None, Waveform]:
    """Decode a recording: channel, from 1, or None for their average -> its samples.

    `channels`: the flag's text.  UserError names the recording.
    """
    piped = recording.source == Path(STANDARD_INPUT)
    name = "standard input" if piped else recording.where
    with stored(sys.stdin.buffer, name) if piped else seekable(str(recording.source), name) as path:
        if is_packed(path):  # these have one channel
            wanted = 1 if channels == EACH else parse_channel(channels)
            if wanted not in (None, 1):
                raise UserError(f"{name}: has one channel; choose another --channel")
            return {wanted: Waveform(stream_packed(path))}
        if channels != EACH:
            wanted = parse_channel(channels)
            return {wanted: Waveform(stream_recording(path, name, wanted))}
        return {
            n: Waveform(stream_recording(path, f"{name} (channel {n})", n))
            for n in range(1, count_channels(path, name) + 1)
        }


def write_transcript(
    recording: Recording, transcript: Transcript, options: TranscribeOptions
) -> None:
    """Write one transcript to its file, or to standard output."""
    where, name = recording.where, recording.id
    if options.channel == EACH or options.format == "json":
        transcript = replace(transcript, channel=recording.channel)
    if options.channel == EACH:
        name = f"{name}.channel{recording.channel}"
    if options.format == "json":
        text = json.dumps(transcript.as_json(where), ensure_ascii=False)
    else:
        text = TEXT_FORMATS[options.format](transcript)
    if options.output_dir:
        suffix = "txt" if options.format == "text" else options.format
        write_lines(Path(options.output_dir, f"{name}.{suffix}"), [text])
        return
    if options.format == "text":
        shown = f"{where} (channel {recording.channel})" if options.channel == EACH else where
        text = f"{shown}\t{text}"
    tqdm.write(text, file=sys.stdout)  # keeps the progress bar below the text
    sys.stdout.flush()
