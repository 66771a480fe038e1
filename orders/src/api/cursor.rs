//! Cursors of the list of orders: `next` and `follow`. Pure.
//!
//! A cursor is opaque to clients, needs no escaping in a URL, and cannot be mistaken for an id or a time. A
//! checksum detects damaged ones, which would otherwise skip orders.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use crate::order::OrderId;
use crate::store::Position;

/// Prefix of every cursor.
pub(super) const PREFIX: &str = "cursor_";
/// Bytes of checksum.
const SUM: usize = 4;

/// Where a list continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cursor {
    /// By ids, above `after`; then by the store's sequence, from where it was when the list began.
    ById {
        /// The last id on the page before.
        after: OrderId,
        /// Where following the sequence begins.
        then: Position,
    },
    /// By the store's sequence.
    Follow(Position),
}

impl Cursor {
    /// The cursor's text.
    pub(super) fn text(&self) -> String {
        let mut bytes = Vec::with_capacity(80);
        let position = match self {
            Self::ById { after, then } => {
                bytes.push(b'w');
                bytes.extend(after.as_bytes());
                then
            }
            Self::Follow(position) => {
                bytes.push(b'f');
                position
            }
        };
        match position {
            Position::Numbered {
                settled,
                last,
                read,
            } => {
                bytes.push(b'n');
                bytes.extend(settled.to_be_bytes());
                bytes.extend(read.to_be_bytes());
                bytes.extend(last.iter().flat_map(OrderId::as_bytes));
            }
            Position::Timed {
                settled,
                late,
                read,
            } => {
                bytes.push(b't');
                bytes.extend(
                    [settled, late, read]
                        .into_iter()
                        .flat_map(OrderId::as_bytes),
                );
            }
        }
        let sum = Sha256::digest(&bytes);
        bytes.extend(&sum[..SUM]);
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Parses a cursor. Accepts only text that [`Cursor::text`] produced.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX)?).ok()?;
        let (bytes, sum) = bytes.split_last_chunk::<SUM>()?;
        if Sha256::digest(bytes)[..SUM] != *sum {
            return None;
        }
        let (kind, rest) = bytes.split_first()?;
        match kind {
            b'w' => {
                let (after, rest) = rest.split_first_chunk()?;
                Some(Self::ById {
                    after: OrderId::from_bytes(*after),
                    then: position(rest)?,
                })
            }
            b'f' => position(rest).map(Self::Follow),
            _ => None,
        }
    }
}

fn position(bytes: &[u8]) -> Option<Position> {
    let (kind, rest) = bytes.split_first()?;
    match kind {
        b'n' => {
            let (settled, rest) = rest.split_first_chunk()?;
            let (read, rest) = rest.split_first_chunk()?;
            let last = match rest {
                [] => None,
                id => Some(OrderId::from_bytes(id.try_into().ok()?)),
            };
            Some(Position::Numbered {
                settled: u64::from_be_bytes(*settled),
                last,
                read: u64::from_be_bytes(*read),
            })
        }
        b't' => {
            let (settled, rest) = rest.split_first_chunk()?;
            let (late, rest) = rest.split_first_chunk()?;
            Some(Position::Timed {
                settled: OrderId::from_bytes(*settled),
                late: OrderId::from_bytes(*late),
                read: OrderId::from_bytes(rest.try_into().ok()?),
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids() -> impl Strategy<Value = OrderId> {
        any::<[u8; 16]>().prop_map(OrderId::from_bytes)
    }

    fn positions() -> impl Strategy<Value = Position> {
        let numbered = (any::<u64>(), proptest::option::of(ids()), any::<u64>());
        let numbered = numbered.prop_map(|(settled, last, read)| Position::Numbered {
            settled,
            last,
            read,
        });
        let timed = (ids(), ids(), ids()).prop_map(|(settled, late, read)| Position::Timed {
            settled,
            late,
            read,
        });
        prop_oneof![numbered, timed]
    }

    fn cursors() -> impl Strategy<Value = Cursor> {
        let walk = (ids(), positions()).prop_map(|(after, then)| Cursor::ById { after, then });
        prop_oneof![walk, positions().prop_map(Cursor::Follow)]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_cursor_round_trips_and_is_neither_id_nor_time(cursor in cursors()) {
            let text = cursor.text();
            prop_assert_eq!(Cursor::parse(&text), Some(cursor));
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
            prop_assert!(text.parse::<OrderId>().is_err());
            prop_assert!(text.parse::<jiff::Timestamp>().is_err());
        }

        #[test]
        fn a_damaged_cursor_is_refused(cursor in cursors(), at in any::<proptest::sample::Index>(), to in "[A-Za-z0-9_-]") {
            let text = cursor.text();
            let at = at.index(text.len());
            let changed = format!("{}{to}{}", &text[..at], &text[at + 1..]);
            if changed != text {
                prop_assert_eq!(Cursor::parse(&changed), None);
            }
            prop_assert_eq!(Cursor::parse(&text[..at]), None);
            let longer = format!("{text}{to}");
            prop_assert_eq!(Cursor::parse(&longer), None);
        }
    }
}
