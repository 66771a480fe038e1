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
# The recipe flask, with the packages that this host's own apt and pip would take.
mkdir -p "$place/flask"
imagebuilder -c "$place/flask/imagebuilder.toml" init --recipe flask >&2
install -D "$CARGO_TARGET_DIR/box/imagebuilder-agent" "$place/flask/payload/imagebuilder-agent"
cp examples/flask/rehearsal.toml "$place/flask/"
make/guest-packages.py >"$place/flask/packages.sh"
# The roles of the gates' instances, as the examples' fleet.sh create them.
rehearsal exec "$place/cloud" -- bash -ec '
  for name in shop flask; do
    aws iam create-role --role-name $name --assume-role-policy-document "{\"Version\": \"2012-10-17\", \"Statement\": []}"
    aws iam create-instance-profile --instance-profile-name $name
    aws iam add-role-to-instance-profile --instance-profile-name $name --role-name $name
  done' >/dev/null
rehearsal exec "$place/cloud" -- "$root/.cache/venv/bin/python" bench/bench.py \
  --shop "$place/shop" --flask "$place/flask" --cloud "$place/cloud" --box "$CARGO_TARGET_DIR/box" || missed=1
exit "$missed"
