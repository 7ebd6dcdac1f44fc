#!/usr/bin/env bash
# Writes filelists, labels and the dictionary of a corpus in LibriSpeech's layout, into its folder.
#   DATASET_DIR=~/speech/LibriSpeech SUBSETS="dev-clean test-clean" bash scripts/generate_filelists.sh
# For recordings in another layout use `python -m utils.data.import_corpus` (docs/own_data.md).
# Arguments go to `python -m utils.data.make_filelists`; its --help lists the flags.
set -euo pipefail

: "${DATASET_DIR:=/datasets/LibriSpeech}"  # holds the folders of SUBSETS
: "${SUBSETS:=dev-clean dev-other test-clean test-other train-clean-100 train-clean-360 train-other-500}"
: "${FILELISTS_DIR:=}"      # folder to write to; empty: DATASET_DIR
: "${EXT:=flac}"            # recordings: flac or wav
: "${COMBINE=auto}"         # auto: train-full-960 if SUBSETS holds its three parts; empty: nothing
: "${DICTIONARY_FROM=auto}" # auto: train-full-960, or else the first train-* of SUBSETS

source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"

read -ra subsets <<<"$SUBSETS"
training=""
parts=0
for subset in "${subsets[@]}"; do
    case $subset in train-clean-100 | train-clean-360 | train-other-500) parts=$((parts + 1)) ;; esac
    if [[ $subset == train-* ]]; then training=${training:-$subset}; fi
done
if [[ $COMBINE == auto ]]; then
    COMBINE=""
    if ((parts == 3)); then
        training=train-full-960
        COMBINE=$training=train-clean-100,train-clean-360,train-other-500
    fi
fi
if [[ $DICTIONARY_FROM == auto ]]; then DICTIONARY_FROM=$training; fi

read -ra combine <<<"$COMBINE"
"$PYTHON" -m utils.data.make_filelists --subsets "${subsets[@]}" --corpus_dir "$DATASET_DIR" \
    --output_dir "$FILELISTS_DIR" --extension "$EXT" \
    --combine ${combine[@]+"${combine[@]}"} --dictionary_from "$DICTIONARY_FROM" "$@"
