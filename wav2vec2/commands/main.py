"""The console command `wav2vec2`: transcribe, evaluate, align, features, benchmark or convert.

Only what the chosen command needs is imported.
"""

import os
import sys
from typing import TYPE_CHECKING

from wav2vec2.cli.errors import ExitCode, run_command
from wav2vec2.cli.flags import ArgumentParser, check_command_first
from wav2vec2.cli.requirements import explain_missing_packages, require_packages

if TYPE_CHECKING:
    from wav2vec2.inference.processes import Processes

HELP = {
    "transcribe": "transcripts of recordings: files, folders, - for standard input",
    "evaluate": "word error rates of subsets of a data set",
    "align": "times of each word and character of a known transcript",
    "features": "hidden states or codes of recordings",
    "benchmark": "latency and throughput by batch size",
    "convert": "another format: native, fairseq, Hugging Face, ONNX, sherpa-onnx, transformers.js",
}

EXAMPLES = {
    "transcribe": (
        "--checkpoint base_960h recording.mp3",
        "--checkpoint model.pt --format srt --output_dir subtitles recordings/",
        "--checkpoint model.pt --decoder beam --lm 4-gram.arpa --lexicon words.txt a.wav",
    ),
    "evaluate": (
        "--checkpoint model.pt --dataset_dir datasets/mine --subset test",
        "--checkpoint model.pt --dataset_dir datasets/mine --subset test --cpu",
    ),
    "align": (
        "--checkpoint model.pt recording.wav --text 'THE SPOKEN WORDS'",
        "--checkpoint model.pt --formats srt ctm --text_file transcript.txt hour.mp3",
        "--checkpoint model.pt --dataset_dir datasets/mine --subset test",
    ),
    "features": (
        "--checkpoint model.pt --layer 6 recordings/",
        "--checkpoint pretrained.pt --output codes --format store --dataset_dir datasets/mine "
        "--subset train",
    ),
    "benchmark": ("--checkpoint model.pt --dataset_dir datasets/mine --subset test",),
    "convert": (
        "wav2vec_small.pt base.pt --to native",
        "model.pt model.onnx --to onnx",
    ),
}
"""Arguments of each command, as its help shows them."""


def main(prog: str = "wav2vec2", processes: "Processes | None" = None) -> ExitCode | None:
    """Run the command that the command line names; the `processes` share an evaluation."""
    parser = ArgumentParser(prog, "Use a wav2vec 2.0 checkpoint.", version=True)
    added = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = next((text for text in sys.argv[1:] if not text.startswith("-")), "")
    completing = "_ARGCOMPLETE" in os.environ
    commands = {}
    if completing or chosen in HELP:
        from wav2vec2.commands.definitions import define_commands

        require_packages()
        commands = define_commands(processes)
    shown = f"python {prog}" if prog.endswith(".py") else prog
    if not completing:
        example = f"{shown} evaluate {EXAMPLES['evaluate'][0]}"
        check_command_first(prog, sys.argv[1:], list(HELP), example)
    for name, text in HELP.items():
        examples = [f"{shown} {name} {arguments}" for arguments in EXAMPLES[name]]
        subparser = added.add_parser(name, help=text, description=text, examples=examples)
        subparser.set_defaults(subparser=subparser)
        if completing or name == chosen:
            subparser.accept_config(name)
            commands[name].add_arguments(subparser)
    flags = parser.parse_args()
    return commands[flags.command].run_parsed(flags)


def share_cores() -> None:
    """Let threads that wait sleep, before torch is imported and OpenMP reads the setting.

    By default they keep a core busy, and a small model on a busy machine takes three times as long.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def run() -> None:
    """The entry point of the installed command."""
    share_cores()
    explain_missing_packages()
    run_command(main)
