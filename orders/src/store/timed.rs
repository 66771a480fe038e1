//! How stores are followed that have no sequence but the time in ids: S3 and DynamoDB. Pure.
//!
//! Rule: an order is found by the time at which it was kept, within [`HORIZON`]. AWS takes no request from a host
//! whose clock is off by more than [`SKEW`], and what is about to be written is refused unless its id was made just
//! now by that clock ([`is_current`]); what is written later than its id says gets a note under the time at which it
//! was. So an order whose id is older than the horizon cannot come in any more, and only up to there a position
//! moves: the last minutes are shown again.

use jiff::{SignedDuration, Timestamp};

use super::position::{FollowError, Followed, Position};
use crate::order::{Order, OrderId};

/// How far a host's clock may be from AWS's, in either direction. S3 answers `RequestTimeTooSkewed` from there on,
/// with `MaxAllowedSkewMilliseconds` 900000; other services, DynamoDB among them, refuse from 5 minutes on.
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html>
const SKEW: SignedDuration = SignedDuration::from_mins(15);
/// How long before it is written an id may have been made: an order is given up after 15 s.
const CURRENT: SignedDuration = SignedDuration::from_mins(1);
/// A write that was sent in time and is taken late: tries take 4 s, and end after 12 s.
const ON_THE_WAY: SignedDuration = SignedDuration::from_mins(4);
/// Ids made longer ago than this, by the reader's clock, can come in no more: the writer's clock may be behind, the
/// reader's ahead.
pub(super) const HORIZON: SignedDuration =
    SignedDuration::from_secs(2 * SKEW.as_secs() + CURRENT.as_secs() + ON_THE_WAY.as_secs());

/// Whether an id was made just now by the clock that says `now`. An id that was not, is not to be written under: the
/// clock was wrong when it was made, or has been set since.
pub(super) fn is_current(id: OrderId, now: Timestamp) -> bool {
    now.duration_since(id.time()).abs() <= CURRENT
}

/// Refuses to write under an id that was not made just now.
///
/// # Errors
/// That, of an order of which nothing has been written by this call.
pub(super) fn check(id: OrderId, now: Timestamp) -> anyhow::Result<()> {
    anyhow::ensure!(
        is_current(id, now),
        "the order's id was made at {}, and now it is {now}: this host's clock was wrong, or was set just now",
        id.time()
    );
    Ok(())
}

/// Up to where no order can come in any more.
fn horizon(now: Timestamp) -> OrderId {
    OrderId::floor(now.checked_sub(HORIZON).unwrap_or(Timestamp::MIN))
}

/// Where a follower begins that has just read everything.
pub(super) fn end(now: Timestamp) -> Position {
    let settled = horizon(now);
    Position::Timed {
        settled,
        late: settled,
        read: settled,
    }
}

/// A poll under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Poll {
    settled: OrderId,
    /// After this one the notes are to be read.
    pub(super) late: OrderId,
    /// After this id the orders are to be read.
    pub(super) read: OrderId,
}

impl Poll {
    /// The poll that begins or goes on at `position`, by a clock that says `now`.
    pub(super) fn at(position: &Position, now: Timestamp) -> Result<Self, FollowError> {
        let Position::Timed {
            mut settled,
            late,
            read,
        } = *position
        else {
            return Err(FollowError::OTHER_KIND);
        };
        // It was the horizon of a host, or an id below it: with clocks that AWS takes it is in the past here.
        if settled > OrderId::floor(now) {
            return Err(FollowError::AHEAD);
        }
        if settled == late && settled == read {
            // What comes in while its pages are read may be older than the horizon of the last of them.
            settled = settled.max(horizon(now));
        }
        Ok(Self {
            settled,
            late,
            read,
        })
    }

    /// What it shows: `noted`, the orders that notes led to, then `listed`, those found by their ids; `at_end` when there are no more.
    pub(super) fn show(
        mut self,
        noted: Vec<(Order, Position)>,
        listed: Vec<Order>,
        at_end: bool,
    ) -> Followed {
        let mut orders = noted;
        for order in listed {
            self.read = order.id;
            orders.push((order, self.position()));
        }
        Followed {
            orders,
            end: at_end.then(|| self.end()),
        }
    }

    /// Where this poll is read on.
    pub(super) fn position(&self) -> Position {
        Position::Timed {
            settled: self.settled,
            late: self.late,
            read: self.read,
        }
    }

    /// Where the next poll begins: never beyond what was read, so that a reader's clock alone moves nothing.
    pub(super) fn end(&self) -> Position {
        let settled = self.settled.min(self.read.max(self.late));
        Position::Timed {
            settled,
            late: settled,
            read: settled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_moves_up_to_the_horizon_and_no_further() {
        let now = Timestamp::now();
        let at = |minutes: i64| OrderId::at(now + SignedDuration::from_mins(minutes));
        let began = end(now);
        let mut poll = Poll::at(&began, now).unwrap();
        assert_eq!(poll.end(), began, "nothing read, nothing moved");
        // What is fresh is read and not moved over.
        poll.read = at(-1);
        let later = now + SignedDuration::from_mins(10);
        assert_eq!(Poll::at(&poll.position(), later).unwrap().end(), began);
        // A later poll moves on: up to its own horizon, or up to what there is.
        let mut poll = Poll::at(&began, now + SignedDuration::from_mins(20)).unwrap();
        let (old, fresh) = (at(-30), at(19));
        poll.read = old;
        let settled = |position: Position| match position {
            Position::Timed {
                settled,
                late,
                read,
            } => {
                assert_eq!((late, read), (settled, settled));
                settled
            }
            Position::Numbered { .. } => panic!("{position:?}"),
        };
        assert_eq!(settled(poll.end()), old);
        poll.read = fresh;
        assert_eq!(
            settled(poll.end()),
            OrderId::floor(now - SignedDuration::from_mins(15))
        );
    }

    #[test]
    fn what_no_clock_can_have_given_out_is_refused() {
        let now = Timestamp::now();
        let ahead = end(now + SignedDuration::from_hours(400 * 24));
        let refused = Poll::at(&ahead, now).unwrap_err().to_string();
        assert_eq!(refused, "it lies ahead of this host's clock");
        assert!(Poll::at(&Position::BEGINNING, now).is_err());
        // The clocks of who gave it out and of who reads it, as far apart as can be.
        let ahead = end(now + SKEW);
        assert!(Poll::at(&ahead, now - SKEW).is_ok());
    }
}
