#!/usr/bin/env bash
# Makes the corpora of the table label_efficiency in OUTPUT_DIR, with filelists of the minutes that have
# transcripts: two hours of spoken commands, and recordings of people where their folders are given.
# No speaker of the validation or test set is in train, nor a phrase of the spoken commands.
set -euo pipefail

: "${OUTPUT_DIR:=results/tables/label_efficiency/data}"  # a folder for each corpus goes there
: "${MINUTES:=120}"              # of spoken commands
: "${LABEL_MINUTES:=1 3 10 30}"  # of them with transcripts, a filelist each
: "${DIGITS_DIR:=}"              # a copy of github.com/Jakobovski/free-spoken-digit-dataset; empty: no rows of it
: "${MBOSHI_DIR:=}"              # a copy of github.com/besacier/mboshi-french-parallel-corpus; empty: no rows of it

source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"

# subsets FOLDER SUBSET MINUTES: filelists of the minutes with transcripts.
subsets() {
    local minutes
    read -ra minutes <<<"$3"
    "$PYTHON" -m utils.data.make_label_subsets --dataset_dir "$1" --subset "$2" --minutes "${minutes[@]}"
}

# import_table NAME MINUTES: import OUTPUT_DIR/NAME.tsv, unless that is done.
import_table() {
    if [[ ! -f $OUTPUT_DIR/$1/test.tsv ]]; then
        "$PYTHON" -m utils.data.import_corpus --table "$OUTPUT_DIR/$1.tsv" --output_dir "$OUTPUT_DIR/$1" || (($? == 1))
    fi
    subsets "$OUTPUT_DIR/$1" train "$2"
}

"$PYTHON" -m utils.data.make_mini_corpus --output_dir "$OUTPUT_DIR/mini" --minutes "$MINUTES"
DATASET_DIR=$OUTPUT_DIR/mini SUBSETS="train-mini dev-mini test-mini" bash scripts/generate_filelists.sh
subsets "$OUTPUT_DIR/mini" train-mini "$LABEL_MINUTES"

if [[ -n $DIGITS_DIR ]]; then
    digits=(zero one two three four five six seven eight nine)
    declare -A split=([nicolas]=valid [yweweler]=test)
    {
        printf 'path\ttext\tspeaker\tsplit\n'
        for file in "$(realpath "$DIGITS_DIR")"/recordings/*.wav; do
            IFS=_ read -r digit speaker _ <<<"${file##*/}"
            printf '%s\t%s\t%s\t%s\n' "$file" "${digits[digit]}" "$speaker" "${split[$speaker]:-train}"
        done
    } >"$OUTPUT_DIR/digits.tsv"
    import_table digits "2 5"
fi

if [[ -n $MBOSHI_DIR ]]; then
    declare -A split=([kouarata]=valid [martial]=test)
    count=0
    {
        printf 'path\ttext\tspeaker\tsplit\n'
        for file in "$(realpath "$MBOSHI_DIR")"/full_corpus_newsplit/all/*.wav; do
            speaker=${file##*/} speaker=${speaker%%_*}
            # An eighth of the second speaker's hour is enough to validate on.
            if [[ $speaker == kouarata ]] && ((count++ % 8)); then continue; fi
            printf '%s\t%s\t%s\t%s\n' "$file" "$(<"${file%.wav}.mb.cleaned")" "$speaker" "${split[$speaker]:-train}"
        done
    } >"$OUTPUT_DIR/mboshi.tsv"
    import_table mboshi "5 20"
fi
