//! A store in memory, for tests of the code above the store. Passes the contract suite, so that tests with it
//! hold for the other stores too.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::numbered::{Numbered, NumberedPoll};
use super::{Claim, CreateError, Entry, FollowError, Followed, Kept, Position, Store};
use crate::candidates::{Candidates, Names, PAGE};
use crate::order::{Order, OrderId};

/// An in-memory store; a clone shares the data, like the same store opened again.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryStore(Arc<Mutex<Contents>>);

#[derive(Debug, Default)]
struct Contents {
    orders: BTreeMap<OrderId, Order>,
    /// In the order in which they were stored.
    sequence: Vec<OrderId>,
    claims: HashMap<[u8; 32], (Claim, OrderId)>,
    notices: BTreeSet<OrderId>,
    candidates: BTreeSet<String>,
}

impl MemoryStore {
    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn create(&self, entry: &Entry) -> Result<Kept, CreateError> {
        let mut contents = self.contents();
        let id = entry.order.id;
        if let Some(claim) = entry.claim
            && let Some((earlier, first)) = contents.claims.get(&claim.key)
        {
            return if earlier.fingerprint == claim.fingerprint {
                Ok(Kept::Before(*first))
            } else {
                Err(CreateError::KeyReused)
            };
        }
        match contents.orders.get(&id) {
            Some(there) if *there == entry.order => return Ok(Kept::Now),
            Some(_) => return Err(CreateError::Exists),
            None => contents.orders.insert(id, entry.order.clone()),
        };
        contents.sequence.push(id);
        if let Some(claim) = entry.claim {
            contents.claims.insert(claim.key, (claim, id));
        }
        if entry.notice {
            contents.notices.insert(id);
        }
        Ok(Kept::Now)
    }

    async fn get(&self, id: OrderId) -> anyhow::Result<Option<Order>> {
        Ok(self.contents().orders.get(&id).cloned())
    }

    async fn list(&self, after: OrderId, limit: usize) -> anyhow::Result<Vec<Order>> {
        let contents = self.contents();
        let later = contents
            .orders
            .range((Bound::Excluded(after), Bound::Unbounded));
        Ok(later.take(limit).map(|(_, order)| order.clone()).collect())
    }

    async fn end(&self) -> anyhow::Result<Position> {
        let contents = self.contents();
        let settled = contents.sequence.len() as u64;
        Ok(Position::Numbered {
            settled,
            last: contents.sequence.last().copied(),
            read: settled,
        })
    }

    async fn follow(&self, from: &Position, limit: usize) -> Result<Followed, FollowError> {
        let contents = self.contents();
        let poll = NumberedPoll::from(from)?;
        let at = |number: u64| {
            let index = usize::try_from(number).unwrap().checked_sub(1)?;
            contents.sequence.get(index).copied()
        };
        poll.check(at(poll.settled).map(|id| (poll.settled, id)))?;
        let rows: Vec<Numbered> = (poll.read + 1..)
            .map_while(|number| Some((number, at(number)?)))
            .take(limit)
            .map(|(number, id)| Numbered {
                number,
                closed: true,
                order: contents.orders[&id].clone(),
            })
            .collect();
        let at_end = rows.len() < limit;
        Ok(poll.show(rows, at_end))
    }

    async fn probe(&self) -> anyhow::Result<()> {
        Ok(())
    }

    async fn notices(&self, limit: usize) -> anyhow::Result<Vec<OrderId>> {
        Ok(self
            .contents()
            .notices
            .iter()
            .take(limit)
            .copied()
            .collect())
    }

    async fn settle_notice(&self, id: OrderId) -> anyhow::Result<()> {
        self.contents().notices.remove(&id);
        Ok(())
    }

    fn candidates(&self) -> Option<Arc<dyn Candidates>> {
        Some(Arc::new(self.clone()))
    }
}

#[async_trait]
impl Candidates for MemoryStore {
    async fn put(&self, name: &str) -> anyhow::Result<()> {
        self.contents().candidates.insert(name.to_owned());
        Ok(())
    }

    async fn has(&self, name: &str) -> anyhow::Result<bool> {
        Ok(self.contents().candidates.contains(name))
    }

    async fn page(&self, after: Option<&str>) -> anyhow::Result<Names> {
        let after = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.to_owned()));
        let contents = self.contents();
        let names = contents.candidates.range((after, Bound::Unbounded));
        Ok(Names::cut(names.take(PAGE + 1).cloned().collect()))
    }
}

mod tests {
    use proptest::prelude::*;

    use super::super::contract::{self, Clocks};
    use super::*;

    #[tokio::test]
    async fn keeps_the_contract() {
        let store = MemoryStore::default();
        let open = || -> Box<dyn Store> { Box::new(store.clone()) };
        contract::holds(&open).await;
        contract::keeps_claims(&open).await;
        contract::lists_in_order(&open).await;
        contract::is_followed(&|_| open(), Clocks::Wild, true).await;
        contract::refuses_what_is_ahead(&open).await;
        let store = MemoryStore::default();
        let open = || -> Box<dyn Store> { Box::new(store.clone()) };
        contract::gives_out_notices(&open).await;
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_follower_misses_none_whatever_happens(happenings in contract::happenings()) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let store = MemoryStore::default();
            let open = |_: &_| -> Box<dyn Store> { Box::new(store.clone()) };
            runtime.block_on(contract::is_followed_through(&open, Clocks::Wild, true, &happenings));
        }
    }
}
