//! The listening socket: passed by systemd, or bound here.
//!
//! Decides which of the two to use and which are refused. A socket that systemd holds outlives the process:
//! while the service restarts, connections wait in its queue instead of being refused.

use std::net::{SocketAddr, TcpListener};

use anyhow::{Context, bail};
use listenfd::ListenFd;
use tokio::net::TcpSocket;

/// The default address to listen on.
pub const DEFAULT: &str = "0.0.0.0:8080";

/// The sockets that systemd passed, removed from the environment.
///
/// Call `take` while the process has a single thread: it changes the environment, so that no child process
/// mistakes the socket for its own.
pub struct Inherited(ListenFd);

impl std::fmt::Debug for Inherited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Inherited({})", self.0.len())
    }
}

impl Inherited {
    /// The sockets that the environment lists; none if they were meant for another process.
    #[must_use]
    pub fn take() -> Self {
        Self(ListenFd::from_env())
    }

    /// No sockets.
    #[must_use]
    pub fn nothing() -> Self {
        Self(ListenFd::empty())
    }

    /// The socket, if systemd passed one.
    ///
    /// # Errors
    /// If there are several, it is not a listening TCP socket, or its address is not `wanted`: two settings
    /// that contradict each other must not be resolved silently.
    pub fn socket(mut self, wanted: Option<SocketAddr>) -> anyhow::Result<Option<TcpListener>> {
        let count = self.0.len();
        if count > 1 {
            bail!(
                "systemd passed {count} sockets\n\
                 hint: use one ListenStream=8080, which accepts IPv4 and IPv6"
            );
        }
        let listener = self.0.take_tcp_listener(0).context(
            "use the socket that systemd passed\nhint: set ListenStream= of orders.socket to \
             a TCP port or address",
        )?;
        let Some(listener) = listener else {
            return Ok(None);
        };
        let address = listener
            .local_addr()
            .context("read the address of the socket that systemd passed")?;
        if let Some(wanted) = wanted
            && !fits(wanted, address)
        {
            bail!(
                "`listen` is {wanted}, but systemd listens on {address}\nhint: leave `listen` out, \
                 or set ListenStream={wanted} by systemctl edit orders.socket"
            );
        }
        // If another process takes the connection first, accept must not block a thread.
        listener
            .set_nonblocking(true)
            .context("make the socket that systemd passed non-blocking")?;
        Ok(Some(listener))
    }
}

/// Connections that wait to be accepted, as many as for the unit's socket; the kernel may have a lower limit
/// (`net.core.somaxconn`). Tokio's default is 1024, that of other libraries 128.
const BACKLOG: u32 = 4096;

/// Binds and listens on `address`.
///
/// # Errors
/// If the address is taken or may not be used.
pub fn bind(address: SocketAddr) -> std::io::Result<tokio::net::TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Otherwise a restart would have to wait for connections in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Whether a socket at `address` satisfies `wanted`; port 0 accepts any port.
fn fits(wanted: SocketAddr, address: SocketAddr) -> bool {
    wanted.ip() == address.ip() && (wanted.port() == 0 || wanted.port() == address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Past the queue's length the kernel drops connections, and clients retry only after a second or more.
    #[tokio::test]
    async fn more_than_128_connections_wait_in_the_queue() {
        let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
        let most: usize = most.trim().parse().unwrap();
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let all = (0..most.min(300)).map(|_| tokio::net::TcpStream::connect(address));
        let all = futures_util::future::try_join_all(all);
        let waiting = tokio::time::timeout(std::time::Duration::from_secs(60), all).await;
        assert_eq!(waiting.expect("all wait").unwrap().len(), most.min(300));
    }

    #[test]
    fn a_socket_at_another_address_is_refused() {
        for (wanted, address, expected) in [
            ("0.0.0.0:8080", "0.0.0.0:8080", true),
            ("[::]:8080", "[::]:8080", true),
            ("127.0.0.1:0", "127.0.0.1:4711", true),
            ("127.0.0.1:8080", "0.0.0.0:8080", false),
            ("0.0.0.0:8080", "[::]:8080", false),
            ("0.0.0.0:8081", "0.0.0.0:8080", false),
        ] {
            let fits = fits(wanted.parse().unwrap(), address.parse().unwrap());
            assert_eq!(fits, expected, "{wanted} {address}");
        }
    }
}
