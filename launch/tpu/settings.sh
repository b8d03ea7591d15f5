# shellcheck shell=bash
# Settings and words of the scripts in this folder, which source it. Give them in the environment:
#
#   NAME=sim ZONE=us-west4-a PROJECT=my-project launch/tpu/create.sh
#
# DRY_RUN=1 prints every command instead of running it, and goes on as if the cloud had answered that all is well.

: "${NAME:?give NAME=<of the TPU and its request>}" "${ZONE:?give ZONE=<such as us-west4-a>}"
: "${PROJECT:?give PROJECT=<Google Cloud project>}"
TYPE=${TYPE:-v5litepod-16}               # accelerator; 4 chips to a worker
VERSION=${VERSION:-v2-alpha-tpuv5-lite}  # runtime image of that accelerator
SPOT=${SPOT:-1}                          # cheap and preemptible; 0 for capacity that stays
QUEUED=${QUEUED:-1}                      # wait in the queue; 0 asks once and fails where there is no capacity
DISK=${DISK:-}                           # projects/P/zones/Z/disks/D with the stores, seen by all workers as /mnt/disk
BUCKET=${BUCKET:-}                       # Cloud Storage bucket, seen by all workers as ~/bucket: workdirs belong there
POLL=${POLL:-60}                         # seconds between looks at a state
RETRIES=${RETRIES:-3}                    # failures that watch.sh bears; preemptions are none
DRY_RUN=${DRY_RUN:-0}

export REMOTE=celltrack-jax # folder of the code on a worker

exec 3>&1 # what a dry run prints goes past $(...)

# Runs a command, or prints it.
run() {
  if [ "$DRY_RUN" = 1 ]; then
    quoted "$@" >&3
    echo >&3
  else
    "$@"
  fi
}

# ask ANSWER COMMAND...: what the command prints; in a dry run prints the command and takes the answer instead.
ask() {
  local answer=$1
  shift
  if [ "$DRY_RUN" = 1 ]; then
    run "$@"
    echo "$answer"
  else
    "$@"
  fi
}

# The words before the flags that every gcloud command takes.
tpu() {
  local verb=("$1" "$2")
  shift 2
  run gcloud compute tpus "${verb[@]}" "$@" --zone="$ZONE" --project="$PROJECT"
}

ask_tpu() {
  local answer=$1 verb=("$2" "$3")
  shift 3
  ask "$answer" gcloud compute tpus "${verb[@]}" "$@" --zone="$ZONE" --project="$PROJECT"
}

# A command on all workers, or on one: on_workers all COMMAND.
on_workers() {
  tpu tpu-vm ssh "$NAME" --worker="$1" --command="$2"
}

say() {
  echo "$(basename "$0"): $*" >&2
}

fail() {
  say "error: $*"
  exit 1
}

pause() {
  [ "$DRY_RUN" = 1 ] || sleep "$POLL"
}

# Words as one line that a remote shell reads as the same words.
quoted() {
  local word line=
  for word in "$@"; do
    printf -v line '%s%q ' "$line" "$word"
  done
  printf %s "${line% }"
}
