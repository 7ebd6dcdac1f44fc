#!/usr/bin/env bash
# Fine-tunes Base on Libri-light's 1 hour.
# utils/data/make_librilight_subsets.py writes its filelist. For your own data, name other subsets.
# Arguments go to train.py; `python train.py finetune --help` lists its flags.
set -euo pipefail

: "${PRETRAINED_MODEL:=results/pretrain_base/wav2vec2_update400000.pt}" # checkpoint to start from
: "${OUTPUT_DIR:=results/finetune_base_1h}"                             # checkpoints and logs
: "${DATASET_DIR:=/datasets/LibriSpeech}"                               # filelists and labels
: "${TRAIN_SUBSET:=train-1h}"                                           # one or several filelists
: "${VALID_SUBSET:=dev-other}"                                          # one or several filelists
: "${LABELS:=ltr}"                                                      # ending of the label files

: "${NUM_GPUS:=8}"               # processes, one per GPU
: "${NUM_CONCAT_BATCHES:=1}"     # sub-batches that a process computes at once
: "${UPDATE_FREQ:=1}"            # batches that a process accumulates
: "${BATCHES_PER_UPDATE:=8}"     # NUM_GPUS x NUM_CONCAT_BATCHES x UPDATE_FREQ of the recipe
: "${MAX_TOKENS:=3200000}"       # audio samples in a sub-batch, padding included

: "${FREEZE_FINETUNE_UPDATES:=10000}"
: "${MASK_PROB:=0.65}"
: "${MASK_SPAN:=10}"             # frames per masked span
: "${MASK_CHANNEL_PROB:=0.25}"
: "${MASK_CHANNEL_SPAN:=64}"     # channels
: "${DROPOUT:=0.0}"
: "${DROPOUT_INPUT:=0.0}"
: "${ATTENTION_DROPOUT:=0.0}"
: "${ACTIVATION_DROPOUT:=0.1}"
: "${FINAL_DROPOUT:=0.0}"
: "${ENCODER_LAYERDROP:=0.1}"
: "${FEATURE_GRAD_MULT:=0.0}"    # 0: the feature extractor is not trained

: "${MAX_UPDATE:=13000}"         # the schedule ends here
: "${WARMUP_UPDATES:=}"         # default: a tenth of MAX_UPDATE
: "${HOLD_UPDATES:=}"           # at the peak; default: four tenths of MAX_UPDATE
: "${LEARNING_RATE:=5e-5}"       # at its peak
: "${ADAM_BETAS:=0.9 0.98}"
: "${ADAM_EPS:=1e-8}"
: "${WEIGHT_DECAY:=0.0}"
: "${CLIP_NORM:=0.0}"            # 0: no clipping
: "${SEED:=1}"
: "${SAVE_FREQUENCY:=10}"        # epochs between checkpoints
: "${VALIDATE_FREQUENCY:=500}"   # epochs: about a thousand updates or two

source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

finetune "$@"
