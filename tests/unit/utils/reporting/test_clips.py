import base64
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from utils.reporting import clips
from utils.reporting.runs import read_evaluations
from wav2vec2.files.filelists import Utterance, write_manifest


@pytest.fixture
def folder(tmp_path):
    """40 utterances of one second, of which number 7, 8 and 9 have 3, 2 and 1 errors."""
    generator = np.random.default_rng(0)
    files = []
    for n in range(40):
        (tmp_path / "audio").mkdir(exist_ok=True)
        name = f"audio/u {n:02}#.flac"
        noise = generator.uniform(-0.1, 0.1, 16_000)
        soundfile.write(tmp_path / name, noise, 16_000, subtype="PCM_16")
        files.append((name, 16_000))
    write_manifest(tmp_path, "test", ".", files)
    wrong = {7: "x y z", 8: "x y c", 9: "x b c"}
    results = [
        {"id": f"u {n:02}#", "reference": "a b c", "hypothesis": wrong.get(n, "a b c")}
        for n in range(40)
    ]
    lines = "".join(f"{json.dumps(result)}\n" for result in results)
    (tmp_path / "hypotheses_test.jsonl").write_text(lines)
    (tmp_path / "summary_test.json").write_text(json.dumps({"dataset_dir": str(tmp_path)}))
    return tmp_path


def clips_of(folder, most_bytes, page="pages/page.html", **where):
    evaluations = list(read_evaluations(folder))
    notes = clips.add_audio(evaluations, folder / page, most_bytes, **where)
    return evaluations[0].clips, notes


def test_a_clip_is_the_audio_as_it_was(folder):
    found, notes = clips_of(folder, 10**7)
    assert len(found) == 40 and not notes
    for key, clip in found.items():
        content = base64.b64decode(clip.removeprefix(clips.PREFIX))
        samples, rate = soundfile.read(io.BytesIO(content), dtype="int16")
        expected, _ = soundfile.read(folder / "audio" / f"{key}.flac", dtype="int16")
        assert rate == 16_000 and (samples == expected).all()


def test_clips_have_a_limit_and_the_worst_come_first(folder):
    one = len(clips_of(folder, 10**7)[0]["u 00#"])
    found, _ = clips_of(folder, 3 * one + one // 2)
    embedded = [key for key, clip in found.items() if clip.startswith(clips.PREFIX)]
    assert set(embedded) == {"u 07#", "u 08#", "u 09#"} and len(found) == 40
    assert found["u 00#"] == "../audio/u%2000%23.flac"
    some, _ = clips_of(folder, (clips.WORST + clips.DRAWN) * one * 101 // 100)
    embedded = {key for key, clip in some.items() if clip.startswith(clips.PREFIX)}
    assert sum(len(some[key]) for key in embedded) <= (clips.WORST + clips.DRAWN) * one * 1.01
    assert len(embedded) >= clips.WORST + clips.DRAWN - 1
    # Some drawn from the rest, not the first of it.
    assert embedded - {f"u {n:02}#" for n in range(15)}


def test_evaluations_share_the_limit(folder):
    for ending in ("jsonl", "json"):
        name = {"jsonl": "hypotheses", "json": "summary"}[ending]
        content = (folder / f"{name}_test.{ending}").read_text()
        (folder / f"{name}_other.{ending}").write_text(content)
    (folder / "other.tsv").write_text((folder / "test.tsv").read_text())
    evaluations = list(read_evaluations(folder))
    one = len(clips_of(folder, 10**7)[0]["u 00#"])
    clips.add_audio(evaluations, folder / "page.html", 6 * one + one // 2)
    counts = [sum(c.startswith("data:") for c in e.clips.values()) for e in evaluations]
    assert counts == [3, 3]


@pytest.mark.parametrize("name", ["javascript:alert(1).flac", "a&b.flac", "<i>.flac"])
def test_a_link_is_a_path_and_nothing_else(folder, name):
    (folder / "audio" / "u 00#.flac").rename(folder / name)
    lines = (folder / "test.tsv").read_text().replace("audio/u 00#.flac", name)
    (folder / "test.tsv").write_text(lines)
    (folder / "hypotheses_test.jsonl").write_text(
        json.dumps({"id": name.removesuffix(".flac"), "reference": "a", "hypothesis": "b"})
    )
    found, _ = clips_of(folder, 1, page="page.html")
    (link,) = found.values()
    assert not set(":<>&") & set(link) and link.endswith(".flac")


def test_a_name_that_is_not_utf8_has_a_link(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.flac")
    Path(path).touch()
    utterance = Utterance(id="x", path=path, samples=1, line=2)
    assert clips.link([utterance], tmp_path / "page.html") == {"x": "%FF.flac"}


def test_what_is_missing_is_named(folder):
    (folder / "audio" / "u 07#.flac").write_bytes(b"broken")
    (folder / "audio" / "u 08#.flac").unlink()
    found, notes = clips_of(folder, 10**7)
    assert len(found) == 39 and found["u 07#"] == "../audio/u%2007%23.flac"
    assert len(notes) == 1 and "u 07#.flac" in notes[0]
    found, notes = clips_of(folder, 10**7, dataset_dir=str(folder / "none"))
    assert not found and len(notes) == 1
    assert "no audio of test" in notes[0] and "--dataset_dir" in notes[0]
    (folder / "summary_test.json").write_text("{}")
    assert clips_of(folder, 10**7) == ({}, [])
    assert len(clips_of(folder, 10**7, dataset_dir=str(folder))[0]) == 39
