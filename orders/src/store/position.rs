//! Where a follower of a store's orders stands.
//!
//! Rule: a follower who uses for its next call what the last answer gave it misses no order, on any store,
//! whatever a host's clock did in between; at worst it sees some twice. So a position moves only over what is
//! settled: where no order can come in any more. What is read beyond is read again by the next poll.
//!
//! Ids are made of hosts' clocks, and say nothing of the order in which orders were kept. A store that has a
//! sequence of its own counts by it ([`Position::Numbered`], `numbered.rs`); one that has not, and whose servers
//! take no request from a wrong clock, goes by the time in ids ([`Position::Timed`], `timed.rs`).

use std::fmt;

use crate::order::{Order, OrderId};

/// Where a follower stands. Where `read` is what is settled, a poll begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// Among the numbers that the store gave to its orders as it kept them, from 1 on.
    Numbered {
        /// Up to here every order was read, and none can come in any more.
        settled: u64,
        /// The order of that number, which shows whether the store is still the same; `None` at the beginning.
        last: Option<OrderId>,
        /// Up to here this poll has read.
        read: u64,
    },
    /// Among the times in ids.
    Timed {
        /// Where the next poll begins: no order with an id below this can come in any more.
        settled: OrderId,
        /// Up to here this poll has read the notes of orders that were kept later than their ids say.
        late: OrderId,
        /// Up to here this poll has read the ids.
        read: OrderId,
    },
}

impl Position {
    /// Before the first order of a store that numbers its orders.
    pub(crate) const BEGINNING: Self = Self::Numbered {
        settled: 0,
        last: None,
        read: 0,
    };
}

/// What a follower was shown.
#[derive(Debug, PartialEq)]
pub struct Followed {
    /// Orders, each with the position behind it, from which this poll is read on.
    pub orders: Vec<(Order, Position)>,
    /// Where the next poll begins, when there is nothing more to read now.
    pub end: Option<Position>,
}

/// Why a follower was shown nothing.
#[derive(Debug)]
pub enum FollowError {
    /// The position is not one of this store as it is now, for this reason.
    NotHere(&'static str),
    /// The store did not answer.
    Failed(anyhow::Error),
}

impl FollowError {
    /// The position is one of a store of another kind.
    pub(crate) const OTHER_KIND: Self = Self::NotHere("it is from a store of another kind");
    /// The position is behind the last order, or its order is not there.
    pub(crate) const OTHER_STORE: Self =
        Self::NotHere("it is from another store, or this one was put back to an earlier state");
    /// The position is later than any that could have been given out by now.
    pub(crate) const AHEAD: Self = Self::NotHere("it lies ahead of this host's clock");
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
