"""Decode, resample and normalise audio.

`read_utterance` is for data sets: the file must be as its filelist says, 16 kHz and mono.
Anything else is an error: converting it without notice could train on wrong data.
`stream_recording` is for recordings of users: any format, sample rate, channel count and length.
"""

import io
import itertools
import logging
import math
import os
import re
import reprlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from wav2vec2.audio.length_check import Extent, extent
from wav2vec2.audio.levels import LARGEST_FLOAT, Levels, average_channels, scale_notes
from wav2vec2.audio.resample import SAMPLE_RATE, resample_blocks
from wav2vec2.audio.source import is_regular, printable, seekable
from wav2vec2.audio.zip_member import Content, ZipMember
from wav2vec2.cli.errors import UserError, one_line
from wav2vec2.cli.stderr import silent_stderr

if TYPE_CHECKING:  # imported where a file is decoded: packed audio needs no soundfile
    import soundfile

_log = logging.getLogger(__name__)

NORMALIZE_EPS = 1e-5
"""Added to the variance by models of this repository and of fairseq."""

BLOCK = 65_536
"""Samples per channel that are decoded at a time."""

KEPT_SAMPLES = 2**24
"""Samples of all channels (64 MiB) up to which a recording that is measured as a whole before it is
used is kept meanwhile; a longer one is decoded twice."""

MOST_CHANNELS = 64
"""Most channels of an array.  With more, its axes are probably exchanged, which is an error."""

RATES = (1_000, 1_000_000)
"""Hz, lowest and highest sample rate.  Others are mistakes, such as kHz, and the
resampler would fill the memory or never end."""

UNKNOWN_LENGTH = 2**63 - 1
"""What libsndfile reports for a stream whose header does not give its length."""

DECLARING = {"AIFF", "AU", "MP3", "NIST", "RF64", "W64", "WAV", "WAVEX"}
"""Formats, by soundfile's names, whose truncated files libsndfile does not recognise."""

HEADERLESS = {".g722": "g722", ".722": "g722", ".g729": "g729", ".gsm": "gsm", ".sln": "sln"}
"""Suffix -> FFmpeg's format, of telephone streams with a fixed rate and no header.  Nothing in
their bytes identifies them, so a decoder that guesses may choose another format."""

MISSING = "shorter than declared"
"""Kind of the note about MISSING_SECONDS."""

FLOATING = ("DOUBLE", "FLOAT")
"""libsndfile's names of sample formats in floating point, which may go beyond [-1, 1]."""

MISSING_SECONDS = 0.015
"""Audio that a file may hold less than its header declares, as some recorders write it."""

_RAW_SAMPLES = re.compile(r"[fsu]\d+(le|be)?|alaw|mulaw")
"""FFmpeg's names for bare samples, for which it would assume a sample rate."""


class Block(NamedTuple):
    """Decoded samples of a recording."""

    rate: float
    """Hz."""
    samples: np.ndarray
    """`[samples, channels]`, float32."""
    floating: bool = False
    """Whether the source stores floating point, which may go beyond [-1, 1]."""


Notes = dict[str, str]
"""Kind -> what is unusual about a recording that was read all the same."""


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


def _sound_file(source: io.BytesIO | str) -> "soundfile.SoundFile":
    """Open a file with libsndfile, without libmpg123's remarks on bytes that may be an MP3."""
    import soundfile

    with silent_stderr():
        # As bytes: soundfile cannot encode a name that is not UTF-8.
        return soundfile.SoundFile(os.fsencode(source) if isinstance(source, str) else source)


def _read(file: "soundfile.SoundFile", frames: int = -1, *, always_2d: bool = False) -> np.ndarray:
    """The next `frames` samples of each channel, or all, float32, without libmpg123's remarks."""
    with silent_stderr() if file.format == "MP3" else nullcontext():
        return file.read(frames, dtype="float32", always_2d=always_2d)


def _extent(file: "soundfile.SoundFile", source: io.BytesIO | str) -> Extent:
    """The bytes of audio that `source`, open as `file`, declares, and those that it has."""
    if file.format not in DECLARING:
        return Extent(None, 0)
    if not isinstance(source, str):  # a second view: libsndfile relies on the first one's position
        return extent(io.BytesIO(source.getvalue()))
    with open(source, "rb") as content:
        return extent(content)


def _is_stream(file: "soundfile.SoundFile", found: Extent) -> bool:
    """Whether the header has no length and libsndfile cannot read the file to its end.

    libsndfile guesses the length of an MP3 from the first frame's bit rate, and stops there.
    """
    guessed = file.format == "MP3" and found.declared is None
    return guessed or file.frames == UNKNOWN_LENGTH or (file.frames == 0 and found.held > 0)


def _check_extent(
    file: "soundfile.SoundFile", found: Extent, name: str, most: float = MISSING_SECONDS
) -> Notes:
    """UserError if the file is truncated; a note if no more than `most` seconds are missing."""
    if not found.short:
        return {}
    # libsndfile counts the samples that are there, of any encoding.
    seconds = file.frames / file.samplerate if 0 < file.frames < UNKNOWN_LENGTH else 0.0
    missing = (found.declared / found.held - 1) * seconds if found.held > 0 else math.inf
    if not 0 < missing <= most:
        raise _cut_short(name, found)
    return {MISSING: f"holds {1000 * missing:.0f} ms less than its header declares"}


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
    import soundfile

    try:
        source = _open(path)
        if isinstance(source, str) and os.path.getsize(source) == 0:
            kind = "the file is empty" if is_regular(source) else "not a file"
            raise UserError(f"{path}: {kind}; fetch it again or remove it from the list")
        with _sound_file(source) as file:
            found = _extent(file, source)
            _check_extent(file, found, path)
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
            # No more than listed, and one to see that there is more: a damaged header may declare
            # more than the memory holds.
            waveform = _read(file, -1 if expected_samples is None else expected_samples + 1)
            declared, floating = file.frames, file.subtype in FLOATING
    except OSError as error:
        raise UserError(
            f"{path}: cannot be opened ({error.strerror}); check the filelist's root folder and "
            "that the data set is mounted"
        ) from None
    except UserError:
        raise
    except (soundfile.LibsndfileError, TypeError, ValueError) as error:
        # TypeError: the suffix .raw; ValueError: a format that cannot be read from any position
        reason = getattr(error, "error_string", error)
        raise UserError(
            f"{path}: not decodable audio, or truncated ({reason}); fetch it again "
            "or remove it from the filelist"
        ) from None
    except MemoryError:
        raise UserError(
            f"{path}: damaged, its header declares {file.frames} samples; fetch it again or remove "
            "it from the filelist"
        ) from None
    expected = declared if expected_samples is None else expected_samples
    if len(waveform) != expected:
        held = len(waveform) if len(waveform) < expected else declared
        raise UserError(
            f"{path}: holds {held} samples where {expected} are listed; it is truncated "
            "or was changed: fetch it again, or write the filelist again"
        )
    if len(waveform) == 0:
        raise UserError(f"{path}: holds no samples; remove it from the filelist")
    if not np.isfinite(waveform).all():
        raise UserError(f"{path}: holds NaN or infinite samples; remove it from the filelist")
    if floating and (peak := float(abs(waveform).max())) > LARGEST_FLOAT:
        raise UserError(
            f"{path}: samples up to {peak:.5g} in floating point, where 1 is full scale; convert "
            "the corpus with utils/data/import_corpus.py"
        )
    return waveform


def _decode(
    source: io.BytesIO | str, name: str, notes: Notes, most_missing: float = MISSING_SECONDS
) -> Iterator[Block]:
    """Decoded blocks, by libsndfile or else by `av`."""
    import soundfile

    headerless = HEADERLESS.get(_suffix(source))
    rate = done = 0
    opened = stream = False
    try:
        if headerless:
            raise soundfile.LibsndfileError(0)  # handled below: `av` decodes it
        if not isinstance(source, str):
            source.seek(0)
        with _sound_file(source) as file:
            found = _extent(file, source)
            notes.update(_check_extent(file, found, name, most_missing))
            stream = _is_stream(file, found)
            if stream:
                if file.format != "MP3" or find_spec("av"):
                    raise soundfile.LibsndfileError(0)
                notes["no length"] = (
                    "an MP3 without its length; if its bit rate varies, only a part is decoded: "
                    "`pip install av` decodes all of it"
                )
            rate, opened = file.samplerate, True
            floating = file.subtype in FLOATING
            while len(block := _read(file, BLOCK, always_2d=True)):
                done += len(block)
                yield Block(rate, block, floating)
            missing = (file.frames - done) / rate if file.format == "FLAC" else 0.0
            if missing > most_missing:
                raise UserError(
                    f"{name}: damaged or truncated, holds {done / rate:.2f} s of the "
                    f"{file.frames / rate:.2f} s that its header declares; fetch it again"
                )
            if missing > 0:
                notes[MISSING] = f"holds {1000 * missing:.0f} ms less than its header declares"
    except soundfile.LibsndfileError as error:
        if opened:
            raise UserError(
                f"{name}: damaged or truncated, not decodable after {done / rate:.1f} s "
                f"({error.error_string}); fetch it again"
            ) from None
        if not stream and _begins_as_flac(source):  # libsndfile decodes every whole one
            raise UserError(
                f"{name}: damaged or truncated, its header is incomplete; fetch it again"
            ) from None
        yield from _decode_with_av(source, name, headerless)


def _begins_as_flac(source: io.BytesIO | str) -> bool:
    if not isinstance(source, str):
        return source.getvalue()[:4] == b"fLaC"
    with open(source, "rb") as file:
        return file.read(4) == b"fLaC"


def _decode_with_av(source: io.BytesIO | str, name: str, headerless: str | None) -> Iterator[Block]:
    """Decoded blocks of the first audio stream."""
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
        # FFmpeg would take a name like `a:b` for an address.
        content = f"file:{source}" if isinstance(source, str) else source
        with av.open(content, format=headerless) as container:
            if _RAW_SAMPLES.fullmatch(container.format.name):
                raise UserError(f"{name}: bare samples of an unknown rate; convert it to wav first")
            if not container.streams.audio:
                raise UserError(f"{name}: holds no audio stream; remove it")
            stream = container.streams.audio[0]
            sphere = container.format.name == "nistsphere"
            if stream.codec_context is None:
                fix = (
                    "convert it: `sph2pipe -f wav in.sph out.wav`"
                    if sphere
                    else "convert or remove it"
                )
                raise UserError(f"{name}: not decodable audio (unknown codec); {fix}")
            floating = stream.codec_context.name.startswith("pcm_f")
            resampler = av.AudioResampler(format="fltp")
            seconds = 0.0
            for frame in container.decode(stream):
                for block in resampler.resample(frame):
                    seconds += block.samples / block.sample_rate
                    yield Block(block.sample_rate, block.to_ndarray().T, floating)
            declared = float(stream.duration * stream.time_base) if stream.duration else 0.0
            if sphere and declared > seconds + MISSING_SECONDS:
                raise UserError(
                    f"{name}: damaged or truncated, holds {seconds:.2f} s of the {declared:.2f} s "
                    "that its header declares; fetch it again"
                )
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{name}: not decodable audio, or truncated ({reason}); convert or remove it"
        ) from None


def stream_recording(
    path: str | Path,
    name: str = "",
    channel: int | None = None,
    notes: Notes | None = None,
    most_missing: float = MISSING_SECONDS,
) -> Iterator[np.ndarray]:
    """Decode a recording of any format and length to blocks of 16 kHz mono float32 `[samples]`.

    libsndfile decodes what it can (wav, flac, ogg, mp3, ...), `av` the rest if it is installed.
    `path` may be that of a stored zip member, or a pipe.  `channel`: its number from 1; by default
    channels are averaged, and if they cancel each other the loudest is taken.  Other rates are
    resampled.  What is unusual about the recording is added to `notes` after the last block;
    without `notes` it is logged.  A header may declare `most_missing` seconds too much.

    UserError, naming the file (or `name`), if it is missing, empty, undecodable, without audio or
    this channel, or has NaN; blocks before the damage may have been returned by then.
    """
    path = str(path)
    name = name or printable(path)
    with seekable(path, name) as file:
        source = _checked_source(file, name)
        yield from _stream_mono(
            lambda found: _decode(source, name, found, most_missing), name, channel, notes
        )


def _checked_source(path: str, name: str) -> io.BytesIO | str:
    """What to decode; UserError if it cannot be a recording."""
    try:
        source = _open(path)
        size = os.path.getsize(source) if isinstance(source, str) else len(source.getbuffer())
        if isinstance(source, str) and not os.path.isdir(source):
            open(source, "rb").close()  # decoders do not say that a permission is missing
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = getattr(error, "strerror", None) or error  # ValueError: a null character
        raise UserError(f"{name}: cannot be opened ({reason})") from None
    if os.path.isdir(path):
        raise UserError(f"{name}: is a folder, not a recording; name a file in it")
    if size == 0:
        raise UserError(f"{name}: the file is empty; fetch it again or remove it")
    if _suffix(source) == ".raw":  # soundfile asks for the format of this suffix alone
        raise UserError(f"{name}: bare samples of an unknown rate; convert it to wav first")
    return source


def count_channels(path: str | Path, name: str = "") -> int:
    """The number of channels of a file; errors as of stream_recording."""
    name = name or printable(path)
    first = next(_decode(_checked_source(str(path), name), name, {}), None)
    return first.samples.shape[1] if first else 1


def _stream_mono(
    decode: Callable[[Notes], Iterator[Block]],
    name: str,
    channel: int | None,
    notes: Notes | None,
) -> Iterator[np.ndarray]:
    """Blocks of any rate and channels -> 16 kHz mono blocks `[samples]`.

    `decode` starts at the first block each time it is called; it is called a second time if a
    measurement of the whole decides what to do and the recording is long.
    """
    found: Notes = {}
    blocks = decode(found)
    first = next(blocks, None)
    if first is None:
        raise UserError(f"{name}: holds no samples")
    lowest, highest = RATES
    if not lowest <= first.rate <= highest:
        raise UserError(f"{name}: damaged, its sample rate is {first.rate:g} Hz; fetch it again")
    channels = first.samples.shape[1]
    if channel is not None and channel > channels:
        raise UserError(
            f"{name}: has no channel {channel}, its last is {channels}; choose another --channel"
        )
    used = -1 if channel is None else channel - 1
    scale = 1.0
    blocks = itertools.chain([first], blocks)
    levels = Levels()
    measured = first.floating or (channel is None and channels > 1)
    if measured:
        kept: list[Block] | None = []
        for block in blocks:
            levels.add(_checked(block.samples, name, channels))
            if kept is not None:
                kept.append(block)
                if levels.samples * channels > KEPT_SAMPLES:
                    kept = None
        if first.floating:
            scale = levels.scale(name)
            found |= scale_notes(levels, scale)
        if channel is None and (louder := levels.louder_channel()) is not None:
            used = louder
            found["channels cancel"] = (
                f"the average of its {channels} channels is far weaker than channel {louder + 1} "
                f"alone, as if they cancelled each other: channel {louder + 1} is used"
            )
        blocks = decode(found) if kept is None else iter(kept)

    def mono(block: np.ndarray) -> np.ndarray:
        if not measured:
            levels.add(_checked(block, name, channels))
        chosen = average_channels(block) if used < 0 else np.ascontiguousarray(block[:, used])
        return chosen if scale == 1 else chosen * np.float32(scale)

    empty = True
    # A container may change its sample rate between blocks.
    for rate, run in itertools.groupby(blocks, key=attrgetter("rate")):
        for part in resample_blocks((mono(block.samples) for block in run), rate):
            empty = empty and len(part) == 0
            yield part
    if empty:
        raise UserError(f"{name}: holds no samples")
    found |= levels.notes(used, scale)
    if notes is not None:
        notes |= found
        return
    for text in found.values():
        _log.warning("%s: %s", name, text)


def _checked(block: np.ndarray, name: str, channels: int) -> np.ndarray:
    """The block `[samples, channels]`; UserError for NaN, or if the channels change."""
    if block.shape[1] != channels:
        raise UserError(f"{name}: the number of its channels changes; convert it to wav first")
    if not np.isfinite(block).all():
        raise UserError(f"{name}: holds NaN or infinite samples")
    return block


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


def stream_array(
    samples: Any,
    rate: Any,
    name: str = "audio",
    channel: int | None = None,
    notes: Notes | None = None,
) -> Iterator[np.ndarray]:
    """`stream_recording` of an array or tensor `[samples]` or `[samples, channels]` at `rate` Hz.

    Floating point within [-1, 1], or integers of their type's whole range.  Floating point beyond
    is scaled down, with a warning.  UserError for what is not such an array, for NaN, and for a
    rate outside RATES.  `name`, `channel` and `notes`: as of stream_recording.
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
    floating = rows.dtype.kind == "f"

    def blocks(_: Notes) -> Iterator[Block]:
        for start in range(0, len(rows), BLOCK):
            yield Block(rate, _to_float(rows[start : start + BLOCK]), floating)

    yield from _stream_mono(blocks, name, channel, notes)


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


def read_recording(
    path: str | Path,
    channel: int | None = None,
    notes: Notes | None = None,
    most_missing: float = MISSING_SECONDS,
) -> np.ndarray:
    """`stream_recording` as one array, `[samples]`."""
    blocks = stream_recording(path, channel=channel, notes=notes, most_missing=most_missing)
    return np.concatenate([*blocks])


def stream_content(
    content: bytes,
    name: str,
    channel: int | None = None,
    notes: Notes | None = None,
    most_missing: float = MISSING_SECONDS,
) -> Iterator[np.ndarray]:
    """`stream_recording` of the bytes of a file, called `name` in errors."""
    if not content:
        raise UserError(f"{name}: the file is empty; fetch it again or remove it")
    source = Content(content)
    yield from _stream_mono(
        lambda found: _decode(source, name, found, most_missing), name, channel, notes
    )
