"""torch.export's archive of a recogniser (.pt2) read as a checkpoint.

`torch.export.load` is not for files of strangers: it unpickles without restriction and evaluates
expressions.  Nothing of that is needed here: an archive of `write_exported` says of what model it
is, and its weights lie in it as plain numbers under the names of that model's parameters.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wav2vec2.cli.errors import UserError
from wav2vec2.interop.exported import DESCRIPTION, described

_MARK = "archive_format"
_PREFIX = "model."
"""Before a parameter's name: the graph holds the model as `model`."""

_FLOAT = 7
"""Of fp32, in torch's schema of exported programs."""


def is_archive(path: Path) -> bool:
    """Whether `path` is a zip file that says it is a torch.export archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.partition("/")[2] == _MARK for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def read_archive(path: Path) -> dict[str, Any]:
    """An archive's content as a native checkpoint's; UserError if it is damaged, of another
    program, or has its weights in a form that only an unrestricted pickle reads."""
    try:
        with zipfile.ZipFile(path) as archive:
            root = archive.namelist()[0].partition("/")[0]
            names = set(archive.namelist())
            description = f"{root}/extra/{DESCRIPTION}"
            text = archive.read(description).decode() if description in names else "{}"
            return {**described(text, str(path)), "model": _weights(archive, root)}
    except UserError:
        raise
    except (OSError, zipfile.BadZipFile, KeyError, IndexError, TypeError, ValueError, RuntimeError):
        raise UserError(
            f"{path}: a torch.export archive that cannot be read (damaged, or of another version "
            "of torch); export it again with `python -m utils.checkpoints.convert`"
        ) from None


def _weights(archive: zipfile.ZipFile, root: str) -> dict[str, Tensor]:
    """The model's parameters, fp32, by name; the zip file's checksums are verified on the way."""
    config = json.loads(archive.read(f"{root}/data/weights/model_weights_config.json"))["config"]
    found = {}
    for name, entry in config.items():
        meta = entry["tensor_meta"]
        if entry["use_pickle"] or meta["dtype"] != _FLOAT or not name.startswith(_PREFIX):
            raise ValueError(name)
        data = archive.read(f"{root}/data/weights/{entry['path_name']}")
        sizes, strides = ([n["as_int"] for n in meta[key]] for key in ("sizes", "strides"))
        # as_strided refuses what would lie outside of the numbers there are.
        whole = torch.frombuffer(bytearray(data), dtype=torch.float32)
        part = whole.as_strided(sizes, strides, meta["storage_offset"]["as_int"])
        found[name.removeprefix(_PREFIX)] = part.contiguous()
    return found
