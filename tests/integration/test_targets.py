"""Fine-tuning on other units than letters: pieces, phonemes, words."""

import json
import shutil
from pathlib import Path

import pytest

import inference
import train
from tests.integration.conftest import flags
from tests.integration.test_bad_input import one_line
from tests.integration.test_training import pretrained  # noqa: F401 (fixture)
from utils.data import train_sentencepiece
from wav2vec2.files.filelists import read_manifest
from wav2vec2.files.output import write_lines
from wav2vec2.files.torch_file import load_checkpoint, save_checkpoint
from wav2vec2.text.vocabulary import write_dictionary

PHONES = {"AN": "AE N", "BE": "B IY", "CAT": "K AE T", "DOE": "D OW"}


@pytest.fixture
def data(corpus, tmp_path):
    """The corpus' lists, to write other labels beside; the audio stays where it is."""
    folder = tmp_path / "data"
    folder.mkdir()
    for path in corpus.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    return folder


@pytest.fixture
def finetune(data, tmp_path, pretrained, command):  # noqa: F811
    """Fine-tune on `labels`: (exit code, standard output, errors)."""

    def run(labels, **changed):
        arguments = {"pretrained_model": pretrained, "labels": labels, **changed}
        return command(train.main, *flags("finetune", data, tmp_path / "run", **arguments))

    return run


@pytest.fixture
def alone(tmp_path):
    """The checkpoint by itself, in an empty folder."""

    def copy(update=4):
        folder = tmp_path / "alone"
        folder.mkdir()
        return shutil.copy(tmp_path / "run" / f"wav2vec2_update{update}.pt", folder)

    return copy


def validations(output):
    records = (json.loads(line[5:]) for line in (output / "nvlog.json").read_text().splitlines())
    return [r["data"] for r in records if "val_wer" in r.get("data", {}) and r["step"]]


def evaluate(command, model, data, output, subset="dev"):
    """Evaluate; returns what was printed, the summary and the hypotheses."""
    code, out, err = command(
        inference.main,
        *["evaluate", "--checkpoint", model, "--dataset_dir", data, "--subset", subset],
        *["--output_dir", output, "--num_workers", 0, "--cpu"],
    )
    assert code == 0, err
    summary = json.loads((output / f"summary_{subset}.json").read_text())
    lines = (output / f"hypotheses_{subset}.jsonl").read_text().splitlines()
    return out, summary, [json.loads(line) for line in lines]


def relabel(data, extension, change):
    """Write labels made from the words, and their dictionary."""
    for subset in ("train", "dev"):
        lines = (data / f"{subset}.wrd").read_text().splitlines()
        write_lines(data / f"{subset}.{extension}", map(change, lines))
    write_dictionary(
        data / f"dict.{extension}.txt", (data / f"train.{extension}").read_text().splitlines()
    )


def learn_pieces(command, data, kind, *more):
    result = command(
        train_sentencepiece.main,
        *["--dataset_dir", data, "--train_subset", "train", "--subsets", "dev"],
        *["--vocab_size", "12", "--model_type", kind, *more],
    )
    assert result[0] == 0, result[2]


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_pieces(data, finetune, alone, tmp_path, command, kind):
    learn_pieces(command, data, kind)
    code, _, err = finetune("spm")
    assert code == 0, err
    words = (data / "dev.wrd").read_text().splitlines()
    assert any(f"reference:  {line}" in err for line in words)  # validation shows words
    (validation, *_) = validations(tmp_path / "run")

    model = alone()
    content = load_checkpoint(model)
    assert content["spelling"] == "pieces"
    assert content["sentencepiece"].numpy().tobytes() == (data / "spm.model").read_bytes()
    elsewhere = tmp_path / "words_only"  # neither labels nor model: the checkpoint has them
    elsewhere.mkdir()
    for name in ("dev.tsv", "dev.wrd"):
        shutil.move(data / name, elsewhere)
    units = (data / "dev.spm").read_text().split()
    shutil.rmtree(data)
    out, summary, results = evaluate(command, model, elsewhere, tmp_path / "out")
    assert "WER" in out and "words)" in out
    assert [result["reference"] for result in results] == words
    assert summary["words"] == sum(len(line.split()) for line in words) < len(units)
    assert not any("▁" in result["hypothesis"] for result in results)
    assert summary["wer"] == pytest.approx(validation["val_wer"])
    assert summary["uer"] == pytest.approx(validation["val_uer"])

    audio = Path(read_manifest(elsewhere, "dev").utterances[0].path)
    code, out, _ = command(inference.main, "transcribe", "--checkpoint", model, "--cpu", audio)
    heard = next(r["hypothesis"] for r in results if r["id"] == audio.stem)
    assert (code, out) == (0, f"{audio}\t{heard}\n")


def test_phonemes(data, finetune, alone, tmp_path, command):
    relabel(data, "phn", lambda line: " ".join(PHONES[word] for word in line.split()))
    code, _, err = finetune("phn")
    assert code == 0, err
    assert "dict.phn.txt: has no word separator '|'" in err
    assert all(v["val_wer"] == v["val_uer"] for v in validations(tmp_path / "run"))
    out, summary, results = evaluate(command, alone(), data, tmp_path / "out")
    assert "WER and UER" in out and "phn symbols)" in out
    assert [r["reference"] for r in results] == (data / "dev.phn").read_text().splitlines()
    assert all(
        set(r["hypothesis"].split()) <= {*" ".join(PHONES.values()).split()} for r in results
    )
    assert summary["wer"] == summary["uer"] == validations(tmp_path / "run")[-1]["val_wer"]


def test_words(data, finetune, alone, tmp_path, command):
    write_dictionary(data / "dict.wrd.txt", (data / "train.wrd").read_text().splitlines())
    code, _, err = finetune("wrd")
    assert code == 0, err
    _, summary, results = evaluate(command, alone(), data, tmp_path / "out")
    assert [r["reference"] for r in results] == (data / "dev.wrd").read_text().splitlines()
    assert summary["words"] == len((data / "dev.wrd").read_text().split())
    assert all(set(r["hypothesis"].split()) <= PHONES.keys() for r in results)


def test_a_checkpoint_from_before_there_was_a_choice(data, finetune, alone, tmp_path, command):
    assert finetune("ltr")[0] == 0
    model = alone()
    new = evaluate(command, model, data, tmp_path / "new")[1:]
    content = load_checkpoint(model)
    assert content.pop("spelling") == "letters" and "sentencepiece" not in content
    save_checkpoint(tmp_path / "old.pt", content)
    old = evaluate(command, tmp_path / "old.pt", data, tmp_path / "old")[1:]
    assert old[1] == new[1] and old[0]["wer"] == new[0]["wer"]
    assert [r["reference"] for r in old[1]] == (data / "dev.wrd").read_text().splitlines()


def test_unknown_symbols_in_validation_are_named(data, finetune, alone, tmp_path, command):
    lines = (data / "dev.ltr").read_text().splitlines()
    write_lines(data / "dev.ltr", ["A Ñ Ñ |", "Ö |", *lines[2:]])
    code, _, err = finetune("ltr")
    assert code == 0
    (line,) = (line for line in err.splitlines() if "dev.ltr:" in line)
    assert "count as errors in validation: 'Ñ' 2x, 'Ö' 1x" in line
    out = evaluate(command, alone(), data, tmp_path / "out")[0]
    assert "dev: symbols that the dictionary lacks count as errors: 'Ñ' 2x, 'Ö' 1x" in out


def test_missing_or_other_model(data, finetune, tmp_path, command):
    learn_pieces(command, data, "unigram")
    (data / "spm.model").unlink()
    one_line(
        finetune("spm"), "spm.model: sentencepiece model cannot be read", "train_sentencepiece"
    )
    learn_pieces(command, data, "bpe", "--labels", "other")
    shutil.copy(data / "other.model", data / "spm.model")
    one_line(finetune("spm"), "dict.spm.txt: does not list the pieces of spm.model")
    assert not (tmp_path / "run" / "nvlog.json").exists()


def test_missing_labels_and_words(data, finetune, alone, command):
    learn_pieces(command, data, "unigram")
    labels = (data / "dev.spm").rename(data / "hidden")
    one_line(finetune("spm"), "dev.spm: no such file", "train_sentencepiece")
    labels.rename(data / "dev.spm")
    assert finetune("spm")[0] == 0
    (data / "dev.wrd").unlink()
    arguments = ["evaluate", "--checkpoint", alone(), "--dataset_dir", data, "--subset", "dev"]
    one_line(command(inference.main, *arguments, "--cpu"), "dev.wrd: no such file")


def test_pieces_become_words_again(data, finetune, alone, tmp_path, command):
    """Learnt by heart, eight utterances come out of the checkpoint alone as their words."""
    for name in ("train.tsv", "train.wrd"):
        lines = (data / name).read_text().splitlines()
        write_lines(data / name, lines[: 9 if name == "train.tsv" else 8])
    learn_pieces(command, data, "bpe")
    code, _, err = finetune(
        "spm",
        valid_subset="train",
        max_update=120,
        warmup_updates=20,
        hold_updates=60,
        learning_rate=2e-3,
        feature_grad_mult=1.0,
        mask_prob=0,
        mask_channel_prob=0,
        activation_dropout=0,
        layerdrop=0,
        validate_frequency=1000,
        log_frequency=50,
    )
    assert code == 0, err
    out, summary, results = evaluate(command, alone(120), data, tmp_path / "out", subset="train")
    assert summary["wer"] == summary["uer"] == 0, out
    words = (data / "train.wrd").read_text().splitlines()
    assert [result["hypothesis"] for result in results] == words
