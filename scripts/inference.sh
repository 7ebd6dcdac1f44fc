#!/usr/bin/env bash
# Evaluates a fine-tuned checkpoint: word and unit error rate of each subset, greedy unless
# --decoder beam with --lm, --lexicon or both is given (docs/decoding.md).  Anything after the
# script's name goes to inference.py evaluate unchanged.
set -euo pipefail

: "${FINETUNED_MODEL:=results/finetune_base_960h/wav2vec2_best.pt}"
: "${DATASET_DIR:=/datasets/LibriSpeech}"
: "${SUBSETS:=dev-clean dev-other test-clean test-other}"
: "${OUTPUT_DIR:=results/inference}"
: "${BATCH_SIZE:=8}"
: "${NUM_WORKERS:=2}"
: "${CPU:=false}"

source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"

read -ra subsets <<<"$SUBSETS"
for subset in "${subsets[@]}"; do
    "$PYTHON" inference.py evaluate --checkpoint "$FINETUNED_MODEL" \
        --dataset_dir "$DATASET_DIR" --subset "$subset" --output_dir "$OUTPUT_DIR" \
        --batch_size "$BATCH_SIZE" --num_workers "$NUM_WORKERS" --cpu "$CPU" "$@"
done
