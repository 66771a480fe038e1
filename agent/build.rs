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
    writeln!(
        out,
        "cargo::rerun-if-env-changed=IMAGEBUILDER_AGENT_OLD_GLIBC"
    )?;
    // Only this profile optimises for size; a build script cannot read the panic strategy.
    let for_instances = var("OPT_LEVEL").is_ok_and(|level| level == "z");
    // Targets for which rustc has its own linker, which takes these options.
    let linker_known = var("TARGET").is_ok_and(|target| target == "x86_64-unknown-linux-gnu");
    if for_instances && linker_known {
        let script = var("CARGO_MANIFEST_DIR").map_err(io::Error::other)? + "/box.ld";
        for option in [&format!("-T,{script}"), "--no-eh-frame-hdr", "--icf=all"] {
            writeln!(out, "cargo::rustc-link-arg-bins=-Wl,{option}")?;
        }
        // Packed relocations start under glibc 2.36 (Debian 12) and later only.
        if var("IMAGEBUILDER_AGENT_OLD_GLIBC").is_err() {
            writeln!(
                out,
                "cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs"
            )?;
        }
    }
    Ok(())
}
