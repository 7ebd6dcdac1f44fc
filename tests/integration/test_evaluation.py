"""`inference.py evaluate`: batches, processes, output files.

The model has random weights.  Its transcripts are long, and its decisions so close that a
difference in rounding would show.
"""

import json
import random
import re
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import inference
from tests.integration.conftest import script
from tests.integration.test_bad_input import one_line
from utils.checkpoints import convert, release
from utils.reporting import tables
from utils.reporting.runs import find_runs
from wav2vec2.decoding.beam_search import DecodingOptions
from wav2vec2.decoding.greedy import GreedyDecoder
from wav2vec2.files.filelists import read_manifest, write_manifest
from wav2vec2.files.output import write_lines
from wav2vec2.files.torch_file import load_checkpoint
from wav2vec2.inference import latency
from wav2vec2.inference.recogniser import Recogniser, RecogniserOptions, prepare_decoder
from wav2vec2.interop import native
from wav2vec2.kernels import int8

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def model(random_recogniser):
    return random_recogniser


@pytest.fixture(scope="module")
def subset(corpus, tmp_path_factory):
    """A data set folder whose subset `mixed` has utterances of very different lengths."""
    folder = tmp_path_factory.mktemp("mixed")
    manifest = read_manifest(corpus, "both")
    labels = (corpus / "both.ltr").read_text().splitlines()
    write_manifest(
        folder, "mixed", manifest.root, [(u.path, u.samples) for u in manifest.utterances]
    )
    write_lines(folder / "mixed.ltr", labels)
    return folder


@pytest.fixture
def evaluate(command, model, subset, tmp_path):
    def run(name, *more, folder=subset):
        output = tmp_path / name
        code, out, err = command(
            inference.main,
            *["evaluate", "--checkpoint", model, "--dataset_dir", folder, "--subset", "mixed"],
            *["--output_dir", output, "--num_workers", 0, "--cpu", *more],
        )
        assert code == 0, err
        return output, out

    return run


def read(output, subset="mixed"):
    lines = (output / f"hypotheses_{subset}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def same(one, other):
    """Equal but for the last digit of the confidences."""
    assert len(one) == len(other)
    for a, b in zip(one, other):
        assert {**a, "confidence": 0} == {**b, "confidence": 0}
        assert a["confidence"] == pytest.approx(b["confidence"], abs=2e-4)


def test_transcripts_do_not_depend_on_batches_or_order(evaluate, subset, model, tmp_path):
    alone = read(evaluate("1", "--batch_size", 1)[0])
    assert all(len(entry["hypothesis"]) > 10 for entry in alone)
    for size in (8, 32):
        output, _ = evaluate(str(size), "--batch_size", size)
        same(alone, read(output))
        assert 0 < json.loads((output / "summary_mixed.json").read_text())["padding"] <= 0.1

    order = random.Random(1).sample(range(len(alone)), len(alone))
    shuffled = tmp_path / "shuffled"
    manifest = read_manifest(subset, "mixed")
    labels = (subset / "mixed.ltr").read_text().splitlines()
    files = [(manifest.utterances[n].path, manifest.utterances[n].samples) for n in order]
    write_manifest(shuffled, "mixed", manifest.root, files)
    write_lines(shuffled / "mixed.ltr", [labels[n] for n in order])
    same([alone[n] for n in order], read(evaluate("s", "--batch_size", 8, folder=shuffled)[0]))

    recogniser = Recogniser.load(RecogniserOptions(str(model), cpu=True))
    greedy = prepare_decoder(DecodingOptions(), recogniser.vocabulary)
    padded = {}
    for batch in recogniser.batches(manifest, 8, workers=0):
        batch.waveforms = F.pad(batch.waveforms, (0, 12_345))
        words = [greedy(logits).words for logits in recogniser.logits(batch)]
        padded |= dict(zip(batch.ids, words))
    assert padded == {entry["id"]: entry["hypothesis"] for entry in alone}


@pytest.mark.parametrize("kind", ["onnx", "onnx_int8"])
def test_an_onnx_file_in_the_checkpoints_place(evaluate, model, corpus, tmp_path, command, kind):
    """The same transcripts, in batches; with 8 bits the number that differ is printed."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = tmp_path / "model.onnx"
    assert command(convert.main, model, path, "--to", kind)[0] == 0
    by_torch, _ = evaluate("torch")
    output, printed = evaluate("onnx", "--checkpoint", path, "--compare", by_torch)
    found = re.search(r"mixed: (\d+) of (\d+) transcripts differ", printed)
    hypotheses = read(output)
    assert int(found[2]) == len(hypotheses)
    if kind == "onnx":
        assert found[1] == "0"
        same(hypotheses, read(by_torch))
        manifest = read_manifest(corpus, "both")
        audio = manifest.root / manifest.utterances[0].path
        results = [
            command(inference.main, "transcribe", "--checkpoint", checkpoint, "--cpu", audio)
            for checkpoint in (model, path)
        ]
        assert results[0][:2] == results[1][:2] and results[0][0] == 0 and results[0][1].strip()
    code, out, err = command(
        inference.main,
        *["transcribe", "--checkpoint", path, "--precision", "bf16", "--cpu", "a.wav"],
    )
    one_line((code, out, err), "--precision bf16", "has the precision it was written in")
    code, out, err = command(inference.main, "features", "--checkpoint", path, "--cpu", "a.wav")
    one_line((code, out, err), "model.onnx: an ONNX file")


def test_several_processes_count_each_utterance_once(evaluate, subset, model, tmp_path):
    """29 utterances in batches of 2: the processes do not get equally many."""
    one, out = evaluate("one", "--batch_size", 2, "--save_log_probs")
    recipe = {
        "NUM_GPUS": "2",
        "CPU": "true",
        "FINETUNED_MODEL": model,
        "DATASET_DIR": subset,
        "SUBSETS": "mixed",
        "OUTPUT_DIR": tmp_path / "two",
        "BATCH_SIZE": "2",
        "NUM_WORKERS": "0",
    }
    result = script("inference.sh", "--compare", str(one), "--save_log_probs", **recipe)
    assert result.returncode == 0, result.stderr
    two = tmp_path / "two"
    same(read(one), read(two))
    names = [entry["id"] for entry in read(two)]
    assert names == [u.id for u in read_manifest(subset, "mixed").utterances] and len(names) == 29
    saved = [{p.name for p in (o / "log_probs" / "mixed").iterdir()} for o in (one, two)]
    assert saved[0] == saved[1] == {f"{name}.npz" for name in names}
    summaries = [json.loads((o / "summary_mixed.json").read_text()) for o in (one, two)]
    assert (summaries[1].pop("processes"), summaries[1].pop("differing")) == (2, 0)
    measured = ("real_time_factor", "processes")
    for name in set(summaries[0]) - {*measured}:
        assert summaries[0][name] == summaries[1][name], name
    # Each line once, whatever the number of processes, and nothing left behind.
    printed = [line.split(",")[0] for line in result.stdout.splitlines()]
    assert printed[:-1] == [line.split(",")[0] for line in out.splitlines()]
    assert "0 of 29 transcripts differ" in printed[-1]
    assert not list(two.glob(".*"))


def test_variables_of_nvidias_recipe(model, subset, tmp_path):
    """VALID_SUBSET, BATCH_SIZE and BF16 measure what they do there."""
    own = {"CPU": "true", "FINETUNED_MODEL": model, "DATASET_DIR": subset, "NUM_WORKERS": "0"}
    own |= {"VALID_SUBSET": "mixed", "OUTPUT_DIR": tmp_path, "BATCH_SIZE": "3", "BF16": "true"}
    result = script("inference.sh", **own)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "summary_mixed.json").is_file()
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["precision"], config["batch_size"], config["subset"]) == ("bf16", 3, ["mixed"])
    del own["NUM_WORKERS"]
    result = script("inference_benchmark.sh", **own, NUM_REPEATS="3", NUM_WARMUP_REPEATS="1")
    assert result.returncode == 0, result.stderr
    (measured,) = json.loads((tmp_path / "latency_mixed.json").read_text())
    assert (measured["batch_size"], measured["batches"]) == (3, 3 * 10)
    one_line(script_result(script("inference.sh", **own, SUBSETS="dev")), "VALID_SUBSET=mixed SUBS")
    one_line(script_result(script("inference_benchmark.sh", **own, PRECISION="fp16")), "BF16=true")


def script_result(result):
    return result.returncode, result.stdout, result.stderr


def test_a_file_that_one_process_cannot_read_ends_all(subset, model, tmp_path):
    manifest = read_manifest(subset, "mixed")
    files = [(u.path, u.samples) for u in manifest.utterances]
    files[3] = (files[3][0], files[3][1] + 1)
    write_manifest(tmp_path, "mixed", manifest.root, files)
    write_lines(tmp_path / "mixed.ltr", (subset / "mixed.ltr").read_text().splitlines())
    result = script(
        "inference.sh",
        NUM_GPUS="2",
        CPU="true",
        FINETUNED_MODEL=model,
        DATASET_DIR=tmp_path,
        SUBSETS="mixed",
        OUTPUT_DIR=tmp_path / "o",
        NUM_WORKERS="0",
    )
    assert result.returncode == 2
    assert result.stderr.count("error:") == 1 and manifest.utterances[3].id in result.stderr


def records(folder):
    lines = (folder / "nvlog.json").read_text().splitlines()
    return [json.loads(line.removeprefix("DLLL ")) for line in lines]


def test_the_log_and_the_settings(evaluate, command, corpus, tmp_path):
    output, _ = evaluate("t", "--subset", "dev", "train", "--batch_size", 3, folder=corpus)
    logged = [r for r in records(output) if r["type"] == "LOG" and r["step"] == []]
    summaries = [json.loads((output / f"summary_{s}.json").read_text()) for s in ("dev", "train")]
    assert [r["data"]["eval_wer"] for r in logged] == [s["wer"] for s in summaries]
    assert [r["data"]["subset"] for r in logged] == ["dev", "train"]
    parameters = [r["data"] for r in records(output) if r.get("step") == "PARAMETER"]
    assert parameters[0] == {"command": "evaluate"} and {"batch_size": 3} in parameters
    # The same evaluation again, into another folder.
    again = tmp_path / "again"
    config = ["evaluate", "--config", output / "config.json", "--output_dir", again]
    code, _, err = command(inference.main, *config)
    assert code == 0, err
    assert read(again, "train") == read(output, "train")
    settings = [json.loads((folder / "config.json").read_text()) for folder in (output, again)]
    assert settings[0] | {"output_dir": str(again)} == settings[1]
    # A second evaluation in the folder adds to its log.
    code, _, err = command(inference.main, *config, "--subset", "dev")
    assert code == 0 and len(records(again)) > len(records(output)), err
    # A report shows its summaries, not its log, and finds the runs in subfolders.
    line = {"type": "LOG", "step": [1, 1, 1], "data": {"train_loss": 1.0}}
    (again / "run").mkdir()
    (again / "run" / "nvlog.json").write_text(f"DLLL {json.dumps(line)}\n")
    (run, evaluated), _ = find_runs(again)
    assert (run.path, evaluated.path) == (again / "run", again)
    assert not evaluated.log.parameters and len(evaluated.evaluations) == 2


@pytest.mark.parametrize(
    "other", ['{"command": "finetune"}', '{"model_type": "wav2vec2"}', "no JSON"]
)
def test_another_programs_settings_are_kept(evaluate, tmp_path, other):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(other)
    (folder / "nvlog.json").write_text("a log\n")
    evaluate("run")
    assert (folder / "config.json").read_text() == other
    assert (folder / "nvlog.json").read_text() == "a log\n"
    assert (folder / "summary_mixed.json").is_file()


def test_several_subsets_in_one_table(evaluate, corpus):
    output, out = evaluate("t", "--subset", "dev", "train", folder=corpus)
    head, dev, train = out.splitlines()[-3:]
    assert head.split()[:2] == ["subset", "utterances"]
    summary = json.loads((output / "summary_train.json").read_text())
    assert dev.split()[:2] == ["dev", "5"] and train.split()[:2] == ["train", "24"]
    assert train.split()[3] == f"{summary['wer']:.2f}"
    assert (output / "report_train.md").read_text().startswith("# train: ")


def test_saved_log_probabilities_spell_the_transcript(evaluate, model):
    output, _ = evaluate("p", "--save_log_probs")
    vocabulary = native.vocabulary_of(load_checkpoint(model), "model")
    for entry in read(output):
        with np.load(output / "log_probs" / "mixed" / f"{entry['id']}.npz") as saved:
            log_probs, times = torch.from_numpy(saved["log_probs"]), saved["times"]
            assert tuple(saved["symbols"]) == vocabulary.symbols
        assert log_probs.dtype == torch.float32
        torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(len(log_probs)))
        assert GreedyDecoder(vocabulary)(log_probs).words == entry["hypothesis"]
        assert np.allclose(times, np.arange(len(times)) * 0.02)
        assert times[-1] + 0.025 <= entry["seconds"] < times[-1] + 0.045


def test_mistakes_end_the_command_before_decoding(evaluate, command, model, subset, tmp_path):
    arguments = ["evaluate", "--checkpoint", model, "--dataset_dir", subset, "--subset", "mixed"]
    arguments += ["--cpu", "--output_dir", tmp_path / "o"]
    for more, message in [
        (["--compare", tmp_path / "o"], "same folder as --output_dir"),
        (["--compare", tmp_path / "other"], "hypotheses_mixed.jsonl: no such file"),
        (["--subset"], "at least one"),
    ]:
        one_line(command(inference.main, *arguments, *more), message)


def test_a_released_model_transcribes_the_same(evaluate, command, model, tmp_path):
    expected, _ = evaluate("checkpoint")
    folder = tmp_path / "released"
    code, out, err = command(release.main, model, folder, "--evaluation", str(expected))
    assert code == 0 and "released: ctc" in out, err
    found, _ = evaluate("released_results", "--checkpoint", folder)
    assert read(found) == read(expected)


INT8 = pytest.param(
    "int8",
    marks=pytest.mark.skipif(bool(int8.why_unsupported()), reason=int8.why_unsupported()),
)


@pytest.mark.parametrize("precision", ["bf16", INT8])
def test_a_lower_precision_says_how_many_transcripts_differ(evaluate, tmp_path, precision):
    """The model is nearly undecided: rounding changes some transcripts, never all."""
    evaluate("fp32")
    output, out = evaluate(precision, "--precision", precision, "--compare", tmp_path / "fp32")
    differing, of = re.search(r"mixed: (\d+) of (\d+) transcripts differ", out).groups()
    assert 0 < int(differing) <= int(of) == len(read(output))
    errors = [
        json.loads((tmp_path / n / "summary_mixed.json").read_text()) for n in ("fp32", precision)
    ]
    assert errors[0]["uer"] == pytest.approx(errors[1]["uer"], rel=0.05)


def test_benchmark(command, model, subset, tmp_path, monkeypatch, evaluate):
    resets = []
    monkeypatch.setattr(latency, "reset_peak_memory", resets.append)
    arguments = ["benchmark", "--checkpoint", model, "--dataset_dir", subset, "--subset", "mixed"]
    arguments += ["--output_dir", tmp_path, "--batch_sizes", 5, 2, "--warmup", 1, "--cpu"]
    code, out, err = command(inference.main, *arguments)
    assert code == 0, err
    results = json.loads((tmp_path / "latency_mixed.json").read_text())
    utterances = len(read_manifest(subset, "mixed"))
    # Ascending: a process' peak of memory never falls.
    assert [result["batch_size"] for result in results] == [2, 5]
    assert 0 < results[0]["memory"] <= results[1]["memory"]
    assert resets == [torch.device("cpu")] * 2  # on a GPU, each size has a peak of its own
    for result in results:
        assert result["batches"] >= utterances / result["batch_size"]  # none is skipped
        for part in ("data", "dnn", "data+dnn"):
            steps = [result[f"{part}_latency_{key}"] for key in ("0_5", "0_9", "0_95", "0_99")]
            assert steps[0] > 0 and steps == sorted(steps)
        whole = result["data_latency_mean"] + result["dnn_latency_mean"]
        assert result["data+dnn_latency_mean"] == pytest.approx(whole)
        assert result["audio_s/s"] * result["real_time_factor"] == pytest.approx(1)
    table = (tmp_path / "latency_mixed.md").read_text().splitlines()
    assert len([line for line in table if line.startswith(("| 2 ", "| 5 "))]) == 6
    assert table[-1] in out
    lines = (tmp_path / "nvlog.json").read_text().splitlines()
    logged = [json.loads(line.removeprefix("DLLL ")) for line in lines]
    steps = [entry["step"] for entry in logged if entry["type"] == "LOG"]
    assert steps[-3:] == [[1], [2], []]
    runs, _ = find_runs(tmp_path)
    rows = [row for row in tables.latency(runs).rows if not row[0].startswith("published")]
    assert [row[1:3] for row in rows] == [
        [part, size] for size in ("2", "5") for part in ("data", "dnn", "data+dnn")
    ]
    assert rows[2][4] == tables.number(results[0]["data+dnn_latency_mean"])
    output, _ = evaluate("evaluated")
    summary = json.loads((output / "summary_mixed.json").read_text())
    logged = {tuple(entry["step"]): entry["data"] for entry in logged if entry["type"] == "LOG"}
    for measured in (*results, logged[1,], logged[2,]):
        assert [measured["eval_wer"], measured["eval_uer"]] == [summary["wer"], summary["uer"]]
    code, _, err = command(inference.main, *arguments, "--batch_sizes", 0)
    assert code == 2 and "--batch_sizes 0" in err


def test_a_benchmark_needs_no_labels(command, model, subset, tmp_path):
    (tmp_path / "mixed.tsv").write_text((subset / "mixed.tsv").read_text())
    code, out, err = command(
        inference.main,
        *["benchmark", "--checkpoint", model, "--dataset_dir", tmp_path, "--subset", "mixed"],
        *["--output_dir", tmp_path / "out", "--batch_sizes", 8, "--warmup", 0, "--cpu"],
    )
    assert code == 0, err
    assert "note: no error rates: " in out and "mixed.ltr: no such file" in out
    (result,) = json.loads((tmp_path / "out" / "latency_mixed.json").read_text())
    assert result["memory"] > 0 and "eval_wer" not in result and "eval_uer" not in result


@pytest.mark.parametrize("subcommand", ["evaluate", "align", "features"])
def test_files_of_one_name_in_different_folders(command, model, corpus, tmp_path, subcommand):
    """Their ids are made of their paths, in every output."""
    first, second, third, *_ = read_manifest(corpus, "dev").utterances
    samples = []
    for folder, utterance in (("a", first), ("b", second)):
        (tmp_path / "in" / folder).mkdir(parents=True)
        shutil.copy(utterance.path, tmp_path / "in" / folder / "x.flac")
        samples.append((f"{folder}/x.flac", utterance.samples))
    write_manifest(tmp_path, "some", tmp_path / "in", [*samples, (third.path, third.samples)])
    labels = (corpus / "dev.ltr").read_text().splitlines()[:3]
    write_lines(tmp_path / "some.ltr", labels)
    flags = ["--checkpoint", model, "--dataset_dir", tmp_path, "--subset", "some"]
    flags += ["--output_dir", tmp_path / "o", "--num_workers", 0]
    if subcommand == "evaluate":
        flags.append("--save_log_probs")
    code, _, err = command(inference.main, subcommand, "--cpu", *flags)
    assert code in (0, 1), err  # a random model aligns few
    ids = {"a_x", "b_x", third.id}
    if subcommand == "evaluate":
        assert [line["id"] for line in read(tmp_path / "o", "some")] == ["a_x", "b_x", third.id]
        assert {p.stem for p in (tmp_path / "o/log_probs/some").iterdir()} == ids
    else:
        suffix = {"align": "json", "features": "npz"}[subcommand]
        found = {p.stem for p in (tmp_path / "o").glob(f"*.{suffix}")} - {"features"}
        assert found == ids if code == 0 else found <= ids
