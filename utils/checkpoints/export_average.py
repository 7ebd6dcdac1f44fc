"""Write the averaged weights (`--ema`) of a run's checkpoint as a checkpoint of their own.

`python -m utils.checkpoints.export_average --checkpoint wav2vec2_best.pt --output average.pt`

The result is a checkpoint like any other, for inference or as PRETRAINED_MODEL.
"""

from dataclasses import dataclass

from wav2vec2.cli.errors import run_command
from wav2vec2.cli.flags import parse_options
from wav2vec2.interop.checkpoints import export_average


@dataclass(frozen=True)
class Options:
    """Export"""

    checkpoint: str
    """Checkpoint of a run with averaged weights."""
    output: str
    """File to write."""


def main() -> None:
    options = parse_options(Options, "utils.checkpoints.export_average", __doc__)
    print(export_average(options.checkpoint, options.output))


if __name__ == "__main__":
    run_command(main)
