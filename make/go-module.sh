#!/usr/bin/env bash
# go-module.sh MODULE@VERSION FOLDER puts a copy of a Go module's own tree into FOLDER, with everything it is built from
# fetched: its `replace` lines and go.mod count there, and not with `go install`. The Go toolchain verifies it against
# the public checksum database. Ends with 3, saying why, where that cannot be had: no Go, an old one, no proxy.
set -euo pipefail
module=$1 tree=$2
say() { echo "go-module: $*" >&2; }

command -v go >/dev/null || { say "$module needs Go (https://go.dev/dl)"; exit 3; }
have=$(go env GOVERSION)
# Since 1.21 Go fetches the toolchain that a module asks for.
if [ "$(printf '%s\n' 1.21 "${have#go}" | sort -V | head -n1)" != 1.21 ]; then
  say "$module needs Go 1.21 or newer, found ${have#go}"
  exit 3
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
again() { # command…: the proxy fails now and then
  local pause
  for pause in 10 20 60 0; do
    "$@" >"$work/answer" 2>"$work/log" && return
    [ $pause = 0 ] || { say "fetching $module failed; trying again in $pause s"; sleep $pause; }
  done
  { grep '"Error"' "$work/answer" || true; tail -n 5 "$work/log"; } >&2
  say "cannot fetch $module: is the Go module proxy reachable?"
  exit 3
}

cd "$work"
again go mod download -json "$module"
cp -r "$(sed -n 's/^\t"Dir": "\(.*\)",$/\1/p' answer)" "$tree"
chmod -R u+w "$tree"
cd "$tree"
# What is built from, and no more.
again env CGO_ENABLED=0 go list -deps ./...
