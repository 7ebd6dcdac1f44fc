# Sourced by build.sh and run.sh: CONTAINER_ENGINE is docker, podman or buildah, which runs what it
# built through podman where that is installed.

source "$(dirname "${BASH_SOURCE[0]}")/../shared.sh"
answer_help "${1:-}"

: "${CONTAINER_ENGINE:=docker}"  # docker, podman or buildah
IMAGE=wav2vec2-recipes

# check_engine: end with one line if the engine cannot work.
check_engine() {
    command -v "$CONTAINER_ENGINE" >/dev/null || {
        echo "error: $CONTAINER_ENGINE: not installed; install it, or set CONTAINER_ENGINE" >&2
        exit 2
    }
    "$CONTAINER_ENGINE" info >/dev/null 2>&1 || {
        echo "error: $CONTAINER_ENGINE: its daemon does not answer; start it, or set CONTAINER_ENGINE" >&2
        exit 2
    }
}
