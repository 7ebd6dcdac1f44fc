# Sourced by the training recipes: checks their variables, then starts train.py, under torchrun
# when there is more than one process.

: "${NUM_NODES:=1}"            # machines; several need MASTER_ADDR and NODE_RANK, or RDZV_ENDPOINT
: "${NUM_WORKERS:=}"           # data loading workers per training process; default: by cores
: "${VALIDATE_FREQUENCY:=1}"   # epochs between validations
: "${LOG_FREQUENCY:=10}"       # updates between log lines
: "${SAVE_EVERY_UPDATES:=0}"   # updates between checkpoints, besides SAVE_FREQUENCY; 0: none
: "${EPOCHS_THIS_JOB:=0}"      # stop after so many epochs, to be resumed; 0: no limit
: "${EXTEND:=false}"           # continue the run in OUTPUT_DIR to a higher MAX_UPDATE
: "${NO_SAVE:=false}"          # write no checkpoints
: "${MAX_RESTARTS:=0}"         # automatic restarts after a process was lost
: "${PEER_TIMEOUT_MINUTES:=30.0}"  # wait for another process before aborting
: "${STRICT_GEOMETRY:=false}"  # refuse another effective batch size
: "${AUTO_GEOMETRY:=false}"    # choose UPDATE_FREQ to match the recipe
: "${TRAIN_WEIGHTS:=}"         # share of the audio of each of several TRAIN_SUBSETs
: "${TRAIN_ALPHA:=1.0}"       # or shares by hours^TRAIN_ALPHA; 0: equal shares
: "${SPEEDS:=}"               # of each training utterance, such as "0.9 1 1.1"; default: as recorded
: "${INIT_FROM:=}"            # pre-training: weights to start from instead of random ones
: "${ADAPTER_LANGUAGE:=}"     # fine-tuning: language of an MMS recogniser to start from, such as deu
: "${RESET_HEAD:=false}"       # fine-tuning: a new output layer, even if the checkpoint has one
: "${ADAPT:=none}"            # fine-tuning: train few weights: lora, adapters; none: all weights
: "${LORA_RANK:=8}"           # ADAPT=lora: rank, scale and target layers
: "${LORA_ALPHA:=16}"
: "${LORA_TARGETS:=q_proj v_proj}"
: "${ADAPTER_DIM:=16}"        # ADAPT=adapters: inner width
: "${PROBE:=0}"               # pre-training: updates between probes of the layers; 0: none
: "${PROBE_SUBSET:=}"         # two transcribed filelists for it; default: those of the run
: "${OPTIMIZER:=adam}"        # adam, adam8bit (bitsandbytes), fused_adam or fused_lamb (apex), lamb
: "${FP16:=false}"             # half precision with dynamic loss scaling
: "${BF16:=false}"             # half precision without
: "${EMA:=0.0}"                # decay of the weights' moving average, such as 0.9999; 0: none
: "${DETERMINISTIC:=false}"    # bit-exact repetition, slower
: "${SHARD:=false}"            # divide the model over the processes, for models too large for a GPU
: "${CPU:=false}"              # train on CPUs; NUM_GPUS then counts processes

source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"

# launch COMMAND [FLAG ...]: run train.py with the flags all recipes share; returns its exit code.
launch() {
    local precision flags=()
    choose_precision
    add_flags launch.sh
    if [[ $1 == pretrain ]]; then
        local subsets
        read -ra subsets <<<"$PROBE_SUBSET"
        flags+=(--probe "$PROBE" --probe_subset ${subsets[@]+"${subsets[@]}"})
    fi
    local arguments=("$1" "${flags[@]}" --precision "$precision" "${@:2}")

    if [[ " $* " == *" --dry_run "* ]]; then
        # Nothing is trained: one process prints for all.
        WORLD_SIZE=$((NUM_GPUS * NUM_NODES)) "$PYTHON" train.py "${arguments[@]}"
        return
    fi
    # A signal to all of a job's processes must not end this shell before they have saved.
    trap : TERM USR1
    if [[ $NUM_GPUS == 1 && $NUM_NODES == 1 ]]; then
        "$PYTHON" train.py "${arguments[@]}"
        return
    fi
    # torchrun would give each process a single thread, and torch all threads to each.
    share_cores
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
    # The launcher prints one line instead of torch's forty when machines cannot connect.  On CPUs
    # torch's log only repeats errors that it raises.
    [[ -v TORCH_CPP_LOG_LEVEL ]] \
        || export TORCH_CPP_LOG_LEVEL=$([[ $CPU == true ]] && echo FATAL || echo ERROR)
    "$PYTHON" -m common.runtime.launcher "${rendezvous[@]}" --nproc_per_node "$NUM_GPUS" \
        --max_restarts "$MAX_RESTARTS" \
        train.py "${arguments[@]}"
}

# separate_output SCRIPT [FLAG ...]: on CPUs, or with another MODEL than the recipe's, the default
# OUTPUT_DIR gets another name: the recipe itself would refuse the folder of a smoke test.
separate_output() {
    local model recipes=$OUTPUT_DIR
    model=$(sed -nE 's/^: "\$\{MODEL:=(.*)\}".*/\1/p' "scripts/$1")
    # A variable that was set in front of the command is exported; a default is not.
    if [[ ${OUTPUT_DIR@a} == *x* || " $* " == *" --output_dir"* || $1 == *_small.sh ]]; then
        return  # the small recipes are for CPUs, too
    elif [[ $CPU == true ]]; then
        OUTPUT_DIR+=_cpu
    elif [[ -n $model && $MODEL != "$model" ]]; then
        OUTPUT_DIR+=_$MODEL
    else
        return 0
    fi
    echo "note: results go to $OUTPUT_DIR; $recipes is for the recipe itself" >&2
}

# pretrain [FLAG ...]: train.py pretrain with the calling recipe's variables.  The warm-up is a tenth
# of the updates unless WARMUP_UPDATES says otherwise.
pretrain() {
    local flags=()
    if [[ -z $WARMUP_UPDATES ]]; then WARMUP_UPDATES=$((MAX_UPDATE / 10)); fi
    export RECIPE_SCRIPT=$recipe  # train.py shows what differs from its defaults
    separate_output "$(basename "${BASH_SOURCE[1]}")" "$@"
    add_flags "$(basename "${BASH_SOURCE[1]}")"
    launch pretrain "${flags[@]}" --init_from "$INIT_FROM" "$@"
}

# finetune [FLAG ...]: train.py finetune with the calling recipe's variables.  The schedule is
# 10 % warm-up, 40 % at the peak, 50 % decay, unless WARMUP_UPDATES or HOLD_UPDATES say otherwise.
finetune() {
    local flags=() targets
    read -ra targets <<<"$LORA_TARGETS"
    if [[ -z $WARMUP_UPDATES ]]; then WARMUP_UPDATES=$((MAX_UPDATE / 10)); fi
    if [[ -z $HOLD_UPDATES ]]; then HOLD_UPDATES=$((MAX_UPDATE * 4 / 10)); fi
    export RECIPE_SCRIPT=$recipe
    separate_output "$(basename "${BASH_SOURCE[1]}")" "$@"
    add_flags "$(basename "${BASH_SOURCE[1]}")"
    launch finetune "${flags[@]}" ${HOURGLASS_CONFIG+--hourglass_config "$HOURGLASS_CONFIG"} \
        ${ADAPTER_LANGUAGE:+--language "$ADAPTER_LANGUAGE"} --reset_head "$RESET_HEAD" --adapt "$ADAPT" \
        --lora_rank "$LORA_RANK" --lora_alpha "$LORA_ALPHA" --lora_targets "${targets[@]}" \
        --adapter_dim "$ADAPTER_DIM" --schedule three_stage "$@"
}
