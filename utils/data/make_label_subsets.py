"""Write filelists of a few minutes of a transcribed subset, to measure what few transcripts give.

    python -m utils.data.make_label_subsets \\
        --dataset_dir datasets/mini --subset train-mini --minutes 3 10

Writes `<subset>-3min.tsv` and so on, with their label files.  Utterances are drawn in an order that
depends on the seed alone, so a smaller subset is part of every larger one.
"""

from dataclasses import dataclass

from common.runtime.randomness import numpy_generator
from utils.data.make_filelists import write_part
from utils.data.next_step import print_next_step
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import UserError, run_command
from wav2vec2.cli.flags import parse_options
from wav2vec2.files.filelists import Manifest, Utterance, read_labels, read_manifest


@dataclass(frozen=True)
class LabelSubsetOptions:
    """Subsets by minutes"""

    dataset_dir: str
    """Folder of the filelists; results go there too."""
    subset: str
    """Filelist to draw from."""
    minutes: tuple[float, ...]
    """Audio of each subset to write; none is longer."""
    labels: tuple[str, ...] = ("wrd", "ltr")
    """Label files to write beside the filelists, copied line by line."""
    seed: int = 1
    """Seed of the drawing."""

    def __post_init__(self) -> None:
        if not self.minutes or min(self.minutes) <= 0:
            raise UserError(f"--minutes {' '.join(map(str, self.minutes))}: must be positive")


def draw(manifest: Manifest, minutes: float, seed: int) -> list[Utterance]:
    """Utterances of at most `minutes` in all, in the filelist's order.

    Those that a random order brings first, up to the first that is too long.  UserError if the
    filelist has fewer minutes, or if the first utterance drawn is longer.
    """
    utterances, limit = manifest.utterances, round(60 * minutes * SAMPLE_RATE)
    total = sum(utterance.samples for utterance in utterances)
    if total < limit:
        raise UserError(
            f"--minutes {minutes:g}: {manifest.path} has {total / SAMPLE_RATE / 60:.1f} minutes"
        )
    order = numpy_generator("label subset", seed).permutation(len(utterances))
    chosen, samples = [], 0
    for index in order.tolist():
        samples += utterances[index].samples
        if samples > limit:
            break
        chosen.append(index)
    if not chosen:
        raise UserError(f"--minutes {minutes:g}: too few for an utterance of {manifest.path}")
    return [utterances[index] for index in sorted(chosen)]


def main() -> None:
    options = parse_options(LabelSubsetOptions, "utils.data.make_label_subsets", __doc__)
    manifest = read_manifest(options.dataset_dir, options.subset)
    labels = {extension: read_labels(manifest, extension) for extension in options.labels}
    subsets = {
        f"{options.subset}-{minutes:g}min": draw(manifest, minutes, options.seed)
        for minutes in options.minutes
    }
    for name, chosen in subsets.items():
        write_part(options.dataset_dir, name, manifest, chosen, labels)
    print_next_step(
        "bash scripts/finetune_small.sh",
        DATASET_DIR=options.dataset_dir,
        TRAIN_SUBSET=next(iter(subsets)),
    )


if __name__ == "__main__":
    run_command(main)
