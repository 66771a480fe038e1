//! Which checks are doubted, and above all which are not.

use std::path::Path;

use super::*;

const IMAGE: &str = "[image]\nname = \"shop\"\n[image.source]\nid = \"ami-1\"\n[image.agent]\nbinary = \"binary\"\n";
/// A service of its own unit, which listens on 8080.
const WEB: &str = "[[image.unit]]\nsource = \"web.service\"\n[services.web]\n";

fn doubts(more: &str) -> Vec<String> {
    let root = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &[u8]| std::fs::write(root.path().join(name), text).unwrap();
    put("binary", &test_support::elf(62, ""));
    put(
        "program",
        &test_support::elf(62, "listening at 0.0.0.0:8070"),
    );
    put("web.service", b"[Service]\nExecStart=/usr/bin/gunicorn --bind 127.0.0.1:8080 app\nEnvironment=ADMIN_PORT=8090\n");
    put("plain.service", b"[Service]\nExecStart=/usr/bin/plain\n");
    put("plain.socket", b"[Socket]\n# 8079\nListenStream=8078\n");
    put(
        "proxy.conf",
        b"upstream http://10.0.0.1:5432;\nlisten 127.0.0.1:80811;\nsocket /run/app.sock\n",
    );
    put("setup.sh", b"#!/bin/sh\nexec install-server --port 8060\n");
    found(&format!("{IMAGE}{more}"), root.path())
}

fn found(text: &str, root: &Path) -> Vec<String> {
    let config = Config::parse(text, "test.toml").unwrap();
    let staging = Staging::gather(&config, root, None).unwrap();
    let doubts = staging.doubts(&config).unwrap();
    doubts.into_iter().map(|doubt| doubt.what).collect()
}

fn check(kind: &str, key: &str, value: &str) -> String {
    format!("[services.web.checks.c]\nkind = \"{kind}\"\n{key} = \"{value}\"\n")
}

#[test]
fn a_port_that_nothing_of_the_image_mentions_is_doubted() {
    let packages = "[image.packages]\napt = [\"mysql-server\"]\n";
    let proxy = "[[image.payload]]\nsource = \"proxy.conf\"\ndest = \"/etc/proxy.conf\"\n";
    for (more, want) in [
        (
            format!("{WEB}health_url = \"http://127.0.0.1:8081/gtg\"\n"),
            "[services.web] health_url asks at port 8081, which nothing of this image mentions; what web is configured with names 8080, 8090",
        ),
        (
            format!("{packages}{WEB}health_url = \"http://localhost:8081/gtg\"\n"),
            "[services.web] health_url asks at port 8081",
        ),
        // A longer number is another one.
        (
            format!("{proxy}{WEB}{}", check("http", "url", "http://[::1]:8081/")),
            "[services.web.checks.c] asks at port 8081",
        ),
        (
            format!("{WEB}{}", check("tcp", "address", "127.0.0.1:3306")),
            "[services.web.checks.c] asks at port 3306, which nothing of this image mentions; what web",
        ),
        (
            format!("{WEB}{}", check("unix", "socket", "/run/app.sock")),
            "[services.web.checks.c] asks at /run/app.sock, which nothing of this image mentions",
        ),
        (
            format!("{WEB}{}", check("systemd", "unit", "wep.service")),
            "[services.web.checks.c] unit wep.service is none that this image brings",
        ),
    ] {
        let found = doubts(&more);
        assert_eq!(found.len(), 1, "{more}: {found:?}");
        assert!(found[0].starts_with(want), "{more}: {found:?}");
    }
}

#[test]
fn what_may_well_pass_is_not_doubted() {
    let packages = "[image.packages]\napt = [\"mysql-server\"]\n";
    let proxy = "[[image.payload]]\nsource = \"proxy.conf\"\ndest = \"/etc/proxy.conf\"\n";
    let plain = "[[image.unit]]\nsource = \"plain.service\"\n";
    let socket = "[[image.unit]]\nsource = \"plain.socket\"\n";
    for more in [
        format!("{WEB}health_url = \"http://127.0.0.1:8080/gtg\"\n"),
        format!("{WEB}health_url = \"http://127.0.0.1:8090/\"\n"),
        // Of another instance.
        format!("{WEB}{}", check("tcp", "address", "db.example:3306")),
        format!("{WEB}{}", check("http", "url", "http://10.0.0.9:81/")),
        // A package or a script may bring what listens.
        format!(
            "{packages}{WEB}{}",
            check("tcp", "address", "127.0.0.1:3306")
        ),
        format!(
            "[[image.script]]\nsource = \"setup.sh\"\n{WEB}{}",
            check("tcp", "address", "127.0.0.1:3306")
        ),
        "[services.nginx]\ninstalled = true\nhealth_url = \"http://127.0.0.1/\"\n".to_owned(),
        format!("{packages}{plain}[services.plain]\nhealth_url = \"http://127.0.0.1:1234/\"\n"),
        // In a payload, a socket unit, a program, the environment.
        format!("{proxy}{WEB}{}", check("tcp", "address", "127.0.0.1:5432")),
        format!("{proxy}{WEB}{}", check("unix", "socket", "/run/app.sock")),
        format!("{plain}{socket}[services.plain]\nhealth_url = \"http://127.0.0.1:8078/\"\n"),
        format!(
            "{plain}[services.plain]\nbinary = \"program\"\nhealth_url = \"http://127.0.0.1:8070/\"\n"
        ),
        format!(
            "{plain}[services.plain]\nhealth_url = \"http://127.0.0.1:8050/\"\nenvironment = {{ LISTEN = \"0.0.0.0:8050\" }}\n"
        ),
        format!("{WEB}{}", check("systemd", "unit", "ssh.service")),
        format!("{WEB}{}", check("systemd", "unit", "web.service")),
    ] {
        assert_eq!(doubts(&more), Vec::<String>::new(), "{more}");
    }
}

#[test]
fn other_numbers_are_not_taken_for_ports() {
    for (text, want) in [
        ("ListenStream=8080\n", &[8080][..]),
        ("ListenStream=[::]:443", &[443]),
        (
            "ExecStart=/bin/a --listen 0.0.0.0:8080 --peer b:9090",
            &[8080, 9090],
        ),
        ("HTTP_PORT=\"8081\"\nTimeoutSec=8082", &[8081]),
        ("OnCalendar=*-*-* 04:30:00\n# :8080", &[]),
        ("port = 9000", &[9000]),
        ("Environment=\"APP_PORT=8083\"", &[8083]),
        ("x:99999", &[]),
    ] {
        let want: BTreeSet<u16> = want.iter().copied().collect();
        assert_eq!(ports(text), want, "{text}");
    }
}
