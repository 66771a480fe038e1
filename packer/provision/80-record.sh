#!/bin/sh
# Records every installed package: name, version and architecture, sorted.
set -eu
record=/etc/imagebuilder/packages
install -d -o root -g root -m 0755 "${record%/*}"
packages=
if command -v dpkg-query >/dev/null 2>&1; then
    # The second letter of the status is `i` for what is installed.
    # shellcheck disable=SC2016 # the format is dpkg-query's
    packages=$(dpkg-query -W -f '${db:Status-Abbrev} ${Package} ${Version} ${Architecture}\n')
    packages=$(printf '%s\n' "$packages" | sed -n 's/^.i. *//p')
elif command -v rpm >/dev/null 2>&1; then
    # Keys that packages are verified with are in this database as well.
    packages=$(rpm -qa --queryformat '%{NAME} %{EVR} %{ARCH}\n')
    packages=$(printf '%s\n' "$packages" | sed '/^gpg-pubkey /d')
fi
printf '%s\n' "$packages" | sed '/^$/d' | LC_ALL=C sort >"$record"
chmod 0644 "$record"
