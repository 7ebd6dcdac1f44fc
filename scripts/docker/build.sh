#!/usr/bin/env bash
# Builds the image `wav2vec2-recipes`.  Arguments go to the engine's `build`:
#   bash scripts/docker/build.sh                                                for GPUs
#   bash scripts/docker/build.sh --build-arg FROM_IMAGE_NAME=python:3.12-slim   for CPUs
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/engine.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
check_engine
revision=$(git describe --always --dirty --abbrev=40 --exclude "*" 2>/dev/null || echo unknown)
if [[ $(basename "$CONTAINER_ENGINE") != docker ]]; then
    set -- --format docker "$@"   # the one that knows health checks
fi
exec "$CONTAINER_ENGINE" build -t "$IMAGE" --build-arg "REVISION=$revision" "$@" .
