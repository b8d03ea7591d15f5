#!/usr/bin/env bash
# Starts a real SLURM of two virtual nodes, n0 and n1, on this machine: `start.sh FOLDER`, as root. Installs slurm-wlm
# and munge where they are missing. A cluster that runs already is used. FOLDER gets the logs. `start.sh stop` ends it.
set -euo pipefail
if [ "$1" = stop ]; then
  scontrol shutdown
  pkill -x munged
  exit 0
fi
folder=$1
mkdir -p "$folder"
if ! command -v slurmctld >/dev/null; then
  { apt-get update -qq && apt-get install -y -qq slurm-wlm munge; } >"$folder/install.log" 2>&1
fi
if scontrol ping 2>/dev/null | grep -q "is UP"; then exit 0; fi

mkdir -p /run/munge /etc/slurm /var/spool/slurmctld /var/spool/slurmd.n0 /var/spool/slurmd.n1
chown munge:munge /run/munge /etc/munge /var/lib/munge /var/log/munge
[ -f /etc/munge/munge.key ] || { dd if=/dev/urandom of=/etc/munge/munge.key bs=1 count=1024 status=none; }
chown munge:munge /etc/munge/munge.key
chmod 400 /etc/munge/munge.key
munge --no-input >/dev/null 2>&1 || runuser -u munge -- munged --force

# Real nodes have names that resolve.
grep -qw n0 /etc/hosts || echo "127.0.0.1 n0 n1" >>/etc/hosts
host=$(hostname -s)
cat >/etc/slurm/slurm.conf <<EOF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
# How long a requeued job waits, 120 s unless it is said.
AuthInfo=cred_expire=10
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd.%n
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.%n.pid
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
slurmctld
slurmd -N n0
slurmd -N n1
for _ in $(seq 60); do
  if [ "$(sinfo --noheader --Node --states=idle | wc -l)" = 2 ]; then exit 0; fi
  sleep 0.5
done
echo "error: the nodes did not come up; see $folder" >&2
sinfo >&2
exit 1
