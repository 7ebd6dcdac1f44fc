"""README and docs name files, commands, flags and variables that exist."""

import ast
import contextlib
import functools
import importlib
import io
import re
import shlex
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from unittest import mock

import pytest

from common.runtime.check_variables import check_value, declared
from common.runtime.nvidia_variables import unread_variables
from tests.unit.test_words import SOURCES, spoken
from wav2vec2.cli.errors import UserError
from wav2vec2.cli.synonyms import HINTS, PRECISIONS, RENAMED
from wav2vec2.config import BASE

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
FOREIGN = {
    "--discount_fallback",
    "OMP_NUM_THREADS",
    "PYTORCH_CUDA_ALLOC_CONF",
    "REFERENCE_DIR",
    "HF_TOKEN",
    "HF_HUB_OFFLINE",
    "TORCH_ELASTIC_SHUTDOWN_TIMEOUT",
    "WORLD_SIZE",
    "XDG_CACHE_HOME",
}
"""Flags and variables of other programs."""

FENCED = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
OUR_PATH = r"(?:scripts|utils|docs|tests|common|tasks|wav2vec2)/[\w./-]+"


# --- Messages

COMPOSED = {"torch is not installed", "has no torch", ": no recipe reads this variable"}
COMPOSED |= {"are longer than --max_tokens", "and are skipped"}
COMPOSED |= {"the Hugging Face Hub cannot be read", "no such repository"}
"""Words of messages that are put together from parts; other tests read them as printed."""


@pytest.mark.parametrize("name", ["troubleshooting.md", "healthy_run.md"])
def test_quoted_messages_are_those_of_the_source(name):
    """In the first column of a table, `...` stands for what a message inserts."""
    messages = [t for path in SOURCES for t in spoken(path.read_text("utf-8"))]
    messages = [" ".join(text.split()) for text in messages]
    quoted = []
    for row in re.findall(r"^\|(.*?)(?<!\\)\|", (ROOT / "docs" / name).read_text("utf-8"), re.M):
        for message in re.findall(r"`([^`]+)`", row):
            quoted += [part.strip() for part in re.sub(r"\d+", "...", message).split("...")]
    quoted = [part for part in quoted if len(part.split()) >= 3 and part not in COMPOSED]
    assert len(quoted) >= 3
    assert [part for part in quoted if not any(part in text for text in messages)] == []


# --- Files and links


def missing_files(text):
    """Every script, module and repository path in a document is there."""
    for name in re.findall(rf"(?<![\w/])({OUR_PATH})", text):
        if not (ROOT / name.rstrip(".")).exists():
            yield name
    for module in re.findall(r"python3? -m ((?:utils|common)\.[\w.]+\w)", text):
        if not (ROOT / f"{module.replace('.', '/')}.py").exists():
            yield module


def anchors(path):
    """Those of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", path.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


def links(text):
    """Those within the repository: (path, anchor)."""
    for target in re.findall(r"\]\(([^)\s]+)\)|<img[^>]* src=\"([^\"]+)\"", FENCED.sub("", text)):
        target = "".join(target)
        if not re.match(r"\w+:", target):
            path, _, anchor = target.partition("#")
            yield path, anchor


def broken_links(text, folder, own=None):
    for path, anchor in links(text):
        target = folder / path if path else own
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield f"{path}#{anchor}"


# --- Commands


def commands(text):
    """The words of each simple command in a document's shell blocks."""
    for language, block in FENCED.findall(text):
        if language not in ("bash", "sh"):
            continue
        for line in block.replace("\\\n", " ").replace("|\n", "| ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            command = []
            for word in [*lexer, ";"]:
                if word.strip("|&;") == "":
                    yield command
                    command = []
                else:
                    command.append(word)


def programs(command):
    """What a command runs, and with which words: several where one starts another."""
    found = []
    words = iter(command)
    for word in words:
        if re.fullmatch(r"scripts/[\w/]+\.(sh|sbatch)", word):
            found.append((word, []))
        elif word in ("train.py", "inference.py"):
            found.append(((word, next(words)), []))
        elif word == "-m" and (word := next(words)).startswith("utils."):
            found.append((("-m", word), []))
        elif found:
            found[-1][1].append(word)
    return found


def receiver(script):
    """The command that gets what follows a script's name; None if the script keeps it."""
    text = re.sub(r"\\\n", " ", (ROOT / script).read_text("utf-8"))
    for line in text.splitlines():
        if '"$@"' not in line or line.startswith("#"):
            continue
        if found := re.match(r"(pretrain|finetune) ", line):
            return ("train.py", found[1])
        if found := re.search(r"inference\.py (\w+)", line):
            return ("inference.py", found[1])
        if found := re.search(r"-m (utils\.[\w.]+\w)", line):
            return ("-m", found[1])
        if found := re.search(r"^run_recipe (\S+)", line):
            return receiver(found[1])
        if found := re.search(r"^source .*/([a-z0-9_]+\.sh)\"", line):
            return receiver(f"scripts/{found[1]}")
    return None


@functools.cache
def usage(command):
    """Flag -> the values it is limited to, or None."""
    module, *rest = command[1:] if command[0] == "-m" else (command[0][: -len(".py")], command[1])
    shown = io.StringIO()
    with (
        mock.patch.object(sys, "argv", [module, *rest, "--help"]),
        contextlib.redirect_stdout(shown),
        pytest.raises(SystemExit, match="0"),
    ):
        importlib.import_module(module).main()
    text = " ".join(shown.getvalue().split("\n\n")[0].split())
    flags = re.findall(r"(?<![\w-])(--[a-z][\w-]*)(?: \{(.*?)\})?", text)
    found = {flag: set(values.split(",")) if values else None for flag, values in flags}
    if "All other flags are those of train.py pretrain." in shown.getvalue():
        found = usage(("train.py", "pretrain")) | found
    return found


def wrong_flags(program, words):
    """The flags a program does not have, and values that they do not take."""
    command = program
    if isinstance(program, str):
        command = receiver(program)
        own = (ROOT / program).read_text("utf-8")
    flag = None
    for word in words:
        if not word.startswith("--"):
            choices = usage(command)[flag] if flag else None
            if choices and word not in choices:
                yield f"{flag} {word}"
            flag = None  # further words may be the command's own
            continue
        flag = word.partition("=")[0]
        if command is None:
            if not re.search(rf"(?<![\w-]){flag}(?![\w-])", own):
                yield flag
            flag = None
        elif flag not in usage(command):
            yield flag
            flag = None


def wrong_variables(command, scripts):
    """Variables in front of a command that none of its scripts reads, or not with that value."""
    read = {}
    for script in scripts:
        read |= declared(ROOT / script)
        if recipe := re.search(r"^run_recipe (\S+)", (ROOT / script).read_text("utf-8"), re.M):
            read |= declared(ROOT / recipe[1])
    for word in command:
        name, equals, value = word.partition("=")
        if not equals or not re.fullmatch(r"[A-Z][A-Z0-9_]*", name):
            return
        if name in read:
            try:
                check_value(name, value, read[name])
            except UserError as error:
                yield str(error)
        elif name not in FOREIGN:
            yield name


def wrong_commands(text):
    for command in commands(text):
        found = programs(command)
        scripts = [program for program, _ in found if isinstance(program, str)]
        if absent := [name for name in scripts if not (ROOT / name).exists()]:
            yield from absent
            continue
        if scripts:
            yield from wrong_variables(command, scripts)
        for program, words in found:
            yield from wrong_flags(program, words)


# --- Names in the text


@functools.cache
def known_names():
    """Flags of our commands, and variables of our scripts."""
    flags, variables = set(), set(FOREIGN)
    rooms = ("common", "tasks", "utils", "wav2vec2")
    for path in [
        *ROOT.glob("*.py"),
        *(path for room in rooms for path in (ROOT / room).rglob("*.py")),
    ]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):  # fields of dataclasses become flags
                fields = [item.target for item in node.body if isinstance(item, ast.AnnAssign)]
                flags |= {f"--{target.id}" for target in fields if isinstance(target, ast.Name)}
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("add_argument"):
                flags |= {a.value for a in node.args if isinstance(a, ast.Constant)}
    for path in (ROOT / "scripts").rglob("*"):
        if path.is_file():
            text = path.read_text("utf-8")
            flags |= set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text))
            variables |= set(re.findall(r"\$\{([A-Z][A-Z0-9_]*)", text))
    # Other toolkits' flags, and variables of NVIDIA's recipe, for which an error says what to use.
    flags |= {f"--{name}" for name in (*RENAMED, *HINTS, *PRECISIONS)}
    for script in ("pretrain_base", "finetune_base_1h", "inference", "inference_benchmark"):
        variables |= unread_variables(script, "base").keys()
    return flags | variables


def unknown_names(text):
    """Flags and variables in a text's `code`, and in the first column of its tables."""
    for code in re.findall(r"`([^`]+)`", FENCED.sub("", text)):
        code = " ".join(code.split())
        names = re.findall(r"(?<![\w-])--[a-z][a-z0-9_-]*", code)
        names += re.findall(r"(?<![\w$.-])[A-Z][A-Z0-9]*_[A-Z0-9_]+\b", code)
        names += re.findall(r"(?<![\w$.-])([A-Z][A-Z0-9_]+)=", code)
        yield from (n for n in names if n not in known_names() and not (ROOT / n).exists())


# --- The tests


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_names_exists(path):
    text = path.read_text(encoding="utf-8")
    assert list(missing_files(text)) == []
    assert list(broken_links(text, path.parent, path)) == []
    assert list(unknown_names(text)) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_of_a_document_parse(path):
    """Flags, their values where they are few, and variables in front of a script."""
    assert list(wrong_commands(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "line, says",
    [
        ("LEARNING_RAT=1 bash scripts/pretrain_base.sh", ["LEARNING_RAT"]),
        # read by another script, not by this one
        ("BATCH_SIZES=8 bash scripts/pretrain_base.sh", ["BATCH_SIZES"]),
        ("LOSS_WEIGHTS='0 0' bash scripts/finetune_base_1h.sh", ["LOSS_WEIGHTS"]),
        ("MAX_UPDATE=many bash scripts/pretrain_base.sh", ["MAX_UPDATE=many: must be a whole"]),
        ("A=1 bash scripts/docker/run.sh bash scripts/inference.sh", ["A"]),
        ("BF16=true bash scripts/docker/run.sh bash scripts/pretrain_base.sh", []),
        ("MAX_UPDATES=1 sbatch scripts/slurm/pretrain_base.sbatch", ["MAX_UPDATES"]),
        ("MAX_UPDATE=1 sbatch --nodes=2 scripts/slurm/pretrain_base.sbatch", []),
        ("bash scripts/pretrain_bass.sh", ["scripts/pretrain_bass.sh"]),
        ("bash scripts/pretrain_base.sh --dryrun", ["--dryrun"]),
        ("bash scripts/finetune_base_benchmark.sh --distractors 3", ["--distractors"]),
        ("bash scripts/test.sh --everything", ["--everything"]),
        ("bash scripts/inference.sh --decoder best", ["--decoder best"]),
        ("true && python inference.py transcribe --format word a.wav", ["--format word"]),
        ("python inference.py transcribe \\\n    --forma srt a.wav", ["--forma"]),
        ("python -m utils.reporting.report --update", ["--update"]),
        ("python -m utils.reporting.report --update-docs", []),
    ],
)
def test_a_wrong_command_is_found(line, says):
    found = list(wrong_commands(f"```bash\n{line}\n```\n"))
    assert len(found) == len(says) and all(map(str.startswith, found, says)), found


def test_a_wrong_name_is_found(tmp_path):
    text = "`--batch_sizes`, `--batchsize 3`, `EMA=0.9`, `EMAS=0.9`, `MAX_UPDATES`, `MAX_UPDATE`"
    assert list(unknown_names(text)) == ["--batchsize", "EMAS", "MAX_UPDATES"]
    assert list(
        missing_files("docs/nothing.md utils/reporting/report.py python -m utils.nothing")
    ) == [
        "docs/nothing.md",
        "utils.nothing",
    ]
    (tmp_path / "there.md").write_text("# A heading, such as `this`\n```\n# no heading\n```\n")
    text = (
        "[a](there.md) [b](gone.md) [c](there.md#a-heading-such-as-this) [d](there.md#no-heading)"
    )
    assert list(broken_links(text, tmp_path)) == ["gone.md#", "there.md#no-heading"]


def test_every_document_can_be_reached_from_the_readme():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        path = waiting.pop()
        reached.add(path)
        if path.suffix == ".md":
            found = {(path.parent / p).resolve() for p, _ in links(path.read_text("utf-8")) if p}
            waiting += [target for target in found - reached if target.is_file()]
    assert set(DOCUMENTS) <= reached


def test_the_picture_shows_base():
    """And brings no script and nothing from elsewhere, so that it is drawn wherever it stands."""
    path = ROOT / "docs" / "architecture.svg"
    tree = ElementTree.parse(path)
    assert not re.search(r"<script|href=|url\((?!#)|@import", path.read_text("utf-8"))
    texts = ["".join(node.itertext()) for node in tree.iter("{http://www.w3.org/2000/svg}text")]
    layers = [f"{kernel}, {stride}" for _, kernel, stride in BASE.conv_layers]
    assert [text for text in texts if re.fullmatch(r"\d+, \d+", text)] == layers
    said = " / ".join(texts)
    channels = {channels for channels, _, _ in BASE.conv_layers}
    assert channels == {512} and "7 convolutions, 512 channels" in said
    strides = "·".join(str(stride) for _, _, stride in BASE.conv_layers)
    assert f"{strides} = 320" in said
    assert f"512 → {BASE.dim}" in said and f"over {BASE.position_kernel} frames" in said
    assert f"{BASE.codebook_groups} codebooks × {BASE.codebook_entries} entries" in said
    assert f"linear, {BASE.final_dim}" in said
    recipe = (ROOT / "scripts" / "pretrain_base.sh").read_text("utf-8")
    assert re.search(r"HOURGLASS_CONFIG=(.*)\}", recipe)[1] in said
