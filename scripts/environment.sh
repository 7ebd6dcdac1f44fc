# Sourced by quickstart.sh and test.sh: finds or makes a Python with what REQUIREMENTS names, and
# leaves it in PYTHON.  An importable torch, such as the NGC image's, is used and never replaced;
# otherwise a virtual environment .venv is made.

source "$(dirname "${BASH_SOURCE[0]}")/shared.sh"
answer_help "$@"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
: "${PYTHON:=python3}"        # used if it has torch, or to make .venv
: "${TORCH_INDEX_URL:=}"      # pip index to install torch from; empty: PyPI
TORCH_VERSION=2.13.0

# install_debian PACKAGE ...: install packages where that is possible, and say so where it is not.
install_debian() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' \
            || missing+=("$package")
    done
    [[ ${#missing[@]} -gt 0 ]] || return 0
    if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
        echo "note: not installed, needs root on Debian: ${missing[*]}" >&2
        return 1
    fi
    echo "installing ${missing[*]}"
    DEBIAN_FRONTEND=noninteractive apt-get update -qq >/dev/null \
        && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            "${missing[@]}" >/dev/null
}

# prepare_python REQUIREMENTS: sets PYTHON.
prepare_python() {
    local requirements=$1 constraints
    command -v "$PYTHON" >/dev/null || install_debian python3
    if [[ -x .venv/bin/python ]]; then
        PYTHON=$PWD/.venv/bin/python
    elif ! "$PYTHON" -c 'import torch' 2>/dev/null; then
        echo "making a virtual environment in .venv"
        if ! "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then
            install_debian python3-venv || {
                echo "error: $PYTHON has no venv module; install python3-venv" >&2
                exit 2
            }
        fi
        "$PYTHON" -m venv .venv
        PYTHON=$PWD/.venv/bin/python
    fi
    if ! "$PYTHON" -c 'import torch' 2>/dev/null; then
        echo "installing torch $TORCH_VERSION (minutes; up to 5 GiB, with CUDA)"
        "$PYTHON" -m pip install -q numpy # torch warns if it comes first
        "$PYTHON" -m pip install -q "torch==$TORCH_VERSION" \
            ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"}
    fi
    constraints=$(mktemp)
    "$PYTHON" -c 'import torch; print("torch==" + torch.__version__)' >"$constraints"
    "$PYTHON" -m pip install -q -r "$requirements" -c "$constraints"
    rm -f "$constraints"
    export PYTHON
}
