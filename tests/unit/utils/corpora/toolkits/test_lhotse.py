"""Lhotse's manifests: cuts, recordings with supervisions, Shar; compared with what Lhotse loads."""

import gzip
import json
import tarfile

import numpy as np
import pytest

from tests.unit.utils.corpora.toolkits.importing import imported, noise, write
from utils.corpora.rows import BadRow
from utils.corpora.sources import SourceOptions, read_source
from utils.corpora.tables import TableOptions
from utils.corpora.toolkits.lhotse import read_lhotse
from wav2vec2.cli.errors import UserError

KINDS = ("recordings", "supervisions")


def recording(name, seconds=3.0, channels=(0,), path="", **fields):
    source = {"type": "file", "channels": list(channels), "source": path or f"{name}.wav"}
    return {
        "id": name,
        "sources": [source],
        "sampling_rate": 16_000,
        "num_samples": int(16_000 * seconds),
        "duration": seconds,
        "channel_ids": list(channels),
        **fields,
    }


def supervision(name, start, seconds, text, of="a", channel=0, **fields):
    times = {"start": start, "duration": seconds, "channel": channel}
    return {"id": name, "recording_id": of, **times, "text": text, **fields}


def cut(name, found, start=0, seconds=None, supervisions=(), channel=0, type="MonoCut"):
    return {
        "id": name,
        "start": start,
        "duration": found["duration"] if seconds is None else seconds,
        "channel": channel,
        "supervisions": list(supervisions),
        "recording": found,
        "type": type,
    }


def write_lines(path, items):
    path.parent.mkdir(parents=True, exist_ok=True)
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8") as file:
        for item in items:
            print(item if isinstance(item, str) else json.dumps(item), file=file)
    return path


@pytest.fixture
def corpus(tmp_path):
    """A recipe's folder with two recordings, and cuts of them in data/manifests."""
    one = noise(tmp_path / "audio/a.wav", 3)
    two = noise(tmp_path / "audio/st.wav", 3, seed=1, channels=2)
    a, st = recording("a", path="audio/a.wav"), recording("st", 3, (0, 1), path="audio/st.wav")
    items = [
        cut(
            "c0",
            a,
            0.5,
            2.0,
            [
                supervision("s1", 0.0, 1.0, "hello there", speaker="ann", language="English"),
                supervision("s2", 1.25, 0.75, "bye", speaker="bob"),
            ],
        ),
        cut("c1", st, 0.25, 1.0, [supervision("t1", 0, 1.0, "right", "st", 1)], 1),
        cut(
            "c2",
            st,
            supervisions=[
                supervision("t2", 1.5, 1.0, "left", "st", 0),
                supervision("t3", 1.5, 1.5, "both", "st", [0, 1]),
            ],
            channel=[0, 1],
            type="MultiCut",
        ),
        cut("c3", a, supervisions=[supervision("s3", 0, 3.0, "all")]),
    ]
    path = write_lines(tmp_path / "data/manifests/x_cuts_train-clean.jsonl.gz", items)
    return path, one, two


@pytest.mark.parametrize("flag", ["--lhotse", "--table", "--audio_dir", "folder"])
def test_cuts(corpus, tmp_path, monkeypatch, flag):
    path, one, two = corpus
    place = path if flag in ("--lhotse", "--table") else path.parent
    flag = "--lhotse" if flag == "folder" else flag
    code, found, skipped = imported(
        monkeypatch, tmp_path / "out", flag, place, "--split", "train", "--case", "lower"
    )
    assert (code, skipped) == (0, set())
    base = f"{tmp_path}/audio/".lstrip("/").replace("/", "_")
    average = np.round(two.mean(axis=1)).astype(np.int16)
    expected = {
        "a_0000500": ("hello there", one[8000:24_000]),
        "a_0001750": ("bye", one[28_000:40_000]),
        "st_0000250_channel2": ("right", two[4000:20_000, 1]),
        "st_0001500_channel1": ("left", two[24_000:40_000, 0]),
        "st_0001500": ("both", average[24_000:]),
        "a": ("all", one),
    }
    assert {key.removeprefix(base): text for key, (_, text, _) in found.items()} == {
        key: text for key, (text, _) in expected.items()
    }
    for key, (_, samples) in expected.items():
        assert len(found[base + key][0]) == len(samples)
        assert abs(found[base + key][0].astype(int) - samples).max() <= 1  # halves are rounded


def test_the_samples_are_those_that_lhotse_loads(corpus, tmp_path, monkeypatch):
    lhotse = pytest.importorskip("lhotse")
    path, *_ = corpus
    _, found, _ = imported(monkeypatch, tmp_path / "out", "--lhotse", path, "--case", "lower")
    texts = {text: samples for samples, text, _ in found.values()}
    monkeypatch.chdir(tmp_path)  # where Lhotse's relative paths start
    for found in lhotse.CutSet.from_file(path):
        for piece in found.trim_to_supervisions(keep_overlapping=False):
            expected = piece.load_audio().mean(axis=0) * 32768
            assert abs(texts.pop(piece.supervisions[0].text) - expected).max() <= 1
    assert not texts


def test_shar(corpus, tmp_path, monkeypatch):
    lhotse = pytest.importorskip("lhotse")
    path, *_ = corpus
    monkeypatch.chdir(tmp_path)
    cuts = list(lhotse.CutSet.from_file(path))
    folders = {"train": cuts[:3], "dev": [cuts[3].with_id("dir/c.3"), cuts[0].with_id("c4")]}
    for name, members in folders.items():
        (tmp_path / "shar" / name).mkdir(parents=True)
        options = {"fields": {"recording": "flac"}, "shard_size": 2}
        lhotse.CutSet.from_cuts(members).to_shar(tmp_path / "shar" / name, **options)
    monkeypatch.chdir("/")
    flags = ("--audio_dir", tmp_path / "shar", "--allow_shared_speakers", "--case", "lower")
    code, found, skipped = imported(monkeypatch, tmp_path / "out", *flags)
    assert (code, skipped) == (0, set())
    assert {key: (len(x), text, subset) for key, (x, text, subset) in found.items()} == {
        "c0_0000000": (16_000, "hello there", "train"),
        "c0_0001250": (12_000, "bye", "train"),
        "c1": (16_000, "right", "train"),
        "c2_0001500_channel1": (16_000, "left", "train"),
        "c2_0001500": (24_000, "both", "train"),
        "dir_c.3": (48_000, "all", "valid"),
        "c4_0000000": (16_000, "hello there", "valid"),
        "c4_0001250": (12_000, "bye", "valid"),
    }
    for name in folders:
        for shared in lhotse.CutSet.from_shar(in_dir=tmp_path / "shar" / name):
            for piece in shared.trim_to_supervisions(keep_overlapping=False):
                expected = piece.load_audio().mean(axis=0) * 32768
                text = piece.supervisions[0].text
                (samples,) = (
                    x
                    for x, words, subset in found.values()
                    if (words, subset) == (text, {"dev": "valid"}.get(name, name))
                )
                assert abs(samples - expected).max() <= 1


def write_shar(folder, names, cut_names=()):
    """A shard as Lhotse writes it."""
    folder.mkdir(parents=True)
    with tarfile.open(folder / "recording.000000.tar", "w") as archive:
        for n, name in enumerate(names):
            noise(folder / "x.flac", 1, seed=n)
            archive.add(folder / "x.flac", f"{name}.flac")
            (folder / "x.flac").rename(folder / "x.json")  # any file: it is not read
            archive.add(folder / "x.json", f"{name}.json")
            (folder / "x.json").unlink()
    source = {"type": "shar", "channels": [0], "source": ""}
    items = [
        cut(
            name, recording("r", 1.0, sources=[source]), supervisions=[supervision(name, 0, 1, "x")]
        )
        for name in cut_names or names
    ]
    return write_lines(folder / "cuts.000000.jsonl.gz", items)


def test_damaged_shards_keep_what_is_whole(tmp_path, monkeypatch):
    path = write_shar(tmp_path / "s", ["c0", "c1", "c2"], ["c0", "c1", "c2", "c9"])
    archive = tmp_path / "s/recording.000000.tar"
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 3])
    code, found, skipped = imported(monkeypatch, tmp_path / "out", "--audio_dir", tmp_path / "s")
    assert (code, set(found)) == (1, {"c0"})
    assert {where for _, where in skipped} == {f"{path.name}:{n}" for n in (2, 3, 4)}
    archive.unlink()
    rows = list(read_lhotse(tmp_path / "s"))
    assert [row.reason for row in rows] == ["missing"] * 4


@pytest.mark.parametrize("given", ["folder", *KINDS])
def test_recordings_with_supervisions_as_lhotse_prepare_writes_them(tmp_path, monkeypatch, given):
    for n, part in enumerate(("train", "dev-clean", "test")):
        noise(tmp_path / f"{part}.wav", 2, seed=n)
        items = [supervision("s", 0.5, 1.0, f"words {part}", part, speaker=part)]
        write_lines(tmp_path / f"x_supervisions_{part}.jsonl.gz", items)
        others = [recording(part, 2.0)] + ([recording("unused", 1.0)] if n == 0 else [])
        write_lines(tmp_path / f"x_recordings_{part}.jsonl.gz", others)
    place = tmp_path if given == "folder" else tmp_path / f"x_{given}_train.jsonl.gz"
    code, found, skipped = imported(monkeypatch, tmp_path / "out", "--lhotse", place)
    parts = {"train": "train"}
    if given == "folder":
        parts |= {"dev-clean": "valid", "test": "test"}
    assert (code, skipped) == (1, {("no transcript", "x_recordings_train.jsonl.gz:2")})
    assert {key: (len(x), subset) for key, (x, _, subset) in found.items()} == {
        f"{part}_0000500": (16_000, subset) for part, subset in parts.items()
    }


def test_recordings_alone_are_audio_alone(tmp_path, monkeypatch):
    noise(tmp_path / "a.wav", 2)
    path = write_lines(tmp_path / "recordings_all.jsonl", [recording("a", 2.0)])
    code, found, _ = imported(monkeypatch, tmp_path / "out", "--lhotse", path)
    assert (code, {k: (len(x), t) for k, (x, t, _) in found.items()}) == (0, {"a": (32_000, None)})


A = recording("a", 1.0)
S = [supervision("s", 0, 1.0, "so")]


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (
            cut("c", A | {"transforms": [{"name": "Speed", "kwargs": {}}]}, supervisions=S),
            "augmented",
        ),
        (cut("c", A | {"transforms": [{"name": "Resample", "kwargs": {}}]}, supervisions=S), None),
        ({"id": "m", "tracks": [{"cut": cut(n, A, supervisions=S)} for n in "ab"]}, "mixed"),
        (
            {
                "id": "p",
                "type": "MixedCut",
                "tracks": [
                    {"cut": cut("c", A, supervisions=S)},
                    {"cut": {"id": "0", "duration": 2.0, "type": "PaddingCut"}, "offset": 1.0},
                ],
            },
            None,
        ),
        ({"id": "0", "duration": 2.0, "type": "PaddingCut"}, "padding"),
        (cut("c", None, seconds=1.0, supervisions=S), "no audio"),
        (cut("c", A | {"sources": [A["sources"][0] | {"type": "url"}]}, supervisions=S), "url"),
        (
            cut("c", A | {"sources": [A["sources"][0] | {"type": "memory"}]}, supervisions=S),
            "memory",
        ),
        (cut("c", A | {"sources": [A["sources"][0] | {"type": "disc"}]}, supervisions=S), "row"),
        (
            cut("c", A | {"sources": [A["sources"][0] | {"type": "command"}]}, supervisions=S),
            "command",
        ),
        (cut("c", A, supervisions=[S[0] | {"text": 7}]), "row"),
        (cut("c", A, start="0", supervisions=S), "row"),
        (cut("c", {"id": "a"}, seconds=1.0, supervisions=S), "row"),
        ({"id": "c"}, "no audio"),
        (cut("c", A, start=10**400, supervisions=S), "row"),
        (cut("c", A, start=float("nan"), supervisions=S), "time"),
        (cut("c", A, supervisions=[S[0] | {"duration": float("inf")}]), "time"),
        ("[1, 2]", "row"),
        ("{half a line", "row"),
    ],
)
def test_what_is_not_read_is_a_bad_row(tmp_path, item, reason):
    noise(tmp_path / "b.wav")
    good = cut("good", recording("b", 1.0), supervisions=S)
    path = write_lines(tmp_path / "cuts.jsonl", [item, good])
    found, bad = read_source(SourceOptions("out", lhotse=str(path)), TableOptions())
    assert [row.reason for row in bad] == ([reason] if reason else [])
    assert [u.source.name for u in found] == ([] if reason else ["a.wav"]) + ["b.wav"]
    assert all(row.where == f"{path}:1" for row in bad)


def test_a_truncated_manifest_keeps_its_first_lines(tmp_path, monkeypatch):
    noise(tmp_path / "a.wav")
    items = [cut(f"c{n}", A, supervisions=[S[0] | {"id": f"{n}" * 50}]) for n in range(3000)]
    path = write_lines(tmp_path / "cuts.jsonl.gz", items)
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], content[:1000] + b"\0" * 2000 + content[3000:]):
        path.write_bytes(damaged)
        rows = list(read_lhotse(path))
        assert isinstance(rows[-1], BadRow) and rows[-1].reason == "row"
        assert rows[-1].where == str(path) and "cannot be read" in rows[-1].detail


def test_commands_of_sources_run_only_if_allowed(tmp_path, monkeypatch):
    expected = noise(tmp_path / "a.wav", channels=2)
    source = {"type": "command", "channels": [0, 1], "source": "cat a.wav"}
    of_a = recording("call.1", 1.0, (0, 1), sources=[source])
    noise(tmp_path / "b.wav")
    items = [
        cut("c", of_a, supervisions=[supervision("s", 0, 1, "so", "call.1", 1)], channel=1),
        cut("d", recording("b", 1.0), supervisions=S),
    ]
    path = write_lines(tmp_path / "cuts.jsonl", items)
    monkeypatch.chdir(tmp_path)
    code, found, skipped = imported(monkeypatch, tmp_path / "no", "--lhotse", path)
    assert (code, set(found), skipped) == (1, {"b"}, {("command", "cuts.jsonl:1")})
    code, found, _ = imported(monkeypatch, tmp_path / "yes", "--lhotse", path, "--allow_pipes")
    assert code == 0 and np.array_equal(found["call.1_channel2"][0], expected[:, 1])


def test_files_of_several_microphones_are_a_row_each(tmp_path):
    sources = [{"type": "file", "channels": [n], "source": f"{n}.wav"} for n in range(2)]
    array = recording("r", 1.0, (0, 1), sources=sources)
    item = cut("c", array, supervisions=[S[0] | {"channel": [0, 1]}], channel=[0, 1])
    rows = list(read_lhotse(write_lines(tmp_path / "cuts.jsonl", [item])))
    assert [(row.audio.name, row.channel) for row in rows] == [("0.wav", None), ("1.wav", None)]
    assert len({row.group for row in rows} - {""}) == 1


@pytest.mark.parametrize(
    ("name", "content", "flags", "message"),
    [
        ("none.jsonl", None, {}, "no such file or folder"),
        ("cuts.yaml", "x", {}, "not .jsonl, .jsonl.gz or .json"),
        ("empty.jsonl", "", {}, "names no recordings; name a manifest"),
        ("cuts.jsonl", '{"id": 1}\n', {}, "a cut without a recording"),
        ("cuts.jsonl", '{"recording": {"id": 1}}\n', {}, "not a cut of Lhotse's .*sources"),
        ("cuts.jsonl", "x", {"format": "tsv"}, "--format tsv: not for --lhotse"),
        ("cuts.jsonl", "x", {"table": "t.tsv"}, "give one of"),
        ("cuts.jsonl", "x", {"channel": "each"}, "--channel each: a row of --lhotse"),
        ("x_supervisions_dev.jsonl", json.dumps(S[0]), {}, "no manifest of its recordings"),
    ],
)
def test_mistakes_are_named(tmp_path, name, content, flags, message):
    if content is not None:
        write(tmp_path, {name: content})
    with pytest.raises(UserError, match=message):
        options = SourceOptions("out", lhotse=str(tmp_path / name), **flags)
        read_source(options, TableOptions())


def test_a_table_with_columns_of_its_own_is_no_manifest(tmp_path):
    fields = {"id": "1", "recording_id": "a", "start": 0, "duration": 1.0, "channel": 0}
    row = {**fields, "path": "a.wav", "text": "so"}
    path = write_lines(tmp_path / "t.jsonl", [row])
    (found,), bad = read_source(SourceOptions("out", table=str(path)), TableOptions())
    assert (found.source.name, found.text, bad) == ("a.wav", "so", [])
