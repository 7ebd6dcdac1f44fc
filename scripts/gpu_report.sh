#!/usr/bin/env bash
# Measures what fits into some minutes on an NVIDIA GPU, and fills the GPU tables of README and docs.
#   bash scripts/gpu_report.sh --minutes 10   the first tables; the same command resumes
#   bash scripts/gpu_report.sh --dry_run      lists steps, minutes and memory; needs no GPU
#   bash scripts/gpu_report.sh --cpu          every step at toy size, as a test
# Arguments go to `python -m utils.gpu_report.report`; its --help lists the flags.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/shared.sh"
answer_help "$@"

: "${DATASET_DIR:=/datasets/LibriSpeech}"  # its recordings in place of noise, if filelists are there
: "${PYTHON:=python3}"        # a Python with torch; .venv/bin/python if there is one

export DATASET_DIR
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ $PYTHON == python3 && -x .venv/bin/python ]]; then PYTHON=$PWD/.venv/bin/python; fi
exec "$PYTHON" -m utils.gpu_report.report "$@"
