//! The systemd unit: renders, and is as hardened as it says.

use std::process::Command;

#[test]
fn the_unit_is_hardened() {
    let template = include_str!("../../../templates/systemd/orders.service.tera");
    let mut tera = tera::Tera::default();
    tera.add_raw_template("unit", template).unwrap();
    let mut context = tera::Context::new();
    // A program that is there wherever this runs, so that only the unit is judged.
    context.insert("binary", "/bin/true");
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("orders.service");
    std::fs::write(&unit, tera.render("unit", &context).unwrap()).unwrap();
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=15", "--no-pager"])
        .arg(&unit)
        .output()
        .expect("systemd-analyze runs; hint: install the package systemd");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
