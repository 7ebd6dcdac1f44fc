"""Build the mini corpus: spoken commands, in LibriSpeech's own layout.

    python -m utils.data.make_mini_corpus --output_dir datasets/mini

Phrases of 2 to 6 words are spoken by the espeak-ng synthesiser that the wheel `espeakng-loader`
carries.  (It is a separate program under the GPL-3, driven here through its C interface; its
licence does not cover the speech that it makes.)  Voices and phrases of the dev and test subsets
never occur in train.  The corpus is a function of the flags and does not depend on the number of
workers.
"""

import ctypes
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from common.runtime.randomness import numpy_generator
from common.runtime.worker_pool import map_in_processes
from utils.data.existing_output import was_made_with
from utils.data.next_step import print_next_step
from wav2vec2.audio.resample import SAMPLE_RATE, resample
from wav2vec2.cli.errors import UserError, run_command
from wav2vec2.cli.flags import parse_options, require_at_least
from wav2vec2.files.output import temporary_path, write_json, write_lines

WORDS = """
    zero one two three four five six seven eight nine
    yes never stop begin left right higher lower open close start wait
    forward backward follow repeat house window garden music table river yellow purple
""".upper().split()

# Intelligible accents and variants of espeak-ng's voices, one per speaker.  A variant is the
# timbre: no variant of dev or test occurs in train, nor one of the same formants.  Dev and test
# hold ordinary voices.  Unusual ones (a child's pitch, a Klatt synthesiser, distant formants) are
# in train only, because recognising them is another task.
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
    """Folder to create; an equal corpus in it is reused."""
    minutes: float = 30.0
    """Audio in train-mini."""
    dev_utterances: int = 100
    """Utterances in dev-mini."""
    test_utterances: int = 240
    """Utterances in test-mini."""
    seed: int = 1
    """Seed of the phrases and of each utterance's rate, pitch and loudness."""
    workers: int = os.cpu_count() or 1
    """Processes that synthesise; the result does not depend on their number."""

    def __post_init__(self) -> None:
        if self.minutes <= 0:
            raise UserError(f"--minutes {self.minutes}: must be positive")
        least = {"dev_utterances": len(DEV_VOICES), "test_utterances": len(TEST_VOICES)}
        require_at_least(self, **least, workers=1)


@dataclass(frozen=True)
class Speaker:
    """One voice's share of a subset: it speaks until both minima are reached."""

    subset: str
    number: int
    voice: str
    seconds: float
    utterances: int
    seed: int


class Drawn(NamedTuple):
    """An utterance's words, and the generator of its rate, pitch and loudness."""

    phrase: str
    draw: np.random.Generator


class SpokenShare(NamedTuple):
    """What was synthesised for one speaker."""

    subset: str
    utterances: int
    seconds: float
    words: set[str]


class Synthesiser:
    """espeak-ng through ctypes, from text to samples in memory.

    The library keeps state between utterances in global variables, which neither its parameters
    nor a restart reset.  So each synthesiser loads its own copy of the library, and its speech
    depends only on what it spoke before.  Breathy voices also draw from the C library's `rand`, so
    only the newest synthesiser of a process may be used.
    """

    _SYNCHRONOUS, _DONT_EXIT, _CHARS_UTF8, _POSITION_CHARACTER = 2, 0x8000, 1, 1
    _RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
    _CALLBACK = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
    )

    def __init__(self) -> None:
        import espeakng_loader

        original = espeakng_loader.get_library_path()
        # Some systems cannot remove a loaded library; on others it stays usable without a name.
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
                f"{data}: espeak-ng cannot start from here; reinstall espeakng-loader, in a folder "
                "with a short path (espeak-ng allows about 150 characters)"
            )
        self._library.srand(1)  # resolved in the C library that it is linked to
        self._blocks: list[np.ndarray] = []
        self._callback = self._CALLBACK(self._collect)  # kept alive: C holds only a pointer
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples, count: int, events) -> int:
        if samples and count > 0:
            self._blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def speak(
        self, text: str, voice: str, *, rate: int, pitch: int, pitch_range: int, seed: int
    ) -> np.ndarray:
        """The spoken text, float32 `[samples]` at `self.rate` Hz.

        `rate`: words per minute; pitches lie in 0 ... 100; `seed`: of the noise in breathy voices.
        """
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise UserError(f"espeak-ng lacks the voice {voice}; reinstall espeakng-loader")
        settings = {
            self._RATE: rate,
            self._PITCH: pitch,
            self._RANGE: pitch_range,
            self._VOLUME: 50,  # some voices clip at the default of 100
        }
        for parameter, value in settings.items():
            self._library.espeak_SetParameter(parameter, value, 0)
        self._blocks.clear()
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        encoded = text.encode()
        self._library.espeak_Synth(
            encoded, len(encoded) + 1, 0, self._POSITION_CHARACTER, 0, self._CHARS_UTF8, None, None
        )
        self._library.espeak_Synchronize()
        return np.concatenate(self._blocks).astype(np.float32) / 32768


def draw_phrase(speaker: Speaker, number: int, refused: Set[str] = frozenset()) -> Drawn:
    """What the speaker says in utterance `number`, 2 to 6 words that are not among `refused`; and
    the generator of the utterance's other draws."""
    draw = numpy_generator("mini corpus utterance", speaker.seed, speaker.number, number)
    while True:
        words = [WORDS[i] for i in draw.integers(len(WORDS), size=draw.integers(2, 7))]
        if (phrase := " ".join(words)) not in refused:
            return Drawn(phrase, draw)


def held_out_phrases(speakers: Sequence[Speaker]) -> frozenset[str]:
    """All phrases of the dev and test subsets."""
    return frozenset(
        draw_phrase(speaker, number).phrase
        for speaker in speakers
        if speaker.subset != "train-mini"
        for number in range(speaker.utterances)
    )


def write_speaker(speaker: Speaker, folder: Path, held_out: Set[str] = frozenset()) -> SpokenShare:
    """Synthesise one speaker's utterances, and write them and their transcripts to `folder`.

    A speaker of train says no phrase of `held_out`.
    """
    refused = held_out if speaker.subset == "train-mini" else frozenset()
    synthesiser = Synthesiser()
    own = numpy_generator("mini corpus speaker", speaker.seed, speaker.number)
    base_rate, base_pitch = own.integers(135, 185), own.integers(30, 70)
    chapter = 1
    directory = folder / speaker.subset / str(speaker.number) / str(chapter)
    directory.mkdir(parents=True)
    lines, seconds, words = [], 0.0, set()
    while len(lines) < speaker.utterances or seconds < speaker.seconds:
        phrase, draw = draw_phrase(speaker, len(lines), refused)
        audio = synthesiser.speak(
            phrase.lower(),
            speaker.voice,
            rate=int(base_rate * draw.uniform(0.88, 1.14)),
            pitch=int(base_pitch + draw.integers(-12, 13)),
            pitch_range=int(draw.integers(30, 71)),
            seed=int(draw.integers(2**31)),
        )
        audio = resample(audio, synthesiser.rate)
        audio *= draw.uniform(0.3, 0.9) / np.abs(audio).max()
        key = f"{speaker.number}-{chapter}-{len(lines):04d}"
        soundfile.write(directory / f"{key}.flac", audio, SAMPLE_RATE, subtype="PCM_16")
        lines.append(f"{key} {phrase}")
        words.update(phrase.split())
        seconds += len(audio) / SAMPLE_RATE
    write_lines(directory / f"{speaker.number}-{chapter}.trans.txt", lines)
    return SpokenShare(speaker.subset, len(lines), seconds, words)


def plan_speakers(options: CorpusOptions) -> list[Speaker]:
    """The speakers of all subsets, with equal shares of each subset."""
    speakers = []
    for subset, voices, minutes, total in (
        ("train-mini", TRAIN_VOICES, options.minutes, 0),
        ("dev-mini", DEV_VOICES, 0, options.dev_utterances),
        ("test-mini", TEST_VOICES, 0, options.test_utterances),
    ):
        for index, voice in enumerate(voices):
            seconds = 60 * minutes / len(voices)
            utterances = total // len(voices) + (index < total % len(voices))
            number = FIRST_SPEAKER[subset] + index
            speakers.append(Speaker(subset, number, voice, seconds, utterances, options.seed))
    return speakers


def corpus_settings(options: CorpusOptions) -> dict:
    """All that the corpus is a function of."""
    values = asdict(options)
    del values["output_dir"], values["workers"]
    constants = json.dumps([WORDS, TRAIN_VOICES, DEV_VOICES, TEST_VOICES]).encode()
    return {
        **values,
        "words_and_voices": hashlib.blake2b(constants, digest_size=4).hexdigest(),
        "phrases_of_train": "none of dev and test",
    }


def build_corpus(options: CorpusOptions, folder: Path) -> dict[str, dict]:
    """Synthesise the corpus in `folder`: subset -> its minutes, utterances, voices and words."""
    speakers = plan_speakers(options)
    write = partial(write_speaker, folder=folder, held_out=held_out_phrases(speakers))
    results = map_in_processes(
        write, speakers, options.workers, flag="--workers", unit="voices", title="corpus"
    )
    shares, subsets = list(results), {}
    for subset in FIRST_SPEAKER:
        own = [share for share in shares if share.subset == subset]
        subsets[subset] = {
            "minutes": round(sum(share.seconds for share in own) / 60, 2),
            "utterances": sum(share.utterances for share in own),
            "voices": len(own),
            "words": len(set().union(*(share.words for share in own))),
        }
    content = {"settings": corpus_settings(options), "subsets": subsets}
    write_json(folder / "corpus.json", content)
    return subsets


def main() -> None:
    options = parse_options(CorpusOptions, "utils.data.make_mini_corpus", __doc__)
    output_dir = Path(options.output_dir)
    if was_made_with(corpus_settings(options), output_dir, "corpus.json", "mini corpus"):
        print(f"{output_dir}: the mini corpus exists already")
        return
    try:
        import espeakng_loader  # noqa: F401
    except ImportError:
        raise UserError("the synthesiser is missing: pip install espeakng-loader") from None

    try:
        # A folder in its place is empty, see `was_made_with`.
        with temporary_path(output_dir.resolve()) as building:
            building.mkdir(parents=True)
            subsets = build_corpus(options, building)
    except OSError as error:
        raise UserError(
            f"--output_dir {output_dir}: cannot be written ({error.strerror}); choose another"
        ) from None
    for subset, facts in subsets.items():
        print(
            f"{output_dir / subset}: {facts['minutes']} min, {facts['utterances']} utterances, "
            f"{facts['voices']} voices, {facts['words']} words"
        )
    print_next_step(
        "bash scripts/generate_filelists.sh", DATASET_DIR=output_dir, SUBSETS=" ".join(subsets)
    )


if __name__ == "__main__":
    run_command(main)
