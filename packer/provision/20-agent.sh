#!/bin/sh
# Makes the agent callable by name.
set -eu
ln -sfn /usr/lib/imagebuilder-agent/factory/imagebuilder-agent /usr/bin/imagebuilder-agent
