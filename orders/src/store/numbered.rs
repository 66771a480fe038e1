//! How stores are followed that number their orders as they keep them. Pure.
//!
//! Rule: a position moves over a number only when no lower one can come in any more. Where one process writes at
//! a time (files, SQLite), numbers come in one by one. On a database server a number is given when the row is
//! inserted and is seen when its transaction is committed, so that a higher one may be seen first: such a gap is
//! waited for until the rows above it are older than any transaction of ours.

use super::position::{FollowError, Followed, Position};
use crate::order::{Order, OrderId};

/// An order with its number.
pub(super) struct Numbered {
    pub(super) number: u64,
    /// Whether every transaction that has a lower number has ended.
    pub(super) closed: bool,
    pub(super) order: Order,
}

/// A position, taken apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    pub(super) settled: u64,
    pub(super) last: Option<OrderId>,
    pub(super) read: u64,
}

impl Reading {
    /// The position, where it is one of such a store.
    pub(super) fn from(position: &Position) -> Result<Self, FollowError> {
        match *position {
            Position::Numbered {
                settled,
                last,
                read,
            } => Ok(Self {
                settled,
                last,
                read,
            }),
            Position::Timed { .. } => Err(FollowError::OTHER_KIND),
        }
    }

    /// Holds it to what the store has: `found` is the first order from the settled number on.
    pub(super) fn check(&self, found: Option<(u64, OrderId)>) -> Result<(), FollowError> {
        match (self.last, found) {
            (None, _) => Ok(()),
            (Some(last), Some((number, id))) if number == self.settled && id == last => Ok(()),
            // The order was deleted, by hand.
            (Some(_), Some((number, _))) if number > self.settled => Ok(()),
            _ => Err(FollowError::OTHER_STORE),
        }
    }

    /// What the follower is shown of `rows`, which are the next after what it has read; `at_end` when there are
    /// no more.
    pub(super) fn show(mut self, rows: Vec<Numbered>, at_end: bool) -> Followed {
        let mut orders = Vec::with_capacity(rows.len());
        for row in rows {
            // Once held, it is held to the end of the poll: what comes into the gap meanwhile is behind the reader.
            if self.read == self.settled && (row.closed || row.number == self.settled + 1) {
                self.settled = row.number;
                self.last = Some(row.order.id);
            }
            self.read = row.number;
            orders.push((row.order, self.position()));
        }
        self.read = self.settled;
        Followed {
            orders,
            end: at_end.then(|| self.position()),
        }
    }

    fn position(&self) -> Position {
        Position::Numbered {
            settled: self.settled,
            last: self.last,
            read: self.read,
        }
    }
}
