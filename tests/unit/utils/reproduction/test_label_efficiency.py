"""The table of few transcripts: its steps, and what is written after each."""

import pytest

from utils.reporting import results
from utils.reproduction.label_efficiency import LABELLED, label_efficiency_steps
from utils.reproduction.reproduce_tables import main
from utils.reproduction.steps import ReproductionOptions
from wav2vec2.cli.errors import UserError


def test_label_efficiency_is_written_cell_by_cell(tmp_path, monkeypatch, capfd):
    """Each start is trained once per seed; a table is there as soon as a cell has finished; equal
    updates for all starts."""
    monkeypatch.setattr(results, "ROOT", tmp_path)
    (tmp_path / "scripts").mkdir()
    bodies = {
        "label_efficiency_data": 'echo "data $MINUTES" >>ran',
        "pretrain_small": 'echo "pretrain $TRAIN_SUBSET $SEED" >>ran',
        "finetune_small": 'echo "tune $TRAIN_SUBSET $PRETRAINED_MODEL $RANDOM_WEIGHTS" >>ran\n'
        '[[ "$TRAIN_SUBSET $SEED" == "$FAIL" ]] && exit 3\n'
        'echo "$MAX_UPDATE $MAX_TOKENS" >>budgets\n'
        'echo "$TRAIN_SUBSET ${MASK_PROB:-none}" >>masks',
        "inference": 'wer=$(($(wc -l <ran)))\nmkdir -p "$OUTPUT_DIR"\n'
        'echo "{\\"wer\\": $wer, \\"uer\\": 1.5}" >"$OUTPUT_DIR/summary_$SUBSETS.json"',
    }
    for name, body in bodies.items():
        (tmp_path / "scripts" / f"{name}.sh").write_text(f"{body}\n")
    arguments = ["label_efficiency", "--runs_dir", str(tmp_path / "runs")]
    arguments += ["--output", str(tmp_path / "table.json"), "--seeds", "1", "2"]
    for corpus in LABELLED.values():
        monkeypatch.delenv(corpus.source or "-", raising=False)
    monkeypatch.setenv("MINUTES", "31")  # the rows say 120
    monkeypatch.setenv("FAIL", "train-mini-3min 1")
    with pytest.raises(UserError, match="finetune_small.sh ended with exit code 3"):
        main(arguments)
    partial = results.Measurement.read(tmp_path / "table.json").rows
    starts = ["random weights", "the same 30 minutes", "120 minutes"]
    assert list(partial) == [f"mini, 1min, {start}" for start in starts]
    assert {row["seeds"] for row in partial.values()} == {1}

    monkeypatch.setenv("FAIL", "")
    main(arguments)
    found = results.Measurement.read(tmp_path / "table.json").rows
    amounts = ["1min", "3min", "10min", "30min"]
    assert list(found) == [f"mini, {amount}, {start}" for amount in amounts for start in starts]
    assert {row["seeds"] for row in found.values()} == {2}
    row = found["mini, 1min, random weights"]
    assert row["wer_lowest"] < row["wer"] < row["wer_highest"]
    assert row["uer_lowest"] == row["uer"] == row["uer_highest"] == 1.5
    ran = (tmp_path / "ran").read_text().splitlines()
    assert [line for line in ran if line.startswith("data")] == ["data 120"]
    assert [line for line in ran if line.startswith("pretrain")] == [
        f"pretrain {subset} {seed}"
        for seed in (1, 2)
        for subset in ("train-mini-30min", "train-mini")
    ]
    tuned = [line for line in ran if line.startswith("tune")]
    assert len(tuned) == 2 * 4 * 3 + 1  # the one that failed, again
    # Random weights have the architecture of the last pre-training.
    assert sum("120_minutes" in line for line in tuned) == 2 * 4 * 2 + 1
    assert sum(line.endswith("true") for line in tuned) == 2 * 4 + 1
    assert len(set((tmp_path / "budgets").read_text().splitlines())) == 1
    assert set((tmp_path / "masks").read_text().splitlines()) == {
        *("train-mini-1min 0.2", "train-mini-3min 0.2"),
        *("train-mini-10min none", "train-mini-30min none"),
    }


def test_recordings_of_people_are_in_the_table_where_their_folder_is_given(tmp_path, monkeypatch):
    for corpus in LABELLED.values():
        monkeypatch.delenv(corpus.source or "-", raising=False)
    options = ReproductionOptions(seeds=(1,))
    alone = label_efficiency_steps(options, tmp_path)
    assert {step.folder.relative_to(tmp_path).parts[0] for step in alone} == {"data", "mini"}
    monkeypatch.setenv("DIGITS_DIR", "/digits")
    steps = label_efficiency_steps(options, tmp_path)
    assert steps[0].variables == {"MINUTES": 120, "DIGITS_DIR": "/digits"}
    added = [step for step in steps[1:] if step.command() not in {s.command() for s in alone}]
    assert {step.folder.relative_to(tmp_path).parts[0] for step in added} == {"people", "digits"}
    scripts = [step.script for step in added]
    assert scripts == ["pretrain_small.sh"] * 2 + ["finetune_small.sh", "inference.sh"] * 6
    # On the corpus alone, and on all of them.
    assert [step.variables["DATASET_DIR"].name for step in added[:2]] == ["digits", "people"]
    pretrained = [step.variables for step in steps if step.script == "pretrain_small.sh"]
    assert {v["GUMBEL_TEMPERATURE"] for v in pretrained} == {"2.0 0.5 0.999995"}
    tuned = [step.variables for step in added if step.script == "finetune_small.sh"]
    assert len({(v["MAX_UPDATE"], v["MAX_TOKENS"]) for v in tuned}) == 1
    sources = {v["PRETRAINED_MODEL"].parent for v in tuned}
    assert sources == {step.folder for step in added[:2]}
    monkeypatch.setenv("MBOSHI_DIR", "/mboshi")
    steps = label_efficiency_steps(options, tmp_path)
    people = [
        step for step in steps if step.variables.get("DATASET_DIR") == tmp_path / "data/people"
    ]
    assert len(people) == 1  # one pre-training on all corpora
