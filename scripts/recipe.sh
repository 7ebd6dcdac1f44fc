# Sourced by every recipe after its variables: finds a Python, and checks the variables.

: "${PYTHON:=python3}"

recipe=$(realpath "$0")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ $PYTHON == python3 && -x .venv/bin/python ]]; then PYTHON=$PWD/.venv/bin/python; fi
if ! "$PYTHON" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)'; then
    echo "error: $PYTHON has no torch; install torch and requirements.txt, let scripts/quickstart.sh" \
        "do it, or set PYTHON" >&2
    exit 2
fi
"$PYTHON" -m common.runtime.recipe_variables "$recipe"
