#!/usr/bin/env bash
# An arm64 machine, emulated whole: Debian 12 with the image's scripts run on it, booted by QEMU; its agent judges the order service.
# Called by make/prove.sh. Exit 3 when this machine lacks something, with the reason. Ends everything it started.
set -euo pipefail
cd "$(dirname "$0")/.."
suite=bookworm patience=${PROVE_ARM64_SECONDS:-1800}

lacks() { echo "prove-arm64: left out: $*" >&2; exit 3; }
say() { echo "prove-arm64: $*" >&2; }
[ "$(id -u)" = 0 ] || lacks "a chroot needs root"
for tool in mmdebstrap qemu-system-aarch64 qemu-aarch64-static unshare mke2fs; do
  command -v "$tool" >/dev/null || lacks "no $tool"
done
for program in imagebuilder-agent orders; do
  [ -e "$CARGO_TARGET_DIR/box/aarch64/$program" ] || lacks "no $program for aarch64: run make box"
done

# The kernel runs arm64 programs by qemu-user: as its package has arranged it, or for as long as this runs.
binfmt=/proc/sys/fs/binfmt_misc handler='' mounted=''
work=$(mktemp -d "$PWD/.cache/arm64.XXXXXX")
# shellcheck disable=SC2329  # a trap calls it
ended() {
  [ -z "$handler" ] || echo -1 >"$binfmt/$handler" || true
  [ -z "$mounted" ] || umount "$binfmt" || true
  rm -rf --one-file-system "$work"
}
trap ended EXIT
if [ ! -e $binfmt/register ]; then
  mount -t binfmt_misc binfmt_misc $binfmt 2>/dev/null || lacks "this kernel has no binfmt_misc"
  mounted=1
fi
if ! grep -qs '^enabled' $binfmt/qemu-aarch64; then
  # The head of an ELF file for aarch64, a program or a library; F: the interpreter is opened now, so that it works in a chroot.
  magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
  mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
  handler='imagebuilder-prove-arm64'
  printf '%s' ":$handler:M::$magic:$mask:$(command -v qemu-aarch64-static):F" >$binfmt/register ||
    { handler=''; lacks "binfmt_misc takes no handler"; }
fi

# --- the source image: Debian with a kernel, made once ------------------------------------------------
recipe=$( (sed -n '/^# --- the source image/,/^# --- the image/p' "$0"; cat rehearsal/base-image/overlay/etc/initramfs-tools/*/*) | sha256sum | cut -c1-12)
base=$PWD/.cache/arm64-$suite-$recipe.tar
if [ ! -e "$base" ]; then
  mirrors=()
  if [ -n "${REHEARSAL_MIRROR:-}" ]; then
    mirrors=("$REHEARSAL_MIRROR")
  elif command -v apt-get >/dev/null; then
    mapfile -t mirrors < <(apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' \
      'Created-By: Packages' 'Origin: Debian' 2>/dev/null | grep -E " $suite(-updates|-security)? main\$" | sort -u)
  fi
  say "fetching Debian $suite for arm64 and configuring it by emulation (some minutes, once)"
  rm -f .cache/arm64-"$suite"-*.tar
  tar -C rehearsal/base-image/overlay --owner=0 --group=0 --numeric-owner --mode=go-w -cf "$work/initramfs.tar" ./etc/initramfs-tools
  mmdebstrap --quiet --variant=minbase --architectures=arm64 --mode=root --skip=check/qemu \
    --include=systemd,systemd-sysv,udev,dbus,kmod,curl,linux-image-cloud-arm64,initramfs-tools,busybox,lz4 \
    --aptopt='Apt::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --essential-hook="tar-in '$work/initramfs.tar' /" \
    --customize-hook='rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/*' \
    --customize-hook=': >"$1"/etc/machine-id' \
    "$suite" "$work/base.tar" "${mirrors[@]}" >&2
  mv "$work/base.tar" "$base"
fi

# --- the image: what a bake stages and runs on its builder, in a chroot -------------------------------------
tree=$work/tree
mkdir "$tree" "$work/project"
tar -C "$tree" --exclude='./dev/*' -xf "$base"
(
  cd "$work/project"
  imagebuilder=$CARGO_TARGET_DIR/debug/imagebuilder
  "$imagebuilder" init >&2
  mkdir payload
  cp "$CARGO_TARGET_DIR"/box/aarch64/{imagebuilder-agent,orders} payload
  "$imagebuilder" --set image.arch=arm64 --set image.source.name='debian-12-arm64-*' --set bake.instance_type=t4g.small \
    --set image.agent.gate.deadline_seconds=1200 render --to "$tree/var/tmp/rendered" >&2
)
mv "$tree/var/tmp/rendered/imagebuilder" "$tree/var/tmp/imagebuilder"
cat >"$work/provision.sh" <<'PROVISION'
set -eu
mount --bind "$1" "$1"
cd "$1"
mount -t proc proc proc
mount -t tmpfs tmpfs run
for node in null zero random urandom; do : >dev/$node && mount --bind /dev/$node dev/$node; done
for script in var/tmp/rendered/provision/*.sh; do
  echo "== ${script##*/}" >&2
  # Without a systemd that runs, there is nothing for it to start or reload.
  env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 SYSTEMD_OFFLINE=1 chroot . sh "/$script" >&2
done
PROVISION
unshare --mount --pid --fork --kill-child bash "$work/provision.sh" "$tree"

# Debian's own machine, outside EC2: the identity is the machine's id. What it says is on its console.
install -d "$tree/etc/imagebuilder/agent.d"
printf '[identity]\nmachine = true\n' >"$tree/etc/imagebuilder/agent.d/90-machine.toml"
cat >"$tree/etc/systemd/system/prove.service" <<'UNIT'
[Unit]
Description=Says on the console what the agent judged
[Service]
Type=oneshot
ExecStart=/bin/sh /usr/lib/prove.sh
StandardOutput=tty
StandardError=tty
TTYPath=/dev/console
[Install]
WantedBy=multi-user.target
UNIT
cat >"$tree/usr/lib/prove.sh" <<'REPORT'
for _ in $(seq 200); do
  imagebuilder-agent status >/dev/null 2>&1 && break
  sleep 5
done
echo "prove: machine $(uname -m), systemd $(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')"
imagebuilder-agent --version | sed 's/^/prove: /'
imagebuilder-agent status | sed 's/^/prove: status: /'
echo "prove: orders answers $(curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8080/gtg)"
systemctl list-units --no-legend --plain --state=failed | sed 's/^/prove: failed unit: /'
imagebuilder-agent status >/dev/null 2>&1 || journalctl --boot --no-pager --output=cat --unit=imagebuilder-agent\* --unit=orders | tail -n 40
echo "prove: end"
systemctl --no-block poweroff
REPORT
ln -s ../prove.service "$tree/etc/systemd/system/multi-user.target.wants/prove.service"
printf '/dev/vda / ext4 defaults 0 1\n' >"$tree/etc/fstab"

mke2fs -q -F -t ext4 -L root -d "$tree" "$work/disk.raw" 4096M
cp "$tree"/boot/vmlinuz-* "$work/kernel"
cp "$tree"/boot/initrd.img-* "$work/initrd"
rm -rf --one-file-system "$tree"

# --- the boot ------------------------------------------------------------------------------------
say "booting it (some minutes, by emulation)"
since=$SECONDS code=0
timeout --kill-after=10 "$patience" qemu-system-aarch64 -machine virt -cpu cortex-a72 -smp 2 -m 1024 -nodefaults -display none -no-reboot \
  -kernel "$work/kernel" -initrd "$work/initrd" -append 'root=/dev/vda rw console=ttyAMA0' -serial "file:$work/console" \
  -drive "file=$work/disk.raw,if=none,id=root,format=raw,cache=unsafe" -device virtio-blk-pci,drive=root \
  -device virtio-rng-pci </dev/null >&2 || code=$?
tr -d '\r' <"$work/console" | sed -n 's/^prove: /prove-arm64: /p' >&2
reported() { tr -d '\r' <"$work/console" | grep -q "^prove: $1"; }
if [ $code != 0 ] || ! reported end; then
  tail -n 60 "$work/console" >&2
  say "the machine did not come to its end in $patience s (exit code $code)"
  exit 1
fi
wrong=0
for want in 'machine aarch64' 'status: verdict *fit' 'orders answers 200'; do
  reported "$want" || { say "not on its console: $want"; wrong=1; }
done
if reported 'failed unit'; then say "a unit failed"; wrong=1; fi
say "booted, judged and powered off in $((SECONDS - since)) s"
exit $wrong
