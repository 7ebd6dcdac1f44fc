#!/usr/bin/env bash
# From nothing to a speech recogniser in minutes on a laptop: builds a small corpus of spoken
# commands, pre-trains a MINI wav2vec 2.0 with the Hourglass encoder on its audio, fine-tunes it
# on its transcripts, and transcribes unseen voices.
# It installs what is missing into .venv.  A second run reuses what exists.
#   bash scripts/quickstart.sh
#   RANDOM_WEIGHTS=true OUTPUT_DIR=results/random bash scripts/quickstart.sh
# The second command skips the pre-trained weights: compare the word error rates.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

: "${OUTPUT_DIR:=results/quickstart}"  # checkpoints, transcripts, report.html
: "${DATASET_DIR:=datasets/mini}"     # the small corpus
: "${MINUTES:=30}"                  # of audio to train on
: "${SEED:=1}"
: "${RANDOM_WEIGHTS:=false}"        # fine-tune from random weights

# Two sub-batches per update: at once on two cores, one after the other on one.  One thread per
# process: several would wait for each other whenever anything else runs.
: "${NUM_GPUS:=$(($(nproc) > 1 ? 2 : 1))}"   # processes
: "${UPDATE_FREQ:=$((2 / NUM_GPUS))}"
: "${NUM_WORKERS:=0}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
CPU=true
geometry=(--num_concat_batches 1 --update_freq "$UPDATE_FREQ" --batches_per_update 2)
data=(--dataset_dir "$DATASET_DIR" --train_subset train-mini --valid_subset dev-mini)

: "${HOURGLASS_CONFIG:=[1,(2,2),1]}"
: "${PRETRAIN_UPDATES:=1000}"
: "${PRETRAIN_LEARNING_RATE:=0.0015}"
: "${PRETRAIN_MAX_TOKENS:=80000}"   # few utterances per sub-batch: many would lose masked frames
: "${FINETUNE_UPDATES:=2000}"
: "${FINETUNE_LEARNING_RATE:=0.004}"
: "${FINETUNE_MAX_TOKENS:=64000}"

mkdir -p "$OUTPUT_DIR"
# stage NAME COMMAND ...: run a stage unless it is done; its seconds are kept for the summary.
stage() {
    local name=$1 start
    shift
    if [[ -f $OUTPUT_DIR/$name.seconds ]]; then
        echo "== $name: done already"
        return
    fi
    echo "== $name"
    start=$(date +%s.%N)
    "$@"
    "$PYTHON" -c 'import sys, time; print(round(time.time() - float(sys.argv[1]), 1))' "$start" \
        >"$OUTPUT_DIR/$name.seconds"
}

filelists() {
    DATASET_DIR=$DATASET_DIR SUBSETS="train-mini dev-mini test-mini" \
        bash scripts/generate_filelists.sh | sed '/^next: /d'
}

corpus() {
    "$PYTHON" -m utils.data.make_mini_corpus --output_dir "$DATASET_DIR" --minutes "$MINUTES" \
        | sed '/^next: /d'
}

pretrain_mini() {
    LOG_FREQUENCY=50 launch pretrain --output_dir "$OUTPUT_DIR/pretrain" "${data[@]}" \
        --model mini --hourglass_config "$HOURGLASS_CONFIG" \
        --max_tokens "$PRETRAIN_MAX_TOKENS" "${geometry[@]}" \
        --min_sample_size 8000 --max_sample_size 48000 --mask_span 5 \
        --dropout 0 --dropout_input 0 --dropout_features 0 --attention_dropout 0 --layerdrop 0 \
        --feature_grad_mult 1.0 --loss_weights 0.1 0.0 \
        --max_update "$PRETRAIN_UPDATES" --warmup_updates "$((PRETRAIN_UPDATES / 10))" \
        --learning_rate "$PRETRAIN_LEARNING_RATE" --seed "$SEED" \
        --validate_at_start --save_frequency 1000
}

finetune_mini() {
    LOG_FREQUENCY=50 VALIDATE_FREQUENCY=2 launch finetune \
        --output_dir "$OUTPUT_DIR/finetune" "${data[@]}" \
        --pretrained_model "$OUTPUT_DIR/pretrain/wav2vec2_update$PRETRAIN_UPDATES.pt" \
        --random_weights "$RANDOM_WEIGHTS" \
        --max_tokens "$FINETUNE_MAX_TOKENS" "${geometry[@]}" \
        --dropout 0 --dropout_input 0 --activation_dropout 0.05 --layerdrop 0 \
        --feature_grad_mult 1.0 --mask_prob 0 --mask_channel_prob 0 \
        --max_update "$FINETUNE_UPDATES" --warmup_updates "$((FINETUNE_UPDATES / 10))" \
        --hold_updates "$((FINETUNE_UPDATES * 4 / 10))" \
        --learning_rate "$FINETUNE_LEARNING_RATE" --seed "$SEED" --save_frequency 1000
}

evaluate() {
    "$PYTHON" inference.py evaluate --cpu \
        --checkpoint "$OUTPUT_DIR/finetune/wav2vec2_update$FINETUNE_UPDATES.pt" \
        --dataset_dir "$DATASET_DIR" --subset test-mini --output_dir "$OUTPUT_DIR" --num_workers 0
}

prepare_python requirements-quickstart.txt
source scripts/launch.sh
stage corpus corpus
stage filelists filelists
stage pretrain pretrain_mini
stage finetune finetune_mini
stage evaluate evaluate
"$PYTHON" -m utils.reporting.report "$OUTPUT_DIR" --output "$OUTPUT_DIR/report.html"
"$PYTHON" -m utils.reporting.summarise_quickstart "$OUTPUT_DIR" --dataset_dir "$DATASET_DIR"
