#!/usr/bin/env bash
# The same on GKE, through xpk (https://github.com/AI-Hypercomputer/xpk): a job of a cluster that exists.
#
#   CLUSTER=pods NAME=sim ZONE=... PROJECT=... launch/tpu/xpk.sh create --config=... --workdir=/mnt/bucket/runs/sim ...
#   CLUSTER=pods NAME=sim ZONE=... PROJECT=... launch/tpu/xpk.sh list | delete
#
# IMAGE is a Docker image with Python 3.11.1 or newer (PYTHON names it there); the folder you are in is put into it. The
# workdir has to be storage that the pods share: `xpk storage attach` mounts a bucket. The job starts again by itself, up
# to RESTARTS times, when it is preempted, and continues. One slice: gradients would cross slices by the data-centre
# network, which docs/scaling.md finds no use for.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/tpu/settings.sh
. "$here/settings.sh"
: "${CLUSTER:?give CLUSTER=<GKE cluster that xpk made>}"
IMAGE=${IMAGE:-python:3.12}
RESTARTS=${RESTARTS:-100}

xpk_workload() {
  run xpk workload "$@" --cluster="$CLUSTER" --zone="$ZONE" --project="$PROJECT"
}

word=${1:-}
[ $# -eq 0 ] || shift
case $word in
  create)
    [ $# -gt 0 ] || fail "give the flags of launch.train"
    worker="bash launch/tpu/worker.sh"
    capacity=--on-demand
    [ "$SPOT" = 0 ] || capacity=--spot
    # A pod that is told to stop saves within the grace period and ends with 75, which counts as a failure of user code.
    xpk_workload create --workload="$NAME" --tpu-type="$TYPE" --num-slices=1 "$capacity" \
      --base-docker-image="$IMAGE" --script-dir="$(pwd)" --max-restarts="$RESTARTS" --restart-on-user-code-failure \
      --termination-grace-period-seconds=120 \
      --command="PYTHON=${PYTHON:-python3} $worker setup && exec $worker train $(quoted "$@")"
    ;;
  list) xpk_workload list --filter-by-job="$NAME" ;;
  delete) xpk_workload delete --workload="$NAME" --force ;;
  *) fail "give create, list or delete" ;;
esac
