#!/usr/bin/env bash
# The main job, end to end, on the rehearsal cloud: make a signed channel, bake a golden image with real Packer, roll a
# fleet of real virtual machines onto it. Then, under load: a new agent that the fleet takes from the channel by itself,
# a bad one that gets no further than its first wave; a changed release of the service, one that is sick at the gate, and
# one that is sick only in the fleet. `--quick` stops after the first roll. Exit 0 only when every part ended as it
# should and no order was lost.
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

# Every box's word on itself, one line each: instance, agent's version, verdict.
agents() {
  in_cloud imagebuilder --json status | python3 -c '
import json, sys
for member in json.load(sys.stdin)["group"]["members"]:
    print(member["instance"], member["agent"] or "-", member["verdict"] or "-")'
}
# Waits until every box of the fleet is fit under this agent, telling what changes; at most so many seconds.
until_agents() { # version seconds
  local said=; local -i end=$((SECONDS + $2))
  while true; do
    local now; now=$(agents)
    [ "$now" = "$said" ] || { sed 's/^/  /' <<<"$now" >&2; said=$now; }
    [ -z "$(awk -v version="$1" '$2 != version || $3 != "fit"' <<<"$now")" ] && return
    [ $SECONDS -lt "$end" ] || die "not every box is fit under agent $1 after $2 s"
    sleep 1
  done
}
# A command on one box, by SSH with the shop's own key.
on_box() { # instance command…
  local instance=$1 address; shift
  address=$(in_cloud aws ec2 describe-instances --instance-ids "$instance" --output text \
    --query 'Reservations[0].Instances[0].PrivateIpAddress')
  ssh -i "$shop/shop.key" -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR \
    "admin@$address" "$@" </dev/null 9>&-
}
# What the updater of a box says of itself; a question in Python over `it`, such as it["trial"].
updater() { # instance expression
  on_box "$1" cat /run/imagebuilder-update/status.json | python3 -c "
import json, sys
it = json.load(sys.stdin)
print($2)"
}
# Where a box stands in the fleet for a release, of 2048: first in line is 0. As docs/agent.md has it.
position() { # instance file
  python3 - "$1" "$2" <<'END'
import hashlib, hmac, sys
digest = hashlib.sha256(open(sys.argv[2], "rb").read()).digest()
print(int.from_bytes(hmac.new(digest, sys.argv[1].encode(), "sha256").digest()[:2], "big") >> 5)
END
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
# Mirrors fail now and then.
for pause in 10 60 0; do
  base=$(rehearsal base-image --cache "$root/.cache/base-image" 9>&-) && break
  [ $pause != 0 ] || die "there is no base image"
  echo "once more in $pause s" >&2
  sleep $pause
done

part "the cloud: endpoint, fleet of two plain boxes, listener"
[ ! -d "$cloud" ] || rehearsal down "$cloud" >/dev/null 2>&1 9>&- || true
rm -rf "$cloud" "$shop" "$place/orders.ledger" "$place/load.log" "$place/load.hgrm"
mkdir -p "$shop"
cp -r "$root/examples/shop/." "$shop"
mkdir -p "$shop/payload"
cp "$box/imagebuilder-agent" "$shop/payload/"
rehearsal up "$cloud" --base-image "$base" --port 0 --detach 9>&- >&2
source_ami=$(in_cloud aws ec2 describe-images --owners 136693071363 --output text --query 'Images[0].ImageId')
listener=http://$(in_cloud "$shop/fleet.sh" "$source_ami"):8080
echo "the shop is at $listener" >&2
# This cloud's port is not the usual one.
port=$(in_cloud printenv AWS_ENDPOINT_URL) port=${port##*:}
sed -i "s/:4800/:$port/" "$shop/imagebuilder.toml"

release() { # number orders-binary: what goes into the next image
  cp "$2" "$shop/payload/orders"
  cp "$shop/releases/$1"/* "$shop/payload/"
}
cd "$shop"

part "the channel: fresh keys, and the agent that goes into the image as its first release"
in_cloud ./channel.sh >&2
expect 0 imagebuilder channel publish payload/imagebuilder-agent --waves all-at-once >&2

part "release 1: bake"
release 1 "$box/orders"
first=$(in_cloud imagebuilder bake)
echo "$first" >&2

part "release 1: roll"
expect 0 imagebuilder roll

if [ -n "$quick" ]; then
  part "orders through the listener, as strangers come"
  expect 0 "$box/orders" load --url "$listener" --rate 10 --arrivals poisson --duration 10s \
    --ledger "$place/orders.ledger" --histogram "$place/load.hgrm"
else
  # What makes the seed's fleet grow, for as long as it takes; no order has a second try.
  "$box/orders" load --url "$listener" --preset high-demand --arrivals poisson --duration until-stopped \
    --ledger "$place/orders.ledger" --histogram "$place/load.hgrm" >"$place/load.log" 2>&1 9>&- &
  load=$!

  part "agent 0.2.0, published while orders come in: the fleet takes it by itself"
  expect 0 imagebuilder channel publish "$root/.cache/agent-changed" --waves all-at-once >&2
  until_agents 0.2.0 300

  part "agent 0.3.0 dies on trial: only its first wave tries it, and every box stays on 0.2.0"
  mapfile -t boxes < <(agents | cut -d' ' -f1)
  # Of two boxes, a wave of one half may hold both, or none: another last line, until it holds one. The second wave is as
  # narrow as can be; who is in neither waits a hundred days.
  first=() rest=()
  for ((build = 0; ${#first[@]} != 1 || ${#rest[@]} != ${#boxes[@]} - 1; build++)); do
    first=() rest=()
    { cat "$shop/bad-agent.sh"; echo "# build $build"; } >"$place/bad-agent"
    for box_id in "${boxes[@]}"; do
      at=$(position "$box_id" "$place/bad-agent")
      [ "$at" -ge 1024 ] || first+=("$box_id")
      [ "$at" -le 1044 ] || rest+=("$box_id")
    done
  done
  chmod +x "$place/bad-agent"
  bad=$(sha256sum "$place/bad-agent" | cut -d' ' -f1)
  echo "  in the first wave: ${first[*]}; not: ${rest[*]}" >&2
  expect 0 imagebuilder channel publish "$place/bad-agent" --version 0.3.0 --waves 50%@0m,51%@0m,100%@100d >&2
  skipped="[s['build']['version'] for s in it['skipped'] + it['failures'] if s['build']['digest'] == '$bad']"
  end=$((SECONDS + 240))
  until why=$(updater "${first[0]}" "$skipped") && [ "$why" != "[]" ]; do
    [ $SECONDS -lt $end ] || die "${first[0]} has not tried the bad agent and gone back after 240 s"
    sleep 1
  done
  echo "  ${first[0]} tried it and went back: $why" >&2
  expect 0 imagebuilder channel withdraw 0.3.0 --reason 'dies on trial' >&2
  until_agents 0.2.0 120
  for box_id in "${rest[@]}"; do
    [ "$(updater "$box_id" "$skipped")" = "[]" ] || die "$box_id is not in the first wave, and tried the bad agent"
  done

  part "release 2, a changed order service and agent 0.2.0, while orders come in: bake"
  cp "$root/.cache/agent-changed" "$shop/payload/imagebuilder-agent"
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
  grep 'latency ms' "$place/load.log" >&2
fi

part "every order that was acknowledged is in the store, once"
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
  orders    $place/orders.ledger, load.hgrm   (every answer, and how long it took)
END
