"""Decode, resample and normalise audio.

`read_utterance` is for data sets: the file must be as its filelist says, 16 kHz and mono.
Anything else is an error: converting it without notice could train on wrong data.
`stream_recording` is for recordings of users: any format, sample rate, channel count and length.
"""

import io
import itertools
import logging
import os
import re
import reprlib
from collections.abc import Iterator
from contextlib import nullcontext
from importlib.util import find_spec
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from wav2vec2.audio.length_check import Extent, extent
from wav2vec2.audio.resample import SAMPLE_RATE, resample_blocks
from wav2vec2.audio.zip_member import ZipMember
from wav2vec2.cli.errors import UserError, one_line
from wav2vec2.cli.stderr import silent_stderr

_log = logging.getLogger(__name__)

NORMALIZE_EPS = 1e-5
"""Added to the variance by models of this repository and of fairseq."""

BLOCK = 65_536
"""Samples per channel that are decoded at a time."""

MOST_CHANNELS = 64
"""Most channels of an array.  With more, its axes are probably exchanged, which is an error."""

RATES = (1_000, 1_000_000)
"""Hz, lowest and highest sample rate of an array.  Others are mistakes, such as kHz, and the
resampler would fill the memory or never end."""

UNKNOWN_LENGTH = 2**63 - 1
"""What libsndfile reports for a stream whose header does not give its length."""

DECLARING = {"AIFF", "MP3", "RF64", "WAV", "WAVEX"}
"""Formats, by soundfile's names, whose truncated files libsndfile does not recognise."""

HEADERLESS = {".g722": "g722", ".722": "g722", ".g729": "g729", ".gsm": "gsm", ".sln": "sln"}
"""Suffix -> FFmpeg's format, of telephone streams with a fixed rate and no header.  Nothing in
their bytes identifies them, so a decoder that guesses may choose another format."""

_RAW_SAMPLES = re.compile(r"[fsu]\d+(le|be)?|alaw|mulaw")
"""FFmpeg's names for bare samples, for which it would assume a sample rate."""


def normalize(waveform: np.ndarray, eps: float = NORMALIZE_EPS) -> np.ndarray:
    """Scale a whole utterance `[samples]` to zero mean and unit (biased) variance.

    The input of Large models in the paper's code: before cropping, with `eps` added to the
    variance.
    """
    wide = waveform.astype(np.float64)
    wide -= wide.mean()
    variance = np.square(wide).mean()  # var() would compute the mean again
    return np.divide(wide, np.sqrt(variance + eps), out=wide).astype(np.float32)


def _open(path: str) -> io.BytesIO | str:
    """The path of a file, or the content of a stored zip member."""
    member = ZipMember.of(path)
    return member.read() if member else path


def _suffix(source: io.BytesIO | str) -> str:
    """A file's suffix in lower case; a zip member has none."""
    return Path(source).suffix.lower() if isinstance(source, str) else ""


def _sound_file(source: io.BytesIO | str) -> soundfile.SoundFile:
    """Open a file with libsndfile, without libmpg123's remarks on bytes that may be an MP3."""
    with silent_stderr():
        return soundfile.SoundFile(source)


def _read(file: soundfile.SoundFile, frames: int = -1, *, always_2d: bool = False) -> np.ndarray:
    """The next `frames` samples of each channel, or all, float32, without libmpg123's remarks."""
    with silent_stderr() if file.format == "MP3" else nullcontext():
        return file.read(frames, dtype="float32", always_2d=always_2d)


def _extent(file: soundfile.SoundFile, source: io.BytesIO | str) -> Extent:
    """The bytes of audio that `source`, open as `file`, declares, and those that it has."""
    if file.format not in DECLARING:
        return Extent(None, 0)
    if not isinstance(source, str):  # a second view: libsndfile relies on the first one's position
        return extent(io.BytesIO(source.getvalue()))
    with open(source, "rb") as content:
        return extent(content)


def _is_stream(file: soundfile.SoundFile, found: Extent) -> bool:
    """Whether the header has no length and libsndfile cannot read the file to its end.

    libsndfile guesses the length of an MP3 from the first frame's bit rate, and stops there.
    """
    guessed = file.format == "MP3" and found.declared is None
    return guessed or file.frames == UNKNOWN_LENGTH or (file.frames == 0 and found.held > 0)


def _cut_short(name: str, found: Extent) -> UserError:
    return UserError(
        f"{name}: damaged or truncated, holds {found.held} of the {found.declared} bytes of audio "
        "that its header declares; fetch it again, or convert what is left"
    )


def read_utterance(path: str, expected_samples: int | None = None) -> np.ndarray:
    """Decode a 16 kHz mono file (or stored zip member) to float32 `[samples]` in [-1, 1).

    UserError, naming the file, if it is missing, empty, truncated or undecodable.  Also if its
    sample rate, its number of channels or its length is not as the filelist says.
    """
    try:
        source = _open(path)
        if isinstance(source, str) and os.path.getsize(source) == 0:
            raise UserError(f"{path}: the file is empty; fetch it again or remove it from the list")
        with _sound_file(source) as file:
            found = _extent(file, source)
            if found.short:
                raise _cut_short(path, found)
            unsuitable = ""
            if _is_stream(file, found):
                unsuitable = "its header does not give the length, as in streams"
            elif file.samplerate != SAMPLE_RATE:
                unsuitable = f"sample rate {file.samplerate} Hz, training needs {SAMPLE_RATE}"
            elif file.channels != 1:
                unsuitable = f"{file.channels} channels, training needs mono"
            if unsuitable:
                raise UserError(
                    f"{path}: {unsuitable}; convert the corpus with utils/data/import_corpus.py"
                )
            waveform = _read(file)
            declared = file.frames
    except OSError as error:
        raise UserError(
            f"{path}: cannot be opened ({error.strerror}); check the filelist's root folder and "
            "that the data set is mounted"
        ) from None
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
            "or was changed: fetch it again, or write the filelist again"
        )
    if len(waveform) == 0:
        raise UserError(f"{path}: holds no samples; remove it from the filelist")
    if not np.isfinite(waveform).all():
        raise UserError(f"{path}: holds NaN or infinite samples; remove it from the filelist")
    return waveform


def _decode(source: io.BytesIO | str, name: str) -> Iterator[tuple[int, np.ndarray]]:
    """Decoded blocks `(rate, [samples, channels] float32)`, by libsndfile or else by `av`."""
    headerless = HEADERLESS.get(_suffix(source))
    rate = done = 0
    try:
        if headerless:
            raise soundfile.LibsndfileError(0)  # handled below: `av` decodes it
        with _sound_file(source) as file:
            found = _extent(file, source)
            if found.short:
                raise _cut_short(name, found)
            if _is_stream(file, found):
                if file.format != "MP3" or find_spec("av"):
                    raise soundfile.LibsndfileError(0)
                _log.warning(
                    "%s: an MP3 without its length; if its bit rate varies, only a part is "
                    "decoded: `pip install av` decodes all of it",
                    name,
                )
            rate = file.samplerate
            while len(block := _read(file, BLOCK, always_2d=True)):
                done += len(block)
                yield rate, block
    except soundfile.LibsndfileError as error:
        if not done:
            yield from _decode_with_av(source, name, headerless)
            return
        raise UserError(
            f"{name}: damaged or truncated, not decodable after {done / rate:.1f} s "
            f"({error.error_string}); fetch it again"
        ) from None


def _decode_with_av(
    source: io.BytesIO | str, name: str, headerless: str | None
) -> Iterator[tuple[int, np.ndarray]]:
    """Decoded blocks `(rate, [samples, channels] float32)` of the first audio stream."""
    try:
        import av
    except ImportError:
        raise UserError(
            f"{name}: libsndfile cannot decode it, or not to its end; `pip install av` adds "
            "FFmpeg's decoders"
        ) from None
    try:
        if not isinstance(source, str):
            source.seek(0)  # libsndfile has read in it
        with av.open(source, format=headerless) as container:
            if _RAW_SAMPLES.fullmatch(container.format.name):
                raise UserError(f"{name}: bare samples of an unknown rate; convert it to wav first")
            if not container.streams.audio:
                raise UserError(f"{name}: holds no audio stream; remove it")
            resampler = av.AudioResampler(format="fltp")
            for frame in container.decode(container.streams.audio[0]):
                for block in resampler.resample(frame):
                    yield block.sample_rate, block.to_ndarray().T
    except (av.FFmpegError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{name}: not decodable audio ({error}); convert or remove it") from None


def stream_recording(path: str | Path, name: str = "") -> Iterator[np.ndarray]:
    """Decode a recording of any format and length to blocks of 16 kHz mono float32 `[samples]`.

    libsndfile decodes what it can (wav, flac, ogg, mp3, ...), `av` the rest if it is installed.
    Channels are averaged and other rates resampled.  `path` may be that of a stored zip member.
    UserError, naming the file (or `name`), if it is missing, empty, undecodable, without audio, or
    has NaN; blocks before the damage may have been returned by then.
    """
    path = str(path)
    name = name or path
    try:
        source = _open(path)
        size = os.path.getsize(source) if isinstance(source, str) else len(source.getbuffer())
    except OSError as error:
        raise UserError(f"{name}: cannot be opened ({error.strerror})") from None
    if os.path.isdir(path):
        raise UserError(f"{name}: is a folder, not a recording; name a file in it")
    if size == 0:
        raise UserError(f"{name}: the file is empty; fetch it again or remove it")
    if _suffix(source) == ".raw":  # soundfile asks for the format of this suffix alone
        raise UserError(f"{name}: bare samples of an unknown rate; convert it to wav first")
    empty = True
    # A container may change its sample rate between blocks.
    for rate, run in itertools.groupby(_decode(source, name), key=itemgetter(0)):
        for block in resample_blocks((_to_mono(block, name) for _, block in run), rate):
            empty = empty and len(block) == 0
            yield block
    if empty:
        raise UserError(f"{name}: holds no samples")


def _to_mono(block: np.ndarray, name: str) -> np.ndarray:
    """`[samples, channels]` -> `[samples]`, the channels' mean."""
    mono = block.mean(axis=1)
    if not np.isfinite(mono).all():
        raise UserError(f"{name}: holds NaN or infinite samples")
    return mono


def stream_audio(audio: Any, rate: Any = None) -> Iterator[np.ndarray]:
    """`stream_recording` of a file's path, or `stream_array` of samples at `rate` Hz.

    UserError for samples without a rate, and for a file with one.
    """
    if isinstance(audio, (str, Path)):
        if rate is not None:
            raise UserError(f"{audio}: a file has its own sample rate; remove rate={rate}")
        return stream_recording(audio)
    if rate is None:
        raise UserError("rate: samples need a sample rate; give it in Hz")
    return stream_array(audio, rate)


def stream_array(samples: Any, rate: Any) -> Iterator[np.ndarray]:
    """`stream_recording` of an array or tensor `[samples]` or `[samples, channels]` at `rate` Hz.

    Floating point within [-1, 1], or integers of their type's whole range.  UserError for what is
    not such an array, for NaN, and for a rate outside RATES.
    """
    rate = _checked_rate(rate)
    if hasattr(samples, "detach"):  # a tensor, on any device
        samples = samples.detach().cpu()
        samples = (samples.float() if samples.is_floating_point() else samples).numpy()
    try:
        samples = np.asarray(samples)
    except (ValueError, TypeError):
        raise UserError(
            "audio: not one array, as if its rows had different lengths; give numbers as [samples] "
            "or [samples, channels]"
        ) from None
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "fiu":
        raise UserError(
            f"audio of shape {list(samples.shape)} and type {samples.dtype}: give numbers as "
            "[samples] or [samples, channels]"
        )
    if samples.ndim == 2 and not 1 <= samples.shape[1] <= MOST_CHANNELS:
        raise UserError(
            f"audio of shape {list(samples.shape)} has {samples.shape[1]} channels; give "
            "[samples, channels], transpose it if needed"
        )
    if len(samples) == 0:
        raise UserError("audio: holds no samples")
    rows = samples.reshape(len(samples), -1)  # [samples, channels]
    blocks = (rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK))
    yield from resample_blocks((_to_mono(_to_float(block), "audio") for block in blocks), rate)


def _checked_rate(rate: Any) -> float:
    """A sample rate in Hz, given as a number of any library."""
    lowest, highest = RATES
    try:
        plausible = bool(lowest <= rate <= highest)
    except (TypeError, ValueError, RuntimeError):  # text; arrays and tensors of several numbers
        plausible = False
    if not plausible:
        raise UserError(
            f"rate {one_line(reprlib.repr(rate))}: must be a number from {lowest} to {highest}, in "
            "Hz"
        )
    return float(rate)


def _to_float(block: np.ndarray) -> np.ndarray:
    """Numbers of any type -> float32, integers scaled to [-1, 1)."""
    if block.dtype.kind == "f":
        return block.astype(np.float32)
    half = 2.0 ** (8 * block.dtype.itemsize - 1)
    zero = half if block.dtype.kind == "u" else 0.0
    return ((block.astype(np.float64) - zero) / half).astype(np.float32)


def read_recording(path: str | Path) -> np.ndarray:
    """`stream_recording` as one array, `[samples]`."""
    return np.concatenate([*stream_recording(path)])
