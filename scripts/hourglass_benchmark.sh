#!/usr/bin/env bash
# Throughput and memory of Base pre-training by shortening factor: the plain encoder and factors 2
# to 6 take turns in one run on one GPU.  On a CPU, with batches of noise:
#   CPU=true DATASET_DIR="" NUM_CONCAT_BATCHES=1 PRECISIONS="fp32 bf16" bash scripts/hourglass_benchmark.sh
# Arguments go to `python -m utils.benchmarks.step`; its --help lists the flags.
set -euo pipefail

: "${OUTPUT_DIR:=results/hourglass_benchmark}"
: "${DATASET_DIR=/datasets/LibriSpeech}"  # empty: batches of noise
: "${TRAIN_SUBSET:=train-full-960}"
: "${UTTERANCES:=4}"                      # in a batch of noise
: "${UTTERANCE_SECONDS:=10.0}"

: "${FACTORS:=1 2 3 4 5 6}"               # 1: the plain encoder
: "${PRECISIONS:=bf16}"                   # fp32, bf16 or both
: "${PEERS:=}"                            # transformers: beside ours, in the same run
: "${ROUNDS:=10}"                         # each configuration has a turn per round
: "${UPDATES_A_TURN:=3}"
: "${WARMUP:=3}"                          # updates of each before the first round

# As in pretrain_base.sh.
: "${NUM_CONCAT_BATCHES:=8}"              # one or several
: "${MAX_TOKENS:=1400000}"                # audio samples in a sub-batch
: "${MIN_SAMPLE_SIZE:=32000}"             # samples
: "${MAX_SAMPLE_SIZE:=250000}"
: "${MODEL:=base}"
: "${SEED:=1}"
: "${CPU:=false}"

source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"

OTHER_NAMES+=(
    [UTTERANCE_SECONDS]=seconds [UPDATES_A_TURN]=updates
    [PRECISIONS]=precision [PEERS]=peer [NUM_CONCAT_BATCHES]=concat
)
LISTS+=" NUM_CONCAT_BATCHES "
add_flags hourglass_benchmark.sh
"$PYTHON" -m utils.benchmarks.step "${flags[@]}" "$@"
