#!/bin/bash
# disk.sh SUITE WORK HERE: WORK/root.tar becomes WORK/disk.raw, a GPT disk that UEFI firmware boots.
# Run as root or under fakeroot, so that files keep their owners.
set -euo pipefail
suite=$1 work=$2 here=$3
disk=$work/disk.raw root=$work/root
mib=1048576 disk_mib=8192 esp_mib=32

rm -rf "$root" "$disk" "$work/esp.img"
mkdir "$root"
tar -C "$root" --exclude='./dev/*' -xf "$work/root.tar"

# After mmdebstrap's own cleaning, which removes some of these.
printf 'uninitialized\n' >"$root/etc/machine-id" # systemd makes an id at an instance's first boot
printf 'nameserver 169.254.0.3\n' >"$root/etc/resolv.conf"
printf 'localhost\n' >"$root/etc/hostname"
rm -f "$root"/etc/ssh/ssh_host_* "$root/var/lib/systemd/random-seed" "$root/var/lib/dbus/machine-id"
# The overlay again: packages may have written over it.
tar -C "$root" -xf "$work/overlay.tar"

truncate -s ${disk_mib}M "$disk"
sfdisk -q "$disk" <<LAYOUT
label: gpt
start=1MiB, size=${esp_mib}MiB, type=uefi
start=$((1 + esp_mib))MiB, type=linux
LAYOUT

modules='part_gpt ext2 search search_label linux boot normal'
grub-mkstandalone -O x86_64-efi -o "$work/boot.efi" --locales= --fonts= --themes= \
    --install-modules="$modules" --modules="$modules" "boot/grub/grub.cfg=$here/grub.cfg"
truncate -s ${esp_mib}M "$work/esp.img"
mkfs.vfat -n ESP "$work/esp.img" >/dev/null
mmd -i "$work/esp.img" ::EFI ::EFI/BOOT
mcopy -i "$work/esp.img" "$work/boot.efi" ::EFI/BOOT/BOOTX64.EFI
dd if="$work/esp.img" of="$disk" bs=$mib seek=1 conv=notrunc,sparse status=none

# The last MiB stays free for the backup partition table.
mke2fs -q -F -t ext4 -L root -m 1 -N 131072 -d "$root" \
    -E "offset=$(((1 + esp_mib) * mib)),lazy_itable_init=1" "$disk" $((disk_mib - 2 - esp_mib))M
rm -f "$work/esp.img" "$work/boot.efi"
