#!/usr/bin/env bash
# Shows a worker's log, and what is added to it until ctrl-C: `WORKER=3 launch/tpu/logs.sh`, worker 0 by default.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/tpu/settings.sh
. "$here/settings.sh"
on_workers "${WORKER:-0}" "tail -n 200 -F $REMOTE/run/log"
