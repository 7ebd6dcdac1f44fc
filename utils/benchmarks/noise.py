"""Recordings of noise to train on: what they hold matters for no time and no memory."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wav2vec2.audio.packed import INT16, Header, address
from wav2vec2.files.filelists import OWN_FOLDER, write_manifest
from wav2vec2.files.output import write_chunks


def write_noise(folder: Path, subset: str, lengths: Sequence[int]) -> None:
    """A filelist `subset` in `folder` and its recordings, of so many samples each, packed."""
    generator = np.random.default_rng(0)
    shard = f"{subset}-00000.pack"
    files, first = [], 0
    for number, samples in enumerate(lengths):
        files.append((address(shard, first, samples, f"{subset}{number}.wav"), samples))
        first += samples
    noise = ((3_000 * generator.standard_normal(n, np.float32)).astype(INT16) for n in lengths)
    header = Header(INT16, first, bytes(32)).pack()
    write_chunks(folder / shard, (header, *(block.tobytes() for block in noise)))
    write_manifest(folder, subset, OWN_FOLDER, files)
