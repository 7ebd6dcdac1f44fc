# Sourced by every recipe after its variables: finds a Python, checks the variables, and defines
# how they become flags.

source "$(dirname "${BASH_SOURCE[0]}")/shared.sh"
answer_help "$@"

: "${PYTHON:=python3}"        # a Python with torch; .venv/bin/python if there is one

recipe=$(realpath "$0")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ $PYTHON == python3 && -x .venv/bin/python ]]; then PYTHON=$PWD/.venv/bin/python; fi
missing=$("$PYTHON" -c 'import importlib.util as u
names = "torch", "numpy", "soundfile", "editdistance", "tqdm"
print(*[name for name in names if u.find_spec(name) is None])' 2>/dev/null) || missing=Python
if [[ -n $missing ]]; then
    echo "error: $PYTHON has no ${missing// /, }; activate the environment that has it, or make one:" \
        "python3 -m venv .venv && .venv/bin/python -m pip install torch -r requirements.txt" >&2
    exit 2
fi
"$PYTHON" -m common.runtime.check_variables "$recipe"

# Each declared variable becomes the flag of the same name in lower case, except:
NO_FLAGS=" NUM_GPUS NUM_NODES MAX_RESTARTS FP16 BF16 INIT_FROM RESET_HEAD ADAPTER_LANGUAGE "
NO_FLAGS+="PROBE PROBE_SUBSET HOURS GPU_MEMORY_GB ADAPT LORA_RANK LORA_ALPHA LORA_TARGETS "
NO_FLAGS+="ADAPTER_DIM "
LISTS=" TRAIN_SUBSET VALID_SUBSET TRAIN_WEIGHTS SPEEDS LOSS_WEIGHTS GUMBEL_TEMPERATURE ADAM_BETAS "
LISTS+=" SUBSETS BATCH_SIZES FACTORS PRECISIONS PEERS "
declare -A OTHER_NAMES=(
    [ENCODER_LAYERDROP]=layerdrop [FINETUNED_MODEL]=checkpoint
    [SUBSETS]=subset [BENCHMARK_SUBSET]=subset
    [NUM_REPEATS]=repeats [NUM_WARMUP_REPEATS]=warmup_repeats
)

# choose_precision: leaves what FP16 and BF16 ask for in `precision`.
choose_precision() {
    precision=fp32
    if [[ $FP16 == true ]]; then precision=fp16; fi
    if [[ $BF16 == true ]]; then precision=bf16; fi
    if [[ $FP16 == true && $BF16 == true ]]; then
        echo "error: FP16=true BF16=true: choose one of them" >&2
        exit 2
    fi
}

# take_alias ALIAS NAME: if ALIAS, another name of the variable NAME, has a value, NAME takes it.
take_alias() {
    local -n variable=$2
    if [[ -z ${!1} ]]; then return; fi
    # A variable that was set in front of the command is exported; a default is not.
    if [[ ${variable@a} == *x* && $variable != "${!1}" ]]; then
        echo "error: $1=${!1} $2=$variable: these are the same variable; set one of them" >&2
        exit 2
    fi
    variable=${!1}
}

# share_cores: without OMP_NUM_THREADS, an equal share of the cores for each of NUM_GPUS processes.
share_cores() {
    local share=$(($(nproc) / NUM_GPUS))
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((share > 0 ? share : 1))}
    # Threads that wait leave the cores to others; otherwise a busy machine takes many times as long.
    export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
}

flags=()
# add_flags SCRIPT: append to `flags` those of the variables that scripts/SCRIPT declares.
add_flags() {
    local variable words
    for variable in $(sed -nE 's/^: "\$\{([A-Z0-9_]+):?=.*/\1/p' "scripts/$1"); do
        if [[ $NO_FLAGS == *" $variable "* ]]; then continue; fi
        if [[ $variable == NUM_WORKERS && -z $NUM_WORKERS ]]; then continue; fi
        words=("${!variable}")
        if [[ $LISTS == *" $variable "* ]]; then read -ra words <<<"${!variable}"; fi
        flags+=("--${OTHER_NAMES[$variable]:-${variable,,}}" ${words[@]+"${words[@]}"})
    done
}
