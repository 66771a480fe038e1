//! What the units keep from the agent: the daemon cannot write slots, the updater has no credentials, and the
//! daemon's wish is all that goes from the one to the other.

use std::collections::BTreeMap;

use crate::container::{Container, Disk, TRIAL, UPDATE, left_out, report_left_out};

#[test]
fn the_daemon_cannot_touch_what_the_updater_goes_by() {
    if left_out() {
        return;
    }
    let container = Disk::with_factory("snoops").boot();
    container.wait("the daemon to have tried", |it| {
        it.read("/run/imagebuilder-agent/could").is_some()
    });
    assert_eq!(
        container.read("/run/imagebuilder-agent/could").as_deref(),
        Some("tried\n")
    );
    container.serves("1.0.0");
}

/// In the updater's place: tries all it may and all it may not, and notes what came of it.
const IN_THE_UPDATERS_PLACE: &str = r#"
use strict; use Socket; my %came;
sub tried { my ($what, $did) = @_; $came{$what} = $did ? 'ok' : "$!" }
sub reaches { my ($family, $to) = @_; socket(my $s, $family, SOCK_DGRAM, 0) or return; send($s, 'x', 0, $to) }
sub v4 { reaches(AF_INET, pack_sockaddr_in(80, inet_aton($_[0]))) }
sub v6 { reaches(AF_INET6, pack_sockaddr_in6(80, Socket::inet_pton(AF_INET6, $_[0]))) }
open my $status, '<', '/proc/self/status'; my ($caps) = map { /^Cap(?:Eff|Prm|Bnd|Amb):\s*(\S+)/ ? $1 : () } <$status>;
$came{capabilities} = $caps; $came{user} = "$>";
tried('metadata service', v4('169.254.169.254')); tried('metadata service, IPv6', v6('fd00:ec2::254'));
tried('another address', v4('127.0.0.1'));
for my $path (qw(/opt/imagebuilder-agent/versions /opt/imagebuilder-agent/staging /var/lib/imagebuilder-update
    /run/imagebuilder-update /usr/lib/imagebuilder-agent/factory /usr/share /etc /root
    /run/imagebuilder-agent /home)) { tried("write $path", open my $f, '>', "$path/.tried"); unlink "$path/.tried" }
tried('flip', symlink('versions/x', '/opt/imagebuilder-agent/.new')
    && rename('/opt/imagebuilder-agent/.new', '/opt/imagebuilder-agent/flipped'));
my $started = `systemctl start imagebuilder-agent-trial.service 2>&1`; $came{start} = $? ? $started : 'ok';
my @mount = ('none', '/tmp', 'tmpfs'); tried('mount', syscall(165, @mount, 0, 0) == 0);
$came{boot} = $ENV{IMAGEBUILDER_BOOT_ID};
open my $out, '>', '/run/imagebuilder-update/came'; print $out map { "$_=$came{$_}\n" } sort keys %came;
"#;

/// Runs a Perl script as what the updater's unit starts.
fn in_its_place(disk: &Disk, script: &str) {
    disk.file("/usr/lib/tried.pl", script, 0o644);
    disk.drop_in(
        UPDATE,
        "[Service]\nExecStart=\nExecStart=/usr/bin/perl /usr/lib/tried.pl\n",
    );
}

#[test]
fn the_updater_works_without_capabilities_or_metadata() {
    if left_out() {
        return;
    }
    let disk = Disk::new();
    in_its_place(&disk, IN_THE_UPDATERS_PLACE);
    disk.trial(&disk.slot("2.0.0", "good"));
    let container = disk.boot();
    container.serves("1.0.0");
    // The way to the metadata service is open to all other processes. A datagram shows at once what a
    // connection would only find out in time.
    container.ok(&["ip", "link", "set", "lo", "up"]);
    container.ok(&["ip", "address", "add", "169.254.169.254/32", "dev", "lo"]);
    let six = container.run(&[
        "ip",
        "-6",
        "address",
        "add",
        "fd00:ec2::254/128",
        "dev",
        "lo",
    ]);
    container.ok(&[
        "perl", "-MSocket", "-e",
        "socket(S,AF_INET,SOCK_DGRAM,0); send(S,'x',0,pack_sockaddr_in(80,inet_aton('169.254.169.254'))) or die $!",
    ]);

    container.ok(&["systemctl", "start", UPDATE]);
    let came = container.read("/run/imagebuilder-update/came").unwrap();
    let came: BTreeMap<&str, &str> = came
        .lines()
        .filter_map(|line| line.split_once('='))
        .collect();
    let denied = "Operation not permitted";
    let read_only = "Read-only file system";
    for (what, want) in [
        ("user", "0"),
        ("capabilities", "0000000000000000"),
        ("metadata service", denied),
        ("another address", "ok"),
        ("write /opt/imagebuilder-agent/versions", "ok"),
        ("write /opt/imagebuilder-agent/staging", "ok"),
        ("write /var/lib/imagebuilder-update", "ok"),
        ("write /run/imagebuilder-update", "ok"),
        ("write /usr/lib/imagebuilder-agent/factory", read_only),
        ("write /usr/share", read_only),
        ("write /etc", read_only),
        ("flip", "ok"),
        ("start", "ok"),
        ("mount", denied),
    ] {
        assert_eq!(came[what], want, "{what} of {came:?}");
    }
    if six.status.success() {
        assert_eq!(came["metadata service, IPv6"], denied);
    }
    for hidden in [
        "write /root",
        "write /home",
        "write /run/imagebuilder-agent",
    ] {
        assert_ne!(came[hidden], "ok", "{hidden}");
    }
    let boot = container.ok(&["cat", "/proc/sys/kernel/random/boot_id"]);
    assert_eq!(came["boot"], boot.trim().replace('-', ""));
    assert_eq!(container.on_trial().as_deref(), Some("2.0.0"));
    assert_eq!(container.leads("flipped"), "versions/x");
    container.ok(&["systemctl", "stop", TRIAL]);
    // What it keeps is nobody else's to read; its status is.
    let modes = container.ok(&[
        "stat",
        "--format=%a %U",
        "/var/lib/imagebuilder-update",
        "/run/imagebuilder-update",
    ]);
    assert_eq!(modes, "700 root\n755 root\n");
}

fn runs(container: &Container) -> usize {
    let counted = container.read("/run/imagebuilder-update/runs");
    counted.map_or(0, |runs| runs.len())
}

#[test]
fn a_storm_of_requests_does_not_stop_the_updaters_timer() {
    if left_out() {
        return;
    }
    let disk = Disk::new();
    in_its_place(
        &disk,
        "open my $f, '>>', '/run/imagebuilder-update/runs'; print $f '.'",
    );
    let container = disk.boot();
    // A path unit limits its triggers from systemd 250 on.
    if container.systemd() < 250 {
        report_left_out("systemd before 250: a storm of requests");
        return;
    }
    container.serves("1.0.0");
    let wish = "setpriv --reuid=imagebuilder-agent --clear-groups touch /run/imagebuilder-agent/update-request";
    container.ok(&["sh", "-c", wish]);
    // To touch a file is more than one change to it: systemd may see one of them after the first run.
    container.wait("the updater to have run", |it| runs(it) >= 1);
    let path = "imagebuilder-agent-update.path";
    container.ok(&[
        "sh",
        "-c",
        &format!("while systemctl --quiet is-active {path}; do {wish}; sleep 0.02; done"),
    ]);
    assert_eq!(container.state(path).0, "failed");
    let stormed = runs(&container);
    assert!((3..=8).contains(&stormed), "{stormed}");
    // As its timer does.
    container.ok(&["systemctl", "start", UPDATE]);
    assert_eq!(runs(&container), stormed + 1);
    assert_eq!(container.state(path).0, "active");
}
