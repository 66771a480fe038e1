//! `rehearsal imds-relay`: one connection between a guest and its metadata service.
//!
//! QEMU starts it for every connection that a guest opens to 169.254.169.254, with the connection as its standard input
//! and output. It must start quickly, so it has no runtime and no log.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Copies both ways until the service closes.
///
/// # Errors
/// When the socket does not answer or a copy breaks.
pub(crate) fn run(socket: &Path) -> io::Result<()> {
    let up = UnixStream::connect(socket)?;
    let down = up.try_clone()?;
    // Ends with the process, or when the guest closes its side.
    std::thread::spawn(move || {
        let _ = pump(io::stdin().lock(), &up);
        // The service may have closed the connection already.
        let _ = up.shutdown(Shutdown::Write);
    });
    pump(&down, io::stdout().lock())
}

/// Passes data on as soon as it arrives: waiting for a full buffer would stall a request.
fn pump(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                to.write_all(&buffer[..length])?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
