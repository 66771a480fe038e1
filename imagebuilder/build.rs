//! Embeds `templates/`, `packer/provision/` and `recipes/`, so that the one binary can bake anywhere.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let house = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("..");
    let mut code = String::new();
    table(&mut code, "TEMPLATES", &house.join("templates"), rendered)?;
    table(
        &mut code,
        "PROVISION",
        &house.join("packer/provision"),
        rendered,
    )?;
    let mut recipes = String::new();
    table(&mut recipes, "FILES", &house.join("recipes"), written)?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("recipes.rs");
    std::fs::write(out, recipes)?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("embedded.rs");
    std::fs::write(out, code)?;
    Ok(())
}

/// Templates and scripts.
fn rendered(path: &Path) -> bool {
    let mut kinds = ["tera", "sh"].into_iter();
    path.extension()
        .is_some_and(|kind| kinds.any(|known| kind == known))
}

/// Everything but what Python leaves beside its sources.
fn written(path: &Path) -> bool {
    path.extension().is_none_or(|kind| kind != "pyc")
}

/// A constant with the name and text of every file below `folder` that fits, in name order.
fn table(
    code: &mut String,
    name: &str,
    folder: &Path,
    fits: fn(&Path) -> bool,
) -> Result<(), Box<dyn std::error::Error>> {
    let folder = folder.canonicalize()?;
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut files = Vec::new();
    collect(&folder, fits, &mut files)?;
    files.sort();
    writeln!(code, "pub(super) const {name}: &[(&str, &str)] = &[")?;
    for file in files {
        let relative = file.strip_prefix(&folder)?.display().to_string();
        // The text, not `include_str!` with the path here: the program must be the same bytes in every folder.
        let text = std::fs::read_to_string(&file)
            .map_err(|error| format!("read {}: {error}", file.display()))?;
        writeln!(code, "    ({relative:?}, {text:?}),")?;
    }
    writeln!(code, "];")?;
    Ok(())
}

fn collect(
    folder: &Path,
    fits: fn(&Path) -> bool,
    files: &mut Vec<PathBuf>,
) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, fits, files)?;
        } else if fits(&path) {
            files.push(path);
        }
    }
    Ok(())
}
