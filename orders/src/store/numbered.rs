//! Following a store that numbers its orders. Pure.
//!
//! Rule: a position moves past a number only if no lower one can still appear. If one process writes at a
//! time (files, SQLite), numbers appear in sequence. A database server assigns a number when the row is
//! inserted, but the row is visible only after commit, so that a higher number may be seen first: a follower
//! waits at such a gap until the rows above it are older than any transaction.

use super::position::{FollowError, Followed, Position};
use crate::order::{Order, OrderId};

/// An order with its number.
pub(super) struct Numbered {
    pub(super) number: u64,
    /// Whether every transaction with a lower number has ended.
    pub(super) closed: bool,
    pub(super) order: Order,
}

/// A poll at a [`Position::Numbered`].
#[derive(Debug, Clone, Copy)]
pub(super) struct NumberedPoll {
    pub(super) settled: u64,
    pub(super) last: Option<OrderId>,
    pub(super) read: u64,
}

impl NumberedPoll {
    /// The poll at `position`, if it belongs to a numbered store.
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

    /// Compares the position with the store: `found` is the first order from the settled number on.
    pub(super) fn check(&self, found: Option<(u64, OrderId)>) -> Result<(), FollowError> {
        match (self.last, found) {
            (None, _) => Ok(()),
            (Some(last), Some((number, id))) if number == self.settled && id == last => Ok(()),
            // The order was deleted by hand.
            (Some(_), Some((number, _))) if number > self.settled => Ok(()),
            _ => Err(FollowError::OTHER_STORE),
        }
    }

    /// The result for `rows`, the next ones after the position; `at_end` if there are no more.
    pub(super) fn show(mut self, rows: Vec<Numbered>, at_end: bool) -> Followed {
        let mut orders = Vec::with_capacity(rows.len());
        for row in rows {
            // After a gap the settled number stays for the rest of the poll: what fills the gap meanwhile is
            // behind the reader.
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
