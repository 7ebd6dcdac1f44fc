"""Cues, SubRip and WebVTT, read back by other means."""

import random
import re

import pytest

from wav2vec2.decoding.timed_words import LINE, LONGEST, Transcript, Word, clock, cues, srt, vtt


def transcript(*words, duration=60.0):
    """Of (text, start, end)."""
    timed = tuple(Word(text, start, end, 0.5) for text, start, end in words)
    return Transcript(" ".join(w.text for w in timed), timed, duration)


def test_clock_rounds_down_to_the_millisecond():
    assert clock(3723.0045, ",") == "01:02:03,004"
    assert clock(0.58, ".") == "00:00:00.580"
    assert clock(359_999.9999, ".") == "99:59:59.999"


def test_a_pause_ends_a_cue():
    given = transcript(("A", 0.5, 1.0), ("B", 1.5, 2.5), ("C", 4.0, 4.1), duration=4.5)
    found = [(cue.start, cue.end, cue.lines) for cue in cues(given)]
    # The last is short: shown for a second, but not past the recording's end.
    assert found == [(0.5, 2.5, ("A B",)), (4.0, 4.5, ("C",))]


def test_cues_of_random_words_are_readable_and_in_order():
    draw = random.Random(0)
    for _ in range(50):
        words, at = [], 0.0
        for _ in range(draw.randrange(80)):
            start = at + draw.choice([0.0, 0.02, 0.3, 2.0])
            at = start + draw.uniform(0.02, 1.5)
            words.append(("W" * draw.choice([1, 4, 9, 50]), start, at))
        given = transcript(*words, duration=at + 0.1)
        found = list(cues(given))
        assert " ".join(line for cue in found for line in cue.lines) == given.text
        for cue in found:
            assert 1 <= len(cue.lines) <= 2 and cue.end - cue.start <= LONGEST + 1e-9
            assert all(len(line) <= LINE or " " not in line for line in cue.lines)
        edges = [edge for cue in found for edge in (cue.start, cue.end)]
        assert edges == sorted(edges) and all(edge <= given.duration for edge in edges)


def test_subrip():
    given = transcript(("HELLO", 0.0, 1.0), ("YOU", 61.5, 63.0), duration=70)
    assert srt(given) == (
        "1\n00:00:00,000 --> 00:00:01,000\nHELLO\n\n2\n00:01:01,500 --> 00:01:03,000\nYOU"
    )
    assert srt(transcript()) == ""


def test_webvtt_escapes_markup():
    given = transcript(("<unk>", 0.0, 1.2), ("R&B", 1.3, 2.0))
    assert vtt(given) == "WEBVTT\n\n00:00:00.000 --> 00:00:02.000\n&lt;unk&gt; R&amp;B"
    assert vtt(transcript()) == "WEBVTT"


def test_json_times_are_whole_milliseconds_within_the_duration():
    given = transcript(("A", 0.02, 1.00006), duration=1.00006)
    assert given.as_json("a.wav") == {
        "file": "a.wav",
        "duration": 1.0,
        "text": "A",
        "words": [{"text": "A", "start": 0.02, "end": 1.0, "confidence": 0.5}],
    }


def test_other_readers_take_our_subtitles(tmp_path):
    """FFmpeg's demuxers find the same times and lines."""
    av = pytest.importorskip("av")
    given = transcript(("ONE", 0.5, 1.5), ("TWO", 1.6, 2.0), ("THREE", 4.0, 6.0))
    for name, content in (("a.srt", srt(given)), ("a.vtt", vtt(given))):
        (tmp_path / name).write_text(content + "\n")
        with av.open(str(tmp_path / name)) as container:
            packets = [p for p in container.demux() if p.size]
            found = [
                (float(p.pts * p.time_base), float(p.duration * p.time_base), bytes(p))
                for p in packets
            ]
        assert [(start, length) for start, length, _ in found] == [(0.5, 1.5), (4.0, 2.0)]
        assert [re.sub(rb"\s+", b" ", text).strip() for *_, text in found] == [b"ONE TWO", b"THREE"]
