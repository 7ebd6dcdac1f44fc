#!/bin/sh
# Inside the image that is built: installs what is missing, and replaces nothing.
set -eu
case "${1:-}" in -h | --help) sed -n 2p "$0" | cut -c3- && exit 0 ;; esac
cd "$(dirname "$0")"

if ! python3 -m pip --version >/dev/null 2>&1; then
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends python3 python3-pip >/dev/null
    rm -rf /var/lib/apt/lists/*
fi

# pinned: versions of what the base image's makers chose together.
pinned() {
    python3 -m pip list --format=freeze 2>/dev/null | grep -iE '^(torch|numpy|apex)==' || true
}

if ! python3 -c 'import torch' 2>/dev/null; then
    python3 -m pip install --no-cache-dir "torch==$TORCH_VERSION" \
        ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"}
fi
pinned >pinned.txt
python3 -m pip install --no-cache-dir -r requirements-quickstart.txt -c pinned.txt
# Wheels for some systems only; without it --decoder beam says what is missing.
python3 -m pip install --no-cache-dir --only-binary :all: -r requirements-decode.txt -c pinned.txt \
    || echo "note: no wheel of flashlight-text here; the image has no beam search"

pinned >now.txt
while read -r package; do
    grep -qxF "$package" now.txt || {
        echo "error: the base image's $package was replaced; see $(tr '\n' ' ' <now.txt)" >&2
        exit 1
    }
done <pinned.txt
