#!/bin/sh
# Installs the packages of `packages-apt` or `packages-dnf`, one on a line, with whichever of the two managers this image
# has. A list for the other one is refused before anything is installed, unless there are both lists.
set -eu
stage=${IMAGEBUILDER_STAGE:-/var/tmp/imagebuilder}
apt=$stage/packages-apt
dnf=$stage/packages-dnf
[ -s "$apt" ] || [ -s "$dnf" ] || exit 0

refuse() {
    echo "imagebuilder: $*" >&2
    exit 1
}

# What a booting host does with the lists and locks of its manager ends by itself: five attempts, ten seconds apart.
again() {
    attempts=5
    until "$@"; do
        attempts=$((attempts - 1))
        [ "$attempts" -gt 0 ] || return 1
        sleep 10
    done
}

if command -v apt-get >/dev/null 2>&1; then
    [ -s "$apt" ] || refuse "[image.packages] has a list for dnf only, and this image has apt: add \`apt = [...]\`"
    DEBIAN_FRONTEND=noninteractive
    export DEBIAN_FRONTEND
    again apt-get -q -o APT::Update::Error-Mode=any update
    xargs apt-get -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold \
        install <"$apt"
    apt-get -q clean
elif command -v dnf >/dev/null 2>&1; then
    [ -s "$dnf" ] || refuse "[image.packages] has a list for apt only, and this image has dnf: add \`dnf = [...]\`"
    # By itself dnf leaves out a repository that does not answer, and keeps an older version that is installed.
    again dnf -y --setopt=skip_if_unavailable=False makecache
    xargs dnf -y --setopt=skip_if_unavailable=False --setopt=install_weak_deps=False --best install <"$dnf"
    dnf -y clean all
else
    refuse "[image.packages] needs apt or dnf, and this image has neither"
fi
