#!/usr/bin/env bash
# Pre-trains wav2vec 2.0 Base with the Hourglass encoder on LibriSpeech's 960 hours.
# Arguments go to train.py; `python train.py pretrain --help` lists its flags.
set -euo pipefail

: "${OUTPUT_DIR:=results/pretrain_base}"  # checkpoints and logs
: "${DATASET_DIR:=/datasets/LibriSpeech}" # filelists and labels
: "${TRAIN_SUBSET:=train-full-960}"       # one or several filelists
: "${VALID_SUBSET:=dev-other}"            # one or several filelists

: "${NUM_GPUS:=8}"               # processes, one per GPU
: "${NUM_CONCAT_BATCHES:=8}"     # sub-batches that a process computes at once
: "${UPDATE_FREQ:=1}"            # batches that a process accumulates
: "${BATCHES_PER_UPDATE:=64}"    # NUM_GPUS x NUM_CONCAT_BATCHES x UPDATE_FREQ of the recipe
: "${MAX_TOKENS:=1400000}"       # audio samples in a sub-batch
: "${MIN_SAMPLE_SIZE:=32000}"    # samples; shorter utterances are skipped
: "${MAX_SAMPLE_SIZE:=250000}"   # samples; longer utterances are cropped

: "${MODEL:=base}"                          # base, large, small or mini
: "${HOURGLASS_CONFIG=[2,(8,4),2]}"         # layers and shortening factor; empty: plain encoder
: "${MASK_PROB:=0.65}"
: "${MASK_SPAN:=10}"                        # frames per masked span
: "${LOSS_WEIGHTS:=0.1 10.0}"               # diversity, features penalty
: "${DROPOUT:=0.1}"
: "${DROPOUT_INPUT:=0.1}"
: "${DROPOUT_FEATURES:=0.1}"
: "${ATTENTION_DROPOUT:=0.1}"
: "${ACTIVATION_DROPOUT:=0.0}"
: "${ENCODER_LAYERDROP:=0.05}"
: "${FEATURE_GRAD_MULT:=0.1}"               # 0: the feature extractor is not trained
: "${GUMBEL_TEMPERATURE:=2.0 0.5 0.999995}" # start, end, decay per update

: "${MAX_UPDATE:=400000}"        # updates in total
: "${WARMUP_UPDATES:=32000}"     # updates
: "${LEARNING_RATE:=0.0005}"     # at its peak
: "${ADAM_BETAS:=0.9 0.98}"
: "${ADAM_EPS:=1e-6}"
: "${WEIGHT_DECAY:=0.01}"
: "${CLIP_NORM:=25.0}"           # 0: no clipping
: "${SEED:=1}"
: "${SAVE_FREQUENCY:=1}"         # epochs between checkpoints

source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

pretrain "$@"
