"""Release folders: all that inference needs of a checkpoint, with checksums and a model card.

A folder holds `model.safetensors`, `config.json`, SHA256SUMS of all but the model card README.md,
of a recogniser also `dictionary.txt` and, for sub-words, `sentencepiece.model`.  It can be read
without this repository.
"""

import json
from pathlib import Path
from typing import Any

import torch

from wav2vec2.cli.errors import UserError
from wav2vec2.files import gate
from wav2vec2.files.checksum import sha256
from wav2vec2.files.model_folder import (
    CHECKSUMS,
    MODEL_CARD,
    REFETCH,
    WEIGHTS,
    checksums_of,
    read_object,
    read_weights,
    write_model_folder,
)
from wav2vec2.files.text import read_text, shown
from wav2vec2.interop import native

FORMAT = 1
"""Version of the folder's layout; raised when older code could no longer read it."""

_MARK = "wav2vec2_release"
_CONFIG, _DICTIONARY, _SUBWORDS = "config.json", "dictionary.txt", "sentencepiece.model"
_DESCRIBED = ("kind", "architecture", "labels", "spelling", "update", native.FACTOR_WER)
"""Entries of a checkpoint's content that config.json holds."""


def is_release(path: Path) -> bool:
    """Whether `path` is a folder of `write_release`, by its config.json."""
    try:
        if not path.is_dir():
            return False
        return _MARK in read_object(path / _CONFIG)
    except UserError:
        return False


def read_release(folder: Path) -> dict[str, Any]:
    """The native content of a folder, verified by its checksums.

    UserError names the file that is missing or damaged.
    """
    _check_file(folder, CHECKSUMS)
    sums = checksums_of(folder)
    # Names outside the layout are refused, not opened.
    if not {WEIGHTS, _CONFIG} <= sums.keys() <= {WEIGHTS, _CONFIG, _DICTIONARY, _SUBWORDS}:
        raise UserError(
            f"{folder / CHECKSUMS}: does not list the files of a released model; fetch it again"
        )
    for name, expected in sums.items():
        _check_file(folder, name)
        if sha256(folder / name) != expected:
            raise UserError(f"{folder / name}: damaged (its checksum fails); fetch it again")
    config = read_object(folder / _CONFIG)
    if config[_MARK] != FORMAT:
        raise UserError(
            f"{folder}: of release format {shown(config[_MARK])}, this version reads {FORMAT}; "
            "update the repository"
        )
    content = {name: config[name] for name in _DESCRIBED if name in config}
    if _DICTIONARY in sums:
        content["dictionary"] = read_text(folder / _DICTIONARY, fix=REFETCH)
    if _SUBWORDS in sums:
        model = bytearray((folder / _SUBWORDS).read_bytes())
        content["sentencepiece"] = torch.frombuffer(model, dtype=torch.uint8)
    return {**content, "model": read_weights(folder)}


def _check_file(folder: Path, name: str) -> None:
    """UserError if a file is missing, not a regular one, or a link that leads out of `folder`."""
    gate.check_inside(folder, folder / name)
    gate.regular_file(folder / name)


def write_release(content: dict[str, Any], folder: Path, evaluation: Path | None = None) -> None:
    """Write a native content as a new folder, whole or not at all.

    `evaluation`: `--output_dir` of an evaluation, whose error rates the model card states.
    UserError if it holds no summary, or `folder` is not empty or cannot be written.
    """
    described = {name: content[name] for name in _DESCRIBED if name in content}
    files: dict[str, Any] = {_CONFIG: {_MARK: FORMAT, **described}}
    if "dictionary" in content:
        files[_DICTIONARY] = content["dictionary"]
    if "sentencepiece" in content:
        files[_SUBWORDS] = content["sentencepiece"].numpy().tobytes()
    files[MODEL_CARD] = model_card(content, folder.resolve().name, evaluation)
    write_model_folder(folder, content["model"], files, checksums=True)


_CARD = """\
# {name}

wav2vec 2.0, {training}: {parameters:,} parameters in `model.safetensors`, fp32.
Audio: 16 kHz, mono.

## Use

```bash
(cd {name} && sha256sum -c SHA256SUMS)
{commands}
```

## Licence

To be filled in: of the weights, and of the data.

## Results

{results}

## Architecture

{architecture}
"""


def model_card(content: dict[str, Any], name: str, evaluation: Path | None) -> str:
    """README.md of the release `name`: use, results, architecture and recipe."""
    fine_tuned = content["kind"] == "ctc"
    if fine_tuned:
        commands = f"python inference.py transcribe --checkpoint {name} recording.wav"
    else:
        commands = (
            f"PRETRAINED_MODEL={name} bash scripts/finetune_base_100h.sh\n"
            f"python inference.py features --checkpoint {name} recording.wav"
        )
    card = _CARD.format(
        name=name,
        training="fine-tuned with CTC" if fine_tuned else "pre-trained",
        parameters=sum(tensor.numel() for tensor in content["model"].values()),
        commands=commands,
        results="\n".join(_results(content, evaluation)),
        architecture=_table(content["architecture"]),
    )
    if fine_tuned:
        units = len(content["dictionary"].split())
        pieces = f", pieces of `{_SUBWORDS}`" if "sentencepiece" in content else ""
        card += f"\n{units} units{pieces}, in `{_DICTIONARY}`.\n"
    if content.get(native.FACTOR_WER):
        described = native.describe_factors(content[native.FACTOR_WER])
        card += f"\nThe {described}.  `--factor` chooses another.\n"
    if "recipe" in content:
        shown = ("architecture", "hourglass")
        recipe = {name: value for name, value in content["recipe"].items() if name not in shown}
        card += f"\n## Recipe\n\nWeights after update {content['update']}.\n\n{_table(recipe)}\n"
    return card


def _table(rows: dict[str, Any]) -> str:
    """A Markdown table of names and values."""
    cells = [f"| {name} | `{_cell(value)}` |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *cells])


def _cell(value: Any) -> str:
    flat = isinstance(value, list | tuple) and not any(isinstance(v, list | tuple) for v in value)
    if flat:
        return " ".join(map(str, value))
    return json.dumps(value) if isinstance(value, list | tuple | dict) else str(value)


def _results(content: dict[str, Any], evaluation: Path | None) -> list[str]:
    """What validations during training and an evaluation say of the model."""
    lines = []
    if content.get("best") is not None:
        measure = "word error rate, %" if content["kind"] == "ctc" else "loss, bits"
        best = f"{content['best']:.4g}"
        lines += [f"Best {measure}, in the validations up to this checkpoint: {best}."]
    if evaluation is not None:
        summaries = sorted(evaluation.glob("summary_*.json"))
        if not summaries:
            raise UserError(f"--evaluation {evaluation}: holds no summary_<subset>.json")
        rows, units = [], "UER"
        for path in summaries:
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
                decoder = found["decoding"]["decoder"]
                rates = f"{found['wer']:.2f} | {found['uer']:.2f} | {found['utterances']}"
                rows.append(f"| {found['subset']} | {decoder} | {rates} |")
                units = found.get("unit_rate", units)
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{path}: not the summary of an evaluation") from None
        heading = f"| subset | decoder | WER % | {units} % | utterances |"
        lines += ["", heading, "|---|---|---|---|---|", *rows]
    return lines or ["Not known."]
