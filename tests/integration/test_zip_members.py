"""Filelists of stored zip members, through the commands: the results are those of files."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

import inference
from wav2vec2.audio.recordings import named_recording, recording_key, unique_ids
from wav2vec2.files.filelists import read_labels, read_manifest, write_manifest
from wav2vec2.files.output import write_lines


@pytest.fixture
def archived(corpus, tmp_path):
    """Folder of the same utterances as `dev`, in one archive; ids of members by those of files."""
    folder = tmp_path / "archived"
    folder.mkdir()
    manifest = read_manifest(corpus, "dev")
    with zipfile.ZipFile(folder / "all.zip", "w", zipfile.ZIP_STORED) as archive:
        for utterance in manifest.utterances:
            archive.write(utterance.path, f"{utterance.id}.flac")
        infos = archive.infolist()
    content = (folder / "all.zip").read_bytes()
    files, ids = [], {}
    for utterance, info in zip(manifest.utterances, infos, strict=True):
        with open(utterance.path, "rb") as file:
            offset = content.index(file.read())
        files.append((f"all.zip:{offset}:{info.file_size}", utterance.samples))
        ids[utterance.id] = f"all_{offset}"
    write_manifest(folder, "dev", ".", files)
    for extension in ("ltr", "wrd"):
        write_lines(folder / f"dev.{extension}", read_labels(manifest, extension).values())
    return folder, ids


@pytest.fixture
def infer(command, random_recogniser):
    """Run a command of inference.py with the checkpoint; standard output, after exit code 0."""

    def run(name, *arguments):
        flags = ["--checkpoint", random_recogniser, "--cpu"]
        code, out, err = command(inference.main, name, *flags, *arguments)
        assert code == 0, err
        return out

    return run


def test_transcribe(infer, corpus, archived, tmp_path):
    folder, ids = archived
    pairs = [
        [line.split("\t") for line in infer("transcribe", "--filelist", list).splitlines()]
        for list in (corpus / "dev.tsv", folder / "dev.tsv")
    ]
    assert [text for _, text in pairs[0]] == [text for _, text in pairs[1]]
    members = [name for name, _ in pairs[1]]
    assert members == [u.path for u in read_manifest(folder, "dev").utterances]
    (folder / "list.txt").write_text("\n".join(name.rpartition("/")[2] for name in members))
    for given in (["--filelist", folder / "dev.tsv"], ["--filelist", folder / "list.txt"], members):
        infer("transcribe", "--output_dir", tmp_path / "o", *given)
        written = {path.name: path.read_text() for path in (tmp_path / "o").iterdir()}
        assert written == {
            f"{id}.txt": f"{text}\n" for id, (_, text) in zip(ids.values(), pairs[1], strict=True)
        }


def test_evaluate(infer, corpus, archived, tmp_path):
    folder, ids = archived
    found = []
    for source in (corpus, folder):
        flags = ["--dataset_dir", source, "--subset", "dev", "--output_dir", tmp_path / source.name]
        infer("evaluate", *flags, "--num_workers", 0, "--save_log_probs")
        lines = (tmp_path / source.name / "hypotheses_dev.jsonl").read_text().splitlines()
        found.append([json.loads(line) for line in lines])
    assert found[1] == [{**entry, "id": ids[entry["id"]]} for entry in found[0]]
    names = {path.stem for path in (tmp_path / folder.name / "log_probs" / "dev").iterdir()}
    assert names == set(ids.values())


def test_align(infer, corpus, archived, tmp_path):
    folder, ids = archived
    for source in (corpus, folder):
        flags = ["--dataset_dir", source, "--subset", "dev", "--output_dir", tmp_path / source.name]
        infer("align", *flags, "--num_workers", 0)
    for key, member in ids.items():
        one = json.loads((tmp_path / corpus.name / f"{key}.json").read_text())
        other = json.loads((tmp_path / folder.name / f"{member}.json").read_text())
        assert one.pop("file") != other.pop("file") and one == other
        assert (tmp_path / folder.name / f"{member}.TextGrid").is_file()
    member = read_manifest(folder, "dev").utterances[0].path
    infer("align", member, "--text", "AN", "--output_dir", tmp_path / "alone")
    assert (tmp_path / "alone" / f"{ids[next(iter(ids))]}.json").is_file()


def test_features(infer, corpus, archived, tmp_path):
    folder, ids = archived
    for source in (corpus, folder):
        flags = ["--dataset_dir", source, "--subset", "dev", "--output_dir", tmp_path / source.name]
        infer("features", *flags, "--num_workers", 0)
    members = [u.path for u in read_manifest(folder, "dev").utterances]
    infer("features", *members, "--output_dir", tmp_path / "listed")
    for key, member in ids.items():
        expected = np.load(tmp_path / corpus.name / f"{key}.npz")["features"]
        for output in (folder.name, "listed"):
            found = np.load(tmp_path / output / f"{member}.npz")["features"]
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_file_called_like_a_member_is_kept_apart():
    paths = [Path("a.zip:6:90"), Path("a_6.wav")]
    recordings = [named_recording(recording_key(path, path.parent), path) for path in paths]
    assert [recording.id for recording in unique_ids(recordings)] == ["a_6_zip", "a_6_wav"]
