#!/usr/bin/env bash
# The proofs that take too long for `make test`: each named, with its time; one that fails does not keep the others from running. What
# this machine lacks is left out, with the reason. Names as arguments run those alone. Exit 1 when one failed.
# Called by make, after everything was built.
set -uo pipefail
cd "$(dirname "$0")/.."

declare -A about=(
  [packer]="bakes by a current Packer, built from the Go module proxy"
  [versitygw]="the S3 store on a server that checks signatures"
  [firmware]="the base image by BIOS and by UEFI"
  [rehearse]="make rehearse, the whole story"
  [fleet]="faults of other people's fleets, on real guests (make/prove-fleet.sh)"
)
order=(packer versitygw firmware rehearse fleet)

# Ends a proof for which this machine lacks something; what is missing was printed.
lacks() { [ "$1" != 3 ] && return "$1"; lacking=1; return 3; }

packer() {
  make/packer-current.sh || lacks $? || return
  PATH=$PWD/.cache/packer-current:$PATH PACKER_PLUGIN_PATH=$PWD/.cache/packer-current/plugins \
    cargo test --locked --workspace --test wire -- a_bake_publishes a_builder
}
versitygw() {
  make/versitygw.sh || lacks $? || return
  ORDERS_TEST_VERSITYGW=$PWD/.cache/versitygw/versitygw cargo test --locked --workspace --lib store::s3
}
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
