#!/usr/bin/env bash
# Builds the tree that the containers of these tests boot from: Debian with systemd, D-Bus and Perl, no more.
# base.sh CACHE [SUITE] prints its path; one that is there already, built by the same recipe, is left alone.
set -euo pipefail
cache=$1
say() { echo "systemd tests: $*" >&2; }

# By default the oldest suite in which what was built on this host runs.
glibc=$(getconf GNU_LIBC_VERSION | cut -d' ' -f2)
at_most() { [ "$(printf '%s\n%s\n' "$glibc" "$1" | sort -V | tail -n1)" = "$1" ]; }
if [ -n "${2:-}" ]; then suite=$2; elif at_most 2.36; then suite=bookworm; elif at_most 2.41; then suite=trixie; else suite=sid; fi

recipe=$( (cat "$0"; echo "$suite") | sha256sum | cut -c1-12)
base=$cache/nspawn-$suite-$recipe
mkdir -p "$cache"
exec 9>"$cache/nspawn.lock"
flock 9
if [ ! -d "$base" ]; then
  for tool in mmdebstrap systemd-nspawn; do
    command -v "$tool" >/dev/null || { say "no $tool"; say "hint: apt-get install mmdebstrap systemd-container"; exit 3; }
  done
  say "fetching and unpacking Debian $suite (a minute, once)"
  # Where this system takes the suite from; where it takes it from nowhere, mmdebstrap's own choice.
  mirrors=()
  if [ -n "${REHEARSAL_MIRROR:-}" ]; then
    mirrors=("$REHEARSAL_MIRROR")
  elif command -v apt-get >/dev/null; then
    mapfile -t mirrors < <(apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' \
      'Created-By: Packages' 'Origin: Debian' 2>/dev/null | grep -E " $suite(-updates|-security)? main\$" | sort -u)
    # Another suite than this system's is beside it.
    [ ${#mirrors[@]} -gt 0 ] || mapfile -t mirrors < <(apt-get indextargets --format "deb \$(REPO_URI) $suite \$(COMPONENT)" \
      'Created-By: Packages' 'Origin: Debian' 'Label: Debian' 2>/dev/null | grep ' main$' | sort -u)
  fi
  rm -rf "$cache/nspawn-$suite-"*/ "$cache"/nspawn-base-*/ "$base.part"
  mmdebstrap --quiet --variant=minbase --include=systemd,systemd-sysv,dbus,iproute2 \
    --aptopt='Apt::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --customize-hook='chroot "$1" systemctl --quiet mask systemd-logind.service getty.target console-getty.service \
      systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-networkd.service \
      apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer' \
    --customize-hook='rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/*' \
    --customize-hook=': >"$1"/etc/machine-id' \
    "$suite" "$base.part" "${mirrors[@]}" >&2
  mv "$base.part" "$base"
fi
echo "$base"
