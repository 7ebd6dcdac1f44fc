#!/usr/bin/env bash
# From nothing to a speech recogniser in minutes on a laptop: builds a small corpus of spoken
# commands, pre-trains a MINI wav2vec 2.0 with the Hourglass encoder on its audio, fine-tunes it on
# the transcripts of a few minutes of it, and transcribes unseen voices.
# It installs what is missing into .venv.  A second run reuses what exists.
#   bash scripts/quickstart.sh
#   RANDOM_WEIGHTS=true OUTPUT_DIR=results/random bash scripts/quickstart.sh
# The second command fine-tunes from random weights: compare the word error rates.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

: "${OUTPUT_DIR:=results/quickstart}"  # checkpoints, transcripts, report.html
: "${DATASET_DIR:=datasets/mini}"     # the small corpus
: "${MINUTES:=90}"                  # of audio to pre-train on
: "${LABEL_MINUTES:=10}"            # of it with transcripts, to fine-tune on
: "${SEED:=1}"
: "${RANDOM_WEIGHTS:=false}"        # fine-tune from random weights; pre-training gives only the architecture

# Two sub-batches per update: at once on two cores, one after the other on one.  One thread per
# process: several would wait for each other whenever anything else runs.
: "${NUM_GPUS:=$(($(nproc) > 1 ? 2 : 1))}"   # processes
: "${NUM_WORKERS:=0}"
: "${HOURGLASS_CONFIG=[1,(2,2),1]}"
if [[ $RANDOM_WEIGHTS == true ]]; then : "${PRETRAIN_UPDATES:=20}"; fi
: "${PRETRAIN_UPDATES:=3000}"
: "${PRETRAIN_LEARNING_RATE:=0.002}"
: "${PRETRAIN_SPEEDS:=}"            # of each utterance of the pre-training; empty: as recorded
: "${FINETUNE_UPDATES:=2000}"
: "${FINETUNE_LEARNING_RATE:=0.004}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Not exported: recipes print a note on variables that they do not read.
export -n OUTPUT_DIR DATASET_DIR MINUTES LABEL_MINUTES SEED RANDOM_WEIGHTS NUM_GPUS NUM_WORKERS \
    HOURGLASS_CONFIG PRETRAIN_UPDATES PRETRAIN_LEARNING_RATE PRETRAIN_SPEEDS FINETUNE_UPDATES \
    FINETUNE_LEARNING_RATE
LABELLED=train-mini-${LABEL_MINUTES}min

# A finished stage is not run again, so a folder holds the results of one choice of settings.
settings=
for name in MINUTES LABEL_MINUTES SEED RANDOM_WEIGHTS HOURGLASS_CONFIG PRETRAIN_UPDATES \
    PRETRAIN_LEARNING_RATE PRETRAIN_SPEEDS FINETUNE_UPDATES FINETUNE_LEARNING_RATE; do
    settings+="$name=${!name} "
done
mkdir -p "$OUTPUT_DIR"
[[ -f $OUTPUT_DIR/settings ]] || echo "$settings" >"$OUTPUT_DIR/settings"
if [[ $(<"$OUTPUT_DIR/settings") != "$settings" ]]; then
    echo "error: OUTPUT_DIR $OUTPUT_DIR holds a quickstart with other settings;" \
        "choose another folder, or restore what $OUTPUT_DIR/settings has" >&2
    exit 2
fi

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

corpus() {
    "$PYTHON" -m utils.data.make_mini_corpus --output_dir "$DATASET_DIR" --minutes "$MINUTES" \
        | sed '/^next: /d'
}

filelists() {
    {
        DATASET_DIR=$DATASET_DIR SUBSETS="train-mini dev-mini test-mini" \
            bash scripts/generate_filelists.sh
        "$PYTHON" -m utils.data.make_label_subsets --dataset_dir "$DATASET_DIR" --subset train-mini \
            --minutes "$LABEL_MINUTES"
    } | sed '/^next: /d'
}

# recipe SCRIPT [FLAG ...]: a training recipe, with the variables that both stages share.
recipe() {
    CPU=true NUM_GPUS=$NUM_GPUS NUM_WORKERS=$NUM_WORKERS DATASET_DIR=$DATASET_DIR SEED=$SEED \
        VALID_SUBSET=dev-mini VALIDATE_FREQUENCY=1 SAVE_FREQUENCY=1000 bash "scripts/$1" "${@:2}"
}

pretrain_mini() {
    # The published error rates were measured with this temperature.
    GUMBEL_TEMPERATURE="2.0 0.5 0.999995" \
        OUTPUT_DIR=$OUTPUT_DIR/pretrain MODEL=mini HOURGLASS_CONFIG=$HOURGLASS_CONFIG \
        TRAIN_SUBSET=train-mini MAX_UPDATE=$PRETRAIN_UPDATES LEARNING_RATE=$PRETRAIN_LEARNING_RATE \
        SPEEDS=$PRETRAIN_SPEEDS recipe pretrain_small.sh --validate_at_start
}

finetune_mini() {
    PRETRAINED_MODEL=$OUTPUT_DIR/pretrain/wav2vec2_update$PRETRAIN_UPDATES.pt \
        OUTPUT_DIR=$OUTPUT_DIR/finetune TRAIN_SUBSET=$LABELLED MAX_TOKENS=64000 \
        MAX_UPDATE=$FINETUNE_UPDATES LEARNING_RATE=$FINETUNE_LEARNING_RATE \
        RANDOM_WEIGHTS=$RANDOM_WEIGHTS recipe finetune_small.sh
}

evaluate() {
    "$PYTHON" inference.py evaluate --cpu \
        --checkpoint "$OUTPUT_DIR/finetune/wav2vec2_update$FINETUNE_UPDATES.pt" \
        --dataset_dir "$DATASET_DIR" --subset test-mini --output_dir "$OUTPUT_DIR" --num_workers 0
}

prepare_python requirements-quickstart.txt
stage corpus corpus
stage filelists filelists
stage pretrain pretrain_mini
stage finetune finetune_mini
stage evaluate evaluate
"$PYTHON" -m utils.reporting.report "$OUTPUT_DIR" --output "$OUTPUT_DIR/report.html"
"$PYTHON" -m utils.reporting.summarise_quickstart "$OUTPUT_DIR" --dataset_dir "$DATASET_DIR" \
    --labelled "$LABELLED" --random_weights "$RANDOM_WEIGHTS"
