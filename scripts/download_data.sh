#!/usr/bin/env bash
# Downloads LibriSpeech: resumes, verifies checksums; 60 GB of archives, 130 GB while unpacking.
#   DATASET_DIR=~/speech/LibriSpeech SUBSETS="dev-clean test-clean" bash scripts/download_data.sh
# Arguments go to `python -m utils.data.download_librispeech`; its --help lists the flags.
set -euo pipefail

: "${DATASET_DIR:=/datasets/LibriSpeech}"  # must end in /LibriSpeech
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
