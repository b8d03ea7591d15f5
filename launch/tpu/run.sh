#!/usr/bin/env bash
# Starts a training on all workers of a TPU, in the background. What follows are the flags of launch.train.
#
#   NAME=sim ... launch/tpu/run.sh --config=configs/ctc/segment.py:sim --workdir='$HOME/bucket/runs/sim' \
#     --config.data.store=/mnt/disk/stores/sim
#
# The workdir has to be storage that all workers share and that outlives them, such as the bucket. A training that
# runs already goes on undisturbed; one that was stopped or preempted continues. logs.sh shows it, watch.sh keeps it up.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/tpu/settings.sh
. "$here/settings.sh"
[ $# -gt 0 ] || fail "give the flags of launch.train"

# Worker 0 first; gcloud separates them by semicolons.
hosts=$(ask_tpu "10.0.0.1;10.0.0.2" tpu-vm describe "$NAME" --format="value(networkEndpoints[].ipAddress)")
[ -n "$hosts" ] || fail "$NAME has no workers: call create.sh"
# $HOME in a flag is the worker's: it travels quoted and is put in there.
on_workers all "bash $REMOTE/launch/tpu/worker.sh start $(quoted "${hosts//;/,}" "$@")"
