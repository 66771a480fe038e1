#!/bin/sh
# Adds `kernel-arguments`, one on a line, to the kernel's command line: for GRUB as Debian and Ubuntu configure it, or by
# grubby, where Fedora's descendants have it. Those of an earlier image that this one is built from are removed.
set -eu
stage=${IMAGEBUILDER_STAGE:-/var/tmp/imagebuilder}
wanted=$stage/kernel-arguments
drop_in=/etc/default/grub.d/60-imagebuilder.cfg
# What grubby was given: it changes the entries themselves, where nothing shows whose an argument is.
given=/etc/imagebuilder/kernel-arguments

on_one_line() {
    tr '\n' ' ' | sed 's/ $//'
}

if command -v update-grub >/dev/null 2>&1; then
    if [ -s "$wanted" ]; then
        install -d -o root -g root -m 0755 "${drop_in%/*}"
        echo "GRUB_CMDLINE_LINUX=\"\$GRUB_CMDLINE_LINUX $(on_one_line <"$wanted")\"" >"$drop_in"
        chmod 0644 "$drop_in"
        update-grub
    elif [ -e "$drop_in" ]; then
        rm -f "$drop_in"
        update-grub
    fi
elif command -v grubby >/dev/null 2>&1; then
    twice=$(sed 's/=.*//' "$wanted" | LC_ALL=C sort | uniq -d | on_one_line)
    if [ -n "$twice" ]; then
        echo "imagebuilder: [image] kernel_arguments has $twice more than once, and grubby keeps one of a name: leave the others out" >&2
        exit 1
    fi
    set --
    if [ -e "$given" ]; then
        former=$(grep -vxF -f "$wanted" "$given" | on_one_line)
        [ -z "$former" ] || set -- --remove-args="$former"
    fi
    [ ! -s "$wanted" ] || set -- "$@" --args="$(on_one_line <"$wanted")"
    [ $# -eq 0 ] || grubby --update-kernel=ALL "$@"
    if [ -s "$wanted" ]; then
        install -d -o root -g root -m 0755 "${given%/*}"
        install -o root -g root -m 0644 "$wanted" "$given"
    else
        rm -f "$given"
    fi
elif [ -s "$wanted" ]; then
    echo "imagebuilder: [image] kernel_arguments needs update-grub or grubby, and this image has neither" >&2
    exit 1
fi
