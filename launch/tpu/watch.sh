#!/usr/bin/env bash
# Keeps a training up until it is complete: looks every POLL seconds, makes a TPU that was preempted anew, and starts
# the training again wherever it stopped. Flags as for run.sh.
#
#   NAME=sim ... launch/tpu/watch.sh --config=configs/ctc/segment.py:sim --workdir='$HOME/bucket/runs/sim' ...
#
# Exit status: 0 the training is complete; 1 it failed more than RETRIES times, or the cloud's answers did.
# A dry run goes through one preemption.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/tpu/settings.sh
. "$here/settings.sh"
[ $# -gt 0 ] || fail "give the flags of launch.train"
failures=0
assumed=PREEMPTED # what a dry run finds

# State of the TPU; GONE where there is none. Fails where the cloud does not answer.
state() {
  local answer errors
  errors=$(mktemp)
  if answer=$(ask_tpu "$assumed" tpu-vm describe "$NAME" --format="value(state)" 2>"$errors"); then
    echo "$answer"
  elif grep -qiE "not.found" "$errors"; then
    echo GONE
  else
    cat "$errors" >&2
    rm -f "$errors"
    return 1
  fi
  rm -f "$errors"
}

count_failure() {
  failures=$((failures + 1))
  say "failure $failures of $RETRIES: $1"
  [ "$failures" -le "$RETRIES" ] || fail "gave up: $1"
}

# What waits in the queue keeps its place there.
renew() {
  [ "$now" = GONE ] || "$here/delete.sh" || say "nothing to delete"
  "$here/create.sh" || return 1
  "$here/run.sh" "$@"
}

# Acts on what the workers say: each prints "celltrack: running", "celltrack: exited <status>" or "celltrack: idle".
attend() {
  local said
  said=$(ask_tpu "celltrack: exited 0" tpu-vm ssh "$NAME" --worker=all \
    --command="bash $REMOTE/launch/tpu/worker.sh status") || {
    count_failure "the workers do not answer"
    return
  }
  said=$(grep -oE "celltrack: (running|idle|exited [0-9]+)" <<<"$said" | sort -u) || said=nothing
  case $said in
    *running*) # a worker whose fellows died ends by itself
      failures=0
      return
      ;;
    "celltrack: exited 0")
      say "the training is complete"
      exit 0
      ;;
    *"exited 75"* | *idle*) say "stopped: it continues" ;;
    *) count_failure "workers say ${said//$'\n'/, }: see logs.sh" ;;
  esac
  "$here/run.sh" "$@" || count_failure "the training could not be started"
}

while true; do
  if ! now=$(state); then
    count_failure "the cloud does not answer"
  else
    case $now in
      READY) attend "$@" ;;
      PREEMPTED | TERMINATED | STOPPED | GONE)
        say "$NAME is $now: it is made anew"
        renew "$@" || count_failure "$NAME could not be made anew"
        ;;
      *) say "$NAME is $now" ;;
    esac
  fi
  assumed=READY
  pause
done
