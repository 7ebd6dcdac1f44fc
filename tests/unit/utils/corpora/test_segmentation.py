"""Long recordings cut in pauses: known pauses, noise, no pause, silence, real speech, words."""

import itertools
import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from utils.corpora import segmentation
from utils.corpora.segmentation import (
    FRAME,
    HARD,
    PER_SECOND,
    Cut,
    SegmentOptions,
    choose_cuts,
    measure_levels,
    quiet_frames,
    runs_of,
)
from utils.data.import_corpus import main
from wav2vec2.cli.errors import UserError
from wav2vec2.decoding.greedy import GreedyDecoder
from wav2vec2.feature_extractor import frame_count, sample_count
from wav2vec2.files.filelists import read_labels, read_manifest
from wav2vec2.inference.transcriber import Transcriber
from wav2vec2.text.vocabulary import Vocabulary

RATE = 16_000
PROMPTS = Path("/usr/share/asterisk/sounds/en_US_f_Allison")


def speech(seconds, seed=0, level=0.2):
    """Noise whose loudness changes as syllables do, without a pause of 0.2 s."""
    rng = np.random.default_rng(seed)
    count = round(seconds * RATE)
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 4 * np.arange(count) / RATE)
    return (level * syllables * rng.standard_normal(count)).clip(-0.99, 0.99)


def joined(parts, noise=1e-3, seed=1):
    """Seconds of speech (positive) and of pauses (negative), over noise."""
    rows = [
        speech(part, seed=number) if part > 0 else np.zeros(round(-part * RATE))
        for number, part in enumerate(parts)
    ]
    row = np.concatenate(rows)
    return row + noise * np.random.default_rng(seed).standard_normal(len(row))


def run(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["import_corpus", "--workers", "1", *map(str, flags)])
    return main()


def cut(monkeypatch, tmp_path, row, *flags, name="a"):
    """Import a recording; (start, end) of each piece in seconds, and the output folder."""
    folder, out = tmp_path / f"in_{name}", tmp_path / f"out_{name}"
    folder.mkdir(exist_ok=True)
    soundfile.write(folder / f"{name}.wav", row, RATE, subtype="PCM_16")
    flags = ("--segment", "silence", *flags)
    assert run(monkeypatch, "--audio_dir", folder, "--output_dir", out, *flags) == 0
    return pieces_of(out), out


def pieces_of(out):
    found = []
    for subset in ("train", "valid", "test"):
        if (out / f"{subset}.tsv").exists():
            for utterance in read_manifest(out, subset).utterances:
                start = int(utterance.id.rsplit("_", 1)[1]) / 1000
                found.append((start, start + utterance.samples / RATE))
    return sorted(found)


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_cuts_are_in_the_middle_of_the_known_pauses(monkeypatch, tmp_path):
    parts = [9, -0.6, 8, -0.5, 11, -0.7, 7, -0.6, 10]
    row = joined(parts)
    found, out = cut(monkeypatch, tmp_path, row, "--max_seconds", 13)
    middles = np.cumsum(np.abs(parts))[1::2] - np.abs(parts[1::2]) / 2
    assert [start for start, _ in found] == pytest.approx([0, *middles], abs=0.05)
    assert [end for _, end in found] == pytest.approx([*middles, len(row) / RATE], abs=0.05)
    assert found[0][0] == 0 and found[-1][1] == pytest.approx(len(row) / RATE)
    assert [b for _, b in found[:-1]] == pytest.approx([a for a, _ in found[1:]])  # all is covered
    assert lines_of(out / "notes.jsonl") == []


def test_pieces_hold_the_samples_from_their_start(monkeypatch, tmp_path):
    row = joined([9, -0.6, 8, -0.5, 11])
    found, out = cut(monkeypatch, tmp_path, row, "--max_seconds", 13)
    source, _ = soundfile.read(tmp_path / "in_a" / "a.wav", dtype="int16")
    for start, end in found:
        piece, _ = soundfile.read(
            out / "audio" / f"a_{round(1000 * start):07d}.flac", dtype="int16"
        )
        assert np.array_equal(piece, source[round(start * RATE) : round(end * RATE)])


@pytest.mark.parametrize("noise", [1e-4, 3e-3, 2e-2])
def test_pauses_are_found_above_any_noise_floor(noise):
    parts = [3, -0.5, 2, -0.3, 4, -1.0, 3]
    quiet = quiet_frames(measure_levels([joined(parts, noise)]))
    found = [((a + b) / 2 / PER_SECOND) for a, b in runs_of(quiet)]
    middles = np.cumsum(np.abs(parts))[1::2] - np.abs(parts[1::2]) / 2
    assert found == pytest.approx(middles.tolist(), abs=0.06)


def test_a_noise_floor_that_changes():
    quiet_part = joined([20, -0.5, 20, -0.5, 200], 1e-4)
    loud_part = joined([200, -0.5, 20, -0.5, 20], 3e-2, seed=5)
    levels = measure_levels([quiet_part, loud_part])
    found = [(a + b) / 2 / PER_SECOND for a, b in runs_of(quiet_frames(levels))]
    assert found == pytest.approx([20.25, 40.75, 441.25, 461.75], abs=0.06)


def test_without_a_pause_cuts_are_hard_and_counted(monkeypatch, tmp_path, capsys):
    for name, row in (
        ("speech", speech(45)),
        ("noise", 0.1 * np.random.default_rng(0).standard_normal(45 * RATE)),
    ):
        found, out = cut(monkeypatch, tmp_path, row, "--max_seconds", 10, name=name)
        assert all(0.2 <= end - start <= 10 for start, end in found) and len(found) == 5
        assert [b for _, b in found[:-1]] == pytest.approx([a for a, _ in found[1:]])
        notes = [note for note in lines_of(out / "notes.jsonl") if note["reason"] == "hard cut"]
        assert len(notes) == 4 and f"cut at {found[1][0]:.2f} s" in notes[0]["detail"]
        assert "hard cut: 4" in capsys.readouterr().out


def test_a_hard_cut_only_where_there_is_no_pause(monkeypatch, tmp_path):
    found, out = cut(monkeypatch, tmp_path, joined([6, -0.5, 25, -0.5, 6]), "--max_seconds", 10)
    assert all(end - start <= 10 for start, end in found)
    hard = [n for n in lines_of(out / "notes.jsonl") if n["reason"] == "hard cut"]
    starts = [start for start, _ in found]
    assert len(hard) == len(starts) - 3 == 2
    assert any(abs(s - 6.25) < 0.05 for s in starts) and any(abs(s - 31.75) < 0.05 for s in starts)


def test_long_silence_is_removed_but_for_margins(monkeypatch, tmp_path):
    found, _ = cut(monkeypatch, tmp_path, joined([-5, 6, -20, 6, -4], 0), "--max_seconds", 15)
    assert found == [
        (pytest.approx(4.7, abs=0.05), pytest.approx(11.3, abs=0.05)),
        (pytest.approx(30.7, abs=0.05), pytest.approx(37.3, abs=0.05)),
    ]


def test_digital_silence_is_skipped(monkeypatch, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    soundfile.write(folder / "silent.wav", np.zeros(40 * RATE), RATE)
    soundfile.write(folder / "short.wav", speech(2), RATE)
    flags = ("--audio_dir", folder, "--output_dir", tmp_path / "out", "--segment", "silence")
    assert run(monkeypatch, *flags) == 1
    (entry,) = lines_of(tmp_path / "out" / "skipped.jsonl")
    assert (entry["reason"], entry["detail"]) == ("silent", "40.00 s without any sound")


def test_short_recordings_stay_as_they_are(monkeypatch, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name, seconds in (("a", 0.01), ("b", 0.5), ("c", 29.99), ("d", 30.0)):
        soundfile.write(folder / f"{name}.wav", speech(seconds), RATE)
    flags = ("--audio_dir", folder, "--output_dir", out, "--segment", "silence")
    assert run(monkeypatch, *flags) == 1
    assert sorted(p.stem for p in (out / "audio").glob("*.flac")) == ["b", "c", "d"]
    assert [e["reason"] for e in lines_of(out / "skipped.jsonl")] == ["too short"]


def test_too_long_names_the_flag_that_cuts(monkeypatch, tmp_path):
    table = tmp_path / "rows.csv"
    soundfile.write(tmp_path / "a.wav", speech(31), RATE)
    soundfile.write(tmp_path / "b.wav", speech(2), RATE)
    table.write_text("path,text\na.wav,yes\nb.wav,no\n")
    for source in (("--table", table), ("--audio_dir", tmp_path, "--format", "audio")):
        out = tmp_path / source[0].strip("-")
        assert run(monkeypatch, *source, "--output_dir", out) == 1
        (entry,) = lines_of(out / "skipped.jsonl")
        flag = "align" if source[0] == "--table" else "silence"
        assert entry["reason"] == "too long" and f"--segment {flag}" in entry["detail"]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_pieces_of_one_or_two_recordings_give_a_validation_set(count, monkeypatch, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for index in range(count):
        x = joined([8, -0.5, 9, -0.6, 7, -0.5, 8]) * (1 - index / 10)
        soundfile.write(folder / f"{index}.wav", x, RATE)
    flags = ("--audio_dir", folder, "--output_dir", out, "--segment", "silence")
    assert run(monkeypatch, *flags, "--max_seconds", "10") == 0
    names = [
        {u.id[0] for u in read_manifest(out, subset).utterances} for subset in ("train", "valid")
    ]
    assert all(names)
    assert count < 3 or not names[0] & names[1]


def test_an_interrupted_import_resumes_and_plans_once(monkeypatch, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in "abc":
        soundfile.write(folder / f"{name}.wav", joined([8, -0.5, 9, -0.6, 7]), RATE)
    flags = (
        "--audio_dir",
        folder,
        "--output_dir",
        out,
        "--segment",
        "silence",
        "--max_seconds",
        12,
    )
    planned = []
    original = segmentation.plan_cuts

    def interrupted(task):
        if len(planned) == 2:
            raise KeyboardInterrupt
        planned.append(task.utterance.id)
        return original(task)

    monkeypatch.setattr(segmentation, "plan_cuts", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, *flags)
    monkeypatch.setattr(
        segmentation,
        "plan_cuts",
        lambda task: (planned.append(task.utterance.id), original(task))[1],
    )
    assert run(monkeypatch, *flags) == 0
    first = {p.name: p.stat().st_mtime_ns for p in (out / "audio").glob("*.flac")}
    assert run(monkeypatch, *flags) == 0
    assert planned == ["a", "b", "c"] and len(first) == 9
    assert first == {p.name: p.stat().st_mtime_ns for p in (out / "audio").glob("*.flac")}
    shutil.copy(folder / "a.wav", folder / "c.wav")  # another time
    assert run(monkeypatch, *flags) == 0
    assert planned == ["a", "b", "c", "c"]


def test_pieces_of_a_recording_stay_in_one_subset(monkeypatch, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    for number in range(8):
        path = folder / f"s{number % 2}" / f"{number // 2}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, joined([3, -0.5, 3, -0.5, 3, -0.5, 3], seed=number), RATE)
    flags = ("--audio_dir", folder, "--output_dir", out, "--segment", "silence", "--max_seconds", 4)
    assert run(monkeypatch, *flags, "--valid_share", 0.3, "--test_share", 0.3) == 0
    subsets = {}
    for subset in ("train", "valid", "test"):
        for utterance in read_manifest(out, subset).utterances:
            subsets.setdefault(utterance.id.rsplit("_", 1)[0], []).append(subset)
    assert len(subsets) == 8 and all(len(found) == 4 for found in subsets.values())
    assert all(len(set(found)) == 1 for found in subsets.values())


def test_the_cheapest_cuts_are_chosen():
    """Against every choice, also where no choice is within the bounds."""
    rng = np.random.default_rng(0)
    for _ in range(40):
        places = np.sort(rng.choice(np.arange(1, 100), 7, replace=False)).tolist()
        costs = rng.choice([0.5, 2.0, 5.0, HARD], 7).tolist()
        cuts = [Cut(0, 0, 0), *map(Cut, places, places, costs), Cut(100, 100, 0)]
        shortest, longest = int(rng.integers(0, 20)), int(rng.integers(21, 60))

        def total(chosen, low=shortest, high=longest):
            lengths = [b.before - a.after for a, b in zip(chosen, chosen[1:])]
            beyond = 1e6 * sum(n < low for n in lengths) + 1e9 * sum(n > high for n in lengths)
            return sum(cut.cost for cut in chosen) + beyond

        # A piece that is too long has no place to cut in between.
        every = (
            [cuts[0], *some, cuts[-1]]
            for count in range(8)
            for some in itertools.combinations(cuts[1:-1], count)
        )
        best = min(map(total, every))
        quiet = np.zeros(100, dtype=bool)
        if best < 1e9:
            assert total(choose_cuts(cuts, quiet, shortest, longest)) == pytest.approx(best)


def test_levels_do_not_depend_on_blocks():
    row = joined([1.0123], 1e-2)
    whole = measure_levels([row])
    assert len(whole) == math.ceil(len(row) / FRAME)
    parts = measure_levels(np.array_split(row, 17))
    assert whole == pytest.approx(parts)


def test_prompts_with_known_gaps_are_cut_in_these(monkeypatch, tmp_path):
    """Real speech: telephone prompts, one after the other."""
    pytest.importorskip("av")
    if not PROMPTS.is_dir():
        pytest.skip("Debian's asterisk-core-sounds-en-g722 is not installed")
    from wav2vec2.audio.decode import read_recording

    rows, gaps, at = [], [], 0.0
    for number, path in enumerate(sorted(PROMPTS.glob("*.g722"))[:60:2]):
        row = read_recording(path)
        gap = (0.9, 1.3, 1.1)[number % 3]
        rows += [row, np.zeros(round(gap * RATE), np.float32)]
        gaps.append((at + len(row) / RATE, at + len(row) / RATE + gap))
        at = gaps[-1][1]
    row = np.concatenate(rows)
    row = row + 1e-3 * np.random.default_rng(0).standard_normal(len(row))
    found, out = cut(monkeypatch, tmp_path, row, "--max_seconds", 15)
    assert len(found) > 5 and all(end - start <= 15 for start, end in found)
    for start, _ in found[1:]:  # also in a pause inside of a prompt
        around = row[round((start - 0.05) * RATE) : round((start + 0.05) * RATE)]
        assert around.std() < 2e-3, start
    assert sum(a <= start <= b for start, _ in found[1:] for a, b in gaps) > len(found) / 2
    assert not [n for n in lines_of(out / "notes.jsonl") if n["reason"] == "hard cut"]


# --- by a transcript

LAYERS = ((1, 10, 5), (1, 3, 2), (1, 3, 2), (1, 3, 2), (1, 3, 2), (1, 2, 2), (1, 2, 2))
VOCABULARY = Vocabulary([*"|ABCDEFGH"])


class Oracle:
    """A recogniser of tones: the strongest frequency of a frame tells its letter."""

    vocabulary, frame_samples, device = VOCABULARY, 320, torch.device("cpu")
    shortening, normalize_input, normalize_eps = 1, False, 1e-5

    def __init__(self):
        self.model = self

    def frames(self, samples):
        return frame_count(samples, LAYERS)

    def samples(self, frames):
        return sample_count(frames, LAYERS)

    def logits(self, batch):
        return [self.logits_of(row[:n]) for row, n in zip(batch.waveforms, batch.lengths.tolist())]

    def logits_of(self, row):
        count = frame_count(len(row), LAYERS)
        frames = row.unfold(0, 400, 320)[:count]
        strength = torch.fft.rfft(frames, dim=1).abs()[:, 10 : 10 + 9 * 4 : 4] / 200
        logits = torch.zeros(count, len(VOCABULARY))
        logits[:, 0] = 4.0
        logits[:, 4:] += 60 * strength
        return logits


def sung(text, letter_seconds=0.12):
    """The tones of a word, its word end a tone of its own."""
    found = []
    for letter in text + "|":
        place = VOCABULARY.encode(letter)[0] - 4
        times = np.arange(round(letter_seconds * RATE)) / RATE
        found.append(0.3 * np.sin(2 * np.pi * 40 * (10 + 4 * place) * times))
        found.append(np.zeros(round(0.04 * RATE)))
    return np.concatenate(found)


@pytest.fixture
def song(tmp_path, monkeypatch):
    """A recording of 40 words with pauses after each fifth, its words, and where the pauses are."""
    monkeypatch.setattr(
        segmentation,
        "load_transcriber",
        lambda *_: Transcriber(Oracle(), GreedyDecoder(VOCABULARY)),
    )
    rng = np.random.default_rng(0)
    words = ["".join(rng.permutation([*"ABCDEFGH"])[:4]) for _ in range(40)]
    rows, pauses = [np.zeros(RATE // 2)], []
    for number, word in enumerate(words, start=1):
        rows.append(sung(word))
        if number % 5 == 0:
            at = sum(map(len, rows)) / RATE
            rows.append(np.zeros(RATE // 2))
            pauses.append(at + 0.25)
    row = np.concatenate(rows)
    row = row + 1e-4 * rng.standard_normal(len(row))
    soundfile.write(tmp_path / "song.wav", row, RATE)
    return tmp_path, words, pauses


def align(monkeypatch, folder, text, *flags):
    (folder / "rows.tsv").write_text(f"path\ttext\nsong.wav\t{text}\n")
    out = folder / "out"
    given = ("--table", folder / "rows.tsv", "--output_dir", out, "--checkpoint", "model.pt")
    code = run(monkeypatch, *given, "--segment", "align", "--max_seconds", 10, *flags)
    texts = {}
    for subset in ("train", "valid", "test"):
        if (out / f"{subset}.tsv").exists():
            texts |= read_labels(read_manifest(out, subset), "wrd")
    return code, out, texts


def test_a_transcript_is_cut_at_pauses_between_words(song, monkeypatch):
    folder, words, pauses = song
    code, out, texts = align(monkeypatch, folder, " ".join(words))
    assert code == 0 and lines_of(out / "skipped.jsonl") == []
    ordered = [texts[key] for key in sorted(texts)]
    assert " ".join(ordered).split() == words and len(ordered) >= 4
    found = pieces_of(out)
    assert all(end - start <= 10 for start, end in found)
    assert all(len(text.split()) % 5 == 0 for text in ordered)
    for start, _ in found[1:]:
        assert min(abs(start - pause) for pause in pauses) < 0.1


def test_wrong_words_are_skipped_with_their_score(song, monkeypatch):
    folder, words, _ = song
    other = [*words[:15], *(word[::-1] for word in words[15:35]), *words[35:]]
    code, out, texts = align(monkeypatch, folder, " ".join(other))
    assert code == 1
    skipped = lines_of(out / "skipped.jsonl")
    assert {entry["reason"] for entry in skipped} <= {
        "low alignment score",
        "untranscribed speech",
    }
    for entry in skipped:
        score, rest = entry["detail"].split(", ", 1)
        assert 0 <= float(score) <= 1 and rest.startswith(("--min_score 0.1: ", "but speech from"))
    dropped = [word for entry in skipped for word in entry["detail"].split(": ")[1].split()]
    assert set(other[20:30]) <= set(dropped)
    kept = [word for key in sorted(texts) for word in texts[key].split()]
    assert sorted(kept + dropped) == sorted(other)
    assert set(words[:10]) <= set(kept)


def test_speech_before_and_after_the_transcript_is_in_no_piece(song, monkeypatch):
    folder, words, pauses = song
    _, out, texts = align(monkeypatch, folder, " ".join(words[10:30]), "--open_ends", "true")
    assert " ".join(texts[key] for key in sorted(texts)).split() == words[10:30]
    found = pieces_of(out)
    assert found[0][0] == pytest.approx(pauses[1], abs=0.3)
    assert found[-1][1] == pytest.approx(pauses[5], abs=0.3)


def test_a_long_piece_of_a_recording_is_cut_within_its_times(song, monkeypatch):
    folder, words, pauses = song
    text = " ".join(words[10:30])
    (folder / "rows.csv").write_text(
        f"path,text,start,end\nsong.wav,{text},{pauses[1]},{pauses[5]}\n"
        f"song.wav,{' '.join(words[:5])},0,{pauses[0]}\n"
    )
    out = folder / "out"
    given = ("--table", folder / "rows.csv", "--output_dir", out, "--checkpoint", "model.pt")
    given += ("--split", "train")
    assert run(monkeypatch, *given, "--segment", "align", "--max_seconds", 10) == 0
    found = pieces_of(out)
    assert found[0] == (0, pytest.approx(pauses[0]))
    assert found[1][0] == pytest.approx(pauses[1], abs=0.3) and found[-1][1] <= pauses[5] + 0.001
    texts = read_labels(read_manifest(out, "train"), "wrd")
    long = [texts[key] for key in sorted(texts) if key.startswith("song_0009250_")]
    assert len(long) >= 2 and " ".join(long).split() == words[10:30]


def test_pieces_with_untranscribed_speech_are_skipped(song, monkeypatch):
    folder, words, _ = song
    _, out, texts = align(monkeypatch, folder, " ".join([*words[:12], *words[18:]]))
    (entry,) = lines_of(out / "skipped.jsonl")
    assert entry["reason"] in ("low alignment score", "untranscribed speech")
    kept = [word for key in sorted(texts) for word in texts[key].split()]
    dropped = entry["detail"].split(": ")[1].split()
    assert sorted(kept + dropped) == sorted([*words[:12], *words[18:]])
    assert {words[11], words[18]} & set(dropped)


def test_a_transcript_that_cannot_be_aligned_is_skipped(song, monkeypatch, capsys):
    folder, words, _ = song
    with pytest.raises(UserError, match=r"not aligned: 1 of 1.*dictionary lacks \('X' 1x\)"):
        align(monkeypatch, folder, " ".join([*words, "X"]))
    with pytest.raises(UserError, match="frames for a transcript that needs"):
        align(monkeypatch, folder, " ".join(words * 40))


def test_a_checkpoint_that_is_none_is_an_error_before_all_work(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "song.wav", speech(31), RATE)
    with pytest.raises(UserError, match=r"model\.pt"):
        align(monkeypatch, tmp_path, "A B")


def test_flags_that_belong_together():
    with pytest.raises(UserError, match="--segment align: needs the model"):
        SegmentOptions(segment="align")
    with pytest.raises(UserError, match=r"--checkpoint a\.pt: serves --segment align"):
        SegmentOptions(segment="silence", checkpoint="a.pt")
    with pytest.raises(UserError, match="--min_score 2"):
        SegmentOptions(min_score=2)
