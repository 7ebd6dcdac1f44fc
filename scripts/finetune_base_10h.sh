#!/usr/bin/env bash
# Fine-tunes Base on Libri-light's 10 hours.
# Anything after the script's name goes to train.py unchanged.
set -euo pipefail

: "${PRETRAINED_MODEL:=results/pretrain_base/wav2vec2_update400000.pt}"
: "${OUTPUT_DIR:=results/finetune_base_10h}"
: "${DATASET_DIR:=/datasets/LibriSpeech}"
: "${TRAIN_SUBSET:=train-10h}"
: "${VALID_SUBSET:=dev-other}"
: "${LABELS:=ltr}"

: "${NUM_GPUS:=8}"
: "${NUM_CONCAT_BATCHES:=1}"
: "${UPDATE_FREQ:=1}"
: "${BATCHES_PER_UPDATE:=8}"     # the recipe: keep NUM_GPUS x NUM_CONCAT_BATCHES x UPDATE_FREQ so
: "${MAX_TOKENS:=3200000}"       # audio samples in a sub-batch, padding included

: "${FREEZE_FINETUNE_UPDATES:=10000}"
: "${MASK_PROB:=0.65}"
: "${MASK_SPAN:=10}"             # frames
: "${MASK_CHANNEL_PROB:=0.5}"
: "${MASK_CHANNEL_SPAN:=64}"     # channels
: "${DROPOUT:=0.0}"
: "${DROPOUT_INPUT:=0.0}"
: "${ATTENTION_DROPOUT:=0.0}"
: "${ACTIVATION_DROPOUT:=0.1}"
: "${FINAL_DROPOUT:=0.0}"
: "${ENCODER_LAYERDROP:=0.05}"
: "${FEATURE_GRAD_MULT:=0.0}"    # the feature extractor stays as it is

: "${MAX_UPDATE:=20000}"         # 10 % warm-up, 40 % at the peak, 50 % decay
: "${LEARNING_RATE:=5e-5}"
: "${ADAM_BETAS:=0.9 0.98}"
: "${ADAM_EPS:=1e-8}"
: "${WEIGHT_DECAY:=0.0}"
: "${CLIP_NORM:=0.0}"            # none
: "${SEED:=1}"
: "${SAVE_FREQUENCY:=10}"        # epochs
: "${VALIDATE_FREQUENCY:=50}"    # epochs: about a thousand updates or two

source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

finetune "$@"
