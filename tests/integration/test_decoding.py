"""Beam search, tuning, its benchmark and alignment as commands, on a model of random weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

import inference
from tests.integration.conftest import WORDS
from tests.integration.test_bad_input import one_line
from tests.unit.wav2vec2.decoding.arpa import bigrams, write_arpa
from utils.benchmarks import decoder
from utils.checkpoints import tune_decoder
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.files.filelists import read_manifest, write_manifest
from wav2vec2.text.vocabulary import letters


@pytest.fixture(scope="module")
def model(random_recogniser):
    """Flags of a checkpoint of random weights, and of the corpus."""
    return ["--checkpoint", random_recogniser, "--cpu"]


@pytest.fixture
def subset(corpus):
    return ["--dataset_dir", corpus, "--subset", "dev", "--num_workers", "0"]


@pytest.fixture
def search(tmp_path):
    """Flags of lexicon and language model."""
    reason = "pip install -r requirements-decode.txt"
    pytest.importorskip("flashlight.lib.text.decoder.kenlm", reason=reason, exc_type=ImportError)
    lm = write_arpa(tmp_path / "lm.arpa", bigrams(WORDS, [("CAT", "DOE"), ("AN", "BE")]))
    (tmp_path / "lexicon.txt").write_text("\n".join(WORDS) + "\n")
    return ["--lm", lm, "--lexicon", tmp_path / "lexicon.txt"]


def hypotheses(folder):
    lines = (folder / "hypotheses_dev.jsonl").read_text().splitlines()
    return {entry["id"]: entry["hypothesis"] for entry in map(json.loads, lines)}


def test_evaluate_and_transcribe(model, subset, corpus, search, tmp_path, command):
    beam = ["--decoder", "beam", *search, "--word_score", "1"]
    for size in ("1", "3"):
        code, _, error = command(
            inference.main,
            *["evaluate", *model, *subset, *beam, "--batch_size", size],
            *["--output_dir", tmp_path / size],
        )
        assert code == 0, error
    transcripts = hypotheses(tmp_path / "1")
    assert transcripts == hypotheses(tmp_path / "3")
    assert {word for line in transcripts.values() for word in line.split()} <= set(WORDS)
    summary = json.loads((tmp_path / "1" / "summary_dev.json").read_text())
    assert summary["decoding"]["decoder"] == "beam" and summary["decoding"]["word_score"] == 1.0
    utterance = read_manifest(corpus, "dev").utterances[0]
    code, out, _ = command(inference.main, "transcribe", *model, *beam, utterance.path)
    assert (code, out) == (0, f"{utterance.path}\t{transcripts[utterance.id]}\n")


def test_mistakes_are_one_line_errors(model, subset, search, tmp_path, command):
    one_line(
        command(inference.main, "evaluate", *model, *subset, "--lm", "x.arpa"), "--decoder beam"
    )
    (tmp_path / "lm.arpa").write_text("not a model")
    beam = ["--decoder", "beam", *search]
    one_line(command(inference.main, "evaluate", *model, *subset, *beam), "lm.arpa")


def test_tuning_prints_flags_that_work(model, subset, search, tmp_path, command):
    code, out, error = command(
        tune_decoder.main,
        *[*model, *subset, *search, "--lm_weights", "0.5", "1", "--word_scores", "0", "2"],
    )
    assert code == 0, error
    *table, best = out.splitlines()
    assert len([line for line in table if line[:9].strip() in ("0.50", "1.00")]) == 4
    chosen = best.removeprefix("best: ").split()
    output = ["--output_dir", tmp_path]
    assert command(inference.main, "evaluate", *model, *subset, *chosen, *output)[0] == 0


def test_tuning_counts_what_evaluate_counts(model, corpus, search, tmp_path, command):
    """The words of an utterance too short for a frame are errors to both."""
    files = [(u.path, u.samples) for u in read_manifest(corpus, "dev").utterances]
    soundfile.write(tmp_path / "short.wav", np.zeros(300), SAMPLE_RATE)
    write_manifest(tmp_path, "dev", "/", [*files, (str(tmp_path / "short.wav"), 300)])
    labels = (corpus / "dev.ltr").read_text() + letters(" ".join(WORDS)) + "\n"
    (tmp_path / "dev.ltr").write_text(labels)
    own = ["--dataset_dir", tmp_path, "--subset", "dev", "--num_workers", "0", *search]
    code, out, error = command(
        tune_decoder.main, *model, *own, "--lm_weights", "1", "--word_scores", "0"
    )
    assert code == 0, error
    tuned = out.splitlines()[1].split()[2:4]
    evaluated = ["--decoder", "beam", "--lm_weight", "1", "--output_dir", tmp_path / "out"]
    assert command(inference.main, "evaluate", *model, *own, *evaluated)[0] == 0
    summary = json.loads((tmp_path / "out" / "summary_dev.json").read_text())
    assert tuned == [f"{summary[rate]:.2f}" for rate in ("wer", "uer")]
    (tmp_path / "dev.ltr").write_text("A |\n")
    write_manifest(tmp_path, "dev", "/", [(str(tmp_path / "short.wav"), 300)])
    one_line(command(tune_decoder.main, *model, *own), "no utterance is as long as a frame")


def test_benchmark(model, subset, search, tmp_path, command):
    code, out, error = command(
        decoder.main,
        *[*model, *subset, "--words", "50", "--sentences", "20", "--output_dir", tmp_path],
    )
    assert code == 0, error
    assert "50 words" in out and "x real time" in out


def test_alignment_of_a_subset(model, subset, corpus, tmp_path, command):
    code, out, error = command(
        inference.main, "align", *model, *subset, "--output_dir", tmp_path / "all"
    )
    assert code == 0, error
    transcripts = (corpus / "dev.wrd").read_text().splitlines()
    for utterance, words in zip(read_manifest(corpus, "dev").utterances, transcripts):
        found = json.loads((tmp_path / "all" / f"{utterance.id}.json").read_text())
        assert found["duration"] == utterance.samples / 16000
        assert [word["text"] for word in found["words"]] == words.split()
        assert [unit["text"] for unit in found["characters"]] == list(words.replace(" ", ""))
        bounds = [time for unit in found["characters"] for time in (unit["start"], unit["end"])]
        assert bounds == sorted(bounds) and bounds[-1] <= found["duration"]
        assert all(0 <= word["score"] <= 1 for word in found["words"])
        assert (tmp_path / "all" / f"{utterance.id}.TextGrid").read_text().count("item [") == 3


def test_alignment_of_a_file(model, corpus, tmp_path, command):
    path = read_manifest(corpus, "dev").utterances[0].path
    one = ["align", *model, "--output_dir", tmp_path, path]
    code, out, error = command(inference.main, *one, "--text", "CAT DOE")
    assert code == 0, error
    assert [line.split("\t")[3] for line in out.splitlines()] == ["CAT", "DOE"]
    one_line(command(inference.main, *one, "--text", "cat"), "dictionary lacks")
    one_line(command(inference.main, *one, "--text", "CAT " * 200), "frames for a transcript")
    for text in ("CAT | DOE", "CAT|DOE", "| CAT DOE", "CAT DOE |"):
        one_line(command(inference.main, *one, "--text", text), path, "(--text) has '|'")
    one_line(command(inference.main, *one), "--text")


def test_alignment_in_other_formats_of_a_text_with_wildcards(model, corpus, tmp_path, command):
    path = read_manifest(corpus, "dev").utterances[0].path
    (tmp_path / "text.txt").write_text("CAT\n* DOE")
    flags = ["--output_dir", tmp_path, "--text_file", tmp_path / "text.txt", "--min_score", "1"]
    formats = ["--formats", "json", "srt", "ctm"]
    code, out, error = command(inference.main, "align", *model, path, *flags, *formats)
    assert code == 0 and "2 words score below 1 (--min_score)" in error
    rows = [line.split("\t") for line in out.splitlines()]
    assert [row[3:] for row in rows] == [["CAT", "low"], ["DOE", "low"]]
    name = Path(path).stem
    assert not (tmp_path / f"{name}.TextGrid").exists()
    found = json.loads((tmp_path / f"{name}.json").read_text())
    assert [word["low"] for word in found["words"]] == [True, True]
    assert [unit["text"] for unit in found["characters"]] == list("CATDOE")
    ctm = [line.split() for line in (tmp_path / f"{name}.ctm").read_text().splitlines()]
    for fields, row, word in zip(ctm, rows, found["words"], strict=True):
        assert fields[:2] == [name, "1"] and fields[4] == row[3]
        assert float(fields[2]) == pytest.approx(word["start"])
        assert float(fields[2]) + float(fields[3]) == pytest.approx(word["end"])
        assert float(fields[5]) == pytest.approx(word["score"], abs=1e-4)
    srt = (tmp_path / f"{name}.srt").read_text()
    assert srt.startswith("1\n00:00:0") and "CAT" in srt and "*" not in srt
    alone = command(inference.main, "align", *model, path, "--text", "* *")
    one_line(alone, path, "no words beside *")
    both = ["--text", "CAT", "--text_file", "x"]
    one_line(command(inference.main, "align", *model, path, *both), "--text_file: stands in place")
    one_line(
        command(inference.main, "align", *model, path, "--text", "A", "--min_score", "2"), "0 to 1"
    )


def test_long_utterances_of_a_subset_are_aligned_in_windows(
    model, subset, corpus, tmp_path, command
):
    """Whatever the length of a window, the same words; only frames at its edges may differ."""
    windows = ["--window_seconds", "1", "--overlap_seconds", "0.4"]
    flags = ["align", *model, *subset, "--output_dir", tmp_path, "--open_ends", *windows]
    code, _, error = command(inference.main, *flags)
    assert code == 0, error
    lines = (corpus / "dev.wrd").read_text().splitlines()
    manifest = read_manifest(corpus, "dev")
    assert max(utterance.samples for utterance in manifest.utterances) > 16_000
    for utterance, words in zip(manifest.utterances, lines):
        found = json.loads((tmp_path / f"{utterance.id}.json").read_text())
        assert [word["text"] for word in found["words"]] == words.split()
        assert found["duration"] == utterance.samples / 16_000


def test_utterances_that_cannot_be_aligned_are_listed(model, corpus, tmp_path, command):
    for name in ("dev.tsv", "dev.ltr"):
        (tmp_path / name).write_text((corpus / name).read_text())
    first, *others = (corpus / "dev.ltr").read_text().splitlines()
    (tmp_path / "dev.ltr").write_text("\n".join(["Ö |", *others]) + "\n")
    code, out, error = command(
        inference.main,
        *["align", *model, "--dataset_dir", tmp_path, "--subset", "dev", "--num_workers", "0"],
        *["--output_dir", tmp_path / "out"],
    )
    assert code == 1 and "4 of 5" in out and "'Ö'" in error
