//! The caller's network address, by which callers are rate limited.
//!
//! Rule: trust only the part of `X-Forwarded-For` that our own proxies wrote. Each appends the address it was
//! called from; with `forwarded_hops = n` trusted proxies, the caller is the n-th entry from the right.
//! Earlier entries were sent by the caller.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::http::request::Parts;

/// The peer address of a connection, stored in a request's extensions.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// A caller as rate limits distinguish them: an IPv4 address, or the /64 network of an IPv6 address, since
/// every host has a whole /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Caller(IpAddr);

impl Caller {
    /// The caller of a request that came through `hops` trusted proxies; `None` if the connection's peer is
    /// not known. A request that did not pass all of them is attributed to its peer.
    #[must_use]
    pub fn of(parts: &Parts, hops: usize) -> Option<Self> {
        let peer = parts.extensions.get::<Peer>().map(|Peer(address)| *address);
        let forwarded = hops.checked_sub(1).and_then(|nth| {
            let lines = parts.headers.get_all("x-forwarded-for").iter();
            let text: Vec<&str> = lines.filter_map(|line| line.to_str().ok()).collect();
            address(text.join(",").rsplit(',').nth(nth)?.trim())
        });
        forwarded.or(peer).map(Self::from)
    }
}

impl From<IpAddr> for Caller {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() >> 64 << 64;
                IpAddr::V6(Ipv6Addr::from_bits(network))
            }
            address => address,
        })
    }
}

/// Parses an address as proxies write it, with or without a port.
fn address(text: &str) -> Option<IpAddr> {
    text.parse()
        .ok()
        .or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))
        .or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn caller(peer: &str, forwarded: &[&str], hops: usize) -> Caller {
        let mut request = Request::builder();
        for line in forwarded {
            request = request.header("x-forwarded-for", *line);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        parts.extensions.insert(Peer(peer.parse().unwrap()));
        Caller::of(&parts, hops).unwrap()
    }

    #[test]
    fn only_entries_of_our_own_proxies_are_trusted() {
        let is = |text: &str| Caller::from(text.parse::<IpAddr>().unwrap());
        let table: [(&[&str], usize, &str); 12] = [
            (&[], 0, "10.0.0.1"),
            (&["198.51.100.7"], 0, "10.0.0.1"),
            (&["198.51.100.7"], 1, "198.51.100.7"),
            // Earlier entries were sent by the caller.
            (&["1.1.1.1, 198.51.100.7"], 1, "198.51.100.7"),
            (&["1.1.1.1", "198.51.100.7"], 1, "198.51.100.7"),
            (&["1.1.1.1, 198.51.100.7, 203.0.113.9"], 2, "198.51.100.7"),
            (&["198.51.100.7:4711"], 1, "198.51.100.7"),
            (&["[2001:db8::1]:4711"], 1, "2001:db8::"),
            (&["2001:db8::ffff:1"], 1, "2001:db8::"),
            (&["::ffff:198.51.100.7"], 1, "198.51.100.7"),
            // Not through the proxies, or not an address: the connection's peer.
            (&["198.51.100.7"], 2, "10.0.0.1"),
            (&["unknown"], 1, "10.0.0.1"),
        ];
        for (forwarded, hops, expected) in table {
            let found = caller("10.0.0.1", forwarded, hops);
            assert_eq!(found, is(expected), "{forwarded:?} {hops}");
        }
        assert_ne!(is("2001:db8:0:1::1"), is("2001:db8:0:2::1"));
    }
}
