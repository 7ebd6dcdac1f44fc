#!/usr/bin/env bash
# Runs or resumes what a measured table needs, and fills it beside the published one.  Without a
# table: what there is, and what each needs.  Anything after the script's name goes to
# utils.reporting.reproduce_tables unchanged; variables go to the recipes it runs, which check them.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

prepare_python requirements.txt
"$PYTHON" -m utils.reporting.reproduce_tables "$@"
