#!/usr/bin/env bash
# Faults of other people's fleets, on real guests: an encrypted bake whose provisioner prints ids of other resources; an agent release
# while the service cannot reach its store; a roll with default settings behind a target group with AWS's deregistration delay of 300 s,
# while orders come in; a rollback after a cancelled roll. Exit 0 only when each ended as it should and no acknowledged order was lost.
# Called by make, after everything was built; ends everything it started.
set -euo pipefail
cd "$(dirname "$0")/.."

name=prove-fleet
# shellcheck source=make/cloud.sh
. make/cloud.sh

text() { in_cloud aws "$@" --output text; }
# The instances of the group that are in service.
in_service() {
  text autoscaling describe-auto-scaling-groups --auto-scaling-group-names shop \
    --query 'AutoScalingGroups[0].Instances[?LifecycleState==`InService`].InstanceId' | tr '\t' '\n' | sort
}
delay() { # seconds
  local arn; arn=$(text elbv2 describe-target-groups --names shop --query 'TargetGroups[0].TargetGroupArn')
  in_cloud aws elbv2 modify-target-group-attributes --target-group-arn "$arn" \
    --attributes "Key=deregistration_delay.timeout_seconds,Value=$1" >/dev/null
}
# Waits for a condition, at most so many seconds.
until_so() { # seconds what command…
  local -i end=$((SECONDS + $1)); local what=$2; shift 2
  until "$@"; do
    [ $SECONDS -lt "$end" ] || die "$what"
    sleep 1
  done
}

found_cloud
found_channel

part "an encrypted bake whose provisioner prints ids of other resources"
victim=$(in_service | head -n1)
# The built-in scripts, and one more.
in_cloud imagebuilder --config unused.toml init --templates custom >&2
cat >custom/provision/50-hostile.sh <<END
#!/bin/sh
echo "AMIs were created:"
echo "us-east-1: $source_ami"
echo "AMI: $source_ami"
echo "Instance ID: $victim"
echo "==> amazon-ebs.image: Creating temporary security group for this instance: sg-00000000"
echo '1600000000,amazon-ebs,artifact,0,id,us-east-1:$source_ami'
END
sed -i 's/^\[image\]/&\nprovision = "custom"/; s/^\[bake\]/&\nencrypt = true/' imagebuilder.toml
release 1 "$box/orders"
first=$(in_cloud imagebuilder bake)
[ "$first" != "$source_ami" ] || die "the bake published an image that its provisioner named"
[ "$(text ec2 describe-images --image-ids "$first" --query 'Images[0].BlockDeviceMappings[0].Ebs.Encrypted')" = True ] ||
  die "$first is not encrypted"
[ "$(text ec2 describe-images --image-ids "$source_ami" --query 'Images[0].State')" = available ] || die "$source_ami was removed"
in_service | grep -qx "$victim" || die "$victim was terminated"
expect 0 imagebuilder reap >&2
in_service | grep -qx "$victim" || die "$victim was reaped"

part "the first roll, so that there is a service"
expect 0 imagebuilder roll

part "agent 0.2.0, published while the service cannot reach its store: it is not blamed"
sick() { ! curl -fsS -o /dev/null --max-time 5 "$listener/gtg" 2>/dev/null; }
# The channel is in S3 too: published before, for all instances within a minute.
expect 0 imagebuilder channel publish "$root/.cache/agent-changed" --waves '1%@0m,100%@1m' >&2
rehearsal dial "$cloud" 'deny.s3:PutObject' on 9>&- >&2
# The service asks its store for orders only.
"$box/orders-load" run --url "$listener" --rate 2 --duration 10s --ledger "$place/refused.ledger" >/dev/null 2>&1 9>&- || true
until_so 60 "the service is still ready without its store" sick
# Every instance has tried the release, whatever became of it, while its service was sick.
has_tried() {
  [ "$(updater "$1" 'it["stable"]["version"] == "0.2.0" or it["wanted"] is not None and it["phase"] == "idle" and "reaches" not in it["reason"]')" = True ]
}
for id in $(in_service); do
  until_so 600 "$id has not tried the release" has_tried "$id"
  echo "  $id: $(updater "$id" '{k: it[k] for k in ("reason", "stable", "skipped", "failures")}')" >&2
done
sick || die "the service became ready without its store"
rehearsal dial "$cloud" 'deny.s3:PutObject' off 9>&- >&2
until_agents 0.2.0 600
for id in $(in_service); do
  skipped=$(updater "$id" 'it["skipped"]')
  [ "$skipped" = "[]" ] || die "$id skips a release because of an outage: $skipped"
done

cp "$root/.cache/agent-changed" payload/imagebuilder-agent

part "a changed release while orders come in: bake"
# On a busy machine an answer may take long: what is tested is that none is lost (docs/flake-patterns.md, open loops).
"$box/orders-load" run --url "$listener" --rate 5 --arrivals poisson --duration until-stopped --timeout 60s --connections 8 \
  --ledger "$place/orders.ledger" --histogram "$place/load.hgrm" >"$place/load.log" 2>&1 9>&- &
load=$!
release 2 "$root/.cache/orders-changed"
second=$(in_cloud imagebuilder bake)
part "a roll with every setting at its default, behind a deregistration delay of 300 s"
delay 300
cp imagebuilder.toml tuned.toml
sed -i '/^\[roll\]/,$d' imagebuilder.toml
expect 0 imagebuilder roll

part "a roll that is cancelled half-way (exit 13)"
delay 5
cp tuned.toml imagebuilder.toml
before=$(in_service)
in_cloud imagebuilder roll "$first" &
roll=$! got=0
# Half-way: an instance of the other version serves.
new_one() { in_service | grep -vxFf <(printf '%s\n' "$before") >/dev/null; }
until_so 900 "no instance of $first came into service" new_one
in_cloud aws autoscaling cancel-instance-refresh --auto-scaling-group-name shop >/dev/null
wait "$roll" || got=$?
[ "$got" = 13 ] || die "a cancelled roll ended with exit code $got, expected 13"

part "roll rollback: back to the version before the cancelled roll"
expect 0 imagebuilder roll rollback
images=$(in_service | while read -r id; do
  text ec2 describe-instances --instance-ids "$id" --query 'Reservations[0].Instances[0].ImageId'
done | sort -u)
[ "$images" = "$second" ] || die "the fleet runs $images, expected $second"
current=$(text ssm get-parameter --name /imagebuilder/shop/current --query Parameter.Value)
[ "$current" = "$second" ] || die "current points at $current, expected $second"

kill -INT "$load"
wait "$load" || die "the load generator saw failed orders: $place/load.log"
load=

part "every order that was acknowledged is in the store, once"
expect 0 "$box/orders-load" check --ledger "$place/orders.ledger" --store s3://shop-orders/orders
expect 0 imagebuilder status >&2
close_parts
