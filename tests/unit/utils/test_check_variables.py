import pytest

from common.errors import UserError
from utils.check_variables import SCRIPTS, check, declared

BASE = SCRIPTS / "pretrain_base.sh"


def test_declared_variables():
    names = declared(BASE)
    assert {"NUM_GPUS", "MAX_UPDATE", "HOURGLASS_CONFIG", "LEARNING_RATE"} <= names
    assert "MASTER_ADDR" in declared(SCRIPTS / "launch.sh")


def test_own_variables_and_strangers_pass():
    environment = {"MAX_UPDATE": "5", "HOME": "/", "LANG": "C", "CUDA_VISIBLE_DEVICES": "0"}
    environment |= {"OMP_NUM_THREADS": "1", "SLURM_NNODES": "2", "NCCL_DEBUG": "INFO"}
    assert check(BASE, environment) == []


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("UPDATE_FREQUENCY", "UPDATE_FREQ"),
        ("MAX_UPDATES", "MAX_UPDATE"),
        ("NUM_GPU", "NUM_GPUS"),
        ("LEARNING_RAT", "LEARNING_RATE"),
        ("NUM_CONCAT_BATCH", "NUM_CONCAT_BATCHES"),
        ("TRAIN_SUBSETS", "TRAIN_SUBSET"),
        ("MAX_TOKEN", "MAX_TOKENS"),
        ("LR", "LEARNING_RATE"),
    ],
)
def test_near_misses(name, meant):
    with pytest.raises(UserError, match=f"{name}: .* did you mean {meant}?"):
        check(BASE, {name: "1"})


def test_another_recipes_variable_is_noted():
    (note,) = check(BASE, {"FREEZE_FINETUNE_UPDATES": "5"})
    assert "FREEZE_FINETUNE_UPDATES" in note and "pretrain_base.sh does not read it" in note


@pytest.mark.parametrize(("name", "value"), [("FP16", "true"), ("BF16", "true"), ("EMA", "0.99")])
def test_what_is_not_offered_is_refused_unless_off(name, value):
    with pytest.raises(UserError, match=f"{name}={value}: not offered here"):
        check(BASE, {name: value})
    for off in ("", "0", "false"):
        assert check(BASE, {name: off}) == []
