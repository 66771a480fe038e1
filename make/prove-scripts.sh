#!/usr/bin/env bash
# The provisioning scripts as the recipes ubuntu and al2023 run them, in a chroot, twice: the second time as for an image that is built from the
# first one. Real: apt or dnf, useradd, systemctl, cloud-init's clean-up, every script. Stand-ins are named when they are installed.
# `prove-scripts.sh [ubuntu] [al2023]`; both by default. Ends everything it started.
# Called by make/prove.sh. Exit 3 when this machine lacks something, with the reason.
# shellcheck disable=SC2329  # functions are called by the system's name
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD

lacks() { echo "prove-scripts: left out: $*" >&2; exit 3; }
say() { echo "== $*" >&2; }
[ "$(id -u)" = 0 ] || lacks "a chroot needs root"
for tool in mmdebstrap unshare chroot apt-get; do command -v "$tool" >/dev/null || lacks "no $tool"; done

# What the recipe is baked with here, over its own configuration.
overlay() { # system, 1 for the first image, 2 for one that wants less
  local packages='apt = ["nginx", "ca-certificates=20*"]' arguments='["quiet", "console=ttyS0,115200n8"]'
  [ "$1" != al2023 ] || packages='dnf = ["nginx-1.24.0", "near-tool", "web-filter"]'
  [ "$2" = 1 ] || arguments='["quiet"]'
  cat <<TOML
[image]
kernel_arguments = $arguments
[image.packages]
$packages
[image.groups.shop]
gid = 777
[image.users.shop]
uid = 778
group = "shop"
groups = ["adm"]
home = "/srv/shop"
comment = "The shop, all of it"
[image.users.deploy]
system = false
[[image.payload]]
source = "tree"
dest = "/srv/shop"
owner = "shop"
group = "shop"
[[image.folder]]
path = "/var/cache/shop"
mode = "2770"
owner = "shop"
group = "shop"
[[image.unit]]
source = "files/shop.service"
[[image.unit]]
source = "limits.conf"
drop_in_of = "nginx.service"
[image.sysctl]
"net.core.somaxconn" = 1024
[[image.script]]
source = "setup.sh"
environment = { GREETING = "hello" }
[services.nginx]
installed = true
TOML
}

# The recipe as its user has it, rendered as a bake would: FOLDER/1 and FOLDER/2.
render() { # system, tree, folder in the tree
  local recipe=$2$3/recipe image
  mkdir -p "$recipe/tree/bin"
  cp -r "$root/recipes/$1/." "$recipe"
  install -D "$CARGO_TARGET_DIR/box/imagebuilder-agent" "$recipe/payload/imagebuilder-agent"
  # A program that needs the loader and the C library of the image.
  install -D "$2/usr/bin/true" "$recipe/payload/shop"
  printf '#!/bin/sh\n' >"$recipe/tree/bin/run" && chmod 755 "$recipe/tree/bin/run"
  echo text >"$recipe/tree/with blanks"
  ln -s bin/run "$recipe/tree/current"
  printf '[Service]\nLimitNOFILE=4096\n' >"$recipe/limits.conf"
  printf '#!/bin/sh\nset -eu\necho "$GREETING" >/srv/greeting\n' >"$recipe/setup.sh"
  for image in 1 2; do
    overlay "$1" $image >"$recipe/overlay.toml"
    "$CARGO_TARGET_DIR/debug/imagebuilder" -c "$recipe/imagebuilder.toml" -c "$recipe/overlay.toml" render --to "$2$3/$image" >/dev/null
  done
}

if [ -z "${PROVE_SCRIPTS_INSIDE:-}" ]; then
  # Where this host has an archive of Ubuntu, its own suite; else Debian.
  mapfile -t ubuntu < <(apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' \
    'Created-By: Packages' 'Origin: Ubuntu' 2>/dev/null | sort -u)
  mkdir -p .cache
  [ $# -gt 0 ] || set -- ubuntu al2023
  for system; do
    tree=$(mktemp -d "$root/.cache/scripts.XXXXXX")
    trap 'rm -rf --one-file-system "$tree"' EXIT
    if [ "$system" = ubuntu ] && [ ${#ubuntu[@]} -gt 0 ]; then
      suite=$(printf '%s\n' "${ubuntu[@]}" | awk '$3 !~ /-/ { print $3; exit }')
      say "ubuntu: Ubuntu $suite"
      mmdebstrap --quiet --variant=minbase --include=systemd,systemd-sysv,dbus,iproute2 "$suite" "$tree" "${ubuntu[@]}" >&2
    else
      case $system in
        ubuntu) say "ubuntu: Debian bookworm stands for it (no archive of Ubuntu is configured here); systemctl reports 249, as in 22.04" ;;
        al2023) say "al2023: Debian bookworm stands for it, with its dnf 4 and rpm, a repository of packages that are made here, bash as /bin/sh," \
          "and without apt and dpkg" ;;
        *) echo "prove-scripts: there is no system $system; there are: ubuntu al2023" >&2; exit 2 ;;
      esac
      cp -a --reflink=auto "$(agent/tests/systemd/base.sh "$root/.cache" bookworm)/." "$tree"
    fi
    render "$system" "$tree" /var/tmp/near
    # Mounts and processes end with the namespaces.
    PROVE_SCRIPTS_INSIDE=$tree unshare --mount --pid --fork --kill-child --mount-proc bash "$0" "$system"
    rm -rf --one-file-system "$tree"
  done
  exit
fi

system=$1 tree=$PROVE_SCRIPTS_INSIDE
mount --bind "$tree" "$tree"
cd "$tree"
mount -t proc proc proc && mount -t tmpfs tmpfs run && mount -t tmpfs tmpfs dev
mkdir -m 1777 dev/shm
for node in null zero random urandom; do touch dev/$node && mount --bind /dev/$node dev/$node; done
ln -s /proc/self/fd dev/fd
mount --bind "$(readlink -f /etc/resolv.conf)" "$(touch etc/resolv.conf; readlink -f etc/resolv.conf)"
# What the folder of the tests has is no part of the image.
mkdir run/near && mount --bind var/tmp/near run/near && mkdir run/empty && mount --bind run/empty var/tmp/near

environment=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root)
while IFS='=' read -r name value; do
  case $name in *proxy|*PROXY) environment+=("$name=$value") ;; esac
done < <(env)
inside() { env -i "${environment[@]}" chroot "$tree" "$@"; }

# Stand-ins record their arguments in /run/calls.
stand_in() { # name, further lines
  say "stand-in: $1"
  mkdir -p usr/local/sbin
  printf '#!/bin/bash\nprintf "%%s\\n" "%s $*" >>/run/calls\n%s\n' "$1" "${2:-}" >"usr/local/sbin/$1"
  chmod 755 "usr/local/sbin/$1"
}

# What these systems have beside a minimal root.
apt_install() {
  # Nothing is started by a package's installation.
  printf '#!/bin/sh\nexit 101\n' >usr/sbin/policy-rc.d && chmod 755 usr/sbin/policy-rc.d
  { inside apt-get -q update &&
    inside env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install "$@"; } >run/apt 2>&1 ||
    { cat run/apt >&2; lacks "the host's archive does not give $*"; }
}

prepare_ubuntu() {
  apt_install cloud-init
  stand_in update-grub
  stand_in systemctl '[ "$1" != --version ] || { echo "systemd 249 (249.11)"; exit; }
exec /usr/bin/systemctl "$@"'
}

# A package of the local repository; further lines are added to the first part of its description.
package() { # name, version, lines
  printf '%s\n' "Name: $1" "Version: $2" 'Release: 1' 'Summary: For a test' 'License: none' 'BuildArch: noarch' 'AutoReqProv: no' "${3:-}" \
    '%description' 'For a test.' '%pre' '[ %{name} != nginx ] || getent passwd nginx >/dev/null || useradd --system nginx' \
    '%install' 'mkdir -p %{buildroot}/usr/lib/systemd/system' \
    'printf "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n" >%{buildroot}/usr/lib/systemd/system/%{name}.service' \
    '%files' '/usr/lib/systemd/system/%{name}.service' >run/package.spec
  inside rpmbuild --quiet -bb --define "_rpmdir /srv/repository/2023.6" /run/package.spec >run/rpmbuild 2>&1 ||
    { cat run/rpmbuild >&2; return 1; }
}

prepare_al2023() {
  apt_install cloud-init dnf rpm createrepo-c
  inside apt-get clean
  cp etc/apt/trusted.gpg.d/debian-archive-bookworm-stable.asc run/key.asc
  rm -rf usr/sbin/policy-rc.d usr/bin/apt* usr/bin/dpkg* usr/sbin/adduser usr/sbin/addgroup usr/sbin/update-rc.d etc/apt var/lib/apt
  ln -sf bash usr/bin/sh
  mkdir -p etc/rpm etc/yum.repos.d
  echo '%_dbpath /var/lib/rpm' >etc/rpm/macros
  # The release is what $releasever is taken from, as on Amazon Linux.
  package system-release 2023.6 $'Provides: system-release(releasever) = 2023.6\nProvides: /bin/sh'
  package nginx 1.24.0 $'Epoch: 1\nRecommends: near-weak'
  package nginx 1.26.0 $'Epoch: 1\nRecommends: near-weak'
  package near-weak 1
  package near-tool 1.0
  package near-filter 1 'Provides: web-filter = 1'
  inside createrepo_c --quiet /srv/repository/2023.6
  inside rpm -i --quiet /srv/repository/2023.6/noarch/system-release-2023.6-1.noarch.rpm 2>/dev/null
  inside rpm --import /run/key.asc
  printf '[near]\nname=near\nbaseurl=file:///srv/repository/$releasever\ngpgcheck=0\n' >etc/yum.repos.d/near.repo
  # An older version than the repository's newest is installed already.
  inside dnf -q -y install near-tool-1.0 >/dev/null
  package near-tool 2.0
  inside createrepo_c --quiet /srv/repository/2023.6
  inside dnf -q clean all
  stand_in grubby
  stand_in selinuxenabled
  # shellcheck disable=SC2016  # run by the stand-in
  stand_in restorecon 'while [ "$1" != -f ]; do [ $# -gt 1 ] || exit 0; shift; done
while IFS= read -r path; do [ -e "$path" ] || [ -L "$path" ] || exit 1; printf "label %s\n" "$path"; done <"$2" >>/run/calls'
}

upload() { # folder of a rendering
  rm -rf var/tmp/imagebuilder
  mkdir -m 0700 var/tmp/imagebuilder
  cp -a "run/near/$1/imagebuilder/." var/tmp/imagebuilder
}
run() { # folder of a rendering, script in it: as Packer does
  local shell
  shell=$(sed -n '1s/^#!//p' "run/near/$1/$2")
  cp "run/near/$1/$2" var/tmp/script_1.sh
  local code=0
  # shellcheck disable=SC2086  # an interpreter and its argument
  inside $shell /var/tmp/script_1.sh </dev/null >run/printed 2>&1 || code=$?
  rm var/tmp/script_1.sh
  return "$code"
}
# All scripts, in the order of the template. The wait for cloud-init is left out: cloud-init never ran here.
bake() { # folder of a rendering
  local scripts script
  upload "$1"
  mapfile -t scripts < <(sed -n 's/^ *script *= "\(.*\)"$/\1/p' "run/near/$1"/*.pkr.hcl | grep -v wait-for-cloud-init)
  for script in "${scripts[@]}"; do
    run "$1" "$script" || { cat run/printed >&2; echo "prove-scripts: $system: $script failed" >&2; exit 1; }
    ran=$((${ran:-0} + 1))
  done
}

failed=0
want() { # what, expected, command
  local what=$1 expected=$2 got
  shift 2
  got=$(inside "$@" 2>&1) || got="$got (exit code $?)"
  [ "$got" = "$expected" ] && return
  printf 'prove-scripts: %s: %s\n  expected: %s\n  got:      %s\n' "$system" "$what" "$expected" "$got" >&2
  failed=1
}
refuses() { # what, script, expected words: the script fails and prints them
  if run 1 "$2"; then
    echo "prove-scripts: $system: $1: $2 did not fail" >&2; failed=1
  elif ! grep -qF -e "$3" run/printed; then
    echo "prove-scripts: $system: $1: $2 did not print: $3" >&2; cat run/printed >&2; failed=1
  fi
}
# Every file that the scripts answer for; what the package managers keep for themselves changes with every run.
image() {
  find etc opt srv usr/lib/systemd usr/lib/imagebuilder-agent usr/lib/shop usr/bin/imagebuilder-agent var/cache/shop var/tmp home root \
    ! -path 'srv/repository*' ! -name 'passwd-' ! -name 'group-' ! -name 'shadow-' ! -name 'gshadow-' ! -name ld.so.cache \
    ! -path 'etc/ssl*' ! -path 'var/tmp/near*' -printf '%p %y %m %u:%g %l ' \( -type f -exec sha256sum {} + -o -printf '\n' \) | sort
}

check() { # what every image has
  want users $'shop:x:778:777:The shop, all of it:/srv/shop:/usr/sbin/nologin\nshop adm\n/home/deploy:/bin/bash' \
    sh -c 'getent passwd shop; id -Gn shop; getent passwd deploy | cut -d: -f6,7'
  want "owners and modes" $'755 shop:shop .\n755 shop:shop bin/run\n644 shop:shop with blanks\n2770 shop:shop /var/cache/shop\n755 root:root /usr/lib/shop/shop\nbin/run' \
    sh -c "cd /srv/shop; stat -c '%a %U:%G %n' . bin/run 'with blanks' /var/cache/shop /usr/lib/shop/shop; readlink current"
  want "units" $'enabled\nenabled\nenabled\nenabled' systemctl is-enabled shop.service nginx.service imagebuilder-agent.service imagebuilder-agent-configure.service
  want "drop-in" "LimitNOFILE=4096" sed -n '$p' /etc/systemd/system/nginx.service.d/limits.conf
  want "slots" $'/usr/lib/imagebuilder-agent/factory\n/opt/imagebuilder-agent/stable/imagebuilder-agent\nstaging\nversions' \
    sh -c 'readlink /opt/imagebuilder-agent/stable /usr/bin/imagebuilder-agent; cd /opt/imagebuilder-agent; find . -mindepth 1 -type d -printf "%P\n" | sort'
  want "the agent starts" 0 sh -c 'imagebuilder-agent --version >/dev/null; echo $?'
  want "script" hello cat /srv/greeting
  want "sysctl" "net.core.somaxconn = 1024" sed -n '$p' /etc/sysctl.d/60-shop.conf
  want "form of the record" "" sh -c "grep -vE '^[^ ]+ [^ ]+ (all|noarch|amd64|x86_64|arm64|aarch64)$' /etc/imagebuilder/packages; LC_ALL=C sort -c /etc/imagebuilder/packages"
  want "identity" 0 stat -c %s /etc/machine-id
  want "what is left" "" sh -c 'find /var/tmp -mindepth 1 ! -name near; ls -d /var/lib/dbus/machine-id /var/lib/systemd/random-seed /var/lib/imagebuilder-update /root/.ssh/authorized_keys /etc/ssh/ssh_host_* /home/deploy/.ssh/authorized_keys 2>/dev/null; find /var/log -type f -size +0; find /var/cache/apt/archives /var/cache/dnf -name "*.deb" -o -name "*.rpm" -o -name "*.solv" 2>/dev/null || true'
  want "units as systemd reads them" "" sh -c 'systemd-analyze verify /etc/systemd/system/shop.service /etc/systemd/system/imagebuilder-agent*.service 2>&1 | grep -E "^/etc/systemd/system/(shop|imagebuilder)|Unknown|ignoring" || true'
}
version_drop_ins='cd /etc/systemd/system; ls -d *.d/00-systemd-version.conf'
check_ubuntu() {
  want "drop-ins for systemd 249" \
    $'imagebuilder-agent-configure.service.d/00-systemd-version.conf\nimagebuilder-agent-restart.service.d/00-systemd-version.conf\nimagebuilder-agent-update.service.d/00-systemd-version.conf' sh -c "$version_drop_ins"
  want "record" 2 sh -c "grep -cE '^(nginx|ca-certificates) ' /etc/imagebuilder/packages"
}
check_al2023() {
  want "drop-ins for systemd 252" "" sh -c "$version_drop_ins 2>/dev/null || true"
  want "record" $'near-filter 1-1 noarch\nnear-tool 2.0-1 noarch\nnginx 1:1.24.0-1 noarch\nsystem-release 2023.6-1 noarch' cat /etc/imagebuilder/packages
}

faults_ubuntu() {
  upload 1
  echo no-such-package >var/tmp/imagebuilder/packages-apt
  refuses "a package that does not exist" provision/06-packages.sh "Unable to locate package no-such-package"
  : >var/tmp/imagebuilder/packages-apt; echo nginx >var/tmp/imagebuilder/packages-dnf
  refuses "a list for dnf" provision/06-packages.sh "[image.packages] has a list for dnf only, and this image has apt"
}
faults_al2023() {
  upload 1
  printf 'near-weak\nno-such-package\n' >var/tmp/imagebuilder/packages-dnf
  refuses "a package that does not exist" provision/06-packages.sh "Unable to find a match: no-such-package"
  echo nginx-9.9 >var/tmp/imagebuilder/packages-dnf
  refuses "a version that does not exist" provision/06-packages.sh "Unable to find a match: nginx-9.9"
  want "nothing of a refused list" "package near-weak is not installed (exit code 1)" rpm -q near-weak
  : >var/tmp/imagebuilder/packages-dnf; echo nginx >var/tmp/imagebuilder/packages-apt
  refuses "a list for apt" provision/06-packages.sh "[image.packages] has a list for apt only, and this image has dnf"
  # Without the pauses between the attempts.
  stand_in sleep
  : >var/tmp/imagebuilder/packages-apt; echo nginx >var/tmp/imagebuilder/packages-dnf
  mv srv/repository srv/away
  refuses "a repository that does not answer" provision/06-packages.sh "Failed to download metadata for repo 'near'"
  mv srv/away srv/repository
  rm usr/local/sbin/sleep
  printf 'console=tty0\nconsole=ttyS0\n' >var/tmp/imagebuilder/kernel-arguments
  refuses "what grubby would drop" provision/40-kernel.sh "kernel_arguments has console more than once"
}

"prepare_$system"
# What belongs to one host, and is to go.
mkdir -p root/.ssh var/lib/imagebuilder-update etc/ssh var/lib/dbus
for file in root/.ssh/authorized_keys etc/ssh/ssh_host_rsa_key etc/ssh/ssh_host_rsa_key.pub var/lib/systemd/random-seed var/lib/dbus/machine-id; do
  echo secret >"$file"
done
echo 0123456789abcdef0123456789abcdef >etc/machine-id
say "$system: all scripts, the first time"
bake 1; check; "check_$system"; image >run/first
say "$system: all scripts, on the image that they made"
bake 1; check; "check_$system"; image >run/second
diff run/first run/second >&2 || { echo "prove-scripts: $system: the second image differs" >&2; failed=1; }
if [ "$system" = al2023 ]; then
  want "labels" "" sh -c 'for path in /usr/lib/shop /usr/lib/shop/shop /srv/shop "/srv/shop/with blanks" /srv/shop/current /etc/systemd/system/shop.service; do
    grep -qxF "label $path" /run/calls || echo "$path"; done'
  want "labels of the agent's slots" 2 grep -cxF 'restorecon -RF /opt/imagebuilder-agent /usr/bin/imagebuilder-agent /etc/systemd/system' /run/calls
  want "grubby" $'grubby --update-kernel=ALL --args=quiet console=ttyS0,115200n8\ngrubby --update-kernel=ALL --args=quiet console=ttyS0,115200n8' grep ^grubby /run/calls
else
  want "kernel arguments" " quiet console=ttyS0,115200n8" sh -c '. /etc/default/grub.d/60-imagebuilder.cfg; echo "$GRUB_CMDLINE_LINUX"'
fi
say "$system: without one kernel argument of that image"
bake 2
if [ "$system" = al2023 ]; then
  want "grubby" "grubby --update-kernel=ALL --remove-args=console=ttyS0,115200n8 --args=quiet" sh -c 'grep ^grubby /run/calls | tail -n 1'
else
  want "kernel arguments" " quiet" sh -c '. /etc/default/grub.d/60-imagebuilder.cfg; echo "$GRUB_CMDLINE_LINUX"'
fi
say "$system: what is refused on the builder"
"faults_$system"
[ "$failed" = 0 ] && say "$system: $ran runs of scripts, with $(readlink -f usr/bin/sh | sed 's/.*\///') as /bin/sh"
exit "$failed"
