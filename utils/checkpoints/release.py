"""Write a checkpoint as a release folder: weights, configuration, checksums, model card.

`python -m utils.checkpoints.release results/finetune_base_960h/wav2vec2_best.pt base_960h`

Optimizer and progress are not released.  Every command accepts the folder in place of a checkpoint.
"""

from pathlib import Path

from wav2vec2.cli.errors import run_command
from wav2vec2.cli.flags import ArgumentParser, add_flags, from_flags
from wav2vec2.interop.checkpoints import ReleaseOptions, release_checkpoint


def main() -> None:
    parser = ArgumentParser("utils.checkpoints.release", __doc__)
    parser.add_argument("input", metavar="INPUT", help="checkpoint of any kind")
    parser.add_argument("output", metavar="OUTPUT", help="folder to write")
    add_flags(parser, ReleaseOptions)
    flags = parser.parse_args()
    print(release_checkpoint(flags.input, Path(flags.output), from_flags(ReleaseOptions, flags)))


if __name__ == "__main__":
    run_command(main)
