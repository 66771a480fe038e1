//! Who calls, by address: what limits per caller go by.
//!
//! Rule: of what a client sends about its address only that is believed which our own proxies wrote. Each
//! appends the address that it was called from to `X-Forwarded-For`; with `forwarded_hops = n` trusted
//! proxies the caller is the n-th entry from the right, and what stands before it is the caller's own word.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::http::request::Parts;

/// The address of a connection's other side, among a request's extensions.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// A caller, as far as limits tell callers apart: an address of version 4, or the 64 bits of a network of
/// version 6, of which everybody has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Caller(IpAddr);

impl Caller {
    /// The caller of a request that came through `hops` trusted proxies; `None` when the connection's other
    /// side is not known. A request that did not come through all of them is its sender's.
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

/// An address as proxies write it, some with the port.
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
    fn only_what_our_own_proxies_wrote_is_believed() {
        let is = |text: &str| Caller::from(text.parse::<IpAddr>().unwrap());
        let table: [(&[&str], usize, &str); 12] = [
            (&[], 0, "10.0.0.1"),
            (&["198.51.100.7"], 0, "10.0.0.1"),
            (&["198.51.100.7"], 1, "198.51.100.7"),
            // What stands before was sent by the caller.
            (&["1.1.1.1, 198.51.100.7"], 1, "198.51.100.7"),
            (&["1.1.1.1", "198.51.100.7"], 1, "198.51.100.7"),
            (&["1.1.1.1, 198.51.100.7, 203.0.113.9"], 2, "198.51.100.7"),
            (&["198.51.100.7:4711"], 1, "198.51.100.7"),
            (&["[2001:db8::1]:4711"], 1, "2001:db8::"),
            (&["2001:db8::ffff:1"], 1, "2001:db8::"),
            (&["::ffff:198.51.100.7"], 1, "198.51.100.7"),
            // Not through the proxies, or nonsense: the connection's other side.
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
