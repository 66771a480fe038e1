#!/bin/sh
# Refuses, before anything is installed, programs that this image cannot start. `programs` has one line per program: its
# destination, the loader that starts it and the release of the GNU C library that it needs, or - for none.
set -eu
stage=${IMAGEBUILDER_STAGE:-/var/tmp/imagebuilder}
libc=$(getconf GNU_LIBC_VERSION 2>/dev/null || true)
libc=${libc#glibc }
status=0
while read -r dest loader needs; do
    if [ "$loader" != - ] && [ ! -e "$loader" ]; then
        echo "imagebuilder: $dest is started by $loader, which this image does not have" >&2
        status=1
    elif [ "$needs" != - ] && [ -z "$libc" ]; then
        echo "imagebuilder: $dest needs the GNU C library $needs, which this image does not have" >&2
        status=1
    elif [ "$needs" != - ] && [ "$(printf '%s\n' "$needs" "$libc" | sort -V | head -n 1)" != "$needs" ]; then
        echo "imagebuilder: $dest needs the GNU C library $needs, and this image has $libc" >&2
        status=1
    fi
done <"$stage/programs"
exit $status
