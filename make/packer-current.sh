#!/usr/bin/env bash
# Builds a current Packer and its Amazon plugin from the Go module proxy, at pinned versions, into
# .cache/packer-current/. Ends with 3 where they cannot be had.
# For tests on this machine only: nothing of it is shipped (Packer is under the BUSL since 1.10).
set -euo pipefail
cd "$(dirname "$0")/.."

packer=1.16.0
plugin=1.8.2
dest=$PWD/.cache/packer-current
stamp=$dest/$packer+$plugin

[ -e "$stamp" ] && exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

build() { # module version output
  echo "packer-current: building $1 $2 (some minutes, once)" >&2
  make/go-module.sh "$1@v$2" "$work/src"
  (cd "$work/src" && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$3" . 2>"$work/log") || { tail -n 20 "$work/log" >&2; return 1; }
  rm -rf "$work/src"
}

rm -rf "$dest" && mkdir -p "$dest/plugins"
build github.com/hashicorp/packer "$packer" "$dest/packer"
build github.com/hashicorp/packer-plugin-amazon "$plugin" "$work/packer-plugin-amazon"
PACKER_PLUGIN_PATH=$dest/plugins CHECKPOINT_DISABLE=1 \
  "$dest/packer" plugins install --path "$work/packer-plugin-amazon" github.com/hashicorp/amazon >&2
touch "$stamp"
