#!/bin/sh
# Creates the daemon's user and the agent's slots, with the one that came with the image as the stable one, and
# puts the stable one on PATH. If the source image had an agent already, its updater is stopped first.
set -eu
id -u imagebuilder-agent >/dev/null 2>&1 ||
    useradd --system --user-group --no-create-home --home-dir / --shell /usr/sbin/nologin imagebuilder-agent
slots=/opt/imagebuilder-agent
systemctl stop imagebuilder-agent-update.timer imagebuilder-agent-update.path imagebuilder-agent-restart.path \
    imagebuilder-agent-update.service imagebuilder-agent-trial.service 2>/dev/null || true
install -d -o root -g root -m 0755 "$slots" "$slots/versions" "$slots/staging"
ln -sfn /usr/lib/imagebuilder-agent/factory "$slots/stable"
ln -sfn "$slots/stable/imagebuilder-agent" /usr/bin/imagebuilder-agent
