"""Every variable that a script of NVIDIA's recipe reads is read by ours of the same name, or an
error names what to use."""

import re

import pytest

from common.runtime.check_variables import SCRIPTS, check_variables, declared
from common.runtime.nvidia_variables import ARCHITECTURE, unread_variables
from tests.unit.common.runtime.nvidia_recipe import PAIRS
from wav2vec2.cli.errors import UserError
from wav2vec2.config import BASE, LARGE

NO_EFFECT = {
    (script, name)
    for script in ("inference", "inference_benchmark")
    for name in ("DATASET", "EMA", "MASK_CHANNEL_PROB", "MASK_PROB", "SEED")
}
"""Pairs whose variable changes no result there either."""
ALWAYS = {"FP32_CONV_NORMS", "FP32_COSINE_SIM", "FP32_POS_CONV"}
"""Variables whose `true` is what happens here anyway."""
FLAG_OR_FILE = re.compile(r"--[a-z_]+|[a-z]+\.(py|sh|json)|docs/[a-z_]+\.md")


def script_of(name):
    return SCRIPTS / f"{name}.sh"


def test_the_list_is_whole():
    assert len(PAIRS) == len(set(PAIRS)) == 465
    assert all(script_of(script).is_file() for script, _ in PAIRS)


@pytest.mark.parametrize(("script", "name"), PAIRS)
def test_every_pair_is_taken_or_explained(script, name):
    path = script_of(script)
    if name in declared(path) or script == "docker/run":
        return
    if (script, name) in NO_EFFECT:
        (note,) = check_variables(path, {name: "7"})
        assert name in note
        return
    if name in ALWAYS:
        assert check_variables(path, {name: "true"}) == []
    with pytest.raises(UserError) as raised:
        check_variables(path, {name: "7"})
    words = str(raised.value)
    assert words.startswith(f"{name}") and "does not read this variable" in words
    hint = words.partition("; ")[2]
    variables = set(re.findall(r"\b[A-Z][A-Z0-9]*_?[A-Z0-9_]*\b", hint)) - {name}
    known = set().union(*map(declared, SCRIPTS.rglob("*.sh")))
    assert variables & known or FLAG_OR_FILE.search(hint), words


def test_every_variable_is_on_the_page():
    page = (SCRIPTS.parent / "docs" / "from_nvidia.md").read_text(encoding="utf-8")
    assert {name for _, name in PAIRS} <= set(re.findall(r"`([A-Z][A-Z0-9_]*)`", page))


def test_no_entry_is_for_a_variable_that_a_script_reads_or_nobody_knows():
    for script in sorted({script for script, _ in PAIRS} - {"docker/run"}):
        theirs = {name for other, name in PAIRS if other == script}
        unread = unread_variables(script, "base").keys()
        assert unread - {"LAYERDROP"} <= theirs, script  # that one is set in a single script there
        assert not unread & declared(script_of(script)).keys(), script


@pytest.mark.parametrize(("script", "model"), [("pretrain_base", BASE), ("pretrain_large", LARGE)])
def test_the_architecture_of_the_recipe_passes(script, model):
    which = script == "pretrain_large"
    theirs = {name: values[which] for name, values in ARCHITECTURE.items()}
    assert check_variables(script_of(script), theirs) == []
    assert theirs == {
        "CONV_BIAS": str(model.conv_bias).lower(),
        "ENCODER_ATTENTION_HEADS": str(model.heads),
        "ENCODER_EMBED_DIM": str(model.dim),
        "ENCODER_FFN_EMBED_DIM": str(model.ffn_dim),
        "ENCODER_LAYERS": str(model.layers),
        "EXTRACTOR_MODE": "layer_norm" if which else "default",
        "FINAL_DIM": str(model.final_dim),
        "LAYER_NORM_FIRST": str(model.norm_first).lower(),
        "NORMALIZE": str(model.normalize_input).lower(),
    }
    for name in theirs:
        with pytest.raises(UserError, match=f"{name}=1: .* MODEL={script[9:]} has {theirs[name]};"):
            check_variables(script_of(script), {name: "1"})
    # With another MODEL these are the wrong ones.
    with pytest.raises(UserError, match="MODEL chooses"):
        check_variables(script_of(script), {**theirs, "MODEL": "mini"})


@pytest.mark.parametrize(
    ("script", "name", "value", "use"),
    [
        ("pretrain_base", "LATENT_TEMP", "2 0.1 0.99", "set GUMBEL_TEMPERATURE"),
        ("pretrain_large", "FP32_MHA_SOFTMAX", "true", "BF16 or FP16"),
        ("finetune_vox_100h", "CUDNN_BENCHMARK", "true", "--compile true"),
        ("finetune_base_1h", "BATCH_SIZE", "8", "MAX_TOKENS=3200000"),
        ("finetune_base_10h", "LAYERDROP", "0.05", "ENCODER_LAYERDROP=0.05"),
        ("inference", "TORCHSCRIPT", "true", "convert MODEL model.onnx"),
        ("inference", "NUM_STEPS", "50", "inference_benchmark.sh"),
        ("inference", "MAX_DURATION", "20", "SUBSETS"),
        ("inference_benchmark", "NUM_GPUS", "2", "one process"),
        ("inference_benchmark", "ARGS", "--cpu", "after the script's name"),
    ],
)
def test_what_to_use_is_named(script, name, value, use):
    with pytest.raises(UserError) as raised:
        check_variables(script_of(script), {name: value})
    assert use in str(raised.value)


@pytest.mark.parametrize(
    ("script", "names"),
    [
        ("pretrain_base", "CUDNN_BENCHMARK FP32_MHA_SOFTMAX"),
        ("finetune_base_100h", "CUDNN_BENCHMARK FP32_TRANSFORMER_LAYERNORM"),
        ("inference", "AMP EMA NUM_STEPS NUM_WARMUP_STEPS TORCHSCRIPT TORCHSCRIPT_SAVE"),
    ],
)
@pytest.mark.parametrize("value", ["", "false", "0", "Off"])
def test_switches_that_are_off_pass(script, names, value):
    assert check_variables(script_of(script), dict.fromkeys(names.split(), value)) == []
