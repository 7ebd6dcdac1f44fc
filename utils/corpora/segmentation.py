"""Long recordings -> pieces within bounds, cut in pauses: by silence, or by the transcript's words.

The level of each frame is compared with the noise floor around it; runs of quiet frames are pauses.
Cuts are chosen together so that every piece is within the bounds and the pauses are the longest.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import soundfile

from common.runtime.worker_pool import map_in_processes
from utils.corpora.conversion import Recording, Skipped, blocks_of
from utils.corpora.sources import Utterance
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.audio.waveform import Waveform
from wav2vec2.cli.errors import UserError
from wav2vec2.files.output import write_lines
from wav2vec2.files.text import split_lines

if TYPE_CHECKING:  # imported where a model is needed: it brings torch
    from wav2vec2.inference.transcriber import Transcriber

FRAME = 320
"""Samples (20 ms) per measured level."""
PER_SECOND = SAMPLE_RATE // FRAME
"""Frames per second."""
SILENT = -90.0
"""dB of full scale (variance) up to which a frame is silent whatever the noise floor."""
LEAST_RANGE = 6.0
"""dB between noise floor and speech below which pauses cannot be told from speech."""
PAUSE = PER_SECOND // 5
"""Frames from which a quiet run is a pause; the closure of a stop consonant is shorter."""
LONG = 2 * PER_SECOND
"""Frames from which a pause is long: its middle is in no piece."""
MARGIN = 3 * PER_SECOND // 10
"""Frames of a long pause that stay with the speech at each side."""
CELL = PER_SECOND // 2
"""Frames: each cell's quietest frame is where to cut if there is no pause."""
HARD, TOO_SHORT, TOO_LONG = 1e4, 1e6, 1e9
"""Costs of a cut outside of pauses, and of a piece beyond the bounds.  A cut in a pause costs one
divided by its seconds, and silence in a piece its seconds beyond two."""


@dataclass(frozen=True)
class SegmentOptions:
    """Long recordings"""

    segment: Literal["", "silence", "align"] = ""
    """Cut recordings longer than --max_seconds: silence, in pauses (audio without transcript);
    align, between words of the transcript, which the model of --checkpoint finds (audio without
    transcript in pauses).  Default: skip them."""
    checkpoint: str = ""
    """Fine-tuned model for --segment align, whose dictionary has the transcripts' symbols."""
    open_ends: bool = False
    """--segment align: there may be more speech before and after the transcripts."""
    min_score: float = 0.1
    """--segment align skips pieces whose words score less, from 0 to 1: perhaps other words are
    spoken."""

    def __post_init__(self) -> None:
        if (self.segment == "align") != bool(self.checkpoint):
            raise UserError(
                "--segment align: needs the model that aligns; give --checkpoint"
                if not self.checkpoint
                else f"--checkpoint {self.checkpoint}: serves --segment align; give both"
            )
        if not 0 <= self.min_score <= 1:
            raise UserError(f"--min_score {self.min_score}: must be from 0 to 1")


@dataclass(frozen=True)
class Cut:
    """A place where a recording may be cut, in frames: the piece before ends at `before`, the next
    one begins at `after`, which is later if a long silence is removed."""

    before: int
    after: int
    cost: float


@dataclass(frozen=True)
class Part:
    """A piece of a recording, in seconds from the recording's start."""

    start: float
    end: float
    text: str | None = None
    skip: tuple[str, str] | None = None
    """Reason and detail for which it is skipped."""


@dataclass(frozen=True)
class Plan:
    """How a recording is cut."""

    parts: tuple[Part, ...] = ()
    """None: the recording is short enough, or is skipped."""
    hard: tuple[float, ...] = ()
    """Seconds at which it is cut although there is no pause."""
    skipped: tuple[str, str] | None = None
    """Reason and detail for which it cannot be cut."""


@dataclass(frozen=True)
class Task:
    """An utterance to cut."""

    utterance: Utterance
    options: SegmentOptions
    shortest: float
    """Seconds, as of `longest`."""
    longest: float
    threads: int
    """Threads of the model."""


def segment_all(
    utterances: Sequence[Utterance],
    options: SegmentOptions,
    bounds: tuple[float, float],
    audio_dir: Path,
    workers: int,
) -> tuple[list[Utterance], list[Skipped], list[Skipped]]:
    """The utterances, long ones as pieces; what was skipped; and notes of cuts without a pause.

    `bounds`: seconds of the shortest and of the longest piece.  A journal in `audio_dir` notes each
    plan, so that an interrupted run resumes.
    """
    if not options.segment:
        return list(utterances), [], []
    journal = audio_dir / "segments.jsonl"
    stamps = {u.id: _stamp(u, options) for u in utterances}
    known = _read_plans(journal).items()
    plans = {key: plan for key, (stamp, plan) in known if stamps.get(key) == stamp}
    wanted = [u for u in utterances if u.id not in plans and may_be_cut(u, options, bounds[1])]
    threads = max(1, (os.cpu_count() or 1) // workers)
    tasks = [Task(u, options, *bounds, threads) for u in wanted]
    if any(u.text is not None for u in wanted):
        load_transcriber(options.checkpoint, threads)  # a wrong one is an error before all work
    with open(journal, "a", encoding="utf-8") as file:
        words = {"flag": "--workers", "unit": "files", "title": "segment"}
        for task, plan in zip(tasks, map_in_processes(plan_cuts, tasks, workers, **words)):
            key = task.utterance.id
            plans[key] = plan
            print(json.dumps([key, stamps[key], asdict(plan)]), file=file, flush=True)
    lines = ([u.id, stamps[u.id], asdict(plans[u.id])] for u in utterances if u.id in plans)
    write_lines(journal, [json.dumps(line) for line in lines])
    # Pieces of one or two recordings are drawn one by one: else there were no validation set.
    together = len({(u.source, u.member) for u in utterances}) > 2
    found: list[Utterance] = []
    skipped: list[Skipped] = []
    notes: list[Skipped] = []
    for utterance in utterances:
        plan = plans.get(utterance.id, Plan())
        if plan.skipped:
            skipped.append(Skipped.of(utterance, *plan.skipped, failed=False))
        elif not plan.parts:
            found.append(utterance)
        for second in plan.hard:
            detail = f"cut at {second:.2f} s, where there is no pause within --max_seconds"
            notes.append(Skipped.of(utterance, "hard cut", detail, failed=False))
        for part in plan.parts:
            piece = piece_of(utterance, part, together)
            if part.skip:
                skipped.append(Skipped.of(piece, *part.skip, failed=False))
            else:
                found.append(piece)
    if cut := [plan for plan in plans.values() if plan.parts]:
        pieces = [part for plan in cut for part in plan.parts]
        hours = sum(part.end - part.start for part in pieces) / 3600
        print(f"segment: {len(cut)} long recordings cut into {len(pieces)} pieces, {hours:.3f} h")
    return found, skipped, notes


def may_be_cut(utterance: Utterance, options: SegmentOptions, longest: float) -> bool:
    """Whether an utterance may be too long, as far as its times or its header say."""
    if options.segment == "silence" and utterance.text is not None:
        return False  # its words belong to no piece
    if utterance.end is not None:
        return utterance.end - utterance.start > longest
    with suppress(Exception):  # not a file that libsndfile reads: its conversion reports errors
        return soundfile.info(os.fsencode(utterance.source)).duration - utterance.start > longest
    return os.path.isfile(utterance.source)


def piece_of(utterance: Utterance, part: Part, together: bool = True) -> Utterance:
    """The utterance of a piece; its id carries its start.

    `together`: all pieces of the recording stay in one subset.
    """
    suffix = f"_{round(1000 * part.start):07d}"
    return replace(
        utterance,
        id=utterance.id + suffix,
        key=utterance.key + suffix,
        where=f"{utterance.where} ({part.start:.2f} to {part.end:.2f} s)",
        start=part.start,
        end=part.end,
        text=part.text,
        group=utterance.group or (utterance.key if together else ""),
    )


def _stamp(utterance: Utterance, options: SegmentOptions) -> list:
    """What a plan depends on, beside the settings of the import."""
    try:
        facts = os.stat(utterance.source)
    except (OSError, ValueError):
        return []
    piece = [utterance.start, utterance.end, utterance.channel]
    text = utterance.text if options.segment == "align" else None
    return [str(utterance.source), facts.st_size, facts.st_mtime_ns, *piece, text]


def _read_plans(path: Path) -> dict[str, tuple[list, Plan]]:
    plans = {}
    if path.exists():
        for line in split_lines(path.read_text(encoding="utf-8")):
            with suppress(ValueError, TypeError):  # a line that was being written
                key, stamp, plan = json.loads(line)
                parts = tuple(Part(**part) for part in plan["parts"])
                skipped = plan["skipped"] and tuple(plan["skipped"])
                plans[key] = (stamp, Plan(parts, tuple(plan["hard"]), skipped))
    return plans


def plan_cuts(task: Task) -> Plan:
    """Decode a recording, and plan where to cut it if it is too long."""
    utterance = task.utterance
    try:
        blocks = blocks_of(
            *(utterance.source, utterance.member, utterance.where, utterance.channel), notes={}
        )
        waveform = Recording(_clipped(blocks, utterance.start, utterance.end))
    except UserError:
        return Plan()  # its conversion reports the error
    with closing(waveform):
        if waveform.seconds <= task.longest:
            return Plan()
        levels = measure_levels(
            waveform.read(start, min(start + SAMPLE_RATE * 60, waveform.samples))
            for start in range(0, waveform.samples, SAMPLE_RATE * 60)
        )
        quiet = quiet_frames(levels)
        if quiet.all():
            return Plan(skipped=("silent", f"{waveform.seconds:.2f} s without any sound"))
        bounds = round(task.shortest * PER_SECOND), math.floor(task.longest * PER_SECOND)
        if utterance.text is None:
            cuts = silence_cuts(levels, quiet)
            chosen = choose_cuts(cuts, quiet, *bounds)
            parts = [
                Part(*_seconds(task, waveform, a.after, b.before))
                for a, b in zip(chosen, chosen[1:])
            ]
        else:
            try:
                parts, chosen = _aligned_parts(task, waveform, levels, quiet, bounds)
            except UserError as error:
                return Plan(skipped=("not aligned", str(error)))
        hard = [c.after / PER_SECOND + utterance.start for c in chosen if c.cost >= HARD]
        return Plan(tuple(parts), tuple(hard))


def _clipped(blocks: Iterable[np.ndarray], start: float, end: float | None) -> Iterator[np.ndarray]:
    """The samples of a stream from `start` to `end`, in seconds."""
    first, at = round(start * SAMPLE_RATE), 0
    last = math.inf if end is None else round(end * SAMPLE_RATE)
    for block in blocks:
        yield block[max(first - at, 0) : max(int(min(last - at, len(block))), 0)]
        at += len(block)


def _seconds(task: Task, waveform: Waveform, start: int, end: int) -> tuple[float, float]:
    """Frames -> seconds from the start of the file; the last frame may be shorter."""
    last = min(end * FRAME, waveform.samples)
    begin = task.utterance.start
    return round(begin + start / PER_SECOND, 6), round(begin + last / SAMPLE_RATE, 6)


def measure_levels(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """The level of each frame in dB of full scale, `[frames]`; the last frame may be shorter."""
    levels = []
    rest = np.empty(0, np.float32)
    for block in blocks:
        rest = np.concatenate([rest, block])
        whole = len(rest) // FRAME * FRAME
        levels.append(rest[:whole].reshape(-1, FRAME).astype(np.float64).var(axis=1))
        rest = rest[whole:]
    if len(rest):
        levels.append(rest.astype(np.float64).var(keepdims=True))
    return 10 * np.log10(np.concatenate([np.empty(0), *levels]) + 1e-12)


def quiet_frames(levels: np.ndarray) -> np.ndarray:
    """Whether each frame is quiet, `[frames]`.

    A frame is quiet up to a quarter of the way from the noise floor to speech, at least 3 dB above
    the floor: the 10th and 99th percentile of the levels of three minutes around its minute.  Where
    these hardly differ, those of the recording count.
    """
    minute = 60 * PER_SECOND
    whole = _threshold(levels)
    whole = SILENT if whole is None else whole
    limits = np.empty_like(levels)
    for start in range(0, len(levels), minute):
        limit = _threshold(levels[max(0, start - minute) : start + 2 * minute])
        limits[start : start + minute] = whole if limit is None else limit
    return levels <= limits


def _threshold(levels: np.ndarray) -> float | None:
    """The level up to which frames are quiet; None if noise and speech cannot be told apart."""
    sound = levels[levels > SILENT]
    floor, speech = np.percentile(sound, (10, 99)) if len(sound) else (SILENT, SILENT)
    if speech - floor < LEAST_RANGE:
        return None
    return float(floor + max(3.0, (speech - floor) / 4))


def runs_of(quiet: np.ndarray, least: int = PAUSE) -> list[tuple[int, int]]:
    """First frame, and the one after the last, of each run of at least `least` quiet frames."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]]).astype(np.int8)))
    return [(a, b) for a, b in edges.reshape(-1, 2).tolist() if b - a >= least]


def cut_in(run: tuple[int, int]) -> Cut:
    """The cut in a pause: in its middle, or around the middle of a long one."""
    start, end = run
    cost = PER_SECOND / (end - start)
    if end - start >= LONG:
        return Cut(start + MARGIN, end - MARGIN, cost)
    middle = (start + end) // 2
    return Cut(middle, middle, cost)


def silence_cuts(levels: np.ndarray, quiet: np.ndarray) -> list[Cut]:
    """Where a recording may be cut: its ends, its pauses, and the quietest frame of each cell."""
    frames = len(levels)
    runs = runs_of(quiet)
    begin, end = 0, frames
    if runs and runs[0][0] == 0:
        begin = max(0, runs[0][1] - MARGIN) if runs[0][1] >= LONG else 0
        del runs[0]
    if runs and runs[-1][1] == frames:
        end = runs[-1][0] + MARGIN if frames - runs[-1][0] >= LONG else frames
        del runs[-1]
    cuts = [cut_in(run) for run in runs]
    in_pause = np.zeros(frames, dtype=bool)
    for run in runs:
        in_pause[slice(*run)] = True
    for start in range(begin, end, CELL):
        at = start + int(levels[start : min(start + CELL, end)].argmin())
        if begin < at < end and not in_pause[at]:
            cuts.append(Cut(at, at, HARD))
    return [Cut(begin, begin, 0), *sorted(cuts, key=lambda cut: cut.before), Cut(end, end, 0)]


def choose_cuts(cuts: Sequence[Cut], quiet: np.ndarray, shortest: int, longest: int) -> list[Cut]:
    """The cheapest of all choices of cuts, with the first and the last, in order.

    `shortest`, `longest`: frames of a piece.  A piece beyond them is chosen only if it must be.
    """
    silence = np.zeros(len(quiet) + 1)  # seconds of long silence before each frame
    for start, end in runs_of(quiet, LONG):
        silence[start + 1 : end + 1] = 1 / PER_SECOND
    silence = np.cumsum(silence)
    after = np.array([cut.after for cut in cuts])
    best = np.zeros(len(cuts))
    previous = np.zeros(len(cuts), dtype=int)
    for number in range(1, len(cuts)):
        cut = cuts[number]
        first = min(int(np.searchsorted(after, cut.before - longest)), number - 1)
        starts = after[first:number]
        lengths = cut.before - starts
        cost = best[first:number] + np.maximum(silence[cut.before] - silence[starts] - 2, 0)
        cost = cost + TOO_SHORT * (lengths < shortest) + TOO_LONG * (lengths > longest)
        previous[number] = first + int(cost.argmin())
        best[number] = cost.min() + cut.cost
    chosen = [len(cuts) - 1]
    while chosen[-1]:
        chosen.append(int(previous[chosen[-1]]))
    return [cuts[number] for number in reversed(chosen)]


def word_cuts(words: Sequence[tuple[int, int]], levels: np.ndarray, quiet: np.ndarray) -> list[Cut]:
    """Where a recording may be cut: before the first word, between words, after the last one.

    `words`: first frame, and the one after the last, of each.  CTC places a word's units late and
    ends them early, so that the pause is anywhere between two words.
    """
    frames = len(levels)
    first, last = words[0][0], words[-1][1]
    before = runs_of(quiet[max(0, first - PER_SECOND) : first], PAUSE // 2)
    begin = max(0, first - MARGIN)
    if before:
        start, end = (max(0, first - PER_SECOND) + edge for edge in before[-1])
        begin = max(start, end - MARGIN)
    behind = runs_of(quiet[last : last + PER_SECOND], PAUSE // 2)
    end = min(frames, last + MARGIN)
    if behind:
        end = last + min(behind[0][1], behind[0][0] + MARGIN)
    cuts = []
    for (_, start), (stop, _) in zip(words, words[1:]):
        stop = max(stop, start + 1)
        pauses = [(start + a, start + b) for a, b in runs_of(quiet[start:stop], PAUSE // 2)]
        if pauses:
            cuts.append(cut_in(max(pauses, key=lambda run: run[1] - run[0])))
        else:
            at = start + int(levels[start:stop].argmin()) if start < frames else start
            cuts.append(Cut(at, at, HARD))
    return [Cut(begin, begin, 0), *cuts, Cut(end, end, 0)]


def _aligned_parts(
    task: Task,
    waveform: Waveform,
    levels: np.ndarray,
    quiet: np.ndarray,
    bounds: tuple[int, int],
) -> tuple[list[Part], list[Cut]]:
    """The pieces of a recording with a transcript, and the cuts between them.

    UserError if the transcript cannot be aligned.
    """
    text = task.utterance.text or ""
    transcriber = load_transcriber(task.options.checkpoint, task.threads)
    where = task.utterance.where
    labels = transcriber.label_line(where, text, "its text")
    found = transcriber.align_waveform(where, waveform, labels, open_ends=task.options.open_ends)
    spoken = text.split()
    if len(found.words) != len(spoken):
        raise UserError(f"{where}: the model of --checkpoint writes no spaces between words")
    words = [
        (round(found.seconds(w.start) * PER_SECOND), round(found.seconds(w.end) * PER_SECOND))
        for w in found.words
    ]
    untranscribed = [
        [round(found.seconds(edge) * PER_SECOND) for edge in edges] for edges in found.untranscribed
    ]
    cuts = word_cuts(words, levels, quiet)
    chosen = choose_cuts(cuts, quiet, *bounds)
    place = {id(cut): number for number, cut in enumerate(cuts)}
    parts = []
    for a, b in zip(chosen, chosen[1:]):
        own = slice(place[id(a)], place[id(b)])
        sizes = [w.end - w.start for w in found.words[own]]
        logs = [n * math.log(max(w.score, 1e-300)) for n, w in zip(sizes, found.words[own])]
        score = math.exp(sum(logs) / sum(sizes))
        edges = _seconds(task, waveform, a.after, b.before)
        own_text = " ".join(spoken[own])
        skip = None
        if score < task.options.min_score:
            detail = f"{score:.3f}, --min_score {task.options.min_score}: {own_text}"
            skip = ("low alignment score", detail)
        for start, end in untranscribed:
            if a.after <= start < b.before and not skip:
                first, last = _seconds(task, waveform, start, end)
                detail = f"{score:.3f}, but speech from {first:.2f} to {last:.2f} s: {own_text}"
                skip = ("untranscribed speech", detail)
        parts.append(Part(*edges, own_text, skip))
    return parts, chosen


@lru_cache(maxsize=1)
def load_transcriber(checkpoint: str, threads: int) -> "Transcriber":
    """The model that aligns, once per process."""
    import torch

    from wav2vec2.decoding.greedy import GreedyDecoder
    from wav2vec2.inference.recogniser import Recogniser, RecogniserOptions
    from wav2vec2.inference.transcriber import Transcriber

    torch.set_num_threads(min(threads, torch.get_num_threads()))
    recogniser = Recogniser.load(RecogniserOptions(checkpoint))
    return Transcriber(recogniser, GreedyDecoder(recogniser.vocabulary))
