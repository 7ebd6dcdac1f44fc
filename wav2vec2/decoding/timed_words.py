"""Transcripts with the times of their words, as JSON and as subtitles."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

LINE = 42
"""Characters per line; a cue has at most two lines (BBC and Netflix guidelines)."""
LONGEST = 7.0
"""Most seconds of a cue."""
SHORTEST = 1.0
"""Fewest seconds of a cue; shorter only if the next cue begins earlier."""
PAUSE = 0.8
"""Seconds of silence that end a cue."""


@dataclass(frozen=True)
class Word:
    """One word."""

    text: str
    start: float
    """Seconds from the start of the recording."""
    end: float
    """Seconds; after `start`, and not after the start of the next word or the recording's end."""
    confidence: float
    """Geometric mean of the probabilities of the word's units over their frames, 0 to 1."""


@dataclass(frozen=True)
class Transcript:
    """The words of one recording."""

    text: str
    """The words, separated by spaces."""
    words: tuple[Word, ...]
    duration: float
    """Seconds of audio."""
    channel: int | None = None
    """The recording's channel, from 1, if one was chosen."""

    def as_json(self, file: str) -> dict[str, Any]:
        """Plain types, times in whole milliseconds, rounded down."""
        words = [
            {
                "text": word.text,
                "start": milliseconds(word.start) / 1000,
                "end": milliseconds(word.end) / 1000,
                "confidence": round(word.confidence, 4),
            }
            for word in self.words
        ]
        duration = milliseconds(self.duration) / 1000
        channel = {} if self.channel is None else {"channel": self.channel}
        return {"file": file, **channel, "duration": duration, "text": self.text, "words": words}


@dataclass(frozen=True)
class Cue:
    """A subtitle: one or two lines, and the seconds at which it is shown."""

    start: float
    end: float
    lines: tuple[str, ...]


def cues(transcript: Transcript) -> Iterator[Cue]:
    """The words as subtitles; a new one begins after a pause, or when the last one is full."""
    groups: list[list[Word]] = []
    for word in transcript.words:
        if not groups or begins_cue(groups[-1], word):
            groups.append([])
        groups[-1].append(word)
    nexts = [*(group[0].start for group in groups[1:]), transcript.duration]
    for group, limit in zip(groups, nexts):
        start, end = group[0].start, group[-1].end
        yield Cue(start, min(max(end, start + SHORTEST), limit), wrap(group))


def begins_cue(group: Sequence[Word], word: Word) -> bool:
    """Whether `word` does not fit into the cue of `group`."""
    return (
        word.start - group[-1].end >= PAUSE
        or word.end - group[0].start > LONGEST
        or len(wrap([*group, word])) > 2
    )


def wrap(words: Sequence[Word]) -> tuple[str, ...]:
    """Lines of at most LINE characters; a longer word takes a whole line."""
    text = " ".join(word.text for word in words)
    return tuple(textwrap.wrap(text, LINE, break_long_words=False, break_on_hyphens=False))


def milliseconds(seconds: float) -> int:
    """Whole milliseconds, rounded down; the start of a frame is a whole number and stays."""
    return int(seconds * 1000 + 1e-6)


def clock(seconds: float, point: str) -> str:
    """`01:02:03,004`, with `point` before the milliseconds."""
    whole, rest = divmod(milliseconds(seconds), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{point}{rest:03}"


def srt(transcript: Transcript) -> str:
    """SubRip subtitles; each begins with the number of the channel if one was chosen: `[2] `."""
    channel = "" if transcript.channel is None else f"[{transcript.channel}] "
    blocks = (
        f"{number}\n{clock(cue.start, ',')} --> {clock(cue.end, ',')}\n"
        + channel
        + "\n".join(cue.lines)
        for number, cue in enumerate(cues(transcript), start=1)
    )
    return "\n\n".join(blocks)


def vtt(transcript: Transcript) -> str:
    """WebVTT subtitles (W3C), `&`, `<` and `>` escaped; a channel that was chosen is the voice."""
    voice = "" if transcript.channel is None else f"<v channel {transcript.channel}>"
    escapes = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
    blocks = (
        f"{clock(cue.start, '.')} --> {clock(cue.end, '.')}\n"
        + voice
        + "\n".join(cue.lines).translate(escapes)
        for cue in cues(transcript)
    )
    return "\n\n".join(["WEBVTT", *blocks])
