"""utils/reporting/report.py on real runs, shown in a real browser."""

import json
import math
import re
import subprocess
import sys
from itertools import starmap
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch

import inference
from tasks.recipes import parse_recipe, prepare_trainer
from tests.integration.browser import PROGRAM, Browser
from tests.integration.conftest import ROOT, flags
from utils.reporting import report
from utils.reporting.runs import find_runs

KEPT = ROOT / "results" / "test_report"
"""Where screenshots stay for a person to look at; not in git."""

needs_browser = pytest.mark.skipif(
    PROGRAM is None, reason="no Chromium; apt-get install chromium, which scripts/test.sh does"
)


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory):
    """A folder with two pre-trainings, one of them resumed, and a fine-tuning, evaluated."""
    folder = tmp_path_factory.mktemp("runs")

    def run(kind, name, **changed):
        recipe = parse_recipe(flags(kind, corpus, folder / name, **changed))
        return prepare_trainer(recipe, torch.device("cpu")).train()

    run("pretrain", "plain", hourglass_config="", validate_at_start="true")
    for _ in range(2):
        run("pretrain", "short", save_every_updates=1, max_update=6, epochs_this_job=1)
    pretrained = next((folder / "short").glob("wav2vec2_update*.pt"))
    run("finetune", "letters", pretrained_model=pretrained, ema=0.5)
    return folder


@pytest.fixture(scope="module")
def evaluated(runs, corpus):
    """The runs, with an evaluation in which one utterance's text is an attack."""
    model = ["--checkpoint", runs / "letters" / "wav2vec2_update4.pt", "--cpu", "true"]
    where = ["--dataset_dir", corpus, "--subset", "dev", "--output_dir", runs / "letters"]
    with pytest.MonkeyPatch.context() as patch:
        words = ["inference.py", "evaluate", *model, *where, "--num_workers", "0"]
        patch.setattr(sys, "argv", [str(word) for word in words])
        assert not inference.main()
    attack = "</script><script>window.attacked = 1</script><img src=http://x.invalid/a.png>"
    result = {"id": attack, "reference": f"one {attack}", "hypothesis": f"{attack} two"}
    with open(runs / "letters" / "hypotheses_dev.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")
    return runs


@pytest.fixture
def browser(tmp_path):
    browser = Browser(tmp_path / "profile")
    yield browser
    browser.close()


def test_a_report_of_real_runs(evaluated, tmp_path, command):
    page, tables = tmp_path / "page.html", tmp_path / "tables.md"
    code, out, err = command(report.main, evaluated, "--output", page, "--markdown", tables)
    assert (code, err) == (0, "") and f"report: {page}" in out
    text = tables.read_text()
    for part in (
        "## Pre-training",
        "## Fine-tuning",
        "| hourglass | none |",
        "torch 2",
        "dev: WER",
    ):
        assert part in text
    environment = next(
        record["data"]["environment"]
        for line in (evaluated / "plain" / "nvlog.json").read_text().splitlines()
        if "environment" in (record := json.loads(line.removeprefix("DLLL ")))["data"]
    )
    assert environment["torch"] == torch.__version__ and environment["processes"] == 1


def test_bad_input_is_one_line(runs, tmp_path, command):
    whole = (runs / "plain" / "nvlog.json").read_bytes()
    cut, empty, foreign = (tmp_path / name for name in ("cut.json", "empty.json", "foreign.txt"))
    cut.write_bytes(whole[:-40])
    empty.touch()
    foreign.write_text("Epoch 1: loss 3.2\n" * 5)
    output = ["--output", tmp_path / "page.html"]
    code, _, err = command(report.main, cut, *output)
    assert code == 0 and err.splitlines() == [
        "note: cut.json: lines cut off or no log records, skipped: 1"
    ]
    code, _, err = command(report.main, cut, empty, foreign, tmp_path / "none", *output)
    assert code == 1 and len(err.splitlines()) == 4
    assert err.count("; skipped") == 3 and "empty.json: is empty" in err
    for arguments in ([empty], [foreign], [tmp_path], [], ["--update-docs", cut, cut]):
        code, _, err = command(report.main, *arguments, *output)
        assert code == 2 and len(err.splitlines()) == 1, err
    code, _, err = command(report.main, cut, "--output", tmp_path / "empty.json" / "x.html")
    assert code == 2 and len(err.splitlines()) == 1 + 1  # the note about the cut line, too


# Shows one line at a time and counts the pixels of its colour.
COUNT_PIXELS = """(async () => {
  const found = [];
  const parse = document.createElement("canvas").getContext("2d");
  for (const chart of report.charts) {
    const lines = chart.diagram.lines;
    for (let n = 0; n < lines.length; n++) {
      chart.off = new Set(lines.keys());
      chart.off.delete(n);
      chart.show();
      await new Promise((done) => setTimeout(done, 0));
      const name = `--c${lines[n].run % 8}`;
      parse.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
      const wanted = [1, 3, 5].map((i) => parseInt(parse.fillStyle.slice(i, i + 2), 16));
      const { left, top, width, height } = chart.plot.bbox;
      const pixels = chart.plot.ctx.getImageData(left, top, width, height).data;
      let count = 0;
      for (let i = 0; i < pixels.length; i += 4) {
        const near = wanted.every((value, k) => Math.abs(pixels[i + k] - value) < 60);
        count += near && pixels[i + 3] > 100;
      }
      found.push([chart.diagram.title, lines[n].run, lines[n].label, count]);
    }
    chart.off = new Set();
    chart.show();
  }
  return found;
})()"""


@needs_browser
def test_the_page_in_a_browser(evaluated, tmp_path, command, browser):
    page = tmp_path / "page.html"
    assert command(report.main, evaluated, "--output", page)[0] == 0
    KEPT.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, width, scheme in (
        ("light", 1400, "light"),
        ("dark", 1400, "dark"),
        ("phone", 390, "light"),
    ):
        browser.open(page, width=width, scheme=scheme)
        assert browser.evaluate("document.documentElement.scrollWidth") <= width, name
        drawn.append(browser.evaluate(COUNT_PIXELS))
        browser.screenshot(KEPT / f"{name}.png")
    for lines in drawn:
        titles = {title for title, *_ in lines}
        assert {"Loss", "Contrastive accuracy", "Code perplexity", "Word error rate"} <= titles
        assert len(lines) > 40
        assert not [line for line in lines if line[-1] < 4], lines
    assert browser.evaluate("report.charts[0].columns[0].length") > 2

    spans = browser.evaluate(
        "report.charts.map((c) => [c.section, [c.plot.scales.x.min, c.plot.scales.x.max]])"
    )
    assert all(span == [0, 6] for section, span in spans if section == "section 0")
    # Every diagram of a kind of run tells its values where the pointer is in one of them.
    shown_at = "report.charts.slice(0, 2).map((c) => c.legend.firstChild.textContent)"
    assert browser.evaluate(shown_at) == ["last", "last"]
    browser.open(page)
    browser.evaluate("report.charts[0].element.scrollIntoView()")
    x, y = browser.evaluate(
        "(({left, top}) => [left + 3, top + 9])(report.charts[0].plot.over.getBoundingClientRect())"
    )
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert (
        browser.evaluate(f"new Promise((f) => setTimeout(() => f({shown_at}), 50))") == ["at 0"] * 2
    )
    # A zoom is followed by the diagrams of the same kind of run, and by no other.
    x = "report.charts.map((c) => [c.section, c.plot.scales.x.min])"
    browser.evaluate("report.charts[0].plot.setScale('x', {min: 1.5, max: 3})")
    low = dict(browser.evaluate(f"new Promise((f) => setTimeout(() => f({x}), 50))"))
    assert low["section 0"] == 1.5 and low["section 1"] != 1.5
    # A run's button hides it everywhere.
    shown = "report.charts.map((c) => c.diagram.lines.map((l, n) => [l.run, c.visible(n)])).flat()"
    browser.evaluate("document.querySelector('#runs button').click()")
    assert {run for run, visible in browser.evaluate(shown) if not visible} == {0}

    assert browser.evaluate("typeof window.attacked") == "undefined"
    assert browser.evaluate("document.images.length") == 0
    assert browser.evaluate("document.querySelectorAll('.word.substitution').length") >= 1
    # The headline comes first; the contents lead to each part; the search hides what differs.
    assert browser.evaluate("document.querySelector('main').firstChild.className") == "headline"
    parts = "[...document.querySelectorAll('.contents a')].map((a) => a.getAttribute('href'))"
    assert browser.evaluate(f"{parts}.length") > 3
    assert browser.evaluate(f"{parts}.every((href) => document.querySelector(href))")
    visible = "[...document.querySelectorAll('.pair')].filter((p) => !p.hidden).length"
    before = browser.evaluate(visible)
    search = "document.querySelector('.search')"
    browser.evaluate(f"{search}.value = 'nothing has this'; {search}.oninput()")
    assert browser.evaluate(visible) < before
    browser.evaluate(f"{search}.value = ''; {search}.oninput()")
    assert browser.evaluate(visible) == before
    browser.print(KEPT / "printed.pdf")
    assert browser.errors == []
    assert set(browser.requests) == {page.resolve().as_uri()}


def press(browser, key, code, text=""):
    """Press and release a key; `code`: its number on Windows; `text`: what it types."""
    typed = {"text": text} if text else {}
    for kind, more in (("keyDown", typed), ("keyUp", {})):
        browser.call(
            "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **more
        )


@needs_browser
def test_smoothing_by_the_keyboard(evaluated, tmp_path, command, browser):
    page = tmp_path / "page.html"
    assert command(report.main, evaluated, "--output", page)[0] == 0
    browser.open(page)
    charts = "report.charts.filter((c) => c.diagram.title === 'Loss')"
    curves = f"{charts}.map((c) => [c.diagram.lines[0].y, c.columns[1], c.columns[2]])"
    for logged, faint, drawn in browser.evaluate(curves):
        assert not any(faint) and [value for value in drawn if value is not None] == logged
    browser.evaluate("document.getElementById('smoothing').focus()")
    for _ in range(30):
        press(browser, "ArrowRight", 39)
    weight = browser.evaluate(
        "new Promise((f) => setTimeout(() => f(document.getElementById('smoothing').value), 300))"
    )
    assert float(weight) == 0.3
    for logged, faint, drawn in browser.evaluate(curves):
        assert [value for value in faint if value is not None] == logged
        drawn = [value for value in drawn if value is not None]
        assert len(logged) > 2 and len(drawn) == len(logged)
        for n in range(len(logged)):  # the mean of all values, whose weights fall
            weights = [0.3 ** abs(n - k) for k in range(len(logged))]
            mean = sum(w * v for w, v in zip(weights, logged)) / sum(weights)
            assert drawn[n] == pytest.approx(mean)
    assert "smoothed" in browser.evaluate("report.charts[0].legend.textContent")
    # Validations are drawn as they are.
    dashed = "report.charts[0].diagram.lines.findIndex((l) => l.style === 'dashed')"
    at = f"report.charts[0].positions()[{dashed}]"
    y, faint, drawn = browser.evaluate(
        f"[report.charts[0].diagram.lines[{dashed}].y, report.charts[0].columns[{at} - 1], "
        f"report.charts[0].columns[{at}]]"
    )
    assert not any(faint) and [value for value in drawn if value is not None] == y
    rate = "report.charts.find((c) => c.diagram.title === 'Learning rate')"
    assert not any(browser.evaluate(f"{rate}.columns[1]"))
    assert browser.evaluate("document.querySelector('output[for=smoothing]').textContent") == "0.3"
    # Both curves are drawn, and both vanish with their button.
    shown = "report.charts[0].plot.series.slice(1, 3).map((s) => s.show)"
    assert browser.evaluate(shown) == [True, True]
    browser.evaluate("report.charts[0].outputs[0][0].click()")
    assert browser.evaluate(shown) == [False, False]
    browser.screenshot(KEPT / "smoothed.png")
    assert browser.errors == []


@needs_browser
def test_training_time_as_x_axis(evaluated, tmp_path, command, browser):
    page = tmp_path / "page.html"
    assert command(report.main, evaluated, "--output", page)[0] == 0
    browser.open(page)
    browser.evaluate("report.charts[0].plot.setScale('x', {min: 1.5, max: 3})")
    browser.evaluate("document.getElementById('axis').focus()")
    press(browser, "ArrowDown", 40)
    assert browser.evaluate("document.getElementById('axis').value") == "hours"
    found = browser.evaluate(
        "report.charts.map((c) => [c.plot.axes[0].label, c.plot.scales.x.min, "
        "c.plot.scales.x.max, c.diagram.lines.map((l) => [l.run, l.label, l.x]), c.diagram.ending])"
    )
    logs = {run.path.name: run.log for run in find_runs(evaluated)[0]}
    names = browser.evaluate(
        "[...document.querySelectorAll('#runs button')].map((b) => b.textContent)"
    )
    prefixes = {"train": "train_", "validation": "val_", "average of weights": "val_ema_"}
    for axis, low, high, lines, ending in found:
        shown, unit = axis.split(", ")
        unit = {"seconds": 1, "minutes": 60, "hours": 3600}[unit]
        assert shown == "training time"
        for run, label, x in lines:
            log = logs[names[run]]
            updates = log.curves[prefixes[label] + ending].update
            assert x == sorted(x) and low <= x[0] <= x[-1] <= high
            assert [n * unit for n in x] == pytest.approx(log.seconds_at(updates), rel=1e-4)
    assert browser.evaluate(COUNT_PIXELS) and browser.errors == []
    browser.screenshot(KEPT / "time.png")
    press(browser, "ArrowUp", 38)
    ends = "report.charts.map((c) => [c.section, c.plot.scales.x.min, c.plot.scales.x.max])"
    assert ["section 0", 0, 6] in browser.evaluate(ends)


@needs_browser
def test_clips_are_played(evaluated, tmp_path, command, browser):
    page = tmp_path / "page.html"
    assert command(report.main, evaluated, "--output", page)[0] == 0
    browser.open(page)
    sounds = "[...document.querySelectorAll('button.sound')]"
    assert browser.evaluate(f"{sounds}.length") > 2
    # The one whose text is an attack has none.
    assert browser.evaluate("document.querySelectorAll('.pair').length") == 1 + browser.evaluate(
        f"{sounds}.length"
    )
    browser.evaluate(f"{sounds}[0].focus()")
    press(browser, " ", 32, " ")
    played = "document.querySelector('audio')"
    loaded = f"""new Promise((done) => {{
      const player = {played};
      const focused = document.activeElement === player;
      const tell = () => done([player.duration, player.controls, focused]);
      if (player.readyState) tell(); else player.onloadedmetadata = player.onerror = tell;
    }})"""
    duration, *controls = browser.evaluate(loaded)
    key = browser.evaluate(f"{played}.getAttribute('aria-label')")
    lines = (evaluated / "letters" / "hypotheses_dev.jsonl").read_text().splitlines()
    lengths = {r["id"]: r.get("seconds") for r in map(json.loads, lines)}
    assert duration == pytest.approx(lengths[key], abs=1e-3) and controls == [True, True]
    assert browser.errors == []
    assert {r for r in browser.requests if not r.startswith("data:")} == {page.resolve().as_uri()}

    # What does not fit in the page is a link to the file; the page without audio has neither.
    for limit, links in ((1e-5, True), (0, False)):
        assert command(report.main, evaluated, "--output", page, "--audio_limit", limit)[0] == 0
        browser.open(page)
        assert browser.evaluate(f"{sounds}.length") == 0
        found = browser.evaluate("[...document.querySelectorAll('a.sound')].map((a) => a.href)")
        assert bool(found) == links
        assert all(Path(unquote(urlsplit(href).path)).is_file() for href in found)


@needs_browser
def test_many_utterances_are_folded(tmp_path, command, browser):
    """The worst come first; the keyboard and a search reach the rest."""
    wrong = {33: "x y z", 20: "x b c"}
    results = [
        {"id": f"u{n:02}", "reference": "a b c", "hypothesis": wrong.get(n, "a b c")}
        for n in range(40)
    ]
    lines = "".join(f"{json.dumps(result)}\n" for result in results)
    (tmp_path / "hypotheses_test.jsonl").write_text(lines)
    page = tmp_path / "page.html"
    code, _, err = command(
        report.main, tmp_path, "--output", page, "--dataset_dir", tmp_path / "none"
    )
    assert code == 0 and err.startswith("note: no audio of test: ") and len(err.splitlines()) == 1
    browser.open(page, width=400)
    shown = (
        "[...document.querySelectorAll('.pair')].filter((p) => p.offsetParent)"
        ".map((p) => p.querySelector('.id').textContent)"
    )
    first = browser.evaluate(shown)
    assert first == ["u33", "u20", *(f"u{n:02}" for n in range(10))]
    assert browser.evaluate("document.getElementById('controls').hidden")  # no curves
    browser.evaluate("document.querySelector('.more').focus()")
    press(browser, "Enter", 13, "\r")
    assert len(browser.evaluate(shown)) == 40
    assert browser.evaluate("document.activeElement.textContent").startswith("u10")
    browser.open(page, width=400)
    search = "document.querySelector('.search')"
    browser.evaluate(f"{search}.value = 'u39'; {search}.oninput()")
    assert browser.evaluate(shown) == ["u39"]
    assert browser.errors == []


def write_long_log(path: Path, updates: int = 400_000, per_epoch: int = 2_000) -> None:
    """Each update logged, with 16 metrics; update 123,456 has a peak."""

    def records():
        yield "PARAMETER", {"command": "pretrain"}
        for update in range(1, updates + 1):
            epoch, iteration = divmod(update - 1, per_epoch)
            noise = math.sin(update * 12.9898) * 43758.5453 % 1
            data = {f"train_{name}": value for name, value in {
                "loss": 9.0 if update == 123_456 else 6.6 - update / updates + noise,
                "contrastive_loss": 6.5 - update / updates + noise,
                "accuracy": 0.6 * update / updates + 0.01 * noise,
                "prob_perplexity": 200.0 + noise, "code_perplexity": 190.0 + noise,
                "ntokens": 260_000.0 + noise, "took": 0.43 + noise,
                "ntokens/s": 261_881.0 + noise, "frames/s": 5e5 + noise, "audio_s/s": 1e4 + noise,
                "updates/s": 2.3 + noise, "grad_norm": 2.0 + noise, "memory": 62_345.5 + noise,
                "data_wait": noise, "lr": 5e-4 * update / updates, "loss_scale": 65_536.0,
            }.items()}  # fmt: skip
            yield [epoch + 1, iteration + 1, per_epoch], data

    def line(step, data):
        stamp = {"timestamp": "1795448121.5589", "datetime": "2026-11-23 15:35:21.55+00:00"}
        update = 0 if step == "PARAMETER" else (step[0] - 1) * step[2] + step[1]
        elapsed = f"{0.43 * update:.6f}"
        record = {**stamp, "elapsedtime": elapsed, "type": "LOG", "step": step, "data": data}
        return f"DLLL {json.dumps(record)}\n"

    with open(path, "w", encoding="utf-8") as file:
        file.writelines(starmap(line, records()))


@pytest.mark.long
@needs_browser
def test_a_log_of_400000_updates(tmp_path, browser, capsys):
    log, page = tmp_path / "nvlog.json", tmp_path / "page.html"
    write_long_log(log)
    code = (
        "import time; start = time.time(); from utils.reporting import report; report.main(); "
        "print(time.time() - start); print(open('/proc/self/status').read())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(log), "--output", str(page)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    seconds = float(result.stdout.splitlines()[1])
    mebibytes = int(re.search(r"VmHWM:\s+(\d+) kB", result.stdout)[1]) / 1024
    assert mebibytes < 1024 and page.stat().st_size < 5 * 2**20
    browser.open(page)
    ready = browser.evaluate("report.ready") / 1000
    high = browser.evaluate("Math.max(...report.charts[0].diagram.lines[0].high)")
    assert high == 9.0 and browser.errors == []
    with capsys.disabled():
        print(
            f"\n400,000 updates, {log.stat().st_size / 1e6:.0f} MB: {seconds:.1f} s, "
            f"{mebibytes:.0f} MiB, page of {page.stat().st_size / 1e6:.2f} MB, drawn after "
            f"{ready:.2f} s"
        )
