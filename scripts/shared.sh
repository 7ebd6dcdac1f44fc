# Sourced by every script that a user runs, before it acts: `--help`, and one spelling of true and
# false.  Needs nothing but bash and sed.

# print_variables FILE: `NAME=default  # explanation` of the variables that a script declares, then
# those of the scripts that it sources.
print_variables() {
    local line name default explanation other text=""
    while IFS= read -r line; do
        [[ $line =~ ^:\ \"\$\{([A-Z0-9_]+):?=(.*)\}\"\ *(\#\ *(.*))?$ ]] || continue
        name=${BASH_REMATCH[1]} default=${BASH_REMATCH[2]} explanation=${BASH_REMATCH[4]}
        if [[ -n ${printed[$name]:-} ]]; then continue; fi
        printed[$name]=yes
        if [[ -z $default || $default == *[\ \(\[]* ]]; then default="\"$default\""; fi
        printf -v line '  %-40s  # %s' "$name=$default" "$explanation"
        if [[ -z $explanation ]]; then line="  $name=$default"; fi
        text+=$line$'\n'
    done <"$1"
    if [[ -n $text ]]; then printf '\n%s' "$text"; fi
    for other in $(sed -nE 's/^source "\$.*\/([a-z0-9_]+\.sh)".*/\1/p' "$1"); do
        if [[ -f $(dirname "$1")/$other ]]; then print_variables "$(dirname "$1")/$other"; fi
    done
}

# answer_help ARGUMENT ...: if one of them is --help or -h, print the first comment of the script
# that was started and its variables, and end.
answer_help() {
    local argument script=$0 program=bash
    local -A printed=()
    for argument in "$@"; do
        if [[ $argument != --help && $argument != -h ]]; then continue; fi
        if [[ $script == *scripts/* ]]; then script=scripts/${script##*scripts/}; fi
        if [[ $script == *.sbatch ]]; then program=sbatch; fi
        printf 'usage: [VARIABLE=value ...] %s %s [argument ...]\n\n' "$program" "$script"
        sed -nE '2,/^[^#]/{/^#( |$)/!d;s/^# ?//;p}' "$0"
        argument=$(print_variables "$0")
        if [[ -n $argument ]]; then
            printf '\nVariables and their defaults; set them in front of the command:\n%s\n' "$argument"
        fi
        if [[ $script == */finetune_own.sh ]]; then
            local start="PRETRAINED_MODEL=facebook/wav2vec2-xls-r-300m DATASET_DIR=datasets/mine"
            printf '\nExamples:\n'
            printf '  %s\n      %s\n' \
                "$start bash $script --dry_run" "prints the plan and trains nothing" \
                "GPU_MEMORY_GB=24 $start bash $script --dry_run" "plans for another machine's GPU" \
                "EXTEND=true MAX_UPDATE=20000 $start bash $script" "continues the run to more updates"
        elif [[ $argument == *" AUTO_GEOMETRY="* ]]; then
            printf '\nExamples:\n'
            printf '  %s\n      %s\n' \
                "bash $script --dry_run" "prints the configuration and trains nothing" \
                "NUM_GPUS=2 AUTO_GEOMETRY=true bash $script" "the same effective batch size on 2 GPUs" \
                "OUTPUT_DIR=results/mine BF16=true bash $script" "bfloat16, results in another folder"
        fi
        exit 0
    done
}

# spell_true_and_false: 1, yes, on, 0, no and off become true or false where one of them is meant.
spell_true_and_false() {
    local name
    for name in $(sed -nE 's/^: "\$\{([A-Z0-9_]+):?=(true|false)\}".*/\1/p' "$1"/*.sh | sort -u); do
        case ${!name:-} in
            1 | [Tt][Rr][Uu][Ee] | [Yy][Ee][Ss] | [Oo][Nn]) printf -v "$name" true ;;
            0 | [Ff][Aa][Ll][Ss][Ee] | [Nn][Oo] | [Oo][Ff][Ff]) printf -v "$name" false ;;
        esac
    done
}
spell_true_and_false "$(dirname "${BASH_SOURCE[0]}")"
