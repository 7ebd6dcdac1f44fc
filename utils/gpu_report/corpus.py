"""A stand-in for LibriSpeech: noise with its lengths, random transcripts, and random weights.

    python -m utils.gpu_report.corpus --output_dir results/gpu_report/data

The same on every machine.  What recordings hold matters for no time and no memory; their lengths
do: LibriSpeech's 281,241 training utterances have a mean of 12.3 s, most have 12 to 16 s.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from common.runtime.randomness import numpy_generator
from utils.benchmarks.measuring import write_noise
from utils.benchmarks.transcription import UNITS
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import run_command
from wav2vec2.cli.flags import ArgumentParser, parse_dataclasses, require_at_least
from wav2vec2.config import PRESETS, ContrastiveObjective, Regularisation
from wav2vec2.files.output import prepare_folder, write_lines
from wav2vec2.files.torch_file import save_checkpoint
from wav2vec2.interop import native
from wav2vec2.pretraining import Wav2Vec2ForPretraining

UNITS_PER_SECOND = 14
"""Letters and word ends per second of LibriSpeech, about."""

START = "start.pt"
"""A pre-training checkpoint of random weights, to fine-tune from."""


@dataclass(frozen=True)
class CorpusOptions:
    """Corpus"""

    output_dir: str
    """Folder for the subsets train and valid, their labels, and start.pt."""
    model: Literal["base", "mini"] = "base"
    """Architecture of start.pt."""
    utterances: int = 1_000
    """Utterances of train; valid has eight."""
    shorter: int = 1
    """Divide each length by this number."""

    def __post_init__(self) -> None:
        require_at_least(self, utterances=8, shorter=1)


def lengths(count: int, shorter: int) -> list[int]:
    """Samples of `count` utterances: 7 of 10 have about 14.5 s, the others 2 to 13 s."""
    generator = numpy_generator("report lengths")
    long = generator.normal(14.5, 1.2, count)
    seconds = np.where(generator.random(count) < 0.7, long, generator.uniform(2, 13, count))
    return (seconds * SAMPLE_RATE / shorter).astype(int).tolist()


def main() -> None:
    parser = ArgumentParser("utils.gpu_report.corpus", __doc__)
    (options,) = parse_dataclasses(parser, [CorpusOptions])
    folder = prepare_folder("--output_dir", options.output_dir)
    generator = numpy_generator("report labels")
    for subset, count in (("train", options.utterances), ("valid", 8)):
        samples = lengths(count, options.shorter)
        write_noise(folder, subset, samples)
        drawn = (
            generator.choice(UNITS, max(UNITS_PER_SECOND * n // SAMPLE_RATE, 1)) for n in samples
        )
        write_lines(folder / f"{subset}.ltr", (" ".join([*units, UNITS[0]]) for units in drawn))
    write_lines(folder / "dict.ltr.txt", (f"{unit} 1" for unit in UNITS))
    torch.manual_seed(0)
    architecture = PRESETS[options.model]
    network = Wav2Vec2ForPretraining.from_config(
        architecture, Regularisation(), ContrastiveObjective()
    )
    content = {**native.pretraining_content(architecture), "model": network.state_dict()}
    save_checkpoint(folder / START, content)


if __name__ == "__main__":
    run_command(main)
