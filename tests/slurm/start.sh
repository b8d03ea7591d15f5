#!/usr/bin/env bash
# Starts a real SLURM of two virtual nodes, n0 and n1, on this machine: `start.sh FOLDER`, as root. Installs slurm-wlm
# and munge where they are missing. FOLDER gets configuration, state and logs: export SLURM_CONF=FOLDER/slurm.conf to
# use the cluster. Its ports are its own; a cluster that an earlier call left behind is ended.
# `start.sh stop FOLDER` ends it.
set -euo pipefail
export SLURM_CONF
if [ "$1" = stop ]; then
  SLURM_CONF=$2/slurm.conf scontrol shutdown
  exit 0
fi
folder=$1
mkdir -p "$folder"
SLURM_CONF=$folder/slurm.conf
if ! command -v slurmctld >/dev/null; then
  { apt-get update -qq && apt-get install -y -qq slurm-wlm munge; } >"$folder/install.log" 2>&1 || {
    echo "error: slurm-wlm and munge could not be installed: $(tail -n 1 "$folder/install.log")" >&2
    exit 1
  }
fi
# A killed run leaves its cluster behind, with jobs.
if pkill -f 'slurm(ctld|d) .*-f .*/celltrack-slurm'; then sleep 1; fi

mkdir -p /run/munge
chown munge:munge /run/munge /etc/munge /var/lib/munge /var/log/munge
[ -f /etc/munge/munge.key ] || { dd if=/dev/urandom of=/etc/munge/munge.key bs=1 count=1024 status=none; }
chown munge:munge /etc/munge/munge.key
chmod 400 /etc/munge/munge.key
munge --no-input >/dev/null 2>&1 || runuser -u munge -- munged --force

# Real nodes have names that resolve.
grep -qw n0 /etc/hosts || echo "127.0.0.1 n0 n1" >>/etc/hosts
host=$(hostname -s)
cat >"$SLURM_CONF" <<EOF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
AuthType=auth/munge
# How long a requeued job waits, 120 s unless it is said.
AuthInfo=cred_expire=10
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.%n.log
SelectType=select/cons_tres
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
NodeName=n[0-1] NodeAddr=127.0.0.1 NodeHostname=$host Port=[17000-17001] CPUs=1
PartitionName=main Nodes=n[0-1] Default=YES MaxTime=INFINITE State=UP
EOF
slurmctld -f "$SLURM_CONF"
slurmd -N n0 -f "$SLURM_CONF"
slurmd -N n1 -f "$SLURM_CONF"
for _ in $(seq 240); do
  if [ "$(sinfo --noheader --Node --states=idle | wc -l)" = 2 ]; then exit 0; fi
  sleep 0.5
done
echo "error: the nodes did not come up: $(sinfo --noheader) $(tail -n 2 "$folder"/*.log)" >&2
exit 1
