#!/usr/bin/env bash
# The benchmarks: weighs the agent, measures the rehearsal cloud, then bakes in one of its own and ends it. Called by `make bench`.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
place=$(mktemp -d)
export PATH=$CARGO_TARGET_DIR/release:$root/.cache/venv/bin:$PATH
trap 'rehearsal down "$place/cloud" >/dev/null 2>&1 || true; rm -rf "$place"' EXIT

# Each prints all its figures before a missed one ends the whole. The agent's idle CPU is taken while nothing else runs.
missed=0
python bench/weight.py --agent "$CARGO_TARGET_DIR/box/imagebuilder-agent" --cache "$root/.cache/weight" || missed=1

"$root/.cache/venv/bin/python" bench/rehearsal.py --binaries "$CARGO_TARGET_DIR/release" --stand-in "$CARGO_TARGET_DIR/release/stand-in" \
  --place "$place" || missed=1

"$root/.cache/venv/bin/python" bench/roll.py --binaries "$CARGO_TARGET_DIR/release" --place "$place" || missed=1

"$root/.cache/venv/bin/python" bench/orders/trickle.py --orders "$CARGO_TARGET_DIR/box/orders" --load "$CARGO_TARGET_DIR/box/orders-load" || missed=1

base=$(rehearsal base-image --cache "$root/.cache/base-image")
cp -r examples/shop "$place/shop"
mkdir -p "$place/shop/payload"
cp "$CARGO_TARGET_DIR/box/imagebuilder-agent" "$CARGO_TARGET_DIR/box/orders" "$place/shop/payload/"
cp examples/shop/releases/1/* "$place/shop/payload/"
rehearsal up "$place/cloud" --base-image "$base" --port 0 --detach >&2
(cd "$place/shop" && rehearsal exec "$place/cloud" -- ./channel.sh >&2)
# The role of the gate's instance, as examples/shop/fleet.sh creates it.
rehearsal exec "$place/cloud" -- bash -ec '
  aws iam create-role --role-name shop --assume-role-policy-document "{\"Version\": \"2012-10-17\", \"Statement\": []}"
  aws iam create-instance-profile --instance-profile-name shop
  aws iam add-role-to-instance-profile --instance-profile-name shop --role-name shop' >/dev/null
rehearsal exec "$place/cloud" -- "$root/.cache/venv/bin/python" bench/bench.py \
  --shop "$place/shop" --cloud "$place/cloud" --box "$CARGO_TARGET_DIR/box" || missed=1
exit "$missed"
