#!/usr/bin/env bash
# Runs on a worker; the other scripts call it there.
#
#   worker.sh setup              Python, the locked packages with jax for TPUs, bucket and disk
#   worker.sh start HOSTS FLAGS  launch.train in the background as one of HOSTS (addresses, comma-separated)
#   worker.sh train FLAGS        in the foreground, in a GKE pod, which knows its fellows by environment
#   worker.sh status             prints celltrack: running | exited <status> | idle
#
# Environment: PYTHON (3.11.1 or newer; python3.12), BUCKET and DISK as in settings.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."
state=run # log, pid and exit status of the training
port=8476
PYTHON=${PYTHON:-python3.12}

setup() {
  if ! command -v "$PYTHON" >/dev/null; then # the images of v5e and v6e come with an older one
    sudo add-apt-repository -y ppa:deadsnakes/ppa
    sudo apt-get update -qq
    sudo apt-get install -y -qq "$PYTHON" "$PYTHON-venv"
  fi
  [ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
  .venv/bin/python -m pip install --quiet --require-hashes -r requirements.lock
  .venv/bin/python -m pip install --quiet --require-hashes --no-deps -r launch/tpu/requirements.lock
  .venv/bin/python -m pip install --quiet "jax[tpu]" # what is left of it beside libtpu
  if [ -n "${BUCKET:-}" ] && ! mountpoint -q "$HOME/bucket"; then
    command -v gcsfuse >/dev/null || sudo apt-get install -y -qq gcsfuse
    mkdir -p "$HOME/bucket"
    gcsfuse --implicit-dirs "$BUCKET" "$HOME/bucket"
  fi
  if [ -n "${DISK:-}" ] && ! mountpoint -q /mnt/disk; then
    sudo mkdir -p /mnt/disk
    sudo mount -o ro,noload /dev/sdb /mnt/disk
  fi
}

# The number may belong to another program since the machine started again.
running() {
  [ -f "$state/pid" ] && grep -qs worker.sh "/proc/$(cat "$state/pid")/cmdline"
}

start() {
  local hosts=$1 number
  shift
  if running; then return; fi
  number=$(curl -sf -H "Metadata-Flavor: Google" \
    "http://metadata.google.internal/computeMetadata/v1/instance/attributes/agent-worker-number")
  mkdir -p "$state"
  rm -f "$state/status"
  # Its own session: it outlives the ssh connection.
  setsid nohup bash launch/tpu/worker.sh attend "$hosts" "$number" "$@" >>"$state/log" 2>&1 </dev/null &
  echo $! >"$state/pid"
}

# Trains as one of several hosts; $HOME in a flag is this worker's.
train_as() {
  local hosts=$1 number=$2 commas
  shift 2
  commas=${hosts//[^,]/}
  # shellcheck disable=SC2016 # the pattern is meant literally
  set -- "${@//'$HOME'/$HOME}"
  local together=()
  if [ -n "$commas" ]; then
    together=(--coordinator="${hosts%%,*}:$port" --processes=$((${#commas} + 1)) --process="$number")
  fi
  ${become:-} .venv/bin/python -m launch.train "$@" ${together[@]+"${together[@]}"}
}

case ${1:-} in
  setup) setup ;;
  start) start "${@:2}" ;;
  attend)
    status=0
    train_as "${@:2}" || status=$?
    echo "$status" >"$state/status"
    ;;
  train)
    become="exec" # the pod's SIGTERM goes to this process alone
    train_as "${TPU_WORKER_HOSTNAMES:-}" "${TPU_WORKER_ID:-0}" "${@:2}"
    ;;
  status)
    if running; then
      echo "celltrack: running"
    elif [ -f "$state/status" ]; then
      echo "celltrack: exited $(cat "$state/status")"
    else
      echo "celltrack: idle"
    fi
    ;;
  *)
    echo "worker.sh: error: give setup, start, train or status" >&2
    exit 2
    ;;
esac
