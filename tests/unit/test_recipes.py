"""Every training recipe resolves to the values of docs/recipes.md, and train.py's own defaults are
the Base recipe."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.recipes import (
    RECIPE_VARIABLE,
    choose_workers,
    configuration_of,
    defaults_of,
    describe_flags,
    parse_recipe,
)
from wav2vec2.cli.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def tables():
    """Recipe -> [(variable, flag, value)], from the tables of docs/recipes.md."""
    recipes: dict[str, list[tuple[str, str, str]]] = {}
    names: list[str] = []
    for line in (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[:2] == ["variable", "flag"]:
            names = cells[2:]
        elif line.startswith("|") and not line.startswith("|---"):
            for name, value in zip(names, cells[2:], strict=True):
                recipes.setdefault(name, []).append((cells[0], cells[1], value))
    return recipes


def parse(text, like):
    """A cell of the table as the type of the resolved value."""
    if isinstance(like, list):
        parts = text.split()
        return parts if like and isinstance(like[0], str) else [float(part) for part in parts]
    if isinstance(like, str):
        return "" if text == "(none)" else text
    if isinstance(like, bool):
        return {"true": True, "false": False}[text]
    return float(text.replace(",", ""))


TABLES = tables()


def resolved(recipe):
    known = "NUM_|MAX_|MIN_|MASK_|ADAM_|CPU|SEED|PYTHON|OUTPUT_DIR|DATASET_DIR"
    environment = {k: v for k, v in os.environ.items() if not re.match(known, k)}
    result = subprocess.run(
        ["bash", str(ROOT / "scripts" / f"{recipe}.sh"), "--dry_run"],
        env=environment | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_all_training_recipes_are_in_the_tables():
    scripts = {path.stem for path in (ROOT / "scripts").glob("*.sh")}
    recipes = {name for name in scripts if name.startswith(("pretrain_", "finetune_"))}
    assert recipes - {"finetune_own"} == TABLES.keys()  # its values depend on the corpus


@pytest.mark.parametrize("recipe", list(TABLES))
def test_resolved_values(recipe):
    configuration = resolved(recipe)
    for _, flag, value in TABLES[recipe]:
        assert configuration[flag] == parse(value, configuration[flag]), flag
    product = configuration["ranks"] * configuration["concat"] * configuration["accumulate"]
    assert product == configuration["batches_per_update"]


@pytest.mark.parametrize("recipe", list(TABLES))
def test_a_recipe_differs_in_nothing_from_its_defaults(recipe):
    configuration = resolved(recipe)
    script = ROOT / "scripts" / f"{recipe}.sh"
    defaults = json.loads(json.dumps(defaults_of(configuration["command"], script)))
    assert {name: configuration[name] for name in defaults} == defaults | {"dry_run": True}


@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_a_default_that_the_shell_computes_is_skipped(command, tmp_path):
    script = tmp_path / "recipe.sh"
    script.write_text(': "${UPDATE_FREQ:=$((4 / NUM_GPUS))}"\n: "${MAX_TOKENS:=5000}"\n')
    defaults = defaults_of(command, script)
    assert defaults["update_freq"] == defaults_of(command)["update_freq"]
    assert defaults["max_tokens"] == 5000


@pytest.mark.parametrize("script", ["finetune_base_10h.sh", None])
def test_what_differs_is_shown(monkeypatch, script):
    monkeypatch.delenv(RECIPE_VARIABLE, raising=False)
    if script:
        monkeypatch.setenv(RECIPE_VARIABLE, str(ROOT / "scripts" / script))
    own = ["--max_update", "90000", "--cpu", "--adam_betas", "0.9", "0.95", "--output_dir", "out"]
    lines = describe_flags(parse_recipe(["finetune", *own])).splitlines()
    assert lines[0] == f"configuration: out/config.json; different from {script or 'train.py'}:"
    shown = {line.split()[0]: " ".join(line.split()[1:]) for line in lines[1:]}
    assert shown["adam_betas"] == "0.9 0.95 (default: 0.9 0.98)"
    assert shown["cpu"] == "true (default: false)"
    assert shown["max_update"] == f"90000 (default: {20000 if script else 80000})"
    assert ("train_subset" in shown) == bool(script) and "command" not in shown


@pytest.mark.parametrize(
    ("given", "cores", "processes", "workers", "said"),
    [
        (None, 2, 1, 1, "data loading workers per process: 1 (cores 2, processes 1)"),
        (None, 1, 8, 1, "data loading workers per process: 1 (cores 1, processes 8)"),
        (None, 24, 8, 2, "data loading workers per process: 2 (cores 24, processes 8)"),
        (None, 99, 1, 4, "data loading workers per process: 4 (cores 99, processes 1)"),
        (3, 3, 1, 3, ""),
        (5, 3, 1, 5, "warning: --num_workers 5: more than this machine's cores (3)"),
    ],
)
def test_workers(monkeypatch, capsys, given, cores, processes, workers, said):
    monkeypatch.setattr("common.runtime.environment.cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert choose_workers(given) == workers
    assert capsys.readouterr().err.strip() == said


@pytest.mark.parametrize(
    ("benchmark", "recipe"),
    [
        ("pretrain_base_benchmark", "pretrain_base"),
        ("finetune_base_benchmark", "finetune_base_960h"),
    ],
)
def test_a_benchmark_is_its_recipe(benchmark, recipe):
    its_own = {flag for _, flag, _ in TABLES[benchmark]}
    base, measured = resolved(recipe), resolved(benchmark)
    assert {name for name in base if base[name] != measured[name]} == its_own


@pytest.mark.parametrize("recipe", list(TABLES))
def test_variables_are_the_scripts(recipe):
    text = (ROOT / "scripts" / f"{recipe}.sh").read_text(encoding="utf-8")
    declared = set(re.findall(r'^: "\$\{([A-Z_]+)', text, flags=re.MULTILINE))
    named = {variable for variable, _, _ in TABLES[recipe] if variable}
    assert named - {"VALIDATE_FREQUENCY"} == declared - {"VALIDATE_FREQUENCY"}


@pytest.mark.parametrize(
    ("command", "recipe"), [("pretrain", "pretrain_base"), ("finetune", "finetune_base_100h")]
)
def test_own_defaults_are_the_base_recipe(command, recipe):
    configuration = json.loads(json.dumps(configuration_of(parse_recipe([command]))))
    for _, flag, value in TABLES[recipe]:
        if flag not in ("ranks", "validate_frequency"):  # one process; every epoch
            assert configuration[flag] == parse(value, configuration[flag]), flag


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_a_configuration_gives_the_same_recipe(kind, tmp_path):
    given = ["--max_update", "90000", "--adam_betas", "0.9", "0.99", "--ema", "0.999", "--cpu"]
    recipe = parse_recipe([kind, *given])
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**configuration_of(recipe), "environment": {"cores": 2}}))
    assert parse_recipe([kind, "--config", str(path)]) == recipe
    changed = parse_recipe([kind, "--config", str(path), "--lr", "7", "--max-update", "91000"])
    assert (changed.schedule.learning_rate, changed.schedule.max_update) == (7, 91_000)
    assert changed.optimizer == recipe.optimizer
    other = "finetune" if kind == "pretrain" else "pretrain"
    with pytest.raises(UserError, match=f"config.json: command: written by {kind}"):
        parse_recipe([other, "--config", str(path)])
