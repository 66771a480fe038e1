//! The file store: one database, `orders.redb`, in one folder.
//!
//! Callers serialise their order, send it to the single writer thread (`writer.rs`) and wait; the writer
//! makes many orders durable with one fsync. Reads see a snapshot and never wait for the writer. Tables,
//! opening, checking and repairing are in `database.rs`.

mod database;
mod disk;
mod panics;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use anyhow::{Context, anyhow};
use async_trait::async_trait;
use tokio::sync::{Semaphore, oneshot};

use super::{CreateError, Entry, FollowError, Followed, Kept, Position, Store};
use crate::candidates::{Candidates, Names};
use crate::order::{Order, OrderId};

use database::{Database, DatabaseHandle};
use writer::{Change, Failed, Job, Outcome};

/// Orders that may wait for the writer: more than the service processes at once. Further ones are refused
/// with a retry instead of being kept in memory.
const WAITING: usize = 1024;
/// Concurrent reads: more would only queue at the disk, at the cost of a thread each.
const READERS: usize = 8;
/// Time limit for closing: a failed disk must not keep the process from ending.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// Orders in a folder. Clones share the store.
#[derive(Debug, Clone)]
pub struct FileStore {
    handle: Arc<DatabaseHandle>,
    jobs: SyncSender<Job>,
    readers: Arc<Semaphore>,
}

impl FileStore {
    /// A store in `folder`, which is created at the first probe or order. Starts the writer thread, which
    /// ends when the last clone is dropped.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn new(folder: PathBuf) -> anyhow::Result<Self> {
        let handle = Arc::new(DatabaseHandle::new(folder));
        let (jobs, queue) = sync_channel(WAITING);
        let for_writer = Arc::clone(&handle);
        std::thread::Builder::new()
            .name("order-writer".to_owned())
            .spawn(move || writer::run(&for_writer, &queue))
            .context("start the order writer thread")?;
        Ok(Self {
            handle,
            jobs,
            readers: Arc::new(Semaphore::new(READERS)),
        })
    }

    /// Sends a change to the writer and waits until it is durable or refused.
    async fn write(&self, change: Change) -> Result<Outcome, Failed> {
        let (reply, answer) = oneshot::channel();
        match self.jobs.try_send(Job { change, reply }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                let full = anyhow!("{WAITING} orders wait for the disk already");
                return Err(Failed::NotWritten(full));
            }
            Err(TrySendError::Disconnected(_)) => return Err(Failed::NotWritten(writer_ended())),
        }
        answer.await.map_err(|_| Failed::Unknown(writer_ended()))?
    }

    /// Runs blocking `work` on the database, with limited concurrency.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        if !self.handle.is_open() {
            self.write(Change::None).await?;
        }
        let permit = Arc::clone(&self.readers).acquire_owned().await?;
        let handle = Arc::clone(&self.handle);
        tokio::task::spawn_blocking(move || {
            // Held here and not by the caller: a caller that gives up must not free a slot whose thread still
            // waits for the disk.
            let _permit = permit;
            handle.read(work)
        })
        .await?
    }
}

fn writer_ended() -> anyhow::Error {
    anyhow!(
        "the order writer thread has ended\nhint: find the cause in the log and restart the service"
    )
}

#[async_trait]
impl Store for FileStore {
    async fn create(&self, entry: &Entry) -> Result<Kept, CreateError> {
        let row = entry
            .order
            .to_row()
            .map_err(|error| CreateError::NotKept(error.into()))?;
        let change = Change::Order {
            id: entry.order.id,
            row,
            claim: entry.claim,
            notice: entry.notice,
        };
        match self.write(change).await? {
            Outcome::Done => Ok(Kept::Now),
            Outcome::Before(id) => Ok(Kept::Before(id)),
            Outcome::Exists => Err(CreateError::Exists),
            Outcome::KeyReused => Err(CreateError::KeyReused),
        }
    }

    async fn get(&self, id: OrderId) -> anyhow::Result<Option<Order>> {
        self.read(move |database| database.order(id)).await
    }

    async fn list(&self, after: OrderId, limit: usize) -> anyhow::Result<Vec<Order>> {
        self.read(move |database| database.orders(after, limit))
            .await
    }

    async fn end(&self) -> anyhow::Result<Position> {
        let last = self.read(Database::last).await?;
        Ok(
            last.map_or(Position::BEGINNING, |(number, id)| Position::Numbered {
                settled: number,
                last: Some(id),
                read: number,
            }),
        )
    }

    async fn follow(&self, from: &Position, limit: usize) -> Result<Followed, FollowError> {
        let from = *from;
        // An invalid position is not a failure of the file.
        self.read(move |database| match database.follow(&from, limit) {
            Err(FollowError::Failed(error)) => Err(error),
            followed => Ok(followed),
        })
        .await?
    }

    async fn probe(&self) -> anyhow::Result<()> {
        self.write(Change::Probe).await?;
        Ok(())
    }

    async fn notices(&self, limit: usize) -> anyhow::Result<Vec<OrderId>> {
        self.read(move |database| database.notices(limit)).await
    }

    async fn settle_notice(&self, id: OrderId) -> anyhow::Result<()> {
        self.write(Change::Settled(id)).await?;
        Ok(())
    }

    async fn close(&self) {
        let closed = self.write(Change::Close);
        match tokio::time::timeout(CLOSE_TIMEOUT, closed).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                let error = anyhow::Error::from(error);
                tracing::warn!(error = format!("{error:#}"), "could not close the store");
            }
            Err(_) => {
                tracing::warn!("the store was not closed in time; it is repaired at the next start")
            }
        }
    }

    fn candidates(&self) -> Option<Arc<dyn Candidates>> {
        Some(Arc::new(self.clone()))
    }
}

#[async_trait]
impl Candidates for FileStore {
    async fn put(&self, name: &str) -> anyhow::Result<()> {
        self.write(Change::Candidate(name.to_owned())).await?;
        Ok(())
    }

    async fn has(&self, name: &str) -> anyhow::Result<bool> {
        let name = name.to_owned();
        self.read(move |database| database.has_candidate(&name))
            .await
    }

    async fn page(&self, after: Option<&str>) -> anyhow::Result<Names> {
        let after = after.map(str::to_owned);
        self.read(move |database| database.candidates(after.as_deref()))
            .await
            .map(Names::cut)
    }
}

#[cfg(test)]
mod tests;
