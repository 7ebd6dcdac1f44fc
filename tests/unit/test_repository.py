"""What the repository promises of itself: direction of imports, folders, scripts."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = ("wav2vec2", "common", "tasks", "utils", "train", "inference")
"""From right to left: a package imports itself and what stands before it in this list."""
MODEL = {"torch", "wav2vec2"} | set(sys.stdlib_module_names) | {"numpy"}
"""What model files and kernels may import."""
MOST_FILES = 12
FILES = sorted(p for name in OURS[:4] for p in (ROOT / name).rglob("*.py"))
PACKAGES = sorted({path.parent for path in FILES})


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_direction_of_imports(path):
    """utils -> tasks -> common -> wav2vec2: a file imports its own package and those after it."""
    own = OURS.index(path.relative_to(ROOT).parts[0])
    for module in imports(path):
        top = module.split(".")[0]
        assert top not in OURS or OURS.index(top) <= own, f"{path} imports {module}"


INSIDE = (
    {"cli"},
    {"audio", "text", "files"},
    {"interop", "decoding"},
    {"inference"},
    {"commands"},
)
"""Packages of wav2vec2: each imports those of its own line and of the lines before it."""
LEVEL = {name: level for level, names in enumerate(INSIDE) for name in names}


@pytest.mark.parametrize("package", sorted(LEVEL))
def test_direction_of_imports_inside_the_library(package):
    folder = ROOT / "wav2vec2"
    names = {path.parent.name for path in FILES if path.parent.parent == folder}
    assert names == LEVEL.keys() | {"kernels"}
    for path in (folder / package).glob("*.py"):
        for module in imports(path):
            _, other, *_ = [*module.split("."), ""]
            if module.startswith("wav2vec2.") and other in LEVEL:
                assert LEVEL[other] <= LEVEL[package], f"{path} imports {module}"


def is_model_file(path):
    folder = path.relative_to(ROOT / "wav2vec2").parent.name
    return folder == "kernels" or (not folder and path.stem != "__init__")


@pytest.mark.parametrize(
    "path",
    [p for p in FILES if p.is_relative_to(ROOT / "wav2vec2") and is_model_file(p)],
    ids=module_name,
)
def test_model_files_do_no_input_or_output(path):
    """Model files and kernels import torch, the standard library and each other only."""
    siblings = {module_name(p) for p in FILES if p.is_relative_to(ROOT / "wav2vec2")}
    for module in imports(path):
        assert module.split(".")[0] in MODEL, f"{path} imports {module}"
        if module in siblings and module != "wav2vec2":
            folder = ROOT.joinpath(*module.split(".")).with_suffix(".py")
            assert module == "wav2vec2.kernels" or is_model_file(folder), f"{path}: {module}"
    calls = [n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Call)]
    assert not {"open", "print", "input"} & {ast.unparse(call.func) for call in calls}, path


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_packages_are_small_and_say_what_they_are(package):
    files = [path for path in FILES if path.parent == package and path.stem != "__init__"]
    assert len(files) <= MOST_FILES, f"{package} has {len(files)} files"
    purpose = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8")))
    assert purpose, f"{package}/__init__.py does not say what the package is for"


def test_importing_the_library_is_cheap():
    """Importing wav2vec2 loads nothing else, not even torch."""
    code = "import sys, wav2vec2; assert not {'tasks', 'common', 'torch'} & set(sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_no_cycles_between_files():
    names = {module_name(path): path for path in FILES}
    graph = {}
    for name, path in names.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        # What a function imports when it is called, or a type checker alone, is no cycle.
        inside = {
            id(node)
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef | ast.If)
            for node in ast.walk(function)
        }
        found = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and id(node) not in inside:
                found |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
        graph[name] = (found & set(names)) - {name}
    done = set()

    def visit(name, above):
        assert name not in above, f"import cycle: {' -> '.join([*above, name])}"
        if name in done:
            return
        for module in graph[name]:
            visit(module, [*above, name])
        done.add(name)

    for name in graph:
        visit(name, [])


def test_importing_has_no_side_effects():
    code = f"import {', '.join(map(module_name, FILES))}, train, inference"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_nothing_is_evaluated_or_run_from_strings():
    for path in [*ROOT.glob("*.py"), *FILES]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in ("eval", "exec", "os.system", "pickle.load"), path
                for keyword in node.keywords:
                    assert keyword.arg != "shell", path
                    assert not (keyword.arg == "weights_only" and not keyword.value.value), path


SPLIT = re.compile(r"str\(error\)|__doc__|documentation|result\.std(out|err)\b")
"""What may be split by str.splitlines: messages, docstrings, output of commands."""


def test_no_file_is_split_by_splitlines():
    """It ends a line at U+2028 and form feeds, too; wav2vec2.files.text.split_lines does not."""
    for path in [*ROOT.glob("*.py"), *FILES]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "splitlines":
                split = ast.unparse(node.value)
                assert SPLIT.search(split), f"{path}:{node.lineno}: {split}"


def test_tree_in_contributing_is_the_folders():
    """Every package and top-level file of the tree in CONTRIBUTING.md exists; none is missing."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tree = re.search(r"```\n(wav2vec2/.*?)```", text, flags=re.DOTALL)[1]
    named, above = set(), ""
    for line in tree.splitlines():
        words = line.split()
        if not words:
            continue
        if line[0] != " ":
            above = words[0].rstrip("/")
            named.add(above)
        elif words[0].endswith("/"):
            named.add(f"{above}/{words[0].rstrip('/')}")
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    top = {name.split("/")[0] for name in tracked if not name.startswith(".")}
    packages = {str(p.relative_to(ROOT)) for p in PACKAGES} - set(OURS)
    assert named >= top | packages, sorted((top | packages) - named)
    assert all((ROOT / name).exists() for name in named)


SHELL = sorted([*(ROOT / "scripts").rglob("*.sh"), *(ROOT / "scripts").rglob("*.sbatch")])


@pytest.mark.parametrize("script", SHELL, ids=lambda p: p.name)
def test_scripts_parse(script):
    result = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_installation_asks_for_the_requirements_and_torch():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    asked = re.findall(r'"(.*?)"', re.search(r"\ndependencies = \[(.*?)\n\]", text, re.DOTALL)[1])
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    required = [line for line in lines if line and not line.startswith("#")]
    torch, *others = asked
    assert torch.startswith("torch>=") and others == required
