#!/usr/bin/env bash
# Builds programs for instances, each apart: static (musl), small, stripped, and the same bytes in every folder.
# box.sh ARCHITECTURE PROGRAM…: target/box/ARCHITECTURE/PROGRAM, and target/box/PROGRAM where it is this host's architecture.
# Where the static target cannot be had, the host's programs are built for glibc 2.28 instead, and a line is printed.
# Called by make, after make/setup.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
arch=$1; shift
target=$arch-unknown-linux-musl
say() { echo "box: $*" >&2; }
out=${CARGO_TARGET_DIR:-target}/box
host=$(uname -m)

build=(cargo build)
triple=$target release=
there() { [ -d "$(rustc --print target-libdir --target "$target")" ]; }
if ! there && command -v rustup >/dev/null; then
  say "adding Rust's standard library for $target"
  for pause in 10 20 60 0; do
    rustup --quiet target add "$target" >&2 && break
    [ $pause = 0 ] || { say "rustup failed; trying again in $pause s"; sleep $pause; }
  done
fi
if ! there; then
  [ "$arch" = "$host" ] || { say "no standard library for $target: no programs for $arch instances"; say "hint: rustup target add $target"; exit 3; }
  say "no standard library for $target: building for glibc 2.28 instead, which Debian 10, RHEL 8 and newer systems have"
  say "hint: rustup target add $target"
  build=(env "PATH=$PWD/.cache/venv/bin:$PATH" cargo-zigbuild zigbuild)
  triple=$arch-unknown-linux-gnu release=.2.28
fi

# No path of this machine in the binaries: the same bytes wherever they are built.
flags=("--remap-path-prefix=$PWD=/imagebuilder" "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}/registry/src=/crates")
# shellcheck disable=SC2206  # separated by spaces
flags+=(${RUSTFLAGS:-})
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; printf '%s' "${flags[*]}")
export CARGO_ENCODED_RUSTFLAGS

folders=("$out/$arch")
[ "$arch" != "$host" ] || folders+=("$out")
mkdir -p "$out/$arch"
for program in "$@"; do
  # One build each: together, cargo would give the agent the features that orders asks of their common dependencies.
  # The operator's program does not run on instances, and is not made small at every price.
  profile=box
  [ "$program" != imagebuilder ] || profile=dist
  "${build[@]}" --quiet --locked --profile "$profile" --target "$triple$release" -p "$program"
  built=${CARGO_TARGET_DIR:-target}/$triple/$profile/$program
  for folder in "${folders[@]}"; do
    # Under another name first: a running program cannot be written.
    cmp -s "$built" "$folder/$program" || { cp "$built" "$folder/$program.part"; mv "$folder/$program.part" "$folder/$program"; }
  done
done
