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

# Drop-ins for systemds on which the units would do something else (docs/agent.md, "Versions of systemd").
units=/etc/systemd/system
systemd=$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
drop_in() { # unit, stdin
    install -d -o root -g root -m 0755 "$units/$1.d"
    cat >"$units/$1.d/00-systemd-version.conf"
}
rm -f "$units"/imagebuilder-agent*.d/00-systemd-version.conf
if [ "$systemd" -lt 250 ]; then
    for unit in "$units"/imagebuilder-agent*.service; do
        search=$(sed -n 's/^ExecSearchPath=//p' "$unit")
        [ -n "$search" ] || continue
        command=$(sed -n 's/^ExecStart=//p' "$unit")
        drop_in "${unit##*/}" <<END
# ExecSearchPath= is of systemd 250.
[Service]
ExecStart=
ExecStart=/usr/bin/env PATH=$search $command
END
    done
fi
if [ "$systemd" -lt 249 ]; then
    drop_in imagebuilder-agent-trial.service <<END
# OnSuccess= is of systemd 249.
[Service]
ExecStopPost=-+/bin/systemctl --no-block --job-mode=fail start imagebuilder-agent.service
END
fi
if [ "$systemd" -ge 254 ]; then
    drop_in imagebuilder-agent.service <<END
# From systemd 254 on a restart passes through "failed", which starts OnFailure= each time and not only after the last.
[Service]
RestartMode=direct
END
fi
# The labels of the system's policy, where SELinux is on.
if command -v restorecon >/dev/null 2>&1 && command -v selinuxenabled >/dev/null 2>&1 && selinuxenabled; then
    restorecon -RF "$slots" /usr/bin/imagebuilder-agent "$units"
fi
