#!/usr/bin/env bash
# Pre-trains wav2vec 2.0 Base with the Hourglass encoder on LibriSpeech's 960 hours.
# Anything after the script's name goes to train.py unchanged.
set -euo pipefail

: "${OUTPUT_DIR:=results/pretrain_base}"
: "${DATASET_DIR:=/datasets/LibriSpeech}"
: "${TRAIN_SUBSET:=train-full-960}"
: "${VALID_SUBSET:=dev-other}"

: "${NUM_GPUS:=8}"
: "${NUM_CONCAT_BATCHES:=8}"
: "${UPDATE_FREQ:=1}"
: "${BATCHES_PER_UPDATE:=64}"    # the recipe: keep NUM_GPUS x NUM_CONCAT_BATCHES x UPDATE_FREQ so
: "${MAX_TOKENS:=1400000}"       # audio samples in a sub-batch
: "${MIN_SAMPLE_SIZE:=32000}"    # samples
: "${MAX_SAMPLE_SIZE:=250000}"

: "${MODEL:=base}"
: "${HOURGLASS_CONFIG=[2,(8,4),2]}"
: "${MASK_PROB:=0.65}"
: "${MASK_SPAN:=10}"             # frames
: "${LOSS_WEIGHTS:=0.1 10.0}"    # diversity, features penalty
: "${DROPOUT:=0.1}"
: "${DROPOUT_INPUT:=0.1}"
: "${DROPOUT_FEATURES:=0.1}"
: "${ATTENTION_DROPOUT:=0.1}"
: "${ACTIVATION_DROPOUT:=0.0}"
: "${ENCODER_LAYERDROP:=0.05}"
: "${FEATURE_GRAD_MULT:=0.1}"
: "${GUMBEL_TEMPERATURE:=2.0 0.5 0.999995}" # start, end, decay per update

: "${MAX_UPDATE:=400000}"
: "${WARMUP_UPDATES:=32000}"
: "${LEARNING_RATE:=0.0005}"
: "${ADAM_BETAS:=0.9 0.98}"
: "${ADAM_EPS:=1e-6}"
: "${WEIGHT_DECAY:=0.01}"
: "${CLIP_NORM:=25.0}"
: "${SEED:=1}"
: "${SAVE_FREQUENCY:=1}"         # epochs

source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

pretrain "$@"
