#!/usr/bin/env bash
# The order service compared with the stack it replaces. Called by `make bench-orders`; options go to bench.py.
set -euo pipefail
cd "$(dirname "$0")/../.."
fail() { echo "bench: $1" >&2; echo "bench: hint: $2" >&2; exit 3; }

command -v wrk >/dev/null || { [ "$(id -u)" = 0 ] && apt-get install -y --no-install-recommends wrk >&2; } ||
  fail "wrk is missing" "install it with your system's package manager"
venv=.cache/bench-venv
stamp=$venv/.installed-$(cksum <bench/orders/seed/requirements.txt | cut -d' ' -f1)
if [ ! -e "$stamp" ]; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install -q --disable-pip-version-check -r bench/orders/seed/requirements.txt >&2 ||
    fail "pip could not install the seed's stack" "check that the package index is reachable"
  touch "$stamp"
fi
missed=0
"$venv/bin/python" bench/orders/trickle.py --orders "$CARGO_TARGET_DIR/box/orders" --load "$CARGO_TARGET_DIR/box/orders-load" || missed=1
"$venv/bin/python" bench/orders/bench.py \
  --orders "$CARGO_TARGET_DIR/box/orders" --stand-in "$CARGO_TARGET_DIR/release/stand-in" "$@" || missed=1
exit "$missed"
