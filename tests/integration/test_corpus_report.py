"""The page of an import, shown in a real browser."""

import json
import sys

import numpy as np
import pytest
import soundfile

from tests.integration.browser import PROGRAM, Browser
from utils.data import import_corpus

pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no Chromium; apt-get install chromium, which scripts/test.sh does"
)

ATTACK = "<img src=http://x.invalid/a.png onerror=document.title=1>"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of a small corpus; its folder and its licence hold an attack."""
    folder = tmp_path_factory.mktemp("corpus")
    place = folder / "in" / ATTACK.replace("/", "_")
    place.mkdir(parents=True)
    rows = ["path\ttext"]
    for index in range(12):
        noise = np.random.default_rng(index).uniform(-0.5, 0.5, 8000 + 800 * index)
        soundfile.write(place / f"{index}.wav", noise, 16_000)
        rows.append(f"{place.name}/{index}.wav\tgo on {'abcdefghijkl'[index]}")
    rows.append(f"{place.name}/{'very_long_name_' * 12}.wav\tgo")
    (folder / "in/rows.tsv").write_text("\n".join(rows) + "\n")
    flags = ["--table", folder / "in/rows.tsv", "--output_dir", folder / "out", "--workers", 1]
    with pytest.MonkeyPatch.context() as patch:
        words = ["import_corpus", *flags, "--licence", ATTACK]
        patch.setattr(sys, "argv", [str(word) for word in words])
        assert import_corpus.main() == 1
    return folder / "out" / "corpus.html"


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (360, "dark")])
def test_the_page_fits_asks_for_nothing_and_plays(page, tmp_path, width, scheme):
    browser = Browser(tmp_path / "profile")
    browser.open(page, width, 800, scheme)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.title") == "Corpus report: out"
    assert browser.evaluate("document.querySelectorAll('main img').length") == 0
    assert ATTACK in browser.evaluate("document.querySelector('main').textContent")
    headings = browser.evaluate("[...document.querySelectorAll('h2')].map(e => e.textContent)")
    assert headings[0] == "Subsets" and headings[-1] == "Examples" and "Skipped" in headings
    played = browser.evaluate(
        """(async () => {
          const player = document.querySelector("audio");
          player.muted = true;
          player.load();
          await new Promise((done, failed) => {
            player.onloadedmetadata = done;
            player.onerror = failed;
          });
          return player.duration;
        })()"""
    )
    shortest = json.loads((page.parent / "corpus.json").read_text())["examples"]["shortest"][0]
    assert played == pytest.approx(shortest["seconds"], abs=0.02)
    paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 200) == (scheme == "dark")
    assert browser.errors == []
    assert all(url.startswith(("file:", "data:")) for url in browser.requests)
    browser.close()
