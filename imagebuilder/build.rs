//! Embeds `templates/` and `packer/provision/`, so that the one binary can bake anywhere.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let house = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("..");
    let mut code = String::new();
    table(&mut code, "TEMPLATES", &house.join("templates"))?;
    table(&mut code, "PROVISION", &house.join("packer/provision"))?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("embedded.rs");
    std::fs::write(out, code)?;
    Ok(())
}

/// A constant with the name and text of every file below `folder`, in name order.
fn table(code: &mut String, name: &str, folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let folder = folder.canonicalize()?;
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut files = Vec::new();
    collect(&folder, &mut files)?;
    files.sort();
    writeln!(code, "pub(super) const {name}: &[(&str, &str)] = &[")?;
    for file in files {
        let relative = file.strip_prefix(&folder)?.display().to_string();
        writeln!(
            code,
            "    ({relative:?}, include_str!({:?})),",
            file.display().to_string()
        )?;
    }
    writeln!(code, "];")?;
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path
            .extension()
            .is_some_and(|kind| kind == "tera" || kind == "sh")
        {
            files.push(path);
        }
    }
    Ok(())
}
