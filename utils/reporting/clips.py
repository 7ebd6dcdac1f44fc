"""Audio of the utterances that a report shows: clips in the page, else links to the files."""

import base64
import io
import os
import random
from pathlib import Path
from urllib.parse import quote

import numpy as np
import soundfile

from utils.reporting.runs import Evaluation
from wav2vec2.audio.packed import read_audio
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import UserError
from wav2vec2.files.filelists import Utterance, read_manifest

WORST = 10
"""Utterances with the most errors that get a clip before any other."""
DRAWN = 5
"""Utterances drawn at random that come next, to show what the rest sounds like."""

PREFIX = "data:audio/flac;base64,"


def add_audio(
    evaluations: list[Evaluation], page: Path, most_bytes: int, dataset_dir: str = ""
) -> list[str]:
    """Give the shown utterances of `evaluations` clips of at most `most_bytes` of text in all.

    The others get links to their files, relative to `page`.  The audio is found by the filelist of
    the subset in `dataset_dir`, by default in the folder that the evaluation names.  Returns what
    could not be found or read, one line each.
    """
    notes = []
    for left, evaluation in zip(range(len(evaluations), 0, -1), evaluations):
        folder = dataset_dir or evaluation.summary.get("dataset_dir")
        if not isinstance(folder, str):
            continue
        try:
            manifest = read_manifest(folder, evaluation.subset)
        except UserError as error:
            notes.append(f"no audio of {evaluation.subset}: {error}, or use --dataset_dir")
            continue
        listed = {utterance.id: utterance for utterance in manifest.utterances}
        chosen = [listed[key] for key in in_order(evaluation) if key in listed]
        clips, failures = embed(chosen, most_bytes // left)
        most_bytes -= sum(map(len, clips.values()))
        evaluation.clips = link(chosen, page) | clips
        notes += [f"no audio of some utterances: {failure}" for failure in failures[:1]]
    return notes


def in_order(evaluation: Evaluation) -> list[str]:
    """The ids of the shown utterances in the order in which they get clips."""
    errors = {key: sum(one != other for one, other in pairs) for key, pairs in evaluation.shown}
    worst = sorted(errors, key=lambda key: -errors[key])
    first, rest = worst[:WORST], worst[WORST:]
    drawn = random.Random(0).sample(rest, min(DRAWN, len(rest)))
    return [*first, *drawn, *(key for key in rest if key not in drawn)]


def embed(utterances: list[Utterance], most_bytes: int) -> tuple[dict[str, str], list[str]]:
    """id -> data URI of those utterances, in their order, that fit in `most_bytes` together; and
    why some cannot be read."""
    clips: dict[str, str] = {}
    failures = []
    for utterance in utterances:
        if utterance.samples > most_bytes:  # a clip takes more than a byte per sample
            continue
        try:
            clip = encode(read_audio(utterance.path, utterance.samples))
        except UserError as error:
            failures.append(str(error))
            continue
        if len(clip) <= most_bytes:
            clips[utterance.id] = clip
            most_bytes -= len(clip)
    return clips, failures


def encode(waveform: np.ndarray) -> str:
    """16 kHz audio `[samples]` as a data URI: FLAC, 16 bits."""
    file = io.BytesIO()
    soundfile.write(file, waveform, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return PREFIX + base64.b64encode(file.getvalue()).decode("ascii")


def link(utterances: list[Utterance], page: Path) -> dict[str, str]:
    """id -> relative link from `page` to the audio file, for files that exist; a packed utterance
    has none."""
    folder = page.absolute().parent
    return {
        utterance.id: quote(os.fsencode(os.path.relpath(utterance.path, folder)))
        for utterance in utterances
        if Path(utterance.path).is_file()
    }
