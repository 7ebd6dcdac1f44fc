import json

import pytest

from utils.reporting.summarise_quickstart import STAGES, SUBSET, summarise
from wav2vec2.cli.errors import UserError


def write(folder, accuracies):
    (folder / "pretrain").mkdir()
    records = [
        {"step": [epoch], "data": {"val_accuracy": a, "val_code_perplexity": 32.0 + epoch}}
        for epoch, a in enumerate(accuracies)
    ]
    records += [{"step": [1, 2, 3], "data": {"train_loss": 1.0}}]
    records += [{"step": [], "data": {"val_accuracy": 0.99, "val_code_perplexity": 1.0}}]
    lines = "".join(f"DLLL {json.dumps(record)}\n" for record in records)
    (folder / "pretrain" / "nvlog.json").write_text(lines)
    (folder / f"summary_{SUBSET}.json").write_text('{"wer": 9.5, "uer": 3.0, "utterances": 240}')
    for stage in STAGES:
        (folder / f"{stage}.seconds").write_text("2.5\n")


def test_summary(tmp_path):
    write(tmp_path, [0.03, 0.2, 0.25])
    summary = summarise(tmp_path)
    assert summary["wer"] == 9.5 and summary["utterances"] == 240
    assert (summary["pretrain_accuracy_first"], summary["pretrain_accuracy_last"]) == (0.03, 0.25)
    assert summary["seconds"]["pretrain"] == 2.5


def test_unfinished(tmp_path):
    write(tmp_path, [])
    with pytest.raises(UserError, match="holds no validation"):
        summarise(tmp_path)
    (tmp_path / "finetune.seconds").unlink()
    with pytest.raises(UserError, match="nvlog.json: holds no|finetune.seconds"):
        summarise(tmp_path)
