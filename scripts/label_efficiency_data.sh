#!/usr/bin/env bash
# Makes the corpora of the table label_efficiency in OUTPUT_DIR, with filelists of the minutes that have
# transcripts: two hours of spoken commands, and recordings of people where their folders are given.
# No speaker of the validation or test set is in train, but the prompts have one speaker per language.  No phrase
# of the spoken commands or the prompts is in two sets.  The folder people lists all audio of people to pre-train on.
set -euo pipefail

: "${OUTPUT_DIR:=results/tables/label_efficiency/data}"  # a folder for each corpus goes there
: "${MINUTES:=120}"              # of spoken commands
: "${LABEL_MINUTES:=1 3 10 30}"  # of them with transcripts, a filelist each
: "${DIGITS_DIR:=}"              # a copy of github.com/Jakobovski/free-spoken-digit-dataset; empty: no rows of it
: "${MBOSHI_DIR:=}"              # a copy of github.com/besacier/mboshi-french-parallel-corpus; empty: no rows of it
: "${PROMPTS_DIR:=}"            # /usr/share/asterisk/sounds with its packages (docs/few_transcripts.md); empty: no rows of it

source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"
# Not exported: recipes print a note on variables that they do not read.
export -n OUTPUT_DIR MINUTES LABEL_MINUTES DIGITS_DIR MBOSHI_DIR PROMPTS_DIR

# subsets FOLDER SUBSET MINUTES: filelists of the minutes with transcripts.
subsets() {
    local minutes
    read -ra minutes <<<"$3"
    "$PYTHON" -m utils.data.make_label_subsets --dataset_dir "$1" --subset "$2" --minutes "${minutes[@]}"
}

# import NAME FLAG ...: make OUTPUT_DIR/NAME, unless that is done.
import() {
    local name=$1
    shift
    if [[ ! -f $OUTPUT_DIR/$name/train.tsv ]]; then
        "$PYTHON" -m utils.data.import_corpus --output_dir "$OUTPUT_DIR/$name" "$@" || (($? == 1))
    fi
}

# import_table NAME MINUTES FLAG ...: import OUTPUT_DIR/NAME.tsv.
import_table() {
    local name=$1 minutes=$2
    shift 2
    import "$name" --table "$OUTPUT_DIR/$name.tsv" "$@"
    subsets "$OUTPUT_DIR/$name" train "$minutes"
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

if [[ -n $PROMPTS_DIR ]]; then
    # The words of a phrase keep its repetitions, which differ in punctuation, in one subset.
    zcat /usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz | awk -F ': ' '
        BEGIN { print "path\ttext\twords" }
        /^[^;:]+: / {
            text = words = substr($0, length($1) + 3)
            gsub(/[^A-Za-z]+/, " ", words)
            gsub(/^ | $/, "", words)
            print $1 ".g722\t" text "\t" tolower(words)
        }' >"$OUTPUT_DIR/prompts.tsv"
    import_table prompts "3 10" --audio_root "$PROMPTS_DIR/en_US_f_Allison" --group_column words \
        --allow_shared_speakers true --test_share 0.2
    for language in es_MX_f_Allison fr_CA_f_June it_IT_m_Carlo ru_RU_f_IvrvoiceRU; do
        import "prompts_$language" --audio_dir "$PROMPTS_DIR/$language" --split train
    done
fi

# All audio of people to pre-train on, and to validate on, as filelists.
if [[ -n $DIGITS_DIR$MBOSHI_DIR$PROMPTS_DIR ]]; then
    mkdir -p "$OUTPUT_DIR/people"
    for subset in train valid; do
        lists=("$OUTPUT_DIR"/{digits,mboshi,prompts*}/"$subset.tsv")
        {
            echo /
            for list in "${lists[@]}"; do
                [[ ! -f $list ]] || awk 'NR == 1 {root = substr($0, 2); next} {print root "/" $0}' "$list"
            done
        } >"$OUTPUT_DIR/people/$subset.tsv"
    done
fi
