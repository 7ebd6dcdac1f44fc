"""Audio in: decode, resample, normalise.

Two doors.  `read_utterance` serves training: the file must be what its filelist says, 16 kHz and
mono, and anything else is an error, because a silent repair there trains on nonsense.
`read_recording` serves people's own files: any format, rate and channel count.
"""

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from common.errors import UserError

SAMPLE_RATE = 16_000
"""Samples a second of everything behind the two doors."""

NORMALIZE_EPS = 1e-5

UNKNOWN_LENGTH = 2**63 - 1
"""What libsndfile reports for a stream whose header leaves its length out."""

HEADERLESS = {".g722": "g722", ".722": "g722", ".g729": "g729", ".gsm": "gsm", ".sln": "sln"}
"""Telephone streams of a fixed rate and without a header, by suffix: nothing in their bytes says
what they are, so a decoder that guesses may take them for something else."""

_RAW_SAMPLES = re.compile(r"[fsu]\d+(le|be)?|alaw|mulaw")
"""FFmpeg's names for bare samples, whose rate it would have to make up."""

_ZIP_MEMBER = re.compile(r"(?P<archive>.+\.zip):(?P<offset>\d+):(?P<length>\d+)")


def normalize(waveform: np.ndarray) -> np.ndarray:
    """Zero mean and unit (biased) variance over a whole utterance, `[samples]` -> `[samples]`.

    Large models were trained on input normalised so (before cropping, eps 1e-5 in the root).
    """
    wide = waveform.astype(np.float64)
    return ((wide - wide.mean()) / np.sqrt(wide.var() + NORMALIZE_EPS)).astype(np.float32)


def _open(path: str) -> io.BytesIO | str:
    """A file, or the stored member `archive.zip:offset:length` as bytes."""
    member = _ZIP_MEMBER.fullmatch(path)
    if not member:
        return path
    with open(member["archive"], "rb") as archive:
        archive.seek(int(member["offset"]))
        data = archive.read(int(member["length"]))
    if len(data) < int(member["length"]):
        raise UserError(f"{path}: the archive ends before this member does; fetch it again")
    return io.BytesIO(data)


def _no_such(path: str, error: OSError) -> UserError:
    return UserError(
        f"{path}: cannot be opened ({error.strerror}); check the filelist's root folder and that "
        "the data set is mounted"
    )


def read_utterance(path: str, expected_samples: int | None = None) -> np.ndarray:
    """Decode a 16 kHz mono file (or stored zip member) to float32 `[samples]` in [-1, 1).

    Raises UserError, naming the file, if it is missing, empty, truncated, undecodable, of another
    sample rate, has more than one channel, or another length than the filelist's
    `expected_samples`.
    """
    try:
        source = _open(path)
        if isinstance(source, str) and os.path.getsize(source) == 0:
            raise UserError(f"{path}: the file is empty; fetch it again or remove it from the list")
        with soundfile.SoundFile(source) as file:
            if file.frames == UNKNOWN_LENGTH:
                raise UserError(
                    f"{path}: its header leaves the length out, as streams do; "
                    "convert the corpus with utils/import_corpus.py"
                )
            if file.samplerate != SAMPLE_RATE:
                raise UserError(
                    f"{path}: sample rate {file.samplerate} Hz, training needs {SAMPLE_RATE}; "
                    "convert the corpus with utils/import_corpus.py"
                )
            if file.channels != 1:
                raise UserError(
                    f"{path}: {file.channels} channels, training needs mono; "
                    "convert the corpus with utils/import_corpus.py"
                )
            waveform = file.read(dtype="float32")
            declared = file.frames
    except OSError as error:
        raise _no_such(path, error) from None
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: the suffix .raw
        reason = getattr(error, "error_string", error)
        raise UserError(
            f"{path}: not decodable audio, or truncated ({reason}); fetch it again "
            "or remove it from the filelist"
        ) from None
    expected = declared if expected_samples is None else expected_samples
    if len(waveform) != expected:
        raise UserError(
            f"{path}: holds {len(waveform)} samples where {expected} are listed; it is truncated "
            "or was changed: fetch it again, or write the filelist anew"
        )
    if len(waveform) == 0:
        raise UserError(f"{path}: holds no samples; remove it from the filelist")
    if not np.isfinite(waveform).all():
        raise UserError(f"{path}: holds NaN or infinite samples; remove it from the filelist")
    return waveform


def resample(waveform: np.ndarray, rate: int, target_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Resample `[samples]` from `rate` to `target_rate` Hz with soxr (high quality)."""
    if rate == target_rate:
        return waveform
    import soxr  # only foreign sample rates need it

    return soxr.resample(waveform, rate, target_rate, quality="HQ").astype(np.float32)


def _decode_with_av(path: str) -> Iterator[tuple[np.ndarray, int]]:
    """Decoded blocks `([channels, samples] float32, rate)` of the first audio stream."""
    try:
        import av
    except ImportError:
        raise UserError(
            f"{path}: not a format libsndfile decodes; `pip install av` adds FFmpeg's decoders"
        ) from None
    try:
        headerless = HEADERLESS.get(Path(path).suffix.lower())
        with av.open(path, format=headerless) as container:
            if _RAW_SAMPLES.fullmatch(container.format.name):
                raise UserError(f"{path}: bare samples of an unknown rate; convert it to wav first")
            if not container.streams.audio:
                raise UserError(f"{path}: holds no audio stream")
            resampler = av.AudioResampler(format="fltp")
            for frame in container.decode(container.streams.audio[0]):
                for block in resampler.resample(frame):
                    yield block.to_ndarray(), block.sample_rate
    except (av.FFmpegError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: not decodable audio ({error}); convert or leave it out") from None


def read_recording(path: str | Path) -> np.ndarray:
    """Decode anybody's recording to 16 kHz mono float32 `[samples]`.

    libsndfile decodes what it can (wav, flac, ogg, mp3, ...), `av` the rest if it is installed;
    channels are averaged and other rates resampled.  Raises UserError, naming the file, if it is
    missing, empty, undecodable, without audio, or holds NaN.
    """
    path = str(path)
    try:
        size = os.path.getsize(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror})") from None
    if os.path.isdir(path):
        raise UserError(f"{path}: is a folder, not a recording")
    if size == 0:
        raise UserError(f"{path}: the file is empty")
    suffix = Path(path).suffix.lower()
    if suffix == ".raw":  # soundfile's one suffix that asks its caller for the format
        raise UserError(f"{path}: bare samples of an unknown rate; convert it to wav first")
    try:
        if suffix in HEADERLESS or soundfile.info(path).frames == UNKNOWN_LENGTH:
            raise soundfile.LibsndfileError(0)
        channels, rate = soundfile.read(path, dtype="float32", always_2d=True)
        waveform = channels.mean(axis=1)
    except soundfile.LibsndfileError:
        blocks = list(_decode_with_av(path))
        if not blocks:
            raise UserError(f"{path}: holds no samples") from None
        rate = blocks[0][1]
        waveform = np.concatenate([block.mean(axis=0) for block, _ in blocks])
    if len(waveform) == 0:
        raise UserError(f"{path}: holds no samples")
    if not np.isfinite(waveform).all():
        raise UserError(f"{path}: holds NaN or infinite samples")
    return resample(waveform, rate)
