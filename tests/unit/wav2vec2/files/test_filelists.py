import os

import pytest

from wav2vec2.cli.errors import UserError
from wav2vec2.files.filelists import read_labels, read_manifest, write_manifest


def write(folder, name, *lines):
    (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def test_round_trip(tmp_path):
    write_manifest(tmp_path, "train", "/data", [("a/one.flac", 100), ("a b/two.flac", 200)])
    manifest = read_manifest(tmp_path, "train")
    assert [u.id for u in manifest.utterances] == ["one", "two"]
    assert [u.path for u in manifest.utterances] == ["/data/a/one.flac", "/data/a b/two.flac"]
    assert [u.samples for u in manifest.utterances] == [100, 200]
    assert [u.line for u in manifest.utterances] == [2, 3]


def test_absolute_paths_and_zip_members_stay(tmp_path):
    members = ("a/pack.zip:12:34\t6", "a/pack.zip:90:34\t6", "/b/x.y.zip:12:34\t7")
    write(tmp_path, "s.tsv", "/data", "/else/x.wav\t5", *members)
    utterances = read_manifest(tmp_path, "s").utterances
    paths = ["/else/x.wav", "/data/a/pack.zip:12:34", "/data/a/pack.zip:90:34", "/b/x.y.zip:12:34"]
    assert [u.path for u in utterances] == paths
    assert [u.id for u in utterances] == ["x", "pack_12", "pack_90", "x.y_12"]


def test_a_root_of_one_dot_is_the_filelists_own_folder(tmp_path):
    (tmp_path / "english").mkdir()
    write(tmp_path / "english", "s.tsv", ".", "a.flac\t5", "/else/x.wav\t5")
    manifest = read_manifest(tmp_path, "english/s")
    paths = [str(tmp_path / "english" / "a.flac"), "/else/x.wav"]
    assert [u.path for u in manifest.utterances] == paths
    assert manifest.root == tmp_path / "english"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], r"s\.tsv:1: the first line"),
        (["a.flac\t5"], r"s\.tsv:1: the first line"),
        (["/data"], r"s\.tsv: lists no audio"),
        (["/data", "a.flac 100"], r"s\.tsv:2: expected 'path<TAB>samples' .* got 'a.flac 100'"),
        (["/data", "a.flac\t1e5"], r"s\.tsv:2: expected"),
        (["/data", "a.flac\t-5"], r"s\.tsv:2: expected"),
        (["/data", "a.flac\t5", "\t7"], r"s\.tsv:3: expected"),
        (["/data", "a/x.flac\t5", "a/x.flac\t5"], r"s\.tsv:3: .* 'a_x' is already in line 2"),
        (["/data", "a/x.flac\t5", "a/x.wav\t5"], r"s\.tsv:3: .* 'a_x' is already in line 2"),
        (["/data", "a.flac\t" + "9" * 5000], r"s\.tsv:2: .*no audio has such a length"),
        (["/data", "a\0.flac\t5"], r"s\.tsv:2: .*no audio has such a length or name"),
        (["/", "a.zip:1:5\t5", "a.zip:1:6\t5"], r"s\.tsv:3: .* 'a_1' is already in line 2"),
    ],
)
def test_bad_lines_are_named(tmp_path, lines, message):
    write(tmp_path, "s.tsv", *lines)
    with pytest.raises(UserError, match=message):
        read_manifest(tmp_path, "s")


def test_missing_subset_says_what_is_there(tmp_path):
    write(tmp_path, "dev-clean.tsv", "/data", "a.flac\t5")
    with pytest.raises(UserError, match=r"dev\.tsv: no such file \(it has dev-clean\.tsv\)"):
        read_manifest(tmp_path, "dev")
    with pytest.raises(UserError, match="the folder does not exist"):
        read_manifest(tmp_path / "nowhere", "dev")


def test_labels_pair_by_id(tmp_path):
    write(tmp_path, "s.tsv", "/data", "a.flac\t5", "b.flac\t5")
    write(tmp_path, "s.ltr", "H I |", "Y O |")
    assert read_labels(read_manifest(tmp_path, "s"), "ltr") == {"a": "H I |", "b": "Y O |"}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["H I |"], r"s\.ltr: 1 label lines but .*s\.tsv lists 2"),
        (["H I |", "Y |", "Z |"], r"s\.ltr: 3 label lines but"),
        (["H I |", " "], r"s\.ltr:2: no label for utterance 'b'"),
        (
            ["<s> H I |", "Y |"],
            r"s\.ltr:1: '<s>' \(utterance a\) is one of the model's own symbols",
        ),
        (["H I |", "Y | </s>"], r"s\.ltr:2: '</s>' \(utterance b\)"),
        (["H <pad> I |", "Y |"], r"s\.ltr:1: '<pad>' \(utterance a\)"),
    ],
)
def test_labels_that_do_not_match(tmp_path, labels, message):
    write(tmp_path, "s.tsv", "/data", "a.flac\t5", "b.flac\t5")
    write(tmp_path, "s.ltr", *labels)
    with pytest.raises(UserError, match=message):
        read_labels(read_manifest(tmp_path, "s"), "ltr")


def test_words_may_not_be_the_models_own_symbols_either(tmp_path):
    write(tmp_path, "s.tsv", "/data", "a.flac\t5", "b.flac\t5")
    write(tmp_path, "s.wrd", "HI <unk>", "<s> YOU </s>")
    with pytest.raises(UserError, match=r"s\.wrd:2: '<s>' .* remove it from the label line"):
        read_labels(read_manifest(tmp_path, "s"), "wrd")
    write(tmp_path, "s.wrd", "HI <unk>", "<S> YOU<s>")  # part of a word, in other letters
    assert [*read_labels(read_manifest(tmp_path, "s"), "wrd").values()] == [
        "HI <unk>",
        "<S> YOU<s>",
    ]


@pytest.mark.parametrize("character", ["\u2028", "\x85", "\x0c", "\x1c"], ids=ascii)
def test_other_line_separators_belong_to_the_line(tmp_path, character):
    write(tmp_path, "s.tsv", f"/da{character}ta", f"a{character}.flac\t5", "b.flac\t5")
    write(tmp_path, "s.ltr", f"H{character} I |", f"Y |{character}")
    manifest = read_manifest(tmp_path, "s")
    assert [u.path for u in manifest.utterances] == [
        f"/da{character}ta/a{character}.flac",
        f"/da{character}ta/b.flac",
    ]
    assert [label.split() for label in read_labels(manifest, "ltr").values()] == [
        ["H", "I", "|"],
        ["Y", "|"],
    ]
    write_manifest(tmp_path, "t", "/data", [(f"a{character}.flac", 5)])
    assert read_manifest(tmp_path, "t").utterances[0].id == f"a{character}"


def test_missing_labels(tmp_path):
    write(tmp_path, "s.tsv", "/data", "a.flac\t5")
    with pytest.raises(UserError, match=r"s\.ltr: no such file"):
        read_labels(read_manifest(tmp_path, "s"), "ltr")


def test_blank_lines_and_windows_line_ends_are_no_harm(tmp_path):
    (tmp_path / "s.tsv").write_bytes(b"/data\r\na.flac\t5\r\n\r\nb.flac\t6\r\n")
    (tmp_path / "s.ltr").write_bytes(b"H I |\r\nY O |\r\n")
    manifest = read_manifest(tmp_path, "s")
    assert [(u.path, u.line) for u in manifest.utterances] == [
        ("/data/a.flac", 2),
        ("/data/b.flac", 4),
    ]
    assert read_labels(manifest, "ltr") == {"a": "H I |", "b": "Y O |"}


def test_not_utf8(tmp_path):
    (tmp_path / "s.tsv").write_text("/data\na.flac\t5\n", encoding="utf-16")
    with pytest.raises(UserError, match=r"s\.tsv: cannot be read \(not UTF-8"):
        read_manifest(tmp_path, "s")
    (tmp_path / "t.tsv").write_bytes(b"/data\na.flac\t5\n")
    (tmp_path / "t.ltr").write_bytes(b"\xff |\n")
    with pytest.raises(UserError, match=r"t\.ltr: cannot be read \(not UTF-8"):
        read_labels(read_manifest(tmp_path, "t"), "ltr")


@pytest.mark.parametrize("name", [b"m\xfcde.flac", b"\xff\xfe", b"sp/\x80k.wav"])
def test_names_that_are_not_utf8_are_listed(tmp_path, name):
    """File names may be any bytes."""
    write_manifest(tmp_path, "s", "/data", [(os.fsdecode(name), 5), ("good.flac", 6)])
    assert name + b"\t5\n" in (tmp_path / "s.tsv").read_bytes()
    first, good = read_manifest(tmp_path, "s").utterances
    assert os.fsencode(first.path) == b"/data/" + name and good.id == "good"
    assert first.id.isascii() and "\\x" in first.id


def test_equal_stems_are_told_apart_by_their_folders(tmp_path):
    names = ["a/x.flac", "b/x.flac", "b/y.flac", "x.flac", "/else/c/x.wav", "z.zip:1:5"]
    write(tmp_path, "s.tsv", "/data", *(f"{name}\t5" for name in names))
    ids = [u.id for u in read_manifest(tmp_path, "s").utterances]
    assert ids == ["a_x", "b_x", "y", "x", "else_c_x", "z_1"]
    write(tmp_path, "s.ltr", *(f"{n} |" for n in "ABCDEF"))
    labels = read_labels(read_manifest(tmp_path, "s"), "ltr")
    assert labels["b_x"] == "B |" and labels["x"] == "D |"


def test_file_names_that_cannot_be_listed(tmp_path):
    for name in ("a\tb.flac", "a\nb.flac", "a\rb.flac"):
        with pytest.raises(UserError, match="tab or line break"):
            write_manifest(tmp_path, "s", "/data", [(name, 5)])
    with pytest.raises(UserError, match="tab or line break"):
        write_manifest(tmp_path, "s", "/da\tta", [("a.flac", 5)])
    assert list(tmp_path.iterdir()) == []
