"""A user's mistake gives one line with its place and how to fix it, exit code 2, and loses no
data."""

import json
import multiprocessing
import os
import shutil
import signal

import pytest
import soundfile
import torch

import inference
import train
from common.data.batching import BatchPlan, Geometry
from common.runtime import distributed
from common.training.checkpoint import CheckpointFolder
from tasks.recipes import check_agreement, configuration_of, parse_recipe, prepare_trainer
from tests.integration.conftest import flags, launch
from tests.integration.test_training import finetuned, pretrained  # noqa: F401 (fixtures)
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import UserError
from wav2vec2.files import torch_file
from wav2vec2.files.torch_file import load_checkpoint, save_checkpoint


@pytest.fixture
def copy(corpus, tmp_path):
    """The corpus to break, audio included."""
    folder = tmp_path / "copy"
    shutil.copytree(corpus, folder)
    for name in ("train", "dev"):
        path = folder / f"{name}.tsv"
        lines = path.read_text().splitlines()
        path.write_text("\n".join([str(folder / name), *lines[1:]]) + "\n")
    return folder


def one_line(result, *parts):
    """Exit code 2, and a last line of errors with all `parts`, without a traceback."""
    code, _, err = result
    assert code == 2, err
    assert "Traceback" not in err
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, err
    for part in parts:
        assert str(part) in errors[0], errors[0]


def edit(path, change):
    lines = path.read_text().splitlines()
    path.write_text("\n".join(change(lines)) + "\n")


def test_missing_subset(copy, tmp_path, command):
    result = command(train.main, *flags("pretrain", copy, tmp_path / "o", train_subset="trian"))
    one_line(result, "trian.tsv: no such file", "train.tsv", "generate_filelists")


def test_missing_dictionary(copy, tmp_path, command, pretrained):  # noqa: F811
    (copy / "dict.ltr.txt").unlink()
    arguments = flags("finetune", copy, tmp_path / "o", pretrained_model=pretrained)
    one_line(command(train.main, *arguments), "dict.ltr.txt: cannot be read")


def test_tsv_line(copy, tmp_path, command):
    edit(copy / "train.tsv", lambda lines: [*lines[:3], "1/7/x.flac 100", *lines[4:]])
    result = command(train.main, *flags("pretrain", copy, tmp_path / "o"))
    one_line(result, "train.tsv:4: expected 'path<TAB>samples'")


def overwrite(path, data, rate=SAMPLE_RATE):
    soundfile.write(path, data, rate, subtype="PCM_16")


BREAKS = {
    "missing": (lambda path: path.unlink(), "cannot be opened"),
    "empty": (lambda path: path.write_bytes(b""), "the file is empty"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:3000]), "truncated"),
    "rate": (lambda path: overwrite(path, soundfile.read(path)[0], 8000), "sample rate 8000"),
    "stereo": (
        lambda path: overwrite(path, soundfile.read(path)[0][:, None].repeat(2, 1)),
        "2 channels",
    ),
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", list(BREAKS))
def test_bad_audio_met_in_training(copy, tmp_path, command, kind, workers):
    """Met in the second epoch's order, inside a loader worker or not: updates done are saved."""
    spoil, message = BREAKS[kind]
    arguments = flags(
        "pretrain", copy, tmp_path / "o", num_workers=workers, max_tokens=60_000, max_update=40
    )
    recipe = parse_recipe(arguments)
    task = recipe.build_task(torch.device("cpu"))
    # An utterance of the first epoch's fourth update, so that three updates come before it.
    request = list(task.plan.requests(0))[3]
    victim = task.dataset.utterances[request.sub_batches[0][0]]
    path = next(copy.rglob(f"{victim.id}.flac"))
    spoil(path)
    result = command(train.main, *arguments)
    one_line(result, path.name, message)
    saved = load_checkpoint(tmp_path / "o" / "wav2vec2_update3.pt")
    assert saved["update"] == 3


def test_bad_audio_met_by_one_of_two_processes(copy, tmp_path):
    """By the second process, in the first one's sight or not: both stop, the first one saves."""
    arguments = flags("pretrain", copy, tmp_path / "o", max_tokens=60_000, max_update=40)
    recipe = parse_recipe(arguments)
    task = recipe.build_task(torch.device("cpu"))
    plan = BatchPlan(
        [min(u.samples, 30_000) for u in task.dataset.utterances],
        max_tokens=60_000,
        seed=1,
        geometry=Geometry(ranks=2),
        flags="",
    )
    request = list(plan.requests(0, rank=1))[2]
    victim = task.dataset.utterances[request.sub_batches[0][0]]
    next(copy.rglob(f"{victim.id}.flac")).unlink()
    result = launch(2, arguments)
    one_line((result.returncode, result.stdout, result.stderr), victim.id, "cannot be opened")
    assert len(result.stderr.splitlines()) < 8, result.stderr
    assert load_checkpoint(tmp_path / "o" / "wav2vec2_update2.pt")["update"] == 2
    written = json.loads((tmp_path / "o" / "last_exit.json").read_text())
    assert written["code"] == 2 and victim.id in written["reason"]


def test_bad_audio_met_in_validation_by_one_of_two_processes(copy, tmp_path):
    edit(copy / "dev.tsv", lambda lines: [*lines[:-1], lines[-1].replace("2-7", "2-8")])
    result = launch(2, flags("pretrain", copy, tmp_path / "o", max_tokens=40_000))
    one_line((result.returncode, result.stdout, result.stderr), "2-8", "cannot be opened")
    assert load_checkpoint(tmp_path / "o" / "wav2vec2_update4.pt")["update"] == 4


@pytest.mark.parametrize(
    ("changed", "parts"),
    [
        ({"max_updat": 3}, ["unknown flag --max_updat (did you mean --max_update?)"]),
        ({"learning_rate": "nan"}, ["--learning_rate: expected a finite number"]),
        ({"train_subset": "trian"}, ["trian.tsv: no such file"]),
        ({"output_dir": "/dev/null/o"}, ["--output_dir /dev/null/o: cannot be written"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_two_processes_say_it_once(copy, tmp_path, changed, parts):
    """One line and exit code 2 through the launcher, too, without torchrun's own report."""
    arguments = flags("pretrain", copy, tmp_path / "o")
    for name, value in changed.items():
        arguments += [f"--{name}", str(value)]
    result = launch(2, arguments)
    one_line((result.returncode, result.stdout, result.stderr), *parts)
    assert len(result.stderr.splitlines()) <= 2, result.stderr


def test_machines_that_were_not_started_alike(copy, tmp_path, monkeypatch):
    """Other flags on the second one, or another NUM_NODES; paths may differ."""
    configuration = configuration_of(parse_recipe(flags("pretrain", copy, tmp_path)))

    def check(**changed):
        monkeypatch.setattr(distributed, "gather", lambda mine: [mine, {**mine, **changed}])
        check_agreement(configuration)

    check()
    with pytest.raises(UserError, match=r"process 1 .* \(learning_rate: 0.5 instead of 0.001\)"):
        check(learning_rate=0.5)
    with pytest.raises(UserError, match="NUM_NODES: 3 instead of 1.* same variables"):
        check(NUM_NODES="3")


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_a_killed_loader_worker(copy, tmp_path, command):
    """As the kernel does when memory runs out."""
    arguments = flags("pretrain", copy, tmp_path / "o", num_workers=1, max_update=1000)
    recipe = parse_recipe(arguments)
    trainer = prepare_trainer(recipe, torch.device("cpu"))
    begin = trainer.task.begin_update

    def kill_then_begin(update):
        if update == 3:
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)
        begin(update)

    trainer.task.begin_update = kill_then_begin
    one_line(command(trainer.train), "--num_workers: a loader worker died", "lower it")
    assert CheckpointFolder(tmp_path / "o", "wav2vec2").updates()[-1] >= 2


def test_gpu_out_of_memory(copy, tmp_path, command):
    """The update in which it happens has not taken place."""
    trainer = prepare_trainer(parse_recipe(flags("pretrain", copy, tmp_path)), torch.device("cpu"))
    forward = trainer.task.forward

    def out_of_memory(batch, update):
        if update == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. ...")
        return forward(batch, update)

    trainer.task.forward = out_of_memory
    one_line(command(trainer.train), "out of memory", "--num_concat_batches", "--max_tokens")
    assert CheckpointFolder(tmp_path, "wav2vec2").updates() == [2]


def test_an_operator_that_is_not_deterministic(copy, tmp_path, command):
    """What torch says of some operators on GPUs."""
    trainer = prepare_trainer(parse_recipe(flags("pretrain", copy, tmp_path)), torch.device("cpu"))
    refusal = "cumsum_cuda_kernel does not have a deterministic implementation, but you set ..."

    def refuse(batch, update):
        raise RuntimeError(refusal)

    trainer.task.forward = refuse
    one_line(command(trainer.train), "--deterministic", "cumsum_cuda_kernel", "DETERMINISTIC=false")


def test_more_labels_than_audio(copy, tmp_path, command, pretrained):  # noqa: F811
    edit(copy / "train.ltr", lambda lines: lines[1:])
    arguments = flags("finetune", copy, tmp_path / "o", pretrained_model=pretrained)
    one_line(command(train.main, *arguments), "train.ltr: 23 label lines", "lists 24")


def test_character_outside_the_dictionary(copy, tmp_path, command, pretrained):  # noqa: F811
    edit(copy / "train.ltr", lambda lines: [*lines[:6], "A Ñ | B E |", *lines[7:]])
    arguments = flags("finetune", copy, tmp_path / "o", pretrained_model=pretrained)
    one_line(
        command(train.main, *arguments), "train.ltr:7: 'Ñ' (utterance 1-7-0006)", "dict.ltr.txt"
    )
    code, _, err = command(train.main, *arguments, "--unknown_symbols", "unk")
    assert code == 0 and "trained as <unk>" in err and "'Ñ' 1x" in err
    edit(copy / "train.ltr", lambda lines: ["A <unk> |", *lines[1:6], "A |", *lines[7:]])
    one_line(
        command(train.main, *arguments, "--output_dir", tmp_path / "p"), "train.ltr:1: '<unk>'"
    )
    edit(copy / "dev.ltr", lambda lines: [*lines[:2], "A | <pad>", *lines[3:]])
    one_line(command(train.main, *arguments, "--unknown_symbols", "unk"), "dev.ltr:3: '<pad>'")


def test_too_short_for_the_transcript(copy, tmp_path, command, pretrained):  # noqa: F811
    edit(copy / "train.ltr", lambda lines: [*lines[:2], "A N | " * 60, *lines[3:]])
    arguments = flags("finetune", copy, tmp_path / "o", pretrained_model=pretrained)
    one_line(command(train.main, *arguments), "train.tsv:4:", "too few for its 180 labels")
    code, _, err = command(train.main, *arguments, "--short_utterances", "skip")
    assert code == 0 and "1 of 24 utterances are too short for their labels" in err


def longer(lines, numbers):
    """Lines of a filelist whose utterances `numbers` claim more samples than any batch holds."""
    paths = [line.split("\t")[0] for line in lines]
    return [f"{paths[n]}\t999999" if n in numbers else line for n, line in enumerate(lines)]


def test_too_long_for_a_batch_of_validation(copy, tmp_path, command, pretrained):  # noqa: F811
    """As in training: skipped, with a line before the first update, and never decoded."""
    edit(copy / "dev.tsv", lambda lines: longer(lines, (2, 4)))
    for number in (1, 3):
        next(copy.rglob(f"2-7-000{number}.flac")).unlink()
    arguments = flags("finetune", copy, tmp_path / "o", pretrained_model=pretrained)
    code, out, err = command(train.main, *arguments)
    note = "dev.tsv: 2 of 5 utterances are longer than --max_tokens 120000 samples and are skipped"
    assert code == 0 and note in err and "validation after update" in out
    assert "2-7-0000  reference:" in err and "2-7-0001" not in err
    edit(copy / "dev.tsv", lambda lines: longer(lines, range(1, 6)))
    arguments = flags("finetune", copy, tmp_path / "p", pretrained_model=pretrained)
    message = "all of its 5 utterances are longer than --max_tokens 120000"
    one_line(command(train.main, *arguments), "dev.tsv", message)


def test_pretraining_crops_what_is_too_long_in_validation(copy, tmp_path, command):
    path = next(copy.rglob("2-7-0002.flac"))
    audio, rate = soundfile.read(path)
    soundfile.write(path, [*audio] * 6, rate, subtype="PCM_16")
    line = f"2/7/2-7-0002.flac\t{len(audio)}"
    six = f"2/7/2-7-0002.flac\t{6 * len(audio)}"
    edit(copy / "dev.tsv", lambda lines: [old.replace(line, six) for old in lines])
    code, _, err = command(train.main, *flags("pretrain", copy, tmp_path / "o"))
    assert code == 0 and "skipped" not in err


def test_too_short_for_the_model(copy, tmp_path, command, pretrained):  # noqa: F811
    edit(
        copy / "train.tsv",
        lambda lines: [*lines[:2], lines[2].split("\t")[0] + "\t399", *lines[3:]],
    )
    arguments = flags("finetune", copy, tmp_path / "o", pretrained_model=pretrained)
    one_line(command(train.main, *arguments), "train.tsv:3: 399 samples give 0 frames")
    tiny = flags("pretrain", copy, tmp_path / "p", min_sample_size=500)
    one_line(command(train.main, *tiny), "--min_sample_size 500", "too few to mask")


def test_impossible_configurations_name_their_flag(copy, tmp_path, command):
    for changed, parts in [
        (
            {"hourglass_config": "[2,(8,4),2]"},
            ["--hourglass_config [2,(8,4),2] has 12 layers", "has 4"],
        ),
        ({"hourglass_config": "4x"}, ["--hourglass_config '4x'", "[2,(8,4),2]"]),
        ({"max_sample_size": 500_000}, ["--max_sample_size 500000 exceeds --max_tokens"]),
        ({"update_freq": 100}, ["UPDATE_FREQ", "too few for one update"]),
        ({"warmup_updates": 9}, ["--warmup_updates 9", "--max_update 4"]),
        ({"dropout": 1.5}, ["--dropout 1.5"]),
    ]:
        arguments = flags("pretrain", copy, tmp_path / "o", **changed)
        one_line(command(train.main, *arguments), *parts)


def test_validation_without_a_frame(copy, tmp_path, command, pretrained):  # noqa: F811
    edit(
        copy / "dev.tsv",
        lambda lines: [lines[0], *(line.split("\t")[0] + "\t300" for line in lines[1:])],
    )
    for kind, changed in (("pretrain", {}), ("finetune", {"pretrained_model": pretrained})):
        arguments = flags(kind, copy, tmp_path / kind, **changed)
        one_line(command(train.main, *arguments), "dev.tsv")


def test_checkpoints(copy, tmp_path, command, pretrained):  # noqa: F811
    gone = tmp_path / "gone.pt"
    cut = tmp_path / "cut.pt"
    cut.write_bytes(pretrained.read_bytes()[:-5000])
    for path, message in [
        (gone, "no such checkpoint"),
        (cut, "truncated"),
    ]:
        arguments = flags("finetune", copy, tmp_path / "o", pretrained_model=path)
        one_line(command(train.main, *arguments), path, message)
    for path, message in [(gone, "no such"), (cut, "truncated"), (pretrained, "fine-tune it")]:
        arguments = ["transcribe", "--checkpoint", path, "--cpu", "true", tmp_path / "a.wav"]
        one_line(command(inference.main, *arguments), path, message)


def test_checkpoint_of_another_architecture(copy, tmp_path, command, pretrained):  # noqa: F811
    content = load_checkpoint(pretrained)
    content["architecture"]["dim"] = 160
    save_checkpoint(tmp_path / "other.pt", content)
    arguments = flags("finetune", copy, tmp_path / "o", pretrained_model=tmp_path / "other.pt")
    one_line(command(train.main, *arguments), "other.pt", "do not fit the architecture")
    contradicting = flags(
        "finetune",
        copy,
        tmp_path / "o",
        pretrained_model=pretrained,
        hourglass_config="[2,(8,4),2]",
    )
    one_line(command(train.main, *contradicting), "--hourglass_config '[2,(8,4),2]'", "[1,(2,2),1]")
    agreeing = flags(
        "finetune",
        copy,
        tmp_path / "o",
        pretrained_model=pretrained,
        hourglass_config="[1,(2,2),1]",
    )
    assert command(train.main, *agreeing)[0] == 0


def test_evaluation(copy, tmp_path, command, finetuned):  # noqa: F811
    """Mistakes end the command before anything is decoded."""
    (tmp_path / "file").touch()
    arguments = ["evaluate", "--checkpoint", finetuned, "--dataset_dir", copy, "--subset", "dev"]
    for flag, value, message in [
        ("--output_dir", tmp_path / "file", "cannot be written"),
        ("--num_workers", -1, "must be at least 0"),
        ("--batch_size", 0, "must be at least 1"),
        ("--subset", "dve", "dve.tsv: no such file"),
    ]:
        one_line(command(inference.main, *arguments, flag, value), message)


def test_output_folder_that_cannot_be_written(copy, tmp_path, command):
    (tmp_path / "file").touch()
    arguments = flags("pretrain", copy, tmp_path / "file" / "o")
    one_line(command(train.main, *arguments), "--output_dir", "cannot be written")


def test_output_folder_of_another_recipe_is_not_written_over(
    copy,
    tmp_path,
    command,
    pretrained,  # noqa: F811
):
    folder = tmp_path / "taken"
    shutil.copytree(pretrained.parent, folder)
    before = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.pt")}
    arguments = flags("pretrain", copy, folder, max_update=9, learning_rate="2e-3")
    one_line(
        command(train.main, *arguments),
        "another recipe",
        "learning_rate was 0.001, is now 0.002",
        "max_update was 4, is now 9",
        "OUTPUT_DIR",
    )
    assert {p.name: p.stat().st_mtime_ns for p in folder.glob("*.pt")} == before


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(corpus, tmp_path, command):
    arguments = flags("pretrain", corpus, tmp_path, save_every_updates=2)
    assert command(train.main, *arguments)[0] == 0
    newest = tmp_path / "wav2vec2_update4.pt"
    newest.write_bytes(newest.read_bytes()[:-1000])
    code, _, err = command(train.main, *arguments)
    assert code == 0
    assert "wav2vec2_update4.pt: truncated" in err and "trying the one before" in err
    assert "resuming from" in err and "wav2vec2_update2.pt" in err
    assert load_checkpoint(newest)["update"] == 4


def test_no_checkpoint_can_be_read(corpus, tmp_path, command):
    """A new run never overwrites the only copies of a user's files."""
    foreign = tmp_path / "wav2vec2_update1.pt"
    foreign.write_bytes(b"something else")
    arguments = flags("pretrain", corpus, tmp_path)
    one_line(command(train.main, *arguments), "none of its 1 checkpoints", "OUTPUT_DIR")
    assert foreign.read_bytes() == b"something else"
    save_checkpoint(foreign, {"model": {}})
    one_line(command(train.main, *arguments), "not a checkpoint that a run can resume from")
    save_checkpoint(foreign, {"model": {}, "format": torch_file.FORMAT + 1})
    one_line(command(train.main, *arguments), "none of its 1 checkpoints")


def test_another_dictionary_is_another_recipe(copy, tmp_path, command, pretrained):  # noqa: F811
    arguments = flags("finetune", copy, tmp_path / "o", pretrained_model=pretrained)
    assert command(train.main, *arguments)[0] == 0
    edit(copy / "dict.ltr.txt", lambda lines: [*lines[1:], lines[0]])
    one_line(command(train.main, *arguments), "another recipe", "dictionary was")


def test_geometry(copy, tmp_path, command):
    off = {"batches_per_update": 6, "update_freq": 2}
    code, _, err = command(train.main, *flags("pretrain", copy, tmp_path / "off", **off))
    assert code == 0 and "differs from the recipe: 2 batches per update" in err
    assert "the recipe has 6: UPDATE_FREQ=6 restores it" in err and "h of audio per update" in err
    strict = flags("pretrain", copy, tmp_path / "strict", **off, strict_geometry="true")
    one_line(command(train.main, *strict), "--strict_geometry: 2 batches per update")
    impossible = {"auto_geometry": "true", "num_concat_batches": 4, "batches_per_update": 6}
    arguments = flags("pretrain", copy, tmp_path / "auto", **impossible)
    one_line(command(train.main, *arguments), "--auto_geometry: 1 processes x 4", "6 batches")
    auto = {"auto_geometry": "true", "batches_per_update": 2, "max_tokens": 60_000}
    code, _, err = command(train.main, *flags("pretrain", copy, tmp_path / "auto", **auto))
    assert code == 0 and "1 processes x 1 concatenated x 2 accumulated" in err


def test_training_without_a_gpu_must_be_asked_for(copy, tmp_path, command):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    arguments = flags("pretrain", copy, tmp_path / "o", cpu="false")
    one_line(command(train.main, *arguments), "no GPU found", "CPU=true")


def test_flags_a_command_would_ignore_are_unknown_to_it(copy, tmp_path, command, pretrained):  # noqa: F811
    for kind, name, value in [
        ("pretrain", "mask_channel_prob", 0.5),
        ("pretrain", "final_dropout", 0.1),
        ("finetune", "dropout_features", 0.1),
    ]:
        arguments = flags(kind, copy, tmp_path / "o", **{name: value})
        one_line(command(train.main, *arguments), f"unknown flag --{name}")
    plain = flags(
        "pretrain", copy, tmp_path / "o", hourglass_config="", hourglass_resampling="linear"
    )
    one_line(command(train.main, *plain), "--hourglass_resampling linear", "--hourglass_config")


def test_unknown_flags(command):
    code, _, err = command(train.main, "pretrain", "--max_updates", "3")
    assert code == 2 and "unknown flag --max_updates (did you mean --max_update?)" in err
    code, _, err = command(train.main, "pretrian")
    assert code == 2 and "pretrian" in err and err.count("\n") == 1
    code, _, err = command(inference.main, "evaluate", "--checkpont", "x")
    assert code == 2 and err.count("\n") == 1
    assert "required: --checkpoint" in err or "did you mean --checkpoint?" in err


TRAINING, INFERENCE = (train.main, "pretrain"), (inference.main, "transcribe")


@pytest.mark.parametrize(
    ("command_line", "parts"),
    [
        ((*TRAINING, "--batch_size", "32"), ["--max_tokens", "--num_concat_batches"]),
        ((*TRAINING, "--per-device-train-batch-size=8"), ["--max_tokens"]),
        ((*TRAINING, "--epochs", "10"), ["--max_update"]),
        ((*TRAINING, "--num_train_epochs", "10"), ["--max_update"]),
        ((*TRAINING, "--max-epoch", "10"), ["--max_update"]),
        ((*TRAINING, "--resume"), ["--output_dir", "automatically"]),
        ((*TRAINING, "--resume_from_checkpoint", "x.pt"), ["--output_dir"]),
        ((*TRAINING, "--gpus", "8"), ["NUM_GPUS"]),
        ((*TRAINING, "--device", "cuda:1"), ["remove"]),
        ((*TRAINING, "--fp16", "false"), ["--precision"]),
        ((*TRAINING, "--max_updat", "3"), ["--max_update"]),
        ((*TRAINING, "--max_update", "1e5"), ["--max_update", "whole number", "1e5"]),
        ((*TRAINING, "--learning_rate", "5e-4x"), ["--learning_rate", "number", "5e-4x"]),
        ((*TRAINING, "--lr", "fast"), ["--learning_rate", "number"]),
        ((*TRAINING, "--cpu", "maybe"), ["unexpected argument maybe"]),
        ((*TRAINING, "--precision", "float16"), ["--precision", "fp16"]),
        ((*TRAINING, "--config", "gone.json"), ["gone.json"]),
        ((*TRAINING, "--checkpoint", "x.pt", "--max_updates", "3"), ["--checkpoint"]),
        ((train.main, "fine-tune"), ["finetune"]),
        ((*INFERENCE, "a.wav"), ["--checkpoint"]),
        ((*INFERENCE, "--chekpoint", "x.pt", "a.wav"), ["did you mean --checkpoint"]),
        ((*INFERENCE, "--checkpoint", "gone.pt", "--device", "cpu", "a.wav"), ["gone.pt"]),
        ((*INFERENCE, "--model", "gone.pt"), ["give recordings"]),
        ((*INFERENCE, "--device", "mps"), ["--cpu"]),
        ((*INFERENCE, "--word_timestamps", "True"), ["--format json"]),
        ((inference.main, "trancsribe"), ["transcribe"]),
        ((inference.main, "decode"), ["transcribe", "evaluate"]),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, tuple) else "",
)
def test_habits_and_slips(command, command_line, parts):
    """Each ends in one line that names the fix."""
    main, *arguments = command_line
    result = command(main, *arguments)
    one_line(result, *parts)
    assert result[2].count("\n") == 1 and "did you mean --help" not in result[2]


@pytest.fixture
def broken_recogniser(random_recogniser, tmp_path):
    """Whose scores are NaN."""
    content = load_checkpoint(random_recogniser)
    content["model"] = {n: torch.full_like(w, float("nan")) for n, w in content["model"].items()}
    save_checkpoint(tmp_path / "nan.pt", content)
    return tmp_path / "nan.pt"


def test_scores_that_are_no_numbers(corpus, tmp_path, command, broken_recogniser):
    """Never an empty transcript, or a word error rate of 100, without a word."""
    recording = next((corpus / "dev").rglob("*.flac"))
    (tmp_path / "lexicon.txt").write_text("CAT C A T |\n")
    subset = ["--dataset_dir", corpus, "--subset", "dev", "--num_workers", "0"]
    for name, arguments in {
        "transcribe": [recording],
        "align": [recording, "--text", "CAT"],
        "evaluate": subset,
        "features": [recording],
    }.items():
        command_line = [name, "--checkpoint", broken_recogniser, "--cpu", *arguments]
        if name != "transcribe":
            command_line += ["--output_dir", tmp_path / name]
        code, _, err = command(inference.main, *command_line)
        assert code in (1, 2) and "nan.pt" in err and "not finite" in err, (name, err)
        assert "Traceback" not in err
    assert not list((tmp_path / "evaluate").rglob(".hypotheses*"))


def test_what_cannot_be_aligned_of_a_subset_is_listed(copy, tmp_path, command, random_recogniser):
    first = sorted((copy / "dev").rglob("*.flac"))[0]
    first.write_bytes(b"no audio")
    arguments = ["--checkpoint", random_recogniser, "--cpu", "--output_dir", tmp_path / "o"]
    code, out, err = command(
        inference.main, "align", *arguments, "--dataset_dir", copy, "--subset", "dev"
    )
    assert code == 1 and "4 of 5 utterances aligned" in out and first.name in err
    assert len(list((tmp_path / "o").glob("*.TextGrid"))) == 4
    recording = sorted((copy / "dev").rglob("*.flac"))[1]
    one_line(command(inference.main, "align", *arguments, recording, "--text", " "), "--text")


@pytest.mark.parametrize(
    "changed",
    [
        {"train_subset": "trian"},
        {"max_tokens": 10_000},
        {"init_from": "missing.pt"},
        {"max_sample_size": 40},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_failed_start_leaves_no_folder(copy, tmp_path, command, changed):
    arguments = flags("pretrain", copy, tmp_path / "new" / "o", **changed)
    code, output, errors = command(train.main, *arguments)
    assert (code, output) == (2, "") and errors.splitlines()[-1].startswith("error: ")
    assert errors.count("error: ") == 1 and not (tmp_path / "new").exists()


def test_audio_that_fails_in_the_first_update_leaves_no_folder(copy, tmp_path, command):
    for path in copy.rglob("1-7-*.flac"):
        path.write_bytes(b"nothing")
    arguments = flags("pretrain", copy, tmp_path / "new" / "o")
    code, _, errors = command(train.main, *arguments)
    assert code == 2 and errors.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "new").exists()


def test_a_failed_start_keeps_what_was_there(copy, tmp_path, command):
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "notes.txt").write_text("mine")
    assert command(train.main, *flags("pretrain", copy, tmp_path / "o", train_subset="x"))[0] == 2
    assert (tmp_path / "o" / "notes.txt").read_text() == "mine"
    arguments = flags("pretrain", copy, tmp_path / "p" / "o", train_subset="x")
    (tmp_path / "p").mkdir()
    assert command(train.main, *arguments)[0] == 2 and (tmp_path / "p").is_dir()
