//! Links the binary for instances without the tables that only an unwinder reads.
//!
//! Profile `box` aborts on panic, so nothing ever unwinds; but the standard library and the linker add
//! 0.8 MB of unwind tables, which strip keeps. `docs/decisions/0010-binaries-on-an-instance.md` has the
//! figures.

use std::env::var;
use std::io::{self, Write as _};

fn main() -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "cargo::rerun-if-changed=build.rs")?;
    writeln!(out, "cargo::rerun-if-changed=box.ld")?;
    // Only this profile optimises for size; a build script cannot read the panic strategy.
    let for_instances = var("OPT_LEVEL").is_ok_and(|level| level == "z");
    // `.cargo/config.toml` names it for the static targets; another linker may not take these options.
    let linker_known = var("RUSTC_LINKER").is_ok_and(|linker| linker == "rust-lld");
    if for_instances && linker_known {
        let script = var("CARGO_MANIFEST_DIR").map_err(io::Error::other)? + "/box.ld";
        // Packed relocations are read by the binary's own start-up code, which is musl's: no loader of the system is asked.
        for option in [
            &format!("-T{script}"),
            "--no-eh-frame-hdr",
            "--icf=all",
            "-zpack-relative-relocs",
        ] {
            writeln!(out, "cargo::rustc-link-arg-bins={option}")?;
        }
    }
    Ok(())
}
