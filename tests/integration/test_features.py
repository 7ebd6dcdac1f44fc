"""`inference.py features`: what is written, and that batches change nothing."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
import soundfile
import torch

import inference
from tests.integration.test_bad_input import one_line
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.config import MINI, ContrastiveObjective, Hourglass, Regularisation
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.files.filelists import write_manifest
from wav2vec2.files.torch_file import load_checkpoint, save_checkpoint
from wav2vec2.interop import native
from wav2vec2.pretraining import Wav2Vec2ForPretraining
from wav2vec2.text.vocabulary import Vocabulary

ARCHITECTURE = replace(MINI, hourglass=Hourglass(1, 2, 2, 1))
SAMPLES = [16_000, 4_321, 399, 15_500, 9_777]
FRAMES = [49, 13, 0, 48, 30]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    torch.manual_seed(0)
    model = Wav2Vec2ForPretraining.from_config(
        ARCHITECTURE, Regularisation(), ContrastiveObjective()
    )
    path = tmp_path_factory.mktemp("model") / "pretrained.pt"
    content = native.pretraining_content(ARCHITECTURE)
    save_checkpoint(path, {**content, "model": model.state_dict()})
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Recordings of noise, one too short for a frame, and a filelist of them."""
    folder = tmp_path_factory.mktemp("audio")
    generator = np.random.default_rng(0)
    lines = [str(folder)]
    for number, samples in enumerate(SAMPLES):
        noise = 0.1 * generator.standard_normal(samples) * (1 + number)
        soundfile.write(folder / f"{number}.wav", np.clip(noise, -1, 0.99), SAMPLE_RATE)
        lines.append(f"{number}.wav\t{samples}")
    (folder / "noise.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def take(command, pretrained, tmp_path):
    def run(*arguments, output="o"):
        code, out, err = command(
            inference.main,
            *["features", "--checkpoint", pretrained, "--cpu", "--num_workers", 0],
            *["--output_dir", tmp_path / output, *arguments],
        )
        assert code == 0, err
        return tmp_path / output

    return run


def read(folder):
    return {path.stem: dict(np.load(path)) for path in folder.glob("*.npz")}


@pytest.mark.parametrize(
    "what",
    [
        ["--layer", "0"],
        ["--layer", "1"],
        ["--layer", "2"],
        [],
        ["--output", "extractor"],
        ["--output", "codes"],
    ],
    ids=lambda what: "".join(what[-1:]) or "last",
)
def test_batched_and_alone(take, folder, what):
    together = read(take(*what, "--subset", "noise", "--dataset_dir", folder, "--batch_size", 3))
    alone = read(take(*what, folder, "--batch_size", 1, output="alone"))
    assert together.keys() == alone.keys() == {str(n) for n in range(len(SAMPLES))}
    middle = what == ["--layer", "2"]
    width = {"extractor": 128, "codes": 2}.get((what or [""])[-1], 144)
    for number, count in enumerate(FRAMES):
        a, b = together[str(number)], alone[str(number)]
        rows = -(-count // 2) if middle else count
        assert a["features"].shape == b["features"].shape == (rows, width)
        if "codes" in what:
            assert a["features"].dtype == np.int32
            assert np.array_equal(a["features"], b["features"])
        else:
            assert a["features"].dtype == np.float32
            assert np.abs(a["features"] - b["features"]).max(initial=0) <= 1e-5
        step = 0.04 if middle else 0.02
        assert np.allclose(a["times"], np.arange(rows) * step)
        assert np.array_equal(a["times"], b["times"])


def test_formats_hold_the_same(take, folder):
    source = ["--subset", "noise", "--dataset_dir", folder, "--layer", 3]
    expected = read(take(*source))
    tensors = take(*source, "--format", "safetensors", output="s")
    stored = take(*source, "--format", "store", output="store")
    frames = np.load(stored / "features.npy", mmap_mode="r")
    head, *lines = (stored / "index.tsv").read_text().splitlines()
    assert head.split("\t") == ["id", "first", "frames"]
    places = {key: (int(a), int(n)) for key, a, n in (line.split("\t") for line in lines)}
    assert places.keys() == expected.keys() and len(frames) == sum(n for _, n in places.values())
    for key, values in expected.items():
        first, count = places[key]
        assert np.array_equal(frames[first : first + count], values["features"])
        loaded = safetensors.numpy.load((tensors / f"{key}.safetensors").read_bytes())
        assert np.array_equal(loaded["features"], values["features"])
        assert np.array_equal(loaded["times"], values["times"])
    described = json.loads((stored / "features.json").read_text())
    assert (described["layer"], described["width"], described["frame_seconds"]) == (3, 144, 0.04)
    assert not list(stored.glob(".*"))


def test_a_recogniser_has_the_features_of_its_trunk(take, folder, pretrained, tmp_path):
    vocabulary = Vocabulary(["|", "A"])
    recogniser = Wav2Vec2ForCTC.from_config(ARCHITECTURE, Regularisation(), len(vocabulary))
    native.load_pretrained_trunk(recogniser, load_checkpoint(pretrained), "test")
    content = native.ctc_content(ARCHITECTURE, vocabulary, "ltr")
    path = tmp_path / "ctc.pt"
    save_checkpoint(path, {**content, "model": recogniser.state_dict()})
    expected = read(take(folder / "0.wav"))["0"]["features"]
    found = read(take(folder / "0.wav", "--checkpoint", path, output="ctc"))["0"]["features"]
    assert np.array_equal(found, expected)


def test_what_cannot_be_read_is_listed(command, pretrained, folder, tmp_path):
    (tmp_path / "bad.wav").write_text("no audio")
    code, out, err = command(
        inference.main,
        *["features", "--checkpoint", pretrained, "--cpu", "--output_dir", tmp_path / "o"],
        *[tmp_path / "bad.wav", folder / "1.wav", tmp_path / "gone.wav"],
    )
    assert code == 1 and "features of 1 of 3" in out
    assert "bad.wav" in err and "gone.wav" in err
    assert [path.name for path in (tmp_path / "o").glob("*.npz")] == ["1.npz"]


def test_what_cannot_be_read_of_a_subset_is_listed(command, pretrained, folder, tmp_path):
    """Also in a batch, whose other utterances are still processed."""
    files = [(name, soundfile.info(folder / name).frames) for name in ("0.wav", "1.wav", "2.wav")]
    for name, _ in files:
        shutil.copy(folder / name, tmp_path / name)
    (tmp_path / "1.wav").write_text("no audio")
    write_manifest(tmp_path, "some", tmp_path, [*files, ("gone.wav", 9000)])
    code, out, err = command(
        inference.main,
        *["features", "--checkpoint", pretrained, "--cpu", "--output_dir", tmp_path / "o"],
        *["--dataset_dir", tmp_path, "--subset", "some", "--num_workers", "0"],
    )
    assert code == 1 and "features of 2 of 4" in out
    assert "1.wav" in err and "gone.wav" in err
    assert sorted(path.name for path in (tmp_path / "o").glob("*.npz")) == ["0.npz", "2.npz"]
    assert (tmp_path / "o" / "features.json").exists()


def test_mistakes(command, pretrained, folder, tmp_path):
    arguments = ["features", "--checkpoint", pretrained, "--cpu", "--output_dir", tmp_path / "o"]
    for more, message in [
        ([], "either recordings"),
        (["--layer", "5", folder], "layers 0 to 4"),
        (["--layer", "-1", folder], "layers 0 to 4"),
        (["--layer", "1", "--output", "codes", folder], "has no layers"),
        ([folder / "0.wav", "--subset", "noise"], "either recordings"),
    ]:
        one_line(command(inference.main, *arguments, *more), message)
    content = load_checkpoint(pretrained)
    content["model"] = {k: v for k, v in content["model"].items() if "quantizer" not in k}
    save_checkpoint(tmp_path / "trunk.pt", content)
    arguments[2] = tmp_path / "trunk.pt"
    one_line(
        command(inference.main, *arguments, "--output", "codes", folder),
        "quantizer.vars is missing",
    )
