"""Make the averaged weights of a run (`--ema`) a checkpoint's own.

`python -m utils.checkpoints.export_average --checkpoint wav2vec2_best.pt --output average.pt`

The result is used like any other: for inference, or as PRETRAINED_MODEL.
"""

from dataclasses import dataclass
from pathlib import Path

from wav2vec2.cli.errors import UserError, run_command
from wav2vec2.cli.flags import ArgumentParser, parse_dataclasses
from wav2vec2.files.torch_file import load_checkpoint, save_checkpoint
from wav2vec2.interop import native


@dataclass(frozen=True)
class Options:
    """Export"""

    checkpoint: str
    """Checkpoint of a run that kept an average."""
    output: str
    """File to write."""


def main() -> None:
    parser = ArgumentParser(
        prog="utils.checkpoints.export_average", description=__doc__.splitlines()[0]
    )
    (options,) = parse_dataclasses(parser, [Options])
    content = load_checkpoint(options.checkpoint)
    if content.get("ema_model") is None:
        raise UserError(f"{options.checkpoint}: keeps no average; train with --ema (EMA=0.9999)")
    if Path(options.output).exists():
        raise UserError(f"--output {options.output}: exists already; choose another name")
    exported = native.without_training_state({**content, "model": content["ema_model"]})
    save_checkpoint(options.output, exported)
    print(f"{options.output}: the average after update {content['update']}")


if __name__ == "__main__":
    run_command(main)
