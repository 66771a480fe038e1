#!/usr/bin/env bash
# Builds one of cargo's tools into .cache/tools/bin, unless it is there or on PATH. Argument: its crate.
set -euo pipefail
cd "$(dirname "$0")/.."
declare -A versions=([cargo-deb]=3.8.0 [cargo-deny]=0.20.2 [cargo-llvm-cov]=0.9.1 [cargo-mutants]=27.1.0)
crate=$1 version=${versions[$1]}
command -v "$crate" >/dev/null && exit
[ ! -x ".cache/tools/bin/$crate" ] || exit 0
mkdir -p .cache
echo "setup: building $crate (some minutes, once; log: .cache/$crate.log)" >&2
# Unoptimized it is built in half the time, and still done within seconds.
CARGO_TARGET_DIR=$PWD/.cache/tools/target CARGO_PROFILE_DEV_DEBUG=0 \
  cargo install --debug --locked --version "$version" --root .cache/tools "$crate" >".cache/$crate.log" 2>&1
rm -rf .cache/tools/target
