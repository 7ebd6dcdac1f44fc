"""What was skipped, by reason, and which flag or correction would keep it."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

ADVICE = {
    # rows
    "row": "correct the row; --delimiter and --columns say how to read a table",
    "time": "correct start and end: seconds, the start first",
    "channel": "correct the row; channels count from 0 or 1",
    "no audio": "fill the column, or name another with --audio_column or --audio_template",
    "no speaker": "fill the column, or correct --speaker_column or --speaker_pattern",
    "split": "write train, valid or test, or name another column with --split_column",
    "named twice": "nothing to do: the piece is in the data set, once",
    "no transcript": "add the transcript, or import audio alone: --audio_dir with --format audio",
    "transcript file": "correct the file, or import audio alone: --format audio",
    "table": "correct the file, or fetch it again",
    "other tier": "--tier names the tiers to read",
    "no column": "name the column with the flag that the example names, or correct the row",
    "no id": "fill the column, or leave out --id_column",
    "id named twice": "give each row an id of its own, or leave out --id_column",
    "not UTF-8": "convert the file to UTF-8 or UTF-16",
    "command": "--allow_pipes true runs it, if you trust the file; or name the file that it writes",
    "url": "fetch the recording, and name the file",
    "memory": "write the audio to files, and name these",
    "ark": "correct the row: file.ark:offset; or fetch the ark again",
    # Lhotse's cuts
    "augmented": "write the changed audio to files, or take the cuts before the change",
    "mixed": "take the cuts before they were mixed",
    "padding": "nothing to do: it holds no recording",
    "channels": "name the channel of the supervision",
    # files
    "missing": "--audio_root names the folder that paths in the table start from",
    "unreadable": "fetch the file again; `pip install av` adds FFmpeg's decoders",
    "other length": "correct the duration in the table, or fetch the file again",
    "beyond the end": "correct start and end, or fetch the file again",
    # rules
    "too short": "lower --min_seconds",
    "too long": "raise --max_seconds, or cut long recordings with --segment",
    "silent": "nothing to do: nobody speaks",
    "not aligned": "correct the transcript, or cut the recording by hand",
    "low alignment score": "listen to it; --min_score lowers the limit",
    "untranscribed speech": "add the words; --open_ends true drops speech at the ends",
    "transcript too long": "correct the pair: so many letters do not fit into so little audio",
    # transcripts
    "transcript: no transcript": "write the transcript, or remove the row",
    "transcript: no words": "nothing to do if nobody speaks; otherwise see --drop_pattern",
    "transcript: remark": "write what is spoken, or remove remarks with --drop_pattern",
    "transcript: apostrophe": "correct the apostrophe, or keep it with --keep_characters",
    "transcript: symbol": "write the symbol as it is spoken, or remove it with --drop_pattern",
    "transcript: character": "--keep_characters keeps a character, --drop_pattern removes it",
    "transcript: alphabet": "add the letter to --alphabet, or correct the row",
    "transcript: digits": "write numbers as words; --language and --digits say how to read them",
    "transcript: number": "write the number as words, as it is spoken",
}
"""Reason -> how to keep what it skips.  The one place that says it."""
NO_ADVICE = "correct what the example names"
MOST_EXAMPLES = 5


class Entry(Protocol):
    """What names no utterance, or is skipped: a BadRow, a Skipped."""

    @property
    def where(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def detail(self) -> str: ...


def describe(skipped: Iterable[Entry]) -> dict[str, dict[str, Any]]:
    """Reason -> its count, how to keep it, and the first examples; the most frequent first."""
    examples = defaultdict(list)
    counts = Counter()
    for entry in skipped:
        counts[entry.reason] += 1
        if len(examples[entry.reason]) < MOST_EXAMPLES:
            examples[entry.reason].append({"where": entry.where, "detail": entry.detail})
    return {
        reason: {
            "count": count,
            "keep": ADVICE.get(reason, NO_ADVICE),
            "examples": examples[reason],
        }
        for reason, count in counts.most_common()
    }


def nothing_usable(what: str, total: int, skipped: Sequence[Entry]) -> str:
    """One line for an import that can use nothing: every reason, counted, with an example.

    `what`: the sentence's start for the `total`, such as "none of 3 recordings can be used".
    """
    parts = []
    for reason, facts in describe(skipped).items():
        example = facts["examples"][0]
        count = f"{reason}: {facts['count']} of {total}"
        parts.append(f"{count}, such as {example['where']}: {example['detail']} ({facts['keep']})")
    return f"{what}: " + "; ".join(parts)
