# PYTHON_ARGCOMPLETE_OK
"""Use a checkpoint: `transcribe`, `evaluate`, `align`, `features`, `benchmark` or `convert`.

The same as the installed command `wav2vec2`; under torchrun, the processes share an evaluation.
Only the checkpoint is needed: it carries its architecture and, if fine-tuned, its dictionary.
"""

from wav2vec2.cli.errors import ExitCode, run_command
from wav2vec2.commands import main as wav2vec2


def main() -> ExitCode | None:
    wav2vec2.share_cores()
    from common.runtime import distributed

    return wav2vec2.main("inference.py", distributed)


if __name__ == "__main__":
    run_command(main)
