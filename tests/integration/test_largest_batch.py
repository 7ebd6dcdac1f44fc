"""The search for the largest batch, and one within a memory of a given size on a CPU."""

import json

import pytest

from tests.integration.conftest import ROOT
from utils.benchmarks import largest_batch
from utils.benchmarks.largest_batch import largest, size
from utils.benchmarks.step import Worker


@pytest.mark.parametrize("limit", [0, 1, 5, 8, 15, 16, 23, 100, 1000])
def test_largest_that_fits(limit):
    asked = []

    def fits(count):
        asked.append(count)
        return count <= limit

    possible = [size(n) for n in range(1, 200)]
    assert all(n <= 8 or n % 8 == 0 for n in possible) and possible[:9] == [*range(1, 9), 16]
    assert largest(fits) == max((n for n in possible if n <= limit), default=0)
    assert len(asked) == len(set(asked)) <= 17


MINI = ["--cpu", "--model", "mini", "--seconds", "4", "--precision", "fp32"]


def test_within_a_given_memory(command, tmp_path):
    arguments = ["--factors", "2", "--memory_mib", "200", "--output_dir", tmp_path]
    code, out, err = command(largest_batch.main, *MINI, *arguments)
    assert code == 0, err
    (found,) = json.loads((tmp_path / "largest_batch.json").read_text())["results"]
    tried = dict(
        line.removeprefix("factor 2 fp32, ").split(" x 4 s: ")
        for line in out.splitlines()
        if line.startswith("factor 2 fp32, ")
    )
    assert found["utterances"] >= 1 and 0 < found["memory"] <= 200
    assert tried[str(found["utterances"])] != "too much"
    assert "too much" in tried.values()
    assert (tmp_path / "largest_batch.md").read_text() in out


def test_a_batch_too_large_is_no_error(command, tmp_path, monkeypatch):
    """Memory that ran out, told by the process or by its death, is an answer; all else is not."""

    def run(error):
        def turn(self, updates):
            raise error

        monkeypatch.setattr(Worker, "turn", turn)
        arguments = ["--factors", "1", "--memory_mib", "9999", "--output_dir", tmp_path]
        return command(largest_batch.main, *MINI, *arguments)

    code, out, _ = run(RuntimeError("ended with 1: torch.OutOfMemoryError: CUDA out of memory."))
    assert code == 0 and "| baseline | 0 | 0 | 0 |" in out
    code, _, err = run(largest_batch.UserError("something else"))
    assert code == 2 and "something else" in err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--cpu"], "say with --memory_mib how much"),
        (["--cpu", "--memory_mib", "-1"], "--memory_mib -1.0: must be at least 0"),
        (["--factors", "0"], "--factors: give one or more"),
        (["--dataset_dir", "/datasets"], "batches are of noise"),
    ],
)
def test_mistakes(command, tmp_path, arguments, message):
    code, _, err = command(largest_batch.main, *arguments, "--output_dir", tmp_path)
    assert code == 2 and message in err and len(err.splitlines()) == 1


def test_the_table_is_what_the_command_prints(tmp_path, command):
    flags = ("--finetune", "--output_dir", tmp_path)
    code, out, err = command(largest_batch.main, *flags)
    assert code == 0, err
    text = (ROOT / "docs" / "finetune_memory.md").read_text("utf-8")
    table = text.split("<!-- memory -->\n")[1].split("<!-- end of memory -->")[0]
    assert table.strip() == out.strip(), out
    assert (tmp_path / "largest_batch.md").read_text() in out
