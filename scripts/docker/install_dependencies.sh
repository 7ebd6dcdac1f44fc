#!/bin/sh
# Inside the image that is built: installs what it lacks, and nothing anew that it has.
set -eu
cd "$(dirname "$0")"

if ! python3 -m pip --version >/dev/null 2>&1; then
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends python3 python3-pip >/dev/null
    rm -rf /var/lib/apt/lists/*
fi

# held: versions of what the base image's makers chose together.
held() {
    python3 -m pip list --format=freeze 2>/dev/null | grep -iE '^(torch|numpy|apex)==' || true
}

if ! python3 -c 'import torch' 2>/dev/null; then
    python3 -m pip install --no-cache-dir "torch==$TORCH_VERSION" \
        ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"}
fi
held >held.txt
python3 -m pip install --no-cache-dir -r requirements-quickstart.txt -c held.txt
# Wheels for some systems only; without it --decoder beam says what is missing.
python3 -m pip install --no-cache-dir --only-binary :all: -r requirements-decode.txt -c held.txt \
    || echo "note: no wheel of flashlight-text here; the image has no beam search"

held >now.txt
while read -r package; do
    grep -qxF "$package" now.txt || {
        echo "error: the base image's $package was replaced; see $(tr '\n' ' ' <now.txt)" >&2
        exit 1
    }
done <held.txt
