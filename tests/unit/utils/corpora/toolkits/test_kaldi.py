"""Data directories of Kaldi and ESPnet: files, arks, pipes, segments, and damage."""

import os
import signal
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.unit.utils.corpora.toolkits.importing import imported, noise, write
from utils.corpora.containers import command
from utils.corpora.containers.command import read_output
from utils.corpora.containers.members import stream_member
from utils.corpora.rows import BadRow
from utils.corpora.toolkits.kaldi import read_kaldi_folders
from wav2vec2.cli.errors import UserError


def read_member(path, member, name):
    """A member as one array."""
    return np.concatenate([*stream_member(path, member, name)])


REPOSITORY = Path(__file__).resolve().parents[5]


@pytest.fixture
def stereo(tmp_path):
    """A recipe's folder, whose wav.scp names a call of two channels once for each."""
    call = noise(tmp_path / "corpus/call.wav", 3, channels=2)
    noise(tmp_path / "corpus/mono.wav", 2, seed=1)
    write(
        tmp_path,
        {
            "data/train/wav.scp": "c-A corpus/call.wav\nc-B corpus/call.wav\nm corpus/mono.wav\n",
            "data/train/reco2file_and_channel": "c-A call A\nc-B call B\nm mono B\n",
            "data/train/segments": "a1 c-A 0.5 1.5\nb1  c-B\t1.0 -1\nb2 c-B 0 1 0\nm1 m 0 1\n",
            "data/train/text": "a1 hello   there\nb1\tgood\tbye\nb2 so\nm1 well\nx9 nobody\n",
            "data/train/utt2spk": "a1 ann\nb1 bob\nb2 bob\nm1 cem\n",
            "data/train_dev/wav.scp": "m corpus/mono.wav\n",
            "data/train_dev/text": "m as you like\n",
        },
    )
    return tmp_path / "data", call


def test_channels_segments_and_splits(stereo, tmp_path, monkeypatch):
    folder, call = stereo
    code, found, skipped = imported(monkeypatch, tmp_path / "out", "--audio_dir", folder)
    names = {key: (len(x), text, subset) for key, (x, text, subset) in found.items()}
    at = f"{tmp_path}/corpus/".lstrip("/").replace("/", "_")
    assert names == {
        f"{at}call_0000500_channel1": (16_000, "HELLO THERE", "train"),
        f"{at}call_0001000_channel2": (32_000, "GOOD BYE", "train"),
        f"{at}call_0000000_channel1": (16_000, "SO", "train"),
        f"{at}mono_0000000": (16_000, "WELL", "train"),
        f"{at}mono": (32_000, "AS YOU LIKE", "valid"),
    }
    assert np.array_equal(found[f"{at}call_0000500_channel1"][0], call[8000:24_000, 0])
    assert np.array_equal(found[f"{at}call_0001000_channel2"][0], call[16_000:, 1])
    assert (code, skipped) == (1, {("missing", "text:5")})


@pytest.mark.parametrize("function", [None, "soundfile"])
def test_arks_as_kaldiio_writes_and_reads_them(tmp_path, monkeypatch, function):
    kaldiio = pytest.importorskip("kaldiio")
    recipe, recordings = tmp_path / "asr1", {}
    for part in ("train_sp", "dev", "org/train_sp"):  # org: before long ones were removed
        folder = recipe / "dump/raw" / part
        folder.mkdir(parents=True)
        monkeypatch.chdir(recipe)
        options = {"write_function": function} if function else {}
        ark = f"dump/raw/{part}/data_wav.ark"
        with kaldiio.WriteHelper(f"ark,scp:{ark},{folder}/wav.scp", **options) as archive:
            for n in range(2):
                samples = np.random.default_rng(n).normal(0, 2000, 16_000 + n).astype(np.int16)
                archive(f"{folder.name}-{n}", (16_000, samples))
        recordings |= kaldiio.load_scp(f"{folder}/wav.scp")
        write(folder, {"text": f"{folder.name}-0 one\n{folder.name}-1 two\n"})
    monkeypatch.chdir(tmp_path)
    flags = ("--audio_dir", recipe / "dump/raw")
    code, found, skipped = imported(monkeypatch, tmp_path / "out", *flags)
    assert (code, skipped) == (0, set())
    assert {key: (text, subset) for key, (_, text, subset) in found.items()} == {
        "train_sp-0": ("ONE", "train"),
        "train_sp-1": ("TWO", "train"),
        "dev-0": ("ONE", "valid"),
        "dev-1": ("TWO", "valid"),
    }
    for key, (samples, *_) in found.items():
        rate, expected = recordings[key]
        expected = expected if expected.dtype == np.int16 else np.round(expected * 32768)
        assert rate == 16_000 and np.array_equal(samples, expected)


def test_flac_in_an_ark_and_what_is_no_audio(tmp_path):
    expected = noise(tmp_path / "a.flac") / 32768
    flac = (tmp_path / "a.flac").read_bytes()
    path = tmp_path / "x.ark"
    path.write_bytes(b"k " + flac + b"l " + flac + b"m \0BFM \4 n PKLcos\nsystem\n o RIFF")
    for offset in (2, 4 + len(flac)):
        found = read_member(path, f"ark:{offset}", "k")
        assert np.array_equal(found, expected.astype(np.float32))
    end = path.read_bytes().index(b"\0BFM"), path.read_bytes().index(b"PKL")
    for place, message in ((end[0], "features"), (end[1], "pickle"), (1, "no recording")):
        with pytest.raises(UserError, match=message):
            read_member(path, f"ark:{place}", "k")
    for place in (len(path.read_bytes()) - 4, 10**9):
        with pytest.raises(UserError):
            read_member(path, f"ark:{place}", "k")


def test_half_an_ark_is_skipped_rows(tmp_path, monkeypatch):
    whole = noise(tmp_path / "a.wav")
    wav = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "data.ark").write_bytes(b"a " + wav + b"b " + wav[: len(wav) // 2])
    scp = f"a data.ark:2\nb data.ark:{len(wav) + 4}\nc data.ark:2[0:9]\nd none.ark:7\ne\n"
    write(tmp_path / "d", {"wav.scp": scp, "text": "a yes\nb no\nc so\nd oh\ne ah\n"})
    (tmp_path / "data.ark").rename(tmp_path / "d/data.ark")
    code, found, skipped = imported(monkeypatch, tmp_path / "out", "--audio_dir", tmp_path / "d")
    assert code == 1 and np.array_equal(found["a"][0], whole)
    assert skipped == {
        ("unreadable", "wav.scp:2"),
        ("ark", "wav.scp:3"),
        ("missing", "wav.scp:4"),
        ("no audio", "wav.scp:5"),
    }


PIPES = {
    "wav.scp": (
        "good cat a.wav |\nloud echo no such file >&2; exit 3 |\nslow sleep 60 |\nfile a.wav\n"
        "bad echo nothing |\n"
    ),
    "text": "good yes\nloud oh\nslow well\nfile no\nbad so\n",
}


def test_pipes_run_only_if_allowed(tmp_path, monkeypatch):
    noise(tmp_path / "a.wav")
    touched = tmp_path / "touched"
    write(tmp_path, PIPES | {"wav.scp": PIPES["wav.scp"].replace("echo no", f"touch {touched}")})
    monkeypatch.chdir(tmp_path)
    code, found, skipped = imported(monkeypatch, tmp_path / "out", "--audio_dir", tmp_path)
    assert (code, set(found), touched.exists()) == (1, {"a"}, False)
    assert skipped == {("command", f"wav.scp:{n}") for n in (1, 2, 3, 5)}


def test_pipes_that_fail_are_skipped_with_their_last_line(tmp_path, monkeypatch):
    expected = noise(tmp_path / "a.wav")
    write(tmp_path, PIPES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "SECONDS", 1)
    flags = ("--audio_dir", tmp_path, "--allow_pipes")
    code, found, skipped = imported(monkeypatch, tmp_path / "out", *flags)
    assert (code, set(found)) == (1, {"a", "good"})
    assert np.array_equal(found["good"][0], expected)
    assert skipped == {("unreadable", f"wav.scp:{n}") for n in (2, 3, 5)}
    text = (tmp_path / "out/skipped.jsonl").read_text()
    assert "failed (exit code 3): no such file" in text and "more than 1 s" in text


def test_a_command_without_output_or_with_too_much(monkeypatch):
    with pytest.raises(UserError, match="gave nothing: sh: .*no_such_program"):
        read_output(Path(), "no_such_program a | cat")
    monkeypatch.setattr(command, "LARGEST", 100_000)
    with pytest.raises(UserError, match="more than 100000 bytes"):
        read_output(Path(), "cat /dev/zero")


def alive(folder):
    """Whether a process that holds a file of the folder open is left."""
    for place in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if Path(os.readlink(place)).is_relative_to(folder):
                return True
        except OSError:
            continue
    return False


def wait_until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_that_a_pipe_started_outlives_the_import(tmp_path, sent, workers):
    lines = [f"{n} (sleep 99; true) < held | sleep 99 < held |" for n in "abc"]
    write(
        tmp_path,
        {"held": "", "wav.scp": "\n".join(lines) + "\n", "text": "a one\nb two\nc three\n"},
    )
    arguments = ["--output_dir", "out", "--audio_dir", ".", "--allow_pipes", "--workers", workers]
    process = subprocess.Popen(
        [sys.executable, "-m", "utils.data.import_corpus", *map(str, arguments)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: alive(tmp_path / "held"))
    process.send_signal(sent)
    process.wait(60)
    wait_until(lambda: not alive(tmp_path / "held"))


def test_a_directory_without_text_is_audio_alone(tmp_path, monkeypatch):
    noise(tmp_path / "a.wav", 2)
    write(tmp_path / "un", {"wav.scp": "r ../a.wav\n", "segments": "r1 r 0 1\nr2 r 1 2\n"})
    code, found, _ = imported(monkeypatch, tmp_path / "out", "--audio_dir", tmp_path / "un")
    assert code == 0
    assert sorted((len(x), text) for x, text, _ in found.values()) == [(16_000, None)] * 2
    # Beside a transcribed one its rows are skipped: a data set has labels or has none.
    write(tmp_path / "tr", {"wav.scp": "s ../b.wav\n", "text": "s yes\n"})
    noise(tmp_path / "b.wav", seed=1)
    code, found, skipped = imported(monkeypatch, tmp_path / "out2", "--audio_dir", tmp_path)
    assert (code, [text for _, text, _ in found.values()]) == (1, ["YES"])
    assert {reason for reason, _ in skipped} == {"no transcript"}


def test_composed_and_decomposed_keys_and_names_are_equal(tmp_path, monkeypatch):
    one, other = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    noise(tmp_path / f"audio/{other}.wav")
    files = {"wav.scp": f"{one}1 audio/{one}.wav\n", "text": f"{other}1 oui\n"}
    write(tmp_path / "data", files | {"utt2spk": f"{other}1 {other}\n"})
    code, found, _ = imported(monkeypatch, tmp_path / "out", "--audio_dir", tmp_path / "data")
    assert (code, [text for _, text, _ in found.values()]) == (0, ["OUI"])


def reasons(folder):
    return [row.reason for row in read_kaldi_folders(folder) if isinstance(row, BadRow)]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"segments": "a r x 2\n"}, ["time"]),
        ({"segments": "a r\n"}, ["time"]),
        ({"segments": "a\n"}, ["missing"]),
        ({"segments": "a q 0 1\n"}, ["missing"]),
        ({"segments": "a r 0 1\na r 1 2\n"}, ["named twice"]),
        ({"text": "b so\n", "segments": "a r 0 1\n"}, ["no transcript", "missing"]),
        ({"wav.scp": "r x.1.wav x.2.wav\n", "segments": "a r 0 1\n"}, ["channels"]),
        ({"segments": "a r 0 1 C\n"}, ["time"]),
    ],
)
def test_bad_lines_are_bad_rows(tmp_path, files, expected):
    write(
        tmp_path, {"x.1.wav": "", "x.2.wav": "", "wav.scp": "r x.wav\n", "text": "a so\n"} | files
    )
    assert reasons(tmp_path) == expected


def test_bytes_that_are_no_text(tmp_path, monkeypatch):
    name = os.fsdecode(b"caf\xe9.wav")
    noise(tmp_path / "a.wav")
    os.rename(tmp_path / "a.wav", tmp_path / name)
    noise(tmp_path / "b.wav", seed=1)
    (tmp_path / "wav.scp").write_bytes(b"a caf\xe9.wav\nb b.wav\nc " + b"x" * 5000 + b"\n")
    (tmp_path / "text").write_bytes(b"a yes\nb caf\xe9\nc no\n")
    code, found, skipped = imported(monkeypatch, tmp_path / "out", "--audio_dir", tmp_path)
    assert (code, [text for _, text, _ in found.values()]) == (1, ["YES"])
    assert skipped == {("transcript file", "text:2"), ("missing", "wav.scp:3")}


def test_a_declared_duration_is_compared(tmp_path, monkeypatch):
    noise(tmp_path / "a.wav", 1)
    soundfile.write(tmp_path / "b.wav", np.ones(8000, np.int16), 8000)
    files = {"wav.scp": "a a.wav\nb b.wav\n", "utt2dur": "a 1.0\nb 2.5\n", "text": "a x\nb y\n"}
    write(tmp_path, files)
    code, found, skipped = imported(monkeypatch, tmp_path / "out", "--audio_dir", tmp_path)
    assert (code, set(found), skipped) == (1, {"a"}, {("other length", "wav.scp:2")})
