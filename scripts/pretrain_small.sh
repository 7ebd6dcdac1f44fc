#!/usr/bin/env bash
# Pre-trains a small wav2vec 2.0 with the Hourglass encoder on half an hour to tens of hours of your own
# audio, on CPU cores or one GPU.  MODEL=mini is smaller and faster.
#   CPU=true NUM_GPUS=2 DATASET_DIR=datasets/audio bash scripts/pretrain_small.sh
# Arguments go to train.py; `python train.py pretrain --help` lists its flags.
set -euo pipefail

: "${OUTPUT_DIR:=results/pretrain_small}" # checkpoints and logs
: "${DATASET_DIR:=datasets/audio}"        # filelists; no transcripts are needed
: "${TRAIN_SUBSET:=train}"                # one or several filelists
: "${VALID_SUBSET:=valid}"                # one or several filelists

: "${NUM_GPUS:=1}"               # processes, 1 or 2: one per GPU; with CPU=true they share the cores
: "${NUM_CONCAT_BATCHES:=1}"     # sub-batches that a process computes at once
: "${BATCHES_PER_UPDATE:=2}"     # NUM_GPUS x NUM_CONCAT_BATCHES x UPDATE_FREQ of the recipe
: "${UPDATE_FREQ:=2}"            # batches that a process accumulates
: "${AUTO_GEOMETRY:=true}"       # with other numbers of processes, UPDATE_FREQ is chosen to match
: "${MAX_TOKENS:=80000}"         # audio samples in a sub-batch: few utterances keep their masked frames
: "${MIN_SAMPLE_SIZE:=8000}"     # samples; shorter utterances are skipped
: "${MAX_SAMPLE_SIZE:=80000}"    # samples; longer utterances are cropped
: "${SPEEDS=0.88 1 1.12}"        # of each training utterance: they imitate more voices; empty: as recorded

: "${MODEL:=small}"              # small or mini
: "${HOURGLASS_CONFIG=[2,(4,2),2]}"  # layers and shortening factor; of mini [1,(2,2),1]; empty: plain encoder
: "${MASK_PROB:=0.65}"
: "${MASK_SPAN:=5}"              # frames per masked span
: "${KEEP_EQUAL_DISTRACTORS:=true}" # count distractors with the target's codes: else few codes make the task easy
: "${LOSS_WEIGHTS:=0.5 0.0}"     # diversity, features penalty
: "${DROPOUT:=0.0}"
: "${DROPOUT_INPUT:=0.0}"
: "${DROPOUT_FEATURES:=0.0}"
: "${ATTENTION_DROPOUT:=0.0}"
: "${ACTIVATION_DROPOUT:=0.0}"
: "${ENCODER_LAYERDROP:=0.0}"
: "${FEATURE_GRAD_MULT:=1.0}"    # 0: the feature extractor is not trained
: "${GUMBEL_TEMPERATURE:=2.0 0.5 0}" # start, end, decay per update; 0: the end comes at half of MAX_UPDATE

: "${MAX_UPDATE:=16000}"         # updates in total
: "${WARMUP_UPDATES:=}"          # default: a tenth of MAX_UPDATE
if [[ $MODEL == mini ]]; then : "${LEARNING_RATE:=0.002}"; fi
: "${LEARNING_RATE:=0.001}"      # at its peak; 0.002 with MODEL=mini
: "${ADAM_BETAS:=0.9 0.98}"
: "${ADAM_EPS:=1e-6}"
: "${WEIGHT_DECAY:=0.01}"
: "${CLIP_NORM:=25.0}"           # 0: no clipping
: "${SEED:=1}"
: "${SAVE_FREQUENCY:=10}"        # epochs between checkpoints
: "${VALIDATE_FREQUENCY:=5}"     # epochs between validations
: "${LOG_FREQUENCY:=50}"         # updates between log lines

source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

# MINI has half of the layers.
if [[ $MODEL == mini && $HOURGLASS_CONFIG == "[2,(4,2),2]" ]]; then HOURGLASS_CONFIG="[1,(2,2),1]"; fi
pretrain "$@"
