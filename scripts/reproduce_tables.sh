#!/usr/bin/env bash
# Runs or resumes what a measured table needs, and writes it beside the published one.
#   bash scripts/reproduce_tables.sh                        the tables, and what each needs
#   bash scripts/reproduce_tables.sh quickstart --dry_run   prints the recipes of a table
#   bash scripts/reproduce_tables.sh quickstart             runs or resumes them
# Arguments go to `python -m utils.reproduction.reproduce_tables`; its --help lists the flags.
# The recipes' variables can be set in front of the command.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

prepare_python requirements-quickstart.txt
"$PYTHON" -m utils.reproduction.reproduce_tables "$@"
