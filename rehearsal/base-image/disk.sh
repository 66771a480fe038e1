#!/bin/bash
# disk.sh SUITE WORK HERE: WORK/root.tar becomes WORK/disk.raw, a GPT disk that UEFI and BIOS boot alike: both find the same
# GRUB configuration, and with it the same kernel.
# Run as root or under fakeroot, so that files keep their owners. Nothing is mounted, and no loop device is needed.
set -euo pipefail
suite=$1 work=$2 here=$3
disk=$work/disk.raw root=$work/root
mib=1048576 sector=512 disk_mib=8192 bios_mib=1 esp_mib=32
bios_at=1 esp_at=$((1 + bios_mib)) root_at=$((1 + bios_mib + esp_mib))

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
start=${bios_at}MiB, size=${bios_mib}MiB, type=21686148-6449-6E6F-744E-656564454649
start=${esp_at}MiB, size=${esp_mib}MiB, type=uefi
start=${root_at}MiB, type=linux
LAYOUT

grub() { # platform file more-modules: GRUB, whole, with its configuration inside
    local modules="part_gpt ext2 search search_label linux boot normal $3"
    grub-mkstandalone -O "$1" -o "$2" --locales= --fonts= --themes= \
        --install-modules="$modules" --modules="$modules" "boot/grub/grub.cfg=$here/grub.cfg"
}
grub x86_64-efi "$work/boot.efi" ''
truncate -s ${esp_mib}M "$work/esp.img"
mkfs.vfat -n ESP "$work/esp.img" >/dev/null
mmd -i "$work/esp.img" ::EFI ::EFI/BOOT
mcopy -i "$work/esp.img" "$work/boot.efi" ::EFI/BOOT/BOOTX64.EFI
dd if="$work/esp.img" of="$disk" bs=$mib seek=$esp_at conv=notrunc,sparse status=none

# For BIOS, GRUB's first sector goes in front of the partition table, and the rest into a partition of its own. Each of the
# two holds the number of the sector after it, which GRUB's installer would write; that needs a mounted disk.
patch() { # file offset expected value: replaces a 64-bit number, little-endian, that must be the expected one
    local found bytes='' shift
    found=$(od -An -j "$2" -N 8 -t u8 --endian=little "$1" | tr -d ' ')
    [ "$found" = "$3" ] || { echo "$1 is no GRUB known here: $found at byte $2 instead of $3" >&2; exit 1; }
    for shift in 0 8 16 24 32 40 48 56; do
        bytes+=$(printf '\\x%02x' $(($4 >> shift & 255)))
    done
    printf "$bytes" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}
cp /usr/lib/grub/i386-pc/boot.img "$work/boot.img"
grub i386-pc "$work/core.img" biosdisk
core_at=$((bios_at * mib / sector))
patch "$work/boot.img" 92 1 $core_at           # GRUB_BOOT_MACHINE_KERNEL_SECTOR
patch "$work/core.img" 500 2 $((core_at + 1))  # the start in the first block list of diskboot.img
[ "$(stat -c %s "$work/core.img")" -le $((bios_mib * mib)) ] || { echo "GRUB is larger than its partition" >&2; exit 1; }
# Only the code: the partition table's part of the sector stays.
dd if="$work/boot.img" of="$disk" bs=440 count=1 conv=notrunc status=none
dd if="$work/core.img" of="$disk" bs=$mib seek=$bios_at conv=notrunc status=none

# The last MiB stays free for the backup partition table.
mke2fs -q -F -t ext4 -L root -m 1 -N 131072 -d "$root" \
    -E "offset=$((root_at * mib)),lazy_itable_init=1" "$disk" $((disk_mib - 1 - root_at))M
rm -f "$work/esp.img" "$work/boot.efi" "$work/boot.img" "$work/core.img"
