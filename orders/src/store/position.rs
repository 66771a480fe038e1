//! The position of a follower in a store's orders.
//!
//! Rule: a follower that passes on the position of the last response misses no order, on any store, whatever
//! a host's clock did in between; at worst it sees some twice. So a position moves only past orders that are
//! settled: where no order can still appear. Orders beyond that are returned again by the next poll.
//!
//! Ids come from hosts' clocks and do not show the order in which orders were stored. A store with its own
//! sequence uses it ([`Position::Numbered`], `numbered.rs`); one without, whose servers refuse requests from
//! a wrong clock, uses the time in ids ([`Position::Timed`], `timed.rs`).

use std::fmt;

use crate::order::{Order, OrderId};

/// A follower's position. A poll begins where `read` equals `settled`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// In a store that numbers its orders from 1 on.
    Numbered {
        /// Every order up to this number was read, and none can still appear.
        settled: u64,
        /// The order with that number, which shows whether the store is the same; `None` at the beginning.
        last: Option<OrderId>,
        /// How far the current poll has read.
        read: u64,
    },
    /// In a store that uses the time in ids.
    Timed {
        /// Where the next poll begins: no order with an id below this can still appear.
        settled: OrderId,
        /// How far this poll has read the notes of orders that were stored late.
        late: OrderId,
        /// How far this poll has read the ids.
        read: OrderId,
    },
}

impl Position {
    /// Before the first order of a numbered store.
    pub(crate) const BEGINNING: Self = Self::Numbered {
        settled: 0,
        last: None,
        read: 0,
    };
}

/// A page of followed orders.
#[derive(Debug, PartialEq)]
pub struct Followed {
    /// Orders, each with the position after it, from which this poll continues.
    pub orders: Vec<(Order, Position)>,
    /// Where the next poll begins, if there is nothing more to read now.
    pub end: Option<Position>,
}

/// Why following failed.
#[derive(Debug)]
pub enum FollowError {
    /// The position is not valid for this store, for this reason.
    NotHere(&'static str),
    /// The store failed.
    Failed(anyhow::Error),
}

impl FollowError {
    /// The position belongs to another kind of store.
    pub(crate) const OTHER_KIND: Self = Self::NotHere("it is from a store of another kind");
    /// The position is past the last order, or its order is missing.
    pub(crate) const OTHER_STORE: Self =
        Self::NotHere("it is from another store, or this one was put back to an earlier state");
    /// The position is in the future.
    pub(crate) const AHEAD: Self = Self::NotHere("it is ahead of this host's clock");
}

impl fmt::Display for FollowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotHere(reason) => f.write_str(reason),
            Self::Failed(error) => write!(f, "{error:#}"),
        }
    }
}

impl std::error::Error for FollowError {}

impl From<anyhow::Error> for FollowError {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}
