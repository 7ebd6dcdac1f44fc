"""The data scripts as a user starts them, from another folder."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from utils.data import make_librilight_subsets
from wav2vec2.files.filelists import read_labels, read_manifest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
FULL = ("train-clean-100", "train-clean-360", "train-other-500")

pytestmark = pytest.mark.integration


def script(name: str, *flags: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment = {**kept, "PYTHON": sys.executable, "no_proxy": "127.0.0.1", **variables}
    return subprocess.run(
        ["bash", str(SCRIPTS / name), *flags],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def one_line_error(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A corpus of one-utterance subsets, in a folder with a blank in its name."""
    folder = tmp_path / "my data" / "LibriSpeech"
    for speaker, subset in enumerate((*FULL, "dev-clean", "train-mini", "dev-mini", "test-mini")):
        place = folder / subset / str(speaker) / "1"
        place.mkdir(parents=True)
        soundfile.write(place / f"{speaker}-1-0000.flac", np.zeros(160), 16_000)
        (place / f"{speaker}-1.trans.txt").write_text(f"{speaker}-1-0000 GO ON\n")
    return folder


def lists(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def three(*subsets: str) -> set[str]:
    return {f"{subset}.{kind}" for subset in subsets for kind in ("tsv", "wrd", "ltr")}


def test_filelists_combine_the_whole_training_set(corpus, tmp_path):
    subsets = " ".join((*FULL, "dev-clean"))
    done = script("generate_filelists.sh", cwd=tmp_path, DATASET_DIR=str(corpus), SUBSETS=subsets)
    assert done.returncode == 0, done.stderr
    assert lists(corpus) == three(*FULL, "dev-clean", "train-full-960") | {"dict.ltr.txt"}
    assert (corpus / "train-full-960.tsv").read_text().splitlines() == [
        str(corpus),
        *(f"{subset}/{n}/1/{n}-1-0000.flac\t160" for n, subset in enumerate(FULL)),
    ]
    assert (corpus / "dict.ltr.txt").read_text() == "O 6\n| 6\nG 3\nN 3\n"


def test_librilight_subsets_are_of_the_combined_list(corpus, tmp_path, command):
    done = script(
        "generate_filelists.sh", cwd=tmp_path, DATASET_DIR=str(corpus), SUBSETS=" ".join(FULL)
    )
    assert done.returncode == 0, done.stderr
    light = tmp_path / "librispeech_finetuning"
    for place in ("1h/0/other/2/1/2-1-0000.flac", "9h/clean/0/1/0-1-0000.flac"):
        (light / place).parent.mkdir(parents=True)
        (light / place).touch()
    code, _, err = command(
        make_librilight_subsets.main, "--librilight_dir", light, "--dataset_dir", corpus
    )
    assert code == 0, err
    for subset, ids in {"train-1h": ["2-1-0000"], "train-10h": ["0-1-0000", "2-1-0000"]}.items():
        manifest = read_manifest(corpus, subset)
        assert [utterance.id for utterance in manifest.utterances] == ids
        assert all(Path(utterance.path).stat().st_size for utterance in manifest.utterances)
        assert set(read_labels(manifest, "ltr").values()) == {"G O | O N |"}


def test_filelists_of_the_mini_corpus(corpus, tmp_path):
    output = tmp_path / "lists"
    done = script(
        "generate_filelists.sh",
        *("--output_dir", str(output)),
        cwd=tmp_path,
        DATASET_DIR=str(corpus),
        SUBSETS="train-mini dev-mini test-mini",
        DICTIONARY_FROM="train-mini",
    )
    assert done.returncode == 0, done.stderr
    assert lists(output) == three("train-mini", "dev-mini", "test-mini") | {"dict.ltr.txt"}
    assert lists(corpus) == set()


@pytest.mark.parametrize("extension", ["flac", "wav"])
def test_variables_of_nvidias_recipe(corpus, tmp_path, extension):
    """FILELISTS_DIR and EXT, as there."""
    output = tmp_path / "my lists"
    if extension == "wav":
        for path in (corpus / "dev-clean").rglob("*.flac"):
            samples, rate = soundfile.read(path)
            soundfile.write(path.with_suffix(".wav"), samples, rate)
            path.unlink()
    variables = {"DATASET_DIR": corpus, "SUBSETS": "dev-clean", "FILELISTS_DIR": output}
    done = script("generate_filelists.sh", cwd=tmp_path, EXT=extension, **variables)
    assert done.returncode == 0, done.stderr
    assert lists(output) == three("dev-clean") and lists(corpus) == set()
    manifest = read_manifest(output, "dev-clean")
    assert {Path(u.path).suffix for u in manifest.utterances} == {f".{extension}"}
    other = {"flac": "wav", "wav": "flac"}[extension]
    done = script("generate_filelists.sh", cwd=tmp_path, EXT=other, **variables)
    assert f"holds no .{other} file" in done.stderr.splitlines()[-1]
    done = script("generate_filelists.sh", cwd=tmp_path, EXT="mp3", **variables)
    assert done.returncode == 2 and "--extension" in done.stderr.splitlines()[-1]


def test_filelists_without_training_subset_have_no_dictionary(corpus, tmp_path):
    variables = {"DATASET_DIR": str(corpus), "SUBSETS": "dev-clean"}
    done = script("generate_filelists.sh", cwd=tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    assert lists(corpus) == three("dev-clean")


@pytest.mark.parametrize(
    ("flags", "variables", "message"),
    [
        ([], {}, "dev-other: no such subset"),  # by default, all of LibriSpeech
        ([], {"SUBSETS": "dev-claen"}, "dev-claen: no such subset"),
        (["stray"], {"SUBSETS": "dev-clean"}, "unexpected argument stray"),
        ([], {"SUBSET": "dev-clean"}, "did you mean SUBSETS?"),
    ],
)
def test_filelist_mistakes(corpus, tmp_path, flags, variables, message):
    done = script(
        "generate_filelists.sh", *flags, cwd=tmp_path, DATASET_DIR=str(corpus), **variables
    )
    assert message in done.stderr.splitlines()[-1]
    assert done.returncode == 2
    assert lists(corpus) == set()


@pytest.mark.parametrize(
    ("flags", "variables", "message"),
    [
        ([], {"SUBSETS": "dev-claen"}, "did you mean dev-clean?"),
        (["--base_url", "http://127.0.0.1:1", "--retries", "0"], {}, "1/dev-clean.tar.gz: not rea"),
        (["--retrys", "0"], {}, "did you mean --retries?"),
    ],
)
def test_download_mistakes(tmp_path, flags, variables, message):
    folder = tmp_path / "LibriSpeech"
    done = script("download_data.sh", *flags, cwd=tmp_path, DATASET_DIR=str(folder), **variables)
    assert message in one_line_error(done)


def test_download_needs_a_folder_named_like_the_archives(tmp_path):
    done = script("download_data.sh", cwd=tmp_path, DATASET_DIR=str(tmp_path / "speech"))
    assert "let DATASET_DIR end in /LibriSpeech" in one_line_error(done)
    assert list(tmp_path.iterdir()) == []
