#!/usr/bin/env bash
# The proofs that take too long for `make test`: each named, with its time; one that fails does not keep the others from running. What
# this machine lacks is left out, with the reason. Names as arguments run those alone. Exit 1 when one failed.
# Called by make, after everything was built.
# shellcheck disable=SC2329  # the proofs are called by the names that $order has
set -uo pipefail
cd "$(dirname "$0")/.." || exit

box=$CARGO_TARGET_DIR/box
declare -A about=(
  [packer]="any configuration of any recipe is valid to Packer; bakes by a current one, built from the Go module proxy"
  [versitygw]="the S3 store on a server that checks signatures"
  [static]="the programs for instances: static, the same bytes in two folders, started on both architectures"
  [arm64]="an emulated arm64 machine: Debian 12 with the image's scripts run on it, its agent judges (make/prove-arm64.sh)"
  [package]="tarballs and Debian packages of imagebuilder: installed and run in bare roots, the same bytes in two folders (make/prove-package.sh)"
  [distributions]="the agent's units and updater on Debian 11 and 13 (systemd 247 and 257)"
  [recipes]="the recipe flask in a Debian chroot (make/prove-recipes.sh); debian and flask baked and rolled on real guests (make/prove-bakes.sh)"
  [scripts]="the provisioning scripts as ubuntu and al2023 run them, twice, in chroots: apt and dnf for real (make/prove-scripts.sh)"
  [firmware]="the base image by BIOS and by UEFI"
  [rehearse]="make rehearse, the whole story"
  [fleet]="faults of other people's fleets, on real guests (make/prove-fleet.sh)"
)
order=(packer versitygw static package arm64 distributions recipes scripts firmware rehearse fleet)

# Ends a proof for which this machine lacks something; what is missing was printed.
lacks() { [ "$1" != 3 ] && return "$1"; lacking=1; return 3; }

packer() {
  PROPTEST_CASES=100 cargo test --locked --workspace --test rendered || return
  make/packer-current.sh || lacks $? || return
  local PATH=$PWD/.cache/packer-current:$PATH
  export PACKER_PLUGIN_PATH=$PWD/.cache/packer-current/plugins
  PROPTEST_CASES=100 cargo test --locked --workspace --test rendered &&
    cargo test --locked --workspace --test wire -- a_bake_publishes a_builder
}
versitygw() {
  make/versitygw.sh || lacks $? || return
  ORDERS_TEST_VERSITYGW=$PWD/.cache/versitygw/versitygw cargo test --locked --workspace --lib store::s3
}
static() {
  local arch program place status=0
  for arch in x86_64 aarch64; do
    for program in imagebuilder-agent orders; do
      local file=$box/$arch/$program
      if readelf --program-headers "$file" | grep -q INTERP; then echo "prove: $file is not static" >&2; status=1; fi
      echo "$arch $program: $(stat -c %s "$file") bytes" >&2
    done
    [ "$(stat -c %s "$box/$arch/imagebuilder-agent")" -le 6000000 ] || { echo "prove: the $arch agent exceeds 6 MB" >&2; status=1; }
  done
  # Another folder, and nothing that this one compiled.
  place=$(mktemp -d)
  git clone --quiet . "$place/folder" && mkdir "$place/folder/.cache" && ln -s "$PWD/.cache/venv" "$place/folder/.cache/venv" &&
    (cd "$place/folder" && CARGO_TARGET_DIR=$place/target make/box.sh x86_64 imagebuilder-agent) &&
    cmp "$box/x86_64/imagebuilder-agent" "$place/target/box/x86_64/imagebuilder-agent" || status=1
  rm -rf "$place"
  for program in imagebuilder-agent orders; do
    "$box/x86_64/$program" --version && qemu-aarch64-static "$box/aarch64/$program" --version || status=1
  done
  return "$status"
}
distributions() {
  [ "$(id -u)" = 0 ] || { echo "prove: containers need root" >&2; lacks 3; return; }
  local suite
  for suite in bullseye trixie; do
    echo "== Debian $suite" >&2
    IMAGEBUILDER_TEST_SUITE=$suite IMAGEBUILDER_TEST_AGENT=$box/imagebuilder-agent \
      cargo test --locked --workspace --test systemd || return
  done
}
arm64() { make/prove-arm64.sh || lacks $?; }
package() { make/prove-package.sh || lacks $?; }
recipes() {
  make/prove-recipes.sh || lacks $? || return
  make/prove-bakes.sh
}
scripts() { make/prove-scripts.sh || lacks $?; }
firmware() { cargo test --locked --workspace --test boots -- --ignored --nocapture; }
rehearse() { make/rehearse.sh; }
fleet() { make/prove-fleet.sh; }

results=() failed=0
for one in "${@:-${order[@]}}"; do
  [ -n "${about[$one]:-}" ] || { echo "prove: there is no proof $one; there are: ${order[*]}" >&2; exit 2; }
  printf '\n== %s: %s\n' "$one" "${about[$one]}" >&2
  since=$SECONDS code=0 lacking=
  "$one" || code=$?
  case $code in
    0) how=passed ;;
    *) how="FAILED (exit code $code)" ;;
  esac
  if [ -n "$lacking" ]; then
    how="left out: this machine lacks something, see above"
  elif [ $code != 0 ]; then
    failed=1
  fi
  results+=("$(printf '%5d s  %-10s %s' $((SECONDS - since)) "$one" "$how")")
done
printf '\n%s\n' "${results[@]}" >&2
exit $failed
