#!/usr/bin/env bash
# The recipe flask for real, in a Debian chroot: its scripts twice, with this host's own mirror and index, then Gunicorn and nginx as their units
# start them, without a network, and the requests of the candidate contract. Ends everything it started.
# Called by make/prove.sh. Exit 3 when this machine lacks something, with the reason.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD recipe=$PWD/recipes/flask

lacks() { echo "prove-recipes: left out: $*" >&2; exit 3; }
[ "$(id -u)" = 0 ] || lacks "a chroot needs root"
for tool in mmdebstrap unshare chroot ip; do command -v "$tool" >/dev/null || lacks "no $tool"; done

if [ -z "${PROVE_RECIPES_INSIDE:-}" ]; then
  base=$(agent/tests/systemd/base.sh "$root/.cache" bookworm)
  tree=$(mktemp -d "$root/.cache/recipe.XXXXXX")
  trap 'rm -rf --one-file-system "$tree"' EXIT
  cp -a --reflink=auto "$base/." "$tree"
  # The recipe as its user has it, rendered as a bake would.
  mkdir "$tree/var/tmp/recipe"
  cp -r "$recipe/." "$tree/var/tmp/recipe"
  install -D "$CARGO_TARGET_DIR/box/imagebuilder-agent" "$tree/var/tmp/recipe/payload/imagebuilder-agent"
  "$CARGO_TARGET_DIR/debug/imagebuilder" -c "$tree/var/tmp/recipe/imagebuilder.toml" render --to "$tree/var/tmp/rendered" >&2
  mv "$tree/var/tmp/rendered/imagebuilder" "$tree/var/tmp/imagebuilder"
  # Mounts and processes end with the namespaces.
  PROVE_RECIPES_INSIDE=$tree unshare --mount --pid --fork --kill-child --mount-proc bash "$0"
  exit
fi

tree=$PROVE_RECIPES_INSIDE staged=$PROVE_RECIPES_INSIDE/var/tmp/rendered
mount --bind "$tree" "$tree"
cd "$tree"
mount -t proc proc proc && mount -t tmpfs tmpfs run && mount -t tmpfs tmpfs dev
mkdir -m 1777 dev/shm
for node in null zero random urandom; do touch dev/$node && mount --bind /dev/$node dev/$node; done
ln -s /proc/self/fd dev/fd

# How this host reaches its mirror and index: read here, kept in mounts alone.
mount --bind "$(readlink -f /etc/resolv.conf)" "$(touch etc/resolv.conf; readlink -f etc/resolv.conf)"
certificates=$(python3 -m pip config list 2>/dev/null | sed -n "s/.*\.cert='\(.*\)'/\1/p" | tail -n1)
environment=(PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8)
if [ -n "$certificates" ]; then
  cp "$certificates" run/ca.pem
  environment+=(PIP_CERT=/run/ca.pem)
fi
while IFS='=' read -r name value; do
  case $name in *proxy|*PROXY|PIP_INDEX_URL|PIP_EXTRA_INDEX_URL) environment+=("$name=$value") ;; esac
done < <(env)
for url in index-url extra-index-url; do
  value=$(python3 -m pip config get "global.$url" 2>/dev/null) || continue
  name=PIP_${url^^}; environment+=("${name//-/_}=$value")
done
inside() { env -i "${environment[@]}" chroot "$tree" "$@"; }

scripts=("$staged"/provision/{06-packages,07-users,10-install,15-python}.sh)
# Nothing is started by a package's installation.
printf '#!/bin/sh\nexit 101\n' >usr/sbin/policy-rc.d && chmod 755 usr/sbin/policy-rc.d
for round in first second; do
  for script in "${scripts[@]}"; do
    echo "== ${script##*/}, the $round time" >&2
    cp "$script" tmp/script
    inside sh /tmp/script >&2
  done
done
inside systemd-analyze verify /etc/systemd/system/app.service nginx.service 2>&1 | grep -E 'app.service|hardening' >&2 || true

echo "== Gunicorn and nginx, without a network" >&2
install -d -o "$(inside id -u app)" -g "$(inside id -g app)" -m 0750 run/app
install -d -o "$(inside id -u app)" -g "$(inside id -g app)" -m 0700 var/lib/app
cat >tmp/serve.sh <<'SERVE'
set -eu
umask 022
ip link set lo up
STATE_DIRECTORY=/var/lib/app PYTHONDONTWRITEBYTECODE=1 setpriv --reuid app --regid app --init-groups --no-new-privs \
    /opt/app/venv/bin/gunicorn --config /opt/app/gunicorn.conf.py &
nginx
exec python3 /tmp/client.py
SERVE
cp "$root/make/candidates.py" tmp/client.py
env -i "${environment[@]}" unshare --net chroot "$tree" sh /tmp/serve.sh
