"""Convert a checkpoint between this repository, fairseq and Hugging Face, or export its graph.

`python -m utils.checkpoints.convert wav2vec_small.pt base.pt --to native`

INPUT may also be of NVIDIA's recipe, or a folder; its format is detected from its content.  The
weights do not change.  A weight that matches nothing stops the conversion.
"""

from pathlib import Path

from wav2vec2.cli.errors import run_command
from wav2vec2.cli.flags import ArgumentParser, add_flags, from_flags
from wav2vec2.interop.checkpoints import ConvertOptions, convert_checkpoint


def main() -> None:
    parser = ArgumentParser("utils.checkpoints.convert", __doc__)
    parser.add_argument("input", metavar="INPUT", help="checkpoint of any kind")
    parser.add_argument("output", metavar="OUTPUT", help="file to write; a folder for huggingface")
    add_flags(parser, ConvertOptions)
    flags = parser.parse_args()
    print(convert_checkpoint(flags.input, Path(flags.output), from_flags(ConvertOptions, flags)))


if __name__ == "__main__":
    run_command(main)
