"""Sub-word units of a data set folder."""

import sys

import pytest

from utils.data import train_sentencepiece
from wav2vec2.cli.errors import run_command
from wav2vec2.files.filelists import read_labels, read_manifest, write_manifest
from wav2vec2.files.output import write_lines
from wav2vec2.text.vocabulary import UNKNOWN, Spelling, Vocabulary

WORDS = {
    "train": ["AN BE CAT", "DOE AN CAT CAT", "BE DOE  DOE AN", "CAT BE"],
    "dev": ["CAT DOE", "AN AN"],
}


@pytest.fixture
def folder(tmp_path):
    for subset, lines in WORDS.items():
        files = [(f"{subset}-{n}.flac", 16_000) for n in range(len(lines))]
        write_manifest(tmp_path, subset, "/data", files)
        write_lines(tmp_path / f"{subset}.wrd", lines)
    return tmp_path


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Run the command; returns (exit code, standard output, errors)."""

    def call(*flags, size=12):
        command = ["command", "--dataset_dir", folder, "--train_subset", "train"]
        command += ["--subsets", "dev", "--vocab_size", size, *flags]
        monkeypatch.setattr(sys, "argv", list(map(str, command)))
        with pytest.raises(SystemExit) as stop:
            run_command(train_sentencepiece.main)
        return int(stop.value.code), *capsys.readouterr()

    return call


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_labels_are_the_words_in_pieces(run, folder, kind):
    code, out, err = run("--model_type", kind)
    assert (code, err) == (0, "")
    assert f"spm.model: 12 {kind} pieces" in out
    assert out.splitlines()[-1] == (
        f"next: DATASET_DIR={folder} TRAIN_SUBSET=train VALID_SUBSET=dev LABELS=spm "
        "bash scripts/finetune_base_100h.sh"
    )
    assert set(content(folder)) == {
        *(f"{subset}.{end}" for subset in WORDS for end in ("tsv", "wrd", "spm")),
        "spm.model",
        "dict.spm.txt",
    }
    vocabulary = Vocabulary.from_file(folder / "dict.spm.txt")
    assert vocabulary.spelling is Spelling.PIECES and len(vocabulary) == 12 + 4
    for subset, words in WORDS.items():
        labels = read_labels(read_manifest(folder, subset), "spm").values()
        assert [vocabulary.words(line.split()) for line in labels] == [
            " ".join(line.split()) for line in words
        ]
        assert not any(UNKNOWN in vocabulary.encode(line) for line in labels)


def test_the_dictionary_counts_training_labels(run, folder):
    run()
    labels = (folder / "train.spm").read_text().split()
    rows = [line.split() for line in (folder / "dict.spm.txt").read_text().splitlines()]
    assert all(int(count) == labels.count(piece) for piece, count in rows)
    counts = [int(count) for _, count in rows]
    assert counts == sorted(counts, reverse=True)


def test_the_same_again(run, folder):
    run()
    before = content(folder)
    assert run()[0] == 0
    assert content(folder) == before


def test_another_name(run, folder):
    assert run("--labels", "bpe12", "--model_type", "bpe")[0] == 0
    assert {"bpe12.model", "dict.bpe12.txt", "train.bpe12"} <= set(content(folder))


def test_long_transcripts_count(run, folder):
    """Sentencepiece by itself drops sentences above 4,192 bytes."""
    write_lines(folder / "train.wrd", ["ZU " * 2000, *WORDS["train"][1:]])
    assert run(size=14)[0] == 0
    assert "Z" in (folder / "dict.spm.txt").read_text()


def test_rare_characters_are_named(run, folder):
    write_lines(folder / "train.wrd", ["AN BE CAT DOE " * 40, "BÉ", "CAT", "DOE"])
    code, out, _ = run("--character_coverage", "0.99")
    assert code == 0 and "characters without a piece: 'É' 1x" in out
    assert "É" not in (folder / "dict.spm.txt").read_text()


MISTAKES = {
    "too many pieces": (["--vocab_size", "500"], "train.wrd give at most 12 pieces; lower it"),
    "too many bpe pieces": (["--vocab_size", "500", "--model_type", "bpe"], "give at most 2"),
    "too few pieces": (["--vocab_size", "5"], "need 9 for their characters; raise it"),
    "none": (["--vocab_size", "0"], "--vocab_size 0: must be at least 1"),
    "coverage": (["--character_coverage", "0.5"], "must lie between 0.98 and 1"),
    "no such subset": (["--subsets", "test"], "test.tsv: no such file"),
    "a name that is taken": (["--labels", "wrd"], "--labels wrd: must be"),
    "a name elsewhere": (["--labels", "../spm"], "--labels ../spm: must be"),
    "model type": (["--model_type", "word"], "--model_type: invalid choice: 'word'"),
}


@pytest.mark.parametrize(("flags", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_one_line_and_write_nothing(run, folder, flags, message):
    before = content(folder)
    code, out, err = run(*flags)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ") and message in line
    assert content(folder) == before


def test_no_words(run, folder):
    (folder / "dev.wrd").unlink()
    before = content(folder)
    code, _, err = run()
    assert code == 2 and "dev.wrd: no such file" in err
    assert content(folder) == before


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_the_number_of_pieces_a_message_names_is_right(run, kind):
    for wrong, found in (("500", r"at most "), ("1", r"need ")):
        _, _, err = run("--model_type", kind, size=wrong)
        right = err.partition(found)[2].split()[0]
        assert run("--model_type", kind, "--labels", f"{kind}{right}", size=right)[0] == 0


def test_another_model_is_not_written_over(run, folder):
    run()
    before = content(folder)
    code, _, err = run(size=11)
    assert code == 2 and "spm.model: holds a model of other words" in err and "--labels" in err
    assert content(folder) == before
