import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile

from utils.corpora import conversion
from utils.corpora.sources import SourceOptions, read_source
from utils.corpora.splits import Member, draw_split, split_members
from utils.corpora.tables import TableOptions
from utils.data.import_corpus import main
from wav2vec2.audio.decode import read_recording
from wav2vec2.audio.recordings import unique_ids
from wav2vec2.cli.errors import UserError
from wav2vec2.files.filelists import read_labels, read_manifest
from wav2vec2.text.vocabulary import Spelling, Vocabulary

REPOSITORY = Path(__file__).resolve().parents[4]


def tone(path, seconds=1.0, rate=16_000, channels=1, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, (int(seconds * rate), channels))
    soundfile.write(path, noise, rate, subtype="PCM_16" if path.suffix != ".ogg" else None)
    return path


def run(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["import_corpus", "--workers", "1", *map(str, flags)])
    return main()


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def skipped_entries(folder):
    lines = (folder / "skipped.jsonl").read_text().splitlines()
    return {Path(e["source"]).name: e for e in map(json.loads, lines)}


@pytest.fixture
def table(tmp_path):
    """Twelve recordings of many kinds, and a table of them."""
    lines = ["path\ttext"]
    for index in range(12):
        name = f"s{index % 3}/{index}" + (".wav", ".flac", ".ogg")[index % 3]
        rate = (8_000, 16_000, 44_100)[index % 3]
        tone(tmp_path / "in" / name, 0.5, rate, channels=1 + index % 2, seed=index)
        lines.append(f"{name}\tHello, number {index}!")
    path = tmp_path / "in" / "rows.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


# --- audio


def test_g722_is_decoded_by_its_suffix(tmp_path):
    av = pytest.importorskip("av")
    if "g722" not in av.codecs_available:
        pytest.skip("this FFmpeg has no G.722 encoder")
    wave = (8000 * np.sin(np.arange(16_000) / 16)).astype(np.int16)[None]
    path = tmp_path / "prompt.G722"
    with av.open(str(path), "w", format="g722") as container:
        stream = container.add_stream("g722", rate=16_000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
        frame.sample_rate = 16_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    decoded = read_recording(path)
    assert len(decoded) == pytest.approx(16_000, abs=400)
    spectrum = np.abs(np.fft.rfft(decoded))
    peak = np.argmax(spectrum) * 16_000 / len(decoded)
    assert peak == pytest.approx(16_000 / 16 / (2 * np.pi), abs=3)


@pytest.mark.parametrize("suffix", [".raw", ".al", ".ul"])
def test_samples_of_unknown_rate_are_refused(tmp_path, suffix):
    pytest.importorskip("av")
    path = tmp_path / f"x{suffix}"
    path.write_bytes(bytes(range(256)) * 20)
    with pytest.raises(UserError, match="unknown rate"):
        read_recording(path)


# --- importing


def test_table_becomes_a_data_set(table, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    flags = ("--table", table, "--output_dir", out, "--prefix", "my_", "--valid_share", "0.2")
    assert run(monkeypatch, *flags) == 0
    words = {}
    for subset in ("train", "valid", "test"):
        if (out / f"my_{subset}.tsv").exists():
            manifest = read_manifest(out, f"my_{subset}")
            words |= read_labels(manifest, "wrd")
            spelt = read_labels(manifest, "ltr")
            for utterance in manifest.utterances:
                info = soundfile.info(utterance.path)
                assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
                assert info.frames == utterance.samples == pytest.approx(8_000, abs=2)
                decoded = Spelling.LETTERS.words(spelt[utterance.id].split())
                assert decoded == words[utterance.id]
    assert len(words) == 12
    assert words["s2_11"] == "HELLO NUMBER ELEVEN"
    assert (out / "my_valid.tsv").exists()
    assert "|" in Vocabulary.from_file(out / "dict.ltr.txt").symbols
    assert "my_train.tsv" in capsys.readouterr().out


def test_16_bit_sources_keep_their_samples(tmp_path, monkeypatch):
    source = tone(tmp_path / "in/a.wav")
    assert run(monkeypatch, "--audio_dir", tmp_path / "in", "--output_dir", tmp_path / "out") == 0
    written = soundfile.read(tmp_path / "out/audio/a.flac", dtype="int16")[0]
    assert np.array_equal(written, soundfile.read(source, dtype="int16")[0])


def test_skipped_recordings_are_reported(tmp_path, monkeypatch, capsys):
    tone(tmp_path / "good.wav", 1)
    tone(tmp_path / "short.wav", 0.1)
    tone(tmp_path / "long.wav", 3)
    tone(tmp_path / "hurried.wav", 0.3)
    tone(tmp_path / "percent.wav")
    (tmp_path / "noise.wav").write_bytes(b"nothing of the kind")
    rows = [
        {"file": "good.wav", "sentence": "Good."},
        {"file": "short.wav", "sentence": "a"},
        {"file": "long.wav", "sentence": "b"},
        {"file": "hurried.wav", "sentence": "aaaaaaaa"},  # 14 frames; 9 labels and 7 repeats
        {"file": "percent.wav", "sentence": "5 %"},
        {"file": "noise.wav", "sentence": "c"},
        {"file": "gone.wav", "sentence": "d"},
        {"file": "null.wav", "sentence": None},
    ]
    table = tmp_path / "rows.data"
    table.write_text("\n".join(map(json.dumps, rows)))
    out = tmp_path / "out"
    flags = ("--table", table, "--format", "jsonl", "--output_dir", out, "--max_seconds", "2")
    assert run(monkeypatch, *flags) == 1
    entries = skipped_entries(out)
    assert {name: (e["reason"], e["failed"]) for name, e in entries.items()} == {
        "short.wav": ("too short", False),
        "long.wav": ("too long", False),
        "hurried.wav": ("transcript too long", False),
        "percent.wav": ("transcript: symbol", False),
        "noise.wav": ("unreadable", True),
        "gone.wav": ("missing", True),
        "null.wav": ("transcript: no transcript", False),
    }
    assert entries["gone.wav"]["where"] == f"{table}:7"
    assert [p.name for p in (out / "audio").glob("*.flac")] == ["good.flac"]
    assert "skipped, missing: 1" in capsys.readouterr().out


def test_exit_code_tells_whether_all_is_in(tmp_path, monkeypatch):
    tone(tmp_path / "in/a.wav")
    tone(tmp_path / "in/short.wav", 0.1)
    flags = ("--audio_dir", tmp_path / "in", "--output_dir", tmp_path / "out")
    assert run(monkeypatch, *flags) == 1
    assert run(monkeypatch, *flags[:3], tmp_path / "all", "--min_seconds", "0.05") == 0
    with pytest.raises(UserError, match="none of 2 recordings"):
        run(monkeypatch, *flags[:3], tmp_path / "none", "--min_seconds", "5")


def test_folder_of_audio(tmp_path, monkeypatch):
    folder = tmp_path / "in"
    for name in ("a b/c d.wav", "x.wav", "x.ogg", ".hidden.wav", "deep/er/y.FLAC"):
        tone(folder / name, seed=len(name))
    (folder / "notes.txt").write_text("no audio")
    (folder / "folder.wav").mkdir()
    out = folder / "out"  # inside: its own output is not imported the second time
    for _ in range(2):
        assert run(monkeypatch, "--audio_dir", folder, "--output_dir", out) == 0
    names = {p.stem for p in (out / "audio").glob("*.flac")}
    assert names == {"a_b_c_d", "x_wav", "x_ogg", "deep_er_y"}
    assert not list(out.glob("*.wrd")) and not (out / "dict.ltr.txt").exists()


def test_long_and_odd_names(tmp_path, monkeypatch):
    folder = tmp_path / "in"
    tone(folder / ("deep/" * 60) / "a.wav")
    tone(folder / ("deep/" * 60) / "b.wav")
    tone(folder / "tab\tand\nline.wav")
    assert run(monkeypatch, "--audio_dir", folder, "--output_dir", tmp_path / "out") == 0
    names = {p.stem for p in (tmp_path / "out/audio").glob("*.flac")}
    assert len(names) == 3 and "tab_and_line" in names


def test_workers_do_not_change_a_byte(table, tmp_path, monkeypatch):
    for workers in (1, 2):
        flags = ("--table", table, "--output_dir", tmp_path / f"out{workers}")
        assert run(monkeypatch, *flags, "--workers", workers) == 0
    one, two = contents(tmp_path / "out1"), contents(tmp_path / "out2")
    for files, name in ((one, b"out1"), (two, b"out2")):
        for path in files:
            if path.endswith((".tsv", ".html")):
                files[path] = files[path].replace(name, b"out")
    assert one == two


def test_a_stopped_import_resumes(table, tmp_path, monkeypatch):
    flags = ("--table", table, "--output_dir", tmp_path / "out")
    real, done = conversion.stream_recording, []

    def stop_at_fifth(path, *details):
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(path)
        return real(path, *details)

    monkeypatch.setattr(conversion, "stream_recording", stop_at_fifth)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, *flags)
    journal = tmp_path / "out/audio/converted.jsonl"
    assert len(journal.read_text().splitlines()) == 5
    journal.write_text(journal.read_text() + '["s0_', encoding="utf-8")  # a line cut short

    def count(path, *details):
        done.append(path)
        return real(path, *details)

    monkeypatch.setattr(conversion, "stream_recording", count)
    assert run(monkeypatch, *flags) == 0
    assert len(done) == len(set(done)) == 12
    before = contents(tmp_path / "out")
    assert run(monkeypatch, *flags) == 0
    assert len(done) == 12 and contents(tmp_path / "out") == before

    tone(table.parent / "s0/0.wav", 0.7)  # one source changes, and only it is read again
    assert run(monkeypatch, *flags) == 0
    assert done[12:] == [table.parent / "s0/0.wav"]


def processes_of_session(leader):
    """The numbers of the running processes that a session leader and its children have started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                found.append(path.parent.name)
    return found


@pytest.mark.parametrize(
    ("number", "workers", "whole_group", "code"),
    [
        (signal.SIGTERM, 1, False, 4),
        (signal.SIGINT, 1, True, 130),
        (signal.SIGINT, 2, True, 130),
        (signal.SIGTERM, 2, True, 4),
        (signal.SIGKILL, 2, False, -9),
    ],
)
def test_a_signal_leaves_what_a_second_run_resumes(tmp_path, number, workers, whole_group, code):
    source, out = tmp_path / "in", tmp_path / "out"
    tone(source / "0.wav", 0.5)
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 48_000 * 20)
    soundfile.write(source / "1.wav", np.stack([wave, wave], axis=1), 48_000)
    for index in range(2, 40):
        os.link(source / "1.wav", source / f"{index}.wav")
    command = [sys.executable, "-m", "utils.data.import_corpus", "--audio_dir", str(source)]
    command += ["--output_dir", str(out), "--workers", str(workers)]
    options = {"cwd": REPOSITORY, "text": True, "env": {**os.environ, "TMPDIR": str(tmp_path)}}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        **options,
    )
    journal = out / "audio/converted.jsonl"
    while not (journal.exists() and journal.read_text()):  # the first file is done
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    (os.killpg if whole_group else os.kill)(process.pid, number)
    output, errors = process.communicate()
    assert process.returncode == code, errors
    done = len(journal.read_text().splitlines())
    assert 1 <= done < 40
    for _ in range(500):  # workers of a killed import, and multiprocessing's own, end soon
        if not processes_of_session(process.pid):
            break
        time.sleep(0.02)
    assert not processes_of_session(process.pid)
    if number != signal.SIGKILL:
        name = {130: "interrupted", 4: "stopped by SIGTERM; run the import again to resume it"}
        assert errors == f"error: {name[code]}\n" and not output
        assert not list((out / "audio").glob(".*"))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    assert subprocess.run(command, capture_output=True, **options).returncode == 0
    assert len(journal.read_text().splitlines()) == 40
    assert not list((out / "audio").glob(".*"))
    lengths = {soundfile.info(path).duration for path in (out / "audio").glob("*.flac")}
    assert lengths == {0.5, 20.0}


def test_other_settings_and_other_folders_are_refused(table, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert run(monkeypatch, "--table", table, "--output_dir", out) == 0
    before = contents(out)
    with pytest.raises(UserError, match=r"other settings \(seed 1\); choose another"):
        run(monkeypatch, "--table", table, "--output_dir", out, "--seed", "2")
    assert contents(out) == before
    with pytest.raises(UserError, match="holds no import"):
        run(monkeypatch, "--table", table, "--output_dir", table.parent)
    with pytest.raises(UserError, match="choose another"):
        run(monkeypatch, "--table", table, "--output_dir", table / "below_a_file")


def test_flags_of_transcripts_change_labels_and_convert_no_audio(table, tmp_path, monkeypatch):
    flags = ("--table", table, "--output_dir", tmp_path / "out")
    assert run(monkeypatch, *flags) == 0
    monkeypatch.setattr(conversion, "stream_recording", None)  # would fail if it were called
    assert run(monkeypatch, *flags, "--case", "lower") == 0
    assert "hello number" in (tmp_path / "out/train.wrd").read_text()


def test_what_is_too_long_or_short_is_not_converted_again(tmp_path, monkeypatch):
    for name, seconds in (("good", 1.0), ("short", 0.1), ("long", 3.0)):
        tone(tmp_path / f"in/{name}.wav", seconds)
    out = tmp_path / "out"
    flags = ("--audio_dir", tmp_path / "in", "--output_dir", out, "--max_seconds", "2")
    assert run(monkeypatch, *flags) == 1
    assert [path.name for path in (out / "audio").glob("*.flac")] == ["good.flac"]
    before = contents(out)
    monkeypatch.setattr(conversion, "stream_recording", None)  # would fail if it were called
    assert run(monkeypatch, *flags) == 1
    assert contents(out) == before
    reasons = {name: entry["reason"] for name, entry in skipped_entries(out).items()}
    assert reasons == {"short.wav": "too short", "long.wav": "too long"}


def test_segments_are_cut(tmp_path, monkeypatch):
    tone(tmp_path / "in/a.wav", 3.0, seed=1)
    tone(tmp_path / "in/b.wav", 1.0, seed=2)
    lines = [
        {"audio_filepath": "a.wav", "offset": 0.5, "duration": 0.6, "text": "one"},
        {"audio_filepath": "a.wav", "offset": 1.5, "duration": 1.0, "text": "two"},
        {"audio_filepath": "a.wav", "offset": 2.5, "duration": 9.0, "text": "beyond"},
        {"audio_filepath": "b.wav", "duration": 1.05, "text": "all"},
    ]
    table = tmp_path / "in/manifest.json"
    table.write_text("\n".join(map(json.dumps, lines)))
    out = tmp_path / "out"
    assert run(monkeypatch, "--table", table, "--output_dir", out, "--workers", "2") == 1
    source = soundfile.read(tmp_path / "in/a.wav", dtype="int16")[0]
    for name, begin, end in (("a_0000500", 0.5, 1.1), ("a_0001500", 1.5, 2.5)):
        piece = soundfile.read(out / f"audio/{name}.flac", dtype="int16")[0]
        assert np.array_equal(piece, source[round(begin * 16_000) : round(end * 16_000)])
    assert skipped_entries(out)["a.wav"]["reason"] == "beyond the end"
    assert (out / "audio/b.flac").exists()


def test_pieces_that_begin_together_are_named_by_their_own_ends(tmp_path, monkeypatch):
    tone(tmp_path / "a.wav", 4.0)
    tone(tmp_path / "b.wav", 1.0, seed=1)
    table = tmp_path / "t.csv"
    table.write_text(
        "path,text,start,end\na.wav,one,1,2\na.wav,one two,1,3\na.wav,one two three,1,3.5\n"
        "a.wav,all,1,\nb.wav,four,0,0.5\n"
    )
    out = tmp_path / "out"
    assert run(monkeypatch, "--table", table, "--output_dir", out) == 0
    lengths = {p.stem: soundfile.info(p).duration for p in (out / "audio").glob("*.flac")}
    assert lengths == {
        **{"a_0001000": 1.0, "a_0001000_0003000": 2.0, "a_0001000_0003500": 2.5},
        **{"a_0001000_end": 3.0, "b_0000000": 0.5},
    }


@pytest.mark.parametrize("folder", ["", "clips/"])
def test_paths_start_beside_the_table_or_in_its_clips(folder, tmp_path, monkeypatch):
    """Common Voice's start in clips, other tables name that folder."""
    for name in "abc":
        tone(tmp_path / f"in/clips/{name}.wav", 0.5)
    rows = [f"{folder}{name}.wav,yes" for name in ("gone", *"abc")]
    table = tmp_path / "in/train.csv"
    table.write_text("\n".join(["wav_filename,transcript", *rows]) + "\n")
    out = tmp_path / "out"
    assert run(monkeypatch, "--table", table, "--output_dir", out) == 1
    assert len(list((out / "audio").glob("*.flac"))) == 3
    (entry,) = skipped_entries(out).values()
    assert entry["source"] == str(tmp_path / "in/clips/gone.wav")


def test_a_pattern_names_tables_and_their_subsets(tmp_path, monkeypatch):
    for index, name in enumerate(("train-0", "train-1", "dev-0", "test-0")):
        tone(tmp_path / f"{name}.wav", 0.5, seed=index)
        (tmp_path / f"{name}.csv").write_text(f"path,text\n{name}.wav,yes\n")
    out = tmp_path / "out"
    assert run(monkeypatch, "--table", tmp_path / "*-0.csv", "--output_dir", out) == 0
    files = {
        name: [u.id for u in read_manifest(out, name).utterances]
        for name in ("train", "valid", "test")
    }
    assert files == {
        **{"train": ["train-0"], "valid": ["dev-0"], "test": ["test-0"]},
    }
    with pytest.raises(UserError, match=r"--table .*x\*\.csv: no file has such a name"):
        run(monkeypatch, "--table", tmp_path / "x*.csv", "--output_dir", tmp_path / "other")


@pytest.mark.parametrize(
    ("flag", "value", "reason"),
    [
        ("--split_column", "text", "'yes' is none of train, valid, test"),
        ("--speaker_pattern", "^(x)", r"'\^\(x\)' finds none in its path"),
    ],
)
def test_rows_that_all_fail_for_one_reason_name_the_flag(
    flag, value, reason, tmp_path, monkeypatch
):
    (tmp_path / "t.csv").write_text("path,text\na.wav,yes\nb.wav,yes\n")
    places = ("--table", tmp_path / "t.csv", "--output_dir", tmp_path / "out")
    with pytest.raises(UserError, match=rf"t\.csv:2: .*{reason}; none of 2 rows .*{flag}"):
        run(monkeypatch, *places, flag, value)


def test_pieces_without_audio_are_skipped(tmp_path, monkeypatch):
    """Backward, not a number, below zero, empty after rounding: in an STM file, without a check."""
    tone(tmp_path / "in/a.wav", 3.0, seed=1)
    times = ["0.5 1.0", "2.0 1.0", "nan 2.0", "0.2 nan", "-1.0 2.0", "2.99999 3.0", "inf inf"]
    lines = [f"a 1 ann {pair} word" for pair in times]
    (tmp_path / "in/t.stm").write_text("\n".join(lines) + "\n")
    out = tmp_path / "out"
    assert run(monkeypatch, "--table", tmp_path / "in/t.stm", "--output_dir", out) == 1
    entries = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    reasons = [entry["reason"] for entry in entries]
    assert sorted(reasons) == ["beyond the end", *["time"] * 5]
    assert [path.stem for path in (out / "audio").glob("*.flac")] == ["a_0000500_channel1"]


def test_a_declared_length_that_differs_is_reported(tmp_path, monkeypatch):
    tone(tmp_path / "in/a.wav", 3.0)
    tone(tmp_path / "in/b.wav", 1.0, seed=1)
    table = tmp_path / "in/t.csv"
    table.write_text("path,duration,text\na.wav,1.5,yes\nb.wav,1.0,no\n")
    assert run(monkeypatch, "--table", table, "--output_dir", tmp_path / "out") == 1
    assert skipped_entries(tmp_path / "out")["a.wav"]["reason"] == "other length"


def test_bad_rows_do_not_stop_an_import(tmp_path, monkeypatch, capsys):
    for index, name in enumerate("abc"):
        tone(tmp_path / f"in/{name}.wav", seed=index)
    table = tmp_path / "in/t.tsv"
    table.write_text("path\ttext\na.wav\tyes\nb.wav\tno\n./b.wav\tno\nc.wav\tx\ty\n")
    out = tmp_path / "out"
    assert run(monkeypatch, "--table", table, "--output_dir", out) == 1
    reasons = {e["where"]: e["reason"] for e in skipped_entries(out).values()}
    assert reasons == {f"{table}:4": "named twice", f"{table}:5": "row"}
    assert sorted(p.stem for p in (out / "audio").glob("*.flac")) == ["a", "b"]
    assert "skipped, row: 1" in capsys.readouterr().out


def test_a_known_corpus_is_imported_by_its_folder(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "in"
    for digit in range(3):
        for name in ("ann", "bob", "cy", "di"):
            tone(folder / f"recordings/{digit}_{name}_0.wav", 0.6, 8_000, seed=digit)
    out = tmp_path / "out"
    assert run(monkeypatch, "--audio_dir", folder, "--output_dir", out, "--licence", "CC0") == 0
    content = json.loads((out / "corpus.json").read_text())
    assert content["licence"] == "CC0"
    assert sum(s["utterances"] for s in content["subsets"].values()) == 12
    assert set(content["subsets"]) == {"train"}  # the same noise in every voice
    printed = capsys.readouterr().out
    assert "format: fsdd" in printed and "MIN_SAMPLE_SIZE" not in printed


def test_transcripts_beside_recordings_are_read(tmp_path, monkeypatch):
    folder = tmp_path / "in"
    for index in range(4):
        tone(folder / f"{index}.wav", 2.0, seed=index)
        (folder / f"{index}.txt").write_text("hello there\n")
    (folder / "3.txt").unlink()
    (folder / "3.srt").write_text("1\n00:00:00,500 --> 00:00:01,500\ngood day\n")
    out = tmp_path / "out"
    assert run(monkeypatch, "--audio_dir", folder, "--output_dir", out) == 0
    words = [line for path in out.glob("*.wrd") for line in path.read_text().splitlines()]
    assert sorted(words) == ["GOOD DAY", "HELLO THERE", "HELLO THERE", "HELLO THERE"]
    assert (out / "audio/3_0000500.flac").exists()
    flags = ("--audio_dir", folder, "--output_dir", tmp_path / "audio", "--format", "audio")
    assert run(monkeypatch, *flags) == 0
    assert not list((tmp_path / "audio").glob("*.wrd"))


def test_recommended_sizes_are_those_of_the_corpus(tmp_path, monkeypatch, capsys):
    for index in range(10):
        tone(tmp_path / f"in/{index}.wav", 0.5 + index / 10, seed=index)
    assert run(monkeypatch, "--audio_dir", tmp_path / "in", "--output_dir", tmp_path / "out") == 0
    content = json.loads((tmp_path / "out/corpus.json").read_text())
    assert content["recommended"] == {"MIN_SAMPLE_SIZE": 8000, "MAX_SAMPLE_SIZE": 24000}
    assert "MIN_SAMPLE_SIZE=8000 MAX_SAMPLE_SIZE=24000" in capsys.readouterr().out


def test_dry_run_writes_nothing(table, tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "--table", table, "--output_dir", tmp_path / "o", "--dry_run", 2) == 0
    printed = capsys.readouterr().out
    assert printed.count("->") == 2
    assert "Hello, number 1!\n  -> HELLO NUMBER ONE" in printed
    folder = table.parent
    assert (
        run(monkeypatch, "--audio_dir", folder, "--output_dir", tmp_path / "o", "--dry_run", 3) == 0
    )
    assert not (tmp_path / "o").exists()


def test_drop_pattern_can_be_repeated(table, tmp_path, monkeypatch, capsys):
    patterns = ("--drop_pattern", "Hello", "--drop_pattern", "number")
    run(monkeypatch, "--table", table, "--output_dir", tmp_path / "o", "--dry_run", 1, *patterns)
    assert "-> ZERO\n" in capsys.readouterr().out


# --- split


def members(count, speakers=0):
    return [Member(f"u{i}", f"u{i}", f"s{i % speakers}" if speakers else "") for i in range(count)]


def test_split_is_stable_and_of_the_shares_asked():
    few, many = (draw_split(members(count), 0.1, 0.2, 1) for count in (500, 2000))
    assert all(many[name] == subset for name, subset in few.items())
    shares = [list(many.values()).count(s) / 2000 for s in ("train", "valid", "test")]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.03)
    assert draw_split(members(2000), 0.1, 0.2, 2) != many


@pytest.mark.parametrize("speakers", [30, 150])
def test_no_speaker_in_two_subsets(speakers):
    subsets = draw_split(members(1500, speakers), 0.2, 0.05, 1)
    for speaker in range(speakers):
        assert len({subsets[f"u{i}"] for i in range(speaker, 1500, speakers)}) == 1
    shares = [list(subsets.values()).count(s) / 1500 for s in ("train", "valid", "test")]
    assert shares == pytest.approx([0.75, 0.2, 0.05], abs=0.02 if speakers == 30 else 0.1)


@pytest.mark.parametrize("seed", range(20))
def test_few_speakers_fill_every_subset(seed):
    assert set(draw_split(members(60, 6), 0.05, 0.05, seed).values()) == {"train", "valid", "test"}
    assert set(draw_split(members(60, 2), 0.05, 0.05, seed).values()) == {"train", "valid"}


@pytest.mark.parametrize("seed", range(10))
def test_a_few_speakers_with_much_audio_do_not_spoil_the_shares(seed):
    uneven = [
        Member(f"u{i}", f"u{i}", f"s{speaker}", seconds=3600 / (speaker + 1))
        for i, speaker in enumerate(range(300))
    ]
    subsets = draw_split(uneven, 0.05, 0.05, seed)
    total = sum(m.seconds for m in uneven)
    for subset in ("valid", "test"):
        share = sum(m.seconds for m in uneven if subsets[m.id] == subset) / total
        assert share == pytest.approx(0.05, abs=0.012)


@pytest.mark.parametrize("seed", range(5))
def test_small_sets_have_train_and_valid(seed):
    assert {"train", "valid"} <= set(draw_split(members(3), 0.05, 0.9, seed).values())
    assert set(draw_split(members(1), 0.05, 0.9, seed).values()) == {"train"}


def test_utterances_of_a_single_speaker_are_divided():
    subsets = draw_split(members(60, 1), 0.1, 0.1, 1)
    assert set(subsets.values()) == {"train", "valid", "test"}
    sessions = [Member(f"u{i}", f"u{i}", "ann", f"session{i % 5}") for i in range(60)]
    subsets = draw_split(sessions, 0.1, 0.1, 1)
    assert set(subsets.values()) == {"train", "valid", "test"}
    assert all(len({subsets[m.id] for m in sessions[i::5]}) == 1 for i in range(5))


def test_pieces_of_a_single_speakers_recordings_stay_together(tmp_path, monkeypatch, capsys):
    rows = ["path,text,speaker,start,end"]
    for name in "abcd":
        tone(tmp_path / f"{name}.wav", 2.0, seed=ord(name))
        rows += [f"{name}.wav,yes,ann,0,0.9", f"{name}.wav,no,ann,1,1.9"]
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    out = tmp_path / "out"
    assert run(monkeypatch, "--table", tmp_path / "t.csv", "--output_dir", out) == 0
    recordings = [
        {u.id[0] for u in read_manifest(out, name).utterances}
        for name in ("train", "valid", "test")
    ]
    assert all(recordings) and sum(map(len, recordings)) == 4
    assert "note: ann is the only speaker to draw subsets from" in capsys.readouterr().out


def test_groups_and_equal_recordings_stay_together():
    # Two sessions share a speaker, and a third has a copy of one of their recordings.
    linked = [
        Member("a", "a", "ann", "monday"),
        Member("b", "b", "bob", "monday"),
        Member("c", "c", "bob", "tuesday", content="x"),
        Member("d", "d", "", "", content="x"),
    ]
    others = [Member(f"o{i}", f"o{i}", f"s{i}") for i in range(20)]
    for seed in range(10):
        subsets = draw_split([*linked, *others], 0.2, 0.2, seed)
        assert len({subsets[m.id] for m in linked}) == 1


def test_a_speaker_in_two_given_subsets_is_an_error():
    given = [
        Member("a", "a", "george", split="train"),
        Member("b", "b", "george", split="test"),
        Member("c", "c", "lucas", split="train"),
    ]
    with pytest.raises(UserError, match="george in train and test.*--allow_shared_speakers"):
        split_members(given, 0, 0.1, 1)
    assert split_members(given, 0, 0.1, 1, True) == {"a": "train", "b": "test", "c": "train"}


def test_validation_is_drawn_from_training_where_the_corpus_has_none():
    given = [Member(f"u{i}", f"u{i}", f"s{i % 10}", split="train") for i in range(100)]
    given += [Member("t", "t", "tess", split="test")]
    subsets = split_members(given, 0.1, 0.3, 1)
    assert subsets["t"] == "test"
    assert list(subsets.values()).count("valid") == 10
    assert list(subsets.values()).count("test") == 1


def test_a_neighbour_of_the_same_stem_moves_no_one(tmp_path):
    tone(tmp_path / "x.wav")
    options = SourceOptions(output_dir="o", audio_dir=str(tmp_path))
    (alone,) = unique_ids(read_source(options, TableOptions())[0])
    tone(tmp_path / "x.ogg")
    both = unique_ids(read_source(options, TableOptions())[0])
    assert {r.key for r in both} == {alone.key}  # probably one recording twice: one subset
    assert len({r.id for r in both}) == 2


def test_split_column(tmp_path, monkeypatch, capsys):
    lines = ["audio,transcript,part"]
    for index, (part, text) in enumerate([("train", "AB"), ("valid", "BQ"), ("test", "A")]):
        tone(tmp_path / f"{index}.wav", seed=index)
        lines.append(f'{index}.wav,"{text}, {text}",{part}')
    table = tmp_path / "rows.csv"
    table.write_text("\n".join(lines))
    flags = ("--table", table, "--output_dir", tmp_path / "out", "--split_column", "part")
    assert run(monkeypatch, *flags) == 0
    for subset, name in (("train", "0"), ("valid", "1"), ("test", "2")):
        assert [u.id for u in read_manifest(tmp_path / "out", subset).utterances] == [name]
    assert "note: Q occur in valid or test" in capsys.readouterr().out
    table.write_text("\n".join([*lines[:1], *lines[3:]]))  # now nothing but test
    assert run(monkeypatch, *flags) == 0
    assert "hence no dict.ltr.txt" in capsys.readouterr().out
    assert not (tmp_path / "out/train.tsv").exists()


def test_shared_speakers_are_found_before_audio_is_converted(tmp_path, monkeypatch):
    lines = ["path,text,speaker,split", "a.wav,one,george,train", "b.wav,two,george,test"]
    table = tmp_path / "t.csv"
    table.write_text("\n".join(lines))
    flags = ("--table", table, "--output_dir", tmp_path / "out")
    with pytest.raises(UserError, match="george in train and test"):
        run(monkeypatch, *flags)
    assert not (tmp_path / "out").exists()
    for name in "ab":
        tone(tmp_path / f"{name}.wav", seed=ord(name))
    assert run(monkeypatch, *flags, "--allow_shared_speakers", "true") == 0


def test_scripts_without_spaces_are_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "t.tsv").write_text("path\ttext\na.wav\tสวัสดี\nb.wav\tyes\n")
    flags = ("--table", tmp_path / "t.tsv", "--output_dir", tmp_path / "out", "--dry_run", 2)
    assert run(monkeypatch, *flags) == 0
    assert "note: 1 transcripts are in a script without spaces" in capsys.readouterr().out


# --- errors


@pytest.mark.parametrize(
    ("name", "text", "flags", "message"),
    [
        ("t.tsv", "path\ttext\n", (), "names no recordings"),
        ("t.tsv", "", (), "names no recordings"),
        ("t.tsv", "clip\ttext\na\tb\n", (), "t.tsv:2: no column path .*it has clip, text"),
        ("t.tsv", "path\ttext\na\tb\n", ("--text_column", "w"), "no column w; it has path, text"),
        ("t.tsv", "path\ttext\na\n", (), "t.tsv:2: has 1 fields, not the 2"),
        ("t.tsv", "path\ttext\n\tb\n", (), "t.tsv:2: column path is empty"),
        ("t.csv", 'path,text\na.wav,"b\n', (), "not valid CSV"),
        ("t.jsonl", '{"path"\n', (), "t.jsonl:1: not JSON"),
        ("t.jsonl", "[1]\n", (), "t.jsonl:1: not a JSON object"),
        ("t.txt", "path\ttext\na\tb\n", (), "give --format tsv, csv, jsonl"),
        ("t.tsv", "path\ttext\tp\na\tb\tz\n", ("--split_column", "p"), "2: 'z' is none of train"),
        (
            "t.tsv",
            "path\ttext\ts\na\tb\t\n",
            ("--speaker_column", "s"),
            "2: column s is empty",
        ),
        (
            "t.tsv",
            "path\ttext\na\tb\n",
            ("--audio_dir", "."),
            "one of --table, --audio_dir and --lhotse",
        ),
        ("t.tsv", "path\ttext\na\tb\n", ("--min_seconds", "40"), "--min_seconds"),
        ("t.tsv", "path\ttext\na\tb\n", ("--valid_share", "1"), "--valid_share"),
        ("t.tsv", "path\ttext\na\tb\n", ("--prefix", "a/b"), "--prefix"),
        ("t.tsv", "path\ttext\na\tb\n", ("--workers", "0"), "--workers 0"),
        ("t.tsv", "path\ttext\na\tb\n", ("--drop_pattern", "("), "not a regular expression"),
    ],
)
def test_mistakes_are_named(tmp_path, monkeypatch, name, text, flags, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        run(monkeypatch, "--table", tmp_path / name, "--output_dir", tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()


def test_flags_of_tables_are_refused_for_folders(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="--speaker_column"):
        flags = ("--audio_dir", tmp_path, "--output_dir", tmp_path / "o", "--speaker_column", "s")
        run(monkeypatch, *flags)
    with pytest.raises(UserError, match="--audio_dir .*: a folder without audio files"):
        run(monkeypatch, "--audio_dir", tmp_path, "--output_dir", tmp_path / "o")


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (("--table", "{0}/none.tsv"), "error: --table {0}/none.tsv: cannot be read (No such file"),
        (("--table", "{0}/bad.jsonl"), "error: {0}/bad.jsonl:1: not JSON"),
        (
            ("--audio_dri", "{0}"),
            "error: utils.data.import_corpus: unknown flag --audio_dri (did you",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, flags, line):
    (tmp_path / "bad.jsonl").write_text("{\n")
    flags = [flag.format(tmp_path) for flag in flags]
    command = [
        sys.executable,
        "-m",
        "utils.data.import_corpus",
        "--output_dir",
        str(tmp_path / "o"),
    ]
    done = subprocess.run([*command, *flags], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(line.format(tmp_path))
    assert done.stderr.count("\n") == 1


# --- unusual recordings


def speech_like(seconds=1.0, seed=0):
    return 0.2 * np.random.default_rng(seed).standard_normal(int(seconds * 16_000)).clip(-4, 4)


def notes_of(folder):
    lines = (folder / "notes.jsonl").read_text().splitlines()
    return {(Path(e["source"]).name, e["reason"]): e["detail"] for e in map(json.loads, lines)}


def test_unusual_recordings_are_imported_and_reported(tmp_path, monkeypatch, capsys):
    x = speech_like()
    place = tmp_path / "in"
    place.mkdir()
    floats = {"int16.wav": x * 30_000, "loud.aiff": x * 5, "int24.wav": np.rint(x * 2**22)}
    for name, samples in floats.items():
        soundfile.write(place / name, samples, 16_000, subtype="FLOAT")
    integers = {
        "opposite.flac": np.stack([x, -x], 1),
        "silent.wav": 0 * x,
        "constant.wav": 0 * x + 0.25,
        "faint.flac": x / 10_000,
        "clipped.wav": (8 * x).clip(-1, 1),
        "usual.wav": x,
    }
    for name, samples in integers.items():
        soundfile.write(place / name, samples, 16_000)
    flags = ("--audio_dir", place, "--output_dir", tmp_path / "out")
    assert run(monkeypatch, *flags) == 0
    printed = capsys.readouterr().out
    expected = {
        ("int16.wav", "integers in floating point"),
        ("int24.wav", "integers in floating point"),
        ("loud.aiff", "above full scale"),
        ("opposite.flac", "channels cancel"),
        ("silent.wav", "silent"),
        ("constant.wav", "constant"),
        ("faint.flac", "nearly silent"),
        ("clipped.wav", "clipped"),
    }
    assert set(notes_of(tmp_path / "out")) == expected
    assert "note, integers in floating point: 2, such as " in printed
    assert f"all that was noted, and imported: {tmp_path / 'out' / 'notes.jsonl'}" in printed
    for name in ("int16", "int24", "loud", "opposite"):
        found, _ = soundfile.read(tmp_path / "out/audio" / f"{name}.flac")
        assert 0.3 < abs(found).max() <= 1 and (abs(found) > 0.999).mean() < 0.001
        assert np.corrcoef(found, x)[0, 1] > 0.999
    before = contents(tmp_path / "out")
    assert run(monkeypatch, *flags) == 0  # from its journal
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("suffix", ["wav", "aiff", "au"])
def test_headers_that_declare_a_little_more_are_noted(suffix, tmp_path, monkeypatch, capsys):
    """As in the Mboshi-French corpus: up to 68 ms of audio that are not there."""
    for name, missing in (("some", 70), ("much", 300), ("all", 0)):
        path = tmp_path / f"in/{name}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, speech_like(2.0, missing), 16_000, subtype="PCM_16")
        data = path.read_bytes()
        path.write_bytes(data[: len(data) - 32 * missing])
    flags = ("--audio_dir", tmp_path / "in", "--output_dir", tmp_path / "out")
    assert run(monkeypatch, *flags) == 1
    assert list(skipped_entries(tmp_path / "out")) == [f"much.{suffix}"]
    note = notes_of(tmp_path / "out")[f"some.{suffix}", "shorter than declared"]
    assert note == "holds 70 ms less than its header declares"
    assert "note, shorter than declared: 1, such as" in capsys.readouterr().out


def test_each_channel_is_a_recording_in_the_subset_of_the_others(tmp_path, monkeypatch):
    place = tmp_path / "in"
    place.mkdir()
    for call in range(6):
        sides = [speech_like(seed=2 * call + side) for side in (0, 1)]
        soundfile.write(place / f"c{call}.wav", np.stack(sides, 1), 16_000)
    soundfile.write(place / "mono.wav", speech_like(seed=99), 16_000)
    (place / "bad.wav").write_bytes(b"no audio")
    flags = ("--audio_dir", place, "--valid_share", "0.4", "--test_share", "0")
    assert run(monkeypatch, *flags, "--output_dir", tmp_path / "each", "--channel", "each") == 1
    assert list(skipped_entries(tmp_path / "each")) == ["bad.wav"]
    subset = {
        u.id: name
        for name in ("train", "valid")
        for u in read_manifest(tmp_path / "each", name).utterances
    }
    assert len(subset) == 13 and "mono_channel1" in subset
    for call in range(6):
        assert subset[f"c{call}_channel1"] == subset[f"c{call}_channel2"]
        found, _ = soundfile.read(tmp_path / "each/audio" / f"c{call}_channel2.flac")
        np.testing.assert_allclose(found, speech_like(seed=2 * call + 1), atol=1 / 16_384)
    assert run(monkeypatch, *flags, "--output_dir", tmp_path / "two", "--channel", "2") == 1
    assert "no channel 2" in skipped_entries(tmp_path / "two")["mono.wav"]["detail"]
    found, _ = soundfile.read(tmp_path / "two/audio/c3.flac")
    np.testing.assert_allclose(found, speech_like(seed=7), atol=1 / 16_384)
    table = tmp_path / "rows.tsv"
    table.write_text("path\ttext\nin/c0.wav\tHI\n")
    with pytest.raises(UserError, match="--channel each: a row of --table has one transcript"):
        run(monkeypatch, "--table", table, "--output_dir", tmp_path / "t", "--channel", "each")


def test_linked_folders_and_names_that_are_not_utf8(tmp_path, monkeypatch, capsys):
    tone(tmp_path / "in/a/x.wav")
    tone(tmp_path / "store/b/x.wav", seed=1)
    (tmp_path / "in/b").symlink_to(tmp_path / "store/b")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    for name in (b"m\xfcde.wav", b"m\xf6de.wav"):
        odd = os.fsencode(tmp_path / "in/a/") + b"/" + name
        Path(os.fsdecode(odd)).write_bytes((tmp_path / "in/a/x.wav").read_bytes())
    flags = ("--audio_dir", tmp_path / "in", "--output_dir", tmp_path / "out")
    assert run(monkeypatch, *flags, "--channel", "1") == 0
    files = {path.name for path in (tmp_path / "out/audio").glob("*.flac")}
    assert files == {"a_x.flac", "b_x.flac", "a_m_xfcde.flac", "a_m_xf6de.flac"}
    os.mkfifo(tmp_path / "in/pipe.wav")
    table = tmp_path / "in/rows.tsv"
    table.write_text("path\ttext\npipe.wav\tA\na/x.wav\tB\n")
    assert run(monkeypatch, "--table", table, "--output_dir", tmp_path / "t") == 1
    assert "not a file but a pipe" in skipped_entries(tmp_path / "t")["pipe.wav"]["detail"]
