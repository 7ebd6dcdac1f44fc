"""The probe as a command, and during pre-training."""

import json
import signal
from dataclasses import replace

import pytest
import torch

import tasks.probe
import utils.probe
from tasks.recipes import parse_recipe, prepare_trainer
from tests.integration.conftest import flags, launch
from tests.integration.test_training import log_records, losses, measurements, stop_during
from utils.checkpoints import convert
from utils.reporting.panels import diagrams
from utils.reporting.report import collect_runs
from wav2vec2.cli.errors import StoppedBySignal
from wav2vec2.config import MINI, ContrastiveObjective, Hourglass, Regularisation
from wav2vec2.files.torch_file import load_checkpoint, save_checkpoint
from wav2vec2.interop import native
from wav2vec2.pretraining import Wav2Vec2ForPretraining

NARROW = replace(MINI, dim=96, ffn_dim=128, layers=2, final_dim=32)
SHORTENED = replace(NARROW, layers=3, hourglass=Hourglass(1, 1, 2, 1))
NOISY = {"layerdrop": 0.3, "dropout": 0.1, "ema": 0.9, "max_tokens": 60_000}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(tasks.probe, "STEPS", 20)
    monkeypatch.setattr(tasks.probe, "LEARNING_RATES", (0.03,))


def pretrained(path, architecture):
    torch.manual_seed(0)
    model = Wav2Vec2ForPretraining.from_config(
        architecture, Regularisation(), ContrastiveObjective()
    )
    content = native.pretraining_content(architecture)
    save_checkpoint(path, {**content, "model": model.state_dict()})
    return path


def probe(command, checkpoint, corpus, output, *more):
    return command(
        utils.probe.main,
        *[checkpoint, "--cpu", "--dataset_dir", corpus, "--output_dir", output],
        *["--train_subset", "train", "--valid_subset", "dev", *more],
    )


def test_a_shortened_model(corpus, tmp_path, command):
    checkpoint = pretrained(tmp_path / "m.pt", SHORTENED)
    code, out, _ = probe(command, checkpoint, corpus, tmp_path / "a")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("CER of a linear layer, %") and "of dev to measure on" in lines[0]
    assert [line.split()[0] for line in lines[2:7]] == ["log-mel", "extractor", *["layer"] * 3]
    assert lines[7].startswith("best: ") and lines[-1] == f"probe: {tmp_path / 'a/probe.json'}"
    found = json.loads((tmp_path / "a" / "probe.json").read_text())
    assert [row["layer"] for row in found["layers"]][0] == "extractor"
    assert found["units"] > 3 and found["valid_minutes"] > 0
    pytest.importorskip("matplotlib")
    figure = (tmp_path / "a" / "probe.svg").read_text()
    assert "random weights" in figure and "layer 3" in figure
    # The same again: the same figures.
    assert probe(command, checkpoint, corpus, tmp_path / "b")[1].splitlines()[:-1] == lines[:-1]
    assert (tmp_path / "b" / "probe.svg").read_text() == figure


def test_other_formats_give_the_same_figures(corpus, tmp_path, command, random_recogniser):
    checkpoint = pretrained(tmp_path / "m.pt", NARROW)
    tables = []
    for name, suffix in (("native", ""), ("fairseq", ".pt"), ("huggingface", "")):
        path = checkpoint
        if name != "native":
            path = tmp_path / f"{name}{suffix}"
            assert command(convert.main, checkpoint, path, "--to", name)[0] == 0
        code, out, err = probe(command, path, corpus, tmp_path / f"of_{name}")
        assert code == 0, err
        tables.append(out.splitlines()[:5])
    assert tables[0] == tables[1] == tables[2]
    assert probe(command, random_recogniser, corpus, tmp_path / "ctc")[0] == 0


@pytest.mark.parametrize(
    "more, message",
    [
        (("--labels", "phn"), "train.phn: no such file"),
        (("--minutes", "0"), "--minutes 0: must be above 0"),
        (("--valid_subset", "gone"), "gone.tsv: no such file"),
        (("--minutes", "0.001"), "train.tsv: holds no utterance of at most 0.001 minutes"),
    ],
)
def test_mistakes_are_one_line(corpus, tmp_path, command, more, message):
    checkpoint = pretrained(tmp_path / "m.pt", NARROW)
    code, out, err = probe(command, checkpoint, corpus, tmp_path / "o", *more)
    assert code == 2 and not out
    assert len(err.splitlines()) == 1 and message in err
    assert probe(command, tmp_path / "gone.pt", corpus, tmp_path / "o")[0] == 2


def train(corpus, output, **changed):
    trainer = prepare_trainer(
        parse_recipe(flags("pretrain", corpus, output, **NOISY, **changed)), torch.device("cpu")
    )
    trainer.train()
    return load_checkpoint(output / "wav2vec2_update4.pt")


def check_same_weights(one, two):
    for kept in ("model", "ema_model"):
        assert all(torch.equal(w, two[kept][name]) for name, w in one[kept].items())
    assert (one["best"], one["position"], one["recipe"]) == tuple(
        two[name] for name in ("best", "position", "recipe")
    )


def test_a_probe_changes_nothing_of_a_training(corpus, tmp_path, capsys):
    """Losses, validations and weights to the last bit, with dropout and LayerDrop, also where a
    run with a probe is resumed without one, and the other way round."""
    plain = train(corpus, tmp_path / "plain")
    capsys.readouterr()
    probed = train(corpus, tmp_path / "probed", probe=2)
    check_same_weights(plain, probed)
    with_probe = measurements(tmp_path / "probed")
    assert any("probe" in name for _, name in with_probe)
    without = {key: value for key, value in with_probe.items() if "probe" not in key[1]}
    assert measurements(tmp_path / "plain") == without
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("probe")]
    assert [line.split(":")[0] for line in shown] == [f"probe after update {n}" for n in (2, 4)]
    assert "random weights" in shown[0] and "log-mel" in shown[0]
    for first, second in ((1, 0), (0, 1)):
        folder = tmp_path / f"resumed{first}"
        arguments = flags("pretrain", corpus, folder, **NOISY, probe=first)
        trainer = prepare_trainer(parse_recipe(arguments), torch.device("cpu"))
        stop_during(trainer, 2, signal.SIGTERM)
        with pytest.raises(StoppedBySignal):
            trainer.train()
        resumed = train(corpus, folder, probe=second)
        check_same_weights(plain, resumed)
        assert losses(folder) == losses(tmp_path / "plain")


def test_the_log_and_the_report_show_it(corpus, tmp_path):
    train(corpus, tmp_path / "run", probe=2, log_frequency=2)
    records = [r for r in log_records(tmp_path / "run") if "log_mel_probe_uer" in r.get("data", {})]
    assert len(records) == 2 and len(records[0]["step"]) == 3
    names = ["extractor", *(f"layer_{n}" for n in range(1, 5)), "random_weights", "log_mel"]
    assert list(records[0]["data"]) == [f"{name}_probe_uer" for name in names]
    assert (tmp_path / "run" / "tensorboard" / "probe").is_dir()
    runs, _ = collect_runs([tmp_path / "run"])
    assert runs[0].log.notes == []  # nothing was logged twice
    (panel,) = (d for d in diagrams(runs, [0]) if d.panel.ending == "probe_uer")
    styles = {line.label: line.style for line in panel.lines}
    assert styles["layer 4"] == "solid" and styles["random weights"] == "dashed"
    assert [line.curve.update.tolist() for line in panel.lines] == [[2, 4]] * len(names)
    assert not [d for d in diagrams(runs, [0]) if d.panel.ending == "uer"]


def test_two_processes(corpus, tmp_path):
    arguments = flags("pretrain", corpus, tmp_path / "two", **NOISY, probe=4, probe_minutes=0.3)
    result = launch(2, arguments)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("probe after update 4: ") == 1


def test_filelists_without_transcripts_are_refused_before_training(corpus, tmp_path, command):
    import train

    code, _, err = command(
        train.main, *flags("pretrain", corpus, tmp_path / "o", probe=1, probe_labels="phn")
    )
    assert code == 2 and "--probe 1: " in err.splitlines()[-1] and "train.phn" in err
    assert not (tmp_path / "o").exists()
