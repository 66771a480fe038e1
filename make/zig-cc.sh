#!/bin/sh
# A C compiler for static musl binaries: zig, through cargo-zigbuild, which translates what the crate `cc` passes to a Clang.
# Called as zig-cc-ARCHITECTURE. Both programs are Python packages in .cache/venv (make/setup.sh).
arch=${0##*-}
here=$(dirname "$0")
venv=$(cd "$here/.." && pwd)/.cache/venv/bin
# Without -fno-sanitize, zig adds checks that call a library of its own.
PATH=$venv:$PATH exec "$venv/cargo-zigbuild" zig cc -- -target "$arch-linux-musl" -fno-sanitize=undefined "$@"
