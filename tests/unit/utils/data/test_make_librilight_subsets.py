"""Libri-light's subsets: chosen by file names, with LibriSpeech's own audio and labels."""

import sys
from pathlib import Path

import pytest

from utils.data import make_librilight_subsets
from wav2vec2.cli.errors import UserError, run_command
from wav2vec2.files.filelists import read_labels, read_manifest, write_manifest
from wav2vec2.files.output import write_lines
from wav2vec2.text.vocabulary import letters

# Utterance ids in the order of train-full-960: part by part, so not sorted.
FULL = ["84-1-0000", "84-1-0001", "19-2-0000", "19-2-0001", "30-3-0000", "7-4-0000"]
LIGHT = [
    "1h/0/clean/19/2/19-2-0001",
    "1h/5/other/30/3/30-3-0000",
    "9h/clean/84/1/84-1-0001",
    "9h/other/7/4/7-4-0000",
]


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.fixture
def light(tmp_path: Path) -> Path:
    folder = tmp_path / "librispeech_finetuning"
    for name in LIGHT:
        touch(folder / f"{name}.flac")
    touch(folder / "1h/0/clean/19/2/19-2.trans.txt")
    return folder


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """Filelists of LibriSpeech; audio is not opened and may be missing."""
    folder = tmp_path / "lists"
    files = [(f"train-clean-100/{key}.flac", 16000 + n) for n, key in enumerate(FULL)]
    files[3] = (f"/elsewhere/{FULL[3]}.flac", 99)
    words = [f"WORD NUMBER {'ABCDEF'[n]}" for n in range(len(FULL))]
    write_manifest(folder, "train-full-960", "/data/LibriSpeech", files)
    write_lines(folder / "train-full-960.wrd", words)
    write_lines(folder / "train-full-960.ltr", map(letters, words))
    write_lines(folder / "dict.ltr.txt", ["| 1"])
    return folder


@pytest.fixture
def run(light, lists, monkeypatch):
    def call(*flags: str) -> None:
        command = ["command", "--librilight_dir", str(light), "--dataset_dir", str(lists), *flags]
        monkeypatch.setattr(sys, "argv", command)
        make_librilight_subsets.main()

    return call


def test_golden_files(run, lists, capsys):
    run()
    assert (lists / "train-1h.tsv").read_text() == (
        "/data/LibriSpeech\n/elsewhere/19-2-0001.flac\t99\ntrain-clean-100/30-3-0000.flac\t16004\n"
    )
    assert (lists / "train-1h.wrd").read_text() == "WORD NUMBER D\nWORD NUMBER E\n"
    assert (lists / "train-1h.ltr").read_text().splitlines()[0] == letters("WORD NUMBER D")
    out = capsys.readouterr().out
    assert "train-1h.tsv: 2 utterances" in out
    assert out.endswith(f"next: DATASET_DIR={lists} bash scripts/finetune_base_10h.sh\n")
    assert (lists / "dict.ltr.txt").read_text() == "| 1\n"


def test_subsets_keep_order_and_lines(run, lists):
    run()
    full = read_manifest(lists, "train-full-960")
    for subset, wanted in {
        "train-1h": ["19-2-0001", "30-3-0000"],
        "train-10h": ["84-1-0001", "19-2-0001", "30-3-0000", "7-4-0000"],
    }.items():
        manifest = read_manifest(lists, subset)
        assert [u.id for u in manifest.utterances] == wanted
        by_id = {u.id: (u.path, u.samples) for u in full.utterances}
        assert all((u.path, u.samples) == by_id[u.id] for u in manifest.utterances)
        for kind in ("wrd", "ltr"):
            labels, all_labels = read_labels(manifest, kind), read_labels(full, kind)
            assert labels == {key: all_labels[key] for key in wanted}


def test_other_labels_on_request(run, lists):
    write_lines(lists / "train-full-960.spm", (f"▁{key}" for key in FULL))
    run("--labels", "wrd", "spm")
    assert (lists / "train-1h.spm").read_text() == "▁19-2-0001\n▁30-3-0000\n"
    assert not (lists / "train-1h.ltr").exists()


def test_every_unmatched_file_is_named(run, light, lists, capsys):
    strangers = [touch(light / f"9h/other/8/8/8-8-000{n}.flac") for n in range(5)]
    before = sorted(lists.iterdir())
    with pytest.raises(SystemExit) as stop:
        run_command(run)
    assert stop.value.code == 2
    *listed, error = capsys.readouterr().err.splitlines()
    assert [line.rpartition(": ")[2] for line in listed] == list(map(str, strangers))
    assert error.startswith("error: ") and "lacks 5 of 9 Libri-light utterances" in error
    assert "(8-8-0000, 8-8-0001, 8-8-0002, ...)" in error
    assert sorted(lists.iterdir()) == before


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda light, lists: (light / "9h").rename(light / "90h"), r"9h: holds no \.flac"),
        (lambda light, lists: (lists / "train-full-960.tsv").unlink(), r"960\.tsv: no such file"),
        (lambda light, lists: (lists / "train-full-960.wrd").unlink(), r"960\.wrd: no such file"),
        (
            lambda light, lists: touch(light / "9h/clean/19/2/19-2-0001.flac"),
            "'19-2-0001' is also that of .*1h/0",
        ),
    ],
)
def test_mistakes_write_nothing(run, light, lists, spoil, message):
    spoil(light, lists)
    with pytest.raises(UserError, match=message):
        run()
    assert not list(lists.glob("train-1*"))
