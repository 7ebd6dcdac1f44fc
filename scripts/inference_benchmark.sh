#!/usr/bin/env bash
# Latency of a fine-tuned checkpoint by batch size: data, network and both, with real-time factor
# and memory, as a table.
#   BATCH_SIZES="1 4" CPU=true bash scripts/inference_benchmark.sh
# Arguments go to `python inference.py benchmark`; its --help lists the flags.
set -euo pipefail

: "${FINETUNED_MODEL:=results/finetune_base_960h/wav2vec2_best.pt}"  # checkpoint
: "${ADAPTER_LANGUAGE:=}"      # of a recogniser such as MMS: which of its languages, such as deu
: "${DATASET_DIR:=/datasets/LibriSpeech}"
: "${BENCHMARK_SUBSET:=test-other}"
: "${VALID_SUBSET:=}"          # another name of BENCHMARK_SUBSET
: "${OUTPUT_DIR:=results/inference_benchmark}"
: "${BATCH_SIZES:=1 4 8}"
: "${BATCH_SIZE:=}"            # another name of BATCH_SIZES
: "${NUM_REPEATS:=1}"          # times that the subset is measured
: "${NUM_WARMUP_REPEATS:=0}"   # times that the subset is run before each measurement
: "${WARMUP:=5}"               # batches before each measurement
: "${PRECISION:=fp32}"         # or bf16, fp16, int8
: "${FP16:=false}"             # another name of PRECISION=fp16
: "${BF16:=false}"             # another name of PRECISION=bf16
: "${CPU:=false}"

source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"

take_alias VALID_SUBSET BENCHMARK_SUBSET
take_alias BATCH_SIZE BATCH_SIZES
choose_precision
if [[ $precision != fp32 ]]; then
    if [[ ${PRECISION@a} == *x* && $PRECISION != "$precision" ]]; then
        echo "error: ${precision^^}=true PRECISION=$PRECISION: set one of them" >&2
        exit 2
    fi
    PRECISION=$precision
fi
NO_FLAGS+=" VALID_SUBSET BATCH_SIZE "
add_flags inference_benchmark.sh
"$PYTHON" inference.py benchmark "${flags[@]}" ${ADAPTER_LANGUAGE:+--language "$ADAPTER_LANGUAGE"} "$@"
