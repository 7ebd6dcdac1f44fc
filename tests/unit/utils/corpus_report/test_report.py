"""Made-up corpora with a defect planted of each kind: the report names these and no others."""

import ast
import html
import json
import re
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from tests.unit.utils.corpus_report.test_facts import speech_like
from utils.corpora.conversion import Skipped
from utils.corpora.segmentation import SegmentOptions
from utils.corpora.sources import SourceOptions
from utils.corpora.tables import TableOptions
from utils.corpora.timed_text import TranscriptOptions
from utils.corpus_report.duplicates import describe_repeated, repeated
from utils.corpus_report.markup import bars, shown, table
from utils.corpus_report.skips import ADVICE, describe, nothing_usable
from utils.corpus_report.text import characters, deviations
from utils.data.import_corpus import SelectionOptions, WorkOptions, main
from wav2vec2.cli.errors import UserError
from wav2vec2.text.cleanup import CleanupOptions

ROOT = Path(__file__).resolve().parents[4]
WORDS = ["the", "rain", "in", "a", "town", "falls", "on", "every", "small", "roof", "and", "street"]


def run(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["import_corpus", "--workers", "1", *map(str, flags)])
    return main()


def report(folder):
    return json.loads((folder / "corpus.json").read_text())


def sentence(index):
    """3 to 12 words, all sentences different."""
    count = 3 + index % 10
    return " ".join(WORDS[(index + 3 * k) % len(WORDS)] for k in range(count))


@pytest.fixture
def planted(tmp_path):
    """60 usual recordings and one of each defect, in given subsets."""
    rng = np.random.default_rng(0)
    rows = ["path\ttext\tsplit\tspeaker"]

    def add(name, wave, text, split="train", rate=16_000):
        soundfile.write(tmp_path / name, wave, rate)
        rows.append(f"{name}\t{text}\t{split}\t{split}{len(rows) % 3}")

    def usual(seed, text):
        return speech_like(0.3 + len(text) / 14 * rng.uniform(0.9, 1.1), seed)

    for index in range(60):
        text = f"{sentence(index)} {chr(97 + index % 26)}{chr(97 + index // 26)}"
        add(f"usual{index}.wav", usual(index, text), text, ("train", "valid", "test")[index % 3])
    text = "the clipped one of them all"
    add("clipped.wav", (9 * usual(100, text)).clip(-1, 1), text)
    text = "this one came from a telephone"
    add("telephone.wav", soxr.resample(soxr.resample(usual(101, text), 16, 8), 8, 16), text)
    text = "nothing is in this file at all"
    add("silent.wav", 0 * usual(102, text), text)
    text = "one side is the other upside down"
    wave = usual(103, text)
    add("opposite.wav", np.stack([wave, -wave], 1), text)
    text = "a short word and then nobody says"
    wave = usual(104, text)
    add("pauses.wav", np.where(np.arange(len(wave)) > 0.15 * len(wave), 0, wave), text)
    text = "the same recording under two names"
    wave = usual(105, text)
    add("copy_train.wav", wave, text)
    add("copy_test.wav", wave, text, "test")
    # The transcripts of these two were exchanged.
    long, short = "so long that it takes several seconds to say all of its many words", "go on"
    add("swapped_long.wav", usual(106, long), short)
    add("swapped_short.wav", usual(107, short), long[:30])
    add(
        "narrow_at_8_khz.wav",
        soxr.resample(usual(108, text), 16, 8),
        "it is of 8000 hertz",
        rate=8000,
    )
    path = tmp_path / "rows.tsv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_exactly_the_planted_defects_are_named(planted, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert run(monkeypatch, "--table", planted, "--output_dir", out) == 0
    content = report(out)
    named = {
        kind: [entry["id"] for entry in found["examples"]]
        for kind, found in content["findings"].items()
    }
    assert named == {
        "silent": ["silent"],
        "clipped": ["clipped"],
        "channels cancel": ["opposite"],
        "8 kHz in a file of a higher rate": ["telephone"],
        "mostly silence": ["pauses"],
    }
    far = {entry["id"] for entry in content["speech_rate"]["farthest"]}
    assert far == {"swapped_long", "swapped_short"}
    assert content["speech_rate"]["outliers"] == 2
    copies = content["duplicates"]["recordings"]
    assert (copies["groups"], copies["utterances"], copies["across_subsets"]) == (1, 2, 1)
    members = copies["examples"][0]["members"]
    assert [(m["id"], m["subset"]) for m in members] == [
        ("copy_train", "train"),
        ("copy_test", "test"),
    ]
    assert copies["different_texts"] == 0
    assert content["duplicates"]["texts"]["groups"] == 1
    assert content["in_several_subsets"] == {"texts": 1, "recordings": 1}
    kinds = {(s["rate"], s["channels"], s["encoding"]): s["utterances"] for s in content["sources"]}
    assert kinds == {(16_000, 1, "PCM_16"): 68, (16_000, 2, "PCM_16"): 1, (8000, 1, "PCM_16"): 1}
    printed = capsys.readouterr().out
    assert "note, mostly silence: 1, such as " in printed
    assert "note, 8 kHz in a file of a higher rate: 1, such as " in printed
    assert printed.count("silent: 1") == 1 and printed.count("clipped: 1") == 1
    assert "note: 1 recording occurs in more than one subset, such as " in printed
    assert "note: 2 utterances are far faster or slower than others" in printed
    assert ("no speakers are known" in printed) == ("speaker" not in planted.read_text())


def test_numbers_add_up(planted, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run(monkeypatch, "--table", planted, "--output_dir", out)
    content = report(out)
    count = sum(sizes["utterances"] for sizes in content["subsets"].values())
    assert count == 70
    for counts in (content["seconds"], content["speech_rate"]["words_per_second"]):
        assert sum(counts.values()) == count
    sound = content["sound"]
    assert sum(sound["level_dbfs"].values()) == sum(sound["silence_share"].values()) == count
    assert sum(sound["bandwidth_hz"].values()) == count - 1  # the silent one has none
    words = "".join((out / f"{name}.wrd").read_text() for name in content["subsets"])
    for character, number in content["characters"].items():
        assert words.count(character) == number
        assert character in content["character_examples"][character]["text"]
    assert sum(s["words"] for s in content["subsets"].values()) == len(words.split())


def test_other_text_flags_renew_the_report_without_converting(
    planted, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out"
    run(monkeypatch, "--table", planted, "--output_dir", out)
    before, page = report(out), (out / "corpus.html").read_text()
    monkeypatch.setattr("utils.corpora.conversion.convert", None)  # would be called
    run(monkeypatch, "--table", planted, "--output_dir", out)
    assert (report(out), (out / "corpus.html").read_text()) == (before, page)
    run(monkeypatch, "--table", planted, "--output_dir", out, "--case", "lower")
    after = report(out)
    assert after["findings"].keys() == before["findings"].keys()
    assert after["sources"] == before["sources"]
    assert after["characters"]["e"] == before["characters"]["E"]
    assert "the clipped one" not in page and (out / "corpus.html").read_text() != page


def test_the_page_is_one_file_without_scripts_and_all_text_is_escaped(tmp_path, monkeypatch):
    attack = "<script>alert(1)</script>"
    folder = tmp_path / "in" / attack.replace("/", "_")
    folder.mkdir(parents=True)
    for index in range(3):
        soundfile.write(folder / f"{index}&.wav", speech_like(seed=index), 16_000)
    (tmp_path / "in/broken<b>.wav").write_text("no audio")
    out = tmp_path / "out"
    flags = ("--audio_dir", tmp_path / "in", "--output_dir", out, "--licence", attack)
    assert run(monkeypatch, *flags) == 1
    page = (out / "corpus.html").read_text()
    assert "<script" not in page and "broken<b>" not in page
    assert html.escape(attack) in page and "broken&lt;b&gt;.wav" in page
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:)""", page)
    assert "url(" not in page and "@import" not in page
    assert "Content-Security-Policy" in page and "<title>Corpus report: out</title>" in page
    assert 3 <= page.count("<audio controls") <= 12


def test_one_recording_with_two_transcripts_is_named(tmp_path, monkeypatch, capsys):
    rows = ["path\ttext"]
    for index in range(6):
        samples = (speech_like(seed=index) * 32768).astype(np.int16)
        soundfile.write(tmp_path / f"{index}.wav", samples, 16_000)
        rows.append(f"{index}.wav\tgo on {'abcdef'[index]}")
    soundfile.write(tmp_path / "copy.flac", samples, 16_000)
    (tmp_path / "t.tsv").write_text("\n".join([*rows, "copy.flac\tسلام"]) + "\n")
    run(monkeypatch, "--table", tmp_path / "t.tsv", "--output_dir", tmp_path / "out")
    copies = report(tmp_path / "out")["duplicates"]["recordings"]
    assert (copies["groups"], copies["across_subsets"], copies["different_texts"]) == (1, 0, 1)
    printed = capsys.readouterr().out
    assert "note: 1 recording has several names and different tr" in printed
    assert "note: no speakers are known" in printed
    page = (tmp_path / "out/corpus.html").read_text()
    assert "1 recording with different transcripts" in page and "سلام" in page
    assert page.count('class="where"') == page.count('class="where" dir="ltr"')


def test_clips_are_short_and_limited(tmp_path, monkeypatch):
    for index in range(6):
        noise = np.random.default_rng(index).uniform(-0.5, 0.5, 25 * 16_000)
        (tmp_path / "in").mkdir(exist_ok=True)
        soundfile.write(tmp_path / f"in/{index}.wav", noise, 16_000)
    monkeypatch.setattr("utils.corpus_report.page.MOST_CLIPS", 800_000)
    run(monkeypatch, "--audio_dir", tmp_path / "in", "--output_dir", tmp_path / "out")
    page = (tmp_path / "out/corpus.html").read_text()
    assert page.count("<audio") == 2 and len(page) < 900_000
    assert "the first 8 s play" in page


# --- what was skipped


def flags_of_the_command():
    classes = (
        *(SourceOptions, TableOptions, TranscriptOptions),
        *(CleanupOptions, SelectionOptions, SegmentOptions, WorkOptions),
    )
    return {f"--{field.name}" for cls in classes for field in fields(cls)}


@pytest.mark.parametrize("reason", ADVICE)
def test_every_flag_in_the_advice_exists(reason):
    named = set(re.findall(r"--\w+", ADVICE[reason]))
    assert named <= flags_of_the_command()


def reasons_in(path):
    """The literal reasons that a file gives to BadRow, Skipped, Refused and Converted."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name, arguments = ast.unparse(node.func), node.args
        if name == "BadRow" and isinstance(arguments[2], ast.Constant):
            yield arguments[2].value
        elif name == "Refused" and isinstance(arguments[0], ast.Constant):
            yield f"transcript: {arguments[0].value}"
        elif name == "Converted" and len(arguments) == 2 and isinstance(arguments[1], ast.Dict):
            yield from (key.value for key in arguments[1].keys)


def test_every_reason_has_its_advice():
    files = [*(ROOT / "utils/corpora").rglob("*.py"), *(ROOT / "wav2vec2/text").glob("*.py")]
    found = {reason for path in files for reason in reasons_in(path)}
    assert len(found) > 15
    assert found <= ADVICE.keys()


def test_skipped_recordings_are_counted_with_examples_and_advice(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for index in range(4):
        soundfile.write(tmp_path / f"in/{index}.wav", speech_like(2, seed=index), 16_000)
    soundfile.write(tmp_path / "in/long.wav", speech_like(4), 16_000)
    rows = [*(f"{index}.wav\tgo on" for index in range(4)), "long.wav\tgo on", "gone.wav\tyes"]
    table = tmp_path / "in/t.tsv"
    table.write_text("\n".join(["path\ttext", *rows, "5.wav\t5 %"]) + "\n")
    out = tmp_path / "out"
    assert run(monkeypatch, "--table", table, "--output_dir", out, "--max_seconds", 3) == 1
    details = report(out)["skipped_details"]
    assert {reason: facts["count"] for reason, facts in details.items()} == {
        "transcript: symbol": 1,
        "too long": 1,
        "missing": 1,
    }
    assert details["too long"]["examples"] == [
        {
            "where": f"{table}:6",
            "detail": "4.00 s, --max_seconds 3.0; --segment align cuts long recordings",
        }
    ]
    page = (out / "corpus.html").read_text()
    assert 'raise <span class="flag">--max_seconds</span>' in page
    assert f"{table}:7" in page and "gone.wav: no such file" in page


def test_an_import_of_nothing_names_all_reasons(tmp_path, monkeypatch):
    rows = [*(f"{index}.wav\tgo on" for index in range(20)), "x.wav\t5 %", "y.wav\t"]
    table = tmp_path / "t.tsv"
    table.write_text("\n".join(["path\ttext", *rows]) + "\n")
    with pytest.raises(UserError) as caught:
        run(monkeypatch, "--table", table, "--output_dir", tmp_path / "out")
    message = str(caught.value)
    assert message.startswith("none of 22 recordings can be used: missing: 20 of 22, such as ")
    assert f"{table}:2: {tmp_path / '0.wav'}: no such file (--audio_root names" in message
    assert f"transcript: symbol: 1 of 22, such as {table}:22: '%' stands for a word" in message
    assert f"transcript: no transcript: 1 of 22, such as {table}:23: it is empty" in message
    assert "\n" not in message and not (tmp_path / "out").exists()


def test_rows_that_all_are_bad_name_all_reasons(tmp_path, monkeypatch):
    table = tmp_path / "t.tsv"
    table.write_text("path\ttext\tstart\n\ta\t0\n\tb\t0\nc.wav\tc\tnow\n")
    with pytest.raises(UserError) as caught:
        run(monkeypatch, "--table", table, "--output_dir", tmp_path / "out")
    message = str(caught.value)
    assert "no audio: 2 of 3" in message and "time: 1 of 3" in message
    assert f"{table}:2" in message and f"{table}:4" in message


# --- pieces


def test_rates_are_compared_with_texts_of_the_same_length():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 200, 2000).astype(float)
    seconds = (0.5 + lengths / 15) * np.exp(rng.normal(0, 0.15, 2000))
    assert (abs(deviations(lengths, seconds)) > 4).mean() < 0.002
    seconds[7] *= 4
    seconds[8] /= 4
    found = deviations(lengths, seconds)
    assert found[7] < -4 and found[8] > 4


@pytest.mark.parametrize("count", [1, 2, 9, 40])
def test_equal_rates_and_equal_durations_are_usual(count):
    lengths = np.arange(1.0, count + 1)
    assert abs(deviations(lengths, lengths / 15)).max() < 0.5
    assert abs(deviations(lengths, np.ones(count))).max() < 0.5


def test_the_first_of_each_character():
    assert characters(["AB", None, "BÉ", "É"]) == {"B": (2, 0), "É": (2, 2), "A": (1, 0)}


def test_equal_values_are_grouped_and_those_across_subsets_come_first():
    values = ["x", "", "y", "x", None, "y", "", "y"]
    subsets = ["a", "a", "a", "a", "a", "b", "a", "a"]
    groups = repeated(values)
    assert groups == [[0, 3], [2, 5, 7]]
    found = describe_repeated(groups, subsets.__getitem__, lambda index: {"id": index})
    assert (found["groups"], found["utterances"], found["across_subsets"]) == (2, 5, 1)
    assert [m["id"] for m in found["examples"][0]["members"]] == [2, 5, 7]


def test_reasons_are_ordered_by_their_number():
    entries = [Skipped(f"t:{n}", "", ("b", "a")[n % 3 == 0], f"d{n}", False) for n in range(20)]
    found = describe(entries)
    assert [(reason, facts["count"]) for reason, facts in found.items()] == [("b", 13), ("a", 7)]
    assert [e["where"] for e in found["a"]["examples"]] == ["t:0", "t:3", "t:6", "t:9", "t:12"]
    assert nothing_usable("none", 20, entries).startswith("none: b: 13 of 20, such as t:1: d1 (")


def test_cells_and_bars():
    assert '<td dir="auto">&lt;b&gt;</td>' in table(["a"], [["<b>"]], [])
    drawn = bars("seconds", {"from 0": 0, "from 1": 4, "from 2": 1, "from 4": 0})
    assert re.findall(r'scope="row">([^<]*)<', drawn) == ["1 to 2", "2 to 4"]
    assert re.findall(r"width:([\d.]*)%", drawn) == ["100.0", "25.0"]
    assert bars("seconds", {"from 0": 0}) == ""
    assert (shown(" "), shown("́"), shown("A")) == ("space", "◌́", "A")
