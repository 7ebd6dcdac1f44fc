"""Recordings -> their transcripts."""

from collections.abc import Sequence

from common.audio import read_recording
from common.decoding import DecodingOptions
from common.errors import ExitCode, UserError, list_failures
from tasks.recogniser import ModelOptions, Recogniser, prepare_decoder


def transcribe(options: ModelOptions, decoding: DecodingOptions, files: Sequence[str]) -> ExitCode:
    """Print `file<TAB>transcript` for each file; those that cannot be read are listed at the end.

    Any format, sample rate and channel count (see common/audio.py).
    """
    recogniser = Recogniser.load(options)
    decoder = prepare_decoder(decoding, recogniser.vocabulary)
    failures: list[str] = []
    size = options.batch_size
    for start in range(0, len(files), size):
        names, waveforms = [], []
        for file in files[start : start + size]:
            try:
                waveform = read_recording(file)
            except UserError as error:
                failures.append(str(error))
                continue
            names.append(file)
            waveforms.append(waveform)
        if names:
            batch = recogniser.hear(names, waveforms)
            for name, hypothesis in zip(names, recogniser.transcripts(batch, decoder)):
                print(f"{name}\t{hypothesis.words}", flush=True)
    return list_failures(failures)
