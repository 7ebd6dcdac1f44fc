#!/usr/bin/env bash
# Fine-tunes what scripts/pretrain_small.sh made, on a few minutes of transcribed speech or more.
#   CPU=true NUM_GPUS=2 DATASET_DIR=datasets/mine bash scripts/finetune_small.sh
# From a published checkpoint: scripts/finetune_own.sh.
# Arguments go to train.py; `python train.py finetune --help` lists its flags.
set -euo pipefail

: "${PRETRAINED_MODEL:=results/pretrain_small/wav2vec2_best.pt}" # checkpoint to start from
: "${OUTPUT_DIR:=results/finetune_small}"  # checkpoints and logs
: "${DATASET_DIR:=datasets/mine}"          # filelists and labels
: "${TRAIN_SUBSET:=train}"                 # one or several filelists
: "${VALID_SUBSET:=valid}"                 # one or several filelists
: "${LABELS:=ltr}"                         # ending of the label files

: "${NUM_GPUS:=1}"               # processes, 1 or 2: one per GPU; with CPU=true they share the cores
: "${NUM_CONCAT_BATCHES:=1}"     # sub-batches that a process computes at once
: "${BATCHES_PER_UPDATE:=2}"     # NUM_GPUS x NUM_CONCAT_BATCHES x UPDATE_FREQ of the recipe
: "${UPDATE_FREQ:=2}"            # batches that a process accumulates
: "${AUTO_GEOMETRY:=true}"       # with other numbers of processes, UPDATE_FREQ is chosen to match
: "${MAX_TOKENS:=240000}"        # audio samples in a sub-batch, padding included

: "${SPEEDS=0.88 1 1.12}"         # of each training utterance: they imitate more voices; empty: as recorded
: "${RANDOM_WEIGHTS:=false}"     # the architecture of PRETRAINED_MODEL with random weights, to compare
: "${FREEZE_FINETUNE_UPDATES:=0}"
: "${MASK_PROB:=0.0}"
: "${MASK_SPAN:=5}"              # frames per masked span
: "${MASK_CHANNEL_PROB:=0.0}"
: "${MASK_CHANNEL_SPAN:=16}"     # channels
: "${DROPOUT:=0.0}"
: "${DROPOUT_INPUT:=0.0}"
: "${ATTENTION_DROPOUT:=0.0}"
: "${ACTIVATION_DROPOUT:=0.05}"
: "${FINAL_DROPOUT:=0.0}"
: "${ENCODER_LAYERDROP:=0.0}"
: "${FEATURE_GRAD_MULT:=1.0}"    # 0: the feature extractor is not trained

: "${MAX_UPDATE:=2000}"          # the schedule ends here
: "${WARMUP_UPDATES:=}"          # default: a tenth of MAX_UPDATE
: "${HOLD_UPDATES:=}"            # at the peak; default: four tenths of MAX_UPDATE
: "${LEARNING_RATE:=0.002}"      # at its peak; MINI was measured with 0.004
: "${ADAM_BETAS:=0.9 0.98}"
: "${ADAM_EPS:=1e-8}"
: "${WEIGHT_DECAY:=0.0}"
: "${CLIP_NORM:=0.0}"            # 0: no clipping
: "${SEED:=1}"
: "${SAVE_FREQUENCY:=20}"        # epochs between checkpoints
: "${VALIDATE_FREQUENCY:=5}"     # epochs between validations
: "${LOG_FREQUENCY:=50}"         # updates between log lines

source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

finetune "$@"
