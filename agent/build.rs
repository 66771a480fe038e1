//! How the binary that goes onto a box is linked: without what only an unwinder reads.
//!
//! Profile `box` aborts on panic, so nothing ever unwinds; yet the standard library and the linker leave
//! 0.8 MB of unwind tables in it, which strip keeps. `docs/decisions/0010-binaries-on-an-instance.md` has the
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
    // The one profile that optimises for size; cargo does not tell a build script the panic strategy.
    let on_a_box = var("OPT_LEVEL").is_ok_and(|level| level == "z");
    // Where rustc brings its own linker, whose options these are.
    let linker_known = var("TARGET").is_ok_and(|target| target == "x86_64-unknown-linux-gnu");
    if on_a_box && linker_known {
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
