#!/usr/bin/env bash
# The recipes `debian` and `flask`, for real: each baked by Packer on a guest, with this host's own package mirror and index, and booted by
# the gate. The image of `flask` is then rolled onto a fleet, and its answers, processes, confinement and logs are checked there. Exit 0 only
# when all are as they should be.
# Called by make/prove.sh; ends everything it started.
set -euo pipefail
cd "$(dirname "$0")/.."

name=prove-bakes
# shellcheck source=make/cloud.sh
. make/cloud.sh

flask=$place/flask debian=$place/debian
layers=(-c imagebuilder.toml -c rehearsal.toml)
# A recipe as its user has it, in a new folder. Ends there.
from_recipe() { # recipe folder
  rm -rf "$2"
  mkdir -p "$2"
  cd "$2"
  in_cloud imagebuilder init --recipe "$1" >&2
  install -D "$box/imagebuilder-agent" payload/imagebuilder-agent
  cp "$root/examples/flask/rehearsal.toml" .
  "$root/make/guest-packages.py" >packages.sh
}
bake() { # recipe options…: the image's id
  local image recipe=$1; shift
  image=$(in_cloud imagebuilder "${layers[@]}" bake "$@") || die "the bake of the recipe $recipe failed"
  echo "$image" >&2
  printf '%s' "$image"
}

found_base
part "the cloud: endpoint, fleet of one plain instance, listener"
found_empty_cloud
from_recipe flask "$flask"
shop=$flask
listener=http://$(in_cloud "$root/examples/flask/fleet.sh" "$source_ami"):5000
ln -sf flask.key shop.key

part "recipe flask: bake, with packages of Debian and of the Python index"
image=$(bake flask)

part "recipe flask: roll"
expect 0 imagebuilder "${layers[@]}" roll

part "recipe flask: every answer of the candidate contract, through the listener, nginx and Gunicorn"
expect 0 "$root/make/candidates.py" "$listener" >&2

part "recipe flask: processes, confinement, logs"
instance=$(in_cloud aws autoscaling describe-auto-scaling-groups --auto-scaling-group-names flask --output text \
  --query 'AutoScalingGroups[0].Instances[?LifecycleState==`InService`].InstanceId')
[ "$(in_cloud aws ec2 describe-instances --instance-ids "$instance" --output text --query 'Reservations[0].Instances[0].ImageId')" = "$image" ] ||
  die "$instance does not run $image"
# shellcheck disable=SC2016  # expanded on the instance
on_instance "$instance" '
  set -u
  wrong() { echo "wrong: $*"; failed=1; }
  failed=
  owners=$(for pid in $(cat /sys/fs/cgroup/system.slice/app.service/cgroup.procs); do stat -c %U /proc/$pid; done | sort | uniq -c)
  echo "processes of app.service, and their user: $owners"
  [ "$(echo $owners)" = "5 app" ] || wrong "not one Gunicorn with four workers, all of the user app"
  open=$(sudo ss -ltnH "sport != :22" | grep -v " 127.0.0.1:")
  [ "$(echo "$open" | wc -l)" = 1 ] || wrong "ports are open besides that of nginx: $open"
  for unit in app nginx imagebuilder-agent; do
    sudo systemd-analyze security --no-pager $unit.service | tail -n1
  done
  sudo systemd-analyze security --no-pager --threshold=30 app.service >/dev/null || wrong "app.service is less confined than 3.0"
  sudo journalctl -q --no-pager -o cat -u app -u nginx | tail -n 12
  sudo journalctl -q -o cat -u app | grep -q "Booting worker" || wrong "the journal has nothing of Gunicorn"
  sudo journalctl -q -o cat -u nginx | grep -q "POST /candidate/" || wrong "the journal has no request"
  [ -z "$(sudo find /var/log/nginx -type f -size +0)" ] || wrong "nginx logs to files"
  sudo -u app test ! -w /opt/app || wrong "the application can write to its code"
  # Of the host where it was baked.
  for left in /etc/pip.conf /etc/apt/apt.conf /run/host-packages; do
    [ ! -e $left ] || wrong "the image has $left"
  done
  [ -z "$failed" ]' >&2 || die "the image of the recipe flask is not as it should be"
expect 0 imagebuilder "${layers[@]}" status >&2

part "recipe debian: bake, with the order service as a program of one's own"
from_recipe debian "$debian"
install -D "$box/orders" payload/shop
bake debian --set services.shop.environment.ORDERS_STORE=file:///var/lib/shop --set bake.gate.instance_profile=flask >/dev/null
close_parts
