#!/usr/bin/env bash
# Gets a TPU and makes its workers ready: request, wait, copy of the code, Python environment, bucket.
#
#   NAME=sim ZONE=us-west4-a PROJECT=my-project launch/tpu/create.sh
#
# What is committed is what is copied. Called again it goes on where it stopped; settings.sh lists the settings.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/tpu/settings.sh
. "$here/settings.sh"

request() {
  local common=(--accelerator-type="$TYPE")
  [ "$SPOT" = 0 ] || common+=(--spot)
  [ -z "$DISK" ] || common+=(--data-disk="source=$DISK,mode=read-only")
  if [ "$QUEUED" = 0 ]; then
    tpu tpu-vm create "$NAME" --version="$VERSION" "${common[@]}"
  else
    tpu queued-resources create "$NAME" --node-id="$NAME" --runtime-version="$VERSION" "${common[@]}"
  fi
}

# state WHAT FIELD ANSWER: of the request or the TPU; nothing where it does not exist.
state() {
  ask_tpu "$3" "$1" describe "$NAME" --format="value($2)" 2>/dev/null || true
}

await_request() {
  local now
  while true; do
    now=$(ask_tpu ACTIVE queued-resources describe "$NAME" --format="value(state.state)")
    case $now in
      ACTIVE) return ;;
      FAILED | SUSPENDING | SUSPENDED) fail "the request is $now: call delete.sh, then create.sh again" ;;
    esac
    say "the request is $now"
    pause
  done
}

if [ "$DRY_RUN" = 1 ]; then
  request
elif [ -z "$(state tpu-vm state "")$([ "$QUEUED" = 0 ] || state queued-resources state.state "")" ]; then
  request
fi
[ "$QUEUED" = 0 ] || await_request

archive=${TMPDIR:-/tmp}/$REMOTE-$NAME.tar.gz
trap 'rm -f "$archive"' EXIT
cd "$here/../.."
run git archive --format=tar.gz --prefix="$REMOTE/" --output="$archive" HEAD
tpu tpu-vm scp "$archive" "$NAME:code.tar.gz" --worker=all
on_workers all "tar -xzf code.tar.gz && BUCKET=$(quoted "$BUCKET") DISK=$(quoted "$DISK") bash $REMOTE/launch/tpu/worker.sh setup"
say "$NAME is ready: launch/tpu/run.sh starts a training"
