"""Report runs in one page: `python -m utils.reporting.report results/quickstart --output FILE`

Reads each RUN's nvlog.json (ours, or another recipe's in DLLogger's format) and the evaluations
beside it.  The page shows overlaid curves, tables, configurations and word errors.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from utils.reporting.clips import add_audio
from utils.reporting.page import render_markdown, render_page
from utils.reporting.plots import write_figures, write_table_figures
from utils.reporting.results import measured_rows, update_docs
from utils.reporting.runs import Run, find_runs, name_runs
from wav2vec2.cli.errors import Failures, UserError, list_failures, run_command
from wav2vec2.cli.flags import ArgumentParser, add_flags, from_flags, require_at_least
from wav2vec2.files.output import prepare_folder, write_lines


@dataclass(frozen=True)
class ReportOptions:
    """Report"""

    output: str = "report.html"
    """The page to write; '' writes none."""
    markdown: str = ""
    """File to write the tables to in markdown."""
    audio_limit: float = 2.0
    """MB of audio clips in the page, in all; other utterances get links; 0: neither."""
    dataset_dir: str = ""
    """Folder of the evaluated filelists, to find their audio; default: as evaluated."""
    plots: str = ""
    """Folder to write the diagrams to as figures, one per kind of run; with --update-docs, those of
    measured tables.  Needs matplotlib."""
    plot_format: Literal["png", "svg", "pdf"] = "png"
    """Format of the figures of --plots."""

    def __post_init__(self) -> None:
        require_at_least(self, audio_limit=0)


def collect_runs(paths: list[Path]) -> tuple[list[Run], list[str]]:
    """The runs at `paths`, named, and what could not be read, one line each."""
    runs: list[Run] = []
    failures = Failures()
    for path in paths:
        found, failed = failures.attempt(find_runs, path) or ([], [])
        runs += found
        failures += failed
    if not runs:
        raise UserError("; ".join(failures))
    name_runs(runs)
    return runs, failures


def remarks(runs: list[Run]) -> list[str]:
    """What was skipped in the runs' files."""
    return [
        f"{run.name}: {note}"
        for run in runs
        for note in [*run.log.notes, *(n for e in run.evaluations for n in e.notes)]
    ]


def write_text(flag: str, path: str, text: str) -> None:
    """Write what `flag` asked for."""
    prepare_folder(flag, Path(path).parent)
    write_lines(Path(path), text.removesuffix("\n").split("\n"))
    print(f"report: {path}")


def main() -> int | None:
    parser = ArgumentParser("utils.reporting.report", __doc__)
    parser.add_argument(
        "runs", metavar="RUN", nargs="*", help="folder of a run or of several, or an nvlog.json"
    )
    add_flags(parser, ReportOptions)
    parser.add_argument(
        "--update-docs",
        action="store_true",
        help="rewrite the measured tables of README and docs, and what they quote of a "
        "quickstart, from docs/results; with a quickstart's output folder as RUN from that one",
    )
    namespace = parser.parse_args()
    options = from_flags(ReportOptions, namespace)
    if namespace.update_docs:
        if len(namespace.runs) > 1:
            raise UserError("--update-docs: takes at most one RUN, a finished quickstart's folder")
        update_docs(*map(Path, namespace.runs))
        if options.plots:
            folder = prepare_folder("--plots", options.plots)
            for path in write_table_figures(measured_rows(), folder, options.plot_format):
                print(f"report: {path}")
        return None
    if not namespace.runs:
        raise UserError(
            "utils.reporting.report: name at least one RUN, the output folder of a training run"
        )
    runs, failures = collect_runs([Path(name) for name in namespace.runs])
    notes = remarks(runs)
    if options.output and options.audio_limit:
        evaluations = [evaluation for run in runs for evaluation in run.evaluations]
        most_bytes = int(options.audio_limit * 1e6)
        notes += add_audio(evaluations, Path(options.output), most_bytes, options.dataset_dir)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if options.output:
        write_text("--output", options.output, render_page(runs, [*failures, *notes]))
    if options.markdown:
        write_text("--markdown", options.markdown, render_markdown(runs))
    if options.plots:
        for path in write_figures(
            runs, prepare_folder("--plots", options.plots), options.plot_format
        ):
            print(f"report: {path}")
    return list_failures([f"{failure}; skipped" for failure in failures])


if __name__ == "__main__":
    run_command(main)
