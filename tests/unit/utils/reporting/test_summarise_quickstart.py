import json

import pytest

from utils.reporting import summarise_quickstart
from utils.reporting.summarise_quickstart import (
    STAGES,
    SUBSET,
    closing_lines,
    comparison,
    find_evaluation,
    summarise,
)
from wav2vec2.cli.errors import UserError


def write(folder, accuracies):
    (folder / "pretrain").mkdir()
    records = [
        {"step": [epoch], "data": {"val_accuracy": a, "val_code_perplexity": 32.0 + epoch}}
        for epoch, a in enumerate(accuracies)
    ]
    records += [{"step": [1, 2, 3], "data": {"train_loss": 1.0}}]
    records += [{"step": [], "data": {"val_accuracy": 0.99, "val_code_perplexity": 1.0}}]
    lines = "".join(f"DLLL {json.dumps({'type': 'LOG', **record})}\n" for record in records)
    (folder / "pretrain" / "nvlog.json").write_text(lines)
    (folder / f"summary_{SUBSET}.json").write_text('{"wer": 9.5, "uer": 3.0, "utterances": 240}')
    result = {"id": "1", "reference": "GO", "hypothesis": "GO"}
    (folder / f"hypotheses_{SUBSET}.jsonl").write_text(json.dumps(result))
    for stage in STAGES:
        (folder / f"{stage}.seconds").write_text("2.5\n")


def test_summary(tmp_path):
    write(tmp_path, [0.03, 0.2, 0.25])
    summary = summarise(tmp_path, find_evaluation(tmp_path), 9.96)
    assert summary["wer"] == 9.5 and summary["utterances"] == 240
    assert (summary["pretrain_accuracy_first"], summary["pretrain_accuracy_last"]) == (0.03, 0.25)
    assert summary["pretrain_code_perplexity_share"] == 34 / 64  # the last one
    assert summary["transcribed_minutes"] == 10
    assert summary["seconds"]["pretrain"] == 2.5


@pytest.mark.parametrize("random", [False, True])
def test_the_last_line_compares_with_the_median_of_the_other_start(tmp_path, monkeypatch, random):
    write(tmp_path, [0.03, 0.2])
    evaluation = find_evaluation(tmp_path)
    other = "" if random else ", RANDOM_WEIGHTS=true"
    rows = {
        f"seed {n}{other}": {"wer": 10.0 * n, "transcribed_minutes": minutes}
        for n, minutes in ((1, 10), (2, 10), (3, 10), (4, 30))
    }
    rows |= {"seed 9" + ("" if other else ", RANDOM_WEIGHTS=true"): {"wer": 99.0}}
    monkeypatch.setattr(summarise_quickstart, "STORED", tmp_path / "stored.json")
    summary = summarise(tmp_path, evaluation, 10, random)
    assert ("pretrain_accuracy_last" in summary) == (not random)
    alone = "9.5 % without" if random else "9.5 % with pre-training"
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    lines = closing_lines(tmp_path).splitlines()
    assert lines[-1] == f"with 10 minutes of transcripts: WER {alone}"
    (tmp_path / "stored.json").write_text(json.dumps({"rows": rows}))
    lines = closing_lines(tmp_path).splitlines()
    both = "20.0 % with pre-training, 9.5 % without"
    both = both if random else "9.5 % with pre-training, 20.0 % without"
    assert lines[-1] == f"with 10 minutes of transcripts: WER {both}"
    for start in ("pre-training accuracy: ", "with more updates pre-training gains more (docs"):
        assert any(line.startswith(start) for line in lines) == (not random)
    longer = {
        f"seed {n}, PRETRAIN_UPDATES=16000": {"wer": wer, "transcribed_minutes": 10}
        for n, wer in ((1, 3.0), (2, 9.0), (3, 4.0))
    }
    (tmp_path / "stored.json").write_text(json.dumps({"rows": rows | longer}))
    lines = closing_lines(tmp_path).splitlines()
    assert lines[-1] == f"with 10 minutes of transcripts: WER {both}"  # of the default's rows
    assert any(": WER 4.0 % with PRETRAIN_UPDATES=16000 (" in li for li in lines) == (not random)
    other_minutes = comparison(summary | {"transcribed_minutes": 3})
    assert other_minutes == f"with 3 minutes of transcripts: WER {alone}"


def test_unfinished(tmp_path):
    write(tmp_path, [])
    with pytest.raises(UserError, match="holds no validation"):
        summarise(tmp_path, find_evaluation(tmp_path), 9.96)
    (tmp_path / f"summary_{SUBSET}.json").unlink()
    with pytest.raises(UserError, match="holds no evaluation of test-mini; run scripts"):
        find_evaluation(tmp_path)


def test_a_stage_without_its_seconds(tmp_path):
    write(tmp_path, [0.03])
    (tmp_path / "finetune.seconds").unlink()
    with pytest.raises(UserError, match="finetune.seconds: cannot be read"):
        summarise(tmp_path, find_evaluation(tmp_path), 9.96)
