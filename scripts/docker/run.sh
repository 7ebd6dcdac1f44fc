#!/usr/bin/env bash
# Runs a command inside the image; without a command, a shell:
#   bash scripts/docker/run.sh bash scripts/pretrain_base.sh
# The container sees DATA_DIR as /datasets.  Results go to RESULTS_DIR and belong to the caller.
# The recipes' variables that are set in front of the command are passed on.  DATASET_DIR alone, if
# it is no path below /datasets, names DATA_DIR.
set -euo pipefail
scripts=$(dirname "${BASH_SOURCE[0]}")
source "$scripts/engine.sh"
# As in NVIDIA's recipe, DATASET_DIR names the folder outside; inside, a folder of filelists is
# DATASET_DIR, and in any other the recipes' default, /datasets/LibriSpeech, holds.
if [[ -z ${DATA_DIR:-} && -n ${DATASET_DIR:-} && ${DATASET_DIR%/}/ != /datasets/?* ]]; then
    DATA_DIR=$DATASET_DIR
    unset DATASET_DIR
    if compgen -G "$DATA_DIR/*.tsv" >/dev/null; then DATASET_DIR=/datasets; fi
fi
: "${DATA_DIR:=/datasets}"
: "${RESULTS_DIR:=$PWD/results}"
: "${CONTAINER_USER:=$(id -u):$(id -g)}"   # whose the results are to be
check_engine
[[ -d $DATA_DIR ]] || {
    echo "error: DATA_DIR=$DATA_DIR: no such folder; set DATA_DIR to where LibriSpeech lies" >&2
    exit 2
}
mkdir -p "$RESULTS_DIR"
DATA_DIR=$(realpath "$DATA_DIR")
RESULTS_DIR=$(realpath "$RESULTS_DIR")

kind=$(basename "$CONTAINER_ENGINE")
if [[ $kind == buildah ]] && command -v podman >/dev/null; then
    kind=podman CONTAINER_ENGINE=podman
fi
# USER: a user id that the image has no name for is asked for one by torch's compiler.
options=(--ipc host --user "$CONTAINER_USER" -e HOME=/tmp -e "USER=user${CONTAINER_USER%%:*}"
    -v "$DATA_DIR:/datasets" -v "$RESULTS_DIR:/workspace/wav2vec2/results")

# gpu_options: how the engine gives a container this machine's GPUs, if it can.
gpu_options() {
    if [[ $kind == podman ]]; then
        [[ ! -e /etc/cdi/nvidia.yaml && ! -e /var/run/cdi/nvidia.yaml ]] \
            || echo --device nvidia.com/gpu=all
    elif [[ $kind != buildah ]] && "$CONTAINER_ENGINE" info 2>/dev/null | grep -qi nvidia; then
        echo --gpus all
    fi
}
read -ra gpu <<<"$(gpu_options)"
if [[ ${#gpu[@]} -eq 0 ]] && nvidia-smi -L >/dev/null 2>&1 && [[ ${CPU:-false} != true ]]; then
    echo "error: $CONTAINER_ENGINE: this machine has a GPU, but containers do not get it; install" \
        "the NVIDIA Container Toolkit, or set CPU=true" >&2
    exit 2
fi
options+=("${gpu[@]}")

# Several machines meet at addresses and ports that hold outside.
if [[ -n ${MASTER_ADDR:-}${RDZV_ENDPOINT:-} ]]; then
    options+=(--network host)
    # InfiniBand moves memory that must stay where it is.
    [[ ! -e /dev/infiniband || $kind == buildah || $(ulimit -Hl) != unlimited ]] \
        || options+=(--device /dev/infiniband --ulimit memlock=-1)
fi
# The recipes' variables set outside hold inside, too, and so do those by which machines meet.
while IFS= read -r name; do
    [[ -z ${!name+set} ]] || options+=(-e "$name=${!name}")
done < <(
    grep -ohE '^: "\$\{[A-Z0-9_]+' "$scripts"/../*.sh | tr -d ':"${ ' | grep -vx PYTHON | sort -u
    # Others of NVIDIA's recipe: inside, an error says what to use.
    grep -ohE '^    "[A-Z0-9_]+": ' "$scripts/../../common/runtime/nvidia_variables.py" | tr -d '": '
    printf '%s\n' MASTER_ADDR MASTER_PORT NODE_RANK RDZV_ENDPOINT PYTORCH_CUDA_ALLOC_CONF
)
[[ $# -gt 0 ]] || set -- bash

if [[ $kind == buildah ]]; then
    container=$("$CONTAINER_ENGINE" from --pull-never "localhost/$IMAGE")
    trap '"$CONTAINER_ENGINE" rm "$container" >/dev/null' EXIT
    [[ ! -t 0 || ! -t 1 ]] || options+=(--terminal)
    "$CONTAINER_ENGINE" run "${options[@]}" "$container" -- "$@"
else
    [[ ! -t 0 || ! -t 1 ]] || options+=(-it)
    [[ $kind != podman ]] || options+=(--userns keep-id)
    exec "$CONTAINER_ENGINE" run --rm "${options[@]}" "$IMAGE" "$@"
fi
