import json
import re

import pytest

from tests.unit.utils.reporting.logs import line, parameters
from utils.reporting import tables
from utils.reporting.page import ASSETS, render_markdown, render_page, sections
from utils.reporting.panels import diagrams, panel_of
from utils.reporting.plots import (
    TABLE_FIGURES,
    few_transcripts,
    pooling_factors,
    write_figures,
    write_table_figures,
)
from utils.reporting.report import collect_runs, remarks
from utils.reporting.results import KEPT, RESULTS, ROOT, measured_rows
from utils.reporting.runs import SHOWN, find_runs, read_hypotheses
from wav2vec2.cli.errors import UserError
from wav2vec2.text.error_rate import pair_words

COMMIT = {"commit": "0123456789abcdef0123456789abcdef01234567-dirty"}
HOSTILE = "</script><script>alert(1)</script><!-- {{data}} \u2028 & | `x` \ud800"


def write_run(folder, text):
    folder.mkdir(parents=True)
    (folder / "nvlog.json").write_text(text)
    return folder


def pretraining(factor, seconds=1.0, memory=100.0, **more):
    shape = {"pre": 2, "middle": 8, "factor": factor, "post": 2}
    architecture = {"codebook_groups": 2, "codebook_entries": 32, "hourglass": shape}
    if not factor:
        architecture["hourglass"] = None
    text = parameters(command="pretrain", architecture=architecture, distractors=100, **more)
    for update in (1, 2, 3):
        text += line([1, update, 3], update, **{
            "train_loss": 6.0 - update, "train_contrastive_loss": 5.0, "train_accuracy": 0.1,
            "train_code_perplexity": 30.0, "train_audio_s/s": 10.0 / seconds,
            "train_memory": memory, "train_ntokens": 10.0, "train_lr": 1e-4,
        })  # fmt: skip
    return text + line([1], 4.0, val_loss=4.0, val_ema_loss=3.5, train_avg_loss=4.0)


def embedded(html):
    """The data of a page as a browser finds it."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    return json.loads(found[1])


def of_title(runs, title):
    return next(t for _, _, made in sections(runs) for t in made if t.title == title)


def test_nothing_in_a_log_becomes_html(tmp_path):
    run = write_run(tmp_path / "<b>run", pretraining(4, note=HOSTILE, **{HOSTILE: HOSTILE}))
    other = write_run(tmp_path / "other", pretraining(4))
    result = {"id": HOSTILE, "reference": HOSTILE, "hypothesis": "a " + HOSTILE}
    (other / "hypotheses_x.jsonl").write_text(json.dumps(result) + "\n")
    runs, _ = collect_runs([run, other])
    html = render_page(runs, [HOSTILE])
    html.encode()  # can be written
    fixed = (ASSETS / "page.html").read_text()
    assert html.count("<script") == fixed.count("<script") and "alert(1)</script>" not in html
    data = embedded(html)
    assert data["notes"] == [HOSTILE] and data["runs"] == ["<b>run", "other"]
    assert data["sections"][0]["evaluations"][0]["shown"][0][0] == HOSTILE
    text = render_markdown(runs)
    text.encode()
    assert "<script" not in text.replace("\\<", "")
    assert not re.search(r'(src|href)="(?!data:)', fixed)
    assert "default-src 'none'" in html


def test_diagrams_overlay_runs_and_skip_means_of_epochs(tmp_path):
    runs, _ = collect_runs(
        [write_run(tmp_path / "a", pretraining(4)), write_run(tmp_path / "b", pretraining(2))]
    )
    shown = {d.panel.title: d for d in diagrams(runs, [0, 1])}
    assert set(shown) == {"Loss", "Contrastive loss", "Contrastive accuracy", "Code perplexity",
                          "Audio per second", "Learning rate", "Peak memory"}  # fmt: skip
    assert [(x.run, x.label) for x in shown["Loss"].lines] == [
        (run, label) for run in (0, 1) for label in ("train", "validation", "average of weights")
    ]
    assert shown["Code perplexity"].band == pytest.approx((16, 64))
    assert shown["Contrastive loss"].level == ("chance", pytest.approx(6.6582, abs=1e-4))
    assert shown["Contrastive accuracy"].published is None  # of 50,000 updates and more


def test_the_pages_data_are_the_curves(tmp_path):
    write_run(tmp_path / "a", pretraining(4))
    text = "".join(
        line([1, n, 5000], elapsed=3.6 * n, train_loss=float(n % 7), val_loss=1.0)
        for n in range(5000)
    )
    write_run(tmp_path / "b", parameters(command="pretrain") + text)
    runs, _ = collect_runs([tmp_path])
    data = embedded(render_page(runs, []))
    lines = {
        (drawn["title"], entry["run"], entry["label"]): entry
        for drawn in data["sections"][0]["diagrams"]
        for entry in drawn["lines"]
    }
    for diagram in diagrams(runs, [0, 1]):
        for entry in diagram.lines:
            found, curve = lines.pop((diagram.panel.title, entry.run, entry.label)), entry.curve
            assert data["spans"][found["updates"]] == curve.update.tolist()
            # Without its jobs' end, the first run's time is that of its last line.
            hours = [0.001 * update for update in curve.update] if entry.run else None
            if hours:
                assert data["spans"][found["hours"]] == pytest.approx(hours, rel=1e-5)
            assert found["y"] == pytest.approx(curve.mean.tolist(), rel=1e-5)
            assert ("low" in found) == (entry.run == 1)
            if "low" in found:
                assert (found["low"], found["high"]) == (curve.low.tolist(), curve.high.tolist())
    assert not lines and len(data["spans"]) == 6


@pytest.mark.parametrize(
    "metric, title, label",
    [
        ("val_dev-fr_wer", "Word error rate", "validation dev-fr"),
        ("val_raw_wer", "Word error rate, raw", "validation"),
        ("train_avg_contrastive_loss", "Contrastive loss", "train, by epoch"),
        ("train_share_train-fr", "Share of the audio", "train-fr"),
        ("val_ema_uer", "Unit error rate", "average of weights"),
        ("train_ntokens", None, None),
    ],
)
def test_places(metric, title, label):
    found = panel_of(metric)
    assert (found and (found[0].title, found[1])) == (title and (title, label))


def test_tables(tmp_path):
    plain = write_run(
        tmp_path / "plain", pretraining(0, seconds=2.0, memory=200.0, seed=1, environment=COMMIT)
    )
    short = write_run(tmp_path / "short", pretraining(4, memory=120.0, seed=2, bf16=True))
    runs, _ = collect_runs([plain, short])
    pooling = {row[0]: row[1:] for row in of_title(runs, "Pooling factor").rows}
    assert pooling["baseline"] == ["1.00", "100.00 %", "1.00", "100.00 %"]
    assert pooling["factor 4"] == ["2.00", "60.00 %", "1.37", "62.35 %"]
    assert list(pooling) == ["baseline", "factor 4"]
    ran = {row[0]: row[1:] for row in of_title(runs, "What was run").rows}
    assert ran["commit"] == ["0123456789ab-dirty", "–"]
    rows = of_title(runs, "Throughput and memory").rows
    assert rows[1][:3] == ["short", "bf16", "[2,(8,4),2]"] and rows[0][2] == "none"
    assert rows[1][4:] == ["10", "120", "2.00", "60.00 %"]
    different = {row[0]: row[1:] for row in of_title(runs, "Where the configurations differ").rows}
    assert different["seed"] == ["1", "2"] and "distractors" not in different
    assert different["architecture.hourglass.factor"] == ["–", "4"]
    assert "| seed | 1 | 2 |" in render_markdown(runs)
    # Without a plain encoder, or with it alone, nothing is measured.
    for alone in (runs[1:], runs[:1]):
        titles = [table.title for _, _, made in sections(alone) for table in made]
        assert titles and "Pooling factor" not in titles


def test_one_measure_of_speed_is_drawn(tmp_path):
    """That which most of the runs have."""

    def speeds(*logs):
        for number, metrics in enumerate(logs):
            text = line([1, 1, 1], **{f"train_{name}": 2.0 for name in metrics})
            write_run(tmp_path / str(len(logs)) / str(number), text)
        runs, _ = collect_runs([tmp_path / str(len(logs))])
        found = diagrams(runs, range(len(runs)))
        return [diagram.panel.ending for diagram in found if diagram.panel.ending.endswith("/s")]

    both = ("loss", "audio_s/s", "ntokens/s", "updates/s")
    assert speeds(both) == ["audio_s/s"]
    assert speeds(both, ("loss", "ntokens/s")) == ["ntokens/s"]


def test_nvidias_log(tmp_path):
    text = parameters(hourglass_transformer="[2, (8, 4), 2]", bf16=True, latent_groups=2,
                      latent_vars=320, num_negatives=100)  # fmt: skip
    text += line([1, 50, 100], train_accuracy=0.4, train_code_perplexity=99.0, **{
        "train_ntokens/s": 30_000.0})  # fmt: skip
    text += line([], **{"train_avg_ntokens/s": 37_610.0})
    text += line([], **{"data+dnn_latency_0_5": 10.0, "data+dnn_latency_0_99": 12.0})
    runs, _ = collect_runs([write_run(tmp_path / "theirs", text)])
    assert runs[0].kind == "pretrain"
    assert of_title(runs, "Throughput and memory").rows[0][2] == "[2,(8,4),2]"
    latency = of_title(runs, "Latency").rows
    assert latency[0] == ["theirs", "data+dnn", "–", "10", "–", "–", "–", "12"]
    assert latency[3][2:] == ["8", "–", "28.7", "40.06", "48.07", "74.59"]
    (band,) = {d.band for d in diagrams(runs, [0]) if d.panel.ending == "code_perplexity"}
    assert band == (160, 640)


def test_hypotheses(tmp_path):
    lines = [f"a{n} b c" for n in range(3 * SHOWN)]
    hypotheses = [
        text if n % 3 else "x y" if n % 2 else text + " d" for n, text in enumerate(lines)
    ]
    text = "".join(
        json.dumps({"id": str(n), "reference": lines[n], "hypothesis": hypotheses[n]}) + "\n"
        for n in range(3 * SHOWN)
    )
    path = tmp_path / "hypotheses_test.jsonl"
    path.write_text(text + "{half\n")
    found = read_hypotheses(path)
    assert (found.subset, found.utterances, found.wrong) == ("test", 3 * SHOWN, SHOWN)
    shown = [int(key) for key, _ in found.shown]
    assert shown == sorted({*range(SHOWN), *range(0, 3 * SHOWN, 3)})
    pairs = dict(found.shown)
    assert pairs["3"] == pair_words(["x", "y"], ["a3", "b", "c"])
    assert pairs["6"][-1] == (None, "d")
    assert found.notes == [f"{path}: lines that are no hypotheses, skipped: 1"]


def test_folders_of_runs_and_their_names(tmp_path):
    for name in ("x/pretrain", "y/pretrain", "y/finetune"):
        write_run(tmp_path / name, pretraining(4))
    write_run(tmp_path / "y/empty", "")
    (tmp_path / "y/hypotheses_t.jsonl").write_text('{"id": 1, "reference": "a", "hypothesis": ""}')
    (tmp_path / "y/hypotheses_u.jsonl").mkdir()
    (tmp_path / "y/summary_t.json").write_text("[" * 100_000)
    runs, failures = collect_runs([tmp_path / "x/pretrain", tmp_path / "y"])
    notes = " ".join(remarks(runs))
    assert "hypotheses_u.jsonl: cannot be read: Is a directory; skipped" in notes
    assert "summary_t.json: not an evaluation's summary; skipped" in notes
    assert sorted(run.name for run in runs) == ["finetune", "x/pretrain", "y", "y/pretrain"]
    assert {run.name: run.kind for run in runs}["y"] == "finetune"
    assert len(failures) == 1 and "is empty" in failures[0]
    twice, _ = collect_runs([tmp_path / "x/pretrain"] * 2)
    assert [run.name for run in twice] == ["pretrain (1)", "pretrain (2)"]
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="none: holds no nvlog.json"):
        find_runs(tmp_path / "none")


@pytest.mark.parametrize(
    "parameters, precision, shape",
    [
        ({}, "–", "–"),
        ({"precision": "bf16", "ranks": 8, "concat": 4, "accumulate": 2}, "bf16", "8 × 4 × 2"),
        ({"precision": "fp32", "tf32": True}, "fp32", "–"),
        ({"precision": "fp32", "tf32": True, "environment": {"cuda": "13.0"}}, "TF32", "–"),
        ({"fp16": True, "bf16": False}, "fp16", "–"),
        ({"environment": "hostile", "architecture": [1]}, "–", "–"),
    ],
)
def test_configurations_in_words(parameters, precision, shape):
    assert (tables.precision(parameters), tables.geometry(parameters)) == (precision, shape)


def test_the_documents_figure_is_that_of_the_quoted_quickstart(tmp_path):
    """`python -m utils.reporting.report RUN --plots docs/images --plot_format svg` draws it."""
    matplotlib = pytest.importorskip("matplotlib")
    kept = (ROOT / "docs" / "images" / "pre-training.svg").read_text()
    if f"Matplotlib v{matplotlib.__version__}," not in kept:
        pytest.skip("drawn by another version of matplotlib")
    runs, _ = collect_runs([RESULTS / KEPT / "pretrain"])
    (path,) = write_figures(runs, tmp_path, "svg")
    assert path.read_text() == kept


def test_the_documents_figures_are_those_of_the_measured_tables(tmp_path):
    """`python -m utils.reporting.report --update-docs --plots docs/images --plot_format svg`."""
    matplotlib = pytest.importorskip("matplotlib")
    drawn = write_table_figures(measured_rows(), tmp_path, "svg")
    assert drawn
    for path in drawn:
        kept = (ROOT / "docs" / "images" / path.name).read_text()
        if f"Matplotlib v{matplotlib.__version__}," not in kept:
            pytest.skip("drawn by another version of matplotlib")
        assert path.read_text() == kept


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_figures(tmp_path, suffix):
    pytest.importorskip("matplotlib")
    runs, _ = collect_runs([write_run(tmp_path / "a_$x", pretraining(4))])
    (path,) = write_figures(runs, tmp_path, suffix)
    first = path.read_bytes()
    assert path.name == f"pre-training.{suffix}" and len(first) > 5_000
    assert write_figures(runs, tmp_path, suffix) == [path] and path.read_bytes() == first
    if suffix == "svg":
        assert b"Contrastive accuracy" in first and b"validation" in first


def rates(wer: float, uer: float = 1.0) -> dict[str, float]:
    """Figures of a row: median, and a range of two points."""
    found = {"wer": wer, "uer": uer}
    for name, value in list(found.items()):
        found |= {f"{name}_lowest": value - 1, f"{name}_highest": value + 1}
    return found


def test_lines_of_measured_tables():
    """Each row is one point; of Mboshi the characters' error rate."""
    panels = few_transcripts(
        {
            "mini, 1min, random weights": rates(90),
            "mini, 1min, 120 minutes": rates(40),
            "mini, 10min, random weights": rates(30),
            "mboshi, 5min, all audio of people": rates(99, 50),
        }
    )
    assert panels == {
        "Spoken commands: WER, %": {
            "random weights": [(1, 90, 89, 91), (10, 30, 29, 31)],
            "pre-trained: 120 minutes": [(1, 40, 39, 41)],
        },
        "Mboshi, unseen speaker: CER, %": {
            "pre-trained: all audio of people": [(5, 50, 49, 51)],
        },
    }
    rows = {"fixed 2, run at 2": rates(5), "fixed 4, run at 4": rates(6)}
    rows |= {"fixed 4, run at 1": rates(9), "elastic, run at 1": rates(7)}
    assert pooling_factors(rows) == {
        "WER, %": {
            "trained at this factor": [(2, 5, 4, 6), (4, 6, 5, 7)],
            "trained at 4": [(4, 6, 5, 7), (1, 9, 8, 10)],
            "trained at 2 to 6": [(1, 7, 6, 8)],
        }
    }


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_figures_of_measured_tables(tmp_path, suffix):
    pytest.importorskip("matplotlib")
    tables = {
        "label_efficiency": {
            f"{corpus}, {minutes}min, {start}": rates(wer / minutes, wer)
            for corpus in ("mini", "prompts")
            for minutes in (1, 3, 10)
            for start, wer in (("random weights", 100), ("120 minutes", 60))
        },
        "elastic": {f"elastic, run at {factor}": rates(10 + factor) for factor in range(1, 7)},
        "codebook": {"50 updates": {"accuracy": 1.0}},  # has no figure
    }
    paths = write_table_figures(tables, tmp_path, suffix)
    assert paths == [tmp_path / f"{table}.{suffix}" for table in TABLE_FIGURES]
    first = [path.read_bytes() for path in paths]
    assert min(map(len, first)) > 5_000
    assert [p.read_bytes() for p in write_table_figures(tables, tmp_path, suffix)] == first
    if suffix == "svg":
        assert b"minutes of transcripts" in first[0] and b"Telephone prompts: CER" in first[0]
        assert b"trained at 2 to 6" in first[1] and b"trained at 4" not in first[1]
    assert write_table_figures({}, tmp_path, suffix) == []
