# Sourced by the training recipes: checks their variables, then starts train.py, under torchrun
# when there is more than one process.  Which variable becomes which flag stands here; the values
# stand in the recipes.

: "${NUM_NODES:=1}"            # machines; several need MASTER_ADDR and NODE_RANK, or RDZV_ENDPOINT
: "${NUM_WORKERS:=4}"          # processes that decode audio beside each training process
: "${VALIDATE_FREQUENCY:=1}"   # epochs between validations
: "${LOG_FREQUENCY:=10}"       # updates between log lines
: "${SAVE_EVERY_UPDATES:=0}"   # updates between checkpoints, besides SAVE_FREQUENCY; 0: none
: "${EPOCHS_THIS_JOB:=0}"      # stop after so many epochs, to be continued; 0: no limit
: "${NO_SAVE:=false}"          # write no checkpoints
: "${MAX_RESTARTS:=0}"         # times to start again by itself after a process was lost
: "${PEER_TIMEOUT_MINUTES:=30.0}"  # how long a process waits for another before the run ends
: "${STRICT_GEOMETRY:=false}"  # refuse another product of batches than the recipe's
: "${AUTO_GEOMETRY:=false}"    # choose UPDATE_FREQ so that the product is the recipe's
: "${TRAIN_WEIGHTS:=}"         # of several TRAIN_SUBSETs, each one's share of the audio
: "${TRAIN_ALPHA:=1.0}"       # or shares by hours^TRAIN_ALPHA: 1 as they are, 0 all the same
: "${INIT_FROM:=}"            # pre-training: weights to start from instead of random ones
: "${OPTIMIZER:=adam}"        # adam, fused_adam or fused_lamb (apex), lamb
: "${FP16:=false}"             # half precision with dynamic loss scaling
: "${BF16:=false}"             # half precision without
: "${EMA:=0.0}"                # decay of the weights' moving average, such as 0.9999; 0: none
: "${DETERMINISTIC:=false}"    # repeat to the bit, slower
: "${CPU:=false}"              # train on CPUs; NUM_GPUS then counts processes

source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"

# launch COMMAND [FLAG ...]: run train.py with what all recipes share; returns its exit code.
launch() {
    local command=$1 precision=fp32
    shift
    if [[ $FP16 == true ]]; then precision=fp16; fi
    if [[ $BF16 == true ]]; then precision=bf16; fi
    if [[ $FP16 == true && $BF16 == true ]]; then
        echo "error: FP16=true BF16=true: choose one of them" >&2
        return 2
    fi
    local train_subsets valid_subsets train_weights
    read -ra train_subsets <<<"$TRAIN_SUBSET"
    read -ra valid_subsets <<<"$VALID_SUBSET"
    read -ra train_weights <<<"$TRAIN_WEIGHTS"
    local arguments=("$command"
        --output_dir "$OUTPUT_DIR" --dataset_dir "$DATASET_DIR"
        --train_subset ${train_subsets[@]+"${train_subsets[@]}"}
        --valid_subset ${valid_subsets[@]+"${valid_subsets[@]}"}
        --train_weights ${train_weights[@]+"${train_weights[@]}"} --train_alpha "$TRAIN_ALPHA"
        --num_workers "$NUM_WORKERS" --validate_frequency "$VALIDATE_FREQUENCY"
        --log_frequency "$LOG_FREQUENCY" --save_every_updates "$SAVE_EVERY_UPDATES"
        --optimizer "$OPTIMIZER" --precision "$precision" --ema "$EMA"
        --strict_geometry "$STRICT_GEOMETRY" --auto_geometry "$AUTO_GEOMETRY"
        --peer_timeout_minutes "$PEER_TIMEOUT_MINUTES"
        --epochs_this_job "$EPOCHS_THIS_JOB" --no_save "$NO_SAVE"
        --deterministic "$DETERMINISTIC" --cpu "$CPU" "$@")

    if [[ " $* " == *" --dry_run "* ]]; then
        # Nothing runs: one process speaks for all.
        WORLD_SIZE=$((NUM_GPUS * NUM_NODES)) "$PYTHON" train.py "${arguments[@]}"
        return
    fi
    # A signal to all of a job's processes must not end this shell before they have saved.
    trap : TERM USR1
    if [[ $NUM_GPUS == 1 && $NUM_NODES == 1 ]]; then
        "$PYTHON" train.py "${arguments[@]}"
        return
    fi
    if [[ -z ${OMP_NUM_THREADS:-} ]]; then
        # torchrun would give each process a single thread, and no choice all threads to each.
        local share=$(($(nproc) / NUM_GPUS))
        export OMP_NUM_THREADS=$((share > 0 ? share : 1))
    fi
    local rendezvous=(--standalone)
    if [[ $NUM_NODES != 1 ]]; then
        # The machines wait for each other as long as the processes do.
        local seconds
        seconds=$("$PYTHON" -c 'import sys; print(max(1, round(60 * float(sys.argv[1]))))' \
            "$PEER_TIMEOUT_MINUTES")
        rendezvous=(--nnodes "$NUM_NODES")
        if [[ -n ${RDZV_ENDPOINT:-} ]]; then
            rendezvous+=(--rdzv_backend c10d --rdzv_endpoint "$RDZV_ENDPOINT"
                --rdzv_conf "join_timeout=$seconds")
        elif [[ -z ${MASTER_ADDR:-} || -z ${NODE_RANK:-} ]]; then
            echo "error: NUM_NODES=$NUM_NODES: set MASTER_ADDR to the first machine's address and" \
                "NODE_RANK to this machine's number, from 0; or RDZV_ENDPOINT to its address:port" >&2
            return 2
        elif [[ ! $NODE_RANK =~ ^[0-9]+$ || $NODE_RANK -ge $NUM_NODES ]]; then
            echo "error: NODE_RANK=$NODE_RANK: must be from 0 to $((NUM_NODES - 1)), as" \
                "NUM_NODES=$NUM_NODES" >&2
            return 2
        else
            rendezvous+=(--node_rank "$NODE_RANK" --master_addr "$MASTER_ADDR"
                --master_port "${MASTER_PORT:-29500}" --rdzv_conf "timeout=$seconds")
        fi
    fi
    # In one line, not in torch's forty, the launcher says what kept the machines apart.
    [[ -v TORCH_CPP_LOG_LEVEL ]] || export TORCH_CPP_LOG_LEVEL=ERROR
    "$PYTHON" -m common.runtime.launcher "${rendezvous[@]}" --nproc_per_node "$NUM_GPUS" \
        --max_restarts "$MAX_RESTARTS" \
        train.py "${arguments[@]}"
}

# pretrain [FLAG ...]: train.py pretrain with a pre-training recipe's variables.
pretrain() {
    local loss_weights gumbel_temperature adam_betas
    read -ra loss_weights <<<"$LOSS_WEIGHTS"
    read -ra gumbel_temperature <<<"$GUMBEL_TEMPERATURE"
    read -ra adam_betas <<<"$ADAM_BETAS"
    launch pretrain \
        --num_concat_batches "$NUM_CONCAT_BATCHES" --update_freq "$UPDATE_FREQ" \
        --batches_per_update "$BATCHES_PER_UPDATE" --max_tokens "$MAX_TOKENS" \
        --min_sample_size "$MIN_SAMPLE_SIZE" --max_sample_size "$MAX_SAMPLE_SIZE" \
        --model "$MODEL" --hourglass "$HOURGLASS_CONFIG" --init_from "$INIT_FROM" \
        --mask_prob "$MASK_PROB" --mask_span "$MASK_SPAN" \
        --loss_weights "${loss_weights[@]}" --gumbel_temperature "${gumbel_temperature[@]}" \
        --dropout "$DROPOUT" --dropout_input "$DROPOUT_INPUT" \
        --dropout_features "$DROPOUT_FEATURES" --attention_dropout "$ATTENTION_DROPOUT" \
        --activation_dropout "$ACTIVATION_DROPOUT" \
        --layerdrop "$ENCODER_LAYERDROP" --feature_grad_mult "$FEATURE_GRAD_MULT" \
        --schedule polynomial --max_update "$MAX_UPDATE" --warmup_updates "$WARMUP_UPDATES" \
        --learning_rate "$LEARNING_RATE" \
        --adam_betas "${adam_betas[@]}" --adam_eps "$ADAM_EPS" \
        --weight_decay "$WEIGHT_DECAY" --clip_norm "$CLIP_NORM" \
        --seed "$SEED" --save_frequency "$SAVE_FREQUENCY" "$@"
}

# finetune [FLAG ...]: train.py finetune with a fine-tuning recipe's variables.  The schedule is
# 10 % warm-up, 40 % at the peak, 50 % decay.
finetune() {
    local adam_betas
    read -ra adam_betas <<<"$ADAM_BETAS"
    launch finetune \
        --pretrained_model "$PRETRAINED_MODEL" --labels "$LABELS" \
        ${HOURGLASS_CONFIG+--hourglass "$HOURGLASS_CONFIG"} \
        --num_concat_batches "$NUM_CONCAT_BATCHES" --update_freq "$UPDATE_FREQ" \
        --batches_per_update "$BATCHES_PER_UPDATE" --max_tokens "$MAX_TOKENS" \
        --freeze_finetune_updates "$FREEZE_FINETUNE_UPDATES" \
        --mask_prob "$MASK_PROB" --mask_span "$MASK_SPAN" \
        --mask_channel_prob "$MASK_CHANNEL_PROB" --mask_channel_span "$MASK_CHANNEL_SPAN" \
        --dropout "$DROPOUT" --dropout_input "$DROPOUT_INPUT" \
        --attention_dropout "$ATTENTION_DROPOUT" --activation_dropout "$ACTIVATION_DROPOUT" \
        --final_dropout "$FINAL_DROPOUT" \
        --layerdrop "$ENCODER_LAYERDROP" --feature_grad_mult "$FEATURE_GRAD_MULT" \
        --schedule three_stage --max_update "$MAX_UPDATE" \
        --warmup_updates "$((MAX_UPDATE / 10))" --hold_updates "$((MAX_UPDATE * 4 / 10))" \
        --learning_rate "$LEARNING_RATE" \
        --adam_betas "${adam_betas[@]}" --adam_eps "$ADAM_EPS" \
        --weight_decay "$WEIGHT_DECAY" --clip_norm "$CLIP_NORM" \
        --seed "$SEED" --save_frequency "$SAVE_FREQUENCY" "$@"
}
