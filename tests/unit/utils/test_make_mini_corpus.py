import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from common.errors import UserError
from utils import make_mini_corpus as corpus

pytest.importorskip("espeakng_loader", reason="the synthesiser espeakng-loader is not installed")

ROOT = Path(__file__).resolve().parents[3]
SMALL = ["--minutes", "1.5", "--dev_utterances", "4", "--test_utterances", "10"]


def build(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "utils.make_mini_corpus", "--output_dir", str(folder), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def fingerprint(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mini") / "corpus"
    result = build(folder, *SMALL, "--workers", "2")
    assert result.returncode == 0, result.stderr
    return folder


def test_the_same_whatever_the_workers(built, tmp_path):
    assert build(tmp_path / "again", *SMALL, "--workers", "1").returncode == 0
    assert fingerprint(built) == fingerprint(tmp_path / "again")


def test_another_seed_says_other_things(built, tmp_path):
    assert build(tmp_path / "other", *SMALL, "--seed", "2").returncode == 0
    name = "test-mini/3001/1/3001-1.trans.txt"
    assert (built / name).read_text() != (tmp_path / "other" / name).read_text()


def test_layout_and_transcripts(built):
    facts = json.loads((built / "corpus.json").read_text())["subsets"]
    for subset in ("train-mini", "dev-mini", "test-mini"):
        said = {}
        for path in (built / subset).rglob("*.trans.txt"):
            speaker, chapter = path.parent.parent.name, path.parent.name
            for line in path.read_text().splitlines():
                key, _, words = line.partition(" ")
                assert key.startswith(f"{speaker}-{chapter}-")
                said[key] = words.split()
        files = {path.stem: path for path in (built / subset).rglob("*.flac")}
        assert files.keys() == said.keys()
        assert len(files) == facts[subset]["utterances"]
        for words in said.values():
            assert 2 <= len(words) <= 6 and set(words) <= set(corpus.WORDS)
    assert facts["train-mini"]["minutes"] == pytest.approx(1.5, rel=0.7)
    assert (facts["dev-mini"]["utterances"], facts["test-mini"]["utterances"]) == (4, 10)


def test_audio_is_speech_sized_and_unclipped(built):
    for path in list(built.rglob("*.flac"))[::5]:
        audio, rate = soundfile.read(path)
        assert rate == 16_000 and audio.ndim == 1
        assert 0.3 < len(audio) / rate < 6
        assert 0.2 < np.abs(audio).max() <= 0.92
        assert 0.02 < audio.std() < 0.4
        assert (np.abs(audio) > 0.999 * np.abs(audio).max()).mean() < 0.01


def test_voices_of_dev_and_test_are_never_trained_on():
    variants = {
        name: {voice.split("+")[1] for voice in voices}
        for name, voices in (
            ("train", corpus.TRAIN_VOICES),
            ("dev", corpus.DEV_VOICES),
            ("test", corpus.TEST_VOICES),
        )
    }
    assert not variants["train"] & (variants["dev"] | variants["test"])
    assert not variants["dev"] & variants["test"]
    assert [len(v) for v in variants.values()] == [52, 4, 8]
    assert len(set(corpus.WORDS)) == len(corpus.WORDS) == 34


def test_an_equal_corpus_is_reused_and_another_is_not_written_over(built):
    before = fingerprint(built)
    result = build(built, *SMALL)
    assert result.returncode == 0 and "there already" in result.stdout
    result = build(built, *SMALL, "--seed", "7")
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: --output_dir {built}: holds a mini corpus made with")
    assert "seed 1" in result.stderr and result.stderr.count("\n") == 1
    assert fingerprint(built) == before


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    result = build(tmp_path, *SMALL)
    assert result.returncode == 2 and "holds no mini corpus" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_interrupted_build_is_not_taken_for_a_corpus(tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(corpus, "synthesise", interrupted)
    monkeypatch.setattr(sys, "argv", ["x", "--output_dir", str(tmp_path / "c"), *SMALL])
    with pytest.raises(KeyboardInterrupt):
        corpus.main()
    assert not (tmp_path / "c").exists()
    monkeypatch.undo()
    assert build(tmp_path / "c", *SMALL).returncode == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"minutes": 0.0}, "--minutes"),
        ({"dev_utterances": 3}, "--dev_utterances 3: must be at least 4"),
        ({"test_utterances": 2}, "--test_utterances 2"),
    ],
)
def test_bad_settings(values, message):
    with pytest.raises(UserError, match=message):
        corpus.CorpusOptions(output_dir="x", **values)


def test_without_the_synthesiser(tmp_path):
    code = (
        "import sys; sys.modules['espeakng_loader'] = None; sys.argv[1:] = "
        f"['--output_dir', {str(tmp_path / 'c')!r}]\n"
        "from common.errors import run_command; from utils.make_mini_corpus import main; "
        "run_command(main)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and "pip install espeakng-loader" in result.stderr
