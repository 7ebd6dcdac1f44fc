#!/usr/bin/env bash
# Throughput and memory of Base pre-training by hourglass factor: the plain encoder and factors 2 to 6
# take turns in one run on one GPU, as the table of pooling factors has them.  On a CPU, with noise:
#   CPU=true DATASET_DIR="" NUM_CONCAT_BATCHES=1 PRECISIONS="fp32 bf16" bash scripts/hourglass_benchmark.sh
# Anything after the script's name goes to utils.benchmarks.step unchanged.
set -euo pipefail

: "${OUTPUT_DIR:=results/hourglass_benchmark}"
: "${DATASET_DIR=/datasets/LibriSpeech}"  # empty: batches of noise
: "${TRAIN_SUBSET:=train-full-960}"
: "${UTTERANCES:=4}"                      # of a batch of noise
: "${UTTERANCE_SECONDS:=10.0}"

: "${FACTORS:=1 2 3 4 5 6}"               # 1: the plain encoder
: "${PRECISIONS:=bf16}"                   # fp32, bf16 or both
: "${PEERS:=}"                            # transformers: beside ours, in the same run
: "${ROUNDS:=10}"                         # every configuration has its turn in each
: "${UPDATES_A_TURN:=3}"
: "${WARMUP:=3}"                          # updates of each before the first round

# As pretrain_base.sh has them.
: "${NUM_CONCAT_BATCHES:=8}"              # several: each is measured
: "${MAX_TOKENS:=1400000}"                # audio samples in a sub-batch
: "${MIN_SAMPLE_SIZE:=32000}"             # samples
: "${MAX_SAMPLE_SIZE:=250000}"
: "${MODEL:=base}"
: "${SEED:=1}"
: "${CPU:=false}"

source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"

read -ra subsets <<<"$TRAIN_SUBSET"
read -ra factors <<<"$FACTORS"
read -ra precisions <<<"$PRECISIONS"
read -ra peers <<<"$PEERS"
read -ra concat <<<"$NUM_CONCAT_BATCHES"
"$PYTHON" -m utils.benchmarks.step --output_dir "$OUTPUT_DIR" --cpu "$CPU" \
    --dataset_dir "$DATASET_DIR" --train_subset "${subsets[@]}" \
    --utterances "$UTTERANCES" --seconds "$UTTERANCE_SECONDS" \
    --model "$MODEL" --factors "${factors[@]}" --precision "${precisions[@]}" \
    --peer ${peers[@]+"${peers[@]}"} --concat "${concat[@]}" \
    --rounds "$ROUNDS" --updates "$UPDATES_A_TURN" --warmup "$WARMUP" \
    --max_tokens "$MAX_TOKENS" --min_sample_size "$MIN_SAMPLE_SIZE" \
    --max_sample_size "$MAX_SAMPLE_SIZE" --seed "$SEED" "$@"
