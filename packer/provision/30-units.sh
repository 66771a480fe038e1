#!/bin/sh
# Enables the staged units, after a check that those which are to be on the image already (`units-installed`) are.
set -eu
stage=${IMAGEBUILDER_STAGE:-/var/tmp/imagebuilder}
systemctl daemon-reload
status=0
while read -r unit; do
    # Without a running systemd, `cat` prints nothing; the state is then read from the files.
    if [ -z "$(systemctl cat -- "$unit" 2>/dev/null)" ]; then
        case $(systemctl is-enabled -- "$unit" 2>/dev/null) in
        '' | not-found)
            echo "imagebuilder: a service has \`installed = true\`, and this image has no unit $unit: install its package" >&2
            status=1
            ;;
        esac
    fi
done <"$stage/units-installed"
[ "$status" -eq 0 ] || exit 1
while read -r unit; do
    systemctl enable --quiet "$unit"
done <"$stage/units"
