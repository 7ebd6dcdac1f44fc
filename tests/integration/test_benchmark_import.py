"""utils/benchmarks/import_corpus.py: the command, on little audio."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from utils.reporting import results

ROOT = Path(__file__).resolve().parents[2]


def test_the_process_that_measures_has_no_torch():
    """Linux counts the memory of a parent in the peak of the processes that it starts."""
    code = "import sys, utils.benchmarks.import_corpus; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.long
def test_every_row_is_measured(tmp_path):
    flags = ["--rows", 8, "--hours", 0.001, "--long_minutes", 0.02, "--json", tmp_path / "f.json"]
    command = [sys.executable, "-m", "utils.benchmarks.import_corpus", *map(str, flags)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "f.json").read_text())["rows"]
    assert list(rows)[-2:] == ["table of 2 rows", "table of 8 rows"] and len(rows) == 10
    assert all(row["cpu"] > 0 and row["memory"] > 0 for row in rows.values())
    measurement = results.Measurement.read(tmp_path / "f.json")
    assert "table of 8 rows" in results.measured_table(
        results.TABLES["import_corpus"], [measurement]
    )
