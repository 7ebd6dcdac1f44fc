"""Build the mini corpus: spoken commands, in LibriSpeech's own layout.

    python -m utils.data.make_mini_corpus --output_dir datasets/mini

Phrases of 2 to 6 words are spoken by the espeak-ng synthesiser that the wheel `espeakng-loader`
carries (a separate program under the GPL-3, driven here through its C interface; its licence does
not cover the speech it makes).  Voices of the dev and test subsets never occur in train.
Everything is a function of the seed, whatever the number of workers.
"""

import ctypes
import hashlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from tqdm import tqdm

from common.runtime.randomness import numpy_generator
from wav2vec2.audio.resample import SAMPLE_RATE, resample
from wav2vec2.cli.errors import UserError, run_command
from wav2vec2.cli.flags import ArgumentParser, parse_dataclasses
from wav2vec2.files.output import write_lines

WORDS = (
    (
        "zero one two three four five six seven eight nine "
        "yes never stop begin left right higher lower open close start wait "
        "forward backward follow repeat house window garden music table river yellow purple"
    )
    .upper()
    .split()
)

# Accents and variants of espeak-ng's voices that are plainly intelligible, one a speaker.  A
# variant is the timbre: no variant of dev or test occurs in train, nor one of the same formants.
# Dev and test hold ordinary voices; the odd ones (a child's pitch, a Klatt synthesiser, formants
# far off) are for training only: heard or not, they are another task.
TRAIN_VOICES = (
    "en-us+m1", "en+m2", "en-us+m4", "en-us+zac", "en-us+m7", "en-gb-x-rp+m8",
    "en-us+f1", "en+f3", "en-gb-x-rp+shelby", "en-gb-x-rp+f5",
    "en-us+adam", "en+benjamin", "en-us+boris", "en-gb-scotland+ed", "en-us+ian", "en+john",
    "en-us+marcelo", "en+paul", "en-us+rob", "en+travis", "en+antonio", "en+steph",
    "en-us+belinda", "en-gb-x-rp+aunty", "en-us+Alex", "en+Alicia", "en-us+Andy", "en+Annie",
    "en-us+Denis", "en+Diogo", "en-us+Gene", "en+Henrique", "en-us+Jacky", "en+Lee",
    "en-us+Mario", "en+Michael", "en-us+david", "en+Nguyen", "en-us+Reed", "en+announcer",
    "en-us+anika", "en+grandma", "en-us+gustave", "en+iven3", "en-us+max", "en+miguel",
    "en-us+norbert", "en+quincy", "en-us+pedro", "en+sandro", "en-us+steph3", "en+mike2",
)  # fmt: skip
DEV_VOICES = ("en-us+m6", "en+edward", "en-us+steph2", "en+victor")
TEST_VOICES = (
    "en-us+m3", "en+m5", "en+f2", "en-us+f4", "en-us+robert", "en+pablo", "en-us+Mike",
    "en-us+linda",
)  # fmt: skip
FIRST_SPEAKER = {"train-mini": 1001, "dev-mini": 2001, "test-mini": 3001}


@dataclass(frozen=True)
class CorpusOptions:
    """Mini corpus"""

    output_dir: str
    """Folder to create; an equal corpus found there is reused."""
    minutes: float = 30.0
    """Audio in train-mini."""
    dev_utterances: int = 100
    """Utterances in dev-mini."""
    test_utterances: int = 240
    """Utterances in test-mini."""
    seed: int = 1
    """Seed of phrases and of each utterance's rate, pitch and loudness."""

    def __post_init__(self) -> None:
        if self.minutes <= 0:
            raise UserError(f"--minutes {self.minutes}: must be positive")
        for name, voices in (("dev_utterances", DEV_VOICES), ("test_utterances", TEST_VOICES)):
            if getattr(self, name) < len(voices):
                raise UserError(
                    f"--{name} {getattr(self, name)}: must be at least {len(voices)}, one a voice"
                )


@dataclass(frozen=True)
class WorkerOptions:
    """Work"""

    workers: int = os.cpu_count() or 1
    """Processes that synthesise; the result does not depend on it."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UserError(f"--workers {self.workers}: must be at least 1")


@dataclass(frozen=True)
class Speaker:
    """One voice's share of a subset: so many seconds, or so many utterances."""

    subset: str
    number: int
    voice: str
    seconds: float | None
    utterances: int | None
    seed: int


class Spoken(NamedTuple):
    """What was synthesised of one speaker."""

    speaker: Speaker
    utterances: int
    seconds: float
    words: set[str]


class Synthesiser:
    """espeak-ng through ctypes, from text to samples in memory.

    The library keeps state between utterances in its global variables, which neither its
    parameters nor starting it again resets.  So each synthesiser loads a copy of the library of
    its own, and what it says depends on nothing but what it said before.  Breathy voices draw from
    the C library's `rand` as well, so only the newest synthesiser of a process may be used.
    """

    _SYNCHRONOUS, _DONT_EXIT, _CHARS_UTF8, _POSITION_CHARACTER = 2, 0x8000, 1, 1
    _RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
    _CALLBACK = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
    )

    def __init__(self) -> None:
        import espeakng_loader

        original = espeakng_loader.get_library_path()
        # A library that is loaded cannot be removed everywhere; elsewhere it lives on unnamed.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            own = shutil.copy(original, folder)
            try:
                self._library = ctypes.CDLL(own)
            except OSError as error:
                raise UserError(
                    f"{original}: a copy in {tempfile.gettempdir()} cannot be loaded ({error}); "
                    "set TMPDIR to a folder that programs may run from"
                ) from None
        data = espeakng_loader.get_data_path()
        self.rate = self._library.espeak_Initialize(
            self._SYNCHRONOUS, 0, os.fsencode(data), self._DONT_EXIT
        )
        if self.rate <= 0:
            raise UserError(
                f"{data}: espeak-ng cannot be started from here; install espeakng-loader anew, "
                "in a folder of a short name (espeak-ng takes some 150 characters)"
            )
        self._library.srand(1)  # found in the C library, on which this one depends
        self._blocks: list[np.ndarray] = []
        self._callback = self._CALLBACK(self._collect)  # kept: C holds only a pointer to it
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples, count: int, events) -> int:
        if samples and count > 0:
            self._blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def speak(
        self,
        text: str,
        voice: str,
        *,
        words_a_minute: int,
        pitch: int,
        pitch_range: int,
        noise_seed: int,
    ) -> np.ndarray:
        """The spoken text as float32 `[samples]` at `self.rate` Hz; pitches within 0 ... 100."""
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise UserError(f"espeak-ng lacks the voice {voice}; install espeakng-loader anew")
        settings = {
            self._RATE: words_a_minute,
            self._PITCH: pitch,
            self._RANGE: pitch_range,
            self._VOLUME: 50,  # some voices clip at the default of 100
        }
        for parameter, value in settings.items():
            self._library.espeak_SetParameter(parameter, value, 0)
        self._blocks.clear()
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(noise_seed))  # for breathy voices
        encoded = text.encode()
        self._library.espeak_Synth(
            encoded, len(encoded) + 1, 0, self._POSITION_CHARACTER, 0, self._CHARS_UTF8, None, None
        )
        self._library.espeak_Synchronize()
        return np.concatenate(self._blocks).astype(np.float32) / 32768


def speak_speaker(speaker: Speaker, folder: Path) -> Spoken:
    """Synthesise one speaker's utterances and write them with their transcripts."""
    synthesiser = Synthesiser()
    own = numpy_generator("mini corpus speaker", speaker.seed, speaker.number)
    base_rate, base_pitch = own.integers(135, 185), own.integers(30, 70)
    chapter = 1
    directory = folder / speaker.subset / str(speaker.number) / str(chapter)
    directory.mkdir(parents=True)
    lines, seconds, words = [], 0.0, set()
    while (speaker.utterances is not None and len(lines) < speaker.utterances) or (
        speaker.seconds is not None and seconds < speaker.seconds
    ):
        draw = numpy_generator("mini corpus utterance", speaker.seed, speaker.number, len(lines))
        phrase = [WORDS[i] for i in draw.integers(len(WORDS), size=draw.integers(2, 7))]
        audio = synthesiser.speak(
            " ".join(phrase).lower(),
            speaker.voice,
            words_a_minute=int(base_rate * draw.uniform(0.88, 1.14)),
            pitch=int(base_pitch + draw.integers(-12, 13)),
            pitch_range=int(draw.integers(30, 71)),
            noise_seed=int(draw.integers(2**31)),
        )
        audio = resample(audio, synthesiser.rate)
        audio *= draw.uniform(0.3, 0.9) / np.abs(audio).max()
        key = f"{speaker.number}-{chapter}-{len(lines):04d}"
        soundfile.write(directory / f"{key}.flac", audio, SAMPLE_RATE, subtype="PCM_16")
        lines.append(f"{key} {' '.join(phrase)}")
        words.update(phrase)
        seconds += len(audio) / SAMPLE_RATE
    write_lines(directory / f"{speaker.number}-{chapter}.trans.txt", lines)
    return Spoken(speaker, len(lines), seconds, words)


def plan_speakers(options: CorpusOptions) -> list[Speaker]:
    """Who speaks how much in which subset."""
    speakers = []
    for subset, voices, total in (
        ("train-mini", TRAIN_VOICES, None),
        ("dev-mini", DEV_VOICES, options.dev_utterances),
        ("test-mini", TEST_VOICES, options.test_utterances),
    ):
        for index, voice in enumerate(voices):
            seconds = utterances = None
            if total is None:
                seconds = 60 * options.minutes / len(voices)
            else:
                utterances = total // len(voices) + (index < total % len(voices))
            number = FIRST_SPEAKER[subset] + index
            speakers.append(Speaker(subset, number, voice, seconds, utterances, options.seed))
    return speakers


def synthesise(speakers: Sequence[Speaker], folder: Path, workers: int) -> list[Spoken]:
    """All speakers, in their order; UserError if a worker dies."""
    # Ctrl-C reaches the whole group; the workers leave the answer to it to this process.
    with ProcessPoolExecutor(
        min(workers, len(speakers)),
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),
    ) as pool:
        try:
            spoken = pool.map(speak_speaker, speakers, [folder] * len(speakers))
            return list(
                tqdm(spoken, total=len(speakers), desc="mini corpus", unit="voice", disable=None)
            )
        except BrokenProcessPool:
            raise UserError(
                "a process that synthesises was killed, perhaps for want of memory; "
                f"use fewer --workers than {workers}"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)  # after an error nothing more is spoken


def existing(options: CorpusOptions, output_dir: Path) -> bool:
    """Whether an equal corpus already lies there; UserError if something else does."""
    if not output_dir.exists():
        return False
    try:
        found = json.loads((output_dir / "corpus.json").read_text(encoding="utf-8"))
        found = {key: found["settings"].get(key) for key in settings(options)}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        if not output_dir.is_dir() or any(output_dir.iterdir()):
            raise UserError(
                f"--output_dir {output_dir}: exists and holds no mini corpus; "
                "choose another folder or remove it"
            ) from None
        return False
    differing = [f"{k} {found[k]}" for k, v in settings(options).items() if found[k] != v]
    if differing:
        raise UserError(
            f"--output_dir {output_dir}: holds a mini corpus made with other settings "
            f"({', '.join(differing)}); choose another folder or remove it"
        )
    return True


def settings(options: CorpusOptions) -> dict:
    """What the corpus is a function of."""
    values = asdict(options)
    del values["output_dir"]
    constants = json.dumps([WORDS, TRAIN_VOICES, DEV_VOICES, TEST_VOICES]).encode()
    return {**values, "words_and_voices": hashlib.blake2b(constants, digest_size=4).hexdigest()}


def main() -> None:
    parser = ArgumentParser(prog="utils.data.make_mini_corpus", description=__doc__.splitlines()[0])
    options, work = parse_dataclasses(parser, [CorpusOptions, WorkerOptions])
    output_dir = Path(options.output_dir)
    if existing(options, output_dir):
        print(f"{output_dir}: the mini corpus is there already")
        return
    try:
        import espeakng_loader  # noqa: F401
    except ImportError:
        raise UserError("the synthesiser is missing: pip install espeakng-loader") from None

    # Built beside its place and renamed when whole: half a corpus is never taken for one.
    place = output_dir.resolve()
    building = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        building.mkdir(parents=True)
        results = synthesise(plan_speakers(options), building, work.workers)
        subsets = {}
        for subset in FIRST_SPEAKER:
            own = [spoken for spoken in results if spoken.speaker.subset == subset]
            subsets[subset] = {
                "minutes": round(sum(spoken.seconds for spoken in own) / 60, 2),
                "utterances": sum(spoken.utterances for spoken in own),
                "voices": len(own),
                "words": len(set().union(*(spoken.words for spoken in own))),
            }
        content = {"settings": settings(options), "subsets": subsets}
        write_lines(building / "corpus.json", json.dumps(content, indent=2).splitlines())
        if place.exists():
            place.rmdir()  # empty, see `existing`
        building.rename(place)
    except OSError as error:
        raise UserError(
            f"--output_dir {output_dir}: cannot be written ({error.strerror}); choose another"
        ) from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
    for subset, facts in subsets.items():
        print(
            f"{output_dir / subset}: {facts['minutes']} min, {facts['utterances']} utterances, "
            f"{facts['voices']} voices, {facts['words']} words"
        )


if __name__ == "__main__":
    run_command(main)
