"""What the repository promises of itself: direction of imports, folders, scripts."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = {"common", "tasks", "utils", "wav2vec2", "train", "inference"}
MAY_IMPORT = {
    "common": {"common"},
    "wav2vec2": {"wav2vec2"},
    "wav2vec2/interop": {"wav2vec2", "common"},
    "tasks": {"tasks", "common", "wav2vec2"},
    "utils": {"utils", "common", "wav2vec2", "tasks", "train"},  # benchmarks run the real training
    "utils/reporting": {"utils", "common"},
}
EXCEPTIONS = {("wav2vec2/__init__.py", "tasks.transcriber")}
"""`wav2vec2.load` leads from the model to its use; it is imported there when it is called."""
MODEL_FILES_MAY_IMPORT = {"torch", "numpy", "wav2vec2"} | set(sys.stdlib_module_names)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


@pytest.mark.parametrize("room", list(MAY_IMPORT))
def test_arrows_between_rooms(room):
    files = sorted((ROOT / room).glob("*.py"))
    assert files
    for path in files:
        for module in imports(path):
            if (str(path.relative_to(ROOT)), module) in EXCEPTIONS:
                continue
            top = module.split(".")[0]
            assert top not in OURS or top in MAY_IMPORT[room], f"{path} imports {module}"
            if room == "wav2vec2":
                assert top in MODEL_FILES_MAY_IMPORT, f"{path} imports {module}"
                assert not module.startswith("wav2vec2.interop"), f"{path} imports {module}"


def test_exceptions_are_imported_when_called():
    """Importing the model brings nothing of its use."""
    code = "import sys, wav2vec2; assert not {'tasks', 'common', 'torch'} & set(sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_no_cycles_between_files():
    graph = {}
    for room in MAY_IMPORT:
        for path in (ROOT / room).glob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            graph[name.removesuffix(".__init__")] = {
                module
                for module in imports(path)
                if module.split(".")[0] in OURS
                and (str(path.relative_to(ROOT)), module) not in EXCEPTIONS
            }

    def visit(name, above):
        assert name not in above, f"import cycle: {' -> '.join([*above, name])}"
        for module in graph.get(name, ()):
            visit(module, [*above, name])

    for name in graph:
        visit(name, [])


def test_importing_has_no_side_effects():
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for room in MAY_IMPORT
        for path in (ROOT / room).glob("*.py")
        if path.stem != "__init__"
    ]
    code = f"import {', '.join(sorted(modules))}, train, inference"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_nothing_is_evaluated_or_run_from_strings():
    for path in [*ROOT.glob("*.py"), *(p for r in OURS for p in (ROOT / r).rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in ("eval", "exec", "os.system", "pickle.load"), path
                for keyword in node.keywords:
                    assert keyword.arg != "shell", path
                    assert not (keyword.arg == "weights_only" and not keyword.value.value), path


def test_readme_tree_is_the_folders():
    """Every folder and top-level file of the tree in README exists, and none is missing."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = re.search(r"```\n(README\.md.*?)```", readme, flags=re.DOTALL)[1]
    named = {line.split()[0].rstrip("/") for line in tree.splitlines() if line and line[0] != " "}
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    present = {name.split("/")[0] for name in tracked if not name.startswith(".")}
    assert named == present


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
