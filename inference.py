"""Use a checkpoint: `evaluate`, `transcribe`, `align`, `features` or `benchmark`.

Only the checkpoint is needed: it carries its architecture and, if fine-tuned, its dictionary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from common.runtime import distributed
from wav2vec2.cli.errors import ExitCode, run_command
from wav2vec2.cli.flags import ArgumentParser, add_flags, from_flags
from wav2vec2.decoding.beam_search import DecodingOptions
from wav2vec2.inference.align import AlignOptions, align
from wav2vec2.inference.evaluate import EvaluateOptions, evaluate
from wav2vec2.inference.features import FeatureOptions, features
from wav2vec2.inference.latency import LatencyOptions, measure_latency
from wav2vec2.inference.recogniser import RecogniserOptions
from wav2vec2.inference.transcribe import TranscribeOptions, transcribe
from wav2vec2.inference.transcriber import WindowOptions


@dataclass(frozen=True)
class Command:
    """A subcommand: `run` takes an instance of each of `options`, then FILE if there is one."""

    help: str
    run: Callable[..., ExitCode | None]
    options: tuple[type, ...]
    files: str = ""
    """How many FILE, as argparse's nargs; empty: none."""
    without: tuple[str, ...] = ()
    """Fields of the options that the command does not use."""


COMMANDS = {
    "evaluate": Command(
        "word error rates of subsets of a data set",
        partial(evaluate, processes=distributed),
        (RecogniserOptions, DecodingOptions, EvaluateOptions),
    ),
    "transcribe": Command(
        "transcripts of recordings: files, folders, - for standard input",
        transcribe,
        (RecogniserOptions, DecodingOptions, WindowOptions, TranscribeOptions),
        files="*",
    ),
    "align": Command(
        "times of each word and character of a known transcript",
        align,
        (RecogniserOptions, AlignOptions),
        files="?",
    ),
    "features": Command(
        "hidden states or codes of recordings", features, (FeatureOptions,), files="*"
    ),
    "benchmark": Command(
        "latency and throughput by batch size",
        measure_latency,
        (RecogniserOptions, DecodingOptions, LatencyOptions),
        without=("batch_size",),
    ),
}


def main() -> ExitCode | None:
    parser = ArgumentParser(prog="inference.py", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS))
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(name, help=command.help)
        subparser.set_defaults(subparser=subparser)
        for options in command.options:
            add_flags(subparser, options, without=command.without)
        if command.files:
            subparser.add_argument("files", nargs=command.files, metavar="FILE", help="recordings")
    namespace = parser.parse_args()
    command = COMMANDS[namespace.command]
    arguments = [from_flags(options, namespace) for options in command.options]
    return command.run(*arguments, *([namespace.files] if command.files else []))


if __name__ == "__main__":
    run_command(main)
