import json

import pytest

from utils.reporting.results import (
    END,
    README,
    RESULTS,
    TABLES,
    Measurement,
    measured_tables,
    update_readme,
    with_tables,
)
from wav2vec2.cli.errors import UserError

GOOD = {
    "table": "pooling_factor",
    "command": "bash scripts/pretrain_base_benchmark.sh",
    "hardware": "one GPU",
    "versions": {"torch": "2.13"},
    "rows": {"baseline": {"throughput": 1.0, "memory": 100.0}, "factor 4": {"throughput": 1.4}},
}


def test_readme_has_the_measured_tables():
    """`python -m utils.reporting.report --update-readme` writes them."""
    text = README.read_text(encoding="utf-8")
    assert text == with_tables(text, measured_tables())


def test_results_name_neither_machines_nor_their_folders():
    for path in RESULTS.glob("*.json"):
        Measurement.read(path)


def test_a_table_is_filled_and_the_rest_is_not(tmp_path):
    empty = measured_tables(tmp_path)
    assert list(empty) == list(TABLES)
    row = "| factor 4 | not measured yet | not measured yet | 1.37 | 62.35 |"
    assert row in empty["pooling_factor"]
    (tmp_path / "a.json").write_text(json.dumps(GOOD))
    (tmp_path / "b.json").write_text(json.dumps({**GOOD, "setting": "bf16"}))
    made = measured_tables(tmp_path)
    filled = made.pop("pooling_factor")
    assert "| baseline | 1.0 | 100.0 | 1.0 | 100.0 | 1.00 | 100.00 |" in filled
    assert "| factor 4 | 1.4 | – | 1.4 | – | 1.37 | 62.35 |" in filled
    assert "bf16: throughput" in filled and "pretrain_base_benchmark.sh" in filled
    assert made == {name: text for name, text in empty.items() if name != "pooling_factor"}


def block(names, content="old"):
    return f"<!-- measured tables: {names} -->\n{content}\n{END}"


FIRST, *OTHERS = TABLES


def test_each_block_of_the_readme_gets_its_own_tables(tmp_path, capsys):
    readme, folder = tmp_path / "README.md", tmp_path / "results"
    folder.mkdir()
    others = ", ".join(reversed(OTHERS))
    readme.write_text(f"before\n{block(others)}\nbetween\n{block(FIRST)}\nafter\n")
    (folder / "a.json").write_text(json.dumps(GOOD))
    made = measured_tables(folder)
    update_readme(readme, folder)
    first = readme.read_text()
    one = block(others, "\n" + "\n\n".join(made[name] for name in reversed(OTHERS)) + "\n")
    other = block(FIRST, f"\n{made[FIRST]}\n")
    assert first == f"before\n{one}\nbetween\n{other}\nafter\n"
    update_readme(readme, folder)
    assert readme.read_text() == first
    assert capsys.readouterr().out.splitlines() == [
        "report: README.md has the new tables",
        "report: README.md is up to date",
    ]


@pytest.mark.parametrize(
    "text, message",
    [
        ("no marks", f"table {FIRST} has 0 blocks"),
        (block(", ".join(OTHERS)), f"table {FIRST} has 0 blocks"),
        (block(", ".join([*TABLES, FIRST])), f"table {FIRST} has 2 blocks"),
        (block(", ".join(TABLES)) + block("speed"), "table 'speed': choose from pooling_factor"),
        (block(", ".join(TABLES)).removesuffix(END), f"has 0 blocks; .*{END}"),
        (
            block(FIRST).removesuffix(END) + block(", ".join(OTHERS)),
            f"has 0 blocks; .*{END}",
        ),
    ],
)
def test_a_table_without_its_block_is_named(tmp_path, text, message):
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(UserError, match=f"README.md: .*{message}"):
        update_readme(readme, tmp_path)
    assert readme.read_text() == text


@pytest.mark.parametrize(
    "change, message",
    [
        ({"table": "none"}, "table 'none': choose from pooling_factor"),
        ({"rows": {"factor 9": {}}}, "row 'factor 9': choose from baseline"),
        ({"rows": {"baseline": {"speed": 1}}}, "figures are throughput, memory"),
        ({"rows": {"baseline": {"memory": "1"}}}, "not a number"),
        ({"hardware": None}, "'hardware' is missing"),
        ({"host": "a"}, "'host' is no field"),
        ({"command": "python /home/me/run.py"}, "absolute path"),
    ],
)
def test_invalid_fields_are_named(tmp_path, change, message):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({**GOOD, **change}))
    with pytest.raises(UserError, match=rf"x\.json: .*{message}"):
        Measurement.read(path)
    path.write_text("{")
    with pytest.raises(UserError, match=r"x\.json: not JSON"):
        Measurement.read(path)
