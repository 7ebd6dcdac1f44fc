"""Totals and the commonest errors, from the lines of an evaluation."""

import json

import pytest

from wav2vec2.cli.errors import UserError
from wav2vec2.inference.report import LISTED, Report, count_differing, examples


def result(key, reference, hypothesis, errors, seconds=1.0):
    return {
        "id": key,
        "reference": reference,
        "hypothesis": hypothesis,
        "words": len(reference.split()),
        "word_errors": errors,
        "units": len(reference),
        "unit_errors": errors,
        "seconds": seconds,
        "confidence": 0.5,
    }


def write(path, results):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in results))
    return path


RESULTS = [
    result("a", "THE CAT SAT", "A CAT SAT", 1),
    result("b", "THE CAT SAT", "A CAT", 2, seconds=12.0),
    result("c", "YES", "YES", 0),
    result("d", "NO", "NO NO", 1),
    result("e", "GO", "", 1),
]


def test_totals(tmp_path):
    report = Report.from_file(write(tmp_path / "h.jsonl", RESULTS))
    summary = report.summary()
    assert summary["wer"] == pytest.approx(100 * 5 / 9)
    assert (summary["words"], summary["word_errors"], summary["utterances"]) == (9, 5, 5)
    kinds = ("substitutions", "deletions", "insertions")
    assert [summary[kind] for kind in kinds] == [2, 2, 1]
    assert (report.correct, report.seconds) == (1, 16.0)


def test_markdown(tmp_path):
    text = "\n".join(Report.from_file(write(tmp_path / "h.jsonl", RESULTS)).markdown("dev"))
    assert "| words | 9 | 5 | 55.56 % | 2 | 2 | 1 |" in text
    assert "| 2 | THE | A |" in text  # substituted
    assert "| 1 | SAT |  |" in text and "| 1 | GO |  |" in text  # deleted
    assert "| 1 |  | NO |" in text  # inserted
    assert "| 0 to 2 s | 6 | 50.00 % |" in text and "| 10 to 20 s | 3 | 66.67 % |" in text
    worst = text.split("## Utterances with the most errors")[1]
    # Most errors first; among equals the larger share, then the filelist's order.
    assert [line[1] for line in worst.splitlines() if line.startswith("`") and line[1] != "`"] == [
        "b",
        "d",
        "e",
        "a",
    ]
    assert "REF: THE CAT SAT\nHYP: A   CAT ***" in text


def test_of_many_utterances_the_worst_are_kept(tmp_path):
    many = [
        result(str(n), " ".join("A" * 9), " ".join("A" * (9 - n % 5)), n % 5) for n in range(99)
    ]
    report = Report.from_file(write(tmp_path / "h.jsonl", many))
    assert len(report.worst) == LISTED
    first = [n for n in range(99) if n % 5 == 4] + [n for n in range(99) if n % 5 == 3]
    assert sorted(int(entry[-1]["id"]) for entry in report.worst) == sorted(first[:LISTED])


def test_an_evaluation_without_errors(tmp_path):
    text = "\n".join(Report.from_file(write(tmp_path / "h.jsonl", [RESULTS[2]])).markdown("dev"))
    assert "1 of them without" in text and "##" not in text


def test_examples_are_spread_over_the_file(tmp_path):
    path = write(tmp_path / "h.jsonl", [result(str(n), "A", "A", 0) for n in range(10)])
    assert [entry["id"] for entry in examples(path, 5, 10)] == ["0", "2", "4", "6", "8"]
    assert [entry["id"] for entry in examples(path, 20, 10)] == [str(n) for n in range(10)]
    assert list(examples(path, 0, 10)) == []


def test_comparison(tmp_path):
    one = write(tmp_path / "1.jsonl", RESULTS)
    changed = [{**RESULTS[0], "hypothesis": "X"}, *RESULTS[1:]]
    assert count_differing(one, write(tmp_path / "2.jsonl", changed)) == 1
    assert count_differing(one, one) == 0
    for other in (RESULTS[:-1], RESULTS[::-1], []):
        with pytest.raises(UserError, match="same filelist"):
            count_differing(one, write(tmp_path / "3.jsonl", other))
    (tmp_path / "4.jsonl").write_text('{"id": 1')
    with pytest.raises(UserError, match="4.jsonl:1"):
        count_differing(one, tmp_path / "4.jsonl")
