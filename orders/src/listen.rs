//! Where connections come from: a socket that systemd hands over, else one bound here.
//!
//! Owns the decision which of the two, and what is refused. A socket that systemd keeps outlives
//! the process: while the service restarts, connections wait in its queue instead of being refused.

use std::net::{SocketAddr, TcpListener};

use anyhow::{Context, bail};
use listenfd::ListenFd;
use tokio::net::TcpSocket;

/// Where the service listens when nobody says otherwise.
pub const DEFAULT: &str = "0.0.0.0:8080";

/// What systemd handed over, taken out of the environment.
///
/// To be taken while the process has one thread only: it changes the environment, so that no child
/// mistakes our socket for its own.
pub struct Handed(ListenFd);

impl std::fmt::Debug for Handed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Handed({})", self.0.len())
    }
}

impl Handed {
    /// What the environment says was handed over; nothing when it was another process.
    #[must_use]
    pub fn take() -> Self {
        Self(ListenFd::from_env())
    }

    /// Nothing.
    #[must_use]
    pub fn nothing() -> Self {
        Self(ListenFd::empty())
    }

    /// The socket, if there is one.
    ///
    /// # Errors
    /// When there are several, it is none that TCP connections come from, or `wanted` is an
    /// address it is not at: what was asked for in one place must not be undone by another.
    pub fn socket(mut self, wanted: Option<SocketAddr>) -> anyhow::Result<Option<TcpListener>> {
        let count = self.0.len();
        if count > 1 {
            bail!(
                "systemd handed over {count} sockets; \
                 hint: one ListenStream=8080 takes IPv4 and IPv6"
            );
        }
        let listener = self.0.take_tcp_listener(0).context(
            "take the socket that systemd handed over; hint: ListenStream= of orders.socket must \
             be a TCP port or address",
        )?;
        let Some(listener) = listener else {
            return Ok(None);
        };
        let address = listener
            .local_addr()
            .context("ask for the address of the socket that systemd handed over")?;
        if let Some(wanted) = wanted
            && !fits(wanted, address)
        {
            bail!(
                "`listen` is {wanted}, but systemd listens on {address}; hint: leave `listen` out, \
                 or set ListenStream={wanted} by systemctl edit orders.socket"
            );
        }
        // A socket whose queue is empty when we accept must not stop a thread.
        listener
            .set_nonblocking(true)
            .context("make the socket that systemd handed over non-blocking")?;
        Ok(Some(listener))
    }
}

/// Connections that wait to be accepted, as many as the unit's socket has; the kernel may have a lower limit
/// (`net.core.somaxconn`). Tokio's own default is 1024, and that of other libraries 128.
const BACKLOG: u32 = 4096;

/// A socket of our own at `address`.
///
/// # Errors
/// When the address is taken or not ours to take.
pub fn bind(address: SocketAddr) -> std::io::Result<tokio::net::TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Else a restart would have to wait for connections that are closing.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Whether a socket at `address` is what `wanted` asks for; port 0 asks for any.
fn fits(wanted: SocketAddr, address: SocketAddr) -> bool {
    wanted.ip() == address.ip() && (wanted.port() == 0 || wanted.port() == address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Beyond its length the kernel answers nobody, and who connects tries again after a second, and longer.
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
    fn a_socket_is_where_it_was_wanted_or_it_is_not_taken() {
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
