import json
import re
import shutil

import pytest

from utils.reporting.log import LOG, read_log
from utils.reporting.results import (
    END,
    KEPT,
    QUOTED,
    QUOTED_FILES,
    RESULTS,
    ROOT,
    TABLES,
    Measurement,
    measured_tables,
    read_documents,
    read_run,
    update_docs,
    with_output,
    with_tables,
)
from utils.reproduction.reproduce_tables import QUICKSTART_DIGITS
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


def test_documents_quote_the_kept_quickstart():
    """`python -m utils.reporting.report --update-docs` writes what they quote."""
    texts = read_documents()
    assert texts == with_output(texts, RESULTS / KEPT)
    quoted = [
        name
        for text in texts.values()
        for name in re.findall(r"^<!-- output: (\S+) -->$", text, re.M)
    ]
    assert sorted(quoted) == sorted(QUOTED)


def test_the_kept_quickstart_is_the_measured_one():
    """All that documents say of seed 1 comes from one run."""
    read_run(RESULTS / KEPT)
    summary = json.loads((RESULTS / KEPT / "summary.json").read_text())
    measured = Measurement.read(RESULTS / "quickstart.json").rows["seed 1"]
    assert measured == {name: round(summary[name], n) for name, n in QUICKSTART_DIGITS.items()}
    worst, best = (
        figure({m.rows[row]["wer"] for row in m.rows if "," not in row})
        for m in [Measurement.read(RESULTS / "quickstart.json")]
        for figure in (max, min)
    )
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert f"word error rate of {best:.1f} to {worst:.1f} % over three seeds" in readme


@pytest.fixture
def quickstart(tmp_path):
    """The text files of a quickstart of another seed."""
    folder = tmp_path / "run"
    shutil.copytree(RESULTS / KEPT, folder)
    summary = json.loads((folder / "summary.json").read_text())
    seconds = dict.fromkeys(summary["seconds"], 1.5)
    (folder / "summary.json").write_text(json.dumps({**summary, "wer": 12.345, "seconds": seconds}))
    return folder


def test_quoted_output_is_that_of_another_run(tmp_path, quickstart, capsys):
    readme, page, folder = tmp_path / "README.md", tmp_path / "page.md", tmp_path / "results"
    text = "a\n<!-- output: {} -->\nold\n<!-- end of output -->\nb\n"
    readme.write_text(text.format("quickstart"))
    page.write_text("".join(map(text.format, ["pretraining", "finetuning", "quickstart_stages"])))
    update_docs(quickstart, [readme, page], folder)
    assert "word error rate: 12.35 % on 240" in readme.read_text() and "old" not in page.read_text()
    assert readme.read_text().startswith("a\n<!-- output: quickstart -->\n```\n")
    losses = {
        stage: read_log(RESULTS / KEPT / stage / LOG).curves["train_loss"].mean
        for stage in ("pretrain", "finetune")
    }
    assert f"| 3000 | {losses['pretrain'][-1]:.2f} |" in page.read_text()
    assert f"| 50 | {losses['finetune'][0]:.2f} | – |" in page.read_text()
    assert "| corpus | 1.5 |" in page.read_text()
    # The run is kept, so that the same text follows without it.
    for name in QUOTED_FILES:
        assert (folder / KEPT / name).read_bytes().strip() == (
            quickstart / name
        ).read_bytes().strip()
    before = readme.read_text(), page.read_text()
    shutil.rmtree(quickstart)
    update_docs(None, [readme, page], folder)
    assert (readme.read_text(), page.read_text()) == before
    assert capsys.readouterr().out.count("has the new figures") == 2


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("summary.json", None, "summary.json: cannot be read.*finished quickstart"),
        ("pretrain/nvlog.json", None, "nvlog.json: cannot be read.*finished quickstart"),
        ("summary_test-mini.json", '{"dataset_dir": "/home/me/x"}', "absolute path of a machine"),
        ("finetune/nvlog.json", "no log\n", "none of its 1 lines is a log line"),
    ],
)
def test_a_run_that_cannot_be_quoted_changes_nothing(tmp_path, quickstart, name, content, message):
    page = tmp_path / "page.md"
    text = "<!-- output: finetuning -->\nold\n<!-- end of output -->\n"
    page.write_text(text)
    (quickstart / name).unlink()
    if content is not None:
        (quickstart / name).write_text(content)
    with pytest.raises(UserError, match=message):
        update_docs(quickstart, [page], tmp_path / "results")
    assert page.read_text() == text and not (tmp_path / "results").exists()


def test_an_unknown_block_is_named(tmp_path):
    text = "<!-- output: other -->\n<!-- end of output -->\n"
    with pytest.raises(UserError, match="page.md: output 'other': choose from quickstart"):
        with_output({"page.md": text}, tmp_path)


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


def test_one_figure_of_named_pairs_becomes_a_table_of_rows_and_columns(tmp_path):
    rows = {
        "plain fp32, 1 x 2 s": {"speed": 9.3, "memory": 400},
        "plain fp32, 4 x 2 s": {"speed": 14.7},
        "openvino fp32, 1 x 2 s": {"speed": 14.4},
    }
    versions = {"torch": "2.13", "openvino": "2026.4"}
    measured = {**GOOD, "table": "inference", "rows": rows, "versions": versions}
    (tmp_path / "a.json").write_text(json.dumps(measured))
    (table,) = measured_tables(tmp_path).values()
    assert table.splitlines()[2:6] == [
        "|  | 1 x 2 s | 4 x 2 s |",
        "|---|---|---|",
        "| plain fp32 | 9.3 | 14.7 |",
        "| openvino fp32 | 14.4 | – |",
    ]
    assert "openvino 2026.4" in table.splitlines()[-1]


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
