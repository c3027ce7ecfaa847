#!/usr/bin/env bash
# A Ray cluster in one Slurm allocation, and one command on it:
#
#     export SAFEMIRAGE_STORAGE=/shared/safemirage SAFEMIRAGE_DATA=/shared/data
#     export SAFEMIRAGE_STORE_URL=postgresql://safemirage@database.example.org/safemirage
#     sbatch --nodes=2 --gpus-per-node=8 slurm.sh safemirage train configs:train/llava_v1.5_7b_npo_full.yaml workers.count=16
#
# The environment that holds safemirage is active where sbatch is called, and lies on a folder that all nodes mount.
# Submitted again after a time-out, the command resumes from its last checkpoint.
# A test runs this script with Slurm's two commands replaced by ones that start both nodes on one machine; no Slurm has.
#SBATCH --job-name=safemirage
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=12:00:00
set -euo pipefail

[ $# -gt 0 ] || { echo "usage: sbatch [OPTIONS] slurm.sh COMMAND [ARGUMENT ...]" >&2; exit 2; }
: "${SAFEMIRAGE_STORAGE:?names the folder of runs and exports, which every node mounts}"

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
# Jobs that share a node need ports and folders of their own.
port=$((20000 + SLURM_JOB_ID % 10000))
folder=/tmp/ray-$SLURM_JOB_ID

# Ray runs the code of whoever reaches its ports: the token keeps other users of the nodes out.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$SAFEMIRAGE_STORAGE/slurm-$SLURM_JOB_ID.token
(umask 077 && python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH")

# `--block` keeps each node's Ray in its job step; the steps end with this script.
started=()
finish() {
    kill "${started[@]}" 2>/dev/null || true
    wait "${started[@]}" 2>/dev/null || true
    rm -f "$RAY_AUTH_TOKEN_PATH"
}
trap finish EXIT

# Called in a subshell each time: with `exec` its process is srun itself, which `finish` ends.
on() { exec srun --nodes=1 --ntasks=1 --overlap --nodelist="$1" "${@:2}"; }
hardware=(--num-cpus="${SLURM_CPUS_ON_NODE:-1}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --temp-dir="$folder" --disable-usage-stats)

head=$(on "${nodes[0]}" python -c 'import ray; print(ray.util.get_node_ip_address())')
on "${nodes[0]}" ray start --head --block --node-ip-address="$head" --port="$port" \
    --dashboard-host=127.0.0.1 --dashboard-port=0 "${hardware[@]}" &
started+=($!)
for node in "${nodes[@]:1}"; do
    on "$node" ray start --block --address="$head:$port" "${hardware[@]}" &
    started+=($!)
done

export RAY_ADDRESS=$head:$port
python - "${#nodes[@]}" <<'PYTHON'
import sys
import time

import ray

wanted, until = int(sys.argv[1]), time.monotonic() + 600
while True:
    try:
        ray.init(logging_level="error")
        break
    except Exception as error:  # the head is not there yet; Ray has several exceptions for it
        if time.monotonic() > until:
            sys.exit(f"the Ray head did not start within ten minutes: {error}")
        time.sleep(2)
while (there := sum(node["Alive"] for node in ray.nodes())) < wanted:
    if time.monotonic() > until:
        sys.exit(f"{there} of {wanted} nodes joined within ten minutes; their job steps' output says why")
    time.sleep(1)
PYTHON

"$@"
