#!/bin/sh
# Runs inside the new root file system, after every package is in: users, units, and nothing that is
# another machine's.
set -eu

useradd --create-home --shell /bin/bash admin
passwd --lock root >/dev/null

systemctl enable -q systemd-networkd.service systemd-networkd-wait-online.service ssh.service rehearsal-init.service

# What a short-lived guest under emulation never needs; each costs a second or more of its boot.
systemctl mask -q \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer \
    e2scrub_reap.service systemd-tmpfiles-clean.timer getty.target getty-static.service \
    systemd-pstore.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount \
    systemd-repart.service systemd-firstboot.service systemd-random-seed.service \
    systemd-pcrphase.service systemd-pcrphase-sysinit.service systemd-update-utmp.service \
    systemd-update-utmp-runlevel.service systemd-ask-password-console.path \
    systemd-ask-password-wall.path sys-kernel-debug.mount sys-kernel-tracing.mount \
    sys-kernel-config.mount sys-fs-fuse-connections.mount dev-hugepages.mount dev-mqueue.mount \
    systemd-networkd.socket modprobe@configfs.service modprobe@drm.service \
    modprobe@efi_pstore.service modprobe@fuse.service modprobe@dm_mod.service modprobe@loop.service

rm -f /etc/ssh/ssh_host_* /var/lib/systemd/random-seed /etc/hostname /root/setup.sh
rm -f /boot/*.old /initrd.img.old /vmlinuz.old
