#!/usr/bin/env bash
# Throughput of fine-tuning Base: finetune_base_960h.sh for a few epochs, whose mean ends the log.
# Every variable of finetune_base_960h.sh works here, too.
# Arguments go to train.py; `python train.py finetune --help` lists its flags.
set -euo pipefail

: "${OUTPUT_DIR:=results/finetune_base_benchmark}" # checkpoints and logs
: "${NUM_WARMUP_EPOCHS:=2}"                        # not counted
: "${NUM_EPOCHS:=5}"                               # counted
: "${NO_SAVE:=true}"

source "$(dirname "${BASH_SOURCE[0]}")/finetune_base_960h.sh" \
    --benchmark_warmup_epochs "$NUM_WARMUP_EPOCHS" --benchmark_epochs_num "$NUM_EPOCHS" "$@"
