#!/usr/bin/env bash
# Fine-tunes Base on Libri-light's 1 hour.
# Anything after the script's name goes to train.py unchanged.
set -euo pipefail

: "${PRETRAINED_MODEL:=results/pretrain_base/wav2vec2_update400000.pt}"
: "${OUTPUT_DIR:=results/finetune_base_1h}"
: "${DATASET_DIR:=/datasets/LibriSpeech}"
: "${TRAIN_SUBSET:=train-1h}"
: "${VALID_SUBSET:=dev-other}"
: "${LABELS:=ltr}"

: "${NUM_GPUS:=8}"               # keep NUM_GPUS x NUM_CONCAT_BATCHES x UPDATE_FREQ = 8
: "${NUM_CONCAT_BATCHES:=1}"
: "${UPDATE_FREQ:=1}"
: "${MAX_TOKENS:=3200000}"      # audio samples in a sub-batch, padding included

: "${FREEZE_FINETUNE_UPDATES:=10000}"
: "${MASK_PROB:=0.65}"
: "${MASK_CHANNEL_PROB:=0.25}"
: "${ENCODER_LAYERDROP:=0.1}"

: "${MAX_UPDATE:=13000}"         # 10 % warm-up, 40 % at the peak, 50 % decay
: "${LEARNING_RATE:=5e-5}"
: "${SEED:=1}"
: "${SAVE_FREQUENCY:=10}"        # epochs

source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

launch finetune \
    --pretrained_model "$PRETRAINED_MODEL" --labels "$LABELS" \
    ${HOURGLASS_CONFIG+--hourglass "$HOURGLASS_CONFIG"} \
    --num_concat_batches "$NUM_CONCAT_BATCHES" --update_freq "$UPDATE_FREQ" \
    --max_tokens "$MAX_TOKENS" \
    --freeze_finetune_updates "$FREEZE_FINETUNE_UPDATES" \
    --mask_prob "$MASK_PROB" --mask_span 10 \
    --mask_channel_prob "$MASK_CHANNEL_PROB" --mask_channel_span 64 \
    --dropout 0.0 --dropout_input 0.0 --attention_dropout 0.0 --activation_dropout 0.1 \
    --final_dropout 0.0 --layerdrop "$ENCODER_LAYERDROP" --feature_grad_mult 0.0 \
    --schedule three_stage --max_update "$MAX_UPDATE" \
    --warmup_updates "$((MAX_UPDATE / 10))" --hold_updates "$((MAX_UPDATE * 4 / 10))" \
    --learning_rate "$LEARNING_RATE" \
    --adam_betas 0.9 0.98 --adam_eps 1e-8 --weight_decay 0.0 --clip_norm 0.0 \
    --seed "$SEED" --save_frequency "$SAVE_FREQUENCY" "$@"
