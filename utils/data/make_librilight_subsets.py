"""Write the filelists train-1h and train-10h, Libri-light's subsets of LibriSpeech.

    python -m utils.data.make_librilight_subsets --librilight_dir /datasets/librispeech_finetuning

Libri-light's folder only says which utterances belong: train-1h has those below `1h/`, train-10h
those below `1h/` and `9h/`.  Audio and labels are LibriSpeech's own: utterances are found by id in
train-full-960 and keep its order.  The dictionary does not change.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from utils.data.make_filelists import first_few, unique_by_stem, write_part
from utils.data.next_step import print_next_step
from wav2vec2.cli.errors import UserError, run_command
from wav2vec2.cli.flags import parse_options
from wav2vec2.files.filelists import Manifest, read_labels, read_manifest
from wav2vec2.files.folders import files_below

PARTS = {"train-1h": ("1h",), "train-10h": ("1h", "9h")}
"""Subset -> the folders of Libri-light that form it."""


@dataclass(frozen=True)
class LibrilightOptions:
    """Libri-light's subsets"""

    librilight_dir: str
    """Folder librispeech_finetuning of Libri-light, which holds 1h and 9h."""
    dataset_dir: str = "/datasets/LibriSpeech"
    """Folder of the filelists; results go there too."""
    labels: tuple[str, ...] = ("wrd", "ltr")
    """Label files to write beside the filelists, copied line by line."""


def read_librilight(folder: Path) -> dict[str, dict[str, Path]]:
    """Part of Libri-light, 1h or 9h -> utterance id -> audio file; UserError if one is missing."""
    parts = {}
    for part in ("1h", "9h"):
        files = files_below(folder / part, lambda name: name.endswith(".flac"))
        if not files:
            raise UserError(
                f"{folder / part}: holds no .flac file; --librilight_dir names the unpacked "
                "librispeech_finetuning, which holds 1h and 9h"
            )
        parts[part] = unique_by_stem(files)
    unique_by_stem(path for part in parts.values() for path in part.values())
    return parts


def check_all_known(parts: dict[str, dict[str, Path]], manifest: Manifest) -> None:
    """UserError if `manifest` lacks utterances, after listing them on standard error."""
    known = {utterance.id for utterance in manifest.utterances}
    files = [path for part in parts.values() for path in part.values()]
    unmatched = [path for path in files if path.stem not in known]
    if not unmatched:
        return
    for path in unmatched:
        print(f"not in {manifest.path}: {path}", file=sys.stderr)
    raise UserError(
        f"{manifest.path}: lacks {len(unmatched)} of {len(files)} Libri-light utterances "
        f"({first_few([path.stem for path in unmatched])}); write the filelist of all three "
        "training subsets with scripts/generate_filelists.sh"
    )


def main() -> None:
    options = parse_options(LibrilightOptions, "utils.data.make_librilight_subsets", __doc__)
    parts = read_librilight(Path(options.librilight_dir))
    manifest = read_manifest(options.dataset_dir, "train-full-960")
    labels = {extension: read_labels(manifest, extension) for extension in options.labels}
    check_all_known(parts, manifest)

    for subset, names in PARTS.items():
        ids = {key for name in names for key in parts[name]}
        chosen = [utterance for utterance in manifest.utterances if utterance.id in ids]
        write_part(options.dataset_dir, subset, manifest, chosen, labels)
    print_next_step("bash scripts/finetune_base_10h.sh", DATASET_DIR=options.dataset_dir)


if __name__ == "__main__":
    run_command(main)
