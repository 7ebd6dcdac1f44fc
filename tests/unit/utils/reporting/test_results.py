import json

import pytest

from common.errors import UserError
from utils.reporting.results import (
    BEGIN,
    END,
    README,
    RESULTS,
    TABLES,
    Measurement,
    tables,
    update_readme,
    with_tables,
)

GOOD = {
    "table": "pooling_factor",
    "command": "bash scripts/pretrain_base_benchmark.sh",
    "hardware": "one GPU",
    "versions": {"torch": "2.13"},
    "rows": {"baseline": {"throughput": 1.0, "memory": 100.0}, "factor 4": {"throughput": 1.4}},
}


def test_readme_has_the_measured_tables():
    """`python -m utils.report --update-readme` writes them."""
    text = README.read_text(encoding="utf-8")
    assert text == with_tables(text, tables())


def test_results_name_neither_machines_nor_their_folders():
    for path in RESULTS.glob("*.json"):
        Measurement.read(path)


def test_a_table_is_filled_and_the_rest_is_not(tmp_path):
    empty = tables(tmp_path)
    assert empty.count("**") == 2 * len(TABLES)
    assert "| factor 4 | not measured yet | not measured yet | 1.37 | 62.35 |" in empty
    (tmp_path / "a.json").write_text(json.dumps(GOOD))
    (tmp_path / "b.json").write_text(json.dumps({**GOOD, "setting": "bf16"}))
    filled = tables(tmp_path)
    assert "| baseline | 1.0 | 100.0 | 1.0 | 100.0 | 1.00 | 100.00 |" in filled
    assert "| factor 4 | 1.4 | – | 1.4 | – | 1.37 | 62.35 |" in filled
    assert "bf16: throughput" in filled and "pretrain_base_benchmark.sh" in filled
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    update_readme(readme, tmp_path)
    first = readme.read_text()
    assert first == f"before\n{BEGIN}\n\n{filled}\n\n{END}\nafter\n"
    update_readme(readme, tmp_path)
    assert readme.read_text() == first
    readme.write_text("no marks")
    with pytest.raises(UserError, match="are missing"):
        update_readme(readme, tmp_path)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"table": "none"}, "table 'none': one of pooling_factor"),
        ({"rows": {"factor 9": {}}}, "row 'factor 9': one of baseline"),
        ({"rows": {"baseline": {"speed": 1}}}, "figures are throughput, memory"),
        ({"rows": {"baseline": {"memory": "1"}}}, "not a number"),
        ({"hardware": None}, "'hardware' is missing"),
        ({"host": "a"}, "'host' is no field"),
        ({"command": "python /home/me/run.py"}, "absolute path"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, says):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({**GOOD, **change}))
    with pytest.raises(UserError, match=rf"x\.json: .*{says}"):
        Measurement.read(path)
    path.write_text("{")
    with pytest.raises(UserError, match=r"x\.json: cannot be read as JSON"):
        Measurement.read(path)
