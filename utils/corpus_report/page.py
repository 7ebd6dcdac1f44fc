"""corpus.json -> corpus.html: one self-contained page of tables, bars and clips, without a script.

Text of the corpus enters the page escaped, as text.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import soundfile

from utils.corpus_report.markup import (
    Html,
    bars,
    counted,
    escape,
    number,
    shown,
    table,
    with_flags,
)
from utils.reporting.clips import encode
from utils.reporting.page import ASSETS as REPORT_ASSETS
from utils.reporting.page import fill
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.files.output import write_chunks

ASSETS = Path(__file__).parent / "assets"
LONGEST_CLIP = 8
"""Seconds of an example that can be played."""
MOST_CLIPS = 2_500_000
"""Characters of all clips together."""
SHOWN_CHARACTERS = 60
"""Characters in the table before it folds."""

EXPLAINED = {
    "silent": "The level is below -70 dB of full scale.",
    "clipped": "More than 0.1 % of the samples of the source are at full scale.",
    "channels cancel": "Averaged channels would give silence; the loudest channel is used.",
    "8 kHz in a file of a higher rate": "The spectrum ends near 4 kHz, as after upsampling from "
    "8 kHz. A narrow-band codec or filter looks the same.",
    "mostly silence": "80 % or more of the frames are 30 dB below the loud ones.",
}
"""Finding -> what is measured."""


def subsets(content: Mapping[str, Any]) -> str:
    """The sizes of the subsets."""
    total = sum(sizes["hours"] for sizes in content["subsets"].values()) or 1
    rows = [
        [
            name,
            number(sizes["utterances"]),
            f"{sizes['hours']:.3f}",
            f"{100 * sizes['hours'] / total:.1f} %",
            number(sizes["speakers"]) if sizes["speakers"] else "–",
            number(sizes["words"]) if sizes["words"] else "–",
            f"{sizes['shortest']:g}, {sizes['median']:g}, {sizes['longest']:g}",
        ]
        for name, sizes in content["subsets"].items()
    ]
    columns = ["subset", "utterances", "hours", "share", "speakers", "words"]
    columns.append("shortest, median, longest, s")
    return table(columns, rows, range(1, 7))


def sources(content: Mapping[str, Any]) -> str:
    """The kinds of source files."""
    rows = [
        [
            source["format"],
            source["encoding"],
            number(source["rate"]) if source["rate"] else "–",
            number(source["channels"]) if source["channels"] else "–",
            number(source["utterances"]),
            f"{source['hours']:.3f}",
        ]
        for source in content["sources"]
    ]
    columns = ["format", "encoding", "rate, Hz", "channels", "utterances", "hours"]
    return table(columns, rows, range(2, 6))


def named(name: str, where: str) -> Html:
    """A name or text in a cell, and under it where the source has it."""
    return Html(f"<bdi>{escape(name)}</bdi><br>{place(where)}")


def place(where: str) -> str:
    """Where the source has something; its slashes stay in order beside any script."""
    return f'<span class="where" dir="ltr">{escape(where)}</span>'


def findings(content: Mapping[str, Any]) -> str:
    """What is unusual about the audio, with examples."""
    parts = []
    for kind, found in content["findings"].items():
        parts.append(f"<h3>{escape(kind)}: {found['utterances']:,}</h3>")
        parts.append(f'<p class="note">{escape(EXPLAINED[kind])}</p>')
        rows = [
            [
                named(entry["id"], entry["where"]),
                entry["subset"],
                f"{entry['seconds']:g}",
                entry["detail"],
            ]
            for entry in found["examples"]
        ]
        parts.append(table(["utterance", "subset", "s", "measured"], rows, [2]))
    return "".join(parts)


def rates(content: Mapping[str, Any]) -> str:
    """Pairs whose rate is unusual."""
    rate = content["speech_rate"]
    if not rate:
        return ""
    parts = [
        f"<h3>Pairs that may be wrong: {rate['outliers']:,}</h3>",
        '<p class="note">A pair is listed if its characters per second are more than four robust '
        "standard deviations from those of transcripts of about the same length. Check that audio "
        f"and transcript belong together. Medians of all: {rate['median']:g} characters/s, "
        f"{rate['median_words']:g} words/s.</p>",
    ]
    rows = [
        [
            named(entry["id"], entry["where"]),
            entry.get("text", ""),
            entry["subset"],
            f"{entry['seconds']:g}",
            f"{entry['characters_per_second']:g}",
            f"{entry['words_per_second']:g}",
        ]
        for entry in rate["farthest"]
    ]
    columns = ["utterance", "transcript", "subset", "s", "characters/s", "words/s"]
    if rows:
        parts.append(table(columns, rows, [3, 4, 5]))
    return "".join(parts)


def characters(content: Mapping[str, Any]) -> str:
    """Each character with its count and a transcript that has it; rare ones are the last."""
    counts = content["characters"]
    total = sum(counts.values())
    rows = [
        [
            shown(character),
            Html(f'<span class="flag">U+{ord(character):04X}</span>'),
            number(count),
            f"{100 * count / total:.2f} %",
            named(example["text"], example["where"]),
        ]
        for character, count in counts.items()
        for example in [content["character_examples"][character]]
    ]
    columns = ["character", "code", "count", "share", "such as"]
    if len(rows) <= SHOWN_CHARACTERS:
        return table(columns, rows, [2, 3])
    return (
        table(columns, rows[: SHOWN_CHARACTERS // 2], [2, 3])
        + '<p class="note">The rarest:</p>'
        + table(columns, rows[-SHOWN_CHARACTERS // 2 :], [2, 3])
        + f"<details><summary>all {len(rows):,} characters</summary>"
        + table(columns, rows, [2, 3])
        + "</details>"
    )


def duplicates(content: Mapping[str, Any]) -> str:
    """Recordings and texts that occur several times."""
    parts = []
    titles = {
        "recordings": (
            "Equal audio",
            "The samples are equal: one recording under several names. With different transcripts: "
            f"{content['duplicates']['recordings']['different_texts']:,}.",
        ),
        "texts": ("Texts in several subsets", "What a model learns in training, a test repeats."),
    }
    for kind, (title, explained) in titles.items():
        found = content["duplicates"][kind]
        if not found["groups"]:
            continue
        across = f", {found['across_subsets']:,} across subsets" if kind == "recordings" else ""
        parts.append(f"<h3>{title}: {found['groups']:,}{across}</h3>")
        parts.append(f'<p class="note">{explained}</p>')
        rows = [
            [
                number(group["utterances"]),
                *(lines(group["members"], field) for field in ("subset", "where", "text")),
            ]
            for group in found["examples"]
        ]
        columns = ["utterances", "subsets", "such as", "transcripts"]
        parts.append(table(columns, rows, [0]))
    return "".join(parts)


def lines(entries: Iterable[Mapping[str, Any]], field: str) -> Html:
    """The different values of a field of some utterances, a line each."""
    values = dict.fromkeys(entry[field] for entry in entries if field in entry)
    return Html("<br>".join(map(place if field == "where" else escape, values)))


def skipped(content: Mapping[str, Any]) -> str:
    """Reasons with counts, how to keep what they skip, and examples."""
    rows = [
        [
            reason,
            number(facts["count"]),
            with_flags(facts["keep"]),
            Html(
                "<br>".join(
                    f"{place(example['where'])} {with_flags(example['detail'])}"
                    for example in facts["examples"]
                )
            ),
        ]
        for reason, facts in content["skipped_details"].items()
    ]
    return table(["reason", "count", "to keep them", "such as"], rows, [1]) if rows else ""


def listen(content: Mapping[str, Any], audio_dir: Path) -> str:
    """Players for the utterances at both ends of each measure, of LONGEST_CLIP at most."""
    rate = content["speech_rate"]
    chosen = dict(content["examples"])
    if rate:
        chosen |= {"slowest": rate["slowest"], "fastest": rate["fastest"]}
    parts = []
    left = MOST_CLIPS
    for kind, entries in chosen.items():
        for entry in entries:
            clip = read_clip(audio_dir / f"{entry['id']}.flac")
            if not clip or len(clip) > left:
                continue
            left -= len(clip)
            facts = [f"{entry['seconds']:g} s", entry.get("detail", "")]
            if "words_per_second" in entry:
                facts[1] = f"{entry['words_per_second']:g} words per second"
            if entry["seconds"] > LONGEST_CLIP:
                facts.append(f"the first {LONGEST_CLIP} s play")
            parts.append(
                f'<div class="pair"><p class="id"><span>{escape(kind)}: {escape(entry["id"])}'
                f"</span></p><p>{escape(', '.join(filter(None, facts)))}</p>"
                f'<p dir="auto">{escape(entry.get("text", ""))}</p>'
                f'<audio controls preload="none" src="{clip}"></audio></div>'
            )
    return f'<div class="pairs">{"".join(parts)}</div>' if parts else ""


def read_clip(path: Path) -> str:
    """The beginning of a FLAC file as a data URI; "" if it cannot be read."""
    try:
        return encode(soundfile.read(path, LONGEST_CLIP * SAMPLE_RATE, dtype="float32")[0])
    except (soundfile.LibsndfileError, OSError):
        return ""


def headline(content: Mapping[str, Any]) -> list[str]:
    """What to look at first, a line each."""
    lines = [
        f"{counted(found['utterances'], 'utterance')}: {kind}"
        for kind, found in content["findings"].items()
    ]
    rate = content["speech_rate"]
    if rate and rate["outliers"]:
        lines.append(f"{counted(rate['outliers'], 'pair')} may be wrong: unusual speech rate")
    copies = content["duplicates"]["recordings"]
    if copies["groups"]:
        across = f"{copies['across_subsets']:,} in several subsets"
        lines.append(f"{counted(copies['groups'], 'recording')} under several names, {across}")
    if count := copies["different_texts"]:
        lines.append(f"{counted(count, 'recording')} with different transcripts")
    if texts := content["duplicates"]["texts"]["groups"]:
        lines.append(f"{counted(texts, 'text')} in several subsets")
    if missed := sum(content["skipped"].values()):
        lines.append(f"{counted(missed, 'recording')} skipped")
    return lines


def render(content: Mapping[str, Any], name: str, audio_dir: Path) -> str:
    """The page of a data set, given the content of corpus.json."""
    sizes = content["subsets"].values()
    overall = [
        ("hours", f"{sum(s['hours'] for s in sizes):.3f}"),
        ("utterances", number(sum(s["utterances"] for s in sizes))),
        *((key, content[key]) for key in ("licence", "origin") if key in content),
    ]
    block = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in overall)
    notes = "".join(f"<li>{escape(line)}</li>" for line in headline(content))
    sound = content["sound"]
    rate = content["speech_rate"]
    figures = bars("seconds", content["seconds"]) + "".join(bars(k, v) for k, v in sound.items())
    if rate:
        figures += bars("words_per_second", rate["words_per_second"])
    parts = {
        "Subsets": subsets(content),
        "Distributions": f'<div class="diagrams">{figures}</div>',
        "Unusual audio": findings(content),
        "Speech rate": rates(content),
        "Duplicates": duplicates(content),
        "Skipped": skipped(content),
        "Source files": sources(content),
        "Characters": characters(content) if content["characters"] else "",
        "Examples": listen(content, audio_dir),
    }
    body = "".join(f"<h2>{title}</h2>{part}" for title, part in parts.items() if part)
    listed = f'<ul class="notes">{notes}</ul>' if notes else '<p class="note">Nothing unusual.</p>'
    parts = {
        "style": (REPORT_ASSETS / "page.css").read_text(encoding="utf-8"),
        "own_style": (ASSETS / "corpus.css").read_text(encoding="utf-8"),
        "name": escape(name),
        "body": f'<dl class="headline">{block}</dl>{listed}{body}',
    }
    return fill((ASSETS / "corpus.html").read_text(encoding="utf-8"), parts)


def write_page(folder: Path) -> Path:
    """Draw `folder`/corpus.html from corpus.json and the audio that it names; returns its path."""
    content = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
    path = folder / "corpus.html"
    page = render(content, folder.absolute().name, folder / "audio")
    write_chunks(path, [page.encode()])
    return path
