# shellcheck shell=bash
# What the scripts that drive a rehearsal cloud with real guests share: its place, its parts, and its end. Sourced by them, from the
# project's root, with `quick` and `name` set; everything that was started ends with the script.

root=$PWD
place=${REHEARSE_DIR:-$root/.rehearsal}
cloud=$place/cloud shop=$place/shop
debug=$CARGO_TARGET_DIR/debug box=$CARGO_TARGET_DIR/box
export PATH=$debug:$root/.cache/venv/bin:$PATH

mkdir -p "$place"
exec 9>"$place/lock"
flock -n 9 || { echo "${name:?}: another rehearsal runs in $place; wait for it, or set REHEARSE_DIR" >&2; exit 3; }

# --- parts, each with its time ----------------------------------------------------------------------------
begun=$SECONDS
if [ -t 2 ]; then bold=$'\e[1m' plain=$'\e[0m'; else bold='' plain=''; fi
parts=()
part() { # title: closes the part before it
  close_part
  title=$1 since=$SECONDS
  printf '\n%s── %s%s\n' "$bold" "$title" "$plain" >&2
}
close_part() { [ -z "${title:-}" ] || parts+=("$(printf '%4d s  %s' $((SECONDS - since)) "$title")"); title=; }
die() { printf '%s: %s\n' "$name" "$1" >&2; exit 1; }

in_cloud() { rehearsal exec "$cloud" -- "$@" 9>&-; }
# Runs a command in the cloud and insists on how it ends.
expect() { # exit-code command…
  local wanted=$1 got=0; shift
  in_cloud "$@" || got=$?
  [ "$got" = "$wanted" ] || die "\`$*\` ended with exit code $got, expected $wanted"
}

# What every instance's agent reports, one line each: instance, agent's version, verdict.
agents() {
  in_cloud imagebuilder --json status | python3 -c '
import json, sys
for member in json.load(sys.stdin)["group"]["members"]:
    print(member["instance"], member["agent"] or "-", member["verdict"] or "-")'
}
# Waits until every instance of the fleet is fit under this agent, and prints what changes; at most so many seconds.
until_agents() { # version seconds
  local last=; local -i end=$((SECONDS + $2))
  while true; do
    local now; now=$(agents)
    [ "$now" = "$last" ] || { echo "  ${now//$'\n'/$'\n'  }" >&2; last=$now; }
    [ -z "$(awk -v version="$1" '$2 != version || $3 != "fit"' <<<"$now")" ] && return
    [ $SECONDS -lt "$end" ] || die "not every instance is fit under agent $1 after $2 s"
    sleep 1
  done
}
# A command on one instance, by SSH with the shop's own key.
on_instance() { # instance command…
  local instance=$1 address; shift
  address=$(in_cloud aws ec2 describe-instances --instance-ids "$instance" --output text \
    --query 'Reservations[0].Instances[0].PrivateIpAddress')
  ssh -i "$shop/shop.key" -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR \
    "admin@$address" "$@" </dev/null 9>&-
}
# A value of an instance's update status: a Python expression over `it`, such as it["trial"].
updater() { # instance expression
  on_instance "$1" cat /run/imagebuilder-update/status.json | python3 -c "
import json, sys
it = json.load(sys.stdin)
print($2)"
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

# --- a cloud -------------------------------------------------------------------------------------------------
# The base image; sets `base`.
found_base() {
  part "the base image, from Debian's packages (made once, then cached)"
  # Mirrors fail now and then.
  for pause in 10 60 0; do
    base=$(rehearsal base-image --cache "$root/.cache/base-image" 9>&-) && return
    [ $pause != 0 ] || die "there is no base image"
    echo "once more in $pause s" >&2
    sleep $pause
  done
}
# A new cloud in place of the one before it. Sets `source_ami`.
found_empty_cloud() {
  [ ! -d "$cloud" ] || rehearsal down "$cloud" >/dev/null 2>&1 9>&- || true
  rm -rf "$cloud"
  rehearsal up "$cloud" --base-image "$base" --port 0 --detach 9>&- >&2
  source_ami=$(in_cloud aws ec2 describe-images --owners 136693071363 --output text --query 'Images[0].ImageId')
}

# --- a cloud with the shop's fleet -------------------------------------------------------------------------
# The base image, a cloud of its own, and a fleet of two plain instances behind a listener. Sets `listener`; ends in the shop's folder.
found_cloud() {
  found_base
  part "the cloud: endpoint, fleet of two plain instances, listener"
  found_empty_cloud
  rm -rf "$shop" "$place/orders.ledger" "$place/load.log" "$place/load.hgrm"
  mkdir -p "$shop"
  cp -r "$root/examples/shop/." "$shop"
  mkdir -p "$shop/payload"
  cp "$box/imagebuilder-agent" "$shop/payload/"
  listener=http://$(in_cloud "$shop/fleet.sh" "$source_ami"):8080
  echo "the shop is at $listener" >&2
  # This cloud's port is not the usual one.
  port=$(in_cloud printenv AWS_ENDPOINT_URL) port=${port##*:}
  sed -i "s/:4800/:$port/" "$shop/imagebuilder.toml"
  cd "$shop" || exit
}
release() { # number orders-binary: what goes into the next image
  cp "$2" "$shop/payload/orders"
  cp "$shop/releases/$1"/* "$shop/payload/"
}
# Fresh keys, and the agent that goes into images as the channel's first release.
found_channel() {
  part "the channel: fresh keys, and the agent that goes into the image as its first release"
  in_cloud ./channel.sh >&2
  expect 0 imagebuilder channel publish payload/imagebuilder-agent --waves all-at-once >&2
}
close_parts() { # prints how long each took
  close_part
  printf '\n%sdone in %d s%s\n' "$bold" $((SECONDS - begun)) "$plain" >&2
  printf '  %s\n' "${parts[@]}" >&2
}
