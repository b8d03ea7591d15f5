#!/usr/bin/env bash
# Gives a TPU back, with its request. What is on its workers' own disks is lost; bucket and data disk stay.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/tpu/settings.sh
. "$here/settings.sh"
if [ "$QUEUED" = 0 ]; then
  tpu tpu-vm delete "$NAME" --quiet
else
  tpu queued-resources delete "$NAME" --force --quiet
fi
