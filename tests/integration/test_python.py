"""The packages as a user of Python has them: documented examples, and an installation."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from tests.integration.conftest import ROOT, say
from tests.unit.wav2vec2.decoding.arpa import bigrams, write_arpa
from utils.benchmarks.transcription import write_model
from wav2vec2.audio.resample import SAMPLE_RATE


def run_python(script: str, folder: Path, packages: Path) -> subprocess.CompletedProcess:
    """A script in `folder`, which sees the packages in `packages`."""
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(packages), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def folder(tmp_path):
    """A folder with what the examples name."""
    write_model(tmp_path / "model.pt", "mini")
    for suffix in ("wav", "mp3"):
        soundfile.write(tmp_path / f"recording.{suffix}", say("CAT"), SAMPLE_RATE)
    return tmp_path


def test_documented_examples(folder):
    document = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", document, flags=re.DOTALL)
    assert len(examples) >= 4
    result = run_python("\n".join(examples), folder, ROOT)
    assert result.returncode == 0, result.stderr
    assert "\nWEBVTT\n" in result.stdout
    assert "missing.wav: cannot be opened" in result.stdout.splitlines()[-1]


def test_what_load_refuses(folder):
    script = """
import wav2vec2
for arguments in [
    dict(path="gone.pt"),
    dict(path="model.pt", device="nonsense"),
    dict(path="model.pt", beams=3),
    dict(path="model.pt", batch_size=0),
    dict(path="model.pt", lm="x.arpa"),
    dict(path="model.pt", device="meta"),
    dict(path="model.pt", device=[]),
    dict(path="model.pt", precision="fp8"),
    dict(path="model.pt", batch_size="8"),
    dict(path="model.pt", window_seconds="30"),
    dict(path="model.pt", decoder="foo"),
    dict(path="model.pt", decoder="beam", lm="x.arpa", beam="x"),
    dict(path="model.pt", output="logits"),
    dict(path="model.pt", layer=1.5),
    dict(path="model.pt", layer=9),
    dict(path="model.pt", output="codes"),
]:
    function = wav2vec2.load_features if {"output", "layer"} & set(arguments) else wav2vec2.load
    try:
        function(**arguments)
    except ValueError as error:
        print(str(error).splitlines())
    else:
        print("taken:", arguments)
"""
    result = run_python(script, folder, ROOT)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    parts = ["gone.pt", "nonsense", "no argument beams", "batch_size 0", "--decoder beam"]
    parts += ["device 'meta'", "device []", "precision 'fp8'", "batch_size '8'"]
    parts += ["window_seconds '30'", "decoder 'foo'", "beam 'x'"]
    parts += ["output 'logits'", "layer 1.5: must be a whole number", "--layer 9", "no quantizer"]
    assert len(lines) == len(parts)
    for line, part in zip(lines, parts):
        assert part in line


def test_several_recordings_logits_and_features(folder):
    """The same as each alone, and as the model's own; errors name the recording."""
    script = """
import numpy, soundfile, torch, wav2vec2
model = wav2vec2.load("model.pt", batch_size=2, window_seconds=1, overlap_seconds=0.2)
array, rate = soundfile.read("recording.wav", dtype="float32")
long = numpy.concatenate([array] * 5)
many = model.transcribe_many(iter(["recording.wav", long, "recording.mp3", array[:200]]), rate)
alone = [model.transcribe(*item) for item in [("recording.wav",), (long, rate), ("recording.mp3",)]]
print([one.text for one in many[:3]] == [one.text for one in alone], repr(many[3].text))
print(model.transcribe_many([]))

whole = wav2vec2.load("model.pt", "cpu")
logits = whole.logits(array, rate)
print(logits.shape, logits.dtype, len(whole.units), whole.frame_seconds)
print(whole.decoder(torch.tensor(logits)).words == whole.transcribe(array, rate).text)
print(model.logits(long, rate).shape == whole.logits(long, rate).shape)
print(model.logits(array[:9], rate).shape)

for layer in (None, 0, 2):
    expected = wav2vec2.load_features("model.pt", layer=layer).features(array, rate)
    print(numpy.array_equal(whole.features(array, rate, layer=layer), expected))
small = wav2vec2.load("model.pt", precision="bf16").features("recording.wav")
print(small.dtype, bool(abs(small - whole.features("recording.wav")).max() < 0.5))
for call in [
    lambda: model.transcribe_many("recording.wav"),
    lambda: model.transcribe_many([array, array[:0]], rate),
    lambda: model.transcribe_many([array]),
    lambda: model.transcribe_many(["recording.wav", "gone.wav"]),
    lambda: model.features("recording.wav", layer=9),
    lambda: model.logits(array),
]:
    try:
        print("taken", call())
    except ValueError as error:
        print(error)
"""
    result = run_python(script, folder, ROOT)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[:2] == ["True ''", "[]"]
    assert lines[2:6] == ["(12, 32) float32 32 0.02", "True", "True", "(0, 32)"]
    assert lines[6:10] == ["True"] * 3 + ["float32 True"]
    expected = ["give a list of recordings: ['recording.wav']", "recording 2: audio: holds no"]
    expected += ["recording 1: rate: samples need", "gone.wav: cannot be opened"]
    expected += ["--layer 9: model.pt has layers 0 to 4", "rate: samples need a sample rate"]
    for line, part in zip(lines[10:], expected, strict=True):
        assert part in line


def test_paths_name_the_files_of_a_search(folder):
    reason = "pip install -r requirements-decode.txt"
    pytest.importorskip("flashlight.lib.text.decoder.kenlm", reason=reason, exc_type=ImportError)
    write_arpa(folder / "words.arpa", bigrams(["CAT", "DOE"], [("CAT", "DOE")]))
    (folder / "words.txt").write_text("CAT\nDOE\n")
    script = """
from pathlib import Path
import wav2vec2
files = dict(lm=Path("words.arpa"), lexicon=Path("words.txt"))
model = wav2vec2.load(Path("model.pt"), decoder="beam", **files)
print(set(model.transcribe(Path("recording.wav")).text.split()) <= {"CAT", "DOE"})
"""
    result = run_python(script, folder, ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "True\n"


def setuptools_is_new_enough() -> bool:
    try:
        return int(importlib.metadata.version("setuptools").split(".")[0]) >= 77
    except importlib.metadata.PackageNotFoundError:
        return False


def test_loading_a_model_imports_no_training_code(folder):
    script = """
import sys
import wav2vec2
wav2vec2.load("model.pt")
wav2vec2.load_features("model.pt")
packages = {name.split(".")[0] for name in sys.modules}
print(sorted(packages & {"common", "tasks", "utils", "tensorboard", "tensorflow"}))
print([name for name in sys.modules if "telemetry" in name or "tensorboard" in name])
"""
    result = run_python(script, folder, ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["[]", "[]"]


@pytest.fixture(scope="session")
def installed_python(tmp_path_factory):
    """The interpreter of a new environment in which the wheel is installed; its dependencies are
    those of the environment that runs the tests."""
    if not setuptools_is_new_enough():
        pytest.skip("needs setuptools >= 77")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    names = tracked.stdout.split()
    if not names:
        pytest.skip("needs git and a clone: a build writes into its folder, so it gets a copy")
    source, wheels, target = (tmp_path_factory.mktemp(n) for n in ("source", "wheels", "target"))
    for name in names:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    pip, offline = [sys.executable, "-m", "pip"], ["--quiet", "--no-deps", "--no-index"]
    run([*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", wheels, source])
    run([sys.executable, "-m", "venv", "--without-pip", target])
    python = target / "bin" / "python"
    (wheel,) = wheels.glob("wav2vec2-*.whl")
    run([*pip, "--python", python, "install", *offline, wheel])
    (packages,) = target.glob("lib/python*/site-packages")
    found = {path.name for path in packages.iterdir() if not path.name.endswith(".dist-info")}
    assert found == {"wav2vec2"}
    (packages / "dependencies.pth").write_text(f"{Path(pytest.__file__).parents[1]}\n")
    return python


def run(command: list[object]) -> None:
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def test_the_wheel_works_in_a_project_with_packages_of_the_same_names(folder, installed_python):
    (folder / "common.py").write_text("OURS = True\n")
    (folder / "utils.py").write_text("OURS = True\n")
    (folder / "tasks").mkdir()
    (folder / "tasks" / "__init__.py").write_text("OURS = True\n")
    (folder / "job.py").write_text("""
import numpy
import wav2vec2
import common, tasks, utils

model = wav2vec2.load("model.pt")
print(model.transcribe(numpy.zeros((44100, 2), dtype="int16"), 44100).duration)
print(*(word.text for word in model.align("recording.wav", "CAT").words))
print(wav2vec2.load_features("model.pt", layer=1).features("recording.wav").shape)
wav2vec2.export("model.pt", "model.pt2")
exported = wav2vec2.load("model.pt2").transcribe("recording.wav")
print(exported.text == model.transcribe("recording.wav").text)
print(common.OURS, tasks.OURS, utils.OURS)
print(wav2vec2.__file__)
""")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [installed_python, "job.py"],
        cwd=folder,
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr
    *lines, place = result.stdout.splitlines()
    assert lines == ["1.0", "CAT", "(12, 144)", "True", "True True True"]
    assert Path(place).is_relative_to(installed_python.parents[1])


def test_the_console_command(folder, installed_python):
    """Installed from the wheel, outside the repository."""

    def wav2vec2(*arguments):
        return subprocess.run(
            [installed_python.parent / "wav2vec2", *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=120,
        )

    assert re.fullmatch(r"wav2vec2 [\d.]+, torch \S+\n", wav2vec2("--version").stdout)
    result = wav2vec2("--help")
    assert result.returncode == 0 and not result.stderr
    for name in ("transcribe", "evaluate", "align", "features", "benchmark", "convert"):
        assert f"\n    {name} " in result.stdout
        assert f"  wav2vec2 {name} " in wav2vec2(name, "--help").stdout
    result = wav2vec2("transcribe", "--checkpoint", "model.pt", "recording.wav", "--device", "cpu")
    assert result.returncode == 0 and result.stdout.startswith("recording.wav\t"), result.stderr
    result = wav2vec2("convert", "model.pt", "copy.pt", "--to", "native")
    assert result.returncode == 0 and result.stdout.startswith("copy.pt: ctc, "), result.stderr
    result = wav2vec2("transcribe", "--checkpoint", "gone.pt", "recording.wav")
    assert result.returncode == 2 and result.stderr.startswith("error: gone.pt")


def test_help_of_the_console_command_imports_no_torch(folder):
    script = """
import sys
from wav2vec2.commands import main
sys.argv = ["wav2vec2", "--help"]
try:
    main.main()
except SystemExit:
    print("torch" in sys.modules)
"""
    result = run_python(script, folder, ROOT)
    assert result.stdout.endswith("False\n"), result.stderr


def test_torch_s_compiler_is_not_imported(random_recogniser, corpus):
    """Importing it takes longer than to transcribe a short recording."""
    recording = next((corpus / "dev").rglob("*.flac"))
    program = (
        "import sys, wav2vec2; model = wav2vec2.load(sys.argv[1], 'cpu'); "
        "model.transcribe(sys.argv[2]); wav2vec2.load_features(sys.argv[1], 'cpu'); "
        "print([name for name in ('torch._dynamo', 'sympy') if name in sys.modules])"
    )
    command = [sys.executable, "-c", program, str(random_recogniser), str(recording)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
