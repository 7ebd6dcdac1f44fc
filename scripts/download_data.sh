#!/usr/bin/env bash
# Downloads LibriSpeech: resumable, verified; about 60 GB of archives, 130 GB with what
# they unpack to.
# Anything after the script's name goes to utils/data/download_librispeech.py unchanged.
set -euo pipefail

: "${DATASET_DIR:=/datasets/LibriSpeech}"
: "${SUBSETS:=dev-clean dev-other test-clean test-other train-clean-100 train-clean-360 train-other-500}"

source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"

if [[ $(basename "$DATASET_DIR") != LibriSpeech ]]; then
    echo "error: DATASET_DIR=$DATASET_DIR: the archives unpack to a folder LibriSpeech;" \
        "let DATASET_DIR end in /LibriSpeech" >&2
    exit 2
fi
read -ra subsets <<<"$SUBSETS"
"$PYTHON" -m utils.data.download_librispeech \
    --subsets "${subsets[@]}" --output_dir "$(dirname "$DATASET_DIR")" "$@"
