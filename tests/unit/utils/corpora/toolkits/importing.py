"""An import as a user types it, and what it wrote."""

import json
import sys
from pathlib import Path

import numpy as np
import soundfile

from utils.data.import_corpus import main


def noise(path: Path, seconds=1.0, seed=0, rate=16_000, channels=1):
    """Write a recording and return its samples, 16 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (int(seconds * rate), channels)[: 1 + (channels > 1)]
    samples = np.random.default_rng(seed).normal(0, 2000, shape).astype(np.int16)
    soundfile.write(path, samples, rate)
    return samples


def imported(monkeypatch, output_dir, *flags):
    """(exit code, id -> (samples of the FLAC file, words or None, subset), skipped reasons)."""
    arguments = ("--output_dir", output_dir, "--workers", "1", "--min_seconds", "0.1", *flags)
    monkeypatch.setattr(sys, "argv", ["import_corpus", *map(str, arguments)])
    code = main()
    found = {}
    for subset in ("train", "valid", "test"):
        if not (path := output_dir / f"{subset}.tsv").exists():
            continue
        files = [line.split("\t") for line in path.read_text().splitlines()[1:]]
        labels = path.with_suffix(".wrd")
        words = labels.read_text().splitlines() if labels.exists() else [None] * len(files)
        for (name, length), text in zip(files, words, strict=True):
            samples, rate = soundfile.read(output_dir / "audio" / name, dtype="int16")
            assert (len(samples), rate) == (int(length), 16_000)
            found[name.removesuffix(".flac")] = samples, text, subset
    return int(code), found, skipped(output_dir)


def skipped(output_dir):
    """Reason -> where, of each skipped row."""
    lines = (output_dir / "skipped.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    return {(entry["reason"], Path(entry["where"]).name) for entry in entries}


def write(folder: Path, files: dict[str, str]):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
