#!/bin/sh
# Waits until cloud-init has ended, where there is one: until then it may replace or remove what a bake uploads and installs.
set -u
limit=600
command -v cloud-init >/dev/null 2>&1 || exit 0
timeout "$limit" cloud-init status --wait >/dev/null 2>&1
code=$?
case $code in
0) exit 0 ;;
# From 23.4 on: it has ended, with errors that it could go on after.
2)
    echo "imagebuilder: cloud-init ended with recoverable errors"
    exit 0
    ;;
124) echo "imagebuilder: cloud-init did not end within $limit s" >&2 ;;
*) echo "imagebuilder: cloud-init failed on the builder (exit code $code)" >&2 ;;
esac
cloud-init status --long >&2 2>&1 || true
echo "imagebuilder: \`wait_for_cloud_init = false\` in [bake] goes on without it" >&2
exit 1
