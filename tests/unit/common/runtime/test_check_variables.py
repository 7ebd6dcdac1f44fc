import pytest

from common.runtime.check_variables import SCRIPTS, check_variables, declared
from wav2vec2.cli.errors import UserError

BASE = SCRIPTS / "pretrain_base.sh"


def test_declared_variables():
    names = declared(BASE)
    assert {"NUM_GPUS", "MAX_UPDATE", "HOURGLASS_CONFIG", "LEARNING_RATE"} <= names.keys()
    assert names["MAX_UPDATE"] == "400000" and names["LEARNING_RATE"] == "0.0005"
    assert "MASTER_ADDR" in declared(SCRIPTS / "launch.sh")


STRANGERS = """
    HOME PATH LANG TERM USER PWD TMPDIR HOSTNAME COLUMNS LINES CI DEBUG PORT DISPLAY LS_COLORS
    CUDA_VISIBLE_DEVICES CUDA_HOME NVIDIA_VISIBLE_DEVICES NCCL_DEBUG NCCL_SOCKET_IFNAME
    OMP_NUM_THREADS MKL_NUM_THREADS SLURM_NNODES SLURM_JOB_ID SLURM_CPUS_PER_TASK
    WORLD_SIZE RANK LOCAL_RANK LOCAL_WORLD_SIZE PET_NNODES TORCHELASTIC_MAX_RESTARTS TORCH_HOME
    PYTHONPATH PYTHONUNBUFFERED PYTORCH_CUDA_ALLOC_CONF HF_HOME WANDB_MODE NODE_OPTIONS
    KUBERNETES_SERVICE_PORT CONDA_DEFAULT_ENV VIRTUAL_ENV MODEL_DIR LOG_LEVEL LOGLEVEL MAX_JOBS
    NPROC_PER_NODE NODE_NAME JOB_NAME TRAIN_DIR OUTPUT DATASET FILELISTS
"""


def test_a_recipe_built_on_another_reads_its_variables():
    names = declared(SCRIPTS / "pretrain_base_benchmark.sh")
    assert declared(BASE).keys() < names.keys()
    assert names["OUTPUT_DIR"] == "results/pretrain_base_benchmark"
    assert {"NUM_GPUS", "MAX_RESTARTS"} <= declared(SCRIPTS / "pretrain_small.sh").keys()


def test_own_variables_and_strangers_pass():
    environment = {"MAX_UPDATE": "5", "NODE_RANK": "0", "CPU": "true"}
    environment |= dict.fromkeys(STRANGERS.split(), "1")
    assert check_variables(BASE, environment) == []


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("NUM_GPUS", "two", "NUM_GPUS=two: must be a whole number"),
        ("NUM_GPUS", "0", "NUM_GPUS=0: must be a whole number of at least 1"),
        ("MAX_UPDATE", "4e5", "MAX_UPDATE=4e5: must be a whole number such as 400000"),
        ("LEARNING_RATE", "high", "LEARNING_RATE=high: must be a number such as 0.0005"),
        ("CPU", "yes", "CPU=yes: must be true or false"),
        ("NUM_WORKERS", "-1", "NUM_WORKERS=-1: must be a whole number"),
    ],
)
def test_values_of_another_kind(name, value, message):
    with pytest.raises(UserError, match=message):
        check_variables(BASE, {name: value})
    assert check_variables(BASE, {name: ""}) == []  # then the default applies


def test_values_of_the_right_kind():
    environment = {"LEARNING_RATE": "1e-3", "CLIP_NORM": "10", "DROPOUT": "0", "SEED": "12"}
    environment |= {"HOURGLASS_CONFIG": "", "LOSS_WEIGHTS": "0.1 0"}
    assert check_variables(BASE, environment) == []


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
        ("NUM_WARUP_EPOCHS", "NUM_WARMUP_EPOCHS"),
        ("NUM_EPOCHS", "MAX_UPDATE"),
        ("EPOCHS", "MAX_UPDATE"),
        ("MAX_STEPS", "MAX_UPDATE"),
        ("HOURGLASS", "HOURGLASS_CONFIG"),
        ("LAYERDROP", "ENCODER_LAYERDROP"),
        ("SAVE_FREQ", "SAVE_FREQUENCY"),
        ("LOG_FREQ", "LOG_FREQUENCY"),
        ("NUM_CONCAT", "NUM_CONCAT_BATCHES"),
        ("MODLE", "MODEL"),
        ("SEEDS", "SEED"),
        ("SPEED", "SPEEDS"),
        ("SEDD", "SEED"),
        ("MASK_PROBABILITY", "MASK_PROB"),
        ("MIN_SAMPLE", "MIN_SAMPLE_SIZE"),
        ("WARMUP", "WARMUP_UPDATES"),
        ("GPUS", "NUM_GPUS"),
        ("WORKERS", "NUM_WORKERS"),
        ("BATCH_SIZE", "MAX_TOKENS"),
        ("DEVICE", "CPU"),
        ("PRECISION", "BF16"),
    ],
)
def test_near_misses(name, meant):
    with pytest.raises(UserError, match=f"{name}: .* did you mean {meant}?"):
        check_variables(BASE, {name: "1"})


@pytest.mark.parametrize(
    ("name", "value", "example"),
    [
        ("GPUS", "2", "NUM_GPUS=2"),
        ("GPUS", "0,1", "NUM_GPUS=8"),  # no value of NUM_GPUS, so its default
        ("DEVICE", "cpu", "CPU=true"),
        ("EPOCHS", "10", "MAX_UPDATE=20000"),
        ("BATCH_SIZE", "16", "MAX_TOKENS=1400000"),
    ],
)
def test_the_hint_holds_an_example(name, value, example):
    with pytest.raises(UserError, match=rf"{name}: .* {example}"):
        check_variables(BASE, {name: value})


def test_another_recipes_variable_is_noted():
    (note,) = check_variables(BASE, {"FREEZE_FINETUNE_UPDATES": "5"})
    assert "FREEZE_FINETUNE_UPDATES" in note and "pretrain_base.sh does not read it" in note
