#!/usr/bin/env bash
# The packages of `make dist` for real: their sums and contents; the program alone in an empty root; the Debian package installed, used and
# purged in a root without a C library and in Debian 11, 12 and 13; and the same bytes from a second folder, for which `imagebuilder` is built
# once more. Ends everything it started.
# Called by make/prove.sh. Exit 3 when this machine lacks something, with the reason.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD box=$CARGO_TARGET_DIR/box dist=$CARGO_TARGET_DIR/dist

say() { echo "prove-package: $*" >&2; }
lacks() { say "left out: $*"; exit 3; }
fail() { say "$*"; exit 1; }
# What a command prints matters only when it fails.
quiet() { local out; out=$("$@" 2>&1) || { echo "$out" >&2; fail "failed: $*"; }; }
[ "$(id -u)" = 0 ] || lacks "a chroot needs root"
for tool in dpkg dpkg-deb readelf unshare chroot; do command -v "$tool" >/dev/null || lacks "no $tool"; done
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
declare -A debian=([x86_64]=amd64 [aarch64]=arm64)

# What every test below does with the program that an operator gets: ROOT PROGRAM… (a program that emulates comes before it).
# Nothing of this host's environment reaches it.
try() {
  local tree=$1; shift
  local inside=(env -i /usr/sbin/chroot "$tree" "$@")
  [ "$("${inside[@]}" --version)" = "imagebuilder $version" ] || fail "another version than $version in $tree"
  mkdir -p "$tree/project"
  quiet "${inside[@]}" -c /project/imagebuilder.toml init --recipe debian
  # The agent for x86_64 instances stands for their service, too.
  mkdir "$tree/project/payload"
  cp "$box/x86_64/imagebuilder-agent" "$tree/project/payload/imagebuilder-agent"
  cp "$box/x86_64/imagebuilder-agent" "$tree/project/payload/shop"
  quiet "${inside[@]}" -c /project/imagebuilder.toml render --to /project/rendered
  [ -s "$tree/project/rendered/image.pkr.hcl" ] || fail "nothing was rendered in $tree"
  rm -r "$tree/project"
}
# Every path of a tree but what dpkg notes about itself.
paths() { (cd "$1" && find . -path ./var/lib/dpkg -prune -o -path ./var/log/dpkg.log -prune -o -path ./proc -prune -o -print | sort); }
# The package is installed, used, and purged, and nothing is left: TREE, the start of dpkg's command line, and the program's.
# shellcheck disable=SC2178,SC2034  # names of arrays
with_package() {
  local tree=$1 before
  local -n dpkg_of=$2 program_of=$3
  before=$(paths "$tree")
  quiet "${dpkg_of[@]}" --install "$4"
  try "$tree" "${program_of[@]}"
  quiet "${dpkg_of[@]}" --purge imagebuilder
  diff <(echo "$before") <(paths "$tree") || fail "the purge left something in $tree"
}

contents() {
  say "sums and contents"
  (cd "$dist" && sha256sum --quiet --check SHA256SUMS)
  local arch program tarball deb place=$1
  for arch in "${architectures[@]}"; do
    tarball=$dist/imagebuilder-$version-$arch-linux.tar.gz deb=$dist/imagebuilder_${version}_${debian[$arch]}.deb
    tar -xzf "$tarball" -C "$place"
    dpkg-deb --extract "$deb" "$place/deb-$arch"
    for program in "$place/imagebuilder-$version-$arch-linux/imagebuilder" "$place/deb-$arch/usr/bin/imagebuilder"; do
      cmp "$box/$arch/imagebuilder" "$program"
    done
    if readelf --wide --program-headers --dynamic "$box/$arch/imagebuilder" | grep -E 'INTERP|NEEDED'; then fail "the $arch program is not static"; fi
    [ -z "$(dpkg-deb --show --showformat='${Depends}${Pre-Depends}' "$deb")" ] || fail "the $arch package depends on another"
    say "$arch: program $(stat -c %s "$box/$arch/imagebuilder") bytes, tarball $(stat -c %s "$tarball"), package $(stat -c %s "$deb")"
  done
}

# In namespaces of their own: mounts and processes end with them. All trees are in memory.
in_roots() {
  local place=$1 arch suite base tree
  mount -t tmpfs -o mode=0755 tmpfs "$place"
  for arch in "${architectures[@]}"; do
    local emulator=()
    if [ "$arch" != "$(uname -m)" ]; then
      emulator=("$(command -v "qemu-$arch-static" || true)")
      [ -n "${emulator[0]}" ] || { say "$arch: not started, no qemu-$arch-static"; continue; }
    fi
    say "$arch: alone in an empty root"
    tree=$place/alone-$arch
    mkdir "$tree"
    tar -xzf "$dist/imagebuilder-$version-$arch-linux.tar.gz" -C "$tree" --strip-components=1 "imagebuilder-$version-$arch-linux/imagebuilder"
    [ ${#emulator[@]} = 0 ] || cp "${emulator[0]}" "$tree/emulator"
    [ "$(env -i /usr/sbin/chroot "$tree" ${emulator[0]:+/emulator} /imagebuilder --version)" = "imagebuilder $version" ] ||
      fail "the $arch program does not start alone"

    say "$arch: the package in a root without a C library"
    tree=$place/bare-$arch
    mkdir -p "$tree/var/lib/dpkg/info" "$tree/var/lib/dpkg/updates"
    touch "$tree/var/lib/dpkg/status"
    [ ${#emulator[@]} = 0 ] || cp "${emulator[0]}" "$tree/emulator"
    # shellcheck disable=SC2034  # by name
    local dpkg=(dpkg --root="$tree" --log="$place/dpkg.log" --force-architecture) program=(${emulator[0]:+/emulator} /usr/bin/imagebuilder)
    with_package "$tree" dpkg program "$dist/imagebuilder_${version}_${debian[$arch]}.deb"
  done

  arch=$(uname -m)
  for suite in bullseye bookworm trixie; do
    say "$arch: the package in Debian $suite"
    base=$(agent/tests/systemd/base.sh "$root/.cache" "$suite")
    tree=$place/$suite/root
    mkdir -p "$tree" "$place/$suite/upper" "$place/$suite/work"
    mount -t overlay overlay -o "lowerdir=$(readlink -f "$base"),upperdir=$place/$suite/upper,workdir=$place/$suite/work" "$tree"
    cp "$dist/imagebuilder_${version}_${debian[$arch]}.deb" "$tree/var/tmp/imagebuilder.deb"
    # shellcheck disable=SC2034  # by name
    local inside=(env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin /usr/sbin/chroot "$tree" dpkg) direct=(/usr/bin/imagebuilder)
    with_package "$tree" inside direct /var/tmp/imagebuilder.deb
  done
}

second_folder() {
  local place=$1 arch
  git clone --quiet . "$place/folder"
  mkdir "$place/folder/.cache"
  ln -s "$PWD/.cache/venv" "$PWD/.cache/tools" "$place/folder/.cache/"
  mkdir -p "$place/target/box"
  cp -r "$box/x86_64" "$box/aarch64" "$place/target/box/"
  say "packed in a second folder, under another umask and time zone"
  (cd "$place/folder" && umask 077 && TZ=Pacific/Auckland CARGO_TARGET_DIR=$place/target make/dist.sh "${architectures[@]}" 2>/dev/null)
  cmp "$dist/SHA256SUMS" "$place/target/dist/SHA256SUMS"

  # Nothing that this folder compiled is there.
  arch=$(uname -m)
  say "$arch: imagebuilder built in a second folder (some minutes)"
  rm "$place/target/box/$arch/imagebuilder"
  (cd "$place/folder" && CARGO_TARGET_DIR=$place/target make/box.sh "$arch" imagebuilder)
  cmp "$box/$arch/imagebuilder" "$place/target/box/$arch/imagebuilder"
}

architectures=()
for arch in x86_64 aarch64; do
  [ ! -e "$dist/imagebuilder-$version-$arch-linux.tar.gz" ] || architectures+=("$arch")
done
[ ${#architectures[@]} -gt 0 ] || fail "no packages in $dist; \`make dist\` builds them"
if [ -n "${PROVE_PACKAGE_ROOTS:-}" ]; then
  in_roots "$PROVE_PACKAGE_ROOTS"
  exit
fi

place=$(mktemp -d)
trap 'rm -rf --one-file-system "$place"' EXIT
mkdir "$place/contents" "$place/roots" "$place/second"
contents "$place/contents"
PROVE_PACKAGE_ROOTS=$place/roots unshare --mount --pid --fork --kill-child bash "$0"
second_folder "$place/second"
