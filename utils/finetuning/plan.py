"""Plan a fine-tuning on your own corpus: each value, and the reason for it.

    python -m utils.finetuning.plan --pretrained_model facebook/wav2vec2-xls-r-300m \\
        --dataset_dir datasets/mine --choices GPU_MEMORY_GB=24

scripts/finetune_own.sh calls it and trains with what it prints.  Values of a run that is resumed
are those of the run.
"""

import argparse
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tasks.adaptation import AdaptOptions
from tasks.data import FILE_PREFIX
from tasks.mixture import read_manifests
from tasks.recipes import CONFIG_FILE, VARIABLES
from utils.finetuning.memory import Device, Method, Model, largest_sub_batch, learning, predicted
from utils.finetuning.values import (
    FEW_WEIGHTS,
    LARGE_DIM,
    SAMPLE_RATE,
    Values,
    neighbours,
    recipes_for,
    values_for,
)
from wav2vec2.cli.errors import UserError, run_command
from wav2vec2.cli.flags import (
    ArgumentParser,
    parse_bool,
    parse_dataclasses,
    parse_float,
    parse_int,
    require_at_least,
)
from wav2vec2.files.text import read_json
from wav2vec2.interop import checkpoints, native
from wav2vec2.interop.clients.support import hourglass_note
from wav2vec2.text.vocabulary import Vocabulary

AUTO = "auto"
"""Value of a variable that the plan chooses."""

KINDS: dict[str, Callable[[str], Any]] = {
    "HOURS": parse_float,
    "GPU_MEMORY_GB": parse_float,
    "MAX_UPDATE": parse_int,
    "LEARNING_RATE": parse_float,
    "FREEZE_FINETUNE_UPDATES": parse_int,
    "MASK_PROB": parse_float,
    "MASK_CHANNEL_PROB": parse_float,
    "ENCODER_LAYERDROP": parse_float,
    "BF16": parse_bool,
    "ACTIVATION_CHECKPOINTING": parse_bool,
    "MAX_TOKENS": parse_int,
    "BATCHES_PER_UPDATE": parse_int,
    "UPDATE_FREQ": parse_int,
    "VALIDATE_FREQUENCY": parse_int,
    "SAVE_FREQUENCY": parse_int,
}
"""Variable of the recipe that the plan chooses -> what reads a given value."""

WHOLE = Method()
"""All weights learn, by Adam, in each process."""

LONG = 30 * SAMPLE_RATE
"""Samples that a sub-batch should hold at least before activations are recomputed for it."""

VALIDATE_UPDATES = 1_000
"""Updates between validations, at most a tenth of the run."""

CPU_HOURS = 48
"""Hours of audio in all updates from which a run on a CPU gets a note on its time."""

CPU_SHARE = 0.25
"""Share of a machine's memory to plan for on a CPU, where other programs use it, too."""


@dataclass(frozen=True)
class PlanOptions:
    """Plan"""

    pretrained_model: str = ""
    """Checkpoint to start from, or a Hugging Face Hub id."""
    language: str = ""
    """Of a recogniser with adapters for several languages: the code of one."""
    reset_head: bool = False
    """Start with a new output layer, even if the checkpoint has one."""
    dataset_dir: str = ""
    """Folder of the filelists."""
    train_subset: tuple[str, ...] = ("train",)
    """Filelists to train on."""
    labels: str = "ltr"
    """Extension of the label files."""
    output_dir: str = "results/finetune_own"
    """Folder of the run; one that is found there is resumed."""
    num_gpus: int = 1
    """Processes."""
    num_concat_batches: int = 1
    """Sub-batches that a process computes at once."""
    cpu: bool = False
    """Plan for this machine's CPU."""
    optimizer: str = "adam"
    """adam8bit: moments in 8 bits."""
    shard: bool = False
    """Divide the model over the processes."""
    choices: tuple[str, ...] = ()
    """Values that are given, such as MAX_UPDATE=20000; auto: choose it."""
    dry_run: bool = False
    """Print as well what the first lines of the run would say of the model."""

    def __post_init__(self) -> None:
        require_at_least(self, num_gpus=1, num_concat_batches=1)


@dataclass(frozen=True)
class Corpus:
    """Lengths of the utterances to train on, in samples."""

    name: str
    lengths: tuple[int, ...]

    @property
    def samples(self) -> int:
        return sum(self.lengths)

    @property
    def hours(self) -> float:
        return self.samples / SAMPLE_RATE / 3600


@dataclass(frozen=True)
class Start:
    """What the plan needs to know of the checkpoint to start from."""

    model: Model
    keeps_head: bool
    """Whether it is a recogniser whose output layer has a row for each symbol of the corpus."""


@dataclass(frozen=True)
class Choice:
    """A variable of the recipe, its value and the reason for it."""

    name: str
    value: Any
    reason: str

    def __str__(self) -> str:
        value = str(self.value).lower() if isinstance(self.value, bool) else f"{self.value:.8g}"
        return f"  {f'{self.name}={value}':<32} # {self.reason}"


def parse_choices(words: Sequence[str]) -> dict[str, Any]:
    """`NAME=value` words -> the given values by name; those that are auto are absent."""
    given = {}
    for word in words:
        name, _, text = word.partition("=")
        if name not in KINDS:
            raise UserError(f"--choices {word}: choose from {', '.join(KINDS)}")
        if text == AUTO:
            continue
        kind = KINDS[name]
        try:
            given[name] = kind(text)
        except argparse.ArgumentTypeError:
            kinds = {parse_int: "a whole number", parse_float: "a number"}
            raise UserError(
                f"{name}={text}: must be {kinds.get(kind, 'true or false')}, or auto"
            ) from None
        if name in ("HOURS", "GPU_MEMORY_GB") and given[name] <= 0:
            raise UserError(f"{name}={text}: must be greater than 0")
        if kind is parse_int and given[name] < (name != "FREEZE_FINETUNE_UPDATES"):
            raise UserError(f"{name}={text}: must be at least 1")
    return given


def why(recipes: Sequence[Values], hours: float, show: Callable[[Values], str]) -> str:
    """Between which of `recipes` a value lies, as `show` writes it."""
    low, high = neighbours(recipes, hours)
    if low == high:
        beyond = "" if low.hours == hours else ", the nearest"
        return f"as for {low.hours:g} h{beyond}"
    if show(low) == show(high):
        return f"as for {low.hours:g} h and {high.hours:g} h"
    return f"between {show(low)} for {low.hours:g} h and {show(high)} for {high.hours:g} h"


def source_of(start: Start) -> str:
    """The recipes that the plan for a start interpolates."""
    if start.model.architecture.dim < LARGE_DIM:
        return "from scripts/finetune_base_1h.sh, _10h, _100h and _960h"
    return "from scripts/finetune_vox_100h.sh and _960h, below 100 h with the updates of Base"


def choose_schedule(
    start: Start, hours: float, given: Mapping[str, Any], adapt: str = "none"
) -> tuple[Values, list[Choice]]:
    """Updates, learning rate, freezing and masks for so many hours; `adapt`: what learns."""
    recipes = recipes_for(start.model.architecture.dim)
    values = values_for(recipes, hours)
    updates = given.get("MAX_UPDATE", values.max_update)
    if start.keeps_head:
        freeze, reason = 0, "the start's output layer has all symbols of the dictionary"
    elif adapt != "none":
        freeze, reason = 0, f"the start's own weights stay as they are with ADAPT={adapt}"
    else:
        freeze = round(values.freeze * min(1.0, updates / values.max_update))
        reason = why(recipes, hours, lambda r: f"{r.freeze:,}")
        if freeze != values.freeze:
            reason = f"the same share of MAX_UPDATE as {values.freeze:,} of {values.max_update:,}"
    rate, why_rate = values.learning_rate, why(recipes, hours, lambda r: f"{r.learning_rate:g}")
    if adapt != "none":
        why_rate = f"{FEW_WEIGHTS} x {rate:g} of all weights, as few learn with ADAPT={adapt}"
        rate = float(f"{FEW_WEIGHTS * rate:.1e}")
    return values, [
        Choice("MAX_UPDATE", updates, why(recipes, hours, lambda r: f"{r.max_update:,}")),
        Choice("LEARNING_RATE", rate, why_rate),
        Choice("FREEZE_FINETUNE_UPDATES", freeze, reason),
        Choice("MASK_PROB", values.mask_prob, why(recipes, hours, lambda r: f"{r.mask_prob:g}")),
        Choice(
            "MASK_CHANNEL_PROB",
            values.mask_channel_prob,
            why(recipes, hours, lambda r: f"{r.mask_channel_prob:g}"),
        ),
        Choice(
            "ENCODER_LAYERDROP",
            values.layerdrop,
            why(recipes, hours, lambda r: f"{r.layerdrop:g}"),
        ),
    ]


def choose_batches(
    start: Start,
    corpus: Corpus,
    values: Values,
    device: Device,
    given: Mapping[str, Any],
    processes: int = 1,
    concat: int = 1,
    method: Method = WHOLE,
) -> list[Choice]:
    """Precision, activation checkpointing, the size of a sub-batch, and sub-batches per update.

    `method`: what of the weights is trained, by which optimizer, and how it is divided.
    """
    model, longest = start.model, max(corpus.lengths)
    half = given.get("BF16", device.bf16)
    need = max(longest, min(LONG, corpus.samples))
    method = replace(method, half=half, recompute=False)
    whole = largest_sub_batch(model, device.memory_mib, method) // concat
    recompute = given.get("ACTIVATION_CHECKPOINTING", whole < need)
    method = replace(method, recompute=recompute)
    fitting = largest_sub_batch(model, device.memory_mib, method) // concat
    # An epoch of a small corpus is two updates at least.
    audio = min(values.audio, max(corpus.samples // 2, 1))
    share = max(audio // (processes * concat), 1)
    wanted = max(longest, min(values.max_tokens, share))
    tokens = given.get("MAX_TOKENS", min(wanted, fitting))
    if "MAX_TOKENS" not in given and tokens < min(longest, SAMPLE_RATE):
        alone = predicted(model, 0, method)
        less = "" if method.adapt.adapt == "lora" else "set ADAPT=lora, "
        raise UserError(
            f"{device}: weights, gradients and optimizer state take {alone / 1024:.1f} GiB, so no "
            f"sub-batch fits; {less}start from a smaller model, or set GPU_MEMORY_GB or MAX_TOKENS"
        )
    computed = predicted(model, tokens * concat, method) / 1024
    used = f" with {method}" if str(method) else ""
    fit = "do not fit" if whole < need else "fit"
    reason = f"{tokens / SAMPLE_RATE:.0f} s; {computed:.1f} GiB in use{used}, computed"
    if tokens < wanted:
        reason += ", all that fits"
    if dropped := sum(n > tokens for n in corpus.lengths):
        reason += f"; {dropped} longer utterances are skipped"
        if dropped == 1:
            reason = reason.replace("utterances are", "utterance is")
    together = processes * concat
    rounded = math.ceil if audio == values.audio else math.floor
    if "BATCHES_PER_UPDATE" in given and "UPDATE_FREQ" not in given:
        batches = given["BATCHES_PER_UPDATE"]
        frequency = max(1, round(batches / together))
    else:
        frequency = given.get("UPDATE_FREQ", max(1, rounded(audio / (tokens * together))))
        batches = given.get("BATCHES_PER_UPDATE", frequency * together)
    seconds = f"{audio / SAMPLE_RATE:,.0f} s of audio per update"
    of = "as in the recipe" if audio == values.audio else "half of the corpus"
    return [
        Choice("BF16", half, f"{device.why_bf16}{saved_by_bf16(model, method)}"),
        Choice(
            "ACTIVATION_CHECKPOINTING",
            recompute,
            f"{need / SAMPLE_RATE:.0f} s {fit} without it{used}",
        ),
        Choice("MAX_TOKENS", tokens, reason),
        Choice("BATCHES_PER_UPDATE", batches, f"{seconds}, {of}"),
        Choice(
            "UPDATE_FREQ",
            frequency,
            f"BATCHES_PER_UPDATE / {processes} (NUM_GPUS) / {concat} (NUM_CONCAT_BATCHES)",
        ),
    ]


def saved_by_bf16(model: Model, method: Method) -> str:
    """What to add to the reason for bf16: what it does to the weights, if few learn, or in
    shares."""
    if not method.half:
        return ""
    if method.shares > 1:
        return "; shares (SHARD) stay fp32"
    if method.adapt.adapt == "none":
        return ""
    few = learning(model, method.adapt) / 1e6
    return f"; fp32 copies of the {few:.1f} million weights of ADAPT={method.adapt.adapt} only"


def choose_frequencies(corpus: Corpus, updates: int, audio: int) -> list[Choice]:
    """Epochs between validations and between checkpoints; `audio`: samples per update."""
    interval = max(1, min(VALIDATE_UPDATES, updates // 10))
    epochs = max(1, round(interval * audio / corpus.samples))
    reason = f"every {max(interval, corpus.samples / audio):,.0f} updates or so"
    names = ("VALIDATE_FREQUENCY", "SAVE_FREQUENCY")
    return [Choice(name, epochs, f"epochs: {reason}") for name in names]


def choose(
    start: Start,
    corpus: Corpus,
    device: Device,
    given: Mapping[str, Any],
    processes: int = 1,
    concat: int = 1,
    method: Method = WHOLE,
) -> list[Choice]:
    """All values of a new run, with their reasons; `given` ones are kept."""
    hours = given.get("HOURS", corpus.hours)
    values, choices = choose_schedule(start, hours, given, method.adapt.adapt)
    choices += choose_batches(start, corpus, values, device, given, processes, concat, method)
    found = {c.name: c.value for c in choices} | given
    audio = found["BATCHES_PER_UPDATE"] * found["MAX_TOKENS"]
    choices += choose_frequencies(corpus, found["MAX_UPDATE"], audio)
    return [Choice(c.name, given[c.name], "given") if c.name in given else c for c in choices]


def choices_of_run(
    configuration: Mapping[str, Any], given: Mapping[str, Any], together: int
) -> list[Choice]:
    """The values with which a run was started, of its config.json; `given` ones are kept.

    `together`: sub-batches that all processes compute at once, which may have changed.
    """
    flags = {VARIABLES.get(flag, flag.upper()): value for flag, value in configuration.items()}
    flags["BF16"] = configuration["precision"] == "bf16"
    if batches := flags.get("BATCHES_PER_UPDATE"):
        flags["UPDATE_FREQ"] = max(1, round(batches / together))
    names = [name for name in KINDS if name not in ("HOURS", "GPU_MEMORY_GB")]
    return [
        Choice(name, given[name], "given")
        if name in given
        else Choice(name, flags[name], "of the run that is resumed")
        for name in names
    ]


def read_corpus(options: PlanOptions) -> Corpus:
    """The utterances of the filelists to train on."""
    named = read_manifests("TRAIN_SUBSET", options.dataset_dir, options.train_subset)
    lengths = tuple(u.samples for manifest in named.values() for u in manifest.utterances)
    if not sum(lengths):
        raise UserError(f"TRAIN_SUBSET={' '.join(named)}: has no audio; import the corpus again")
    return Corpus(" ".join(options.train_subset), lengths)


def read_start(options: PlanOptions, adapt: AdaptOptions) -> Start:
    """Size and output layer of the checkpoint to start from; UserError if `adapt` does not suit
    it."""
    source = options.pretrained_model
    content = checkpoints.read_checkpoint(source, language=options.language)
    architecture = native.architecture_of(content, source)
    adapt.architecture(architecture, content, source)
    parameters = sum(t.numel() for t in content["model"].values() if isinstance(t, torch.Tensor))
    keeps_head = False
    if content["kind"] == "ctc" and not options.reset_head:
        theirs = native.output_vocabulary(content, source)
        ours = Vocabulary.from_file(Path(options.dataset_dir) / f"dict.{options.labels}.txt")
        keeps_head = set(ours.symbols) <= set(theirs.symbols)
    return Start(Model(architecture, parameters), keeps_head)


def find_device(options: PlanOptions, given: Mapping[str, Any]) -> Device:
    """The memory to plan for: what is given, this GPU's, or a share of this machine's."""
    if options.cpu:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
        memory = given["GPU_MEMORY_GB"] * 1e9 / 2**20 if "GPU_MEMORY_GB" in given else None
        name = "GPU_MEMORY_GB" if memory else "a quarter of this machine's memory"
        return Device(name, memory or CPU_SHARE * total, bf16=False, why_bf16="fp32 on CPUs")
    if torch.cuda.is_available():
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        why_bf16 = "half the memory of fp32" if bf16 else "this GPU has none"
        name, memory = torch.cuda.get_device_name(), torch.cuda.mem_get_info()[1] / 2**20
        if "GPU_MEMORY_GB" in given:
            name, memory = "GPU_MEMORY_GB", given["GPU_MEMORY_GB"] * 1e9 / 2**20
        return Device(name, memory, bf16, why_bf16)
    if "GPU_MEMORY_GB" not in given:
        raise UserError(
            "no GPU found; set CPU=true to train on the CPU, or GPU_MEMORY_GB=24 to plan for "
            "another machine"
        )
    memory = given["GPU_MEMORY_GB"] * 1e9 / 2**20
    return Device("GPU_MEMORY_GB", memory, True, "half the memory of fp32; needs Ampere or newer")


def print_plan(options: PlanOptions, adapt: AdaptOptions) -> None:
    """Print all values as `NAME=value  # reason`, for a reader and for the recipe."""
    given = parse_choices(options.choices)
    if not options.dataset_dir:
        raise UserError(
            "DATASET_DIR: name the folder of your corpus; python -m utils.data.import_corpus "
            "makes one"
        )
    corpus = read_corpus(options)
    about = f"{corpus.name}: {corpus.hours:.2f} h, {len(corpus.lengths):,} utterances"
    seconds = [
        max(corpus.lengths) / SAMPLE_RATE,
        corpus.samples / len(corpus.lengths) / SAMPLE_RATE,
    ]
    print(f"{about}, {seconds[1]:.1f} s on average, {seconds[0]:.1f} s at most")
    together = options.num_gpus * options.num_concat_batches
    folder = Path(options.output_dir)
    if (folder / CONFIG_FILE).exists() and any(folder.glob(f"{FILE_PREFIX}_*.pt")):
        configuration = read_json(folder / CONFIG_FILE, "choose another OUTPUT_DIR")
        try:
            choices = choices_of_run(configuration, given, together)
        except (AttributeError, KeyError, TypeError):
            raise UserError(
                f"OUTPUT_DIR={folder}: holds another run than a fine-tuning of this version; "
                "choose another folder"
            ) from None
        print(f"plan: resumes the run in {folder}")
    else:
        if not options.pretrained_model:
            raise UserError(
                "PRETRAINED_MODEL: name a checkpoint to start from, such as "
                "facebook/wav2vec2-xls-r-300m"
            )
        device = find_device(options, given)
        start = read_start(options, adapt)
        shares = options.num_gpus if options.shard else 1
        method = Method(adapt=adapt, optimizer=options.optimizer, shares=shares)
        together = options.num_gpus, options.num_concat_batches
        choices = choose(start, corpus, device, given, *together, method)
        head = "its output layer is kept" if start.keeps_head else "new rows in the output layer"
        print(f"{options.pretrained_model}: {start.model}; {head}")
        print(f"{device}")
        if options.dry_run and (note := hourglass_note(start.model.architecture)):
            print(note)
        print(f"plan for {given.get('HOURS', corpus.hours):.2f} h, {source_of(start)}:")
    for choice in choices:
        print(choice)
    print_total({c.name: c.value for c in choices}, corpus, options)


def print_total(values: Mapping[str, Any], corpus: Corpus, options: PlanOptions) -> None:
    """Print how much audio all updates take, and a note where a CPU would need days for it."""
    batches = values["UPDATE_FREQ"] * options.num_gpus * options.num_concat_batches
    hours = values["MAX_UPDATE"] * batches * values["MAX_TOKENS"] / SAMPLE_RATE / 3600
    print(
        f"in all updates: up to {hours:,.1f} h of audio, {hours / corpus.hours:,.0f} x the corpus"
    )
    if options.cpu and hours > CPU_HOURS:
        print(
            "note: a CPU takes days or weeks for that; MAX_UPDATE=20 BATCHES_PER_UPDATE=1 "
            "MAX_TOKENS=480000 tries whether each step works"
        )


def main() -> None:
    parser = ArgumentParser("utils.finetuning.plan", __doc__)
    options, adapt = parse_dataclasses(parser, [PlanOptions, AdaptOptions])
    print_plan(options, adapt)


if __name__ == "__main__":
    run_command(main)
