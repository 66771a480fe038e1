//! What a daemon that is nobody in particular gets done by asking: a sick service restarted, and nothing
//! else; and what it learns of a system that goes down.

use crate::container::{Container, Disk, STABLE, left_out};

const RESTART: &str = "imagebuilder-agent-restart.service";

fn pid(container: &Container, unit: &str) -> String {
    container.show(unit)["MainPID"].clone()
}

#[test]
fn a_request_restarts_only_a_service_of_the_image() {
    if left_out() {
        return;
    }
    let disk = Disk::new();
    disk.file(
        "/etc/imagebuilder/agent.toml",
        "image = \"shop\"\n[services.orders]\nhealth_url = \"http://127.0.0.1:1/\"\n",
        0o644,
    );
    let units = ["orders.service", "other.service"];
    for unit in units {
        disk.file(
            &format!("/etc/systemd/system/{unit}"),
            "[Service]\nExecStart=/bin/sleep infinity\n",
            0o644,
        );
    }
    disk.drop_in(
        RESTART,
        "[Service]\nExecStart=\nExecStart=/usr/lib/imagebuilder-agent/real restart-requested\n",
    );
    let container = disk.boot();
    container.serves("1.0.0");
    for unit in units {
        container.ok(&["systemctl", "start", unit]);
    }
    let before = units.map(|unit| pid(&container, unit));
    let request = "cd /run/imagebuilder-agent && mkdir -p restart && touch restart/other.service restart/orders.service";
    container.ok(&[
        "setpriv",
        "--reuid=imagebuilder-agent",
        "--clear-groups",
        "sh",
        "-c",
        request,
    ]);
    container.wait("the service to have been restarted", |it| {
        let now = pid(it, units[0]);
        now != before[0] && now != "0"
    });
    container.wait("the other request to have been refused", |it| {
        it.journal()
            .contains("not restarting other.service: the image's settings list no such service")
    });
    assert_eq!(pid(&container, units[1]), before[1]);
}

#[test]
fn the_daemons_sandbox_can_read_the_system_state() {
    if left_out() {
        return;
    }
    let disk = Disk::new();
    disk.drop_in(
        STABLE,
        "[Service]\nStateDirectory=seen\n\
         ExecStopPost=/bin/sh -c 'systemctl is-system-running >>/var/lib/seen/states'\n",
    );
    let mut container = disk.boot();
    container.serves("1.0.0");
    container.ok(&["systemctl", "restart", STABLE]);
    container.serves("1.0.0");
    container.reboot();
    let states = container.read("/var/lib/seen/states").unwrap();
    let states: Vec<&str> = states.lines().collect();
    assert_eq!(states.len(), 2, "{states:?}");
    assert_ne!(states[0], "stopping", "only the daemon");
    assert_eq!(states[1], "stopping", "the system");
}
