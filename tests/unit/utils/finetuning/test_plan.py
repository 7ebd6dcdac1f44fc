"""The plan of scripts/finetune_own.sh: exact at the recipes, monotone in hours, within memory."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from common.runtime.check_variables import declared
from tasks.adaptation import AdaptOptions
from utils.finetuning.memory import (
    MODELS,
    Device,
    Method,
    Model,
    count_bytes,
    held,
    largest_sub_batch,
    predicted,
)
from utils.finetuning.plan import (
    KINDS,
    WHOLE,
    Choice,
    Corpus,
    Start,
    choices_of_run,
    choose,
    parse_choices,
)
from utils.finetuning.values import BASE_RECIPES, LARGE_RECIPES, recipes_for, values_for
from utils.gpu_report.memory import USABLE
from wav2vec2.cli.errors import UserError
from wav2vec2.config import BASE, LARGE, MINI, Hourglass

ROOT = Path(__file__).resolve().parents[4]
MODELS_2B = Model(MODELS["XLS-R 2B"], 2_159_000_000)
BASE_START = Start(Model(BASE, 95_000_000), keeps_head=False)
LARGE_START = Start(Model(LARGE, 315_000_000), keeps_head=False)
BIG = Device("big", 200_000.0, bf16=True, why_bf16="as given")
HOURS = [0.1, 0.5, 1, 1.5, 3, 10, 11, 30, 99, 100, 101, 300, 960, 2000]


def corpus(hours, seconds=12.0):
    return Corpus("train", (int(seconds * 16_000),) * max(1, round(hours * 3600 / seconds)))


def plan(start, hours, device=BIG, *, processes=8, seconds=12.0, method=WHOLE, **given):
    found = choose(start, corpus(hours, seconds), device, given, processes, method=method)
    assert all(choice.reason for choice in found)
    return {choice.name: choice.value for choice in found}


SCRIPTS = [
    ("finetune_base_1h", BASE_START, 1),
    ("finetune_base_10h", BASE_START, 10),
    ("finetune_base_100h", BASE_START, 100),
    ("finetune_base_960h", BASE_START, 960),
    ("finetune_vox_100h", LARGE_START, 100),
    ("finetune_vox_960h", LARGE_START, 960),
]


@pytest.mark.parametrize(("script", "start", "hours"), SCRIPTS)
def test_the_plan_is_the_recipe_where_there_is_one(script, start, hours):
    """With as many GPUs, of enough memory, on an hour that is exactly the recipe's."""
    recipe = declared(ROOT / "scripts" / f"{script}.sh")
    found = plan(start, hours, HOURS=float(hours))
    other = {"HOURS", "BF16", "ACTIVATION_CHECKPOINTING", "VALIDATE_FREQUENCY", "SAVE_FREQUENCY"}
    names = found.keys() - other
    if hours == 1:  # a corpus of one hour has audio for two updates
        names -= {"BATCHES_PER_UPDATE", "UPDATE_FREQ", "MAX_TOKENS"}
        assert found["BATCHES_PER_UPDATE"] * found["MAX_TOKENS"] <= recipe_audio(recipe)
    assert {n: found[n] for n in names} == {n: pytest.approx(float(recipe[n])) for n in names}
    assert found["VALIDATE_FREQUENCY"] == pytest.approx(
        int(recipe["VALIDATE_FREQUENCY"]), rel=0.25, abs=2
    )


def recipe_audio(recipe):
    return int(recipe["BATCHES_PER_UPDATE"]) * int(recipe["MAX_TOKENS"])


@pytest.mark.parametrize("recipes", [BASE_RECIPES, LARGE_RECIPES])
def test_more_hours_are_more_updates_and_less_freezing(recipes):
    values = [values_for(recipes, hours) for hours in HOURS]
    updates = [v.max_update for v in values]
    assert updates == sorted(updates) and len(set(updates)) == len(HOURS) - 3  # the ends are flat
    assert [v.freeze for v in values] == sorted((v.freeze for v in values), reverse=True)
    assert [v.audio for v in values] == sorted(v.audio for v in values)


@pytest.mark.parametrize("recipes", [BASE_RECIPES, LARGE_RECIPES])
def test_what_lies_between_two_recipes_lies_between_their_values(recipes):
    for low, high in zip(recipes, recipes[1:]):
        between = values_for(recipes, (low.hours * high.hours) ** 0.5)
        for name, value in vars(between).items():
            first, last = sorted((getattr(low, name), getattr(high, name)))
            assert first <= value <= last, name
        middle = (low.max_update * high.max_update) ** 0.5
        assert between.max_update == pytest.approx(middle, abs=50)


def test_the_size_of_the_start_chooses_the_recipes():
    assert recipes_for(MINI.dim) is recipes_for(768) is BASE_RECIPES
    assert recipes_for(1024) is recipes_for(1920) is LARGE_RECIPES


SIZES = [
    BASE_START.model,
    LARGE_START.model,
    Model(MODELS["XLS-R 1B"], 963_000_000),
    Model(replace(BASE, hourglass=Hourglass(2, 8, 4, 2)), 95_000_000),
]


@pytest.mark.parametrize("model", SIZES, ids=str)
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_what_fits_stays_below_the_memory(model, half, recompute):
    sizes = []
    for gigabytes in (8, 12, 16, 24, 40, 80):
        memory = gigabytes * 1e9 / 2**20
        samples = largest_sub_batch(model, memory, Method(half, recompute))
        sizes.append(samples)
        if samples:
            assert predicted(model, samples, Method(half, recompute)) <= USABLE * memory
            assert predicted(model, samples + 20_000, Method(half, recompute)) > USABLE * memory
        else:
            assert predicted(model, 0, Method(half, recompute)) > USABLE * memory
    assert sizes == sorted(sizes) and sizes[-1] > 0
    assert predicted(model, 10**8, Method(True, recompute)) < predicted(
        model, 10**8, Method(False, recompute)
    )
    assert predicted(model, 10**7, Method(half, True)) < predicted(
        model, 10**7, Method(half, False)
    )


@pytest.mark.parametrize("gigabytes", [12, 16, 24, 80])
@pytest.mark.parametrize("start", [BASE_START, LARGE_START])
def test_the_planned_batch_fits_and_keeps_the_audio_of_an_update(start, gigabytes):
    memory = gigabytes * 1e9 / 2**20
    device = Device("card", memory, bf16=True, why_bf16="as given")
    found = plan(start, 10, device, processes=1)
    tokens, batches = found["MAX_TOKENS"], found["BATCHES_PER_UPDATE"]
    used = predicted(start.model, tokens, Method(found["BF16"], found["ACTIVATION_CHECKPOINTING"]))
    assert used <= USABLE * memory and tokens >= 12 * 16_000
    audio = values_for(recipes_for(start.model.architecture.dim), 10).audio
    assert audio <= batches * tokens < audio + tokens
    assert found["UPDATE_FREQ"] == batches


def test_layers_are_recomputed_only_where_memory_is_short():
    small = Device("card", 8 * 1e9 / 2**20, bf16=True, why_bf16="as given")
    assert plan(LARGE_START, 10, small)["ACTIVATION_CHECKPOINTING"] is True
    assert plan(BASE_START, 10, small)["ACTIVATION_CHECKPOINTING"] is False
    assert plan(LARGE_START, 10, BIG)["ACTIVATION_CHECKPOINTING"] is False


def chosen(start, gigabytes, method, processes=1):
    device = Device("card", gigabytes * 1e9 / 2**20, bf16=True, why_bf16="as given")
    found = choose(start, corpus(10, seconds=15), device, {}, processes, 1, method)
    return {choice.name: choice for choice in found}


LORA, ADAPTERS = AdaptOptions(adapt="lora"), AdaptOptions(adapt="adapters")


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (Method(adapt=LORA), "with ADAPT=lora"),
        (Method(adapt=ADAPTERS), "with ADAPT=adapters"),
        (Method(optimizer="adam8bit"), "with OPTIMIZER=adam8bit"),
        (Method(shares=2), "with SHARD=true"),
        (
            Method(adapt=LORA, optimizer="adam8bit", shares=2),
            "with ADAPT=lora OPTIMIZER=adam8bit SHARD=true",
        ),
    ],
    ids=str,
)
def test_less_memory_for_the_model_is_more_for_audio(method, words):
    """All weights with Adam need activation checkpointing on this card."""
    processes = 2 if method.shares > 1 else 1
    plain, found = (chosen(LARGE_START, 8, m, processes) for m in (Method(), method))
    assert plain["ACTIVATION_CHECKPOINTING"].value and "with" not in plain["MAX_TOKENS"].reason
    assert not found["ACTIVATION_CHECKPOINTING"].value
    assert found["ACTIVATION_CHECKPOINTING"].reason == f"30 s fit without it {words}"
    assert f"in use {words}, computed" in found["MAX_TOKENS"].reason
    assert predicted(LARGE_START.model, 480_000, method) <= USABLE * 8e9 / 2**20


def test_the_reason_for_bf16_says_what_stays_fp32():
    reasons = [
        chosen(LARGE_START, 24, method)["BF16"].reason
        for method in (Method(), Method(adapt=LORA), Method(shares=2))
    ]
    assert reasons == [
        "as given",
        "as given; fp32 copies of the 0.8 million weights of ADAPT=lora only",
        "as given; shares (SHARD) stay fp32",
    ]


def test_few_weights_fit_where_all_do_not():
    with pytest.raises(UserError, match="so no sub-batch fits; set ADAPT=lora"):
        chosen(LARGE_START, 6, Method())
    assert chosen(LARGE_START, 6, Method(adapt=LORA))["MAX_TOKENS"].value >= 15 * 16_000
    with pytest.raises(UserError, match="so no sub-batch fits; start from a smaller"):
        chosen(Start(MODELS_2B, keeps_head=False), 4, Method(adapt=LORA))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("adapt", [AdaptOptions(), LORA, ADAPTERS], ids=lambda a: a.adapt)
@pytest.mark.parametrize("optimizer", ["adam", "adam8bit"])
def test_the_plan_is_close_to_a_count(name, half, adapt, optimizer):
    """Never below the count of the tensors, other than of the steps, and little above it."""
    method = Method(half, adapt=adapt, optimizer=optimizer)
    counted = count_bytes(MODELS[name], method)
    own = counted.total - (counted.learning if adapt.adapt != "none" else 0)
    passes, _ = held(Model(MODELS[name], own), method)
    total = counted.parameters + counted.gradients + counted.optimizer
    assert 0.97 < passes / total < 1.03


def test_a_model_that_is_too_large_is_refused():
    small = Device("card", 6 * 1e9 / 2**20, bf16=True, why_bf16="as given")
    with pytest.raises(
        UserError, match=r"take 6.7 GiB, so no sub-batch fits; set ADAPT=lora, start from"
    ):
        plan(LARGE_START, 10, small)
    assert plan(LARGE_START, 10, small, MAX_TOKENS=100_000)["MAX_TOKENS"] == 100_000


@pytest.mark.parametrize("seconds", [1.0, 40.0, 90.0])
def test_no_utterance_is_skipped_for_its_length_while_memory_lasts(seconds):
    for processes in (1, 8):
        found = plan(LARGE_START, 5, seconds=seconds, processes=processes)
        assert found["MAX_TOKENS"] >= seconds * 16_000
        assert found["BATCHES_PER_UPDATE"] == processes * found["UPDATE_FREQ"]


def test_utterances_that_do_not_fit_are_counted():
    small = Device("card", 9 * 1e9 / 2**20, bf16=False, why_bf16="as given")
    for count, words in ((1, "utterance is"), (3, "utterances are")):
        long = Corpus("train", (16_000 * 400,) * count + (160_000,) * 100)
        (tokens,) = (c for c in choose(LARGE_START, long, small, {}) if c.name == "MAX_TOKENS")
        assert tokens.value < 6_400_000
        assert tokens.reason.endswith(f"all that fits; {count} longer {words} skipped")


def test_an_epoch_of_a_small_corpus_is_two_updates():
    for hours in (0.02, 0.3, 0.51, 0.7):
        for processes in (1, 2, 8):
            found = plan(BASE_START, hours, processes=processes, seconds=1.0)
            audio = found["BATCHES_PER_UPDATE"] * found["MAX_TOKENS"]
            assert audio <= hours * 3600 * 16_000 / 2


def test_a_recogniser_of_the_same_dictionary_is_not_frozen():
    kept = replace(LARGE_START, keeps_head=True)
    assert plan(kept, 100)["FREEZE_FINETUNE_UPDATES"] == 0
    assert plan(LARGE_START, 100)["FREEZE_FINETUNE_UPDATES"] == 10_000


@pytest.mark.parametrize("adapt", ["lora", "adapters"])
@pytest.mark.parametrize("hours", [1, 10, 55, 960])
def test_few_weights_learn_faster_and_at_once(adapt, hours):
    method = replace(WHOLE, adapt=AdaptOptions(adapt=adapt))
    few, whole = plan(LARGE_START, hours, method=method), plan(LARGE_START, hours)
    assert few["LEARNING_RATE"] == pytest.approx(10 * whole["LEARNING_RATE"], rel=0.05)
    assert few["FREEZE_FINETUNE_UPDATES"] == 0
    assert few["MAX_UPDATE"] == whole["MAX_UPDATE"]
    given = plan(LARGE_START, hours, method=method, LEARNING_RATE=5e-6, FREEZE_FINETUNE_UPDATES=9)
    assert (given["LEARNING_RATE"], given["FREEZE_FINETUNE_UPDATES"]) == (5e-6, 9)


def test_given_values_are_kept_and_the_others_follow():
    found = plan(LARGE_START, 100, MAX_UPDATE=800, LEARNING_RATE=1e-3, BF16=False, UPDATE_FREQ=3)
    assert (found["MAX_UPDATE"], found["LEARNING_RATE"], found["BF16"]) == (800, 1e-3, False)
    assert found["FREEZE_FINETUNE_UPDATES"] == 100  # the same share
    assert (found["UPDATE_FREQ"], found["BATCHES_PER_UPDATE"]) == (3, 24)
    assert plan(BASE_START, 10, BATCHES_PER_UPDATE=32)["UPDATE_FREQ"] == 4
    assert plan(BASE_START, 10, HOURS=100.0)["MAX_UPDATE"] == 80_000


def test_choices_are_read():
    assert parse_choices(["MAX_UPDATE=20", "BF16=YES", "LEARNING_RATE=1e-4", "HOURS=auto"]) == {
        "MAX_UPDATE": 20,
        "BF16": True,
        "LEARNING_RATE": 1e-4,
    }


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("MAX_UPDATE=many", "MAX_UPDATE=many: must be a whole number, or auto"),
        ("MAX_UPDATE=0", "MAX_UPDATE=0: must be at least 1"),
        ("BF16=perhaps", "BF16=perhaps: must be true or false, or auto"),
        ("LEARNING_RATE=nan", "LEARNING_RATE=nan: must be a number, or auto"),
        ("GPU_MEMORY_GB=-1", "GPU_MEMORY_GB=-1: must be greater than 0"),
        ("DROPOUT=1", "--choices DROPOUT=1: choose from HOURS, "),
    ],
)
def test_a_wrong_choice_is_refused(word, message):
    with pytest.raises(UserError, match=message):
        parse_choices([word])


def test_a_resumed_run_keeps_its_values():
    names = [name.lower() for name in KINDS if name not in ("HOURS", "GPU_MEMORY_GB", "BF16")]
    configuration = dict.fromkeys(names, 7) | {"layerdrop": 0.05, "precision": "bf16"}
    configuration |= {"activation_checkpointing": False, "batches_per_update": 16}
    found = choices_of_run(json.loads(json.dumps(configuration)), {"MAX_UPDATE": 30}, together=4)
    values = {choice.name: choice.value for choice in found}
    assert values.keys() == KINDS.keys() - {"HOURS", "GPU_MEMORY_GB"}
    assert (values["MAX_UPDATE"], values["LEARNING_RATE"]) == (30, 7)
    assert (values["ENCODER_LAYERDROP"], values["BF16"]) == (0.05, True)
    assert values["UPDATE_FREQ"] == 4  # of 16 sub-batches, four at once


@pytest.mark.parametrize(
    ("value", "text"), [(3e-5, "3e-05"), (320_000, "320000"), (True, "true"), (0.65, "0.65")]
)
def test_a_value_is_printed_as_the_recipe_reads_it(value, text):
    assert str(Choice("MASK_PROB", value, "why")).split() == [f"MASK_PROB={text}", "#", "why"]


CARDS = (12, 16, 24, 48, 80)
STARTS = {
    "Base": BASE_START.model,
    "Large, XLS-R 300M, MMS 300M": LARGE_START.model,
    "XLS-R 1B, MMS 1B": Model(MODELS["XLS-R 1B"], 963_000_000),
    "XLS-R 2B": MODELS_2B,
}


def test_the_table_of_memory_is_computed():
    text = (ROOT / "docs" / "finetune_your_own.md").read_text("utf-8")
    table = text.split("<!-- memory of fine-tuning -->\n")[1].split("<!-- end of memory -->")[0]
    rows = []
    for name, model in STARTS.items():
        sizes = [largest_sub_batch(model, gb * 1e9 / 2**20, Method()) for gb in CARDS]
        cells = [f"{size // 16_000:,} s" if size else "none" for size in sizes]
        alone = f"{predicted(model, 0, Method()) / 1024:.1f}"
        rows.append(f"| {' | '.join([name, f'{model.parameters / 1e6:,.0f}', alone, *cells])} |")
    assert table.splitlines()[2:] == rows, "\n".join(rows)
