#!/usr/bin/env bash
# Builds the image `wav2vec2-recipes`.  Extra arguments go to `docker build`, for example
# --build-arg FROM_IMAGE_NAME=nvcr.io/nvidia/pytorch:25.10-py3
set -euo pipefail
: "${CONTAINER_ENGINE:=docker}"
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
command -v "$CONTAINER_ENGINE" >/dev/null || {
    echo "error: $CONTAINER_ENGINE: not installed; install it, or set CONTAINER_ENGINE" >&2
    exit 2
}
"$CONTAINER_ENGINE" info >/dev/null 2>&1 || {
    echo "error: $CONTAINER_ENGINE: its daemon does not answer; start it, or set CONTAINER_ENGINE" >&2
    exit 2
}
exec "$CONTAINER_ENGINE" build -t wav2vec2-recipes "$@" .
