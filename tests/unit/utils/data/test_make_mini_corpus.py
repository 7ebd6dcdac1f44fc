import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from utils.data import make_mini_corpus
from utils.data.make_mini_corpus import (
    DEV_VOICES,
    TEST_VOICES,
    TRAIN_VOICES,
    WORDS,
    CorpusOptions,
    Speaker,
    draw_phrase,
    held_out_phrases,
    main,
    plan_speakers,
    write_speaker,
)
from wav2vec2.cli.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[4]
SUBSETS = ("train-mini", "dev-mini", "test-mini")
SMALL = ("--minutes", "0.2", "--dev_utterances", "4", "--test_utterances", "8")

needs_synthesiser = pytest.mark.skipif(
    importlib.util.find_spec("espeakng_loader") is None, reason="espeakng-loader is not installed"
)


def command(folder, **environment):
    """The command as a user starts it, with two workers."""
    arguments = [sys.executable, "-m", "utils.data.make_mini_corpus", "--output_dir", str(folder)]
    return subprocess.run(
        [*arguments, *SMALL, "--workers", "2"],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def build(monkeypatch):
    """The command in this process, which starts faster."""

    def run(folder, *flags):
        argv = ["make_mini_corpus", "--output_dir", str(folder), *SMALL, *flags]
        monkeypatch.setattr(sys, "argv", argv)
        main()

    return run


@pytest.fixture
def refused(build):
    """The message of a build that must fail before anything is spoken."""

    def run(folder, *flags):
        with pytest.raises(UserError) as error:
            build(folder, *flags)
        return str(error.value)

    return run


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def transcripts(folder, subset):
    """Utterance id -> words."""
    lines = [
        line
        for path in sorted((folder / subset).glob("*/*/*.trans.txt"))
        for line in path.read_text().splitlines()
    ]
    return {line.split()[0]: line.split()[1:] for line in lines}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus") / "my data" / "mini"
    done = command(folder)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


@needs_synthesiser
def test_bytes_do_not_depend_on_the_workers(corpus, build, tmp_path):
    build(tmp_path / "again", "--workers", "1")
    assert contents(tmp_path / "again") == contents(corpus)
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


@needs_synthesiser
@pytest.mark.parametrize("voice", ["en-us+m1", "en+f3", "en+Reed", "en+edward"])
def test_a_speaker_does_not_depend_on_earlier_speakers(voice, tmp_path):
    """Breathy voices (f3, Reed) draw noise from a generator that the process shares."""
    speaker = Speaker("train-mini", 1, voice, seconds=0, utterances=3, seed=1)
    write_speaker(speaker, tmp_path / "first")
    other = Speaker("train-mini", 2, "en+f3", seconds=0, utterances=2, seed=1)
    write_speaker(other, tmp_path / "between")
    write_speaker(speaker, tmp_path / "second")
    assert contents(tmp_path / "first") == contents(tmp_path / "second")


@pytest.mark.parametrize(("dev", "test", "seed"), [(100, 240, 1), (4, 400, 2), (200, 8, 3)])
def test_train_has_no_phrase_of_dev_and_test(dev, test, seed):
    """Two words of 34 would repeat by chance."""
    options = CorpusOptions("x", dev_utterances=dev, test_utterances=test, seed=seed)
    speakers = plan_speakers(options)
    held_out = held_out_phrases(speakers)
    assert len(held_out) > 0.8 * (dev + test)
    train = [speaker for speaker in speakers if speaker.subset == "train-mini"]
    free, kept = (
        {draw_phrase(s, n, refused).phrase for s in train for n in range(60)}
        for refused in (frozenset(), held_out)
    )
    assert free & held_out
    assert not kept & held_out
    assert free - held_out <= kept  # all other utterances are as they were


@needs_synthesiser
def test_a_built_corpus_keeps_to_it(tmp_path):
    """A train speaker asked for what it would have said says something else."""
    speaker = Speaker("train-mini", 1001, "en-us+m1", seconds=0, utterances=3, seed=1)
    usual = {draw_phrase(speaker, n).phrase for n in range(3)}
    write_speaker(speaker, tmp_path / "own", usual)
    spoken = {" ".join(words) for words in transcripts(tmp_path / "own", "train-mini").values()}
    assert len(spoken) == 3 and not spoken & usual
    held_out = Speaker("test-mini", 1001, "en-us+m1", seconds=0, utterances=3, seed=1)
    write_speaker(held_out, tmp_path / "test", usual)
    assert {" ".join(w) for w in transcripts(tmp_path / "test", "test-mini").values()} == usual


@needs_synthesiser
def test_another_seed_gives_other_phrases(corpus, tmp_path):
    speaker = plan_speakers(CorpusOptions("x", minutes=0.2, seed=2))[0]
    write_speaker(speaker, tmp_path)
    spoken = transcripts(tmp_path, "train-mini")
    first = transcripts(corpus, "train-mini")
    assert spoken != {key: words for key, words in first.items() if key in spoken}


@needs_synthesiser
@pytest.mark.parametrize("subset", SUBSETS)
def test_layout_and_audio(corpus, subset):
    spoken = transcripts(corpus, subset)
    files = {path.stem: path for path in (corpus / subset).glob("*/*/*.flac")}
    assert set(files) == set(spoken)
    for key, path in files.items():
        speaker, chapter, _ = key.split("-")
        assert path.parent == corpus / subset / speaker / chapter
        assert 2 <= len(spoken[key]) <= 6
        assert set(spoken[key]) <= set(WORDS)
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
        audio, _ = soundfile.read(path)
        assert 0.12 < info.duration / len(spoken[key]) < 1.0
        assert 0.29 < np.abs(audio).max() < 0.91  # never clipped
        assert 0.02 < np.sqrt(np.mean(audio**2)) < 0.3


@needs_synthesiser
def test_summary(corpus):
    facts = json.loads((corpus / "corpus.json").read_text())["subsets"]
    for subset in SUBSETS:
        spoken = transcripts(corpus, subset)
        assert facts[subset]["utterances"] == len(spoken)
        assert facts[subset]["voices"] == len({key.split("-")[0] for key in spoken})
        assert facts[subset]["words"] == len({word for words in spoken.values() for word in words})
        seconds = sum(soundfile.info(f).duration for f in (corpus / subset).glob("*/*/*.flac"))
        assert facts[subset]["minutes"] == pytest.approx(seconds / 60, abs=0.006)
    assert facts["train-mini"]["minutes"] >= 0.2
    assert facts["dev-mini"]["utterances"] == 4
    assert facts["test-mini"]["utterances"] == 8


def test_voices_are_of_one_subset_each():
    variants = [v.split("+")[1] for v in (*TRAIN_VOICES, *DEV_VOICES, *TEST_VOICES)]
    assert len(variants) == len(set(variants))
    assert len(TRAIN_VOICES) >= 15
    assert len(TEST_VOICES) >= 5
    speakers = plan_speakers(CorpusOptions("x"))
    assert len({speaker.number for speaker in speakers}) == len(speakers) == len(variants)


def test_words():
    assert len(set(WORDS)) == len(WORDS) >= 30
    assert all(word.isalpha() and word.isupper() for word in WORDS)


@needs_synthesiser
def test_an_equal_corpus_is_reused(corpus, build, capsys):
    before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    build(corpus)
    assert capsys.readouterr().out == f"{corpus}: the mini corpus exists already\n"
    assert {path: path.stat().st_mtime_ns for path in corpus.rglob("*")} == before


@needs_synthesiser
def test_other_settings_are_refused(corpus, refused, monkeypatch):
    before = contents(corpus)
    message = refused(corpus, "--seed", "2")
    assert str(corpus) in message
    assert "other settings (seed 1); choose another folder or remove it" in message
    monkeypatch.setattr(make_mini_corpus, "WORDS", ["OTHER", "WORDS"])
    assert "other settings (words_and_voices " in refused(corpus)
    assert contents(corpus) == before


@pytest.mark.parametrize("content", [None, "", "[]", '{"settings": []}', "{}"])
def test_a_folder_of_other_things_is_refused(content, tmp_path, refused):
    (tmp_path / "thesis.txt").write_text("mine")
    if content is not None:
        (tmp_path / "corpus.json").write_text(content)
    before = contents(tmp_path)
    assert f"{tmp_path}: exists and holds no mini corpus" in refused(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--minutes", "0"), "--minutes 0.0: must be positive"),
        (("--minutes", "inf"), "--minutes: expected a finite number, got 'inf'"),
        (("--test_utterances", "2"), "--test_utterances 2: must be at least"),
        (("--dev_utterances", "-1"), "--dev_utterances -1: must be at least"),
        (("--workers", "0"), "--workers 0: must be at least 1"),
    ],
)
def test_mistaken_flags(flags, message, tmp_path, refused):
    assert message in refused(tmp_path / "mini", *flags)
    assert not list(tmp_path.iterdir())


def test_missing_synthesiser(tmp_path, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    assert "pip install espeakng-loader" in refused(tmp_path / "mini")
    assert not list(tmp_path.iterdir())


@needs_synthesiser
def test_a_synthesiser_that_cannot_start_ends_the_build(tmp_path):
    """espeak-ng would end the worker that starts it, and the build would wait for ever."""
    import espeakng_loader

    package = tmp_path / "site"
    package.mkdir()
    (package / "espeakng_loader.py").write_text(
        f"get_library_path = lambda: {espeakng_loader.get_library_path()!r}\n"
        f"get_data_path = lambda: {str(tmp_path / 'missing')!r}\n"
    )
    done = command(tmp_path / "mini", PYTHONPATH=str(package), HOME=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path}/missing: espeak-ng cannot")
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


@needs_synthesiser
def test_a_place_that_cannot_be_written(tmp_path, refused):
    (tmp_path / "file").write_text("")
    assert f"{tmp_path}/file/mini: cannot be written" in refused(tmp_path / "file" / "mini")
