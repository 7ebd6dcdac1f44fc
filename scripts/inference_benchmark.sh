#!/usr/bin/env bash
# Latency of a fine-tuned checkpoint by batch size: data, network and both, with real-time factor
# and memory, as a table.
#   BATCH_SIZES="1 4" CPU=true bash scripts/inference_benchmark.sh
# Arguments go to `python inference.py benchmark`; its --help lists the flags.
set -euo pipefail

: "${FINETUNED_MODEL:=results/finetune_base_960h/wav2vec2_best.pt}"  # checkpoint
: "${DATASET_DIR:=/datasets/LibriSpeech}"
: "${BENCHMARK_SUBSET:=test-other}"
: "${OUTPUT_DIR:=results/inference_benchmark}"
: "${BATCH_SIZES:=1 4 8}"
: "${WARMUP:=5}"               # batches before each measurement
: "${PRECISION:=fp32}"         # or bf16, fp16
: "${CPU:=false}"

source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"

add_flags inference_benchmark.sh
"$PYTHON" inference.py benchmark "${flags[@]}" "$@"
