import json

import pytest

from utils.reporting.summarise_quickstart import (
    STAGES,
    SUBSET,
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
    summary = summarise(tmp_path, find_evaluation(tmp_path))
    assert summary["wer"] == 9.5 and summary["utterances"] == 240
    assert (summary["pretrain_accuracy_first"], summary["pretrain_accuracy_last"]) == (0.03, 0.25)
    assert summary["seconds"]["pretrain"] == 2.5


def test_unfinished(tmp_path):
    write(tmp_path, [])
    with pytest.raises(UserError, match="holds no validation"):
        summarise(tmp_path, find_evaluation(tmp_path))
    (tmp_path / f"summary_{SUBSET}.json").unlink()
    with pytest.raises(UserError, match="holds no evaluation of test-mini; run scripts"):
        find_evaluation(tmp_path)


def test_a_stage_without_its_seconds(tmp_path):
    write(tmp_path, [0.03])
    (tmp_path / "finetune.seconds").unlink()
    with pytest.raises(UserError, match="finetune.seconds: cannot be read"):
        summarise(tmp_path, find_evaluation(tmp_path))
