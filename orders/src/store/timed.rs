//! Following a store whose only sequence is the time in ids: S3 and DynamoDB. Pure.
//!
//! Rule: an order appears within [`HORIZON`] of the time in its id. AWS refuses requests from a host whose
//! clock is off by more than [`SKEW`], and an order is stored only if its id was made just now by that clock
//! ([`is_current`]); an order stored later than that gets a note with the time at which it was. So no order
//! with an id older than the horizon can still appear, and positions move only up to there: the last minutes
//! are returned again.

use jiff::{SignedDuration, Timestamp};

use super::position::{FollowError, Followed, Position};
use crate::order::{Order, OrderId};

/// How far a host's clock may be from AWS's, in either direction. Past it S3 responds `RequestTimeTooSkewed`,
/// with `MaxAllowedSkewMilliseconds` 900000; other services, including DynamoDB, allow 5 minutes.
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html>
const SKEW: SignedDuration = SignedDuration::from_mins(15);
/// How old an id may be when it is written: the service gives up an order after 15 s.
const CURRENT: SignedDuration = SignedDuration::from_mins(1);
/// Delay of a write that was sent in time: attempts take 4 s, and end after 12 s.
const ON_THE_WAY: SignedDuration = SignedDuration::from_mins(4);
/// No order with an id older than this by the reader's clock can still appear: the writer's clock may be
/// behind, the reader's ahead.
pub(super) const HORIZON: SignedDuration =
    SignedDuration::from_secs(2 * SKEW.as_secs() + CURRENT.as_secs() + ON_THE_WAY.as_secs());

/// Whether an id was made just now by the clock that shows `now`. Otherwise it must not be used: the clock
/// was wrong when the id was made, or has been set since.
pub(super) fn is_current(id: OrderId, now: Timestamp) -> bool {
    now.duration_since(id.time()).abs() <= CURRENT
}

/// Refuses an id that was not made just now.
///
/// # Errors
/// If so; nothing has been written then.
pub(super) fn check(id: OrderId, now: Timestamp) -> anyhow::Result<()> {
    anyhow::ensure!(
        is_current(id, now),
        "the order's id was made at {}, but the time is {now}: this host's clock was wrong, or was set just now",
        id.time()
    );
    Ok(())
}

/// No order with an id below this can still appear.
fn horizon(now: Timestamp) -> OrderId {
    OrderId::floor(now.checked_sub(HORIZON).unwrap_or(Timestamp::MIN))
}

/// The position of a follower that has just read everything.
pub(super) fn end(now: Timestamp) -> Position {
    let settled = horizon(now);
    Position::Timed {
        settled,
        late: settled,
        read: settled,
    }
}

/// A poll in progress.
#[derive(Debug, Clone, Copy)]
pub(super) struct Poll {
    settled: OrderId,
    /// Notes after this one are still to be read.
    pub(super) late: OrderId,
    /// Orders after this id are still to be read.
    pub(super) read: OrderId,
}

impl Poll {
    /// The poll that begins or continues at `position`, by a clock that shows `now`.
    pub(super) fn at(position: &Position, now: Timestamp) -> Result<Self, FollowError> {
        let Position::Timed {
            mut settled,
            late,
            read,
        } = *position
        else {
            return Err(FollowError::OTHER_KIND);
        };
        // It was a host's horizon or an id below it, which is in the past for every clock that AWS accepts.
        if settled > OrderId::floor(now) {
            return Err(FollowError::AHEAD);
        }
        if settled == late && settled == read {
            // Orders that arrive while pages are read may be older than the horizon of the last page.
            settled = settled.max(horizon(now));
        }
        Ok(Self {
            settled,
            late,
            read,
        })
    }

    /// The result: `noted`, the orders found by notes, then `listed`, those found by id; `at_end` if there
    /// are no more.
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

    /// Where this poll continues.
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
    fn a_position_moves_up_to_the_horizon_only() {
        let now = Timestamp::now();
        let at = |minutes: i64| OrderId::at(now + SignedDuration::from_mins(minutes));
        let began = end(now);
        let mut poll = Poll::at(&began, now).unwrap();
        assert_eq!(poll.end(), began, "nothing read, nothing moved");
        // Recent orders are read, but the position does not move past them.
        poll.read = at(-1);
        let later = now + SignedDuration::from_mins(10);
        assert_eq!(Poll::at(&poll.position(), later).unwrap().end(), began);
        // A later poll moves on: up to its own horizon, or up to the last order.
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
    fn a_position_that_no_clock_allows_is_refused() {
        let now = Timestamp::now();
        let ahead = end(now + SignedDuration::from_hours(400 * 24));
        let refused = Poll::at(&ahead, now).unwrap_err().to_string();
        assert_eq!(refused, "it is ahead of this host's clock");
        assert!(Poll::at(&Position::BEGINNING, now).is_err());
        // The writer's and the reader's clocks as far apart as possible.
        let ahead = end(now + SKEW);
        assert!(Poll::at(&ahead, now - SKEW).is_ok());
    }
}
