import json

import pytest

from utils.reporting.results import (
    END,
    QUOTED,
    RESULTS,
    TABLES,
    Measurement,
    measured_tables,
    read_documents,
    update_docs,
    with_output,
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


def test_documents_have_the_measured_tables():
    """`python -m utils.reporting.report --update-docs` writes them."""
    texts = read_documents()
    assert texts == with_tables(texts, measured_tables())
    assert not any("not measured yet |" in text for text in texts.values())


def test_quoted_output_is_written_anew(monkeypatch, tmp_path):
    monkeypatch.setitem(QUOTED, "quickstart", lambda run: f"from {run.name}\n")
    text = "a\n<!-- output: {} -->\n```\nold\n```\n<!-- end of output -->\nb\n"
    new = with_output(text.format("quickstart"), tmp_path / "run")
    assert new == text.format("quickstart").replace("old", "from run")
    with pytest.raises(UserError, match="output 'other': choose from quickstart"):
        with_output(text.format("other"), tmp_path)


def test_results_name_neither_machines_nor_their_folders():
    for path in RESULTS.glob("*.json"):
        Measurement.read_all(path)


def test_a_table_has_the_measured_rows_alone(tmp_path):
    assert measured_tables(tmp_path) == {}
    (tmp_path / "a.json").write_text(json.dumps(GOOD))
    (tmp_path / "b.json").write_text(json.dumps({**GOOD, "setting": "bf16"}))
    (table,) = measured_tables(tmp_path).values()
    assert "| baseline | 1.0 | 100.0 | 1.0 | 100.0 | 1.00 | 100.00 |" in table
    assert "| factor 4 | 1.4 | – | 1.4 | – | 1.37 | 62.35 |" in table
    assert "factor 2" not in table
    assert "bf16: throughput" in table and "pretrain_base_benchmark.sh" in table


def block(names, content="old"):
    return f"<!-- measured tables: {names} -->\n{content}\n{END}"


FIRST, *OTHERS = TABLES


def test_each_block_gets_its_own_tables(tmp_path, capsys):
    readme, page, folder = tmp_path / "README.md", tmp_path / "page.md", tmp_path / "results"
    folder.mkdir()
    readme.write_text(f"before\n{block(', '.join(OTHERS))}\nafter\n")
    page.write_text(f"before\n{block(FIRST)}\nafter\n")
    (folder / "a.json").write_text(json.dumps(GOOD))
    made = measured_tables(folder)
    table = block(FIRST, f"\n{made[FIRST]}\n")
    for _ in range(2):
        update_docs(None, [readme, page], folder)
        assert readme.read_text() == f"before\n{block(', '.join(OTHERS), '')}\nafter\n"
        assert page.read_text() == f"before\n{table}\nafter\n"
    first, second, *rest = capsys.readouterr().out.splitlines()
    assert first.endswith("README.md has the new figures")
    assert second.endswith("page.md has the new figures")
    assert rest == ["report: 2 documents are up to date"] * 2


@pytest.mark.parametrize(
    "text, message",
    [
        ("no marks", f"table {FIRST} has 0 blocks"),
        (block(", ".join(OTHERS)), f"table {FIRST} has 0 blocks"),
        (block(f"{FIRST}, {FIRST}"), f"table {FIRST} has 2 blocks"),
        (block(FIRST) + "\n" + block("speed"), "table 'speed': choose from pooling_factor"),
        (block(FIRST).removesuffix(END), f"has 0 blocks; .*{END}"),
    ],
)
def test_a_table_without_its_block_is_named(tmp_path, text, message):
    readme = tmp_path / "README.md"
    readme.write_text(text)
    (tmp_path / "a.json").write_text(json.dumps(GOOD))
    with pytest.raises(UserError, match=message):
        update_docs(None, [readme], tmp_path)
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
