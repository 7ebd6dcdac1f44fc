"""Make a checkpoint a folder to hand on: weights, configuration, dictionary, checksums, model card.

`python -m utils.checkpoints.release results/finetune_base_960h/wav2vec2_best.pt base_960h`

The training's state stays behind.  The folder is taken wherever a checkpoint is.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wav2vec2.cli.errors import UserError, run_command
from wav2vec2.cli.flags import ArgumentParser, add_flags, from_flags
from wav2vec2.interop import checkpoints, native, release


@dataclass(frozen=True)
class Options:
    """Release"""

    evaluation: str = ""
    """--output_dir of an evaluation, whose error rates the model card is to state."""
    dictionary: str | None = None
    """Dictionary of a fine-tuned model that does not carry its own, such as dict.ltr.txt."""


def table(head: str, rows: Iterator[tuple[str, Any]] | list[tuple[str, Any]]) -> list[str]:
    return [f"| {head} | |", "|---|---|", *(f"| {name} | `{value}` |" for name, value in rows), ""]


def architecture_rows(architecture: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in architecture.items():
        yield name, json.dumps(value) if isinstance(value, list | dict) else value


def recipe_rows(recipe: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What the training was told, but for what the architecture says."""
    for name, value in recipe.items():
        if name not in ("architecture", "hourglass"):
            yield name, " ".join(map(str, value)) if isinstance(value, list | tuple) else value


def metrics(content: dict[str, Any], folder: Path | None) -> list[str]:
    """What is known of how good the model is."""
    lines = []
    if content.get("best") is not None:
        measure = "word error rate, %" if content["kind"] == "ctc" else "loss, bits"
        lines += [
            f"Lowest {measure}, in the validations up to this checkpoint: {content['best']:.4g}.",
            "",
        ]
    if folder is not None:
        lines += ["| subset | decoder | WER % | UER % | utterances |", "|---|---|---|---|---|"]
        for path in sorted(folder.glob("summary_*.json")):
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
                decoder = found["decoding"]["decoder"]
                rates = f"{found['wer']:.2f} | {found['uer']:.2f} | {found['utterances']}"
                lines.append(f"| {found['subset']} | {decoder} | {rates} |")
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{path}: not the summary of an evaluation") from None
        lines.append("")
    return lines or ["Not known.", ""]


def model_card(content: dict[str, Any], name: str, evaluation: Path | None) -> str:
    parameters = sum(tensor.numel() for tensor in content["model"].values())
    fine_tuned = content["kind"] == "ctc"
    lines = [f"# {name}", ""]
    lines.append(
        f"wav2vec 2.0, {'fine-tuned with CTC' if fine_tuned else 'pre-trained'}: {parameters:,} "
        "numbers in `model.safetensors`, fp32. Audio: 16 kHz, mono."
    )
    lines += ["", "## Use", "", "```bash", f"(cd {name} && sha256sum -c SHA256SUMS)"]
    if fine_tuned:
        lines.append(f"python inference.py transcribe --checkpoint {name} recording.wav")
    else:
        lines.append(f"PRETRAINED_MODEL={name} bash scripts/finetune_base_100h.sh")
        lines.append(f"python inference.py features --checkpoint {name} recording.wav")
    lines += ["```", "", "## Licence", "", "To be filled in: of the weights, and of the data.", ""]
    lines += ["## Results", "", *metrics(content, evaluation)]
    lines += ["## Architecture", "", *table("", architecture_rows(content["architecture"]))]
    if fine_tuned:
        units = len(content["dictionary"].split())
        pieces = ", pieces of `sentencepiece.model`" if "sentencepiece" in content else ""
        lines += [f"{units} units{pieces}, in `dictionary.txt`.", ""]
    if "recipe" in content:
        lines += ["## Recipe", "", f"Weights after update {content['update']}.", ""]
        lines += table("", recipe_rows(content["recipe"]))
    return "\n".join(lines)


def make_release(source: str, folder: Path, options: Options) -> None:
    """Read `source`, whatever it is, and write `folder`, which must not exist."""
    evaluation = Path(options.evaluation) if options.evaluation else None
    if evaluation is not None and not list(evaluation.glob("summary_*.json")):
        raise UserError(f"--evaluation {evaluation}: holds no summary_<subset>.json")
    content = checkpoints.read_checkpoint(source, options.dictionary)
    native.check(content, source)
    card = model_card(content, folder.resolve().name, evaluation)
    released = native.without_training_state(content)
    release.write_release(released, folder, card)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {content['kind']}, {len(released['model'])} tensors, {size / 1e6:.1f} MB")


def main() -> None:
    parser = ArgumentParser(prog="utils.checkpoints.release", description=__doc__.splitlines()[0])
    parser.add_argument("input", metavar="INPUT", help="checkpoint of any kind")
    parser.add_argument("output", metavar="OUTPUT", help="folder to write")
    add_flags(parser, Options)
    namespace = parser.parse_args()
    make_release(namespace.input, Path(namespace.output), from_flags(Options, namespace))


if __name__ == "__main__":
    run_command(main)
