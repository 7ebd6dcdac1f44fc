"""Recordings of noise to train on: what they hold matters for no time and no memory."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile

from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.files.filelists import write_manifest


def write_noise(folder: Path, subset: str, lengths: Iterable[int]) -> None:
    """A filelist `subset` in `folder` and its recordings, of so many samples each."""
    generator = np.random.default_rng(0)
    files = [(f"{subset}{number}.wav", samples) for number, samples in enumerate(lengths)]
    for name, samples in files:
        noise = 0.1 * generator.standard_normal(samples).astype(np.float32)
        soundfile.write(folder / name, noise, SAMPLE_RATE, subtype="PCM_16")
    write_manifest(folder, subset, folder, files)
