#!/usr/bin/env bash
# Builds versitygw, a server that speaks S3 and checks signatures, from the Go module proxy at a pinned
# version, into .cache/versitygw/. The Go toolchain verifies it against the public checksum database.
# For tests on this machine only: nothing of it is shipped.
set -euo pipefail
cd "$(dirname "$0")/.."

version=1.8.0
dest=$PWD/.cache/versitygw
stamp=$dest/$version

[ -e "$stamp" ] && exit 0
if ! command -v go >/dev/null; then
  echo "versitygw: needs Go (https://go.dev/dl): without it, S3 is tested on moto only" >&2
  exit 3
fi

work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT

echo "versitygw: building $version (some minutes, once)" >&2
# Built from a copy of its own tree, whose go.mod has the versions it was tested with.
tree=$(cd "$work" && go mod download -json "github.com/versity/versitygw@v$version" 2>/dev/null | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
cp -r "$tree" "$work/src" && chmod -R u+w "$work/src"
rm -rf "$dest" && mkdir -p "$dest"
(cd "$work/src" && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$dest/versitygw" ./cmd/versitygw 2>"$work/log") ||
  { tail -n 20 "$work/log" >&2; exit 1; }
touch "$stamp"
