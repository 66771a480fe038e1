#!/bin/sh
# Removes everything that belongs to this one host: an image must not contain identities or keys.
set -eu
rm -rf /var/tmp/imagebuilder
# State and downloads of an updater on the builder or on the source image; the factory slot stays.
rm -rf /var/lib/imagebuilder-update
rm -rf /opt/imagebuilder-agent/trial /opt/imagebuilder-agent/versions/* /opt/imagebuilder-agent/staging/*
rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub
rm -f /root/.ssh/authorized_keys
if [ -n "${SUDO_USER:-}" ]; then
    home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
    rm -f "$home/.ssh/authorized_keys"
fi
: >/etc/machine-id
rm -f /var/lib/dbus/machine-id /var/lib/systemd/random-seed
if command -v cloud-init >/dev/null 2>&1; then
    cloud-init clean --logs
fi
find /var/log -type f -exec truncate -s 0 {} +
rm -rf /var/log/journal/*
sync
