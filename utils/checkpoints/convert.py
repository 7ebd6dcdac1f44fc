"""Convert a checkpoint between this repository, fairseq and Hugging Face, or export its graph.

`python -m utils.checkpoints.convert wav2vec_small.pt base.pt --to native`

INPUT may also be of NVIDIA's recipe, or a folder; its format is detected from its content.  The
weights do not change.  A weight that matches nothing stops the conversion.
"""

from wav2vec2.cli.errors import ExitCode, run_command
from wav2vec2.cli.flags import ArgumentParser
from wav2vec2.commands.definitions import CONVERT


def main() -> ExitCode | None:
    parser = ArgumentParser("utils.checkpoints.convert", __doc__)
    CONVERT.add_arguments(parser)
    return CONVERT.run_parsed(parser.parse_args())


if __name__ == "__main__":
    run_command(main)
