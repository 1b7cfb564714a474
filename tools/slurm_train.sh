#!/usr/bin/env bash
# Train on a Slurm cluster, one process per GPU:
#   [GPUS=8] tools/slurm_train.sh PARTITION JOB_NAME CONFIG [options of tools/train.py]
# GPUS, GPUS_PER_NODE, CPUS_PER_TASK and SRUN_ARGS are taken from the environment.
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG [options of tools/train.py]" >&2
    exit 2
fi
exec "$(dirname "$0")/slurm_run.sh" train.py "$@"
