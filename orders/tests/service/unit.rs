//! The systemd units: they render, systemd accepts them, and the service is hardened as documented.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use orders::settings::{RawSettings, Settings};

/// A program that exists everywhere, so that only the unit is checked.
const HERE: &str = "/bin/true";

/// A unit as `imagebuilder` renders it.
pub(crate) fn rendered(unit: &str, binary: &str, environment: &[(&str, &str)]) -> String {
    let template = match unit {
        "orders.socket" => include_str!("../../../templates/systemd/orders.socket.tera"),
        _ => include_str!("../../../templates/systemd/orders.service.tera"),
    };
    let mut tera = tera::Tera::default();
    tera.add_raw_template("unit", template).unwrap();
    let mut context = tera::Context::new();
    context.insert("binary", binary);
    let pairs: Vec<_> = environment
        .iter()
        .map(|(key, value)| serde_json::json!({"key": key, "value": value}))
        .collect();
    context.insert("service", &serde_json::json!({ "environment": pairs }));
    tera.render("unit", &context).unwrap()
}

fn analyze(arguments: &[&str], unit: &Path) {
    let output = Command::new("systemd-analyze")
        .args(arguments)
        .arg(unit)
        .output()
        .expect("systemd-analyze runs\nhint: install the package systemd");
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed);
    assert!(output.status.success(), "{printed}");
    // It exits successfully even if it ignores an unknown line.
    let folder = unit.parent().unwrap().to_str().unwrap();
    assert!(
        arguments.contains(&"security") || !printed.contains(folder),
        "{printed}"
    );
}

#[test]
fn systemd_understands_the_units_and_the_service_is_hardened() {
    let folder = tempfile::tempdir().unwrap();
    for unit in ["orders.service", "orders.socket"] {
        std::fs::write(folder.path().join(unit), rendered(unit, HERE, &[])).unwrap();
    }
    for unit in ["orders.service", "orders.socket"] {
        analyze(&["verify", "--man=no"], &folder.path().join(unit));
    }
    let hardened = ["security", "--offline=true", "--threshold=15", "--no-pager"];
    analyze(&hardened, &folder.path().join("orders.service"));
}

#[test]
fn a_stop_ends_before_systemds_timeout() {
    let text = rendered("orders.service", HERE, &[]);
    let mut lines = text.lines();
    let timeout = lines.find_map(|line| line.strip_prefix("TimeoutStopSec="));
    let timeout = Duration::from_secs(timeout.unwrap().parse().unwrap());
    let nothing = std::collections::BTreeMap::new();
    let settings = Settings::load(RawSettings::default(), Some("/dev/null".into()), &nothing);
    let longest = orders::service::longest_stop(&settings.unwrap());
    assert!(
        longest + Duration::from_secs(5) <= timeout,
        "{longest:?} of {timeout:?}"
    );
}

#[test]
fn the_socket_listens_at_the_configured_address() {
    let listen = |environment: &[(&str, &str)]| {
        let text = rendered("orders.socket", HERE, environment);
        let mut lines = text.lines();
        let stream = lines.find_map(|line| line.strip_prefix("ListenStream="));
        stream.unwrap().to_owned()
    };
    assert_eq!(listen(&[]), orders::listen::DEFAULT);
    let set = [("A", "b"), ("ORDERS_LISTEN", "127.0.0.1:9090"), ("C", "d")];
    assert_eq!(listen(&set), "127.0.0.1:9090");
    // The socket starts only with the service: an open port without a service looks healthy.
    assert!(!rendered("orders.socket", HERE, &[]).contains("[Install]"));
}
