#!/usr/bin/env bash
# Start a script of this folder on several processes; dist_train.sh and
# dist_test.sh call it:  dist_run.sh SCRIPT GPUS [arguments of the script]
set -euo pipefail
tools=$(cd "$(dirname "$0")" && pwd)
script=$1
gpus=$2
shift 2
if [[ ! $gpus =~ ^[1-9][0-9]*$ ]]; then
    echo "error: GPUS is the number of processes, got $gpus" >&2
    exit 2
fi

# Without a port of its own a single machine takes a free one, so that two runs
# do not meet.
if [ "${NNODES:-1}" = 1 ] && [ -z "${PORT:-}" ]; then
    PORT=$(python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
fi

# torchrun gives each process one thread; where the processes compute on the CPU
# they share its cores.
if [ -z "${OMP_NUM_THREADS:-}" ]; then
    cores=$(python -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')
    export OMP_NUM_THREADS=$((cores > gpus ? cores / gpus : 1))
fi

PYTHONPATH="$(dirname "$tools"):${PYTHONPATH:-}" exec python "$tools/dist_run.py" \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$gpus" \
    "$tools/$script" "$@" --launcher pytorch
