#!/bin/bash
# Builds the base image: build.sh SUITE WORK, with these files beside it. Leaves WORK/disk.raw.
#
# Debian packages to a tar (mmdebstrap), then disk.sh makes a disk of it. Needs no root: mmdebstrap
# falls back to a user namespace, and the file system is written under fakeroot.
set -euo pipefail
suite=$1 work=$2
here=$(cd "$(dirname "$0")" && pwd)
say() { echo "step: $*" >&2; }

tar -C "$here/overlay" --owner=0 --group=0 --numeric-owner --mode=go-w -cf "$work/overlay.tar" .

# Where this system takes the suite from; where it takes it from nowhere, mmdebstrap's own choice.
mirrors=()
if [ -n "${REHEARSAL_MIRROR:-}" ]; then
    mirrors=("$REHEARSAL_MIRROR")
elif command -v apt-get >/dev/null; then
    mapfile -t mirrors < <(apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' \
        'Created-By: Packages' 'Origin: Debian' 2>/dev/null | grep -E " $suite(-updates|-security)? main\$" | sort -u)
fi

say "fetching and unpacking Debian $suite (a minute or two; once)"
# The tar is unpacked over the root before the packages configure themselves, so that the initial
# RAM disk is made once, and small.
mmdebstrap --quiet --variant=minbase \
    --include=systemd,systemd-sysv,udev,dbus,kmod,iproute2,openssh-server,sudo,curl,ca-certificates,linux-image-cloud-amd64,initramfs-tools,busybox,lz4 \
    --aptopt='Apt::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --essential-hook="tar-in '$work/overlay.tar' /" \
    --customize-hook="upload '$here/setup.sh' /root/setup.sh" \
    --customize-hook='chroot "$1" sh /root/setup.sh' \
    "$suite" "$work/root.tar" "${mirrors[@]}" >&2

say "writing the disk"
if [ "$(id -u)" = 0 ]; then
    bash "$here/disk.sh" "$suite" "$work" "$here"
else
    fakeroot bash "$here/disk.sh" "$suite" "$work" "$here"
fi
rm -rf "$work/root" "$work/root.tar" "$work/overlay.tar"
