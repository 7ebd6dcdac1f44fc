#!/usr/bin/env bash
# Makes the corpus of the table label_efficiency in OUTPUT_DIR/mini: two hours of spoken commands, and
# filelists of the minutes that have transcripts.  Voices and phrases of dev and test are in none.
set -euo pipefail

: "${OUTPUT_DIR:=results/tables/label_efficiency/data}"  # the corpus goes to its folder mini
: "${MINUTES:=120}"              # of audio
: "${LABEL_MINUTES:=1 3 10 30}"  # of audio with transcripts, a filelist each

source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"

read -ra minutes <<<"$LABEL_MINUTES"
"$PYTHON" -m utils.data.make_mini_corpus --output_dir "$OUTPUT_DIR/mini" --minutes "$MINUTES"
DATASET_DIR=$OUTPUT_DIR/mini SUBSETS="train-mini dev-mini test-mini" bash scripts/generate_filelists.sh
"$PYTHON" -m utils.data.make_label_subsets --dataset_dir "$OUTPUT_DIR/mini" --subset train-mini \
    --minutes "${minutes[@]}"
