#!/usr/bin/env bash
# Evaluates a fine-tuned checkpoint: word and unit error rate of each subset.  Decoding is greedy;
# --decoder beam with --lm, --lexicon or both searches with a language model (docs/decoding.md).
#   FINETUNED_MODEL=results/mine/wav2vec2_best.pt DATASET_DIR=datasets/mine SUBSETS=test \
#       bash scripts/inference.sh
# Arguments go to `python inference.py evaluate`; its --help lists the flags.
set -euo pipefail

: "${FINETUNED_MODEL:=results/finetune_base_960h/wav2vec2_best.pt}"  # checkpoint
: "${ADAPTER_LANGUAGE:=}"      # of a recogniser such as MMS: which of its languages, such as deu
: "${DATASET_DIR:=/datasets/LibriSpeech}"
: "${SUBSETS:=dev-clean dev-other test-clean test-other}"
: "${VALID_SUBSET:=}"          # another name of SUBSETS
: "${OUTPUT_DIR:=results/inference}"  # hypotheses and figures
: "${NUM_GPUS:=1}"             # processes that share the utterances, one per GPU
: "${BATCH_SIZE:=8}"           # utterances
: "${NUM_WORKERS:=2}"          # data loading workers per process
: "${FP16:=false}"             # half precision
: "${BF16:=false}"             # bfloat16
: "${CPU:=false}"              # NUM_GPUS then counts processes

source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"

take_alias VALID_SUBSET SUBSETS
choose_precision
NO_FLAGS+=" VALID_SUBSET "
add_flags inference.sh
start=("$PYTHON")
if [[ $NUM_GPUS != 1 ]]; then
    share_cores
    start+=(-m common.runtime.launcher --standalone --nproc_per_node "$NUM_GPUS")
fi
"${start[@]}" inference.py evaluate "${flags[@]}" --precision "$precision" \
    ${ADAPTER_LANGUAGE:+--language "$ADAPTER_LANGUAGE"} "$@"
