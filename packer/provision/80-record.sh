#!/bin/sh
# Records every installed package: name, version and architecture, sorted.
set -eu
record=/etc/imagebuilder/packages
install -d -o root -g root -m 0755 "${record%/*}"
if command -v dpkg-query >/dev/null 2>&1; then
    # The second letter of the status is `i` for what is installed.
    # shellcheck disable=SC2016 # the format is dpkg-query's
    dpkg-query -W -f '${db:Status-Abbrev} ${Package} ${Version} ${Architecture}\n' | sed -n 's/^.i. *//p'
elif command -v rpm >/dev/null 2>&1; then
    rpm -qa --queryformat '%{NAME} %{EVR} %{ARCH}\n'
fi | LC_ALL=C sort >"$record"
chmod 0644 "$record"
