"""Make the averaged weights of a run (`--ema`) a checkpoint's own.

`python -m utils.export_average --checkpoint results/.../wav2vec2_best.pt --output average.pt`

The result is used like any other: for inference, or as PRETRAINED_MODEL.
"""

from dataclasses import dataclass
from pathlib import Path

from common import checkpoint
from common.errors import UserError, run_command
from common.flags import ArgumentParser, parse_dataclasses
from wav2vec2.interop import native


@dataclass(frozen=True)
class Options:
    """Export"""

    checkpoint: str
    """Checkpoint of a run that kept an average."""
    output: str
    """File to write."""


def main() -> None:
    parser = ArgumentParser(prog="utils.export_average", description=__doc__.splitlines()[0])
    (options,) = parse_dataclasses(parser, [Options])
    content = checkpoint.load(options.checkpoint)
    if content.get("ema_model") is None:
        raise UserError(f"{options.checkpoint}: keeps no average; train with --ema (EMA=0.9999)")
    if Path(options.output).exists():
        raise UserError(f"--output {options.output}: exists already; choose another name")
    exported = native.model_of({**content, "model": content["ema_model"]})
    checkpoint.save(options.output, exported)
    print(f"{options.output}: the average after update {content['update']}")


if __name__ == "__main__":
    run_command(main)
