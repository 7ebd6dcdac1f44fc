"""Each table: what it would run, what it takes from finished runs, and how it resumes."""

import json
import re
import shlex
import sys

import pytest

from common.runtime.check_variables import SCRIPTS, check_value, declared
from utils.reporting import results
from utils.reproduction import reproduce_tables
from utils.reproduction.reproduce_tables import REPRODUCTIONS, main
from utils.reproduction.steps import FINISHED, Step
from wav2vec2.cli.errors import UserError
from wav2vec2.cli.telemetry import Telemetry
from wav2vec2.inference.latency import PARTS, QUANTILES

SEEDS = ["--seeds", "1", "2", "3"]


def test_every_table_can_be_reproduced():
    """Those named gpu_... by scripts/gpu_report.sh: tests/integration/test_gpu_report.py.  Those of
    benchmarks by their own commands: tests/integration/test_benchmark_import.py and
    test_benchmark_inference.py."""
    others = {table for table in results.TABLES if not table.startswith("gpu_")}
    assert set(REPRODUCTIONS) == others - {"import_corpus", "inference"}


def test_lists_what_each_needs(capsys):
    main([])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == list(REPRODUCTIONS)


@pytest.mark.parametrize("table", REPRODUCTIONS)
def test_dry_run(table, capsys):
    """Scripts that exist, with variables that they read and values of their kind."""
    main([table, "--dry_run", *SEEDS])
    lines = capsys.readouterr().out.splitlines()
    assert lines
    for line in lines:
        variables, script = re.fullmatch(r"(.*) bash scripts/(\S+).*", line).groups()
        known = declared(SCRIPTS / script)
        for pair in shlex.split(variables):
            name, _, value = pair.partition("=")
            assert name in known, (script, name)
            check_value(name, value, known[name])


def test_seeds_and_numbers_of_gpus(capsys):
    main(["pretraining_accuracy", "--dry_run", "--seeds", "4", "5"])
    assert re.findall(r"SEED=(\d)", capsys.readouterr().out) == ["4", "5"]
    main(["throughput", "--dry_run", "--gpus", "2"])
    assert re.findall(r"NUM_GPUS=(\d)", capsys.readouterr().out) == ["2", "2"]


def test_no_such_table():
    with pytest.raises(UserError, match="wer: no such table; choose from pooling_factor"):
        main(["wer"])


def log(folder, records, summary):
    """A run's log, by the class that writes them."""
    folder.mkdir(parents=True)
    telemetry = Telemetry(folder, enabled=True)
    for step, data in records:
        telemetry.log(step, data)
    telemetry.log([], summary)
    telemetry.close()


@pytest.fixture
def finished(tmp_path, monkeypatch, capsys):
    """Makes a table from finished runs; returns its rows and checks the output."""

    def make(table, *flags):
        monkeypatch.setattr(Step, "run", lambda step: None)
        output = tmp_path / "out" / "table.json"
        main([table, "--runs_dir", str(tmp_path / "runs"), "--output", str(output), *flags])
        printed = capsys.readouterr().out
        assert results.TABLES[table].title in printed and str(output) in printed
        return results.Measurement.read(output).rows

    return make


def test_accuracy_over_seeds(tmp_path, finished):
    """The validations nearest to the published updates: mean and deviation."""
    for seed, last in ((1, 0.50), (2, 0.56), (3, 0.59)):
        records = []
        for number, update in enumerate((49_000, 52_000, 99_999, 200_000, 300_000, 400_000), 1):
            value = last if update == 400_000 else 0.1 * number
            records.append(([1, update, 400_000], {"train_loss": 1.0}))
            records.append(([1], {"val_accuracy": value}))
        log(tmp_path / "runs" / "pretraining_accuracy" / f"seed_{seed}", records, {})
    rows = finished("pretraining_accuracy", *SEEDS)
    assert rows["50,000 updates"] == {"accuracy": 0.1, "deviation": 0.0}
    assert rows["400,000 updates"] == {"accuracy": 0.55, "deviation": 0.046}


def test_throughput(tmp_path, finished):
    for gpus in (1, 4):
        for kind, rate in (("pretrain", 1000.4), ("finetune", 2000.6)):
            folder = tmp_path / "runs" / "throughput" / f"{kind}_{gpus}"
            log(folder, [], {"train_avg_ntokens/s": rate * gpus})
    rows = finished("throughput", "--gpus", "1", "4")
    assert rows == {
        "1 GPU": {"pretrain": 1000, "finetune": 2001},
        "4 GPUs": {"pretrain": 4002, "finetune": 8002},
    }


def test_word_error_rate(tmp_path, finished):
    for seed, wer in ((1, 9.0), (2, 8.1234), (3, 7.0)):
        folder = tmp_path / "runs" / "finetuning_wer" / f"seed_{seed}" / "dev-other"
        folder.mkdir(parents=True)
        (folder / "summary_dev-other.json").write_text(json.dumps({"wer": wer}))
    assert finished("finetuning_wer", *SEEDS) == {"dev-other": {"wer": 8.123}}


def test_factors_are_the_benchmarks_own(tmp_path, finished):
    """Its precision and its device included, whatever else this machine has."""
    folder = tmp_path / "runs" / "pooling_factor"
    folder.mkdir(parents=True)
    content = {
        **{"table": "pooling_factor", "setting": "CPU, fp32", "command": "the benchmark"},
        **{"hardware": "a processor", "versions": {"torch": "2"}, "commit": "abc"},
        "date": "2026-01-02",
        "rows": {"baseline": {"throughput": 1.0, "memory": 100.0}},
    }
    (folder / "table.json").write_text(json.dumps(content))
    assert finished("pooling_factor") == content["rows"]
    found = results.Measurement.read(tmp_path / "out" / "table.json")
    assert found == results.Measurement(**content)


def test_latency(tmp_path, finished):
    folder = tmp_path / "runs" / "latency"
    folder.mkdir(parents=True)
    entries = []
    for size in (1, 4, 8, 16):
        entry = {"batch_size": size}
        for part in PARTS:
            for number, name in enumerate(("mean", *QUANTILES)):
                entry[f"{part}_latency_{name}"] = size + number + (part == "data+dnn") * 0.123
        entries.append(entry)
    (folder / "latency_test-other.json").write_text(json.dumps(entries))
    rows = finished("latency")
    places = {name: number for number, name in enumerate(("mean", *QUANTILES))}
    assert rows["batch 4"] == {
        "mean": 4.12,
        "p90": round(4.123 + places["0_9"], 2),
        "p95": round(4.123 + places["0_95"], 2),
        "p99": round(4.123 + places["0_99"], 2),
    }


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """A repository whose quickstart takes no time, and fails where FAIL names its seed."""
    monkeypatch.setattr(results, "ROOT", tmp_path)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "quickstart.sh").write_text(
        'echo "$SEED ${RANDOM_WEIGHTS:-}${PRETRAIN_UPDATES:-}" >>ran\n'
        '[[ ${FAIL:-} == "$SEED" ]] && exit 7\n'
        'mkdir -p "$OUTPUT_DIR"\n'
        'echo "{\\"wer\\": $SEED.125, \\"uer\\": 0.5}" >"$OUTPUT_DIR/summary.json"\n'
    )
    arguments = ["quickstart", "--runs_dir", str(tmp_path / "runs")]
    return [*arguments, "--output", str(tmp_path / "table.json")]


def test_resumes_where_it_stopped(tmp_path, monkeypatch, scripts, capfd):
    monkeypatch.setenv("FAIL", "2")
    with pytest.raises(UserError, match="quickstart.sh ended with exit code 7, see above; fix"):
        main(scripts)
    assert (tmp_path / "ran").read_text().splitlines() == ["1 ", "2 "]
    assert not (tmp_path / "table.json").exists()
    monkeypatch.delenv("FAIL")
    main(scripts)
    again = ["1 ", "2 ", "2 ", "3 ", "1 true", "2 true", "3 true"]
    again += ["1 16000", "2 16000", "3 16000"]
    assert (tmp_path / "ran").read_text().splitlines() == again
    printed = capfd.readouterr().out
    assert printed.count("== finished: SEED=1 OUTPUT_DIR=") == 1
    found = results.Measurement.read(tmp_path / "table.json")
    assert found.rows["seed 3"] == {"wer": 3.12, "uer": 0.5}
    assert found.command == "bash scripts/reproduce_tables.sh quickstart"
    assert found.versions["torch"] in sys.modules["torch"].__version__


def test_elastic_resumes_cell_by_cell(tmp_path, monkeypatch, capfd):
    """Each model is trained once per seed, each factor evaluated once; medians over the seeds."""
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.delenv("DATASET_DIR", raising=False)
    models = {"fixed 4": ("4", (2, 4)), "elastic": ("2:6", (1, 6))}
    monkeypatch.setattr(reproduce_tables, "ELASTIC_MODELS", models)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "quickstart.sh").write_text(
        'echo "train $HOURGLASS_CONFIG $SEED $DATASET_DIR" >>ran\n'
        'mkdir -p "$OUTPUT_DIR/finetune"\n'
        'echo "$SEED" >"$OUTPUT_DIR/finetune/wav2vec2_best.pt"\n'
    )
    (tmp_path / "scripts" / "inference.sh").write_text(
        'seed=$(cat "$FINETUNED_MODEL")\n'
        'echo "run $seed $*" >>ran\n'
        '[[ $FAIL == "$seed $2" ]] && exit 3\n'
        'mkdir -p "$OUTPUT_DIR"\n'
        'echo "{\\"wer\\": $2$((seed * seed)).5, \\"real_time_factor\\": 0.0$2}" '
        '>"$OUTPUT_DIR/summary_$SUBSETS.json"\n'
    )
    arguments = ["elastic", "--runs_dir", str(tmp_path / "runs")]
    arguments += ["--output", str(tmp_path / "table.json")]
    monkeypatch.setenv("FAIL", "2 4")
    with pytest.raises(UserError, match="inference.sh ended with exit code 3, see above"):
        main(arguments)
    monkeypatch.setenv("FAIL", "")
    main(arguments)
    ran = (tmp_path / "ran").read_text().splitlines()
    assert ran.pop(5) == "run 2 --factor 4"  # the one that failed
    expected = []
    for layers, factors in (("[1,(2,4),1]", (2, 4)), ("[1,(2,2:6),1]", (1, 6))):
        for seed in (1, 2, 3):
            expected.append(f"train {layers} {seed} {tmp_path}/runs/elastic/data")
            expected += [f"run {seed} --factor {factor}" for factor in factors]
    assert ran == expected
    found = results.Measurement.read(tmp_path / "table.json")
    assert list(found.rows) == [
        *("fixed 4, run at 2", "fixed 4, run at 4", "elastic, run at 1", "elastic, run at 6")
    ]
    wer = {"wer": 64.5, "wer_lowest": 61.5, "wer_highest": 69.5}
    assert found.rows["elastic, run at 6"] == {**wer, "speed": 16.7}
    assert "| elastic, run at 6 | 64.5 | 61.5 | 69.5 | 16.7 |" in capfd.readouterr().out


def test_codebooks_are_compared_at_the_same_updates(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(reproduce_tables, "CODEBOOK_UPDATES", (50, 100))
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "pretrain_small.sh").write_text(
        'mkdir -p "$OUTPUT_DIR"\n'
        "codes=$([[ ${KEEP_EQUAL_DISTRACTORS:-} == false ]] && echo 3 || echo 40)\n"
        "for update in 50 100; do\n"
        '  data="{\\"train_contrastive_loss\\": 1.5, \\"train_accuracy\\": 0.5, '
        '\\"train_code_perplexity\\": $((codes + update))}"\n'
        '  echo "DLLL {\\"type\\": \\"LOG\\", \\"step\\": [1, $update, 100], \\"data\\": $data}"\n'
        'done >"$OUTPUT_DIR/nvlog.json"\n'
    )
    arguments = ["codebook", "--runs_dir", str(tmp_path / "runs")]
    main([*arguments, "--output", str(tmp_path / "table.json")])
    rows = results.Measurement.read(tmp_path / "table.json").rows
    same = {
        f"{name}_{m}": v
        for name in ("counted", "not_counted")
        for m, v in (("contrastive_loss", 1.5), ("accuracy", 0.5))
    }
    assert rows == {
        "50 updates": same | {"counted_code_perplexity": 90, "not_counted_code_perplexity": 53},
        "100 updates": same | {"counted_code_perplexity": 140, "not_counted_code_perplexity": 103},
    }


def test_another_command_is_not_the_finished_one(tmp_path, scripts, capfd):
    main(scripts)
    marker = tmp_path / "runs" / "quickstart" / "run_3" / FINISHED
    marker.write_text(marker.read_text().replace("SEED=3", "SEED=33"))
    main(scripts)
    assert (tmp_path / "ran").read_text().splitlines()[9:] == ["3 "]


def test_a_run_that_left_nothing(tmp_path, finished):
    with pytest.raises(UserError, match=r"summary.json: cannot be read .*; remove its folder"):
        finished("quickstart")
