"""Lhotse's manifests: cuts, recordings with supervisions, and Shar directories.

They are read as what they are, lines of JSON.  Lhotse itself runs the commands that they name.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.corpora.containers.command import KIND as COMMAND
from utils.corpora.containers.tar import list_files
from utils.corpora.rows import BadRow, Row, Rows, subset_named
from utils.corpora.tables import AUDIO, TableOptions, format_of, read_values
from utils.corpora.toolkits.places import resolved, shallowest
from wav2vec2.cli.errors import UserError

_NAME = re.compile(
    r"(?P<corpus>.+_)?(?P<kind>cuts|recordings|supervisions)(?P<part>[_.].+?)?\.jsonl?(\.gz)?"
)
_UNCHANGED = ("Resample",)
"""Transforms that only change the rate, which an import changes anyway."""
_REFUSED = {
    "url": "audio at an address is not fetched; download it and name the file",
    "memory": "audio in memory is not in a manifest; export the cuts with to_shar",
}

_NO_ITEM = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What an item raises that lacks a key or has another value than Lhotse's."""

Item = dict[str, Any]


@dataclass(frozen=True)
class _Manifests:
    """The manifests of one part of a corpus."""

    split: str
    audio_root: Path | None
    cuts: Path | None = None
    recordings: Path | None = None
    supervisions: Path | None = None


def manifests_in(folder: Path) -> list[Path]:
    """Lhotse's manifests in a folder, or else in the first level below it that has any."""
    return shallowest(folder, "*.json*", lambda path: bool(_NAME.fullmatch(path.name)))


def is_manifest(path: Path) -> bool:
    """Whether the first line of a table is an item of Lhotse's."""
    if format_of(path) not in ("jsonl", "json"):
        return False
    try:
        first = next((item for _, item in _items(path) if isinstance(item, dict)), {})
    except UserError:
        return False
    return bool(_kind(first)) and not set(first) & {*AUDIO}


def _kind(item: Item) -> str:
    if "sources" in item and "sampling_rate" in item:
        return "recordings"
    if {"id", "recording_id", "start", "duration", "channel"} <= item.keys():
        return "supervisions"
    cut = "tracks" in item or ("start" in item and "supervisions" in item)
    return "cuts" if cut or str(item.get("type", "")).endswith("Cut") else ""


def read_lhotse(place: Path, audio_root: Path | None = None) -> Rows:
    """Lhotse's cuts, recordings with supervisions, and Shar directories; subsets by their names.

    UserError for a file that is no JSON by its suffix.
    """
    if place.is_file() and format_of(place) not in ("jsonl", "json"):
        raise UserError(f"{place}: not .jsonl, .jsonl.gz or .json; `lhotse copy` converts it")
    found = manifests_in(place) if place.is_dir() else _with_siblings(place)
    parts: dict[tuple[Path, str, str], dict[str, Path]] = {}
    for path in found:
        name = _NAME.fullmatch(path.name)
        corpus, part = (name["corpus"] or "", name["part"] or "") if name else ("", path.name)
        kind = name["kind"] if name else _kind(_first(path)) or "cuts"
        parts.setdefault((path.parent, corpus, part), {})[kind] = path
    for (folder, corpus, part), paths in parts.items():
        names = (part.lstrip("_."), corpus.rstrip("_").rpartition("_")[2], folder.name)
        split = next(filter(None, map(subset_named, names)), "")
        manifests = _Manifests(split, audio_root, **paths)
        if manifests.cuts:
            yield from _read_cuts(manifests, manifests.cuts)
        elif manifests.recordings:
            yield from _read_pair(manifests, manifests.recordings)
        else:
            path = next(iter(paths.values()))
            yield BadRow(str(path), "", "missing", "no manifest of its recordings beside it")


def _with_siblings(path: Path) -> list[Path]:
    """A manifest, and that of the recordings or supervisions that belongs to it."""
    name = _NAME.fullmatch(path.name)
    if not name or name["kind"] == "cuts":
        return [path]
    begin, end = path.name[: name.start("kind")], path.name[name.end("kind") :]
    names = (f"{begin}{kind}{end}" for kind in ("recordings", "supervisions"))
    return [path.with_name(other) for other in names if path.with_name(other).is_file()] or [path]


def _items(path: Path) -> Iterator[tuple[str, Item | str]]:
    """(where, item, or why there is none) of each line."""
    try:
        for number, item in read_values(path, "", TableOptions()):
            yield f"{path}:{number}", item
    except UserError as error:  # its other lines count
        yield str(path), str(error).removeprefix("--table ")


def _first(path: Path) -> Item:
    return next((item for _, item in _items(path) if isinstance(item, dict)), {})


def _read_cuts(manifests: _Manifests, path: Path) -> Rows:
    shard = None
    for where, cut in _items(path):
        if isinstance(cut, str):
            yield BadRow(where, str(path), "row", cut)
            continue
        try:
            if shard is None and _is_shar(cut):
                shard = _shard(path)
            yield from _rows_of_cut(manifests, path, where, cut, shard or {})
        except _NO_ITEM as error:
            yield BadRow(where, str(path), "row", f"not a cut of Lhotse's ({error!r})")


def _read_pair(manifests: _Manifests, path: Path) -> Rows:
    """The supervisions of recordings; recordings alone if there are none."""
    recordings: dict[str, tuple[str, Item]] = {}
    for where, item in _items(path):
        if isinstance(item, dict) and isinstance(item.get("id"), str) and _kind(item):
            recordings[item["id"]] = where, item
        else:
            detail = item if isinstance(item, str) else "not a recording of Lhotse's"
            yield BadRow(where, str(path), "row", detail)
    supervised = set()
    for where, item in _items(manifests.supervisions) if manifests.supervisions else ():
        name = item.get("recording_id") if isinstance(item, dict) else None
        if not isinstance(item, dict) or not isinstance(name, str):
            detail = item if isinstance(item, str) else "not a supervision of Lhotse's"
            yield BadRow(where, str(manifests.supervisions), "row", detail)
        elif name not in recordings:
            yield BadRow(where, name, "missing", f"{path} has no recording {name}")
        else:
            supervised.add(name)
            yield from _rows_of_recording(manifests, path, where, recordings[name][1], [item])
    for name, (where, recording) in recordings.items():
        if name in supervised:
            continue
        if manifests.supervisions:
            yield BadRow(where, name, "no transcript", f"{manifests.supervisions} has no {name}")
        else:
            yield from _rows_of_recording(manifests, path, where, recording, [])


def _rows_of_recording(
    manifests: _Manifests, path: Path, where: str, recording: Item, supervisions: list[Item]
) -> Rows:
    try:
        channels = [channel for source in recording["sources"] for channel in source["channels"]]
        cut = {"start": 0, "duration": recording["duration"], "channel": channels}
        cut |= {"recording": recording, "supervisions": supervisions}
        yield from _rows_of_cut(manifests, path, where, cut, {})
    except _NO_ITEM as error:
        yield BadRow(where, str(path), "row", f"not a recording of Lhotse's ({error!r})")


def _is_shar(cut: Item) -> bool:
    sources = (cut.get("recording") or {}).get("sources") or [{}]
    return sources[0].get("type") == "shar"


def _shard(path: Path) -> dict[str, tuple[Path, str]]:
    """Cut id -> (archive, member) of the recordings beside a shard's cuts."""
    stem = path.name.removesuffix(".gz").removesuffix(".jsonl").replace("cuts", "recording", 1)
    archive = path.with_name(f"{stem}.tar")
    if not archive.exists() and (other := path.with_name(f"{stem}.tar.gz")).exists():
        archive = other
    found: dict[str, tuple[Path, str]] = {"": (archive, "")}
    with suppress(OSError):  # cuts without a member are reported
        for entry in list_files(archive, lambda name: False):
            if not isinstance(entry, str):  # where it is damaged, whose first members are whole
                name, _, suffix = entry.name.rpartition(".")
                if suffix not in ("json", "nodata", "nometa"):
                    found[name] = archive, f"tar:{entry.place}"
    return found


def _rows_of_cut(
    manifests: _Manifests,
    path: Path,
    where: str,
    cut: Item,
    shard: dict[str, tuple[Path, str]],
) -> Rows:
    """A row for each supervision of a cut and each file that holds its channels."""
    tracks = [track["cut"] for track in cut.get("tracks", ())]
    audible = [track for track in tracks if track.get("type") != "PaddingCut"]
    if len(audible) == 1 and not cut.get("transforms"):  # padded with silence
        cut = audible[0]
    recording = cut.get("recording")
    if refusal := _refusal(cut, recording):
        yield BadRow(where, str(cut.get("id", "")), *refusal)
        return
    if not recording:
        yield BadRow(where, str(cut.get("id", "")), "no audio", "a cut without a recording")
        return
    name, rate = str(recording["id"]), recording["sampling_rate"]
    of_cut, here = _listed(cut["channel"]), Path.cwd()
    for supervision in cut["supervisions"] or [None]:
        start = cut["start"] + (supervision["start"] if supervision else 0)
        duration = (supervision or cut)["duration"]
        wanted = of_cut
        if supervision and len(of_cut) > 1:
            wanted = _listed(supervision.get("channel", of_cut))
        whole = abs(start) * rate < 1 and abs(recording["duration"] - duration) * rate < 1
        speaker = str((supervision or {}).get("speaker") or "")
        text = (supervision or {}).get("text")
        if text is not None and not isinstance(text, str):
            raise TypeError(f"text {text!r}")
        for source in recording["sources"]:
            kind, content = source["type"], str(source["source"])
            channels = of_cut if kind == "shar" else source["channels"]
            audio, member = path, ""
            if kind == "file":
                audio = resolved(content, manifests.audio_root or path.parent, (here,))
            elif kind == "command":
                member = f"{COMMAND}:{content.strip().removesuffix('|')}"
            elif kind == "shar":
                name = str(cut["id"])
                if name not in shard:
                    detail = f"{shard[''][0]} has no audio of {name}"
                    yield BadRow(where, name, "missing", detail)
                    continue
                audio, member = shard[name]
            for channel in _channels(channels, wanted):
                yield Row(
                    audio,
                    where,
                    text,
                    0.0 if whole else max(start, 0.0) if start * rate > -1 else start,
                    None if whole else start + duration,
                    declared=float(recording["duration"]),
                    channel=channel,
                    speaker=speaker,
                    group="" if speaker else f"{path}:{recording['id']}",
                    split=manifests.split,
                    member=member,
                    name=name if member else "",
                )


def _listed(channel: Any) -> list[int]:
    return channel if isinstance(channel, list) else [channel]


def _channels(held: list[int], wanted: list[int]) -> list[int | None]:
    """The channels of a file to read, from 1; None for all of them together."""
    if set(held) <= set(wanted):
        return [None]
    return [held.index(channel) + 1 for channel in wanted if channel in held]


def _refusal(cut: Item, recording: Item | None) -> tuple[str, str] | None:
    """(reason, detail) for which a cut's audio is not that of its recording."""
    if "tracks" in cut:
        return "mixed", f"a mix of {len(cut['tracks'])} cuts; import the cuts that it is made of"
    if cut.get("type") == "PaddingCut":
        return "padding", "silence for padding"
    if not recording:
        return None
    names = [str(transform.get("name")) for transform in recording.get("transforms") or ()]
    if changed := [name for name in names if name not in _UNCHANGED]:
        return "augmented", f"{', '.join(changed)} of a recording; import the original cuts"
    for source in recording["sources"]:
        if source["type"] in _REFUSED:
            return source["type"], _REFUSED[source["type"]]
        if source["type"] not in ("file", "command", "shar"):
            return "row", f"unknown type of source {source['type']!r}"
    return None
