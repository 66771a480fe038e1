#!/bin/sh
# A bad release of the agent, 0.3.0, for the rehearsal. It passes every check before its trial, starts normally, and
# crashes seconds later. The stable version does everything else.
stable=/opt/imagebuilder-agent/stable/imagebuilder-agent
case "$*" in
*--version*) echo "imagebuilder-agent 0.3.0" ;;
*"update probe"*) "$stable" "$@" && echo "imagebuilder-agent 0.3.0" ;;
run | "run "*)
    # It must crash by itself: a kill from outside does not count against the release.
    (sleep 5 && kill -ABRT $$) &
    exec "$stable" "$@"
    ;;
*) exec "$stable" "$@" ;;
esac
