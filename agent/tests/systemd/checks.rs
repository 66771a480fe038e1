//! The real daemon in its unit's sandbox, on a machine without a metadata service: every kind of check that needs the machine.

use crate::container::{Container, Disk, STABLE, left_out};

const SETTINGS: &str = r#"
image = "shop"
[identity]
machine = true
[gate]
passes = 2
interval_seconds = 1
[serving]
interval_seconds = 1
passes = 1
failures = 1
restart = false
[services.shop]
unit = "shop.service"
[services.shop.checks.page]
kind = "http"
url = "http://127.0.0.1:8080/"
body_contains = "ok"
[services.shop.checks.port]
kind = "tcp"
address = "127.0.0.1:8080"
[services.shop.checks.socket]
kind = "unix"
socket = "/run/shop.sock"
[services.shop.checks.migrated]
kind = "exec"
command = ["/usr/lib/migrated", "/etc/shop-migrated"]
[services.worker]
after = ["shop"]
"#;

/// Answers on a port and on a socket.
const SHOP: &str = r#"#!/usr/bin/perl
use strict; use IO::Socket::INET; use IO::Socket::UNIX; use IO::Select;
my $port = IO::Socket::INET->new(LocalAddr => '127.0.0.1:8080', Listen => 9, ReuseAddr => 1) or die $!;
unlink '/run/shop.sock'; umask 0;
my $local = IO::Socket::UNIX->new(Local => '/run/shop.sock', Listen => 9) or die $!;
my $select = IO::Select->new($port, $local);
while (my @ready = $select->can_read) { for my $it (@ready) {
    if ($it == $port || $it == $local) { $select->add($it->accept); next }
    my $got = sysread $it, my $request, 4096;
    if ($got) { syswrite $it, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok" }
    $select->remove($it); close $it;
} }
"#;

/// Passes when a file is there; else it says what it is and what it may.
const MIGRATED: &str = r#"#!/bin/sh
[ ! -e "$1" ] || exit 0
caps=$(sed -n 's/^CapEff:[[:space:]]*//p' /proc/self/status)
for path in /etc/tried /opt/imagebuilder-agent/tried /run/imagebuilder-update/tried; do
    (: >"$path") 2>/dev/null && may="$may $path"
done
echo "not migrated: user $(id -un), capabilities $caps, environment $(env | cut -d= -f1 | sort | tr '\n' ' ')may write:$may" >&2
exit 1
"#;

fn disk() -> Disk {
    let disk = Disk::new();
    let real = "#!/bin/sh\nexec /usr/lib/imagebuilder-agent/real \"$@\"\n";
    disk.file(
        "/usr/lib/imagebuilder-agent/factory/imagebuilder-agent",
        real,
        0o755,
    );
    disk.file("/etc/imagebuilder/agent.toml", SETTINGS, 0o644);
    disk.file("/etc/shop-migrated", "", 0o644);
    disk.file("/usr/lib/migrated", MIGRATED, 0o755);
    disk.file("/usr/lib/shop", SHOP, 0o755);
    for (name, program) in [
        ("shop", "/usr/lib/shop"),
        ("worker", "/usr/bin/sleep infinity"),
    ] {
        let unit = format!("[Service]\nExecStart={program}\n");
        disk.file(&format!("/etc/systemd/system/{name}.service"), &unit, 0o644);
    }
    disk.drop_in(
        "multi-user.target",
        "[Unit]\nWants=shop.service worker.service\n",
    );
    disk
}

/// The daemon's verdict and its reason.
fn verdict(container: &Container) -> Option<(String, String)> {
    let status = container.read("/run/imagebuilder-agent/status.json")?;
    let status: serde_json::Value = serde_json::from_str(&status).ok()?;
    let text = |key: &str| status[key].as_str().unwrap_or_default().to_owned();
    Some((text("verdict"), text("reason")))
}

fn until(container: &Container, wanted: &str, reason: &str) -> String {
    container.wait(&format!("{wanted}: {reason}"), |it| {
        verdict(it).is_some_and(|(is, why)| is == wanted && why.contains(reason))
    });
    verdict(container).unwrap().1
}

#[test]
fn every_kind_of_check_works_within_the_sandbox() {
    if left_out() {
        return;
    }
    let container = disk().boot();
    until(&container, "fit", "");
    let status = container.ok(&["imagebuilder-agent", "status"]);
    assert!(status.contains("fit"), "{status}");

    container.ok(&["rm", "/etc/shop-migrated"]);
    let reason = until(&container, "unfit", "check migrated");
    let line = "not migrated: user imagebuilder-agent, capabilities 0000000000000000, environment PATH PWD may write:";
    assert!(reason.contains(line), "{reason}");
    assert!(!reason.contains("may write: /"), "{reason}");
    container.ok(&["touch", "/etc/shop-migrated"]);
    until(&container, "fit", "");

    container.ok(&["systemctl", "stop", "worker.service"]);
    until(&container, "unfit", "worker.service");
    container.ok(&["systemctl", "start", "worker.service"]);
    until(&container, "fit", "");

    container.ok(&["systemctl", "stop", "shop.service"]);
    until(&container, "unfit", "shop.service");
    container.ok(&["systemctl", "start", "shop.service"]);
    until(&container, "fit", "");
    // Every program of a check has ended, and the daemon was never killed.
    let shown = container.show(STABLE);
    assert_eq!(shown["NRestarts"], "0");
}
