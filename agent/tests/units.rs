//! The agent's systemd units, rendered as `imagebuilder` renders them: understood by systemd, and
//! exposed no further than the agent needs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// In tenths, as `--threshold` takes it. What stays open by need: the network, the journal's socket.
const AGENT_EXPOSURE: u32 = 15;
/// The same for `configure`, which is root so that the files it writes are root's.
const CONFIGURE_EXPOSURE: u32 = 20;

fn rendered(dir: &Path, unit: &str) -> PathBuf {
    let template = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../templates/systemd")
        .join(format!("{unit}.tera"));
    let text = fs::read_to_string(template).unwrap();
    let mut tera = tera::Tera::default();
    tera.add_raw_template(unit, &text).unwrap();
    let mut context = tera::Context::new();
    let services =
        ["orders.service", "nginx.service"].map(|unit| serde_json::json!({"unit": unit}));
    context.insert("services", &services);
    let path = dir.join(unit);
    fs::write(&path, tera.render(unit, &context).unwrap()).unwrap();
    path
}

fn analyze(arguments: &[&str], unit: &Path) -> String {
    let done = Command::new("systemd-analyze")
        .args(arguments)
        .arg(unit)
        .output()
        .expect("systemd-analyze is needed for this test");
    let said = String::from_utf8([done.stdout, done.stderr].concat()).unwrap();
    assert!(done.status.success(), "{said}");
    said
}

#[test]
fn the_units_are_exposed_no_further_than_promised() {
    let dir = tempfile::tempdir().unwrap();
    for (unit, exposure) in [
        ("imagebuilder-agent.service", AGENT_EXPOSURE),
        ("imagebuilder-agent-configure.service", CONFIGURE_EXPOSURE),
    ] {
        let threshold = format!("--threshold={exposure}");
        analyze(
            &["security", "--offline=true", &threshold],
            &rendered(dir.path(), unit),
        );
    }
}

#[test]
fn systemd_understands_every_line_and_the_order_is_configure_services_agent() {
    let dir = tempfile::tempdir().unwrap();
    let units = [
        "imagebuilder-agent.service",
        "imagebuilder-agent-configure.service",
    ];
    for unit in units {
        let path = rendered(dir.path(), unit);
        let text = fs::read_to_string(&path).unwrap();
        // The binary is on the image, not here; everything else is as it will be.
        fs::write(
            &path,
            text.replace("/usr/bin/imagebuilder-agent", "/bin/true"),
        )
        .unwrap();
        let said = analyze(&["verify", "--man=no"], &path);
        assert!(!said.contains(unit), "{said}");
    }
    let text = fs::read_to_string(dir.path().join(units[0])).unwrap();
    assert!(text.starts_with("[Unit]\n"), "{text}");
    assert!(
        text.contains("configure.service orders.service nginx.service\n"),
        "{text}"
    );
    let text = fs::read_to_string(dir.path().join(units[1])).unwrap();
    assert!(
        text.contains("Before=imagebuilder-agent.service orders.service nginx.service\n"),
        "{text}"
    );
}
