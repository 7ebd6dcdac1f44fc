import hashlib
import os
import shutil
import subprocess
import zipfile

import numpy as np
import pytest
import soundfile

from common.data.batching import BatchPlan, Geometry
from common.data.dataset import UtteranceDataset
from common.data.packed import NotSixteenBit, PackOptions, encode, pack_filelists, verify_shards
from utils.data import pack_dataset
from wav2vec2.audio.decode import read_utterance
from wav2vec2.audio.packed import FLOAT32, INT16, read_audio
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import ExitCode, UserError, run_command
from wav2vec2.files.filelists import read_labels, read_manifest, write_manifest
from wav2vec2.files.output import write_lines

LENGTHS = [700_000, 300_001, 20_000, 400_000, 7, 600_000, 16_000, 16_001]
"""With shards of a MiB: several that hold one, some that hold more."""
SHARDS = 5


def noise(samples, seed, scale=0.1):
    return (scale * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    (folder / "audio").mkdir(parents=True)
    files = []
    for number, samples in enumerate(LENGTHS):
        name = f"u.{number}.{'flac' if number % 2 else 'wav'}"
        path = folder / "audio" / name
        soundfile.write(path, noise(samples, number), SAMPLE_RATE, subtype="PCM_16")
        files.append((name, samples))
    write_manifest(folder, "train", folder / "audio", files)
    write_lines(folder / "train.ltr", [f"A {n} |" for n in range(len(LENGTHS))])
    write_lines(folder / "train.phn", [f"AH{n}" for n in range(len(LENGTHS))])
    write_lines(folder / "dict.ltr.txt", ["A 1"])
    write_lines(folder / "dict.spm.txt", ["x 1"])
    (folder / "spm.model").write_bytes(b"pieces")
    (folder / "train.zip").write_bytes(b"an archive, no labels")
    write_lines(folder / "train.other.ltr", ["of another filelist"])
    return folder


def options(corpus, output, *subsets, **changed):
    values = {"shard_mib": 1, "num_workers": 1, **changed}
    return PackOptions(str(output), subsets or ("train",), str(corpus), **values)


def content(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.fixture
def packed(corpus, tmp_path):
    pack_filelists(options(corpus, tmp_path / "packed"))
    return tmp_path / "packed"


def assert_same_audio(one, other):
    assert [u.id for u in one.utterances] == [u.id for u in other.utterances]
    assert [u.samples for u in one.utterances] == [u.samples for u in other.utterances]
    for a, b in zip(one.utterances, other.utterances, strict=True):
        assert read_audio(a.path, a.samples).tobytes() == read_audio(b.path, b.samples).tobytes()


def test_what_a_packed_folder_holds(corpus, packed):
    shards = [f"train-{n:05d}.pack" for n in range(SHARDS)]
    labels = ["train.ltr", "train.phn", "dict.ltr.txt", "dict.spm.txt", "spm.model"]
    assert sorted(content(packed)) == sorted([*shards, *labels, "train.sha256", "train.tsv"])
    assert_same_audio(read_manifest(corpus, "train"), read_manifest(packed, "train"))
    for extension in ("ltr", "phn"):
        expected = read_labels(read_manifest(corpus, "train"), extension)
        assert read_labels(read_manifest(packed, "train"), extension) == expected
    for name in shards:  # samples alone after the header, none of them wide
        assert (packed / name).stat().st_size <= 64 + max(2**20, 2 * max(LENGTHS))
    total = sum((packed / name).stat().st_size for name in shards)
    assert total == SHARDS * 64 + 2 * sum(LENGTHS)


@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("normalised", [True, False])
def test_the_same_batches_bit_for_bit(corpus, packed, crop, normalised):
    plan = BatchPlan(LENGTHS, max_tokens=1_400_000, seed=1, geometry=Geometry(1, 2, 1), flags="")
    datasets = [
        UtteranceDataset(
            read_manifest(folder, "train").utterances,
            seed=3,
            crop=crop,
            max_samples=250_000,
            normalize_input=normalised,
            draw=lambda lengths, key: {"lengths": lengths, "key": key},
        )
        for folder in (corpus, packed)
    ]
    for epoch in range(2):
        for request in plan.requests(epoch):
            one, other = (dataset.load(request) for dataset in datasets)
            assert one.ids == other.ids and one.draws == other.draws and one.key == other.key
            assert one.lengths.tolist() == other.lengths.tolist()
            assert one.waveforms.numpy().tobytes() == other.waveforms.numpy().tobytes()


def test_the_folder_can_be_moved(corpus, packed, tmp_path):
    packed.rename(tmp_path / "elsewhere")
    assert_same_audio(
        read_manifest(corpus, "train"), read_manifest(tmp_path / "elsewhere", "train")
    )


def test_processes_change_nothing(corpus, packed, tmp_path):
    pack_filelists(options(corpus, tmp_path / "two", num_workers=2))
    assert content(tmp_path / "two") == content(packed)


def test_a_packed_folder_can_be_packed_again(corpus, packed, tmp_path):
    pack_filelists(options(packed, tmp_path / "whole", shard_mib=100))
    assert_same_audio(read_manifest(corpus, "train"), read_manifest(tmp_path / "whole", "train"))
    assert len(list((tmp_path / "whole").glob("*.pack"))) == 1


def test_filelists_in_folders_and_zip_members(corpus, tmp_path):
    (corpus / "english").mkdir()
    archive = corpus / "a.zip"
    source = corpus / "audio" / "u.2.wav"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(source, "u.2.wav")
    offset = archive.read_bytes().index(source.read_bytes())
    member = f"a.zip:{offset}:{source.stat().st_size}"
    write_manifest(corpus / "english", "one", corpus, [(member, LENGTHS[2])])
    pack_filelists(options(corpus, tmp_path / "out", "english/one"))
    assert_same_audio(
        read_manifest(corpus, "english/one"), read_manifest(tmp_path / "out", "english/one")
    )


@pytest.fixture
def wide(tmp_path):
    """Utterances of 16, 24 and 32 bits; the last one alone in its shard."""
    folder = tmp_path / "wide"
    folder.mkdir()
    files = []
    kinds = [
        ("PCM_16", 9000),
        ("PCM_24", 9000),
        ("PCM_U8", 500),
        ("FLOAT", 9000),
        ("PCM_16", 600_000),
    ]
    for number, (kind, samples) in enumerate(kinds):
        wave = noise(samples, number)
        wave[:2] = 1.5, -1.5  # a float file keeps it
        soundfile.write(folder / f"w{number}.wav", wave, SAMPLE_RATE, subtype=kind)
        files.append((f"w{number}.wav", samples))
    write_manifest(folder, "train", folder, files)
    return folder


def test_more_than_16_bits_are_kept(wide, tmp_path):
    pack_filelists(options(wide, tmp_path / "out"))
    assert_same_audio(read_manifest(wide, "train"), read_manifest(tmp_path / "out", "train"))
    sizes = [p.stat().st_size for p in sorted((tmp_path / "out").glob("*.pack"))]
    assert sizes == [64 + 4 * 27_500, 64 + 2 * 600_000]


def test_quantise_rounds_to_the_nearest_of_16_bits(wide, tmp_path):
    pack_filelists(options(wide, tmp_path / "out", quantise=True))
    pairs = zip(
        read_manifest(wide, "train").utterances, read_manifest(tmp_path / "out", "train").utterances
    )
    for source, target in pairs:
        waveform = read_utterance(source.path)
        exact = [min(max(round(float(x) * 32768), -32768), 32767) / 32768 for x in waveform[:3000]]
        assert read_audio(target.path, target.samples)[:3000].tolist() == exact
    assert sum(p.stat().st_size for p in (tmp_path / "out").glob("*.pack")) == 128 + 2 * 627_500


@pytest.mark.parametrize("sample", [-0.0, 1.0, 1 / 65536, 2.0])
def test_one_sample_that_16_bits_do_not_hold(sample):
    waveform = np.array([0.5, sample], dtype=np.float32)
    with pytest.raises(NotSixteenBit):
        encode(waveform, INT16, False)
    assert encode(waveform, FLOAT32, False) == waveform.tobytes()


class Stopped(BaseException):
    pass


def test_an_interrupted_run_resumes(corpus, packed, tmp_path, monkeypatch):
    output = tmp_path / "parts"
    replace, done = os.replace, []

    def stop_at_the_third(source, target):
        if str(target).endswith(".pack"):
            if len(done) == 2:
                raise Stopped
            done.append(target)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop_at_the_third)
        with pytest.raises(Stopped):
            pack_filelists(options(corpus, output))
    with pytest.raises(UserError, match=r"train\.tsv: no such file"):
        read_manifest(output, "train")
    before = {p: p.stat().st_mtime_ns for p in output.glob("*.pack")}
    assert len(before) == 2
    (output / ".train-00002.pack.123.tmp").write_bytes(b"left by a killed process")
    pack_filelists(options(corpus, output))
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert content(output) == content(packed)


def test_unfinished_shards_of_another_data_set_are_replaced(corpus, packed, tmp_path):
    output = tmp_path / "other"
    pack_filelists(options(corpus, output, quantise=True))
    (output / "train.tsv").unlink()
    pack_filelists(options(corpus, output))
    assert content(output) == content(packed)


def test_packing_twice_does_nothing(corpus, packed, capsys):
    before = {p: p.stat().st_mtime_ns for p in packed.iterdir()}
    pack_filelists(options(corpus, packed))
    assert {p: p.stat().st_mtime_ns for p in packed.iterdir()} == before
    assert "was packed already" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["quantise", "shard_mib", "filelist", "dataset_dir"])
def test_another_data_set_is_not_overwritten(corpus, packed, tmp_path, change):
    flags = {"quantise": {"quantise": True}, "shard_mib": {"shard_mib": 2}}.get(change, {})
    if change == "filelist":
        lines = (corpus / "train.tsv").read_text().splitlines()
        write_lines(corpus / "train.tsv", lines[:-1])
    if change == "dataset_dir":
        shutil.copytree(corpus, tmp_path / "copy")
        corpus = tmp_path / "copy"
        lines = (corpus / "train.tsv").read_text().splitlines()
        write_lines(corpus / "train.tsv", [str(corpus / "audio"), *lines[1:]])
    before = content(packed)
    with pytest.raises(UserError, match=r"packed/train\.tsv: exists and is not what"):
        pack_filelists(options(corpus, packed, **flags))
    assert content(packed) == before


def test_into_the_folder_of_the_filelists(corpus):
    before = content_of_files(corpus)
    with pytest.raises(UserError, match=r"corpus/train\.tsv: exists and is not what"):
        pack_filelists(options(corpus, corpus))
    assert content_of_files(corpus) == before


def content_of_files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def test_another_dictionary_is_not_overwritten(corpus, tmp_path):
    (tmp_path / "out").mkdir()
    write_lines(tmp_path / "out" / "dict.ltr.txt", ["B 1"])
    with pytest.raises(UserError, match=r"out/dict\.ltr\.txt: exists and differs from"):
        pack_filelists(options(corpus, tmp_path / "out"))
    assert list(content(tmp_path / "out")) == ["dict.ltr.txt"]


def test_every_bad_file_is_named_and_the_rest_is_kept(corpus, packed, tmp_path, capsys):
    good = (corpus / "audio" / "u.3.flac").read_bytes()
    (corpus / "audio" / "u.3.flac").write_bytes(good[:1000])
    gone = corpus / "audio" / "u.5.flac"
    gone.rename(tmp_path / "gone")
    with pytest.raises(UserError, match="2 utterances cannot be packed, as listed above"):
        pack_filelists(options(corpus, tmp_path / "out"))
    errors = capsys.readouterr().err
    assert "u.3.flac: not decodable" in errors and "u.5.flac: cannot be opened" in errors
    assert not (tmp_path / "out" / "train.tsv").exists()
    (corpus / "audio" / "u.3.flac").write_bytes(good)
    (tmp_path / "gone").rename(gone)
    pack_filelists(options(corpus, tmp_path / "out"))
    assert content(tmp_path / "out") == content(packed)


def test_a_full_disk(corpus, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match=r"00000\.pack: cannot be written \(No space left"):
            pack_filelists(options(corpus, tmp_path / "out"))
    assert not list((tmp_path / "out").glob("*.pack*"))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2 * sum(LENGTHS)))
    with pytest.raises(UserError, match=r"--output_dir .* GiB are needed, .* GiB are free"):
        pack_filelists(options(corpus, tmp_path / "out"))
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: usage._replace(free=2 * sum(LENGTHS) + SHARDS * 64)
    )
    pack_filelists(options(corpus, tmp_path / "out"))


def test_checksums_are_those_of_sha256sum(packed):
    for line in (packed / "train.sha256").read_text().splitlines():
        expected, name = line.split("  ")
        assert hashlib.sha256((packed / name).read_bytes()).hexdigest() == expected
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--quiet", "-c", "train.sha256"], cwd=packed, check=True)


def test_verify(corpus, packed, capsys):
    asked = options("", packed, verify=True)
    assert verify_shards(asked) == ExitCode.DONE
    assert "5 of 5 shards are as packed" in capsys.readouterr().out
    changed = bytearray((packed / "train-00001.pack").read_bytes())
    changed[5000] ^= 1
    (packed / "train-00001.pack").write_bytes(changed)
    (packed / "train-00003.pack").unlink()
    assert verify_shards(asked) == ExitCode.SOME_FAILED
    out, errors = capsys.readouterr()
    assert "3 of 5 shards are as packed" in out
    assert "train-00001.pack: its SHA-256 is not that" in errors
    assert "train-00003.pack: cannot be read (No such file" in errors
    with pytest.raises(UserError, match=r"train\.sha256: cannot be read .*--verify needs"):
        verify_shards(options("", corpus, verify=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--subsets", "train", "train"], "--subsets train train: name each filelist once"),
        (["--subsets"], "--subsets: names no filelist"),
        (["--subsets", "train", "--shard_mib", "0"], "--shard_mib 0: must be at least 1"),
        (["--subsets", "dev"], "dev.tsv: no such file (it has train.tsv)"),
    ],
)
def test_mistakes_get_one_line(corpus, tmp_path, monkeypatch, capsys, arguments, message):
    command = ["pack", "--dataset_dir", str(corpus), "--output_dir", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", [*command, *arguments])
    with pytest.raises(SystemExit) as stop:
        run_command(pack_dataset.main)
    assert stop.value.code == ExitCode.USER_ERROR
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_files_of_one_name_stay_apart(tmp_path):
    (tmp_path / "in").mkdir()
    files = []
    for number, folder in enumerate(("a", "b")):
        (tmp_path / "in" / folder).mkdir()
        path = tmp_path / "in" / folder / "x.wav"
        soundfile.write(path, noise(900, number), SAMPLE_RATE, subtype="PCM_16")
        files.append((f"{folder}/x.wav", 900))
    write_manifest(tmp_path / "in", "some", tmp_path / "in", files)
    pack_filelists(options(tmp_path / "in", tmp_path / "out", "some"))
    one, other = (read_manifest(tmp_path / place, "some") for place in ("in", "out"))
    assert [u.id for u in one.utterances] == ["a_x", "b_x"]
    assert_same_audio(one, other)
