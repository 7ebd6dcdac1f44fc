import json

import pytest

from tests.unit.utils.reporting.test_page import line, parameters, pretraining, write_run
from utils.reporting.headline import headline
from utils.reporting.report import collect_runs


def rows_of(*folders):
    return headline(collect_runs(list(folders))[0])


def test_a_healthy_pretraining_is_followed_by_fine_tuning(tmp_path):
    run = write_run(tmp_path / "run", pretraining(4, model="mini", max_update=3))
    rows = rows_of(run)
    assert rows[0] == ("Run", "run: pre-training of mini, update 3 of 3")
    assert rows[1] == ("Healthy", "run: code perplexity is 47 % of the codes")
    assert rows[2][0] == "Next" and "finetune_base_100h.sh" in rows[2][1]


@pytest.mark.parametrize(
    "old, new, reason",
    [
        ('"train_code_perplexity": 30.0', '"train_code_perplexity": 3.0', "few codes: 3.0 of 64"),
        ('"val_loss": 4.0', '"val_loss": 6.656', "that of guessing"),
    ],
)
def test_an_unhealthy_one_has_its_reason_and_a_fix(tmp_path, old, new, reason):
    text = pretraining(4)
    assert old in text
    rows = rows_of(write_run(tmp_path / "run", text.replace(old, new)))
    (unhealthy,) = (text for label, text in rows if label == "Not healthy")
    assert reason in unhealthy
    assert any(label == "Next" and "learning rate" in text for label, text in rows)


@pytest.mark.parametrize("changed", [{}, {"warmup_updates": 2}])
def test_few_codes_with_a_high_accuracy_are_a_degenerate_codebook(tmp_path, changed):
    text = pretraining(4, **changed).replace('"train_accuracy": 0.1', '"train_accuracy": 0.65')
    text = text.replace('"train_code_perplexity": 30.0', '"train_code_perplexity": 9.0')
    rows = rows_of(write_run(tmp_path / "run", text))
    (unhealthy,) = (text for label, text in rows if label == "Not healthy")
    assert "degenerate codebook: 9.0 of 64 codes in use" in unhealthy
    assert any(label == "Next" and "raise the diversity weight" in text for label, text in rows)


def test_few_codes_before_the_end_of_the_warm_up_say_nothing(tmp_path):
    text = pretraining(4, warmup_updates=100)
    for perplexity in ("3.0", "30.0"):
        changed = text.replace(
            '"train_code_perplexity": 30.0', f'"train_code_perplexity": {perplexity}'
        )
        rows = rows_of(write_run(tmp_path / perplexity, changed))
        assert not [label for label, _ in rows if "ealthy" in label]


def test_a_run_that_a_check_stopped_is_not_resumed(tmp_path):
    run = write_run(tmp_path / "run", pretraining(4, max_update=100))
    (run / "last_exit.json").write_text('{"code": 3, "reason": "representations collapsed"}')
    rows = rows_of(run)
    assert ("Not healthy", "run: representations collapsed") in rows
    assert not any("resume" in text for _, text in rows)
    (run / "last_exit.json").write_text('{"code": 4, "reason": "stopped by SIGINT"}')
    assert ("Next", "run: start it again to resume at update 3") in rows_of(run)


def test_an_unfinished_run_is_started_again(tmp_path):
    rows = rows_of(write_run(tmp_path / "run", pretraining(4, max_update=100)))
    assert ("Next", "run: start it again to resume at update 3") in rows


def test_an_utterance_without_words_is_an_example_too(tmp_path):
    run = write_run(tmp_path / "run", parameters(command="finetune") + line([1], 1.0, val_wer=0.0))
    result = {"id": "a", "reference": "", "hypothesis": ""}
    (run / "hypotheses_test.jsonl").write_text(json.dumps(result) + "\n")
    rows = rows_of(run)
    assert ("Reference", "") in rows and ("Hypothesis", "") in rows


@pytest.mark.parametrize("rate", ["CER", "UER"])
def test_an_evaluation_has_its_rates_and_an_utterance_with_an_error(tmp_path, rate):
    text = parameters(command="finetune") + line([1], 1.0, val_blank_share=99.5)
    run = write_run(tmp_path / "run", text)
    results = [("a", "ONE TWO", "ONE TWO"), ("b", "ONE TWO", "ONE TOO")]
    keys = ("id", "reference", "hypothesis")
    lines = [json.dumps(dict(zip(keys, result))) for result in results]
    (run / "hypotheses_test.jsonl").write_text("\n".join(lines) + "\n")
    (run / "summary_test.json").write_text(
        json.dumps({"wer": 25.0, "uer": 10.0, "unit_rate": rate})
    )
    rows = rows_of(run)
    assert ("Error rates", f"test, 2 utterances: WER 25.00 %, {rate} 10.00 %") in rows
    assert ("Reference", "ONE TWO") in rows and ("Hypothesis", "ONE TOO") in rows
    assert [label for label, _ in rows if "ealthy" in label] == ["Not healthy"]
