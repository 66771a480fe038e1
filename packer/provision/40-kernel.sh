#!/bin/sh
# Adds `kernel-arguments`, one on a line, to the kernel's command line: for GRUB as Debian and Ubuntu configure it, or by
# grubby, where Fedora's descendants have it.
set -eu
stage=${IMAGEBUILDER_STAGE:-/var/tmp/imagebuilder}
drop_in=/etc/default/grub.d/60-imagebuilder.cfg
if [ ! -s "$stage/kernel-arguments" ]; then
    # Of an earlier image that this one is built from.
    if [ -e "$drop_in" ]; then
        rm -f "$drop_in"
        update-grub
    fi
    exit 0
fi
arguments=$(tr '\n' ' ' <"$stage/kernel-arguments")
arguments=${arguments% }
if command -v update-grub >/dev/null 2>&1; then
    install -d -o root -g root -m 0755 /etc/default/grub.d
    echo "GRUB_CMDLINE_LINUX=\"\$GRUB_CMDLINE_LINUX $arguments\"" >"$drop_in"
    chmod 0644 "$drop_in"
    update-grub
elif command -v grubby >/dev/null 2>&1; then
    grubby --update-kernel=ALL --args="$arguments"
else
    echo "imagebuilder: [image] kernel_arguments needs update-grub or grubby, and this image has neither" >&2
    exit 1
fi
