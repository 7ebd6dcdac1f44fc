"""Filelists of a corpus in LibriSpeech's layout."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from utils.data import make_filelists
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import UserError, run_command
from wav2vec2.files.filelists import read_labels, read_manifest
from wav2vec2.text.vocabulary import Vocabulary


def speak(path: Path, samples: int, rate: int = SAMPLE_RATE, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (samples, channels) if channels > 1 else (samples,)
    soundfile.write(path, np.full(shape, 0.1, np.float32), rate)


def add_chapter(folder: Path, speaker: int, chapter: int, words: list[str]) -> None:
    """One chapter whose utterance n is 100 + n samples long."""
    place = folder / str(speaker) / str(chapter)
    for number in range(len(words)):
        speak(place / f"{speaker}-{chapter}-{number:04d}.flac", 100 + number)
    lines = [f"{speaker}-{chapter}-{number:04d} {text}\n" for number, text in enumerate(words)]
    (place / f"{speaker}-{chapter}.trans.txt").write_text("".join(reversed(lines)))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    add_chapter(folder / "train-a", 84, 7, ["GO ON", "IT'S"])
    add_chapter(folder / "train-a", 19, 1, ["NO"])
    add_chapter(folder / "train-b", 20, 1, ["SO SO"])
    add_chapter(folder / "dev", 30, 1, ["GO"])
    return folder


@pytest.fixture
def run(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run the command on the test's corpus; its filelists go to `tmp_path / "lists"`."""

    def call(*flags: str, subsets: str = "train-a") -> None:
        command = ["make_filelists", "--corpus_dir", str(corpus), "--subsets", *subsets.split()]
        command += ["--output_dir", str(tmp_path / "lists"), *flags]
        monkeypatch.setattr(sys, "argv", command)
        make_filelists.main()

    return call


def written(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_golden_files(run, corpus, tmp_path):
    run("--dictionary_from", "train-a", subsets="train-a dev")
    assert written(tmp_path / "lists") == {
        "train-a.tsv": f"{corpus}/train-a\n19/1/19-1-0000.flac\t100\n"
        "84/7/84-7-0000.flac\t100\n84/7/84-7-0001.flac\t101\n",
        "train-a.wrd": "NO\nGO ON\nIT'S\n",
        "train-a.ltr": "N O |\nG O | O N |\nI T ' S |\n",
        "dev.tsv": f"{corpus}/dev\n30/1/30-1-0000.flac\t100\n",
        "dev.wrd": "GO\n",
        "dev.ltr": "G O |\n",
        "dict.ltr.txt": "| 4\nO 3\nN 2\n' 1\nG 1\nI 1\nS 1\nT 1\n",
    }


def test_what_is_written_reads_back(run, corpus, tmp_path):
    run("--dictionary_from", "train-a")
    manifest = read_manifest(tmp_path / "lists", "train-a")
    assert [u.samples for u in manifest.utterances] == [100, 100, 101]
    assert all(Path(u.path).is_file() for u in manifest.utterances)
    labels = read_labels(manifest, "ltr")
    assert labels["84-7-0001"] == "I T ' S |"
    vocabulary = Vocabulary.from_file(tmp_path / "lists" / "dict.ltr.txt")
    assert not any(vocabulary.unknown(line) for line in labels.values())


def test_combined_list_has_the_corpus_as_root(run, corpus, tmp_path):
    run("--combine", "full=train-b,train-a", "--dictionary_from", "full", subsets="train-a train-b")
    files = written(tmp_path / "lists")
    assert files["full.tsv"].splitlines() == [
        str(corpus),
        "train-b/20/1/20-1-0000.flac\t100",
        "train-a/19/1/19-1-0000.flac\t100",
        "train-a/84/7/84-7-0000.flac\t100",
        "train-a/84/7/84-7-0001.flac\t101",
    ]
    assert files["full.wrd"] == "SO SO\nNO\nGO ON\nIT'S\n"
    assert files["dict.ltr.txt"].startswith("| 6\nO 5\n")
    manifest = read_manifest(tmp_path / "lists", "full")
    assert all(Path(u.path).is_file() for u in manifest.utterances)


def test_without_output_dir_they_lie_in_the_corpus(corpus, monkeypatch):
    monkeypatch.chdir(corpus.parent)
    command = ["make_filelists", "--corpus_dir", "corpus", "--subsets", "dev"]
    monkeypatch.setattr(sys, "argv", command)
    make_filelists.main()
    # Absolute, so that the list means the same wherever training starts.
    assert (corpus / "dev.tsv").read_text().splitlines()[0] == str(corpus / "dev")


def test_folders_with_spaces(corpus, tmp_path, monkeypatch):
    (corpus / "train-a").rename(corpus / "my train")
    command = ["make_filelists", "--corpus_dir", str(corpus), "--subsets", "my train"]
    monkeypatch.setattr(sys, "argv", [*command, "--combine", "all=my train"])
    make_filelists.main()
    for subset in ("my train", "all"):
        manifest = read_manifest(corpus, subset)
        assert all(Path(u.path).is_file() for u in manifest.utterances)


def transcript(corpus: Path) -> Path:
    return corpus / "train-b/20/1/20-1.trans.txt"


def audio(corpus: Path) -> Path:
    return corpus / "train-b/20/1/20-1-0000.flac"


def streamed(path: Path) -> None:
    """Take the length out of a FLAC's header, as an encoder does that writes to a pipe."""
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # 36 bits: the low half of byte 21, and the next four
    content[22:26] = bytes(4)
    path.write_bytes(content)


FAULTS = {
    "no transcript at all": (
        lambda c: transcript(c).unlink(),
        r"20-1-0000\.flac: no transcript; 1 of 1 files .*'84-121123-0000 GO DO YOU HEAR'",
    ),
    "one line is missing": (
        lambda c: [speak(audio(c).with_name(f"20-1-000{n}.flac"), 9) for n in range(1, 6)],
        r"20-1-0001\.flac: no transcript; 5 of 6 files .*"
        r"\(20-1-0001, 20-1-0002, 20-1-0003, \.\.\.\)",
    ),
    "audio is missing": (
        lambda c: transcript(c).write_text("20-1-0000 SO\n20-1-0001 NO\n20-1-0002 NO\n"),
        r"20-1\.trans\.txt:2: no audio file of this id; 2 of 3 .*\(20-1-0001, 20-1-0002\)",
    ),
    "id without words": (
        lambda c: transcript(c).write_text("\n20-1-0000 \n"),
        r"20-1\.trans\.txt:2: expected '<utterance-id> TRANSCRIPT' like '84-.*got '20-1-0000 '",
    ),
    "words without id": (
        lambda c: transcript(c).write_text(" SO SO\n"),
        r"20-1\.trans\.txt:1: expected",
    ),
    "tab": (
        lambda c: transcript(c).write_text("20-1-0000 SO\tSO\n"),
        r"20-1\.trans\.txt:1: expected .*without tab",
    ),
    "word mark in a word": (
        lambda c: transcript(c).write_text("20-1-0000 SO|SO\n"),
        r"20-1\.trans\.txt:1: expected .*without .* '\|'",
    ),
    "symbol of the model": (
        lambda c: transcript(c).write_text("20-1-0000 SO </s>\n"),
        r"20-1\.trans\.txt:1: '</s>' \(utterance 20-1-0000\) is one of the model's own symbols",
    ),
    "not UTF-8": (
        lambda c: transcript(c).write_bytes(b"20-1-0000 \xff\n"),
        r"20-1\.trans\.txt: cannot be read as UTF-8",
    ),
    "id twice in transcripts": (
        lambda c: transcript(c).write_text("20-1-0000 SO\n20-1-0000 NO\n"),
        r"20-1\.trans\.txt:2: utterance id '20-1-0000' is also in .*20-1\.trans\.txt:1",
    ),
    "id twice among audio": (
        lambda c: speak(c / "train-b/20/2/20-1-0000.flac", 9),
        r"20/2/20-1-0000\.flac: utterance id '20-1-0000' is also that of .*20/1/20-1-0000\.flac",
    ),
    "empty file": (
        lambda c: audio(c).write_bytes(b""),
        r"20-1-0000\.flac: the file is empty; download",
    ),
    "garbage": (
        lambda c: audio(c).write_bytes(b"garbage" * 99),
        r"20-1-0000\.flac: not decodable audio",
    ),
    "no length in the header": (
        lambda c: streamed(audio(c)),
        r"20-1-0000\.flac: its header gives no number of samples",
    ),
    "8 kHz": (
        lambda c: speak(audio(c), 9, rate=8000),
        r"20-1-0000\.flac: 8000 Hz, 1 channels; needs 16000 Hz mono: convert",
    ),
    "stereo": (
        lambda c: speak(audio(c), 9, channels=2),
        r"20-1-0000\.flac: 16000 Hz, 2 channels; needs 16000 Hz mono",
    ),
    "no audio at all": (
        lambda c: audio(c).unlink(),
        r"train-b: holds no \.flac file; run scripts",
    ),
}


@pytest.mark.parametrize(("damage", "message"), FAULTS.values(), ids=FAULTS)
def test_bad_corpus_writes_nothing_over(run, corpus, tmp_path, damage, message):
    run(subsets="train-a")
    before = written(tmp_path / "lists")
    (corpus / "train-a/84/7/84-7-0001.flac").unlink()
    (corpus / "train-a/84/7/84-7.trans.txt").write_text("84-7-0000 GO\n")
    damage(corpus)
    with pytest.raises(UserError, match=message):
        run("--dictionary_from", "train-a", subsets="train-a train-b")  # train-a comes first
    assert written(tmp_path / "lists") == before


def test_one_id_in_two_parts_of_a_combined_list(run, corpus, tmp_path):
    add_chapter(corpus / "train-b", 84, 7, ["GO"])
    with pytest.raises(UserError, match=r"train-b/.*'84-7-0000' is also that of train-a/"):
        run("--combine", "full=train-a,train-b", subsets="train-a train-b")
    assert not (tmp_path / "lists").exists()


def test_missing_subset_says_what_there_is(run):
    with pytest.raises(UserError, match="train-c: no such subset; .* holds dev, train-a, train-b"):
        run(subsets="train-a train-c")


def test_output_folder_that_cannot_be_written(run, tmp_path, monkeypatch):
    (tmp_path / "lists").touch()

    def never(*args) -> None:
        raise AssertionError("audio was read although nothing can be written")

    monkeypatch.setattr(make_filelists, "read_subset", never)
    with pytest.raises(UserError, match="--output_dir .*not a folder that can be written"):
        run()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--combine full", "--combine full: write it like"),
        ("--combine full=", "--combine full=: write it like"),
        ("--combine full=train-a,train-b", "train-b is not among --subsets"),
        ("--combine train-a=train-a", "train-a: named 2 times"),
        ("--subsets dev dev", "dev: named 2 times"),
        ("--subsets", "--subsets: names none"),
        ("--dictionary_from dev", "--dictionary_from dev: not among train-a"),
        ("--corpus_dir /nowhere", "--corpus_dir /nowhere: no such folder"),
        ("--dictionary train-a", "did you mean --dictionary_from?"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(corpus, monkeypatch, capsys, flags, message):
    command = ["make_filelists", "--corpus_dir", str(corpus), "--subsets", "train-a"]
    monkeypatch.setattr(sys, "argv", [*command, *flags.split()])
    with pytest.raises(SystemExit) as leaving:
        run_command(make_filelists.main)
    assert leaving.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert list(corpus.glob("*.tsv")) == []


def test_linked_folders_are_listed_once(run, corpus, tmp_path):
    add_chapter(tmp_path / "store", 21, 1, ["YES", "NO"])
    add_chapter(tmp_path / "store", 22, 1, ["SO"])
    for speaker in ("21", "22"):
        (corpus / "train-a" / speaker).symlink_to(tmp_path / "store" / speaker)
    (corpus / "train-a/84/up").symlink_to(corpus / "train-a")
    run()
    manifest = read_manifest(tmp_path / "lists", "train-a")
    speakers = [u.id.split("-")[0] for u in manifest.utterances]
    assert speakers == ["19", "21", "21", "22", "84", "84"]
    assert read_labels(manifest, "wrd")["22-1-0000"] == "SO"


def test_pipes_among_the_files_are_refused(run, corpus):
    os.mkfifo(corpus / "train-a/84/7/84-7-0009.trans.txt")
    with pytest.raises(UserError, match=r"0009\.trans\.txt: is a pipe or a device"):
        run()
