#!/usr/bin/env bash
# Evaluates a fine-tuned checkpoint: word and unit error rate of each subset, greedy unless
# --decoder beam with --lm, --lexicon or both is given (docs/decoding.md).  Anything after the
# script's name goes to inference.py evaluate unchanged.
set -euo pipefail

: "${FINETUNED_MODEL:=results/finetune_base_960h/wav2vec2_best.pt}"
: "${DATASET_DIR:=/datasets/LibriSpeech}"
: "${SUBSETS:=dev-clean dev-other test-clean test-other}"
: "${OUTPUT_DIR:=results/inference}"
: "${NUM_GPUS:=1}"             # processes that share the utterances, one per GPU
: "${BATCH_SIZE:=8}"
: "${NUM_WORKERS:=2}"
: "${CPU:=false}"              # NUM_GPUS then counts processes

source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"

add_flags inference.sh
start=("$PYTHON")
if [[ $NUM_GPUS != 1 ]]; then
    share_cores
    start+=(-m common.runtime.launcher --standalone --nproc_per_node "$NUM_GPUS")
fi
"${start[@]}" inference.py evaluate "${flags[@]}" "$@"
