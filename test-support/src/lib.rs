//! Helpers for the tests of several crates. Never a dependency of shipped code.

pub mod fuzz;
pub mod proxy;

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};

use socket2::{Domain, Socket, Type};

/// Writes an executable file that can be run at once.
///
/// Tests run as threads of one process. If this process wrote the file, a child that another test forks
/// meanwhile would hold it open for writing until its own `execve`, and running the file would fail with
/// "text file busy" (execve(2), ETXTBSY). So a child process writes it, whose files are not inherited.
///
/// # Panics
/// The file could not be written.
pub fn write_program(path: &Path, text: &str) {
    let mut install = install(Path::new("/dev/stdin"), path);
    let mut child = install
        .stdin(Stdio::piped())
        .spawn()
        .expect("install(1) starts");
    let mut pipe = child.stdin.take().expect("stdin is piped");
    pipe.write_all(text.as_bytes()).expect("install(1) reads");
    drop(pipe);
    let status = child.wait().expect("install(1) ends");
    assert!(status.success(), "cannot write {}", path.display());
}

/// Copies an executable file so that the copy can be run at once, as [`write_program`] does.
///
/// # Panics
/// The file could not be copied.
pub fn copy_program(from: &Path, to: &Path) {
    let status = install(from, to).status().expect("install(1) starts");
    assert!(
        status.success(),
        "cannot copy {} to {}",
        from.display(),
        to.display()
    );
}

/// A minimal program file: a 64-bit ELF header (elf(5)) for a machine (62 is x86-64, 183 is AArch64),
/// followed by some text to make files differ. It cannot be run.
#[must_use]
pub fn elf(machine: u16, text: &str) -> Vec<u8> {
    let mut header = b"\x7fELF\x02\x01\x01".to_vec();
    header.resize(16, 0);
    header.extend(2_u16.to_le_bytes());
    header.extend(machine.to_le_bytes());
    header.extend(1_u32.to_le_bytes());
    // Entry, program headers, section headers: none.
    header.extend([0; 24]);
    header.extend(0_u32.to_le_bytes());
    // Sizes of the header, of program headers and of section headers, and how many of them there are.
    for size in [64_u16, 56, 0, 64, 0, 0] {
        header.extend(size.to_le_bytes());
    }
    header.extend(text.as_bytes());
    header
}

/// A port on 127.0.0.1 for a server that needs a port number, reserved as long as this value lives.
///
/// A port that was free a moment ago may be taken by another process before the server binds it. This one is
/// bound, so the kernel assigns it to no other socket; since it is bound with `SO_REUSEADDR` and does not
/// listen, a server that binds it by number with the same option, as servers do, gets it. Until then, and
/// after the server has ended, connections are refused.
#[derive(Debug)]
pub struct Port {
    address: SocketAddr,
    _bound: Socket,
}

impl Port {
    /// Reserves a free port.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn reserve() -> Self {
        let bound = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        bound.set_reuse_address(true).expect("SO_REUSEADDR");
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        bound.bind(&any.into()).expect("a free port");
        let address = bound.local_addr().ok().and_then(|at| at.as_socket());
        Self {
            address: address.expect("its address"),
            _bound: bound,
        }
    }

    /// The address for the server to listen on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.address.port()
    }
}

fn install(from: &Path, to: &Path) -> Command {
    let mut install = Command::new("install");
    install.arg("--mode=755").arg("--").arg(from).arg(to);
    install
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};
    use std::path::Path;
    use std::process::Command;

    use socket2::{Domain, Socket, Type};

    use super::{Port, copy_program, write_program};

    #[test]
    fn a_reserved_port_can_be_bound_by_number() {
        let port = Port::reserve();
        // Like a process that binds any port: reserved ones are never assigned.
        let other = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let taken = other.bind(&port.address().into());
        let taken = taken.expect_err("it is taken").kind();
        assert_eq!(taken, ErrorKind::AddrInUse);
        let refused = |to| TcpStream::connect(to).map_err(|error| error.kind());
        for _ in 0..2 {
            let error = refused(port.address()).expect_err("nothing listens");
            assert_eq!(error, ErrorKind::ConnectionRefused);
            let server = TcpListener::bind(("127.0.0.1", port.number())).expect("the port");
            refused(port.address()).expect("the server listens");
            drop(server);
        }
    }

    #[test]
    fn a_program_runs_at_once_while_others_fork() {
        let dir = std::env::temp_dir().join(format!("test-support-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        let refused = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut refused = Vec::new();
                let mut run = |program: &Path| match Command::new(program).status() {
                    Ok(status) if status.code() == Some(7) => {}
                    other => refused.push(format!("{}: {other:?}", program.display())),
                };
                for number in 0..100 {
                    let (written, copied) = (
                        dir.join(format!("{number}")),
                        dir.join(format!("{number}-copy")),
                    );
                    write_program(&written, "#!/bin/sh\nexit 7\n");
                    run(&written);
                    copy_program(&written, &copied);
                    run(&copied);
                }
                refused
            });
            let forking = || {
                while !writer.is_finished() {
                    let status = Command::new("true").status().expect("true(1) runs");
                    assert!(status.success());
                }
            };
            std::thread::scope(|others| {
                for _ in 0..8 {
                    others.spawn(forking);
                }
            });
            writer.join().expect("all were written")
        });
        assert_eq!(refused, [""; 0]);
        std::fs::remove_dir_all(&dir).expect("the folder goes");
    }
}
