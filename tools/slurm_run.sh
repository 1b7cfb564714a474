#!/usr/bin/env bash
# Start a script of this folder under srun; slurm_train.sh and slurm_test.sh call it:
#   slurm_run.sh SCRIPT PARTITION JOB_NAME [arguments of the script]
set -euo pipefail
tools=$(cd "$(dirname "$0")" && pwd)
script=$1
partition=$2
job=$3
shift 3
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}

# SRUN_ARGS holds several arguments.
# shellcheck disable=SC2086
PYTHONPATH="$(dirname "$tools"):${PYTHONPATH:-}" exec srun \
    --partition="$partition" \
    --job-name="$job" \
    --gres="gpu:$per_node" \
    --ntasks="$gpus" \
    --ntasks-per-node="$per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} \
    python -u "$tools/$script" "$@" --launcher slurm
