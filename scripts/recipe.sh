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
NO_FLAGS=" NUM_GPUS NUM_NODES MAX_RESTARTS FP16 BF16 INIT_FROM "
LISTS=" TRAIN_SUBSET VALID_SUBSET TRAIN_WEIGHTS LOSS_WEIGHTS GUMBEL_TEMPERATURE ADAM_BETAS "
LISTS+=" SUBSETS BATCH_SIZES FACTORS PRECISIONS PEERS "
declare -A OTHER_NAMES=(
    [ENCODER_LAYERDROP]=layerdrop [FINETUNED_MODEL]=checkpoint
    [SUBSETS]=subset [BENCHMARK_SUBSET]=subset
)

# share_cores: without OMP_NUM_THREADS, an equal share of the cores for each of NUM_GPUS processes.
share_cores() {
    local share=$(($(nproc) / NUM_GPUS))
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((share > 0 ? share : 1))}
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
