"""The table `label_efficiency`: error rates by minutes of transcripts, with and without
pre-training, on spoken commands and on recordings of people."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from utils.reproduction.steps import (
    SLOW_TEMPERATURE,
    Fields,
    ReproductionOptions,
    Step,
    error_rates,
    folder_of,
    read_result,
)


@dataclass(frozen=True)
class Audio:
    """What a start of the table `label_efficiency` is pre-trained on."""

    folder: str
    """Of the filelists, below the data."""
    train: str
    valid: str
    updates: int
    variables: Mapping[str, Any] = field(default_factory=dict)


COMMAND_MINUTES = 120
"""Of the spoken commands, the corpus `mini`."""

COMMANDS = {
    "the same 30 minutes": Audio("mini", "train-mini-30min", "dev-mini", 4_000),
    f"{COMMAND_MINUTES} minutes": Audio("mini", "train-mini", "dev-mini", 16_000),
}
"""Name of a start of `mini` -> its audio."""


def people(corpus: str) -> dict[str, Audio]:
    """Name of a start -> its audio, for a corpus of recordings of people."""
    # A spoken digit has 0.4 s.
    short = {"MIN_SAMPLE_SIZE": 3_000}
    return {
        "the same corpus": Audio(corpus, "train", "valid", 4_000, short),
        "all audio of people": Audio("people", "train", "valid", 16_000, short),
    }


@dataclass(frozen=True)
class LabelledCorpus:
    """A corpus of the table `label_efficiency`: filelists of a folder."""

    labelled: tuple[str, ...]
    """Of the audio with transcripts, from few to many."""
    starts: Mapping[str, Audio]
    """Name of a pre-trained start -> its audio, from little to much."""
    valid: str
    test: str
    max_tokens: int
    """MAX_TOKENS of the fine-tunings."""
    source: str = ""
    """Environment variable with the folder of its recordings; without it there are no such rows."""


LABELLED = {
    "mini": LabelledCorpus(
        tuple(f"train-mini-{minutes}min" for minutes in (1, 3, 10, 30)),
        COMMANDS,
        "dev-mini",
        "test-mini",
        64_000,
    ),
    "digits": LabelledCorpus(
        ("train-2min", "train-5min"), people("digits"), "valid", "test", 64_000, "DIGITS_DIR"
    ),
    "mboshi": LabelledCorpus(
        ("train-5min", "train-20min"), people("mboshi"), "valid", "test", 96_000, "MBOSHI_DIR"
    ),
    "prompts": LabelledCorpus(
        ("train-3min", "train-10min"), people("prompts"), "valid", "test", 96_000, "PROMPTS_DIR"
    ),
}

RANDOM = "random weights"
"""Start of a fine-tuning that shows what pre-training is worth."""

FEW_MINUTES = 5
"""With at most so many minutes of transcripts, masks gain; with more they cost (both starts)."""

MASKS = {"MASK_PROB": 0.2, "MASK_CHANNEL_PROB": 0.1}

SAME_UPDATES = 2_000
"""Of each fine-tuning."""


def label_efficiency_steps(options: ReproductionOptions, folder: Path) -> list[Step]:
    """The data; for each seed the pre-trainings; for each amount of transcripts and each start a
    fine-tuning and its evaluation."""
    data = folder / "data"
    given = {name: os.environ[name] for c in LABELLED.values() if (name := c.source) in os.environ}
    # The names of the rows say how much audio there is, whatever MINUTES is outside.
    steps = {data: Step("label_efficiency_data.sh", data, {"MINUTES": COMMAND_MINUTES, **given})}
    device = {"CPU": str(not torch.cuda.is_available()).lower(), "NUM_WORKERS": 0}
    cells = [
        (name, corpus, seed)
        for name, corpus in LABELLED.items()
        if not corpus.source or corpus.source in given
        for seed in options.seeds
    ]
    for name, corpus, seed in cells:
        weights = {}
        for start, audio in corpus.starts.items():
            weights[start] = folder / audio.folder / f"seed_{seed}" / folder_of(start)
            variables = {
                **device,
                "DATASET_DIR": data / audio.folder,
                "VALID_SUBSET": audio.valid,
                "SEED": seed,
                "SPEEDS": "0.88 1 1.12",
                **SLOW_TEMPERATURE,
                **audio.variables,
                "MODEL": "mini",
                "TRAIN_SUBSET": audio.train,
                "MAX_UPDATE": audio.updates,
            }
            pretraining = Step("pretrain_small.sh", weights[start], variables)
            steps.setdefault(pretraining.folder, pretraining)
        lists = {**device, "DATASET_DIR": data / name}
        for labelled in corpus.labelled:
            minutes = int(labelled.rpartition("-")[2].removesuffix("min"))
            for start in (RANDOM, *corpus.starts):
                random = start == RANDOM
                tuned = folder / name / f"seed_{seed}" / labelled / folder_of(start)
                source = weights[list(corpus.starts)[-1] if random else start]
                variables = {
                    **lists,
                    "VALID_SUBSET": corpus.valid,
                    "SEED": seed,
                    "MAX_TOKENS": corpus.max_tokens,
                    "TRAIN_SUBSET": labelled,
                    "PRETRAINED_MODEL": source / "wav2vec2_best.pt",
                    "RANDOM_WEIGHTS": str(random).lower(),
                    "MAX_UPDATE": SAME_UPDATES,
                    "LEARNING_RATE": 0.004,
                    **(MASKS if minutes <= FEW_MINUTES else {}),
                }
                steps[tuned] = Step("finetune_small.sh", tuned, variables)
                best = {"FINETUNED_MODEL": tuned / "wav2vec2_best.pt"}
                tested = {**lists, **best, "SUBSETS": corpus.test}
                steps[tuned / "test"] = Step("inference.sh", tuned / "test", tested)
    return list(steps.values())


def collect_label_efficiency(steps: list[Step]) -> Fields:
    """Error rates of each cell that has finished: median, lowest and highest over its seeds."""
    cells: dict[str, list[Any]] = {}
    for step in steps:
        if step.script == "inference.sh" and step.finished:
            name, _, labelled, start, _ = step.folder.parts[-5:]
            row = f"{name}, {labelled.rpartition('-')[2]}, {start.replace('_', ' ')}"
            summary = read_result(step.folder / f"summary_{LABELLED[name].test}.json")
            cells.setdefault(row, []).append(summary)
    rows = {}
    for row, summaries in cells.items():
        rows[row] = {
            **error_rates(summaries, "wer"),
            **error_rates(summaries, "uer"),
            "seeds": len(summaries),
        }
    return {"rows": rows}
