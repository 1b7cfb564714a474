#!/usr/bin/env bash
# Train on several processes, one per GPU, or on the CPU where there is none:
#   tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
# On several machines set NNODES, NODE_RANK, MASTER_ADDR and PORT on each.
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG GPUS [options of tools/train.py]" >&2
    exit 2
fi
exec "$(dirname "$0")/dist_run.sh" train.py "$2" "$1" "${@:3}"
