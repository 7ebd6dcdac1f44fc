import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from wav2vec2.cli.errors import UserError
from wav2vec2.cli.flags import (
    ArgumentParser,
    add_flags,
    check_command_first,
    field_help,
    from_arguments,
    from_flags,
    parse_dataclasses,
)
from wav2vec2.cli.synonyms import our_flags


@dataclass(frozen=True)
class Options:
    """Things to choose"""

    name: str
    """What it is called."""
    count: int = 3
    """How many, in pieces;
    over two lines, at 100 %."""
    share: float = 0.5
    kind: Literal["a", "b"] = "a"
    pair: tuple[float, float] = (1.0, 2.0)
    """Two of them."""
    several: tuple[str, ...] = ("x", "y")
    wanted: bool = False
    maybe: int | None = None

    def __post_init__(self):
        if self.count < 0:
            raise ValueError("--count must not be negative")


def parse(*argv):
    return parse_dataclasses(ArgumentParser(prog="test"), [Options], argv)[0]


def test_defaults_and_types():
    assert parse("--name", "n") == Options("n")
    text = "--name n --count 7 --share 0.25 --kind b --pair 3 4 --several q --maybe 5"
    options = parse(*text.split())
    assert options == Options("n", 7, 0.25, "b", (3.0, 4.0), ("q",), False, 5)
    assert parse("--name", "n", "--several").several == ()


@pytest.mark.parametrize(
    ("word", "value"),
    [*((word, True) for word in ("true", "True", "YES", "on", "1"))]
    + [*((word, False) for word in ("false", "No", "OFF", "0"))],
)
def test_words_for_true_and_false(word, value):
    assert parse("--name", "n", "--wanted", word).wanted is value
    assert parse("--name", "n", f"--wanted={word}").wanted is value


def test_booleans_are_never_guessed():
    assert parse("--name", "n", "--wanted").wanted is True
    assert parse("--name", "n", "--wanted", "true").wanted is True
    assert parse("--name", "n", "--wanted", "false").wanted is False
    for argv, message in [
        (("--wanted", "maybe"), "unexpected argument maybe"),
        (("--wanted=maybe",), "--wanted: expected true or false, got 'maybe'"),
    ]:
        with pytest.raises(UserError) as error:
            parse("--name", "n", *argv)
        assert message in str(error.value)


def test_a_boolean_flag_does_not_swallow_a_file():
    parser = ArgumentParser(prog="test")
    parser.add_argument("files", nargs="+")
    add_flags(parser, Options)
    parsed = parser.parse_args(["--name", "n", "--wanted", "a.wav", "b.wav"])
    assert parsed.wanted is True and parsed.files == ["a.wav", "b.wav"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--name", "n", "--cuont", "3"], "unknown flag --cuont (did you mean --count?)"),
        (["--name", "n", "--coun", "3"], "unknown flag --coun (did you mean --count?)"),
        (["--name", "n", "--zzz=3"], "unknown flag --zzz"),
        (["--name", "n", "stray"], "unexpected argument stray"),
        ([], "--name"),
        (["--name", "n", "--count", "few"], "--count: expected a whole number, got 'few'"),
        (["--name", "n", "--kind", "c"], "--kind: invalid choice: 'c'"),
        (["--nmae", "n"], "unknown flag --nmae (did you mean --name?)"),
        (["--name", "n", "--share", "x"], "--share: expected a finite number, got 'x'"),
        (["--name", "n", "--share", "nan"], "--share: expected a finite number, got 'nan'"),
        (["--name", "n", "--pair", "1", "inf"], "--pair: expected a finite number, got 'inf'"),
    ],
)
def test_errors_name_the_flag(argv, message):
    with pytest.raises(UserError) as error:
        parse(*argv)
    assert str(error.value).startswith("test: ") and message in str(error.value)


@dataclass(frozen=True)
class Training:
    """Flags like those of training"""

    learning_rate: float = 1.0
    max_update: int = 3
    max_tokens: int = 4
    output_dir: str = "o"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    cpu: bool = False


def train(*argv):
    parser = ArgumentParser(prog="train")
    parser.add_argument("files", nargs="*")
    parser.add_argument("--with-dash", type=int)
    add_flags(parser, Training)
    parsed = vars(parser.parse_args(argv))
    return {n: v for n, v in parsed.items() if v not in ([], None) and v != getattr(Training, n, 0)}


@pytest.mark.parametrize(
    ("argv", "meaning"),
    [
        ("--lr 2", {"learning_rate": 2.0}),
        ("--lr=2", {"learning_rate": 2.0}),
        ("--learning-rate 2 --output-dir x", {"learning_rate": 2.0, "output_dir": "x"}),
        ("--output-dir=a-b --with_dash 3", {"output_dir": "a-b", "with_dash": 3}),
        ("--max-steps 9", {"max_update": 9}),
        ("--fp16", {"precision": "fp16"}),
        ("--bf16 true a.wav", {"precision": "bf16", "files": ["a.wav"]}),
        ("--fp16=True a.wav", {"precision": "fp16", "files": ["a.wav"]}),
        ("--bf16 a.wav", {"precision": "bf16", "files": ["a.wav"]}),
        ("--device cpu a.wav", {"cpu": True, "files": ["a.wav"]}),
        ("--device=cpu", {"cpu": True}),
        ("-- --lr", {"files": ["--lr"]}),
    ],
)
def test_words_of_other_toolkits(argv, meaning):
    assert train(*argv.split()) == meaning


@pytest.mark.parametrize(
    ("argv", "flags"),
    [
        ("--batch_size 8", ["--max_tokens", "--num_concat_batches"]),
        ("--batch-size=8", ["--max_tokens", "--num_concat_batches"]),
        ("--epochs 3", ["--max_update"]),
        ("--num_train_epochs 3", ["--max_update"]),
        ("--resume", ["--output_dir"]),
        ("--fp16 false", ["--precision"]),
        ("--device cuda", ["a GPU is used", "remove"]),
        ("--device mps", ["--cpu"]),
        ("--gpus 2", ["NUM_GPUS"]),
        ("--zzz 2", ["unknown flag --zzz"]),
    ],
)
def test_an_error_names_the_flag_that_does_the_job(argv, flags):
    with pytest.raises(UserError) as error:
        train(*argv.split())
    assert all(flag in str(error.value) for flag in flags)
    assert "mean --help" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("given", ["--w2v_path x", "--data=d evaluate", "-v", "--cpu"])
def test_a_command_comes_first(given):
    with pytest.raises(UserError) as error:
        check_command_first("run.py", given.split(), ("use", "train"), "run.py use --cpu")
    flag = re.split("[ =]", given)[0]
    expected = (
        f"run.py: {flag}: a command comes first: use or train; for example `run.py use --cpu`"
    )
    assert str(error.value) == expected


@pytest.mark.parametrize("given", ["", "use --w2v_path x", "--help", "-h", "--version"])
def test_command_lines_that_begin_as_they_should(given):
    check_command_first("run.py", given.split(), ("use", "train"), "run.py use")


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("w2v_path", "checkpoint"),
        ("data", "dataset_dir"),
        ("valid_subset", "subset"),
        ("encoder_layerdrop", "layerdrop"),
        ("latent_temp", "gumbel_temperature"),
        ("num_negatives", "distractors"),
        ("mask_length", "mask_span"),
        ("mask_channel_length", "mask_channel_span"),
        ("hourglass_transformer", "hourglass_config"),
        ("hourglass_resample", "hourglass_resampling"),
    ],
)
def test_flags_of_nvidias_recipe(name, ours):
    assert our_flags(name, "x", {ours}) == ([f"--{ours}"], False)
    assert our_flags(name, "x", {"other"}) == ([], False)


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("save_logits", "--save_log_probs true"),
        ("save_predictions", "hypotheses_<subset>.jsonl"),
        ("transcribe_wav", "transcribe --checkpoint MODEL FILE"),
        ("amp", "--precision fp16"),
    ],
)
def test_flags_of_nvidias_recipe_without_an_equal(name, use):
    with pytest.raises(ValueError, match=re.escape(use)):
        our_flags(name, "x", {"save_log_probs", "precision"})


def test_fields_without_a_flag_keep_their_default():
    parser = ArgumentParser(prog="test")
    add_flags(parser, Options, without={"share", "kind"})
    assert from_flags(Options, parser.parse_args(["--name", "n"])) == Options("n")
    with pytest.raises(UserError, match="unknown flag --share"):
        parser.parse_args(["--name", "n", "--share", "1"])


def test_the_class_own_check_becomes_a_user_error():
    with pytest.raises(UserError, match="--count must not be negative"):
        parse("--name", "n", "--count", "-1")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": 3}, "call: name 3: must be text or a path"),
        ({"name": None}, "call: name None: must be text or a path"),
        ({"name": "n", "count": "7"}, "call: count '7': must be a whole number"),
        ({"name": "n", "count": 7.0}, "call: count 7.0: must be a whole number"),
        ({"name": "n", "count": True}, "call: count True: must be a whole number"),
        ({"name": "n", "share": "x"}, "call: share 'x': must be a finite number"),
        ({"name": "n", "share": float("inf")}, "call: share inf: must be a finite number"),
        ({"name": "n", "kind": "c"}, "call: kind 'c': choose from a, b"),
        ({"name": "n", "kind": np.zeros((9, 9))}, "call: kind array.*: choose from a, b"),
    ],
)
def test_arguments_from_python_are_of_the_fields_types(given, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        from_arguments(Options, "call", given)


def test_arguments_from_python_may_be_numpys_numbers_and_paths():
    given = {"name": Path("a") / "b", "count": np.int64(7), "share": np.float32(0.25)}
    assert from_arguments(Options, "call", given) == Options("a/b", 7, 0.25)


def configured(tmp_path, content, *argv):
    path = tmp_path / "config.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    parser = ArgumentParser(prog="test")
    parser.accept_config("run", ["machine"])
    add_flags(parser, Options)
    return from_flags(Options, parser.parse_args(["--config", str(path), *argv]))


def test_a_config_gives_defaults(tmp_path):
    given = Options("n", 7, 0.25, "b", (3.0, 4.0), ("q",), True, None)
    content = {"command": "run", **asdict(given), "machine": {"cores": 2}}
    assert configured(tmp_path, content) == given
    assert configured(tmp_path, content, "--count=8", "--wanted", "no", "--name", "m") == replace(
        given, count=8, wanted=False, name="m"
    )
    assert configured(tmp_path, {"name": "n"}) == Options("n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"command": "walk"}, "command: written by walk, not by run"),
        ({"cuont": 3}, "unknown key cuont (did you mean count?)"),
        ({"count": "3"}, "count '3': must be a whole number"),
        ({"count": True}, "count True: must be a whole number"),
        ({"wanted": "true"}, "wanted 'true': must be true or false"),
        ({"pair": [1.0]}, "pair [1.0]: must be a list of 2"),
        ({"several": "x"}, "several 'x': must be a list"),
        ({"kind": "c"}, "kind 'c': choose from a, b"),
        ("[1]", "must be a JSON object"),
        ("{", "not a JSON file"),
        ({}, "the following arguments are required: --name"),
    ],
)
def test_what_a_config_must_not_hold(tmp_path, content, message):
    with pytest.raises(UserError) as error:
        configured(tmp_path, content)
    assert message in str(error.value)
    assert content == {} or str(error.value).startswith(f"--config {tmp_path}/config.json: ")


def test_a_config_that_is_not_there(tmp_path):
    parser = ArgumentParser(prog="test")
    parser.accept_config("run")
    with pytest.raises(UserError, match="gone.json: cannot be read"):
        parser.parse_args(["--config=gone.json"])


def test_help_shows_examples_and_what_values_are(capsys):
    parser = ArgumentParser("test", "Do it.\n\n    python -m utils.do \\\n        --it\n\nMore.")
    add_flags(parser, Options)
    add_flags(parser, Training)
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    text = capsys.readouterr().out
    assert "Do it." in text and "More." not in text
    assert text.endswith("examples:\n  python -m utils.do --it\n")
    for line in ("--output_dir DIR", "--count N", "--share NUMBER", "--cpu true|false"):
        assert line in text
    assert "(default: )" not in text and "None" not in text and "(default: 3)" in text


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        ArgumentParser("test", version=True).parse_args(["--version"])
    assert not stop.value.code
    assert re.fullmatch(r"wav2vec2 [\d.]+, torch [\w.+]+\n", capsys.readouterr().out)


def test_help_comes_from_the_docstrings(capsys):
    assert field_help(Options)["count"] == "How many, in pieces; over two lines, at 100 %."
    with pytest.raises(SystemExit):
        parse("--help")
    text = capsys.readouterr().out
    assert "Things to choose" in text and "at 100 %. (default: 3)" in " ".join(text.split())
    assert "(default: 1.0 2.0)" in text
