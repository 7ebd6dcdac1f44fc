"""The commands on recordings and checkpoints: what each runs, and with which flags.

Imports torch and the models; wav2vec2/commands/main.py imports it when a command has been chosen.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wav2vec2.cli.errors import ExitCode
from wav2vec2.cli.flags import add_flags, from_flags
from wav2vec2.decoding.beam_search import DecodingOptions
from wav2vec2.inference.align import AlignOptions, align
from wav2vec2.inference.evaluate import EvaluateOptions, evaluate
from wav2vec2.inference.features import FeatureOptions, features
from wav2vec2.inference.latency import LatencyOptions, measure_latency
from wav2vec2.inference.processes import Processes
from wav2vec2.inference.recogniser import RecogniserOptions
from wav2vec2.inference.transcribe import TranscribeOptions, transcribe
from wav2vec2.inference.transcriber import WindowOptions
from wav2vec2.interop.checkpoints import ConvertOptions, convert_checkpoint


@dataclass(frozen=True)
class Command:
    """A command: `run` takes an instance of each of `options`, then its other arguments."""

    run: Callable[..., ExitCode | None]
    options: tuple[type, ...]
    files: str = ""
    """How many FILE, as argparse's nargs; empty: none."""
    paths: tuple[tuple[str, str], ...] = ()
    """Name and help of each other argument without a flag."""
    without: tuple[str, ...] = ()
    """Fields of the options that the command does not use."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the flags and the other arguments to a parser."""
        for options in self.options:
            add_flags(parser, options, without=self.without)
        if self.files:
            parser.add_argument("files", nargs=self.files, metavar="FILE", help="recordings")
        for name, text in self.paths:
            parser.add_argument(name, metavar=name.upper(), help=text)

    def run_parsed(self, flags: Namespace) -> ExitCode | None:
        """Run it with parsed arguments."""
        others = [*(["files"] if self.files else []), *(name for name, _ in self.paths)]
        options = [from_flags(options, flags) for options in self.options]
        return self.run(*options, *(getattr(flags, name) for name in others))


def _convert(options: ConvertOptions, source: str, output: str) -> None:
    print(convert_checkpoint(source, Path(output), options))


CONVERT = Command(
    _convert,
    (ConvertOptions,),
    paths=(
        ("input", "checkpoint of any kind"),
        ("output", "file to write; a folder for huggingface, sherpa_onnx and transformers_js"),
    ),
)


def define_commands(processes: Processes | None) -> dict[str, Command]:
    """Name -> command; the `processes` share an evaluation."""
    return {
        "transcribe": Command(
            transcribe,
            (RecogniserOptions, DecodingOptions, WindowOptions, TranscribeOptions),
            files="*",
        ),
        "evaluate": Command(
            partial(evaluate, processes=processes),
            (RecogniserOptions, DecodingOptions, EvaluateOptions),
        ),
        "align": Command(align, (RecogniserOptions, WindowOptions, AlignOptions), files="?"),
        "features": Command(features, (FeatureOptions,), files="*"),
        "benchmark": Command(
            measure_latency,
            (RecogniserOptions, DecodingOptions, LatencyOptions),
            without=("batch_size",),
        ),
        "convert": CONVERT,
    }
