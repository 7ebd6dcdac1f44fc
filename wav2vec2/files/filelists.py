"""Filelists: which audio files a subset holds, and the labels that go with them.

`<subset>.tsv` holds the root folder in its first line, then one utterance per line:
`relative/path.flac<TAB>number_of_samples`.  The path may be absolute, or that of a stored zip
member (`relative/archive.zip:offset:length`).  A root of `.` is the filelist's own folder, so
that both can be moved together.  `<subset>.wrd` (or `.ltr`, or any other extension) holds one
line of labels per utterance, in the same order.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wav2vec2.audio.source import printable, recording_key
from wav2vec2.audio.zip_member import stem
from wav2vec2.cli.errors import UserError
from wav2vec2.files.output import write_chunks
from wav2vec2.files.text import read_lines
from wav2vec2.text.vocabulary import refuse_reserved

TSV_EXAMPLE = "'84/121123/84-121123-0000.flac<TAB>251840'"

OWN_FOLDER = "."
"""The root that means the folder of the filelist itself."""


@dataclass(frozen=True)
class Utterance:
    """One line of a filelist."""

    id: str
    """The audio file's stem (of a zip member, `<archive's stem>_<offset>`).  With its folders,
    such as `a_x` for `a/x.flac`, if other files of the subset have the same stem."""
    path: str
    """The audio file or zip member: absolute, or joined to the filelist's root folder."""
    samples: int
    """Length in samples at the file's own sample rate."""
    line: int
    """Line number in the filelist, from 1, for error messages."""


@dataclass(frozen=True)
class Manifest:
    """A subset's utterances, in the order of its filelist."""

    path: Path
    root: Path
    utterances: tuple[Utterance, ...]

    def __len__(self) -> int:
        return len(self.utterances)


def _subset_file(dataset_dir: str | Path, name: str, fix: str) -> Path:
    path = Path(dataset_dir) / name
    if path.is_file():
        return path
    siblings = sorted(p.name for p in Path(dataset_dir).glob(f"*{path.suffix}"))[:8]
    found = f"it has {', '.join(siblings)}" if siblings else f"it holds no {path.suffix} file"
    if not Path(dataset_dir).is_dir():
        found = "the folder does not exist"
    raise UserError(f"{path}: no such file ({found}); {fix}")


def read_manifest(dataset_dir: str | Path, subset: str) -> Manifest:
    """Read and validate `<dataset_dir>/<subset>.tsv`.

    UserError, naming file and line, for a missing file, a line that is not `path<TAB>samples`, or
    two utterances with the same id.  Audio files are not opened here.
    """
    path = _subset_file(
        dataset_dir,
        f"{subset}.tsv",
        "name another subset, or write its filelist: scripts/generate_filelists.sh for "
        "LibriSpeech, "
        "utils/data/make_librilight_subsets.py for train-1h and train-10h, "
        "utils/data/import_corpus.py for your own recordings",
    )
    lines = read_lines(path, errors="surrogateescape")
    if lines and "\0" in lines[0]:
        raise UserError(f"{path}: cannot be read (not UTF-8 text but UTF-16, or no text at all)")
    if not lines or not lines[0].strip() or "\t" in lines[0]:
        raise UserError(
            f"{path}:1: the first line must be the root folder of the audio files and nothing else"
        )
    root = path.parent if lines[0] == OWN_FOLDER else Path(lines[0])
    listed: list[tuple[str, int, int]] = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        name, tab, count = line.rpartition("\t")
        if not tab or not name or not count.isascii() or not count.isdigit():
            raise UserError(
                f"{path}:{number}: expected 'path<TAB>samples' like {TSV_EXAMPLE}, got {line!r}"
            )
        if len(count) > 18 or "\0" in name:
            raise UserError(f"{path}:{number}: {line!r}: no audio has such a length or name")
        listed.append((name, int(count), number))
    if not listed:
        raise UserError(f"{path}: lists no audio; a line looks like {TSV_EXAMPLE}")
    stems = Counter(stem(name) for name, _, _ in listed)
    utterances: list[Utterance] = []
    line_of: dict[str, int] = {}
    for name, samples, number in listed:
        audio = os.path.join(root, name)
        alone = stems[stem(name)] == 1
        key = printable(stem(name)) if alone else recording_key(Path(audio), Path(root))
        if key in line_of:
            raise UserError(
                f"{path}:{number}: utterance id {key!r} is already in line {line_of[key]}; list "
                "each file once, and rename one of two whose paths differ in the suffix alone"
            )
        line_of[key] = number
        utterances.append(Utterance(id=key, path=audio, samples=samples, line=number))
    return Manifest(path=path, root=root, utterances=tuple(utterances))


def read_labels(manifest: Manifest, extension: str) -> dict[str, str]:
    """Read `<subset>.<extension>` beside the filelist: utterance id -> label line.

    UserError if the file is missing, has an empty line, a symbol that the model keeps for itself
    (the blank, <pad>, </s>), or a different number of lines than the filelist.
    """
    fix = "write labels with scripts/generate_filelists.sh or utils/data/import_corpus.py"
    if extension not in ("wrd", "ltr"):
        fix = "write pieces with utils/data/train_sentencepiece.py, labels of your own by hand"
    path = _subset_file(manifest.path.parent, f"{manifest.path.stem}.{extension}", fix)
    lines = read_lines(path)
    if len(lines) != len(manifest):
        raise UserError(
            f"{path}: {len(lines)} label lines but {manifest.path} lists {len(manifest)} "
            "utterances; write both again together, one label line per utterance"
        )
    labels = {u.id: line.strip() for u, line in zip(manifest.utterances, lines)}
    for number, (key, label) in enumerate(labels.items(), start=1):
        if not label:
            raise UserError(
                f"{path}:{number}: no label for utterance {key!r}; "
                "remove it from the filelist and every label file"
            )
        refuse_reserved(label, f"{path}:{number}", key)
    return labels


def write_manifest(
    dataset_dir: str | Path, subset: str, root: str | Path, files: Sequence[tuple[str, int]]
) -> Path:
    """Write `<dataset_dir>/<subset>.tsv` from (path relative to root or absolute, samples)."""
    path = Path(dataset_dir) / f"{subset}.tsv"
    for name in (str(root), *(name for name, _ in files)):
        if "\t" in name or set(name) & set("\r\n"):
            raise UserError(f"{name!r}: a file name with a tab or line break cannot be listed")
    lines = [str(root), *(f"{name}\t{samples}" for name, samples in files)]
    # A name's bytes that are no UTF-8 are written as they are.
    write_chunks(path, (f"{line}\n".encode("utf-8", "surrogateescape") for line in lines))
    return path
