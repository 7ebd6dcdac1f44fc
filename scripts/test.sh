#!/usr/bin/env bash
# Installs what the tests need, then runs ruff and pytest.
#   bash scripts/test.sh         lint, unit, parity and small integration tests
#   bash scripts/test.sh --all   the long tier as well
# Other arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

selection=(-m "not long")
if [[ ${1:-} == --all ]]; then
    selection=()
    shift
fi

prepare_python requirements-test.txt
# Recordings of people for the tests of the import; without them those tests skip and say so.
install_debian asterisk-core-sounds-en asterisk-core-sounds-en-g722 asterisk-core-sounds-es-g722 \
    || echo "note: the tests on real recordings will skip" >&2
# A browser for the test of the report; without it that test skips and says so.
install_debian chromium || echo "note: the test of the report in a browser will skip" >&2
# transformers.js for its tests; without it they skip and say so.
if command -v npm >/dev/null; then
    [[ -d node_modules/@huggingface/transformers ]] \
        || timeout 180 npm install --silent --fetch-retries 0 --fetch-timeout 30000 \
            --ignore-scripts --no-save --no-package-lock --prefix "$PWD" \
            @huggingface/transformers@4.3.2 \
        || echo "note: npm cannot install transformers.js; its tests will skip" >&2
fi
# Beam search has wheels for some systems only; without them its tests skip and say so.
"$PYTHON" -m pip install -q --only-binary :all: -r requirements-decode.txt \
    || echo "note: no wheel of flashlight-text here; the tests of beam search will skip" >&2

# One thread per test process: several wait for each other whenever anything else runs.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m pytest -q --numprocesses auto --maxprocesses 8 --dist worksteal "${selection[@]}" "$@"
