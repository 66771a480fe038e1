//! Why the metadata service cannot be reached, where the error alone does not lead to the fix.

use std::error::Error;
use std::fmt;
use std::io;

use aws_config::imds::client::error::ImdsError;
use rustix::io::Errno;

/// A cause that waiting does not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreachable {
    /// A prohibit route: what systemd-imdsd sets up when it locks the metadata service. See systemd-imdsd@.service(8) and
    /// ip-route(8): "local senders get an EACCES error".
    Locked,
    /// A rule of the firewall, or `IPAddressDeny=` of the unit.
    Forbidden,
    /// The connection is made, and the token does not arrive: its packets may go fewer hops than the way has.
    TokenLost,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked => f.write_str(
                "the metadata service is locked by systemd-imdsd or another prohibit route: boot with \
                 systemd.imds.network=unlocked (imds_network = \"unlocked\" in [image])",
            ),
            Self::Forbidden => f.write_str(
                "the metadata service is forbidden here: see IPAddressDeny= of the unit, and the host's firewall",
            ),
            Self::TokenLost => f.write_str(
                "the metadata service accepts the connection, and its token does not arrive: in a container, or behind \
                 another hop, HttpPutResponseHopLimit must be 2 or more (imds_hops = 2 in [image])",
            ),
        }
    }
}

impl Unreachable {
    /// The cause of a failed request, if it is one of these.
    pub(super) fn of(error: &ImdsError) -> Option<Self> {
        let token = matches!(error, ImdsError::FailedToLoadToken(_));
        Self::of_chain(error, token)
    }

    fn of_chain(error: &(dyn Error + 'static), token: bool) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            let system = error.downcast_ref::<io::Error>();
            match system
                .and_then(io::Error::raw_os_error)
                .map(Errno::from_raw_os_error)
            {
                Some(Errno::ACCESS) => return Some(Self::Locked),
                Some(Errno::PERM) => return Some(Self::Forbidden),
                _ => {}
            }
            // The client has no public error type for this case.
            if token && error.to_string().contains("read timeout occurred") {
                return Some(Self::TokenLost);
            }
            let inner = system.and_then(io::Error::get_ref);
            next = match inner {
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_that_waiting_does_not_end_are_recognised() {
        let system = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        let timeout = || io::Error::other("HTTP read timeout occurred after 1s");
        for (error, token, expected) in [
            (system(Errno::ACCESS), true, Some(Unreachable::Locked)),
            (
                io::Error::other(system(Errno::ACCESS)),
                false,
                Some(Unreachable::Locked),
            ),
            (
                io::Error::other(system(Errno::PERM)),
                true,
                Some(Unreachable::Forbidden),
            ),
            (system(Errno::CONNREFUSED), true, None),
            (system(Errno::NETUNREACH), true, None),
            (
                io::Error::other(timeout()),
                true,
                Some(Unreachable::TokenLost),
            ),
            (timeout(), false, None),
            (
                io::Error::other("HTTP connect timeout occurred after 1s"),
                true,
                None,
            ),
        ] {
            assert_eq!(Unreachable::of_chain(&error, token), expected, "{error:?}");
        }
    }
}
