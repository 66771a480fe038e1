#!/usr/bin/env bash
# Packs what make/box.sh built into target/dist: a tarball and a Debian package for each architecture, and SHA256SUMS.
# dist.sh [ARCHITECTURE…], by default both. The same programs and the same commit give the same bytes in every folder:
# names are sorted, the owner is 0, and every file has the commit's time, or that in SOURCE_DATE_EPOCH.
# Called by make, after make/box.sh.
set -euo pipefail
umask 022
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- x86_64 aarch64
# Cargo keeps its folders of the profiles `box` and `dist` there, too.
box=${CARGO_TARGET_DIR:-target}/box dist=${CARGO_TARGET_DIR:-target}/dist
fail() { echo "dist: $1" >&2; echo "hint: $2" >&2; exit 3; }

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
  SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null) || fail "this folder is no git checkout: its files have no common time" "set SOURCE_DATE_EPOCH"
fi
export SOURCE_DATE_EPOCH
for arch in "$@"; do
  [ -e "$box/$arch/imagebuilder" ] || fail "no $box/$arch/imagebuilder" "make dist ARCH=$arch"
done
# The instances of an operator may have another architecture than their own machine, or both.
for arch in x86_64 aarch64; do
  for program in imagebuilder-agent orders; do
    [ -e "$box/$arch/$program" ] || fail "no $box/$arch/$program" "make box"
  done
done

mkdir -p "$dist"
rm -f "$dist"/imagebuilder-*.tar.gz "$dist"/imagebuilder_*.deb "$dist/SHA256SUMS"
work=$(mktemp -d "$dist/pack.XXXXXX")
trap 'rm -rf "$work" .cache/deb' EXIT
for arch in "$@"; do
  # --- the tarball ---
  name=imagebuilder-$version-$arch-linux
  mkdir -p "$work/$name/box/x86_64" "$work/$name/box/aarch64"
  cp "$box/$arch/imagebuilder" LICENSE README.md CHANGELOG.md "$work/$name"
  for instances in x86_64 aarch64; do
    cp "$box/$instances"/{imagebuilder-agent,orders} "$work/$name/box/$instances"
  done
  tar --create --directory="$work" --format=ustar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
    --mode='u=rwX,go=rX' "$name" | gzip --no-name --best >"$work/$name.tar.gz"

  # --- the Debian package: its fields and paths are in imagebuilder/Cargo.toml ---
  rm -rf .cache/deb
  mkdir -p .cache/deb/box/x86_64 .cache/deb/box/aarch64
  cp "$box/$arch/imagebuilder" .cache/deb/
  for instances in x86_64 aarch64; do
    cp "$box/$instances/imagebuilder-agent" ".cache/deb/box/$instances/"
  done
  cargo deb --quiet --no-build --no-strip --package imagebuilder --profile dist --target "$arch-unknown-linux-musl" --output "$work/" >/dev/null
done
# All or nothing; the sums last.
(cd "$work" && sha256sum -- *.tar.gz *.deb >SHA256SUMS)
mv "$work"/*.tar.gz "$work"/*.deb "$dist"
mv "$work/SHA256SUMS" "$dist"
echo "dist: $dist" >&2
sed 's/^/  /' "$dist/SHA256SUMS" >&2
