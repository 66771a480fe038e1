#!/bin/sh
# A bad release of the agent, 0.3.0, for the rehearsal. It passes every look that is taken before it is tried, it starts
# as it should, and dies seconds later. What it does well, it lets the stable version do.
stable=/opt/imagebuilder-agent/stable/imagebuilder-agent
case "$*" in
*--version*) echo "imagebuilder-agent 0.3.0" ;;
*"update probe"*) "$stable" "$@" && echo "imagebuilder-agent 0.3.0" ;;
run | "run "*)
    # By its own hand: what is killed from outside is not held against it.
    (sleep 5 && kill -ABRT $$) &
    exec "$stable" "$@"
    ;;
*) exec "$stable" "$@" ;;
esac
