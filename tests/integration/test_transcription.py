"""`inference.py transcribe`: lengths, inputs, outputs, bad input.

The model is a random trunk with a fitted output layer, which transcribes the words of `say`.
"""

import io
import json
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import inference
from tests.integration.conftest import WORDS, say
from tests.integration.test_bad_input import one_line
from tests.unit.wav2vec2.audio.test_decode import write_mute_video
from utils.benchmarks import transcription
from wav2vec2.audio.decode import normalize
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.config import MINI, Hourglass, Regularisation
from wav2vec2.ctc import BLANK, Wav2Vec2ForCTC
from wav2vec2.files.torch_file import save_checkpoint
from wav2vec2.interop import native
from wav2vec2.text.error_rate import ErrorCounts
from wav2vec2.text.vocabulary import Vocabulary

LETTERS = Vocabulary(["|", *sorted(set("".join(WORDS)))])
WORD, PAUSE = 0.25, 0.15
"""Seconds."""


def speech(words: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """Random words with pauses between them: audio, and the words."""
    generator = np.random.default_rng(seed)
    reference = [WORDS[i] for i in generator.integers(len(WORDS), size=words)]
    pause = np.zeros(int(PAUSE * SAMPLE_RATE))
    audio = np.concatenate([part for word in reference for part in (say(word), pause)])
    return (audio + 0.01 * generator.standard_normal(len(audio))).astype(np.float32), reference


def units_by_frame(reference: list[str], frames: int) -> torch.Tensor:
    """The unit of each frame, `[frames]`; blanks between."""
    units = torch.full((frames,), BLANK)
    at = 0.0
    for word in reference:
        for symbol, seconds in [*((letter, WORD / len(word)) for letter in word), ("|", PAUSE)]:
            units[round(at * 50) : round((at + seconds) * 50) - 1] = LETTERS.encode(symbol)[0]
            at += seconds
    return units


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Flags of the checkpoint."""
    torch.manual_seed(0)
    architecture = replace(MINI, hourglass=Hourglass(1, 2, 2, 1))
    network = Wav2Vec2ForCTC.from_config(architecture, Regularisation(), len(LETTERS)).eval()
    contexts, units = [], []
    network.proj.register_forward_pre_hook(lambda _, given: contexts.append(given[0][0]))
    with torch.no_grad():
        for seed in range(1, 13):
            audio, reference = speech(15 if seed % 2 else 150, seed)
            network(torch.from_numpy(normalize(audio))[None])
            units.append(units_by_frame(reference, len(contexts[-1])))
    inputs = torch.cat(contexts).double()
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1)
    targets = 12 * torch.nn.functional.one_hot(torch.cat(units), len(LETTERS)).double()
    ridge = 1e-3 * len(inputs) * torch.eye(inputs.shape[1])
    weights = torch.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ targets)
    with torch.no_grad():
        network.proj.weight.copy_(weights[:-1].T)
        network.proj.bias.copy_(weights[-1])
    path = tmp_path_factory.mktemp("model") / "fitted.pt"
    content = native.ctc_content(architecture, LETTERS, "ltr")
    save_checkpoint(path, {**content, "model": network.state_dict()})
    return ["--checkpoint", path, "--cpu"]


def write(path, words=10, seed=0, rate=SAMPLE_RATE):
    audio, _ = speech(words, seed)
    soundfile.write(path, audio, rate)
    return path


@pytest.fixture
def transcribe(model, command):
    """Run the command; standard output, after exit code 0."""

    def run(*arguments):
        code, out, err = command(inference.main, "transcribe", *model, *arguments)
        assert code == 0, err
        return out

    return run


def words_of(line):
    return line.rstrip("\n").split("\t")[1].split()


def errors(hypothesis, reference):
    return ErrorCounts().add(hypothesis, reference) / len(reference)


def test_windows_cost_few_words(transcribe, tmp_path):
    """A minute in windows against the minute in one piece, and both against the reference."""
    audio, reference = speech(151, seed=99)
    assert len(audio) > 60 * SAMPLE_RATE
    soundfile.write(tmp_path / "a.flac", audio, SAMPLE_RATE)
    whole = words_of(transcribe(tmp_path / "a.flac", "--window_seconds", 100))
    assert errors(whole, reference) < 0.3
    for flags in ([], ["--window_seconds", 10], ["--window_seconds", 7, "--overlap_seconds", 3]):
        windowed = words_of(transcribe(tmp_path / "a.flac", *flags))
        assert errors(windowed, whole) < 0.06 and errors(windowed, reference) < 0.3


def test_a_short_file_is_processed_whole(transcribe, tmp_path):
    write(tmp_path / "a.wav")
    lines = {
        transcribe(tmp_path / "a.wav", "--window_seconds", seconds, "--overlap_seconds", 1)
        for seconds in (4.1, 30, 300)
    }
    assert len(lines) == 1 and len(words_of(lines.pop())) >= 8


def test_batches_change_nothing(transcribe, tmp_path):
    files = [write(tmp_path / f"{n}.wav", words, seed=n) for n, words in enumerate((3, 40, 7, 22))]
    windows = ["--window_seconds", 5, "--overlap_seconds", 2]
    outputs = {transcribe(*windows, "--batch_size", size, *files) for size in (1, 3, 8)}
    assert len(outputs) == 1
    assert [line.split("\t")[0] for line in outputs.pop().splitlines()] == list(map(str, files))
    alone = [transcribe(*windows, file) for file in files]
    assert "".join(alone) in {transcribe(*windows, *files)}


def test_json_words_are_in_order_and_near_where_they_were_spoken(transcribe, tmp_path):
    audio, reference = speech(60, seed=5)
    soundfile.write(tmp_path / "a.wav", audio, SAMPLE_RATE)
    flags = ["--format", "json", "--window_seconds", 6, "--overlap_seconds", 2]
    (line,) = transcribe(*flags, tmp_path / "a.wav").splitlines()
    found = json.loads(line)
    assert found["file"] == str(tmp_path / "a.wav") and found["duration"] == len(audio) // 16 / 1000
    assert found["text"].split() == [word["text"] for word in found["words"]]
    edges = [word[edge] for word in found["words"] for edge in ("start", "end")]
    assert edges == sorted(edges) and edges[0] >= 0 and edges[-1] <= found["duration"]
    assert all(0 < word["confidence"] <= 1 for word in found["words"])
    truth = [(word, n * (WORD + PAUSE)) for n, word in enumerate(reference)]
    hits = sum(
        any(word["text"] == text and abs(word["start"] - at) < 0.1 for text, at in truth)
        for word in found["words"]
    )
    assert hits >= 0.8 * len(reference)


def test_confidence_tells_right_words_from_wrong_ones(transcribe, tmp_path):
    audio, reference = speech(150, seed=7)
    soundfile.write(tmp_path / "a.wav", audio, SAMPLE_RATE)
    words = json.loads(transcribe("--format", "json", tmp_path / "a.wav"))["words"]
    right = [w["confidence"] for w in words if w["text"] in WORDS]
    wrong = [w["confidence"] for w in words if w["text"] not in WORDS]
    assert right and wrong and np.mean(right) > np.mean(wrong)


def test_a_lexicon_searches_long_recordings_from_pause_to_pause(transcribe, tmp_path):
    reason = "pip install -r requirements-decode.txt"
    pytest.importorskip("flashlight.lib.text.decoder.kenlm", reason=reason, exc_type=ImportError)
    audio, reference = speech(100, seed=11)
    soundfile.write(tmp_path / "a.wav", audio, SAMPLE_RATE)
    (tmp_path / "words.txt").write_text("\n".join(WORDS))
    windows = ["--window_seconds", 6, "--overlap_seconds", 2]
    beam = ["--decoder", "beam", "--lexicon", tmp_path / "words.txt", "--format", "json"]
    greedy = words_of(transcribe(*windows, tmp_path / "a.wav"))
    whole = json.loads(transcribe(*beam, "--window_seconds", 60, tmp_path / "a.wav"))
    found = json.loads(transcribe(*beam, *windows, tmp_path / "a.wav"))
    text = found["text"].split()
    assert set(text) <= set(WORDS) and errors(text, reference) < errors(greedy, reference)
    assert errors(text, whole["text"].split()) < 0.05
    assert [word["text"] for word in found["words"]] == text
    edges = [word[edge] for word in found["words"] for edge in ("start", "end")]
    assert edges == sorted(edges) and edges[-1] <= found["duration"]
    starts = [n * (WORD + PAUSE) for n in range(len(reference))]
    near = sum(
        any(word["text"] == text and abs(word["start"] - at) < 0.1 for word in found["words"])
        for text, at in zip(reference, starts)
    )
    assert near >= 0.9 * len(reference)


def test_subtitles(transcribe, tmp_path):
    write(tmp_path / "a.wav", words=50)
    srt = transcribe("--format", "srt", tmp_path / "a.wav")
    assert srt.startswith("1\n00:00:00,") and "\n2\n" in srt and srt.endswith("\n")
    vtt = transcribe("--format", "vtt", tmp_path / "a.wav")
    assert vtt.startswith("WEBVTT\n\n00:00:00.")
    assert vtt.count(" --> ") == srt.count(" --> ") > 2


def test_folders_filelists_and_output_files(transcribe, tmp_path):
    folder = tmp_path / "audio"
    (folder / "sub").mkdir(parents=True)
    write(folder / "b.wav", seed=1)
    write(folder / "sub" / "a.flac", seed=2)
    write(folder / ".hidden.wav")
    (folder / "notes.txt").write_text("no audio")
    printed = transcribe(folder)
    names = [line.split("\t")[0] for line in printed.splitlines()]
    assert names == [str(folder / "b.wav"), str(folder / "sub" / "a.flac")]
    texts = [line.split("\t")[1] for line in printed.splitlines()]
    assert len(set(texts)) == 2 and all(texts)

    out = transcribe(folder, "--output_dir", tmp_path / "o", "--format", "text")
    assert out == f"2 of 2 recordings transcribed in {tmp_path / 'o'}\n"
    assert (tmp_path / "o" / "b.txt").read_text() == texts[0] + "\n"
    assert (tmp_path / "o" / "sub_a.txt").read_text() == texts[1] + "\n"
    for format in ("json", "srt", "vtt"):
        transcribe(folder, "--output_dir", tmp_path / "o", "--format", format)
        assert {p.name for p in (tmp_path / "o").glob(f"*.{format}")} == {
            f"b.{format}",
            f"sub_a.{format}",
        }

    (tmp_path / "list.txt").write_text(f"audio/b.wav\n\n{folder}/sub/a.flac\n")
    (tmp_path / "some.tsv").write_text(f"{folder}\nb.wav\t64000\nsub/a.flac\t64000\n")
    for filelist in ("list.txt", "some.tsv"):
        listed = transcribe("--filelist", tmp_path / filelist)
        assert [line.split("\t")[1] for line in listed.splitlines()] == texts


class Piped(io.BytesIO):
    """Standard input that cannot be moved in."""

    def seekable(self):
        return False


@pytest.mark.parametrize(
    ("suffix", "rate"), [("wav", 8000), ("flac", SAMPLE_RATE), ("ogg", 44_100)]
)
def test_standard_input(transcribe, tmp_path, monkeypatch, suffix, rate):
    path = write(tmp_path / f"a.{suffix}", rate=rate)
    (from_file,) = transcribe(path).splitlines()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Piped(path.read_bytes())))
    assert transcribe("-") == "-\t" + from_file.split("\t")[1] + "\n"


def test_what_cannot_be_decoded_is_listed_and_the_others_are_transcribed(model, tmp_path, command):
    write(tmp_path / "good.wav")
    soundfile.write(tmp_path / "short.wav", np.zeros(160), SAMPLE_RATE)
    (tmp_path / "empty.wav").touch()
    soundfile.write(tmp_path / "zero.wav", np.zeros(0), SAMPLE_RATE)
    soundfile.write(tmp_path / "nan.wav", np.full(32_000, np.nan), SAMPLE_RATE, subtype="FLOAT")
    (tmp_path / "junk.m4a").write_bytes(bytes(range(256)) * 40)
    write(tmp_path / "whole.flac", words=40)
    data = (tmp_path / "whole.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 2])
    write(tmp_path / "whole.wav", words=40)
    data = (tmp_path / "whole.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(data[: len(data) // 2])
    write_mute_video(tmp_path / "mute.mp4")
    bad = {
        "gone.wav": "cannot be opened",
        "empty.wav": "the file is empty",
        "zero.wav": "holds no samples",
        "nan.wav": "holds NaN",
        "junk.m4a": "not decodable audio",
        "cut.flac": "damaged or truncated",
        "cut.wav": "damaged or truncated",
        "mute.mp4": "holds no audio stream",
    }
    files = [tmp_path / name for name in ("short.wav", *bad, "good.wav")]
    code, out, err = command(inference.main, "transcribe", *model, *files)
    assert code == 1
    short, good = out.splitlines()
    assert short == f"{tmp_path / 'short.wav'}\t" and len(words_of(good)) >= 8
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    for line, (name, message) in zip(lines, bad.items(), strict=True):
        assert f"{tmp_path / name}: {message}" in line
    # Listed at the end all the same where nothing is left, or where each has a file of its own.
    code, out, err = command(inference.main, "transcribe", *model, tmp_path / "gone.wav")
    assert (code, out) == (1, "") and err.count("\n") == 1
    flags = ["--format", "json", "--output_dir", tmp_path / "o"]
    code, out, err = command(inference.main, "transcribe", *model, *flags, *files)
    assert code == 1 and out.startswith("2 of 10 recordings")
    empty = json.loads((tmp_path / "o" / "short.json").read_text())
    assert empty["text"] == "" and empty["words"] == [] and empty["duration"] == 0.01


def test_mistakes_end_the_command_before_decoding(model, tmp_path, command, monkeypatch):
    (tmp_path / "none").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "a").mkdir()
    audio = [write(tmp_path / "x.wav"), write(tmp_path / "a" / "x.wav")]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    for arguments, parts in [
        ([], ["give recordings"]),
        ([tmp_path / "none"], ["none: a folder without audio"]),
        (["-", "-"], ["standard input can be read once"]),
        (["--format", "srt", *audio], ["--format srt: 2 recordings", "--output_dir"]),
        (["--format", "vtt", "--channel", "each", audio[0]], ["--format vtt: channels need"]),
        (["--channel", "0", audio[0]], ["--channel 0: must be average, each"]),
        (["--channel", "left", audio[0]], ["--channel left: must be average, each"]),
        (["--output_dir", tmp_path / "o", audio[0], audio[0]], ["named a second time"]),
        (["--output_dir", tmp_path / "file", audio[0]], ["cannot be written"]),
        (["--filelist", tmp_path / "gone.txt"], ["--filelist", "cannot be read"]),
        (["--filelist", tmp_path / "file"], ["names no recording"]),
        (["--filelist", tmp_path / "gone.tsv"], ["gone.tsv: no such file"]),
        (["--window_seconds", 0.1, audio[0]], ["--window_seconds 0.1"]),
        (["--overlap_seconds", 20, audio[0]], ["--overlap_seconds 20"]),
    ]:
        one_line(command(inference.main, "transcribe", *model, *arguments), *parts)
    code, out, err = command(inference.main, "transcribe", *model, "-")
    assert code == 1 and "standard input: the file is empty" in err
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    one_line(command(inference.main, "transcribe", *model, "-"), "-: standard input is a terminal")


@pytest.mark.long
def test_memory_does_not_grow_with_the_length(tmp_path):
    """Three hours in one process take what ten minutes take."""
    transcription.write_model(tmp_path / "mini.pt", "mini")
    peaks = {}
    for minutes in (10, 180):
        transcription.write_noise(tmp_path / "a.flac", minutes)
        flags = ("--checkpoint", tmp_path / "mini.pt", "--cpu", "--output_dir", tmp_path / "o")
        _, _, peaks[minutes] = transcription.time_command(
            "transcribe", "--format", "json", *flags, tmp_path / "a.flac"
        )
    words = json.loads((tmp_path / "o" / "a.json").read_text())
    assert words["duration"] == 180 * 60
    assert peaks[180] < 2560 and peaks[180] < peaks[10] + 300, peaks


FAKE_SECONDS = {"torch": 2.0, "help": 2.5, "empty": 3.0, "short": 4.0, "1_to_20_s": 5.0}


@pytest.fixture
def timed(monkeypatch):
    """The commands that the benchmark would time."""
    commands = []

    def time_process(command):
        commands.append([str(word) for word in command])
        name = next(
            n
            for n in ("empty", "short", "1_to_20_s", "equal", "help", "torch")
            if n in commands[-1][-1]
        )
        seconds = FAKE_SECONDS.get(name, 4.0)
        return seconds, seconds / 2, 100.0

    monkeypatch.setattr(transcription, "time_process", time_process)
    return commands


def test_the_parts_of_a_start(command, tmp_path, timed):
    arguments = ("--start", "--model", "mini", "--rounds", 1, "--output_dir", tmp_path)
    code, out, err = command(transcription.main, *arguments)
    assert code == 0, err
    rows = {line[:34].strip(): line[34:].split()[0] for line in out.splitlines()[2:]}
    assert rows == {
        "import of torch": "2.00",
        "other imports": "0.50",
        "loading the model": "0.50",
        "computing 3 s of audio": "1.00",
        "all, checkpoint in memory": "4.00",
        **({"all, checkpoint read from disk": "4.00"} if hasattr(os, "posix_fadvise") else {}),
    }
    # Of each command two rounds; the parts are differences.
    assert len(timed) == 2 * (len(rows) - 1)
    short = soundfile.info(tmp_path / "short.flac")
    assert short.duration == 3 and soundfile.info(tmp_path / "empty.flac").frames == 1


def test_the_speed_on_files_is_without_the_start(command, tmp_path, timed):
    arguments = ("--files", 3, "--model", "mini", "--rounds", 1, "--output_dir", tmp_path)
    code, out, err = command(transcription.main, *arguments)
    assert code == 0, err
    lengths = [soundfile.info(path).duration for path in (tmp_path / "1_to_20_s").iterdir()]
    equal = [soundfile.info(path).duration for path in (tmp_path / "equal_lengths").iterdir()]
    assert len(lengths) == len(equal) == 3 and sum(lengths) == pytest.approx(sum(equal), abs=1e-3)
    # 5 s and 4 s, less a start of 3 s.
    rows = {line[:16].strip(): line[16:].split() for line in out.splitlines()[2:]}
    assert float(rows["1 to 20 s"][0]) == pytest.approx(sum(lengths) / 2, abs=0.06)
    assert float(rows["equal lengths"][0]) == pytest.approx(sum(lengths), abs=0.06)


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--start", "--files", "2"), "--start, --files"),
        (("--start", "--subset", "x"), "--subset"),
        (("--files", "-1"), "--files"),
        (("--subset", "x"), "--checkpoint, --subset"),
    ],
)
def test_mistakes_of_the_benchmark(command, flags, words):
    code, _, err = command(transcription.main, *flags)
    assert code == 2 and words in err


def test_each_channel_has_a_transcript(transcribe, tmp_path):
    sides = [speech(12, seed)[0] for seed in (3, 4)]
    stereo = np.stack([side[: min(map(len, sides))] for side in sides], axis=1)
    soundfile.write(tmp_path / "call.wav", stereo, SAMPLE_RATE)
    for number in (1, 2):
        soundfile.write(tmp_path / f"{number}.wav", stereo[:, number - 1], SAMPLE_RATE)
    alone = [words_of(transcribe(tmp_path / f"{number}.wav")) for number in (1, 2)]
    assert alone[0] != alone[1]
    call = tmp_path / "call.wav"
    lines = transcribe("--channel", "each", call).splitlines()
    assert [line.split("\t")[0] for line in lines] == [f"{call} (channel {n})" for n in (1, 2)]
    assert [words_of(line) for line in lines] == alone
    assert words_of(transcribe("--channel", 2, call)) == alone[1]
    assert "[2]" not in transcribe("--channel", 2, "--format", "srt", call)
    assert json.loads(transcribe("--channel", 2, "--format", "json", call))["channel"] == 2
    found = transcribe("--channel", "each", "--format", "json", call).splitlines()
    parts = [json.loads(line) for line in found]
    assert [(part["file"], part["channel"]) for part in parts] == [(str(call), 1), (str(call), 2)]
    assert [part["text"].split() for part in parts] == alone
    assert "channel" not in json.loads(transcribe("--format", "json", call))
    for format, begin in (("srt", "[2] "), ("vtt", "<v channel 2>")):
        flags = ["--channel", "each", "--format", format, "--output_dir", tmp_path / "o"]
        out = transcribe(*flags, call, tmp_path / "1.wav")
        assert out.startswith("2 of 2 recordings transcribed")
        names = {path.name for path in (tmp_path / "o").glob(f"*.{format}")}
        assert names == {f"{name}.{format}" for name in ("1.channel1", "call.channel1")} | {
            f"call.channel2.{format}"
        }
        text = (tmp_path / "o" / f"call.channel2.{format}").read_text()
        assert f"\n{begin}{alone[1][0]}" in text and text.count(begin) == text.count(" --> ")


def test_channels_that_cancel_are_not_averaged(model, tmp_path, command):
    audio, reference = speech(12, seed=3)
    for name, other in (("opposite", -audio), ("weaker", -0.7 * audio)):
        soundfile.write(tmp_path / f"{name}.wav", np.stack([audio, other], axis=1), SAMPLE_RATE)
    code, out, err = command(inference.main, "transcribe", *model, tmp_path)
    assert code == 0
    for line, name in zip(out.splitlines(), ("opposite", "weaker"), strict=True):
        assert errors(words_of(line), reference) < 0.3
        assert f"{name}.wav: the average of its 2 channels is far weaker than channel 1" in err
    code, _, err = command(inference.main, "transcribe", *model, "--channel", 3, tmp_path)
    assert code == 1 and "opposite.wav: has no channel 3, its last is 2" in err


def test_linked_folders_pipes_and_names_of_any_bytes(model, transcribe, tmp_path, command):
    folder = tmp_path / "in"
    for place in (folder / "a", tmp_path / "store"):
        place.mkdir(parents=True)
        write(place / "x.wav", seed=1)
    (folder / "b").symlink_to(tmp_path / "store")
    (folder / "b/loop").symlink_to(folder)
    os.mkfifo(folder / "never.wav")
    odd = Path(os.fsdecode(os.fsencode(folder) + b"/m\xfcde.wav"))
    odd.write_bytes((folder / "a/x.wav").read_bytes())
    code, out, err = command(inference.main, "transcribe", *model, folder)
    assert code == 0 and f"{folder / 'b/loop'}: skipped, links to {folder}" in err
    assert f"{folder / 'never.wav'}: skipped, not a file" in err
    names = [line.split("\t")[0] for line in out.splitlines()]
    assert names == [f"{folder}/{name}" for name in ("a/x.wav", "b/x.wav", "m\\xfcde.wav")]
    assert len({line.split("\t")[1] for line in out.splitlines()}) == 1
    (tmp_path / "list.txt").write_bytes(os.fsencode(odd) + b"\nin/a/x.wav\nin/b/x.wav\n")
    flags = ["--filelist", tmp_path / "list.txt", "--output_dir", tmp_path / "o"]
    assert transcribe(*flags).startswith("3 of 3 recordings transcribed")
    written = {path.name for path in (tmp_path / "o").iterdir()}
    assert written == {"a_x.txt", "b_x.txt", "m_xfcde.txt"}
    pipe = tmp_path / "p.wav"
    os.mkfifo(pipe)
    for flags in ([], ["--channel", "each"]):
        content = (folder / "a/x.wav").read_bytes()
        threading.Thread(target=pipe.write_bytes, args=[content], daemon=True).start()
        assert words_of(transcribe(*flags, pipe)) == words_of(out.splitlines()[0])
    code, _, err = command(inference.main, "transcribe", *model, "/dev/zero")
    assert code == 1 and err.endswith(
        "error: /dev/zero: is a device, not a recording; name a file\n"
    )


def test_a_checkpoint_that_is_a_pipe(tmp_path, command):
    os.mkfifo(tmp_path / "model.pt")
    write(tmp_path / "a.wav")
    for path in (tmp_path / "model.pt", "/dev/zero"):
        result = command(
            inference.main, "transcribe", "--cpu", "--checkpoint", path, tmp_path / "a.wav"
        )
        one_line(result, "a pipe or a device")
