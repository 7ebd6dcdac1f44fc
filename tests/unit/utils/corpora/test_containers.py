"""Recordings inside tar archives, Parquet and Arrow tables: what is read, and what is refused."""

import io
import json
import sys
import tarfile
from contextlib import suppress

import numpy as np
import pytest
import soundfile

from tests.unit.utils.corpora.test_formats import SAMPLES
from tests.unit.utils.data.test_import_corpus import run
from utils.corpora import conversion
from utils.corpora.containers.members import stream_member
from utils.corpora.containers.tar import expand
from utils.corpora.layouts import LAYOUTS, layout_of
from utils.corpora.rows import Row
from utils.corpora.sources import SourceOptions, _utterances, read_source
from utils.corpora.tables import TableOptions
from wav2vec2.cli.errors import UserError


def read_member(path, member, name):
    """A member as one array."""
    return np.concatenate([*stream_member(path, member, name)])


WORDS = ("one", "two", "three", "four", "five")


def audio(seconds=1.0, seed=0, format="FLAC", rate=16_000):
    """(bytes of an audio file, its samples)."""
    samples = (np.random.default_rng(seed).normal(0, 2000, int(rate * seconds))).astype(np.int16)
    content = io.BytesIO()
    soundfile.write(content, samples, rate, format=format)
    return content.getvalue(), samples.astype(np.float32) / 32768


def write_tar(path, files, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_range_of_an_archive(tmp_path, mode):
    files = {f"{n}.flac": audio(seed=n)[0] for n in range(3)}
    path = write_tar(tmp_path / "a.tar", files, mode)
    with tarfile.open(path) as archive:
        places = [f"tar:{info.offset_data}:{info.size}" for info in archive]
    for n in (0, 2, 1):  # also backwards
        found = read_member(path, places[n], "a")
        assert np.array_equal(found, audio(seed=n)[1])
    for place in ("tar:512:99999999", f"tar:512:{1 << 50}", "tar:1:7"):
        with pytest.raises(UserError):
            read_member(path, place, "a")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError):
        read_member(path, places[2], "a")


def utterances(root, *rows):
    return _utterances(rows, root, SourceOptions(output_dir="out", audio_dir=str(root)))


def test_ids_of_members(tmp_path):
    for name in ("a.tar", "b.tar"):
        write_tar(tmp_path / name, {})

    def row(archive, place, name, **fields):
        return Row(tmp_path / archive, "", member=f"tar:{place}", name=name, **fields)

    rows = [
        row("a.tar", 1, "one.of.three"),
        row("a.tar", 2, "two"),
        row("b.tar", 1, "two"),
        row("a.tar", 3, "../d/same"),
        row("a.tar", 4, "../d/same"),
        row("a.tar", 5, "long", start=1.5, end=2.0),
        row("a.tar", 5, "long", start=2.5, end=3.0),
        row("a.tar", 1, "one.of.three"),
    ]
    found, bad = utterances(tmp_path, *rows)
    assert [u.id for u in found] == [
        "one.of.three",
        "a_two",
        "b_two",
        "a_d_same_1",
        "a_d_same_2",
        "long_0001500",
        "long_0002500",
    ]
    assert [u.key for u in found] == [u.id for u in found]
    assert [b.reason for b in bad] == ["named twice"]


# --- whole corpora, as a user names them: a row of BUILT is a format


def parquet_table(rows):
    pa = pytest.importorskip("pyarrow")
    return pa.Table.from_pylist(rows)


def hf_row(n, **fields):
    return {"audio": {"bytes": audio(seed=n, seconds=1 + n)[0], "path": f"{n}.flac"}, **fields}


def write_parquet(path, rows, **options):
    table = parquet_table(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    pytest.importorskip("pyarrow.parquet").write_table(table, path, **options)
    return path


def build_parquet(folder):
    rows = [hf_row(n, sentence=WORDS[n], speaker_id=7 + n % 2, locale="en") for n in range(5)]
    write_parquet(folder / "data/train-00000-of-00002.parquet", rows[:2], row_group_size=1)
    write_parquet(folder / "data/train-00001-of-00002.parquet", rows[2:4])
    write_parquet(folder / "data/validation-00000-of-00001.parquet", rows[4:])
    return [(str(n), WORDS[n], str(7 + n % 2), "valid" if n == 4 else "train") for n in range(5)]


def build_arrow(folder):
    pa = pytest.importorskip("pyarrow")
    for n, split in enumerate(("train", "validation")):
        table = parquet_table([hf_row(2 * n + i, text=WORDS[i]) for i in range(2)])
        path = folder / split / "data-00000-of-00001.arrow"
        path.parent.mkdir(parents=True)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, 1)
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    return [(str(n), WORDS[n % 2], "", "train" if n < 2 else "valid") for n in range(4)]


def build_shards(folder):
    for shard, mode in enumerate(("w", "w:gz")):
        files = {}
        for n in (2 * shard, 2 * shard + 1):
            facts = {"text": WORDS[n], "speaker": f"s{n}", "duration": 1.0 + n, "start": 44.5}
            files[f"d/{n}.flac"] = audio(seed=n, seconds=1 + n)[0]
            files[f"d/{n}.json"] = json.dumps(facts).encode()
            files[f"d/{n}.cls"] = b"3"
        suffix = "tar" if mode == "w" else "tar.gz"
        write_tar(folder / f"train-{shard:06d}.{suffix}", files, mode)
    files = {"x.y.flac": audio(seed=4, seconds=5)[0], "x.y.txt": "naïve\n".encode()}
    write_tar(folder / "dev/shard-0.tar", files)
    rows = [(f"d_{n}", WORDS[n], f"s{n}", "train") for n in range(4)]
    return [*rows, ("x.y", "naïve", "", "valid")]


def build_nemo(folder):
    lines = []
    for shard in range(2):
        files = {f"{n}.flac": audio(seed=n, seconds=1 + n)[0] for n in (2 * shard, 2 * shard + 1)}
        write_tar(folder / f"audio_{shard}.tar", files)
        for name in files:
            n = int(name[0])
            facts = {"audio_filepath": name, "duration": 1.0 + n, "text": WORDS[n]}
            lines.append({**facts, "shard_id": shard})
    lines += [
        {"audio_filepath": "3.wav", "offset": 0.5, "duration": 1, "text": "a", "shard_id": 1},
        {"audio_filepath": "3-sub1.wav", "offset": 2.0, "duration": 1, "text": "b", "shard_id": 1},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "tarred_audio_manifest.json").write_text(text)
    rows = [(str(n), WORDS[n], "", "") for n in range(4)]
    return [*rows, ("3_0000500", "a", "", ""), ("3_0002000", "b", "", "")]


BUILT = {
    "parquet": build_parquet,
    "arrow": build_arrow,
    "webdataset": build_shards,
    "nemo": build_nemo,
}


def test_every_layout_has_a_sample():
    assert SAMPLES.keys() | BUILT.keys() == LAYOUTS.keys()


def imported(folder):
    """Id -> (text, subset, seconds) of a data set."""
    found = {}
    for tsv in folder.glob("*.tsv"):
        texts = tsv.with_suffix(".wrd").read_text("utf-8").splitlines()
        for line, text in zip(tsv.read_text("utf-8").splitlines()[1:], texts, strict=True):
            name, samples = line.split("\t")
            found[name.removesuffix(".flac")] = (text, tsv.stem, int(samples) / 16_000)
    return found


@pytest.mark.parametrize("name", BUILT)
def test_every_container_is_recognised_and_read(name, tmp_path, monkeypatch):
    expected = BUILT[name](tmp_path / "in")
    assert layout_of(tmp_path / "in") == name
    found, bad = read_source(
        SourceOptions(output_dir=str(tmp_path / "out"), audio_dir=str(tmp_path / "in")),
        TableOptions(),
    )
    assert not bad
    assert sorted((u.id, u.text, u.speaker, u.split) for u in found) == sorted(expected)
    flags = ("--audio_dir", tmp_path / "in", "--output_dir", tmp_path / "out")
    flags += ("--case", "lower", "--workers", "1", "--allow_shared_speakers")
    assert run(monkeypatch, *flags) == 0
    whole = {key: 1.0 + int(key[-1]) for key, *_ in expected if key[-1].isdigit()}
    for key, (_, subset, seconds) in imported(tmp_path / "out").items():
        assert seconds == (1.0 if "_0" in key else whole.get(key, 5.0))
        split = next(row[3] for row in expected if row[0] == key)
        assert not split or subset == split
    assert imported(tmp_path / "out").keys() == {row[0] for row in expected}
    monkeypatch.setattr(conversion, "stream_member", None)  # would fail if it were called
    assert run(monkeypatch, *flags) == 0
    samples, _ = soundfile.read(tmp_path / "out/audio" / f"{expected[0][0]}.flac")
    assert np.array_equal(samples, audio(seed=0, seconds=1)[1])


# --- one table, shard or pattern of them


def rows_named(tmp_path, name, **tables):
    """What `--table NAME` yields: (id, text) of each utterance, and the bad rows."""
    options = SourceOptions(output_dir=str(tmp_path / "out"), table=str(tmp_path / name))
    found, bad = read_source(options, TableOptions(**tables))
    return [(u.id, u.text) for u in found], bad


def test_one_parquet_file_with_bytes_paths_and_nothing(tmp_path, monkeypatch):
    (tmp_path / "clip.flac").write_bytes(audio(seed=1)[0])
    rows = [
        hf_row(0, text="one", path="elsewhere/0.mp3", start_time=77.0, duration=1.0),
        {**hf_row(1, text="two"), "audio": {"bytes": None, "path": "clip.flac"}},
        {**hf_row(1, text="three"), "audio": None},
        {**hf_row(2, text="four"), "audio": {"bytes": audio()[0], "path": None}},
    ]
    write_parquet(tmp_path / "x.parquet", rows)
    found, bad = rows_named(tmp_path, "x.parquet")
    assert found == [("0", "one"), ("clip", "two"), ("x_000004", "four")]
    assert [(b.reason, b.where) for b in bad] == [("no audio", f"{tmp_path / 'x.parquet'}:3")]
    flags = ("--table", tmp_path / "x.parquet", "--output_dir", tmp_path / "out")
    assert run(monkeypatch, *flags, "--workers", "2") == 1
    assert set(imported(tmp_path / "out")) == {"0", "clip", "x_000004"}


def test_other_columns_of_audio(tmp_path):
    rows = [{"wav": audio(seed=0)[0], "transcription": "one", "image": {"bytes": b"", "path": ""}}]
    write_parquet(tmp_path / "b.parquet", rows)
    assert rows_named(tmp_path, "b.parquet")[0] == [("b_000001", "one")]
    array = {"array": [0.25, -0.5], "sampling_rate": 16_000, "path": "a.wav"}
    path = write_parquet(tmp_path / "a.parquet", [{"speech": array, "text": "one"}])
    assert rows_named(tmp_path, "a.parquet")[0] == [("a", "one")]
    assert read_member(path, "parquet:0:0:speech", "a").tolist() == [0.25, -0.5]
    rows = [{"file": "a.wav", "sentence": "one", "start": 0.5, "end": 1.0}]
    write_parquet(tmp_path / "p.parquet", rows)
    assert rows_named(tmp_path, "p.parquet")[0] == [("a_0000500", "one")]


def test_table_flags_describe_containers(tmp_path):
    write_parquet(tmp_path / "x.parquet", [hf_row(0, words_="one", id=5)])
    with pytest.raises(UserError, match="no column text.*it has .*words_.*--text_column"):
        rows_named(tmp_path, "x.parquet")
    assert rows_named(tmp_path, "x.parquet", text_column="words_")[0] == [("0", "one")]
    assert rows_named(tmp_path, "x.parquet", text_column="none")[0] == [("0", None)]
    options = SourceOptions(output_dir="out", audio_dir=str(tmp_path))
    found, _ = read_source(options, TableOptions(text_column="words_"))
    assert [u.text for u in found] == ["one"]


def test_damaged_parquet(tmp_path, monkeypatch):
    good = write_parquet(tmp_path / "in/a.parquet", [hf_row(n, text="one") for n in range(4)])
    content = good.read_bytes()
    (tmp_path / "in/b.parquet").write_bytes(content[: len(content) // 2])
    (tmp_path / "in/c.parquet").write_text("path\ttext\n")
    write_parquet(tmp_path / "in/d.parquet", [{"audio": {"bytes": b"", "path": ""}}])
    good.write_bytes(content[:40_000] + bytes(9000) + content[49_000:])
    flags = ("--audio_dir", tmp_path / "in", "--output_dir", tmp_path / "out")
    assert run(monkeypatch, *flags) == 1
    lines = map(json.loads, (tmp_path / "out/skipped.jsonl").read_text().splitlines())
    reasons = {(line["where"].rpartition("/")[2], line["reason"]) for line in lines}
    tables = {(name, "table") for name in ("b.parquet", "c.parquet", "d.parquet")}
    assert tables < reasons and len(reasons) == 4
    assert [where[:9] for where, reason in reasons if reason == "unreadable"] == ["a.parquet"]


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow"])
def test_no_damage_of_a_table_ends_the_process(tmp_path, name):
    pa = pytest.importorskip("pyarrow")
    rows = [{"audio": {"bytes": b"no audio", "path": f"{n}"}, "text": "one"} for n in range(4)]
    path = write_parquet(tmp_path / "x.parquet", rows, row_group_size=2)
    if name == "x.arrow":
        path = tmp_path / name
        table = parquet_table(rows)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, 2)
    content = path.read_bytes()
    unreadable = 0
    for place in range(4, len(content), 9):
        path.write_bytes(content[:place] + b"\xfe\xff" + content[place + 2 :])
        try:
            found = read_source(SourceOptions(output_dir="out", table=str(path)), TableOptions())
        except UserError:
            unreadable += 1
            continue
        for utterance in found[0]:
            with suppress(UserError):
                read_member(path, utterance.member, "x")
    assert unreadable


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("data/train-00000-of-00002.parquet", "train"),
        ("clean/validation.parquet", "valid"),
        ("data/train.clean.100-00000-of-00014.parquet", "train"),
        ("default/partial-train/0000.parquet", "train"),
        ("default/test/0000.parquet", "test"),
        ("data/other-00000-of-00001.parquet", ""),
        ("/test/0000.parquet", "test"),
        ("/test_corpus/0000.parquet", ""),
    ],
)
def test_names_of_parquet_files_tell_the_subset(tmp_path, name, split):
    path = write_parquet(tmp_path / name.lstrip("/"), [hf_row(0, text="one")])
    folder = path.parent if name[0] == "/" else tmp_path
    assert layout_of(folder) == "parquet"
    assert [u.split for u in read_folder(folder)[0]] == [split]


def test_one_value_that_cannot_be_read(tmp_path):
    pa = pytest.importorskip("pyarrow")
    text = pa.array([b"one", b"\xff", b"two"]).view(pa.string())
    rows = pa.array([hf_row(n)["audio"] for n in range(3)])
    path = tmp_path / "x.parquet"
    pytest.importorskip("pyarrow.parquet").write_table(
        pa.table({"audio": rows, "text": text}), path
    )
    found, bad = rows_named(tmp_path, "x.parquet")
    assert found == [("0", "one"), ("2", "two")]
    assert [(b.where.rpartition(":")[2], b.reason) for b in bad] == [("2", "row")]


def test_without_pyarrow_a_line_says_what_to_install(tmp_path, monkeypatch):
    write_parquet(tmp_path / "x.parquet", [hf_row(0, text="one")])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match="x.parquet: needs `pip install pyarrow`"):
        rows_named(tmp_path, "x.parquet")


def shard(tmp_path, name, files):
    return write_tar(tmp_path / name, files)


def test_patterns_of_shards(tmp_path):
    for n in range(2):
        files = {f"{n}.ogg": audio(seed=n, format="OGG")[0], f"{n}.txt": WORDS[n].encode()}
        shard(tmp_path, f"s-{n:04d}.tar", files)
    found, bad = rows_named(tmp_path, "s-{0000..0002}.tar")
    assert found == [("0", "one"), ("1", "two")]
    assert [b.reason for b in bad] == ["missing"]
    assert expand("a__OP_8..10_CL_.tar") == ["a_8.tar", "a_9.tar", "a_10.tar"]
    assert expand("{a,b}-{1..2}") == ["a-1", "a-2", "b-1", "b-2"]
    with pytest.raises(UserError, match="million"):
        expand("{0..99999999999}")


def test_samples_that_cannot_be_used(tmp_path):
    content = audio()[0]
    files = {
        "a.flac": content,
        "a.txt": b"one",
        "b.flac": content,
        "c.flac": content,
        "c.txt": b"\xff",
        "d.flac": content,
        "d.json": b"{",
        "e.1.flac": content,
        "e.1.txt": b"two",
        "e.2.flac": content,
        "e.2.txt": b"three",
        "._f.flac": b"",
        "__info__.txt": b"",
    }
    shard(tmp_path, "x.tar", files)
    found, bad = rows_named(tmp_path, "x.tar")
    assert found == [("a", "one"), ("e.1", "two"), ("e.2", "three")]
    where = f"{tmp_path / 'x.tar'}:"
    assert [(b.where.removeprefix(where), b.reason) for b in bad] == [
        ("b.flac", "no transcript"),
        ("c.flac", "transcript file"),
        ("d.flac", "transcript file"),
    ]


def test_shards_of_audio_alone(tmp_path, monkeypatch, capsys):
    shard(tmp_path, "x.tar", {f"{n}.flac": audio(seed=n)[0] for n in range(3)})
    flags = ("--table", tmp_path / "x.tar", "--output_dir", tmp_path / "out")
    assert run(monkeypatch, *flags) == 0
    assert "audio alone" in capsys.readouterr().out
    assert not list((tmp_path / "out").glob("*.wrd"))


def test_an_archive_of_a_corpus_is_to_be_unpacked(tmp_path):
    files = {"L/84/1/84-1.trans.txt": b"84-1-0 A", "L/84/1/84-1-0.flac": audio()[0]}
    for name in ("c.tar", "c.tar.gz"):
        write_tar(tmp_path / name, files, "w:gz" if name.endswith("gz") else "w")
        with pytest.raises(UserError, match=r"84-1\.trans\.txt.*unpack it"):
            rows_named(tmp_path, name)
    for name, flag in (("c.zip", "table"), ("c.zip", "audio_dir"), ("c.tar", "audio_dir")):
        (tmp_path / "c.zip").write_bytes(b"PK")
        options = SourceOptions(output_dir="out", **{flag: str(tmp_path / name)})
        with pytest.raises(UserError, match="unpack it|name it with --table"):
            read_source(options, TableOptions())


def read_folder(folder, **tables):
    options = SourceOptions(output_dir="out", audio_dir=str(folder))
    return read_source(options, TableOptions(**tables))


def test_archives_beside_what_belongs_to_them(tmp_path):
    write_tar(tmp_path / "audio/train.tar.gz", {"a.flac": audio()[0]}, "w:gz")
    (tmp_path / "train.tsv").write_text("1\ta.flac\tone\n")
    with pytest.raises(UserError, match="train.tar.gz: .*train.tsv may hold them; unpack it"):
        read_folder(tmp_path)
    found, _ = read_folder(tmp_path, text_column="none")
    assert [(u.id, u.text, u.split) for u in found] == [("a", None, "train")]
    (tmp_path / "audio/a.flac").write_bytes(audio()[0])
    (tmp_path / "audio/a.txt").write_text("one")
    assert [u.text for u in read_folder(tmp_path)[0]] == ["one"]  # it was unpacked


def test_a_folder_of_zip_files_is_to_be_unpacked(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match="no audio, but .*train.zip: an archive; unpack it"):
        read_folder(tmp_path)


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow", "x.tar"])
def test_a_pointer_of_git_lfs_is_no_damage(tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(UserError, match=f"{name}: stands for .*git lfs pull"):
        rows_named(tmp_path, name)
    with pytest.raises(UserError, match=f"{name}: stands for .*git lfs pull"):
        read_folder(tmp_path)


def test_links_devices_and_names_outside(tmp_path, monkeypatch):
    path = tmp_path / "in/x.tar"
    write_tar(path, {"../../evil.flac": audio()[0], "../../evil.txt": b"one"})
    with tarfile.open(path, "a") as archive:
        for name, kind in (("l.flac", tarfile.SYMTYPE), ("h.flac", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        for name, kind in (("c.flac", tarfile.CHRTYPE), ("f.flac", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type = kind
            archive.addfile(info)
    flags = ("--audio_dir", tmp_path / "in", "--output_dir", tmp_path / "out")
    assert run(monkeypatch, *flags) == 0
    assert imported(tmp_path / "out").keys() == {"evil"}
    assert not list(tmp_path.glob("evil*")) and not list(tmp_path.parent.glob("evil*"))


def header(size, name="b.flac", kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "damage",
    [
        lambda good: good[:-11_000],
        lambda good: good[:1500],
        lambda good: good[:-10_240] + header(1 << 50),
        lambda good: good[:-10_240] + header(1 << 50, kind=tarfile.XHDTYPE),
        lambda good: good[:-10_240] + header(1 << 50, "././@LongLink", tarfile.GNUTYPE_LONGNAME),
        lambda good: good[:-10_240] + header(-4096),
        lambda good: good[:-10_240] + header(-4096, kind=tarfile.XHDTYPE),
        lambda good: good[:-10_240] + b"no header of a tar archive" * 100,
    ],
)
def test_damaged_archives(tmp_path, damage):
    files = {"a.txt": b"one", "a.flac": audio()[0], "z.bin": bytes(2000)}
    path = shard(tmp_path, "x.tar", files)
    path.write_bytes(damage(path.read_bytes()))
    try:
        found, bad = rows_named(tmp_path, "x.tar")
    except UserError as error:
        assert "x.tar" in str(error)
        return
    assert found in ([("a", "one")], [("a", "one"), ("b", None)])
    if not bad:  # what is missing shows when it is read
        recording = read_source(SourceOptions(output_dir="out", table=str(path)), TableOptions())[
            0
        ][-1]
        with pytest.raises(UserError):
            read_member(path, recording.member, "x")


# --- NeMo


def test_patterns_of_tarred_manifests(tmp_path):
    build_nemo(tmp_path / "in")
    lines = (tmp_path / "in/tarred_audio_manifest.json").read_text().splitlines(keepends=True)
    (tmp_path / "sharded_manifests").mkdir()
    for n in range(2):
        chosen = "".join(line for line in lines if f'"shard_id": {n}' in line)
        (tmp_path / f"sharded_manifests/manifest_{n}.json").write_text(chosen)
    name = "sharded_manifests/manifest__OP_0..1_CL_.json"
    found, bad = rows_named(tmp_path, name, audio_tars=str(tmp_path / "in/audio__OP_0..1_CL_.tar"))
    assert [key for key, _ in found] == ["0", "1", "2", "3", "3_0000500", "3_0002000"]
    assert not bad
    with pytest.raises(UserError, match="is not in .*audio_0.tar.*--audio_tars"):
        rows_named(tmp_path, name)
    for n in range(2):
        (tmp_path / f"in/audio_{n}.tar").rename(tmp_path / f"audio_{n}.tar")
    assert len(rows_named(tmp_path, name)[0]) == 6
    (tmp_path / "in/tarred_audio_manifest.json").unlink()
    assert len(read_folder(tmp_path)[0]) == 6


def test_codecs_and_buckets_of_nemo(tmp_path):
    for n in (1, 2):  # a forced codec changes the suffix in the archive only
        write_tar(tmp_path / f"bucket{n}/audio_0.tar", {f"a_{n}.flac": audio(seed=n)[0]})
        line = {"audio_filepath": f"a_{n}.wav", "text": WORDS[n], "shard_id": 0}
        (tmp_path / f"bucket{n}/tarred_audio_manifest.json").write_text(json.dumps(line) + "\n")
    assert [(u.id, u.text) for u in read_folder(tmp_path)[0]] == [("a_1", "two"), ("a_2", "three")]


def test_lines_of_a_tarred_manifest_that_cannot_be_used(tmp_path):
    build_nemo(tmp_path)
    manifest = tmp_path / "tarred_audio_manifest.json"
    lines = [
        {"audio_filepath": "0.flac", "text": "one", "shard_id": 1},
        {"audio_filepath": "0.flac", "text": "one", "shard_id": "../../x"},
        {"audio_filepath": "0.flac", "text": "one", "shard_id": 7},
    ]
    text = manifest.read_text() + "".join(json.dumps(line) + "\n" for line in lines) + "{\n"
    manifest.write_text(text)
    found, bad = rows_named(tmp_path, manifest.name)
    assert len(found) == 6
    assert [(b.where.rpartition(":")[2], b.reason) for b in bad] == [
        ("7", "missing"),
        ("8", "missing"),
        ("9", "missing"),
        ("10", "row"),
    ]


def test_a_plain_manifest_with_relative_paths(tmp_path, monkeypatch):
    for n in range(3):
        (tmp_path / "wavs").mkdir(exist_ok=True)
        (tmp_path / f"wavs/{n}.wav").write_bytes(audio(seed=n, format="WAV")[0])
    lines = [
        {"audio_filepath": f"wavs/{n}.wav", "duration": 1.0, "text": WORDS[n], "shard_id": 0}
        for n in range(3)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "train_manifest.json").write_text(text)
    monkeypatch.chdir(tmp_path.parent)
    table = f"{tmp_path.name}/train_manifest.json"
    assert run(monkeypatch, "--table", table, "--output_dir", tmp_path / "out") == 0
    assert imported(tmp_path / "out").keys() == {"wavs_0", "wavs_1", "wavs_2"}


def test_names_in_tars_of_nemo_are_never_guessed(tmp_path):
    files = {f"{folder}/a.flac": audio(seed=n)[0] for n, folder in enumerate("xy")}
    write_tar(tmp_path / "audio_0001.tar", files)
    write_tar(tmp_path / "audio_0011.tar", {"a.flac": audio(seed=5)[0]})
    names = ("x/a.flac", "./y/a.flac", "z/a.flac", "a.wav")
    lines = [{"audio_filepath": name, "text": "one", "shard_id": 1} for name in names]
    (tmp_path / "t.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = SourceOptions(output_dir="out", table=str(tmp_path / "t.json"))
    pattern = str(tmp_path / "audio_{0001,0011}.tar")
    found, bad = read_source(options, TableOptions(audio_tars=pattern))
    assert [u.id for u in found] == ["x_a", "y_a"]
    seeds = [read_member(u.source, u.member, "a") for u in found]
    assert [np.array_equal(s, audio(seed=n)[1]) for n, s in enumerate(seeds)] == [True, True]
    assert [(b.source, b.reason) for b in bad] == [("z/a.flac", "missing"), ("a.wav", "missing")]


# --- Hugging Face's audio folder


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_metadata_of_an_audio_folder(tmp_path, kind):
    folder = tmp_path / "corpus"
    for n, place in enumerate(("data/train", "data/test")):
        (folder / place).mkdir(parents=True)
        (folder / place / "a.wav").write_bytes(audio(seed=n, format="WAV")[0])

    def write(path, rows):
        if kind == "parquet":
            write_parquet(path, rows)
        elif kind == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            lines = [",".join(row.values()) for row in ({"n": "file_name", "t": "text"}, *rows)]
            path.write_text("\n".join(lines))

    expected = [("data_test_a", "two", "test"), ("data_train_a", "one", "train")]

    def found():
        assert layout_of(folder) == "audiofolder"
        options = SourceOptions(output_dir=str(tmp_path / "out"), audio_dir=str(folder))
        return sorted((u.id, u.text, u.split) for u in read_source(options, TableOptions())[0])

    for n, place in enumerate(("data/train", "data/test")):
        row = {"file_name": "a.wav", "transcription": WORDS[n]}
        write(folder / place / f"metadata.{kind}", [row])
    assert found() == expected
    for path in folder.rglob("metadata.*"):
        path.unlink()
    rows = [
        {"file_name": f"data/{place}/a.wav", "transcription": WORDS[n]}
        for n, place in enumerate(("train", "test"))
    ]
    write(folder / f"metadata.{kind}", rows)  # one for all
    assert found() == expected
