#!/usr/bin/env bash
# The main job, end to end, on the rehearsal cloud: make a signed channel, bake a golden image with real Packer, roll a
# fleet of real virtual machines onto it. Then, under load: a new agent that the fleet takes from the channel by itself,
# a bad one that gets no further than its first wave; a changed release of the service, one that is sick at the gate, and
# one that is sick only in the fleet. `--quick` stops after the first roll. Exit 0 only when every part ended as it
# should and no order was lost.
# Called by make, after everything was built; ends everything it started.
set -euo pipefail
cd "$(dirname "$0")/.."

name=rehearse quick=; [ "${1:-}" = --quick ] && quick=1
# shellcheck source=make/cloud.sh
. make/cloud.sh

# An instance's position in the waves of a release, of 2048: the first is 0. See docs/agent.md.
position() { # instance file
  python3 - "$1" "$2" <<'END'
import hashlib, hmac, sys
digest = hashlib.sha256(open(sys.argv[2], "rb").read()).digest()
print(int.from_bytes(hmac.new(digest, sys.argv[1].encode(), "sha256").digest()[:2], "big") >> 5)
END
}

# --- the parts --------------------------------------------------------------------------------------------
found_cloud
found_channel

part "release 1: bake"
release 1 "$box/orders"
first=$(in_cloud imagebuilder bake)
echo "$first" >&2

part "release 1: roll"
expect 0 imagebuilder roll

if [ -n "$quick" ]; then
  part "orders through the listener, at random intervals"
  expect 0 "$box/orders-load" run --url "$listener" --rate 10 --arrivals poisson --duration 10s \
    --ledger "$place/orders.ledger" --histogram "$place/load.hgrm"
else
  # What makes the seed's fleet grow, for as long as it takes; no order has a second try.
  # On a busy machine an answer may take long: what is tested is that none is lost (docs/flake-patterns.md, open loops).
  "$box/orders-load" run --url "$listener" --preset high-demand --arrivals poisson --duration until-stopped --timeout 60s --connections 8 \
    --ledger "$place/orders.ledger" --histogram "$place/load.hgrm" >"$place/load.log" 2>&1 9>&- &
  load=$!

  part "agent 0.2.0, published while orders come in: the fleet takes it by itself"
  expect 0 imagebuilder channel publish "$root/.cache/agent-changed" --waves all-at-once >&2
  until_agents 0.2.0 300

  part "agent 0.3.0 dies on trial: only its first wave tries it, and every instance stays on 0.2.0"
  mapfile -t instances < <(agents | cut -d' ' -f1)
  # Of two instances, a wave of one half may hold both, or none: another last line, until it holds one. The second wave is as
  # narrow as can be; who is in neither waits a hundred days.
  first=() rest=()
  for ((build = 0; ${#first[@]} != 1 || ${#rest[@]} != ${#instances[@]} - 1; build++)); do
    first=() rest=()
    { cat "$shop/bad-agent.sh"; echo "# build $build"; } >"$place/bad-agent"
    for id in "${instances[@]}"; do
      at=$(position "$id" "$place/bad-agent")
      [ "$at" -ge 1024 ] || first+=("$id")
      [ "$at" -le 1044 ] || rest+=("$id")
    done
  done
  chmod +x "$place/bad-agent"
  bad=$(sha256sum "$place/bad-agent" | cut -d' ' -f1)
  echo "  in the first wave: ${first[*]}; not: ${rest[*]}" >&2
  expect 0 imagebuilder channel publish "$place/bad-agent" --version 0.3.0 --waves 50%@0m,51%@0m,100%@100d >&2
  skipped="[s['build']['version'] for s in it['skipped'] + it['failures'] if s['build']['digest'] == '$bad']"
  end=$((SECONDS + 240))
  until why=$(updater "${first[0]}" "$skipped") && [ "$why" != "[]" ]; do
    [ $SECONDS -lt $end ] || die "${first[0]} has not tried the bad agent and reverted within 240 s"
    sleep 1
  done
  echo "  ${first[0]} tried it and went back: $why" >&2
  expect 0 imagebuilder channel withdraw 0.3.0 --reason 'dies on trial' >&2
  until_agents 0.2.0 120
  for id in "${rest[@]}"; do
    [ "$(updater "$id" "$skipped")" = "[]" ] || die "$id is not in the first wave, and tried the bad agent"
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
  part "release 4, sick in the fleet: its instances abandon the launch hook, the refresh is rolled back (exit 11)"
  expect 11 imagebuilder roll

  kill -INT "$load"
  wait "$load" || die "the load generator saw failed orders: $place/load.log"
  load=
  grep 'latency ms' "$place/load.log" >&2
fi

part "every order that was acknowledged is in the store, once"
expect 0 "$box/orders-load" check --ledger "$place/orders.ledger" --store s3://shop-orders/orders
expect 0 imagebuilder status >&2
close_parts
cat >&2 <<END
where to look
  runs      $shop/.imagebuilder/runs   (ledger, rendered template, Packer's log, events)
  cloud     $cloud   (requests.jsonl, each guest's console)
  listener  $listener   (until now)
  orders    $place/orders.ledger, load.hgrm   (every answer, and how long it took)
END
