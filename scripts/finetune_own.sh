#!/usr/bin/env bash
# Fine-tunes a published checkpoint on your own transcribed corpus.
#   PRETRAINED_MODEL=facebook/wav2vec2-xls-r-300m DATASET_DIR=datasets/mine bash scripts/finetune_own.sh
# It measures the hours of TRAIN_SUBSET and chooses every `auto` below; it prints each value with its
# reason.  With --dry_run it only prints them.  A run in OUTPUT_DIR is resumed with its own values.
# Arguments go to train.py; `python train.py finetune --help` lists its flags.
set -euo pipefail

: "${PRETRAINED_MODEL:=}"           # checkpoint to start from, or a Hugging Face Hub id
: "${DATASET_DIR:=}"                # folder that utils.data.import_corpus wrote: filelists and labels
: "${OUTPUT_DIR:=results/finetune_own}"  # checkpoints and logs
: "${TRAIN_SUBSET:=train}"          # one or several filelists
: "${VALID_SUBSET:=valid}"          # one or several filelists
: "${LABELS:=ltr}"                  # ending of the label files

: "${HOURS:=auto}"                  # of audio in TRAIN_SUBSET; auto: measured
: "${GPU_MEMORY_GB:=auto}"          # memory to plan for; auto: this GPU's
: "${NUM_GPUS:=1}"                  # processes, one per GPU

: "${MAX_UPDATE:=auto}"             # the schedule ends here; auto: by the hours
: "${WARMUP_UPDATES:=}"             # default: a tenth of MAX_UPDATE
: "${HOLD_UPDATES:=}"               # at the peak; default: four tenths of MAX_UPDATE
: "${LEARNING_RATE:=auto}"          # at its peak; auto: by the hours
: "${FREEZE_FINETUNE_UPDATES:=auto}"  # only the output layer learns; auto: by hours and start
: "${MASK_PROB:=auto}"              # auto: by the hours
: "${MASK_SPAN:=10}"                # frames per masked span
: "${MASK_CHANNEL_PROB:=auto}"      # auto: by the hours
: "${MASK_CHANNEL_SPAN:=64}"        # channels
: "${ENCODER_LAYERDROP:=auto}"      # auto: by the hours

: "${BF16:=auto}"                   # auto: true where the GPU supports it
: "${ACTIVATION_CHECKPOINTING:=auto}"  # less memory, more time; auto: if long utterances need it
: "${MAX_TOKENS:=auto}"             # audio samples in a sub-batch, padding included; auto: by memory
: "${NUM_CONCAT_BATCHES:=1}"        # sub-batches that a process computes at once
: "${BATCHES_PER_UPDATE:=auto}"     # NUM_GPUS x NUM_CONCAT_BATCHES x UPDATE_FREQ; auto: by the hours
: "${UPDATE_FREQ:=auto}"            # batches that a process accumulates

: "${DROPOUT:=0.0}"
: "${DROPOUT_INPUT:=0.0}"
: "${ATTENTION_DROPOUT:=0.0}"
: "${ACTIVATION_DROPOUT:=0.1}"
: "${FINAL_DROPOUT:=0.0}"
: "${FEATURE_GRAD_MULT:=0.0}"       # 0: the feature extractor is not trained
: "${ADAM_BETAS:=0.9 0.98}"
: "${ADAM_EPS:=1e-8}"
: "${WEIGHT_DECAY:=0.0}"
: "${CLIP_NORM:=0.0}"               # 0: no clipping
: "${SEED:=1}"
: "${VALIDATE_FREQUENCY:=auto}"     # epochs; auto: about a thousand updates, ten times at least
: "${SAVE_FREQUENCY:=auto}"         # epochs between checkpoints; auto: as VALIDATE_FREQUENCY

source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

separate_output finetune_own.sh "$@"
export OUTPUT_DIR
if [[ $FP16 == true && $BF16 == auto ]]; then BF16=false; fi
choices=()
for variable in $(sed -nE 's/^: "\$\{([A-Z0-9_]+):=auto\}".*/\1/p' scripts/finetune_own.sh); do
    choices+=("$variable=${!variable}")
done
read -ra subsets <<<"$TRAIN_SUBSET"
read -ra targets <<<"$LORA_TARGETS"
dry_run=false
if [[ " $* " == *" --dry_run "* ]]; then dry_run=true; fi
plan=$("$PYTHON" -m utils.finetuning.plan --pretrained_model "$PRETRAINED_MODEL" \
    --language "$ADAPTER_LANGUAGE" --reset_head "$RESET_HEAD" --dataset_dir "$DATASET_DIR" \
    --train_subset ${subsets[@]+"${subsets[@]}"} --labels "$LABELS" --output_dir "$OUTPUT_DIR" \
    --num_gpus "$NUM_GPUS" --num_concat_batches "$NUM_CONCAT_BATCHES" --cpu "$CPU" \
    --optimizer "$OPTIMIZER" --shard "$SHARD" --adapt "$ADAPT" --lora_rank "$LORA_RANK" \
    --lora_alpha "$LORA_ALPHA" --lora_targets "${targets[@]}" --adapter_dim "$ADAPTER_DIM" \
    --dry_run "$dry_run" \
    --choices "${choices[@]}")
echo "$plan"
# The printed lines are the values: what is shown is what is trained.
while IFS= read -r line; do
    if [[ $line =~ ^\ \ ([A-Z0-9_]+)=([^ ]+)\ +# ]]; then
        printf -v "${BASH_REMATCH[1]}" %s "${BASH_REMATCH[2]}"
    fi
done <<<"$plan"

recipe=""  # train.py then shows what differs from its own defaults
if [[ $dry_run == true ]]; then
    finetune "$@" >/dev/null  # checks all other flags
else
    finetune "$@"
fi
