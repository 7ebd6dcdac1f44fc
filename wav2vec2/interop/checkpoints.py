"""Checkpoints of any kind: read, convert, release, export averaged weights.

The format is detected from the content, not from the name.  Every reader returns a native content
(native.py), and every writer takes one.
"""

import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from wav2vec2.cli.errors import UserError
from wav2vec2.cli.flags import require_at_least
from wav2vec2.files import gate, hub
from wav2vec2.files.torch_file import (
    check_format,
    is_checkpoint,
    load_checkpoint,
    read_torch_file,
    save_checkpoint,
    to_fp32,
)
from wav2vec2.interop import fairseq, huggingface, native, nvidia, onnx, release, torch_export
from wav2vec2.interop.clients import sherpa_onnx, transformers_js
from wav2vec2.interop.state_dict import pick_language
from wav2vec2.interop.unpickling_stubs import STUBS, replace_stubs

_log = logging.getLogger(__name__)

TRAINING_STATE = ("optimizer", "last_optimizer_state", "ema_model")
"""Entries of a checkpoint, ours, fairseq's or NVIDIA's, that only a resume needs: they may be three
times as large as the weights."""


def read_checkpoint(
    path: str | Path,
    dictionary: str | Path | None = None,
    language: str | None = None,
    *,
    merge: bool = True,
) -> dict[str, Any]:
    """The native content of the checkpoint `path`.

    It is a file of this repository, of NVIDIA's recipe or of fairseq, a .pt2 archive written here,
    the folder of a released or a Hugging Face model, or the id of a model on the Hugging Face Hub.
    An existing path has precedence over an id.  `dictionary`: that of a fine-tuned model whose file
    has none.  `language`: which adapters of a model that has some for several.  `merge`: complete a
    checkpoint that holds a difference (`--adapt`) by the weights of its base.  The training state
    is left out.  UserError if it is none of these or not fully understood.
    """
    place, language = Path(path), language or None
    try:
        if hub.is_hub_id(path):
            adapter = f"{huggingface.ADAPTER}{language}" if language else ""
            place = hub.fetch(path, adapter, partial(_check_description, language=language))
        if not os.path.exists(place):
            if address := re.fullmatch(r"https?:/+[\w.]+/([\w.-]+/[\w.-]+).*", str(path)):
                raise UserError(
                    f"{path}: an address on the web; give a file, or a model of the Hugging Face "
                    f"Hub by its id, such as {address[1]}"
                )
            raise UserError(f"{path}: no such checkpoint; check the path, or train it first")
        content = _read(place, None if dictionary is None else Path(dictionary), language)
    except UserError as error:
        if not hub.is_hub_id(path):
            raise
        folder = hub.cached_path(path)  # a user knows the model by its id
        raise UserError(str(error).replace(str(folder), str(path))) from None
    native.check_entries(content, str(path))
    return _merged(content, place) if merge else content


def read_at_factor(
    path: str | Path, factor: int | None = None, language: str | None = None
) -> dict[str, Any]:
    """`read_checkpoint` for inference: with one pooling factor, `factor` or the default of
    native.at_factor.  Logs which one of several, or that it was not trained with `factor`."""
    content = read_checkpoint(path, language=language)
    content, note = native.at_factor(content, factor, str(path))
    if note:
        _log.warning("note: %s", note)
    return content


def _merged(content: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """A content with all its weights."""
    if native.ADAPTED not in content:
        return content
    return native.merge(content, read_base(content, path), str(path))


def read_base(content: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """The content of the checkpoint that `content`, read from `path`, holds a difference from.

    If it is not where it was, a copy of the same name beside `path` is taken.  UserError if there
    is none, or if its weights are others.
    """
    native.check_entries(content, str(path))
    adapted = content[native.ADAPTED]
    base, beside = adapted["base"], Path(path).parent / Path(adapted["base"]).name
    if not os.path.exists(base) and beside.exists() and not beside.samefile(path):
        base = str(beside)
    try:
        found = read_checkpoint(base, language=adapted.get("language"))
    except UserError as error:
        raise UserError(
            f"{path}: holds a difference from {base}, which cannot be read; put it back, or a "
            f"copy of it beside {Path(path).name} ({error})"
        ) from None
    if native.trunk_digest(found) != adapted["digest"]:
        raise UserError(
            f"{path}: holds a difference from {base}, whose weights have changed since; put back "
            f"the file it was trained from, or a copy of it beside {Path(path).name}"
        )
    return found


def reference(path: str, language: str | None, content: dict[str, Any]) -> dict[str, Any]:
    """What `read_base` needs to find the checkpoint `path` again, whose content is `content`."""
    place = hub.pinned(path) if hub.is_hub_id(path) else os.path.abspath(path)
    return {"base": place, "language": language, "digest": native.trunk_digest(content)}


def _check_description(folder: Path, language: str | None) -> None:
    """UserError if a folder, without its weights yet, describes a model that cannot be read."""
    if not release.is_release(folder):
        huggingface.check_description(folder, language)


def _read(path: Path, dictionary: Path | None, language: str | None) -> dict[str, Any]:
    """The content of `path`, whatever its format; the readers check structure and weights."""
    reader: Callable[[Path], dict[str, Any]]
    if release.is_release(path):
        reader = release.read_release
    elif huggingface.is_huggingface(path):
        return huggingface.read_huggingface(path, language)
    elif path.is_dir():
        if (path / "model.onnx").is_file():
            raise UserError(f"{path}: a folder for another program; name its file model.onnx")
        raise UserError(
            f"{path}: a folder without config.json; give a checkpoint file, or the folder of a "
            "released or a Hugging Face model"
        )
    else:
        gate.regular_file(path)
        if onnx.is_onnx(path):
            raise UserError(
                f"{path}: an ONNX file has no weights to read; give the checkpoint it was made from"
            )
        if not torch_export.is_exported(path):
            return _read_torch_file(path, dictionary, language)
        reader = torch_export.read_exported
    pick_language((), language, path)  # they have no adapters to choose from
    return reader(path)


def _read_torch_file(path: Path, dictionary: Path | None, language: str | None) -> dict[str, Any]:
    """The content of a file of torch.save, whoever wrote it."""
    content = read_torch_file(path, STUBS, without=TRAINING_STATE)
    if is_checkpoint(content):
        check_format(content, path)
        pick_language((), language, path)
        return content
    try:
        content = replace_stubs(content)
    except RecursionError:  # the content contains itself, which no configuration does
        raise UserError(f"{path}: damaged, or not a checkpoint; use another copy") from None
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        to_fp32(content["model"])
    if nvidia.is_nvidia(content):
        pick_language((), language, path)
        return nvidia.read_nvidia(content, path, dictionary)
    if fairseq.is_fairseq(content):
        return fairseq.read_fairseq(content, path, dictionary, language)
    raise UserError(
        f"{path}: not a checkpoint of this repository, of fairseq or of NVIDIA's recipe (a Hugging "
        "Face model is named by its folder)"
    )


def _read_complete(
    source: str, options: "ConvertOptions | ReleaseOptions", *, merge: bool = True
) -> dict[str, Any]:
    content = read_checkpoint(source, options.dictionary, options.language, merge=False)
    whole = _merged(content, source)
    native.check_complete(whole, source)
    return whole if merge else content


@dataclass(frozen=True)
class ConvertOptions:
    """Conversion"""

    to: Literal[
        "native",
        "fairseq",
        "huggingface",
        "exported",
        "onnx",
        "onnx_int8",
        "sherpa_onnx",
        "transformers_js",
    ]
    """Output format.  native: this repository's; exported: torch.export's archive (.pt2);
    sherpa_onnx, transformers_js: folders for these programs.  Graphs need a fine-tuned
    checkpoint."""
    dictionary: str | None = None
    """Dictionary of a fine-tuned model that does not carry its own, such as dict.ltr.txt."""
    language: str | None = None
    """Of a recogniser with adapters for several languages, as MMS has: the code of the language to
    read, such as deu."""
    factor: int | None = None
    """Of a model with an hourglass: pooling factor of the graph.  Default: that of the checkpoint;
    of several, the largest that costs at most 1 point of WER on validation."""
    merge: bool = False
    """Of a checkpoint of --adapt: write whole weights, which need no base any more.  Other formats
    than native always have them."""

    def __post_init__(self) -> None:
        if self.factor is None:
            return
        require_at_least(self, factor=1)
        if self.to not in _GRAPHS:
            raise UserError(
                f"--factor {self.factor}: --to {self.to} keeps the checkpoint's; remove the flag"
            )


_WRITERS: dict[str, Callable[[dict[str, Any], Path], None]] = {
    "native": lambda content, path: save_checkpoint(path, content),
    "fairseq": fairseq.write_fairseq,
    "huggingface": huggingface.write_huggingface,
    "exported": torch_export.write_exported,
    "onnx": onnx.write_onnx,
    "onnx_int8": partial(onnx.write_onnx, int8=True),
    "sherpa_onnx": sherpa_onnx.write_sherpa_onnx,
    "transformers_js": transformers_js.write_transformers_js,
}
_GRAPHS = ("exported", "onnx", "onnx_int8", "sherpa_onnx", "transformers_js")


def convert_checkpoint(source: str, output: Path, options: ConvertOptions) -> str:
    """Read the checkpoint `source` and write `output` in another format; returns a summary line.

    UserError if `output` exists, or the format cannot hold the model.
    """
    if output.exists():
        raise UserError(f"OUTPUT {output}: exists already; choose another name")
    if not output.parent.is_dir():
        raise UserError(f"OUTPUT {output}: {output.parent} is no folder; create it first")
    keeps_difference = options.to == "native" and not options.merge
    content = _read_complete(source, options, merge=not keeps_difference)
    if options.merge and "merged" not in content:
        raise UserError(f"--merge: {source} has whole weights already; remove the flag")
    if options.to in _GRAPHS and content["kind"] != "ctc":
        raise UserError(
            f"{source}: has no output layer, which --to {options.to} needs; give a "
            "fine-tuned checkpoint"
        )
    if options.to in _GRAPHS:
        content, note = native.at_factor(content, options.factor, source)
        if note:
            _log.warning("note: %s", note)
    _WRITERS[options.to](native.without_training_state(content), output)
    weights = content["model"].values()
    parameters = sum(tensor.numel() for tensor in weights)
    return f"{output}: {content['kind']}, {len(weights)} tensors, {parameters:,} parameters"


@dataclass(frozen=True)
class ReleaseOptions:
    """Release"""

    evaluation: str = ""
    """Folder of an evaluation (its --output_dir); the model card states its error rates."""
    dictionary: str | None = None
    """Dictionary of a fine-tuned model that does not carry its own, such as dict.ltr.txt."""
    language: str | None = None
    """Of a recogniser with adapters for several languages, as MMS has: the code of the language to
    read, such as deu."""


def release_checkpoint(source: str, folder: Path, options: ReleaseOptions) -> str:
    """Read the checkpoint `source` and write it as a release folder; returns a summary line.

    UserError if `folder` is not empty, or the evaluation has no summary.
    """
    content = _read_complete(source, options)
    evaluation = Path(options.evaluation) if options.evaluation else None
    release.write_release(content, folder, evaluation)
    size = sum(path.stat().st_size for path in folder.iterdir())
    return f"{folder}: {content['kind']}, {len(content['model'])} tensors, {size / 1e6:.1f} MB"


def export_average(source: str, output: str) -> str:
    """Write the averaged weights (`--ema`) of a run's checkpoint as a checkpoint of their own.

    Returns a summary line.  UserError if `source` has no average or `output` exists.
    """
    content = load_checkpoint(source)
    if content.get("ema_model") is None:
        raise UserError(f"{source}: has no averaged weights; train with --ema 0.9999 (EMA=0.9999)")
    if Path(output).exists():
        raise UserError(f"--output {output}: exists already; choose another name")
    averaged = {**content, "model": content["ema_model"]}
    native.check_entries(averaged, source)
    native.check_complete(_merged(averaged, source), source)
    save_checkpoint(output, native.without_training_state(averaged))
    return f"{output}: the average after update {content.get('update')}"
