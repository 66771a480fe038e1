#!/usr/bin/env bash
# One container: container.sh BASE FILES NAME AGENT, as the first process of namespaces of its own: its mounts go
# with it, and so do all processes, however it ends. The container's disk is an overlay in memory over BASE,
# with FILES laid over and the agent's slots laid out by the image's own script.
#
# MACHINE_NETWORK, if set, is passed instead of --private-network; if empty, the network is this host's.
#
# Each line on stdin boots it, once more after it is down; the disk stays. The end of stdin is the end of the
# container. stdout: a line when it can be booted.
set -euo pipefail
base=$1 files=$2 name=$3 agent=$4

# The pure hierarchy whatever this host has: a container's systemd filters addresses only there.
umount -R /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
group=/sys/fs/cgroup/$name
cleanup() {
  # systemd-nspawn's end is not its container's.
  echo 1 >"$group/cgroup.kill" || true
  wait
  for _ in $(seq 50); do
    find "$group" -depth -type d -exec rmdir {} + && break
    sleep 0.1
  done
}
trap cleanup EXIT
mkdir "$group"

disk=$files/disk
mkdir "$disk"
mount -t tmpfs -o mode=0755 none "$disk"
mkdir "$disk/upper" "$disk/work" "$disk/root"
mount -t overlay overlay -o "lowerdir=$base,upperdir=$disk/upper,workdir=$disk/work" "$disk/root"
cp -a "$files/root/." "$disk/root/"
chroot "$disk/root" sh /root/20-agent.sh
for unit in "$disk"/root/etc/systemd/system/imagebuilder-agent*; do
  case $unit in *.d | *'*') continue ;; esac
  if grep -q '^\[Install\]' "$unit"; then systemctl --root="$disk/root" --quiet enable "${unit##*/}"; fi
done
# systemd-nspawn leaves traces in here.
mkdir -p /run/systemd/nspawn
mount -t tmpfs none /run/systemd/nspawn

# The shell would report every killed process.
exec 2>/dev/null
echo made
while read -r _; do
  # Where it was killed, the groups of its processes are still there.
  find "$group" -mindepth 1 -depth -type d -exec rmdir {} + || true
  (
    echo "$BASHPID" >"$group/cgroup.procs"
    # bpf: a container's systemd filters addresses with it.
    # shellcheck disable=SC2086  # empty is to vanish
    exec setpriv --pdeathsig KILL systemd-nspawn --quiet --boot --directory="$disk/root" --machine="$name" \
      ${MACHINE_NETWORK---private-network} --register=no --keep-unit --link-journal=no --console=pipe \
      --system-call-filter=bpf --capability=CAP_BPF --bind-ro="$agent:/usr/lib/imagebuilder-agent/real" \
      </dev/null >>"$files/console" 2>&1
  ) &
done
