//! What kind of program a file is, and what it needs of a system, by its ELF header and sections (elf(5)).

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use anyhow::Context as _;
use elf::ElfStream;
use elf::abi::{EM_AARCH64, EM_X86_64, PT_INTERP};
use elf::endian::AnyEndian;
use elf::file::Class;

use crate::config::Arch;

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A program.
    Elf(Program),
    /// A script whose first line names its interpreter.
    Script,
    /// Neither, as text.
    Other(String),
}

/// A 64-bit program for Linux.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// For which machine.
    pub(crate) machine: Arch,
    /// The dynamic loader it is started by, e.g. `/lib64/ld-linux-x86-64.so.2`; a static one needs none.
    pub(crate) loader: Option<String>,
    /// The newest release of the GNU C library whose symbols it uses, e.g. 2.36.
    pub(crate) glibc: Option<(u32, u32)>,
}

/// Reads what a file is.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn read(path: &Path) -> anyhow::Result<Kind> {
    let context = || format!("read {}", path.display());
    let mut file = File::open(path).with_context(context)?;
    let mut head = Vec::new();
    (&mut file)
        .take(4)
        .read_to_end(&mut head)
        .with_context(context)?;
    file.seek(SeekFrom::Start(0)).with_context(context)?;
    Ok(match &head[..] {
        [] => Kind::Other("an empty file".to_owned()),
        b"\x7fELF" => program(file).map_or_else(Kind::Other, Kind::Elf),
        [b'#', b'!', ..] => Kind::Script,
        _ => Kind::Other("neither a program nor a script".to_owned()),
    })
}

fn program(file: File) -> Result<Program, String> {
    let damaged = |error: elf::ParseError| format!("a damaged program ({error})");
    let mut elf = ElfStream::<AnyEndian, _>::open_stream(file).map_err(damaged)?;
    if elf.ehdr.class != Class::ELF64 {
        return Err("a 32-bit program".to_owned());
    }
    let machine = match elf.ehdr.e_machine {
        EM_X86_64 => Arch::X86_64,
        EM_AARCH64 => Arch::Arm64,
        other => {
            return Err(format!(
                "a program for another machine (ELF machine {other})"
            ));
        }
    };
    let loader = elf
        .segments()
        .iter()
        .find(|segment| segment.p_type == PT_INTERP)
        .copied();
    let loader = match loader {
        Some(segment) => {
            let data = elf.segment_data(&segment).map_err(damaged)?;
            let end = data
                .iter()
                .position(|byte| *byte == 0)
                .unwrap_or(data.len());
            Some(String::from_utf8_lossy(&data[..end]).into_owned())
        }
        None => None,
    };
    let symbols = elf.dynamic_symbol_table().map_err(damaged)?;
    let count = symbols.map_or(0, |(symbols, _)| symbols.len());
    let mut glibc = None;
    if let Some(versions) = elf.symbol_version_table().map_err(damaged)? {
        for index in 0..count {
            let needed = versions.get_requirement(index).map_err(damaged)?;
            glibc = glibc.max(needed.and_then(|needed| release(needed.name)));
        }
    }
    Ok(Program {
        machine,
        loader,
        glibc,
    })
}

/// The release in a symbol version of the GNU C library, `GLIBC_2.34`.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.strip_prefix("GLIBC_")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Kind {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        read(file.path()).unwrap()
    }

    #[test]
    fn file_kinds_are_distinguished() {
        assert_eq!(of(b""), Kind::Other("an empty file".to_owned()));
        let text = Kind::Other("neither a program nor a script".to_owned());
        assert_eq!(of(b"hello\n"), text);
        assert_eq!(of(b"MZ\x90\0"), text);
        assert_eq!(of(b"#!/usr/bin/env python3\n"), Kind::Script);
        let Kind::Other(what) = of(b"\x7fELF\x02") else {
            panic!("half a header")
        };
        assert!(what.starts_with("a damaged program"), "{what}");
        for (machine, want) in [(62, Arch::X86_64), (183, Arch::Arm64)] {
            let Kind::Elf(program) = of(&test_support::elf(machine, "x")) else {
                panic!("{machine}")
            };
            assert_eq!(program.machine, want);
            assert_eq!((program.loader, program.glibc), (None, None), "{want:?}");
        }
        let riscv = of(&test_support::elf(243, "x"));
        assert_eq!(
            riscv,
            Kind::Other("a program for another machine (ELF machine 243)".to_owned())
        );
    }

    #[test]
    fn loader_and_c_library_of_a_real_program_are_read() {
        let Kind::Elf(program) = read(&std::env::current_exe().unwrap()).unwrap() else {
            panic!("this test is a program")
        };
        assert_eq!(program.machine.as_str(), std::env::consts::ARCH);
        assert!(program.loader.unwrap().starts_with("/lib"));
        assert!(program.glibc.unwrap() >= (2, 17));
    }
}
