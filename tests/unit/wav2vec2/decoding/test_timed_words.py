"""Cues, SubRip and WebVTT, read back by other means."""

import random
import re

import pytest

from wav2vec2.decoding.timed_words import (
    LINE,
    LONGEST,
    PAUSE,
    Transcript,
    Word,
    clock,
    columns,
    cues,
    srt,
    vtt,
)


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


def unspaced(*units, words=None):
    """Of (text, start, end); one word, or several with so many units each."""
    timed = tuple(Word(text, start, end, 0.5) for text, start, end in units)
    found, first = [], 0
    for count in words or [len(timed)]:
        own = timed[first : first + count]
        text = "".join(unit.text.removeprefix("▁") for unit in own)
        found.append(Word(text, own[0].start, own[-1].end, 0.5))
        first += count
    text = " ".join(word.text for word in found)
    return Transcript(text, tuple(found), timed[-1].end + 0.1, timed)


def spoken(text, seconds, at=0.0):
    """The characters of `text`, `seconds` each, one after the other."""
    return [(c, at + n * seconds, at + (n + 1) * seconds) for n, c in enumerate(text)]


def test_width_on_a_screen():
    assert columns("AB c") == 4 and columns("字幕") == 4 and columns("カーア") == 6
    assert columns("ｱ") == 1 and columns("Ａ") == 2 and columns("한") == 2
    assert columns("é") == columns("e\u0301") == 1 and columns("ที่") == 1


@pytest.mark.parametrize("alphabet", ["字幕中文", "กขคง", "ABC", "あアｱa"])
def test_a_word_without_end_is_cut_by_width_and_time(alphabet):
    """A minute in a script without spaces: nothing is lost, all cues can be read."""
    draw = random.Random(1)
    units, at = [], 0.0
    while at < 60:
        length = draw.choice([0.04, 0.2, 0.5])
        units.append((draw.choice(alphabet), at, at + length))
        at += length + draw.choice([0.0, 0.1, 0.5])
    found = list(cues(unspaced(*units)))
    assert "".join(line for cue in found for line in cue.lines) == "".join(u[0] for u in units)
    assert len(found) >= 60 / LONGEST
    for cue in found:
        assert 1 <= len(cue.lines) <= 2 and cue.end - cue.start <= LONGEST + 1e-9
        assert all(columns(line) <= LINE for line in cue.lines)
    edges = [edge for cue in found for edge in (cue.start, cue.end)]
    assert edges == sorted(edges)


def test_wide_characters_fill_a_line_twice_as_fast():
    wide = next(cues(unspaced(*spoken("字" * 60, 0.1))))
    narrow = next(cues(unspaced(*spoken("ก" * 60, 0.1))))
    assert [len(line) for line in wide.lines] == [LINE // 2, LINE // 2]
    assert [len(line) for line in narrow.lines] == [LINE, 60 - LINE]


def test_a_pause_inside_a_word_ends_a_cue():
    """Where no separator is written, units alone show it; a shorter one is part of the word."""
    before, after = spoken("你好", 0.2), spoken("再见", 0.2, 0.4 + PAUSE + 0.1)
    found = [cue.lines for cue in cues(unspaced(*before, *after))]
    assert found == [("你好",), ("再见",)]
    after = spoken("再见", 0.2, 0.4 + PAUSE - 0.1)
    assert [cue.lines for cue in cues(unspaced(*before, *after))] == [("你好再见",)]


def test_a_long_word_among_others_keeps_its_spaces():
    units = [*spoken("AB", 0.1), *spoken("字" * 30, 0.1, 0.3), *spoken("CD", 0.1, 3.5)]
    found = list(cues(unspaced(*units, words=[2, 30, 2])))
    assert [cue.lines for cue in found] == [("AB " + "字" * 19, "字" * 11 + " CD")]


def test_signs_stay_with_their_letter():
    """Thai vowels above, Devanagari vowels beside, and accents begin no line and no cue."""
    for letters, sign in (("ก", "ี"), ("क", "ा"), ("e", "\u0301")):
        given = unspaced(*spoken((letters + sign) * 100, 0.05))
        found = [line for cue in cues(given) for line in cue.lines]
        assert "".join(found) == given.text and len(found) > 1
        assert all(line.startswith(letters) for line in found)


def test_the_mark_of_a_pieces_word_is_not_shown():
    pieces = [("▁今日", 0.0, 0.4), *spoken("は" * 25, 0.1, 0.5)]
    assert next(cues(unspaced(*pieces))).lines == ("今日" + "は" * 19, "は" * 6)


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
    words = (Word("AB", 0.02, 1.00006, 0.5),)
    units = (Word("A", 0.02, 0.1, 0.25), Word("B", 0.50009, 1.00006, 0.123456))
    assert Transcript("AB", words, 1.00006, units).as_json("a.wav") == {
        "file": "a.wav",
        "duration": 1.0,
        "text": "AB",
        "words": [{"text": "AB", "start": 0.02, "end": 1.0, "confidence": 0.5}],
        "units": [
            {"text": "A", "start": 0.02, "end": 0.1, "confidence": 0.25},
            {"text": "B", "start": 0.5, "end": 1.0, "confidence": 0.1235},
        ],
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
