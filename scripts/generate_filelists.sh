#!/usr/bin/env bash
# Writes filelists, labels and the dictionary of a corpus in LibriSpeech's layout.
# Anything after the script's name goes to utils/make_filelists.py unchanged.
set -euo pipefail

: "${DATASET_DIR:=/datasets/LibriSpeech}"
: "${SUBSETS:=dev-clean dev-other test-clean test-other train-clean-100 train-clean-360 train-other-500}"
: "${COMBINE=train-full-960=train-clean-100,train-clean-360,train-other-500}"  # empty for none
: "${DICTIONARY_FROM:=train-full-960}"
: "${PYTHON:=python3}"

recipe=$(realpath "$0")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
"$PYTHON" -m utils.check_variables "$recipe"

read -ra subsets <<<"$SUBSETS"
read -ra combine <<<"$COMBINE"
"$PYTHON" -m utils.make_filelists --corpus_dir "$DATASET_DIR" --subsets "${subsets[@]}" \
    --combine ${combine[@]+"${combine[@]}"} --dictionary_from "$DICTIONARY_FROM" "$@"
