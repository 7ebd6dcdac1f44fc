"""Convert a checkpoint between this repository, fairseq and Hugging Face, or export its graph.

`python -m utils.checkpoints.convert wav2vec_small.pt base.pt --to native`

INPUT may also be of NVIDIA's recipe, or the folder of a Hugging Face model: its content says which.
The weights are not changed; a key that matches nothing stops the conversion.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wav2vec2.cli.errors import UserError, run_command
from wav2vec2.cli.flags import ArgumentParser, add_flags, from_flags
from wav2vec2.files.output import write_lines
from wav2vec2.files.torch_file import save_checkpoint, write_torch_file
from wav2vec2.interop import checkpoints, fairseq, huggingface, native
from wav2vec2.interop.exported import write_exported
from wav2vec2.interop.onnx import write_onnx


@dataclass(frozen=True)
class Options:
    """Conversion"""

    to: Literal["native", "fairseq", "huggingface", "exported", "onnx", "onnx_int8"]
    """Whose layout to write; exported: torch.export's archive of a recogniser (.pt2)."""
    dictionary: str | None = None
    """Dictionary of a fine-tuned model that does not carry its own, such as dict.ltr.txt."""


def write_fairseq(content: dict[str, Any], output: Path) -> None:
    """The checkpoint, and a recogniser's dictionary beside it, where fairseq looks for it."""
    converted = fairseq.write_fairseq(content, output.resolve().parent)
    if content["kind"] == "ctc":
        dictionary = output.with_name(f"dict.{content['labels']}.txt")
        lines = fairseq.dictionary_text(content).splitlines()
        if dictionary.exists() and _symbols(dictionary) != content["dictionary"].split():
            raise UserError(
                f"{dictionary}: exists already, with other symbols than the checkpoint's; choose "
                "another folder for OUTPUT"
            )
        write_torch_file(output, converted)
        if not dictionary.exists():
            write_lines(dictionary, lines)
    else:
        write_torch_file(output, converted)


def _symbols(dictionary: Path) -> list[str]:
    lines = dictionary.read_text(encoding="utf-8").splitlines()
    return [line.split()[0] for line in lines if line.strip()]


def convert(source: str, output: Path, options: Options) -> None:
    """Read `source`, whatever it is, and write `output`, which must not exist."""
    if output.exists():
        raise UserError(f"OUTPUT {output}: exists already; choose another name")
    if not output.parent.is_dir():
        raise UserError(f"OUTPUT {output}: {output.parent} is no folder; create it first")
    content = native.without_training_state(checkpoints.read_checkpoint(source, options.dictionary))
    native.check(content, source)
    if options.to in ("exported", "onnx", "onnx_int8") and content["kind"] != "ctc":
        raise UserError(
            f"{source}: pre-trained only, has no output layer; --to {options.to} writes "
            "recognisers: fine-tune it first"
        )
    if options.to == "native":
        save_checkpoint(output, content)
    elif options.to == "fairseq":
        write_fairseq(content, output)
    elif options.to == "huggingface":
        huggingface.write_huggingface(content, output)
    elif options.to == "exported":
        write_exported(content, output)
    else:
        write_onnx(content, output, int8=options.to == "onnx_int8")
    parameters = sum(tensor.numel() for tensor in content["model"].values())
    print(f"{output}: {content['kind']}, {len(content['model'])} tensors, {parameters:,} numbers")


def main() -> None:
    parser = ArgumentParser(prog="utils.checkpoints.convert", description=__doc__.splitlines()[0])
    parser.add_argument("input", metavar="INPUT", help="checkpoint, or a Hugging Face folder")
    parser.add_argument("output", metavar="OUTPUT", help="file to write; a folder for huggingface")
    add_flags(parser, Options)
    namespace = parser.parse_args()
    convert(namespace.input, Path(namespace.output), from_flags(Options, namespace))


if __name__ == "__main__":
    run_command(main)
