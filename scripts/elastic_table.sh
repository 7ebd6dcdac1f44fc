#!/usr/bin/env bash
# Word error rate and throughput by pooling factor: MINI trained at factor 1, 2, 4 or 6, and an elastic one
# trained at 2 to 6.  That of 4 and the elastic one run at 1 to 6, the others at their own factor.
# Three seeds each, on 30 minutes of spoken commands.
#   bash scripts/elastic_table.sh --dry_run   prints the recipes, one per line
#   bash scripts/elastic_table.sh             runs or resumes them, and writes docs/results/elastic.json
# Arguments go to `bash scripts/reproduce_tables.sh elastic`.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/shared.sh"
answer_help "$@"

exec bash "$(dirname "${BASH_SOURCE[0]}")/reproduce_tables.sh" elastic "$@"
