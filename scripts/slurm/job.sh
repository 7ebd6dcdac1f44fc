# Sourced by the Slurm jobs: one task per node runs the recipe.  A job that was stopped after saving,
# or lost a process, goes back into the queue.  Every other reason would recur: it ends the job.

source "$(dirname "${BASH_SOURCE[0]}")/../shared.sh"
answer_help "$@"

if [[ -z ${SLURM_SUBMIT_DIR:-} ]]; then
    echo "error: this is a Slurm job; submit it from the repository: sbatch $0" >&2
    exit 2
fi
cd "$SLURM_SUBMIT_DIR"

# run_recipe SCRIPT [FLAG ...]
run_recipe() {
    local code=0
    NUM_NODES=$SLURM_JOB_NUM_NODES
    MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
    export NUM_NODES MASTER_ADDR MASTER_PORT
    # shellcheck disable=SC2016  # SLURM_NODEID is each task's own
    srun --kill-on-bad-exit=0 bash -c 'NODE_RANK=$SLURM_NODEID exec bash "$@"' recipe "$@" || code=$?
    case $code in
        4 | 5)
            echo "exit code $code: back into the queue"
            scontrol requeue "$SLURM_JOB_ID"
            ;;
    esac
    exit "$code"
}
