#!/usr/bin/env bash
# Builds versitygw, a server that speaks S3 and checks signatures, from the Go module proxy at a pinned
# version, into .cache/versitygw/. Ends with 3 where it cannot be had.
# For tests on this machine only: nothing of it is shipped.
set -euo pipefail
cd "$(dirname "$0")/.."

version=1.8.0
dest=$PWD/.cache/versitygw
stamp=$dest/$version

[ -e "$stamp" ] && exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "versitygw: building $version (some minutes, once)" >&2
make/go-module.sh "github.com/versity/versitygw@v$version" "$work/src"
rm -rf "$dest" && mkdir -p "$dest"
(cd "$work/src" && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$dest/versitygw" ./cmd/versitygw 2>"$work/log") ||
  { tail -n 20 "$work/log" >&2; exit 1; }
touch "$stamp"
