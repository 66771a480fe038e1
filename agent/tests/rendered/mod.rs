//! The units of an instance as `imagebuilder` renders them, for tests.

use std::fs;
use std::path::Path;

/// Every unit of the agent, and a service.
pub(crate) const UNITS: [&str; 12] = [
    "imagebuilder-agent-configure.service",
    "imagebuilder-agent.service",
    "imagebuilder-agent-trial.service",
    "imagebuilder-agent-update.service",
    "imagebuilder-agent-update.timer",
    "imagebuilder-agent-update.path",
    "imagebuilder-agent-factory.service",
    "imagebuilder-agent-restart.service",
    "imagebuilder-agent-restart.path",
    "imagebuilder-tests.service",
    "orders.service",
    "orders.socket",
];

/// Writes them all into a directory.
pub(crate) fn into(dir: &Path) {
    let templates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../templates");
    let mut tera = tera::Tera::default();
    let mut sources = Vec::new();
    for folder in ["systemd", "systemd/imagebuilder-agent"] {
        for entry in fs::read_dir(templates.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let name = path.strip_prefix(&templates).unwrap().display().to_string();
                sources.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    tera.add_raw_templates(sources).unwrap();
    let mut context = tera::Context::new();
    let services =
        ["orders.service", "nginx.service"].map(|unit| serde_json::json!({"unit": unit}));
    context.insert("services", &services);
    context.insert("service", &serde_json::json!({"environment": []}));
    context.insert("binary", "/usr/lib/orders/orders");
    for unit in UNITS {
        let text = tera
            .render(&format!("systemd/{unit}.tera"), &context)
            .unwrap();
        fs::write(dir.join(unit), text).unwrap();
    }
}
