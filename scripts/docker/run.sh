#!/usr/bin/env bash
# Runs a command inside the image, or a shell without one:
#   bash scripts/docker/run.sh bash scripts/pretrain_base.sh
# Data come from DATA_DIR (mounted at /datasets), results go to RESULTS_DIR, owned by the caller.
set -euo pipefail
: "${CONTAINER_ENGINE:=docker}"
: "${DATA_DIR:=/datasets}"
: "${RESULTS_DIR:=$PWD/results}"
command -v "$CONTAINER_ENGINE" >/dev/null || {
    echo "error: $CONTAINER_ENGINE: not installed; install it, or set CONTAINER_ENGINE" >&2
    exit 2
}
"$CONTAINER_ENGINE" info >/dev/null 2>&1 || {
    echo "error: $CONTAINER_ENGINE: its daemon does not answer; start it, or set CONTAINER_ENGINE" >&2
    exit 2
}
[[ -d $DATA_DIR ]] || {
    echo "error: DATA_DIR=$DATA_DIR: no such folder; set DATA_DIR to where LibriSpeech lies" >&2
    exit 2
}
mkdir -p "$RESULTS_DIR"
options=(--rm --ipc=host --user "$(id -u):$(id -g)" -e HOME=/tmp
    -v "$DATA_DIR:/datasets" -v "$RESULTS_DIR:/workspace/wav2vec2/results")
if "$CONTAINER_ENGINE" info 2>/dev/null | grep -qi nvidia; then
    options+=(--gpus all)
fi
if [[ -t 0 && -t 1 ]]; then
    options+=(-it)
fi
# Several machines meet at addresses and ports that hold outside.
[[ -z ${MASTER_ADDR:-}${RDZV_ENDPOINT:-} ]] || options+=(--network host)
# The recipes' variables set outside hold inside, too, and so do those by which machines meet.
while IFS= read -r name; do
    [[ -z ${!name+set} ]] || options+=(-e "$name")
done < <(
    grep -ohE '^: "\$\{[A-Z0-9_]+' "$(dirname "${BASH_SOURCE[0]}")"/../*.sh | tr -d ':"${ ' | grep -vx PYTHON | sort -u
    printf '%s\n' MASTER_ADDR MASTER_PORT NODE_RANK RDZV_ENDPOINT
)
[[ $# -gt 0 ]] || set -- bash
exec "$CONTAINER_ENGINE" run "${options[@]}" wav2vec2-recipes "$@"
