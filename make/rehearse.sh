#!/usr/bin/env bash
# The main job, end to end, on the rehearsal cloud: bake a golden image with real Packer, roll a fleet of real virtual
# machines onto it; then a changed release under load, one that is sick at the gate, and one that is sick only in the
# fleet. `--quick` stops after the first roll. Exit 0 only when every part ended as it should and no order was lost.
# Called by make, after everything was built; ends everything it started.
set -euo pipefail
cd "$(dirname "$0")/.."

quick=; [ "${1:-}" = --quick ] && quick=1
root=$PWD
place=${REHEARSE_DIR:-$root/.rehearsal}
cloud=$place/cloud shop=$place/shop
debug=$CARGO_TARGET_DIR/debug box=$CARGO_TARGET_DIR/box
export PATH=$debug:$root/.cache/venv/bin:$PATH

mkdir -p "$place"
exec 9>"$place/lock"
flock -n 9 || { echo "rehearse: another rehearsal runs in $place; wait for it, or set REHEARSE_DIR" >&2; exit 3; }

# --- telling the story ---------------------------------------------------------------------------------
begun=$SECONDS
if [ -t 2 ]; then bold=$'\e[1m' plain=$'\e[0m'; else bold='' plain=''; fi
parts=()
part() { # title: closes the part before it
  close_part
  title=$1 since=$SECONDS
  printf '\n%s── %s%s\n' "$bold" "$title" "$plain" >&2
}
close_part() { [ -z "${title:-}" ] || parts+=("$(printf '%4d s  %s' $((SECONDS - since)) "$title")"); title=; }
die() { printf 'rehearse: %s\n' "$1" >&2; exit 1; }

in_cloud() { rehearsal exec "$cloud" -- "$@" 9>&-; }
# Runs a command in the cloud and insists on how it ends.
expect() { # exit-code command…
  local wanted=$1 got=0; shift
  in_cloud "$@" || got=$?
  [ "$got" = "$wanted" ] || die "\`$*\` ended with exit code $got, expected $wanted"
}

load=
finish() {
  local code=$?
  trap - EXIT INT TERM
  [ -z "$load" ] || { kill -INT "$load" 2>/dev/null && wait "$load" || true; }
  [ ! -d "$cloud" ] || rehearsal down "$cloud" 9>&- >&2 || true
  exit $code
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# --- the parts --------------------------------------------------------------------------------------------
part "the base image, from Debian's packages (made once, then cached)"
base=$(rehearsal base-image --cache "$root/.cache/base-image" 9>&-)

part "the cloud: endpoint, fleet of two plain boxes, listener"
[ ! -d "$cloud" ] || rehearsal down "$cloud" >/dev/null 2>&1 9>&- || true
rm -rf "$cloud" "$shop" "$place/orders.ledger" "$place/load.log"
mkdir -p "$shop"
cp -r "$root/examples/shop/." "$shop"
mkdir -p "$shop/payload"
cp "$box/imagebuilder-agent" "$shop/payload/"
rehearsal up "$cloud" --base-image "$base" --port 0 --detach 9>&- >&2
source_ami=$(in_cloud aws ec2 describe-images --owners 136693071363 --output text --query 'Images[0].ImageId')
listener=http://$(in_cloud "$shop/fleet.sh" "$source_ami"):8080
echo "the shop is at $listener" >&2

release() { # number orders-binary: what goes into the next image
  cp "$2" "$shop/payload/orders"
  cp "$shop/releases/$1"/* "$shop/payload/"
}
cd "$shop"

part "release 1: bake"
release 1 "$box/orders"
first=$(in_cloud imagebuilder bake)
echo "$first" >&2

part "release 1: roll"
expect 0 imagebuilder roll

if [ -n "$quick" ]; then
  part "orders through the listener"
  expect 0 "$box/orders" load --url "$listener" --rate 5 --duration 5s --ledger "$place/orders.ledger"
else
  "$box/orders" load --url "$listener" --rate 5 --duration until-stopped --ledger "$place/orders.ledger" \
    >"$place/load.log" 2>&1 9>&- &
  load=$!

  part "release 2, a changed order service, while orders come in: bake"
  release 2 "$root/.cache/orders-changed"
  second=$(in_cloud imagebuilder bake)
  echo "$second" >&2
  part "release 2: roll"
  expect 0 imagebuilder roll

  part "release 3, sick anywhere: the gate refuses it (exit 4), nothing is published"
  release 3 "$root/.cache/orders-changed"
  expect 4 imagebuilder bake
  candidate=$(in_cloud aws ssm get-parameter --name /imagebuilder/shop/candidate --output text --query Parameter.Value)
  [ "$candidate" = "$second" ] || die "the candidate pointer moved to $candidate although the gate refused"

  part "release 4, fit at the gate: bake"
  release 4 "$root/.cache/orders-changed"
  in_cloud imagebuilder bake >&2
  part "release 4, sick in the fleet: its boxes abandon the launch hook, the refresh is rolled back (exit 11)"
  expect 11 imagebuilder roll

  kill -INT "$load"
  wait "$load" || die "the load generator saw failed orders: $place/load.log"
  load=
fi

part "every order that was acknowledged, looked up in the store"
expect 0 "$box/orders" check --ledger "$place/orders.ledger" --store s3://shop-orders/orders
expect 0 imagebuilder status >&2
close_part

printf '\n%sdone in %d s%s\n' "$bold" $((SECONDS - begun)) "$plain" >&2
printf '  %s\n' "${parts[@]}" >&2
cat >&2 <<END
where to look
  runs      $shop/.imagebuilder/runs   (ledger, rendered template, Packer's log, events)
  cloud     $cloud   (requests.jsonl, each guest's console)
  listener  $listener   (until now)
END
